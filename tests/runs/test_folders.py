"""Folders as they come: layouts of all releases, runs that look alike, metrics without a value per document."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble.cli import main
from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.report.compare import CompareOptions, compare
from lm_eval_ensemble.report.comparison import Comparison, RunRow
from lm_eval_ensemble.report.figures import figures
from lm_eval_ensemble.runs.load import identities, labels, load_runs
from tests.report.helpers import DATE, candidate, ensemble_sample, read_lines, record, sample, write_run


def compared(*paths: Path, **options: Any) -> Comparison:
    runs, problems = load_runs(paths)
    return compare(runs, CompareOptions(**options), problems)


def row(found: Comparison, label: str) -> RunRow:
    return next(row for table in found.tasks for row in table.rows if row.label == label)


SAMPLES = [sample(i, float(i in (0, 2, 3))) for i in range(4)]


def results_json(folder: Path) -> Path:
    """As lm_eval 0.4.1 wrote it: no names of models, no counts, the date as seconds."""
    folder.mkdir(parents=True)
    content = {
        "results": {"t": {"alias": "t", "acc,none": 0.75, "acc_stderr,none": 0.1}},
        "configs": {"t": {"task": "t", "num_fewshot": 0}},
        "config": {"model": "hf", "model_args": "pretrained=org/a,dtype=float32", "limit": None},
        "git_hash": "x",
        "date": 1700000000.5,
    }
    (folder / "results.json").write_text(json.dumps(content))
    (folder / "pretrained__org__a,dtype__float32_t.jsonl").write_text("\n".join(map(json.dumps, SAMPLES)))
    return folder


def a_list(folder: Path, ending: str, indent: int | None) -> Path:
    """As lm_eval 0.4.2 wrote it: one list of samples."""
    write_run(folder, SAMPLES, model="org/a")
    (path,) = folder.glob("samples_*")
    path.unlink()
    path.with_suffix(ending).write_text(json.dumps(SAMPLES, indent=indent))
    return folder


@pytest.mark.parametrize("layout", ["results.json", "list in .json", "list in .jsonl", "byte order marks"])
def test_the_layouts_of_older_releases_are_read(tmp_path: Path, layout: str) -> None:
    folder = tmp_path / "out" / "run"
    if layout == "results.json":
        results_json(folder)
    elif layout == "byte order marks":
        for file in write_run(folder, SAMPLES, model="org/a").iterdir():
            file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    else:
        a_list(folder, layout.removeprefix("list in "), 2 if layout.endswith(".json") else None)
    found = compared(tmp_path / "out")
    assert found.problems == []
    assert (row(found, "org/a").n, row(found, "org/a").score) == (4, 0.75)


def test_a_damaged_list_is_told(tmp_path: Path) -> None:
    folder = a_list(tmp_path / "run", ".jsonl", None)
    (path,) = folder.glob("samples_*")
    path.write_text(path.read_text()[:-5])
    assert "line 1: not JSON" in compared(folder).problems[0]


@pytest.mark.parametrize(
    ("line", "damage", "fault"),
    [
        (0, lambda text: b"[" + text, "line 1: not JSON"),
        (2, lambda text: text.replace(b"q2", b"q\xff"), "line 3: not JSON (it holds"),
    ],
)
def test_a_damaged_line_is_left_out_and_the_others_are_read(
    tmp_path: Path, line: int, damage: Callable[[bytes], bytes], fault: str
) -> None:
    folder = write_run(tmp_path / "run", SAMPLES)
    (path,) = folder.glob("samples_*")
    lines = path.read_bytes().splitlines()
    lines[line] = damage(lines[line])
    path.write_bytes(b"\n".join(lines))
    found = compared(folder)
    assert fault in found.problems[0]
    assert found.tasks[0].rows[0].n == 3


def test_a_corpus_metric_is_a_note(tmp_path: Path) -> None:
    """Perplexities and BLEU have what they are made of, not a value per document."""
    for name, value in (("a", 8.6), ("b", 17.4)):
        lines = [sample(i, [-20.0 * i, 7], "word_perplexity") for i in range(1, 4)]
        write_run(tmp_path / name, lines, metric="word_perplexity", value=value)
    found = compared(tmp_path / "a", tmp_path / "b")
    assert found.problems == []
    assert [(r.label, r.score, r.n, r.low) for r in found.tasks[0].rows] == [("a", 8.6, 3, None), ("b", 17.4, 3, None)]
    assert "corpus metric: no value per document" in found.tasks[0].notes[0]
    assert main(["report", str(tmp_path / "a"), "--no_html"]) == 0


def test_a_list_among_numbers_is_damage(tmp_path: Path) -> None:
    found = compared(write_run(tmp_path / "a", [sample(0, 1.0), sample(1, [1, 2])], value=1.0))
    assert "line 2: acc is a list, expected a number" in found.problems[0]
    assert found.tasks[0].rows[0].n == 1


def test_a_run_that_measured_nothing_is_no_baseline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--predict_only`` leaves a metric called bypass."""
    predicted = write_run(tmp_path / "predicted", [sample(0, None, "bypass"), sample(1, None, "bypass")], metric="bypass")
    judged = write_run(tmp_path / "judged", [sample(0, 1.0), sample(1, 0.0)])
    found = compared(predicted, judged)
    (table,) = found.tasks
    assert (table.metric, table.baseline, [r.label for r in table.rows]) == ("acc", "judged", ["judged"])
    assert (found.problems, "--predict_only" in found.notes[-1]) == ([], True)
    asked = compared(judged, predicted)
    assert (asked.problems, "--predict_only" in asked.notes[-1]) == ([], True)
    assert main(["report", str(predicted), "--no_html"]) == 0
    assert "nothing was measured" in capsys.readouterr().err


