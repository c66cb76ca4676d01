"""``lm-eval-ensemble score``: a file of completions becomes a run."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble.cli import main
from lm_eval_ensemble.errors import ConfigError, DataError
from lm_eval_ensemble.harness import score_file as module
from lm_eval_ensemble.harness.gaps import ScoreOptions, read_gaps
from lm_eval_ensemble.harness.score_file import score_file
from tests.report.helpers import write_run

TINY = {"preset": "tiny"}


@pytest.fixture
def file(toy: list[dict[str, Any]], tmp_path: Path) -> Path:
    """Two completions for each of three gaps: the right one and one that does not even parse."""
    rows = [
        {"task_id": d["task_id"], "completion": text, "run": run}
        for run in ("one", "two")
        for d in toy[:3]
        for text in ([d["middle"]] if run == "one" else ["    ))\n"])
    ]
    path = tmp_path / "answers.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def samples_of(results: Path) -> list[dict[str, Any]]:
    found = sorted(results.parent.glob("samples_infill_toy_*.jsonl"))[-1]
    return [json.loads(line) for line in found.read_text(encoding="utf-8").splitlines()]


def test_a_file_becomes_a_run(file: Path, tmp_path: Path, toy: list[dict[str, Any]], capsys: Any) -> None:
    command = ["score", str(file), "--model_args", "preset=tiny,extra_scores=chain", "--output", str(tmp_path / "out")]
    assert main([*command, "--member", "gpt", "--confirm_run_unsafe_code"]) == 0
    printed = capsys.readouterr().out
    assert "infill_toy: 3 documents" in printed
    assert f"{'pass@1_oracle':36}1.00000" in printed
    results = next((tmp_path / "out" / "gpt").glob("results_*.json"))
    content = json.loads(results.read_text(encoding="utf-8"))
    rows = content["results"]["infill_toy"]
    assert rows["pass@1_oracle,none"] == 1.0
    assert rows["pass@1_floor,none"] == 0.0
    assert rows["pass@1_gpt,none"] == 0.5
    assert content["n-samples"]["infill_toy"] == {"original": len(toy), "effective": 3}
    assert "split judge" in content["configs"]["infill_toy"]["metadata"]["executed_in"]
    for number, sample in enumerate(samples_of(results)):
        assert sample["doc_id"] == number
        assert sample["doc"] == toy[number]
        entry = sample["selection"]
        assert [(c["member"], c["sample"], c["verdict"]) for c in entry["candidates"]] == [
            ("gpt", 0, "pass"),
            ("gpt", 1, "fail"),
        ]
        assert entry["candidates"][0]["raw"] == toy[number]["middle"]
        for candidate in entry["candidates"]:
            assert {"fim", "onepass", "chain", "fim+onepass"} <= set(candidate["scores"])
        # The right text is the likelier one here.
        assert (entry["winner_index"], sample["pass@1"]) == (0, 1.0)


def test_scores_equal_those_of_a_run(evaluate: Any, tmp_path: Path) -> None:
    """A run's own samples file, scored again, gives the run's scores and verdicts."""
    found = evaluate("ensemble-ppl", model_args={**TINY, "store": "off"}, limit=4, batch_size=8)["samples"]["infill_toy"]
    rows = [
        {"task_id": sample["doc"]["task_id"], "completion": c["raw"], "member": c["member"]}
        for sample in found
        for c in sample["selection"]["candidates"]
    ]
    path = tmp_path / "run.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    results = score_file(path, ScoreOptions(tmp_path / "out", TINY, member_field="member", batch_size=3))
    for before, after in zip(found, samples_of(results), strict=True):
        one, two = before["selection"], after["selection"]
        assert (one["winner"], one["reason"]) == (two["winner"], two["reason"])
        for a, b in zip(one["candidates"], two["candidates"], strict=True):
            assert (a["member"], a["text"], a["verdict"]) == (b["member"], b["text"], b["verdict"])
            for name, value in a["scores"].items():
                assert b["scores"][name] == pytest.approx(value, abs=2e-3 if name == "joint" else 1e-4), name


def test_another_model_of_the_same_name_reads_for_itself(
    evaluate: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a run recorded of its member ``fim`` is not what another ``fim`` gives the text."""
    run = evaluate("ensemble-ppl", model_args={**TINY, "store": "off"}, limit=4, batch_size=8)
    found = run["samples"]["infill_toy"]
    told = json.loads(json.dumps([{**sample, "arguments": {}} for sample in found], default=str))
    written = [c for sample in told for c in sample["selection"]["candidates"] if "end_logprob" in c]
    assert written
    for candidate in written:
        candidate |= {"end_logprob": -99.0, "logprobs": [-9.0] * len(candidate["logprobs"])}
    lines = "".join(json.dumps(sample) + "\n" for sample in told)
    recorded = tmp_path / "samples_infill_toy_2026-01-01T00-00-00.000001.jsonl"
    recorded.write_text(lines, encoding="utf-8")
    content = {name: run[name] for name in ("results", "n-samples")}
    content |= {"configs": {"infill_toy": {}}, "config": {"model": "ensemble-ppl"}, "model_name": "org/a pair"}
    (tmp_path / "results_2026-01-01T00-00-00.000001.json").write_text(json.dumps(content, default=str))
    # Another model's run of another task lies beside it.
    write_run(tmp_path / "another", [{"doc_id": 0, "acc": 1.0}], model="a model")
    results = score_file(tmp_path, ScoreOptions(tmp_path / "out", TINY, task="infill_toy"))
    said = json.loads(results.read_text())
    assert (said["scored_config"], said["model_name"]) == ({"model": "ensemble-ppl"}, "org/a pair")  # who wrote the texts
    assert said["n-samples"]["infill_toy"] == {"original": 45, "effective": 4}
    for before, after in zip(found, samples_of(results), strict=True):
        for one, two in zip(before["selection"]["candidates"], after["selection"]["candidates"], strict=True):
            assert (two["member"], two["text"]) == (one["member"], one["text"])
            assert two["scores"]["fim"] == pytest.approx(one["scores"]["fim"], abs=1e-4)
    # The file alone is a file of completions, those that were chosen.
    assert "chosen texts" not in caplog.text
    gaps = read_gaps(recorded, ScoreOptions(tmp_path / "out", TINY, task="infill_toy"))
    chosen = [sample["selection"]["candidates"][sample["selection"]["winner_index"]]["text"] for sample in found]
    assert [[candidate.text for candidate in gap.candidates] for gap in gaps] == [[text] for text in chosen]
    assert "the chosen texts of 4 documents are scored, as 'file'" in caplog.text


