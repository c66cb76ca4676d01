from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from lm_eval_ensemble.cli import main
from lm_eval_ensemble.errors import ConfigError, DataError
from lm_eval_ensemble.replay.command import select_runs
from lm_eval_ensemble.replay.render import as_markdown
from lm_eval_ensemble.runs.rows import selection_accuracy
from lm_eval_ensemble.selection import make_selector
from lm_eval_ensemble.selection.spec import read_selector_file
from lm_eval_ensemble.types import Scored
from tests.replay.runs import RULE, pair, santacoder, scored, write_run


def _fim_is_right(i: int, random: Random) -> list[Scored]:
    return [scored("dllm", f"    return -{i}\n", False, 1.0, 1.0), scored("fim", f"    return {i}\n", i % 4 > 0, 2.0, 2.0)]


def rows_of(found: Any) -> dict[str, Any]:
    return {row.selector: row for row in found.rows}


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write(file: Path, samples: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(sample) + "\n" for sample in samples))


def test_the_table_tells_what_the_run_told(tmp_path: Path) -> None:
    samples = read(write_run(tmp_path))
    (found,), problems = select_runs([tmp_path])
    assert problems == []
    rows = rows_of(found)
    assert len(rows) >= 14
    own = rows["argmin"]
    assert own.primary
    assert own.score.mean == pytest.approx(sum(s["pass@1"] for s in samples) / len(samples))
    assert own.s.mean == pytest.approx(selection_accuracy([s["selection"] for s in samples]))
    for name in ("oracle", "floor"):
        assert rows[name].score.mean == pytest.approx(sum(s[f"pass@1_{name}"] for s in samples) / len(samples))
    for member in ("dllm", "fim"):
        expected = sum(s[f"pass@1_{member}"] for s in samples) / len(samples)
        value, answered = found.members[member]
        assert rows[f"always:{member}"].score.mean == pytest.approx(expected) == value
        assert answered == len(samples)
    assert all(found.floor <= row.score.mean <= found.oracle for row in found.rows)
    assert found.clusters == 30
    assert found.notes == []


def test_every_score_follows_from_s(tmp_path: Path) -> None:
    """acc = both + s * D, and the gain over the best member is D * (s - s0)."""
    write_run(tmp_path)
    (found,), _ = select_runs([tmp_path])
    assert found.s0 is not None
    for row in found.rows:
        assert row.s is not None
        assert row.score.mean == pytest.approx(found.floor + row.s.mean * found.decisive)
        assert row.gain is not None
        assert row.gain.difference.mean == pytest.approx(found.decisive * (row.s.mean - found.s0))
    scores = [row.score.mean for row in found.rows]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == found.oracle
    assert scores[-1] == found.floor


def test_the_veto_and_the_score_swap(tmp_path: Path) -> None:
    write_run(tmp_path)
    (found,), _ = select_runs([tmp_path])
    rows = rows_of(found)
    # Every vetoed text was wrong, so the veto cannot lose against the same rule without it.
    assert rows["veto"].reasons["veto"] > 0
    assert rows["veto"].score.mean >= rows["argmin"].score.mean
    assert {"argmin[fim]", "argmin[onepass]", "argmin[causal]"} <= set(rows)
    # causal is fim plus a constant in this run.
    assert rows["argmin[causal]"].score == rows["argmin[fim]"].score
    assert rows["sequence:veto,agreement,margin:0.05"].reasons.keys() <= {"veto", "agreement", "margin", "score", "tie"}


def test_fitted_selectors_are_cross_fitted(tmp_path: Path) -> None:
    write_run(tmp_path)
    santacoder(tmp_path)
    (human, santa), _ = select_runs([tmp_path])
    rows = rows_of(human)
    for name in ("margin", "centred", "znorm", "weighted", "calibrated", "learned"):
        assert rows[name].fitted == "cross-fitted"
    assert rows["learned"].reasons["learned"] > 0
    rows = rows_of(santa)
    assert rows["calibrated"].fitted == "cross-fitted on humaneval_infill"
    assert "learned" not in rows
    assert "only there" in santa.left_out["learned"]