def test_what_measured_nothing_is_no_earlier_run(tmp_path: Path) -> None:
    """As after ``judge FOLDER``: the judged run lies beside the one with ``--predict_only``."""
    write_run(tmp_path / "m", [sample(0, None, "bypass")], metric="bypass", date="2026-01-01T00-00-00.0")
    write_run(tmp_path / "m", [sample(0, 1.0)], date="2026-01-02T00-00-00.0")
    (run,) = load_runs([tmp_path])[0]
    assert (run.is_measured, run.older) == (True, 0)
    assert not any("earlier run" in note for note in compared(tmp_path).notes)


def checkpoints(folder: Path) -> list[Path]:
    """Three fine-tunes whose paths end alike, right in 3, 0 and 6 of 40."""
    paths = []
    for rate, right in (("lr1e-4", 3), ("lr1e-5", 0), ("lr3e-5", 6)):
        lines = [sample(i, float(i < right)) for i in range(40)]
        model = f"/data/ckpts/{rate}/checkpoint-500"
        paths.append(write_run(folder / f"__data__ckpts__{rate}__checkpoint-500", lines, model=model))
    return paths


def test_labels_show_what_differs_of_paths_that_end_alike(tmp_path: Path) -> None:
    checkpoints(tmp_path)
    found = compared(tmp_path, baseline="/data/ckpts/lr3e-5/checkpoint-500")
    (table,) = found.tasks
    assert [r.label for r in table.rows] == [f"{rate}/checkpoint-500" for rate in ("lr1e-4", "lr1e-5", "lr3e-5")]
    assert (table.baseline, row(found, "lr3e-5/checkpoint-500").score) == ("lr3e-5/checkpoint-500", 0.15)
    contrast = row(found, "lr1e-5/checkpoint-500").contrast
    assert contrast is not None
    # One task: no correction, whatever the runs are called. 6 losses, no win: 2 of 2^6 sign patterns are as far from zero.
    assert (contrast.p, contrast.p_holm) == (2 / 2**6, 2 / 2**6)


