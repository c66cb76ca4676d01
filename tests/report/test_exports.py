"""Exports: the documented fields, judged again with the same outcome."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble.cli import main
from lm_eval_ensemble.report.exports import flat
from lm_eval_ensemble.runs.load import TaskRun, load_runs
from lm_eval_ensemble.runs.samples import read
from tests.report.helpers import FIXTURES, candidate, ensemble_sample, record


def exported(samples: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """The lines of samples, as if they stood in a file named ``file``, and what was told of them."""
    run = TaskRun("t", "m", "hf", {}, {}, {"pass@1": 0.0}, Path("results"), Path("file"), "")
    found = read(run, flat, lines=enumerate(samples, 1))
    return [line for lines in found.rows for line in lines], list(found.problems)


def test_the_flat_file_has_the_documented_fields() -> None:
    selection = record([candidate("dllm", "x\n", True, 1.5), candidate("qwen", "y\n", False)], 0)
    (line,), _ = exported([ensemble_sample(0, selection, middle="m\n")])
    assert json.loads(line) == {
        "task_id": "task/0",
        "completion": "x\n",
        "dllm_output": "x\n",
        "qwen_output": "y\n",
        "dllm_perplexity": pytest.approx(math.exp(1.5), abs=1e-5),
        "qwen_perplexity": None,
        "winner": "dllm",
        "prefix": "p",
        "suffix": "s",
        "canonical_solution": "m\n",
    }


def test_a_real_export_is_judged_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "flat.jsonl"
    assert main(["report", str(FIXTURES / "ensemble"), "--export", "jsonl", "--output", str(path)]) == 0
    (run,) = load_runs([FIXTURES / "ensemble"])[0]
    assert len(path.read_text().splitlines()) == run.n_samples
    assert main(["judge", str(path), "-k", "1"]) == 0
    verdicts = [json.loads(text) for text in next(tmp_path.glob("*.verdicts.jsonl")).read_text().splitlines()]
    assert sum(v["passed"] for v in verdicts) / len(verdicts) == pytest.approx(run.results["pass@1"])
    capsys.readouterr()


@pytest.mark.parametrize(("name", "lines"), [("hf", 15), ("repeats", 18)])
def test_other_runs_export_too(name: str, lines: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(FIXTURES / name), "--export", "jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == lines
    assert all(isinstance(row["completion"], str) for row in rows)


def test_stats_of_a_real_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(FIXTURES / "ensemble"), "--export", "stats"]) == 0
    found = json.loads(capsys.readouterr().out)["infill_toy"]
    (run,) = load_runs([FIXTURES / "ensemble"])[0]
    assert (found["n"], found["score"]) == (15, pytest.approx(run.results["pass@1"]))
    assert found["oracle"] == pytest.approx(run.results["pass@1_oracle"])
    assert set(found["members"]["dllm"]) == {"score", "selected", "mean_log_ppl"}
    assert sum(entry["selected"] for entry in found["members"].values()) == pytest.approx(1)


def test_damaged_records_are_told() -> None:
    broken = ensemble_sample(0, record([candidate("a", "x", True)], 0))
    broken["selection"]["winner_index"] = 3
    lines, problems = exported([broken])
    assert lines == []
    assert problems[0].startswith("file, line 1: the record is damaged")


def test_a_document_is_exported_once_and_few_lines_are_told() -> None:
    good = ensemble_sample(0, record([candidate("a", "x", True), candidate("b", "y", False)], 0))
    wrong = [ensemble_sample(i, record([candidate("a", "x", True), candidate("b", "y", False)], 0)) for i in range(1, 9)]
    for entry in wrong:
        entry["selection"]["winner_index"] = 7
    lines, problems = exported([good, good, *wrong])
    assert len(lines) == 1
    assert problems[0] == "file, line 2: the document stands there again; the line is left out."
    assert "winner_index is 7, there are 2 candidates" in problems[1]
    assert problems[5:] == ["file: 4 more lines like these."]


def test_the_answers_of_questions_are_exported(capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (FIXTURES / "questions", FIXTURES.parent / "answers" / "qa_float32"):
        assert main(["report", str(folder), "--export", "jsonl"]) == 0
        (run,) = load_runs([folder])[0]
        answers = [found["uncertainty"]["answer"] for _, found in run.lines({})]
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["completion"].strip() for row in rows] == [answer.strip() for answer in answers]