def test_nothing_is_fitted_on_santacoder(tmp_path: Path) -> None:
    santacoder(tmp_path)
    (found,), _ = select_runs([tmp_path])
    assert {"margin", "centred", "znorm", "weighted", "calibrated", "learned", "mbr"} == set(found.left_out)
    assert "nothing is fitted on SantaCoder-FIM" in found.left_out["znorm"]
    with pytest.raises(ConfigError, match="licence forbids"):
        select_runs([tmp_path], fit=tmp_path / "numbers.json")
    with pytest.raises(ConfigError, match="nothing is fitted on SantaCoder-FIM"):
        select_runs([tmp_path], specs=["znorm"])
    assert not (tmp_path / "numbers.json").exists()


def test_runs_of_one_model_keep_their_names_and_numbers_apart(tmp_path: Path) -> None:
    def note_temperatures() -> None:
        for results in tmp_path.rglob("results_*.json"):
            content = json.loads(results.read_text())
            content["config"]["model_args"] = {"temperature": float(results.parent.name)}
            results.write_text(json.dumps(content))

    write_run(tmp_path / "0.0")
    santacoder(tmp_path / "0.6")
    note_temperatures()
    (_, santa), _ = select_runs([tmp_path])
    # Answers at another temperature have other scores: nothing is fitted on them.
    assert "with humaneval_infill in the same run" in santa.left_out["znorm"]

    write_run(tmp_path / "0.6")
    note_temperatures()
    found, _ = select_runs([tmp_path])
    titles = [as_markdown(one).splitlines()[0] for one in found]
    tasks = [f"humaneval_infill: tiny (temperature={t})" for t in ("0.0", "0.6")] + ["santacoder_fim: tiny (temperature=0.6)"]
    assert sorted(titles) == [f"## {task}" for task in tasks]
    santa = next(one for one in found if one.recorded.is_santacoder)
    assert rows_of(santa)["znorm"].fitted == "cross-fitted on humaneval_infill"