def test_a_name_of_several_runs_is_no_baseline(tmp_path: Path) -> None:
    checkpoints(tmp_path)
    with pytest.raises(DataError, match="the name of 3 runs; give one of lr1e-4/checkpoint-500"):
        compared(tmp_path, baseline="checkpoint-500")
    assert main(["compare", str(tmp_path), "--baseline", str(tmp_path)]) == 2


def test_runs_of_one_checkpoint_with_other_settings_are_rows(tmp_path: Path) -> None:
    for day, dtype in enumerate(("float32", "bfloat16"), 1):
        config = {"model": "hf", "model_args": {"pretrained": "org/a", "dtype": dtype, "device": f"cuda:{day}"}}
        write_run(tmp_path, SAMPLES, model="org/a", config=config, date=f"2026-01-0{day}T00-00-00.0")
    found = compared(tmp_path)
    assert [r.label for r in found.tasks[0].rows] == ["org/a (dtype=float32)", "org/a (dtype=bfloat16)"]
    assert found.tasks[0].rows[1].contrast is not None


def test_a_label_names_no_setting_that_its_run_leaves_alone(tmp_path: Path) -> None:
    for day, more in enumerate(({}, {"temperature": 0.6, "samples": 4}), 1):
        config = {"model": "ensemble-ppl", "model_args": {"preset": "tiny", **more}}
        write_run(tmp_path, SAMPLES, model="tiny", config=config, date=f"2026-01-0{day}T00-00-00.0")
    assert [r.label for r in compared(tmp_path).tasks[0].rows] == ["tiny", "tiny (temperature=0.6, samples=4)"]


def test_a_label_names_the_member_whose_setting_differs(tmp_path: Path) -> None:
    def member(**args: Any) -> dict[str, Any]:
        return {"name": "fim", "model": "hf-scored", "args": {"pretrained": "org/a-name-that-alone-fills-a-line", **args}}

    for day, temperature in enumerate((0.2, 0.6), 1):
        config = {
            "model": "ensemble-ppl",
            "model_args": {"members": [member(temperature=temperature)], "samples": 4},
            "gen_kwargs": {"until": ["a", "b"][:day], "top_p": 0.9},
        }
        write_run(tmp_path, SAMPLES, model="a", config=config, date=f"2026-01-0{day}T00-00-00.0")
    first, second = load_runs([tmp_path])[0]
    assert labels([first, second]) == ["a (fim.temperature=0.2)", "a (fim.temperature=0.6, gen_kwargs.until.1=b)"]
    assert first.settings["members.fim.model"] == "hf-scored"


@pytest.mark.parametrize("name", ["fim", {"of": "a dict"}, None])
def test_entries_of_one_name_stay_apart(tmp_path: Path, name: Any) -> None:
    """Settings that the eye would take for one must not make one run of two."""
    for day, number in enumerate((1, 2), 1):
        args = {"members": [{"name": name, "seed": number}, {"name": name, "seed": 3}]}
        config = {"model": "m", "model_args": args}
        write_run(tmp_path, SAMPLES, model="a", config=config, date=f"2026-01-0{day}T00-00-00.0")
    assert sorted(labels(load_runs([tmp_path])[0])) == ["a (0.seed=1)", "a (0.seed=2)"]