def folder_of(run: Any, folder: Path, *, model: str = "tiny", config: Any = None, date: str = "2026-01-01") -> Path:
    """A run of ``evaluate`` as lm_eval writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    for task, samples in run["samples"].items():
        told = json.loads(json.dumps([{**sample, "arguments": {}} for sample in samples], default=str))
        lines = "".join(json.dumps(sample) + "\n" for sample in told)
        (folder / f"samples_{task}_{date}T00-00-00.000001.jsonl").write_text(lines, encoding="utf-8")
    content = {name: run[name] for name in ("results", "n-samples")}
    content |= {"configs": {task: {} for task in run["samples"]}, "model_name": model, "model_source": "ensemble-ppl"}
    content["config"] = config or {"model": "ensemble-ppl", "model_args": {}}
    (folder / f"results_{date}T00-00-00.000001.json").write_text(json.dumps(content, default=str))
    return folder


def test_every_repeat_of_a_run_is_a_choice_of_its_own(evaluate: Any, tmp_path: Path) -> None:
    # `random` draws by the document and the repeat: it must draw again as it did.
    drawn = {**TINY, "store": "off", "temperature": 0.8, "seed": 1, "max_new_tokens": 16, "selector": "random"}
    run = evaluate("ensemble-ppl", model_args=drawn, metadata={"repeats": 3}, limit=3, batch_size=8)
    results = score_file(folder_of(run, tmp_path / "run"), ScoreOptions(tmp_path / "out", drawn, batch_size=8))
    before, after = run["results"]["infill_toy"], json.loads(results.read_text())["results"]["infill_toy"]
    rows = [name for name in before if name.startswith(("pass@1", "exact_match", "pick_rate")) and "stderr" not in name]
    assert len(rows) > 8
    assert {name: after[name] for name in rows} == pytest.approx({name: before[name] for name in rows})
    for one, two in zip(run["samples"]["infill_toy"], samples_of(results), strict=True):
        assert [len(c["candidates"]) for c in two["selection"]["completions"]] == [2, 2, 2]
        texts = [[c["text"] for c in each["candidates"]] for each in one["selection"]["completions"]]
        assert [[c["text"] for c in each["candidates"]] for each in two["selection"]["completions"]] == texts
        winners = [[each["winner_index"] for each in told["selection"]["completions"]] for told in (one, two)]
        assert winners[0] == winners[1]
        # What generation knew of its end belongs to that run's scores.
        assert "end_logprob" not in json.dumps(two)


def test_runs_of_several_models_in_a_folder_are_not_one_run(evaluate: Any, tmp_path: Path) -> None:
    run = evaluate("ensemble-ppl", model_args={**TINY, "store": "off"}, limit=4, batch_size=8)
    other = {**run, "samples": {"other": run["samples"]["infill_toy"]}, "results": {"other": {}}, "n-samples": {}}
    folder_of(run, tmp_path / "run")
    folder_of(other, tmp_path / "run", date="2026-01-02", config={"model": "ensemble-ppl", "model_args": {"samples": 2}})
    with pytest.raises(DataError, match=r"several models or settings \(tiny: infill_toy, tiny \(samples=2\): other\)"):
        read_gaps(tmp_path / "run", ScoreOptions(tmp_path / "out", TINY))
    assert len(read_gaps(tmp_path / "run", ScoreOptions(tmp_path / "out", TINY, task="other"))) == 4
    # Two tasks of one model are; the limit is of each.
    folder_of(run, tmp_path / "same")
    folder_of(other, tmp_path / "same", date="2026-01-02")
    gaps = read_gaps(tmp_path / "same", ScoreOptions(tmp_path / "out", TINY, limit=3))
    assert [(gap.task, gap.number) for gap in gaps] == [(t, i) for t in ("infill_toy", "other") for i in range(3)]


def test_an_interrupted_run_goes_on(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval_ensemble.harness import scored_run

    options = ScoreOptions(tmp_path / "out", TINY, chunk=1, judge=None)
    original = scored_run.ScoredRun.samples
    asked: list[list[int]] = []

    def counted(self: Any, gaps: Any) -> Any:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append([gap.number for gap in gaps])
        return original(self, gaps)

    monkeypatch.setattr(scored_run.ScoredRun, "samples", counted)
    with pytest.raises(KeyboardInterrupt):
        score_file(file, options)
    progress = next((tmp_path / "out").glob(".score-*.jsonl"))
    progress.write_text(progress.read_text(encoding="utf-8") + '{"key": "torn', encoding="utf-8")
    asked.clear()
    results = score_file(file, options)
    assert asked == [[2]]  # the two that were finished are not scored again
    assert [sample["doc_id"] for sample in samples_of(results)] == [0, 1, 2]
    # Without verdicts there is nothing about passing.
    rows = json.loads(results.read_text(encoding="utf-8"))["results"]["infill_toy"]
    assert "exact_match_oracle,none" in rows
    assert not any(name.startswith("pass@") for name in rows)
    # Other settings start afresh; a finished run loads no model.
    monkeypatch.setattr(scored_run, "ScoredRun", lambda options: pytest.fail("loaded"))
    score_file(file, options)
    with pytest.raises(pytest.fail.Exception, match="loaded"):
        score_file(file, ScoreOptions(tmp_path / "out", {**TINY, "score": "fim"}, chunk=1, judge=None))


def test_files_count_by_their_content(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was chosen by an old selector file is not served after it was fitted again."""
    from lm_eval_ensemble.harness import scored_run

    numbers = tmp_path / "numbers.json"
    fitted = {"rule": "fim", "members": {name: {"mean": 0.0, "sd": 1.0} for name in ("dllm", "fim", "file")}}
    arguments = {**TINY, "selector": "centred", "selector_file": str(numbers)}
    options = ScoreOptions(tmp_path / "out", arguments, judge=None)
    numbers.write_text(json.dumps({"version": 1, "origin": {"by": "hand"}, "numbers": fitted}))
    score_file(file, options)
    monkeypatch.setattr(scored_run, "ScoredRun", lambda options: pytest.fail("loaded"))
    score_file(file, options)
    fitted["members"]["file"]["mean"] = 1.0  # type: ignore[index]
    numbers.write_text(json.dumps({"version": 1, "origin": {"by": "hand"}, "numbers": fitted}))
    with pytest.raises(pytest.fail.Exception, match="loaded"):
        score_file(file, options)