def test_a_fit_serves_live_selectors(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    santacoder(tmp_path / "run")
    file = tmp_path / "numbers.json"
    found, _ = select_runs([tmp_path / "run"], fit=file)
    written = read_selector_file(file)
    assert written.origin["fitted_on"] == "HumanEval-Infilling"
    assert (written.origin["tasks"], written.origin["documents"]) == (["humaneval_infill"], 120)
    assert written.numbers.rule == RULE
    assert set(written.numbers.learned or {}) == {"fim", "onepass", "causal", "log_bytes", "compiles", "preferred"}
    # What the file says is what a live selector does, and what --selector_file replays.
    select = make_selector("calibrated", str(file), ("dllm", "fim"))
    (human, santa), _ = select_runs([tmp_path / "run"], specs=["calibrated"], file=str(file))
    assert rows_of(human)["calibrated"].fitted == f"from {file}"
    for one, before in ((human, found[0]), (santa, found[1])):
        right = [c.right[select(c.case)[0]] for c in one.recorded.choices]
        assert rows_of(one)["calibrated"].score.mean == pytest.approx(sum(right) / len(right))
        assert one.members == before.members


def test_the_learned_selector_refuses_what_knows_the_answer(tmp_path: Path) -> None:
    write_run(tmp_path)
    for name in ("canonical_solution", "oracle_length", "verdict", "task_id", "length_agreement"):
        with pytest.raises(ConfigError, match=f"{name!r} is refused"):
            select_runs([tmp_path], features=["fim", name])
    with pytest.raises(ConfigError, match="expected 1 to 6"):
        select_runs([tmp_path], features=["fim", "onepass", "causal", "log_bytes", "compiles", "preferred", "repeats_line"])
    with pytest.raises(ConfigError, match="Did you mean 'onepass'"):
        select_runs([tmp_path], features=["onepas"])
    (found,), _ = select_runs([tmp_path], specs=["learned"], features=["fim", "compiles"])
    assert rows_of(found)["learned"].fitted == "cross-fitted"


def test_repeats_are_choices_of_their_own(tmp_path: Path) -> None:
    samples = read(write_run(tmp_path, n=40, repeats=3))
    (found,), _ = select_runs([tmp_path])
    assert len(found.recorded.choices) == 120
    assert found.clusters == 10
    assert rows_of(found)["argmin"].score.mean == pytest.approx(sum(s["pass@1"] for s in samples) / 40)


def test_selectors_that_draw_are_replayed_draw_by_draw(tmp_path: Path) -> None:
    """Also under length=fixed-mean, whose five runs share the stream of their document."""
    write_run(tmp_path / "runs", n=40, repeats=2, selector="random", runs=5)
    write_run(tmp_path / "repeats", n=40, repeats=3, selector="random")
    found, _ = select_runs([tmp_path / "runs", tmp_path / "repeats"])
    for comparison in found:
        assert not any("chooses another candidate" in note for note in comparison.notes)
        own = [choice.winner for choice in comparison.recorded.choices]
        assert {0, 1} == set(own)


def three_samples(i: int, random: Random) -> list[Scored]:
    """One model alone, three samples: the compute-matched baseline, and the shape of `lm-eval-ensemble score`."""
    return [
        scored("alone", s.candidate.text, s.verdict == "pass", s.scores["fim"] or 0, 1.0, k)
        for k in range(3)
        for s in [pair(i, random)[0]]
    ]


def test_samples_of_one_model(tmp_path: Path) -> None:
    samples = read(write_run(tmp_path, n=60, candidates=three_samples))
    (found,), _ = select_runs([tmp_path])
    rows = rows_of(found)
    # The best member is a sample drawn blindly, so every selector is compared with pass@1 of the model itself.
    assert list(found.members) == ["alone"]
    assert found.members["alone"][0] == pytest.approx(sum(s["pass@1_alone"] for s in samples) / 60)
    assert found.members["alone"][1] == 60
    assert rows["mbr"].reasons["consensus"] > 0
    assert not [name for name in rows if name.startswith(("always", "margin", "znorm"))]
    assert found.floor < found.members["alone"][0] < found.oracle


def test_a_damaged_line_is_told_and_the_rest_used(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    lines = file.read_text().splitlines()
    lines[3] = lines[3][:200]
    broken = json.loads(lines[5])
    del broken["selection"]["candidates"][0]["text"]
    strange = json.loads(lines[7])
    strange["selection"]["winner_index"] = 9
    lines[5], lines[7] = json.dumps(broken), json.dumps(strange)
    file.write_text("\n".join(lines))
    (found,), problems = select_runs([tmp_path])
    assert len(found.recorded.choices) == 117
    assert len(problems) == 4
    assert f"{file}, line 4" in problems[0]
    assert f"{file}, line 6" in problems[1]
    assert "'text'" in problems[1]
    assert "winner_index is 9" in problems[2]
    assert "117 documents can be used, the results file counts 120" in problems[3]


def test_a_document_counts_once_and_records_hold_text(tmp_path: Path) -> None:
    file = write_run(tmp_path)
    samples = read(file)
    samples[3]["selection"]["rule"] = None
    samples[4]["doc"]["prefix"] = 7
    write(file, [*samples, samples[0]])
    (found,), problems = select_runs([tmp_path])
    assert len(found.recorded.choices) == 118
    for part, problem in zip(("line 4: ", "line 5: ", "line 121: the document stands there again"), problems, strict=False):
        assert part in problem


def test_a_row_that_contradicts_its_record_is_told_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Right where no candidate is, and wrong where the chosen one is right: `select`, `report` and `compare` are alike."""
    file = write_run(tmp_path)
    samples = read(file)
    i = next(i for i, s in enumerate(samples) if s["pass@1_oracle"] == 0)
    k = next(i for i, s in enumerate(samples) if s["pass@1"] == 1 and s["pass@1_floor"] == 0)
    samples[i]["pass@1"], samples[k]["pass@1"] = 1.0, 0.0
    write(file, samples)
    for command, count in (("select", "118 documents of"), ("report", "118 documents"), ("compare", "| 118 ")):
        assert main([command, str(tmp_path), *(["--no_html"] if command == "report" else [])]) == 1
        out, told = capsys.readouterr()
        assert count in out, command
        assert "pass@1 is 1, but no candidate that was chosen from allows more than 0" in told
        assert "pass@1 is 0, but the chosen candidates give 1" in told
    # The lines are damaged by whatever measure.
    assert main(["select", str(tmp_path), "--measure", "exact_match"]) == 1
    assert "118 documents of" in capsys.readouterr().out


def test_many_faults_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_run(tmp_path)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*("{" for _ in range(30)), *lines[30:]]))
    assert main(["select", str(tmp_path)]) == 1
    out, told = capsys.readouterr()
    assert "90 documents" in out
    assert len(told.splitlines()) == 7
    assert told.splitlines()[-2].endswith("25 more lines like these.")


def test_a_run_without_records_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_run(tmp_path / "one")
    file.unlink()
    with pytest.raises(DataError, match="--log_samples"):
        select_runs([tmp_path / "one"])
    file = write_run(tmp_path / "two")
    write(file, [{k: v for k, v in sample.items() if k != "selection"} for sample in read(file)])
    with pytest.raises(DataError, match="--predict_only"):
        select_runs([tmp_path / "two"])
    # Beside a run that has them it is told.
    both = tmp_path / "both"
    write_run(both)
    file = santacoder(both)
    # A sound run of another model is passed over, a missing file of samples is a fault.
    write(file, [{k: v for k, v in sample.items() if k != "selection"} for sample in read(file)])
    assert main(["select", str(both)]) == 0
    assert "no record of candidates" in capsys.readouterr().err
    file.unlink()
    assert main(["select", str(both)]) == 1
    found, problems = select_runs([tmp_path / "both"])
    assert [one.recorded.task for one in found] == ["humaneval_infill"]
    assert "santacoder_fim" in problems[0]


def test_a_model_alone_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``hf-scored`` and ``diffusion-infill`` record their one candidate, which nothing has scored."""
    alone = santacoder(tmp_path, candidates=lambda i, random: [replace(pair(i, random)[0], scores={})])
    with pytest.raises(DataError, match="one candidate a document, without a score, in santacoder_fim"):
        select_runs([tmp_path])
    write_run(tmp_path)
    assert main(["select", str(tmp_path)]) == 0
    out, told = capsys.readouterr()
    assert "humaneval_infill" in out
    assert f"{alone}: one candidate" in told


def test_a_routed_run_says_that_members_were_not_asked(tmp_path: Path) -> None:
    write_run(tmp_path, candidates=lambda i, random: [pair(i, random)[i % 2]])
    (found,), _ = select_runs([tmp_path])
    assert any("not every gap has a candidate of dllm, fim" in note for note in found.notes)
    assert rows_of(found)["argmin"].reasons == {"single": 120}


def test_the_runs_own_selector_is_what_it_recorded(tmp_path: Path) -> None:
    file = write_run(tmp_path, selector="random")
    samples = read(file)
    (found,), _ = select_runs([tmp_path])
    own = next(row for row in found.rows if row.primary)
    assert own.selector == "random"
    assert own.score.mean == pytest.approx(sum(s["pass@1"] for s in samples) / len(samples))
    # The draws come back from seed, task and document alone.
    assert not [note for note in found.notes if "another candidate" in note]
    (found,), _ = select_runs([tmp_path], rule="fim")
    names = set(rows_of(found))
    assert next(row.selector for row in found.rows if row.primary) == "random as run"
    assert {"argmin", "argmin[onepass]", "random"} <= names
    assert found.rule == "fim"


def test_another_measure(tmp_path: Path) -> None:
    write_run(tmp_path)
    (found,), _ = select_runs([tmp_path], measure="exact_match")
    assert found.recorded.measure == "exact_match"
    with pytest.raises(ConfigError, match="exact_match"):
        select_runs([tmp_path], measure="exact")


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--task", "humaneval_infil"], "Did you mean 'humaneval_infill'"),
        (["--rule", "fmi"], "Did you mean 'fim'"),
        (["--selectors", "argmin[fmi]"], "Did you mean 'fim'"),
        (["--selectors", "argmn"], "Did you mean 'argmin'"),
        (["--selector_file", "nowhere.json"], "nowhere.json"),
        (["--fit", "no/such/folder/numbers.json"], "cannot be written"),
    ],
)
def test_faults_are_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], found: str) -> None:
    write_run(tmp_path, n=30)
    assert main(["select", str(tmp_path), *arguments]) == 2
    message = capsys.readouterr().err
    assert found in message
    assert message.startswith("lm-eval-ensemble: ConfigError: ")