def test_runs_whose_texts_were_scored_again_are_told_apart_by_how_their_texts_were_made(tmp_path: Path) -> None:
    """Scored with the same settings or others, beside a plain run: the label says what the texts differ in."""
    scorer = {"model": "score", "model_args": {"fim": "org/b"}}

    def written(temperature: float) -> dict[str, Any]:
        return {"model": "ensemble-ppl", "model_args": {"fim": "org/b", "temperature": temperature}, "random_seed": 0}

    for day, temperature in enumerate((0.2, 0.6, 1.0), 1):
        scored: dict[str, Any] = {"scored_config": written(temperature), "model_source": "score", "config": scorer}
        plain: dict[str, Any] = {"config": written(temperature), "model_source": "ensemble-ppl"}
        write_run(tmp_path, SAMPLES, model="b", date=f"2026-01-0{day}T00-00-00.0", **(plain if day == 1 else scored))
    runs = load_runs([tmp_path])[0]
    assert len(set(identities(runs))) == 3  # not repetitions of one another
    assert sorted(labels(runs)) == ["b (temperature=0.2)", "b (texts.temperature=0.6)", "b (texts.temperature=1.0)"]
    # Scored with the settings it was made with: only the command differs.
    whole: dict[str, Any] = {"config": {**scorer, "model_args": written(0.2)["model_args"]}, "model_source": "score"}
    write_run(tmp_path / "twice", SAMPLES, model="b", scored_config=written(0.2), **whole)
    write_run(tmp_path / "twice", SAMPLES, model="b", date="2026-02-01T00-00-00.0", **{**plain, "config": written(0.2)})
    assert sorted(labels(load_runs([tmp_path / "twice"])[0])) == ["b (ensemble-ppl)", "b (score)"]


def shots_of(number: int) -> dict[str, Any]:
    return {"n-shot": {"t": number}}


def test_shots_and_limits_are_settings_too(tmp_path: Path) -> None:
    for day, shots in enumerate((0, 5), 1):
        write_run(tmp_path, SAMPLES, model="a", date=f"2026-01-0{day}T00-00-00.0", **shots_of(shots))
    assert sorted(labels(load_runs([tmp_path])[0])) == ["a (0-shot)", "a (5-shot)"]
    config = {"model": "hf", "model_args": "pretrained=x", "limit": 2.0}
    trial = write_run(tmp_path / "b", SAMPLES[:2], model="b", date="2026-02-01T00-00-00.0", config=config)
    write_run(trial, SAMPLES, model="b", date="2026-01-01T00-00-00.0")
    # A later trial run does not hide the full one.
    assert {run.n_samples for run in load_runs([trial])[0]} == {2, 4}


def test_of_several_runs_of_one_setting_the_newest_counts_and_the_others_are_counted(tmp_path: Path) -> None:
    for day in (1, 2, 3):
        write_run(tmp_path / "m", [sample(i, float(i < day)) for i in range(4)], date=f"2026-01-0{day}T00-00-00.0")
    found = compared(tmp_path)
    assert (len(found.tasks[0].rows), found.tasks[0].rows[0].score) == (1, 0.75)
    assert "m, t: the newest of its folder; 2 earlier runs of the same settings not shown." in found.notes


TEMPLATE = {"chat_template_sha": "872be49dbb638044", "fewshot_as_multiturn": True}
ASKED: dict[str, tuple[dict[str, Any], str | None]] = {
    "a chat template": (TEMPLATE, "m (chat_template=872be49d, fewshot_as_multiturn=True)"),
    "a system prompt": ({"system_instruction_sha": "0f1e2d3c4b"}, "m (system_instruction=0f1e2d3c)"),
    "--metadata": ({"configs": {"t": {"metadata": {"version": 1, "cut": "none", "pretrained": "x"}}}}, "m (cut=none)"),
    "--samples": ({"n-samples": {"t": {"original": 1000, "effective": 3}}}, "m (documents=3 of 1000)"),
    "other documents, as many": ({"task_hashes": {"t": "b"}}, "m (2026-01-02T00-00-00.0)"),
    "nothing but where it ran": ({"configs": {"t": {"metadata": {"data_dir": "/data", "executed_in": "x"}}}}, None),
    "nothing, said otherwise": ({"fewshot_as_multiturn": False, "system_instruction": None}, None),
}