def test_changed_data_are_scored_again(
    file: Path, tmp_path: Path, toy: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same ids and completions, but another program around the second gap: only that one is new."""
    from lm_eval_ensemble.execution import files
    from lm_eval_ensemble.harness import scored_run

    options = ScoreOptions(tmp_path / "out", TINY, task="infill_toy", judge=None)
    score_file(file, options)
    changed = [{**d, "suffix": d["suffix"] + "\n# more\n"} if i == 1 else d for i, d in enumerate(toy)]
    monkeypatch.setattr(files, "load_documents", lambda name, folder: changed)
    asked: list[int] = []
    original = scored_run.ScoredRun.samples
    monkeypatch.setattr(
        scored_run.ScoredRun,
        "samples",
        lambda self, gaps: asked.extend(gap.number for gap in gaps) or original(self, gaps),  # type: ignore[func-returns-value]
    )
    found = samples_of(score_file(file, options))
    assert asked == [1]
    assert [sample["doc"] for sample in found] == changed[:3]


def test_half_an_emoji_is_scored_and_written(toy: list[dict[str, Any]], tmp_path: Path) -> None:
    """JSON can spell it, no file or tokenizer can: it is scored as U+FFFD and stands in the record as it came."""
    path = tmp_path / "halves.jsonl"
    texts = ["    return '\ud83d'\n", "    return '\ufffd'\n"]
    path.write_text("".join(json.dumps({"task_id": toy[0]["task_id"], "completion": text}) + "\n" for text in texts))
    (sample,) = samples_of(score_file(path, ScoreOptions(tmp_path / "out", TINY, task="infill_toy")))
    half, whole = sample["selection"]["candidates"]
    assert [half["text"], whole["text"]] == texts
    assert half["scores"] == whole["scores"]
    assert None not in half["scores"].values()
    assert half["verdict"] == "fail"


def test_bad_files_are_told(file: Path, tmp_path: Path, capsys: Any) -> None:
    bad = tmp_path / "bad.jsonl"
    options = ScoreOptions(tmp_path / "out", TINY)
    bad.write_text('{"task_id": "infill_toy/nobody/line0", "completion": "x"}\n{"task_id": "b", "completion": "x"}\n')
    with pytest.raises(DataError, match=r"2 of 2 task ids are unknown: 'infill_toy/nobody/line0' \(line 1\), 'b' \(line 2\)"):
        read_gaps(bad, options)
    bad.write_text('{"task_id": "a", "completion": "x"}\n{"task_id": "a"}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl, line 2"):
        read_gaps(bad, options)
    bad.write_text("")
    with pytest.raises(DataError, match="holds no completion"):
        read_gaps(bad, options)
    with pytest.raises(ConfigError, match="is no data set"):
        read_gaps(file, ScoreOptions(tmp_path / "out", TINY, task="infill_tyo"))
    with pytest.raises(DataError, match="line 1: found no text under 'author'"):
        read_gaps(file, ScoreOptions(tmp_path / "out", TINY, member_field="author"))
    command = ["score", str(file), "--model_args", "preset=tiny"]
    assert main(command) == 2
    assert "--confirm_run_unsafe_code" in capsys.readouterr().err
    assert main([*command, "--no_judge", "--limit", "0"]) == 2
    assert main(["score", str(file), "--model_args", '{"preset": ', "--no_judge"]) == 2
    assert "not JSON" in capsys.readouterr().err


def test_members_of_a_file_and_ids_of_other_sets(file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gaps = read_gaps(file, ScoreOptions(tmp_path, TINY, member_field="run", limit=2))
    assert [[(c.member, c.sample) for c in gap.candidates] for gap in gaps] == [[("one", 0), ("two", 0)]] * 2
    with gzip.open(file, "at") as stream:
        stream.write('{"task_id": "elsewhere", "completion": "x"}\n')
    with caplog.at_level("WARNING", module.__name__):
        assert len(read_gaps(file, ScoreOptions(tmp_path, TINY, task="infill_toy"))) == 3
    assert "1 of 4 task ids do not belong to infill_toy" in caplog.text


def test_problems_of_the_users_own(tmp_path: Path, capsys: Any) -> None:
    """Gaps with and without tests: each row is over the gaps that have it, and `select` compares those with tests."""
    own = {"prefix": "def two():\n", "middle": "    return 2\n", "suffix": ""}
    problems, answers = tmp_path / "own.jsonl", tmp_path / "answers.jsonl"
    gaps = [
        {**own, "task_id": "a", "test": "def test():\n    assert two() == 2\n"},
        {"prefix": "f(1, ", "middle": "2", "suffix": ", 3)\n", "task_id": "b"},
    ]
    texts = [("a", "    return 2\n"), ("a", "    return 1 + 1\n"), ("a", "    return\n"), ("b", "2"), ("b", "3")]
    problems.write_text("".join(json.dumps(row) + "\n" for row in gaps))
    answers.write_text("".join(json.dumps({"task_id": name, "completion": text}) + "\n" for name, text in texts))
    command = ["score", str(answers), "--problems", str(problems), "--model_args", "preset=tiny"]
    assert main(command) == 2
    assert "--confirm_run_unsafe_code" in capsys.readouterr().err
    assert main([*command, "--confirm_run_unsafe_code"]) == 0
    (results,) = (tmp_path / "answers.jsonl.scored" / "file").glob("results_*.json")
    rows = json.loads(results.read_text(encoding="utf-8"))["results"]["infill_file_own"]
    assert rows["pass@1_file,none"] == pytest.approx(2 / 3)
    assert rows["exact_match_file,none"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    capsys.readouterr()
    assert main(["select", str(results.parent)]) == 0
    told = capsys.readouterr().out
    assert "1 document of 1 program, right by pass@1" in told
    assert "Left out, without pass@1: 1 document." in told
    assert main(["select", str(results.parent), "--measure", "exact_match"]) == 0
    told = capsys.readouterr().out
    assert "2 documents of 2 programs, right by exact_match" in told
    assert "right is what exact_match says; nothing was executed" in told


def test_a_whole_program_is_the_text_of_its_gap_or_refused(tmp_path: Path) -> None:
    problems, answers = tmp_path / "own.jsonl", tmp_path / "answers.jsonl"
    problems.write_text(
        json.dumps({"prefix": "def two():\n", "middle": "    return 2\n", "suffix": "\nx = 1\n", "task_id": "a"})
    )
    options = ScoreOptions(tmp_path, TINY, problems=(str(problems),))
    answers.write_text(json.dumps({"task_id": "a", "solution": "def two():\n    return 1 + 1\n\nx = 1"}))
    (gap,) = read_gaps(answers, options)
    assert [(c.text, c.raw) for c in gap.candidates] == [("    return 1 + 1\n", "    return 1 + 1\n")]
    answers.write_text(json.dumps({"task_id": "a", "solution": "def two(x):\n    return 2\n"}))
    with pytest.raises(DataError, match="line 1: its solution does not begin with the prefix of 'a'"):
        read_gaps(answers, options)