def test_few_documents_leave_the_learned_selector_out(tmp_path: Path) -> None:
    write_run(tmp_path, n=20)
    (found,), _ = select_runs([tmp_path])
    assert "20 decisive documents" in found.left_out["learned"]
    assert "calibrated" in rows_of(found)


def test_one_program_leaves_the_fitted_selectors_out(tmp_path: Path) -> None:
    """`--limit 4`: all documents come from one program, so that its fold leaves nothing to fit on."""
    write_run(tmp_path, n=4)
    (found,), _ = select_runs([tmp_path])
    for name in ("centred", "znorm", "weighted", "calibrated"):
        assert "more programs" in found.left_out[name]
    assert "argmin" in rows_of(found)
    with pytest.raises(ConfigError, match="--selectors sequence:veto/calibrated: needs candidates of every member"):
        select_runs([tmp_path], specs=["sequence:veto/calibrated"])


def test_nothing_decisive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(
        tmp_path, n=12, candidates=lambda i, random: [scored(m, f"    return {m}\n", True, 1.0, 1.0) for m in ("dllm", "fim")]
    )
    (found,), _ = select_runs([tmp_path])
    assert (found.s0, found.floor, found.oracle) == (None, 1.0, 1.0)
    assert main(["select", str(tmp_path)]) == 0
    assert "No member is better than another on these documents; gains are over fim" in capsys.readouterr().out