@pytest.mark.parametrize("case", ASKED)
def test_what_else_a_run_can_be_asked_makes_it_another_one(tmp_path: Path, case: str) -> None:
    """In one folder, and in two; what does not change an answer makes a repetition, of which one folder shows the newest."""
    changes, expected = ASKED[case]
    plain: dict[str, Any] = {"n-samples": {"t": {"original": 1000, "effective": 1000}}, "task_hashes": {"t": "a"}}
    for first, second in ((tmp_path, tmp_path), (tmp_path / "one", tmp_path / "two")):
        write_run(first, SAMPLES, model="m", date="2026-01-01T00-00-00.0", **plain)
        write_run(second, SAMPLES, model="m", date="2026-01-02T00-00-00.0", **{**plain, **changes})
        runs, _ = load_runs([first] if first == second else [first, second])
        found = labels(runs)
        if expected is None:
            assert found == (["m"] if first == second else ["m (one)", "m (two)"])
        elif first == second:
            assert found[1] == expected
            assert found[0] in ("m", "m (documents=1000 of 1000)", "m (2026-01-01T00-00-00.0)")
        for task_run in runs:
            task_run.results_path.unlink()


def test_a_task_asked_twice_leaves_the_other_tasks_of_its_model_where_they_are(tmp_path: Path) -> None:
    write_run(tmp_path, SAMPLES, task="s", model="m", date="2026-01-01T00-00-00.0")
    write_run(tmp_path, SAMPLES, model="m", date="2026-01-02T00-00-00.0")
    more: dict[str, Any] = {"configs": {"t": {"metadata": {"cut": "none"}}}}
    write_run(tmp_path, SAMPLES, model="m", date="2026-01-03T00-00-00.0", **more)
    runs, _ = load_runs([tmp_path])
    assert list(zip((run.task for run in runs), labels(runs), strict=True)) == [("s", "m"), ("t", "m"), ("t", "m (cut=none)")]
    # Shown with another model's, task s and the plain t are still one run.
    assert identities(runs) == [0, 0, 1]


def test_a_model_is_the_same_over_its_tasks_and_another_elsewhere(tmp_path: Path) -> None:
    for place in ("one", "two"):
        for task in ("s", "t"):
            write_run(tmp_path / place / "m", SAMPLES, task=task, model="m", date=f"2026-01-0{1 + (task == 't')}T00-00-00.0")
    runs, _ = load_runs([tmp_path / "one", tmp_path / "two"])
    assert identities(runs) == [0, 0, 1, 1]
    assert labels(runs) == ["m (one)", "m (one)", "m (two)", "m (two)"]


def test_members_are_those_of_all_records(tmp_path: Path) -> None:
    """The first gap was answered by A alone."""
    alone = record([candidate("A", "x", True)], 0, "single")
    both = record([candidate("A", "x", True, 1.0), candidate("B", "y", False, 2.0)], 0)
    lines = [ensemble_sample(i, alone if i == 0 else both, f"P{i}") for i in range(4)]
    folder = write_run(tmp_path / "run", lines, metric="pass@1")
    found = compared(folder, members=True, baseline="run/B")
    assert [(r.label, r.score, r.n) for r in found.tasks[0].rows] == [
        ("run", 1.0, 4),
        ("run/A", 1.0, 4),
        ("run/B", 0.0, 3),
        ("run/oracle", 1.0, 4),
        ("run/floor", 0.25, 4),
    ]
    contrast = row(found, "run/A").contrast
    assert contrast is not None
    assert (contrast.n, contrast.wins) == (3, 3)


def test_after_a_route_members_stand_for_what_they_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """dllm answered 6 gaps and is right in 1, fim answered 4 and is right in 2: no gap of both, so no gain and no p."""
    lines = []
    for i in range(10):
        member, right = ("dllm", i == 0) if i < 6 else ("fim", i < 8)
        lines.append(ensemble_sample(i, record([candidate(member, "x", right, 1.0)], 0, "single"), f"P{i}"))
    folder = write_run(tmp_path / "tiny", lines, metric="pass@1")
    assert main(["select", str(folder), "--format", "json"]) == 0
    (task,) = json.loads(capsys.readouterr().out)["tasks"]
    assert (task["members"], task["members_n"]) == ({"dllm": round(1 / 6, 5), "fim": 0.5}, {"dllm": 6, "fim": 4})
    assert (task["best_member"], task["n_of_all_members"], task["s0"]) == (None, 0, None)
    assert all((r["gain"], r["p"], r["p_all"]) == (None, None, None) for r in task["rows"])
    assert main(["select", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "Members: dllm 16.67 (of 6), fim 50.00 (of 4). Floor 30.00, oracle 30.00." in out
    assert "No choice was answered by all members" in out
    found = compared(folder, members=True)
    assert [(r.label, r.n) for r in found.tasks[0].rows][1:3] == [("tiny/dllm", 6), ("tiny/fim", 4)]


def test_where_some_gaps_have_all_members_gains_are_over_those(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """a is right in 0 to 2 of the three gaps of both; of the fourth, b's alone, nothing is said about gains."""
    both = record([candidate("a", "x", True, 2.0), candidate("b", "y", False, 1.0)], 1)
    lines = [ensemble_sample(i, both, f"P{i}") for i in range(3)]
    lines.append(ensemble_sample(3, record([candidate("b", "y", True, 1.0)], 0, "single"), "P3"))
    assert main(["select", str(write_run(tmp_path / "m", lines, metric="pass@1")), "--format", "json"]) == 0
    (task,) = json.loads(capsys.readouterr().out)["tasks"]
    assert (task["members"], task["members_n"]) == ({"a": 1.0, "b": 0.25}, {"a": 3, "b": 4})
    assert (task["best_member"], task["n"], task["n_of_all_members"], task["s0"]) == ("a", 4, 3, 1.0)
    own = next(r for r in task["rows"] if r["primary"])
    assert (own["score"]["value"], own["gain"]["value"], own["gain"]["n"], own["losses"]) == (0.25, -1.0, 3, 3)


def test_a_target_that_holds_the_tests_is_no_reference() -> None:
    """lm_eval's own code tasks keep the tests there; the program is that of the name."""
    test = "def check(c):\n" + "    assert c(1) == 1\n" * 20
    doc = {"task_id": "SingleLineInfilling/HumanEval/7/L0", "prompt": "def f(x):\n", "suffix": "", "test": test}
    line = sample(0, 1.0, "pass@1", target=test + "\ncheck(f)", filtered_resps=["    return x"])
    line["doc"] = {**doc, "canonical_solution": "    return x\n"}
    rows, problems = read_lines([line, {**line, "doc_id": 1, "doc_hash": "other"}])
    assert problems == []
    assert [(r.length, r.length_of, r.problem) for r in rows] == [(8, "reference", "HumanEval/7")] * 2
    line["doc"] = doc
    (row,), _ = read_lines([line])
    assert (row.length, row.length_of) == (12 - 4, "answer")
    assert figures(rows)["problems"] == 1


def test_of_the_documents_in_common_no_more_than_those_name_no_problem(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [sample(i, 1.0) for i in range(30)])
    b = write_run(tmp_path / "b", [sample(i, 0.0) for i in range(3)])
    (table,) = compared(a, b, common=True).tasks
    assert "a: 3 of 3 documents name no problem" in " ".join(table.notes)


def test_two_questions_of_one_content_are_two_questions(tmp_path: Path) -> None:
    from lm_eval_ensemble.uncertainty.answers import load_answers
    from tests.uncertainty.runs import records
    from tests.uncertainty.runs import write_run as write_questions

    path = write_questions(tmp_path, records(n=12))
    (file,) = path.parent.glob("samples_*")
    file.write_text(file.read_text().replace('"doc_hash": "h3"', '"doc_hash": "h2"'))
    (answers,), problems = load_answers([tmp_path])
    assert (len(answers.records), len(set(answers.keys)), problems) == (12, 12, [])


def test_the_date_of_a_run_is_that_of_its_file(tmp_path: Path) -> None:
    (run,), _ = load_runs([write_run(tmp_path / "m", SAMPLES)])
    assert run.date == DATE
    (old,), _ = load_runs([results_json(tmp_path / "old")])
    assert old.date.startswith("2023-11-14T22-13-20")