def test_the_oracle_cannot_lose_and_the_floor_cannot_win(tmp_path: Path) -> None:
    """Candidates that are never both right or both wrong differ on every document."""

    def only(i: int, random: Random) -> list[Scored]:
        first = random.random() < 0.5
        return [scored(m, f"    return {m}\n", right, 1.0, 1.0) for m, right in (("dllm", first), ("fim", not first))]

    write_run(tmp_path, n=12, candidates=only)
    (found,), _ = select_runs([tmp_path], specs=["argmin"])
    rows = rows_of(found)
    oracle, floor = (rows[name].gain.difference for name in ("oracle", "floor"))
    assert oracle.low == 0.0 < oracle.mean < oracle.high
    assert floor.low < floor.mean < 0.0 == floor.high


def test_the_command_prints_tables_and_loads_no_model(tmp_path: Path) -> None:
    write_run(tmp_path)
    santacoder(tmp_path)
    code = (
        "import sys; from lm_eval_ensemble.cli import main; code = main(sys.argv[1:]); "
        "print([m for m in ('torch', 'lm_eval', 'transformers') if m in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, "select", str(tmp_path), "--fit", str(tmp_path / "numbers.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert done.stdout.count("\n## ") + done.stdout.startswith("## ") == 2
    table = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len({line.count("|") for line in table}) == 1
    assert any(line.startswith("| **argmin** |") for line in table)
    assert "numbers.json" in done.stdout


def test_json_has_a_row_per_selector(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path)
    assert main(["select", str(tmp_path), "--format", "json"]) == 0
    (task,) = json.loads(capsys.readouterr().out)["tasks"]
    names = [row["selector"] for row in task["rows"]]
    assert len(names) == len(set(names)) >= 14
    own = next(row for row in task["rows"] if row["primary"])
    assert own["gain"]["low"] <= own["gain"]["value"] <= own["gain"]["high"]
    assert own["p_all"] is None
    together = [row for row in task["rows"] if row["p_all"] is not None]
    assert together
    for row in together:
        # One draw of signs serves all, another each alone: equal up to its error.
        assert row["p"] <= row["p_all"] + 0.02
        low, high = row["gain_all"]
        if low is not None:
            assert low <= row["gain"]["low"] + 1e-9
            assert row["gain"]["high"] <= high + 1e-9


def test_gains_are_over_the_member_that_was_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path)
    tasks = {}
    for asked in ([], ["--baseline", "dllm"], ["--baseline", "fim"]):
        assert main(["select", str(tmp_path), "--format", "json", "--selectors", "argmin", *asked]) == 0
        (tasks[asked[-1] if asked else ""],) = json.loads(capsys.readouterr().out)["tasks"]
    found, best = tasks[""], tasks[""]["best_member"]
    assert (found["baseline"], found["reference"]) == (None, best)
    primary = {name: next(row for row in task["rows"] if row["primary"]) for name, task in tasks.items()}
    assert primary[best]["gain"] == primary[""]["gain"]
    for member in ("dllm", "fim"):
        assert tasks[member]["reference"] == member
        expected = primary[""]["score"]["value"] - found["members"][member]
        assert primary[member]["gain"]["value"] == pytest.approx(expected, abs=2e-5)
    # Over the best member, whichever it is: the worst of both comparisons.
    every = found["gain_over_every_member"]
    assert every["value"] == min(primary[name]["gain"]["value"] for name in ("dllm", "fim"))
    assert every["p"] == max(primary[name]["p"] for name in ("dllm", "fim"))
    assert every["low"] == min(primary[name]["gain"]["low"] for name in ("dllm", "fim"))
    # To be worse than the best member it need not differ from the other: always:dllm is dllm, and fim is ahead of both.
    write_run(tmp_path / "worse", candidates=_fim_is_right, selector="always:dllm")
    (worse,), _ = select_runs([tmp_path / "worse"])
    assert worse.over_all is not None
    assert worse.over_all.high is not None
    assert worse.over_all.high < 0
    assert worse.over_all.p < 0.05
    assert "one member that beats it is enough" in as_markdown(worse)
    assert main(["select", str(tmp_path), "--baseline", "fmi"]) == 2
    assert "did you mean" in capsys.readouterr().err.lower()


def test_the_best_of_several_samples_is_held_against_a_blind_one(tmp_path: Path) -> None:
    write_run(tmp_path / "one")
    (found,), _ = select_runs([tmp_path / "one"])
    line = next(line for line in as_markdown(found).splitlines() if line.startswith(f"| always:{found.reference} |"))
    assert "| +0.00 |" in line
    write_run(tmp_path / "several", candidates=lambda i, random: [*pair(i, random), *pair(i, random)])
    (found,), _ = select_runs([tmp_path / "several"])
    line = next(line for line in as_markdown(found).splitlines() if line.startswith(f"| always:{found.reference} |"))
    # By its score, which is lower where a text is right: more than 0, with an interval.
    assert re.search(r"\| \+\d+\.\d\d \[", line), line


@pytest.mark.parametrize("command", ["select", "report", "compare"])
def test_odd_names_are_shown_by_number(tmp_path: Path, command: str) -> None:
    """Half of a surrogate pair in a name, and a terminal that knows ASCII only."""
    file = write_run(tmp_path)
    samples = read(file)
    for sample in samples:
        sample["doc"]["problem"] = sample["selection"]["problem"] = f"\ud800{sample['doc']['problem']}"
    write(file, samples)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval_ensemble", command, str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert "Error" not in done.stderr
    assert "120 " in done.stdout


def test_report_and_select_agree_on_every_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ties, near ties and blank texts included: one definition of what a score would choose."""

    def close(i: int, random: Random) -> list[Scored]:
        first, second = pair(i, random)
        text = " \n" if i % 5 == 0 else second.candidate.text
        gap = (0.0, 5e-5, -5e-5, 0.1)[i % 4]
        near = {name: None if value is None else value + gap for name, value in first.scores.items()}
        return [first, replace(second, candidate=replace(second.candidate, text=text, raw=text), scores=near)]

    write_run(tmp_path, candidates=close)
    assert main(["report", str(tmp_path), "--format", "json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    (found,), _ = select_runs([tmp_path])
    rows = rows_of(found)
    for name in ("fim", "onepass", "causal"):
        assert told["figures"]["scorers"][name]["accuracy"] == pytest.approx(rows[f"argmin[{name}]"].s.mean), name
    assert told["figures"]["scorers"][RULE]["accuracy"] == pytest.approx(rows["argmin"].s.mean)


def test_a_number_of_another_kind_is_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_run(tmp_path)
    samples = read(file)
    samples[0]["doc_id"] = {"a": 1}
    write(file, samples)
    assert main(["select", str(tmp_path)]) == 1
    out, told = capsys.readouterr()
    assert f"{len(samples) - 1} documents" in out
    assert "doc_id is neither a number nor a text" in told


def test_a_selector_of_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``module:function`` stands beside the others; what it must not return is told."""
    write_run(tmp_path / "run")
    (tmp_path / "own_selector_of_a_test.py").write_text(
        "def first(case):\n    return 0\n\ndef far(case):\n    return 7, 'far'\n\ndef odd(case):\n    return 'a'\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    (found,), _ = select_runs([tmp_path / "run"], functions=["own_selector_of_a_test:first"])
    rows = rows_of(found)
    assert rows["own_selector_of_a_test:first"].score.mean == rows["always:dllm"].score.mean
    for name, fault in (
        ("far", "returned 7, and there are 2 candidates"),
        ("odd", "expected a function of a Case"),
        ("no", "no function no"),
    ):
        assert main(["select", str(tmp_path / "run"), "--selector", f"own_selector_of_a_test:{name}"]) == 2
        assert fault in capsys.readouterr().err
