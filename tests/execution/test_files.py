"""Judging a file of completions: reading, resuming, reporting, and 3,608 recorded verdicts."""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble.data import load_documents
from lm_eval_ensemble.errors import ConfigError, DataError
from lm_eval_ensemble.execution import files
from lm_eval_ensemble.execution.files import judge_file
from tests.execution.helpers import DATA


@pytest.fixture
def toy() -> list[dict[str, Any]]:
    return load_documents("infill_toy")


@pytest.fixture(autouse=True)
def _only_the_toy_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if "data" not in request.keywords:
        monkeypatch.setenv("LM_EVAL_ENSEMBLE_DATA", str(tmp_path / "no-data"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no-cache"))


def _write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _row(document: dict[str, Any], completion: str | None = None) -> dict[str, str]:
    return {"task_id": document["task_id"], "completion": document["middle"] if completion is None else completion}


def _verdicts(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.with_name(path.name + ".verdicts.jsonl").read_text().splitlines()]


def test_repeated_ids_are_samples_and_verdicts_keep_the_order(tmp_path: Path, toy: list[dict[str, Any]]) -> None:
    first, second = toy[0], toy[1]
    path = _write(tmp_path / "c.jsonl", [_row(first), _row(second, "?"), _row(first, "?"), _row(second, "??")])
    report = judge_file(path, k=(1, 2, 3), progress=False)
    assert [line["status"] for line in _verdicts(path)] == ["pass", "fail", "fail", "fail"]
    assert [line["index"] for line in _verdicts(path)] == [0, 1, 2, 3]
    # first: 1 of 2 passes; second: 0 of 2. pass@1 = (1/2 + 0) / 2, pass@2 = (1 + 0) / 2, pass@3 has no meaning.
    assert report.pass_at == {1: 0.25, 2: 0.5}
    assert (report.tasks, report.completions, report.resumed) == (2, 4, 0)
    assert report.timeout_rate == report.judge_error_rate == 0.0
    assert "split judge" in report.as_text()


@pytest.mark.parametrize("opened", [open, gzip.open], ids=["plain", "gzip"])
def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path, toy: list[dict[str, Any]], opened: Any) -> None:
    path = tmp_path / ("c.jsonl" if opened is open else "c.jsonl.gz")
    with opened(path, "wt", encoding="utf-8-sig") as file:
        file.write("".join(json.dumps(_row(document)) + "\n" for document in toy[:2]))
    report = judge_file(path, progress=False)
    assert (report.completions, report.pass_at[1]) == (2, 1.0)


def test_a_task_with_too_few_samples_leaves_pass_at_k_undefined(tmp_path: Path, toy: list[dict[str, Any]]) -> None:
    path = _write(tmp_path / "c.jsonl", [_row(toy[0]), _row(toy[0]), _row(toy[1])])
    report = judge_file(path, k=(1, 2), progress=False)
    assert report.pass_at == {1: 1.0, 2: None}
    assert "fewer samples" in report.as_text()


def test_a_second_run_skips_what_is_there(tmp_path: Path, toy: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path / "c.jsonl", [_row(d) for d in toy[:3]])
    judge_file(path, progress=False)
    verdicts = tmp_path / "c.jsonl.verdicts.jsonl"
    whole = verdicts.read_text()
    verdicts.write_text(whole[: len(whole) // 2])  # torn in the middle of a line
    assert judge_file(path, progress=False).resumed == 1
    assert verdicts.read_text() == whole
    assert judge_file(path, progress=False).resumed == 3
    assert judge_file(path, progress=False, overwrite=True).resumed == 0


def test_changed_completions_and_settings_are_judged_again(tmp_path: Path, toy: list[dict[str, Any]]) -> None:
    path = _write(tmp_path / "c.jsonl", [_row(d) for d in toy[:3]])
    judge_file(path, progress=False)
    _write(path, [_row(toy[0]), _row(toy[1], "?"), _row(toy[2])])
    assert judge_file(path, progress=False).resumed == 1
    assert [line["passed"] for line in _verdicts(path)] == [True, False, True]
    assert judge_file(path, timeout=2.0, progress=False).resumed == 0


def test_lost_jobs_are_judged_again(tmp_path: Path, toy: list[dict[str, Any]]) -> None:
    path = _write(tmp_path / "c.jsonl", [_row(toy[0]), _row(toy[1])])
    judge_file(path, progress=False)
    lines = _verdicts(path)
    lines[1] |= {"passed": False, "status": "fail", "why": "worker lost"}
    _write(tmp_path / "c.jsonl.verdicts.jsonl", lines)
    assert judge_file(path, progress=False).resumed == 1
    assert _verdicts(path)[1]["passed"]


def test_compressed_files_and_blank_lines_are_read(tmp_path: Path, toy: list[dict[str, Any]]) -> None:
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress(("\n" + json.dumps(_row(toy[0])) + "\n\n").encode()))
    assert judge_file(path, progress=False).pass_at[1] == 1.0
    assert len(_verdicts(path)) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: found list, expected an object"),
        ('{"task_id": "a"}', "line 2: found only task_id, expected a string 'completion'"),
        ('{"task_id": 5, "completion": ""}', "line 2: found int, expected a string 'task_id'"),
        ('{"task_id": "HumanEval/0", "completion": ""}', "line 2: task_id 'HumanEval/0' is unknown. Looked in: infill_toy"),
    ],
)
def test_faults_name_file_and_line(tmp_path: Path, toy: list[dict[str, Any]], line: str, message: str) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps(_row(toy[0])) + "\n" + line + "\n")
    with pytest.raises(DataError) as caught:
        judge_file(path, progress=False)
    assert str(caught.value).startswith(f"{path}, {message}")


def test_files_that_cannot_be_judged_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        judge_file(tmp_path / "missing.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match="holds no completion"):
        judge_file(tmp_path / "empty.jsonl")
    (tmp_path / "broken.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="cannot be read"):
        judge_file(tmp_path / "broken.gz")


def test_the_command_prints_the_report(tmp_path: Path, toy: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    path = _write(tmp_path / "c.jsonl", [_row(toy[0])])
    parser = argparse.ArgumentParser()
    files.add_arguments(parser)
    assert files.main(parser.parse_args([str(path), "--task", "infill_toy", "--workers", "1"])) == 0
    assert "pass@1    1.00000" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="separated by commas"):
        files.main(parser.parse_args([str(path), "-k", "one"]))
    with pytest.raises(ConfigError, match="Did you mean 'infill_toy'"):
        files.main(parser.parse_args([str(path), "--task", "infil_toy"]))


#: a test may use what stands before the function, also where the answer is a program that does without it.
PROBLEM = {
    "task_id": "Own/0",
    "prompt": "def double(x):\n    return 2 * x\n\n\ndef half(x):\n",
    "canonical_solution": "    return x / 2\n",
    "entry_point": "half",
    "test": "def check(candidate):\n    assert candidate(double(3)) == 3\n",
}
GAPS = [
    {
        "task_id": "pytest",
        "prefix": "def two():\n",
        "middle": "    return 2\n",
        "suffix": "",
        "test": "def test():\n    assert two() == 2\n",
    },
    {"task_id": "doctest", "prefix": "def one():\n", "middle": "    return 1\n", "suffix": "", "test": ">>> one()\n1\n"},
    {"task_id": "untested", "prefix": "f(1, ", "middle": "2", "suffix": ", 3)\n"},
]


def test_problems_of_the_users_own(tmp_path: Path) -> None:
    problems = [str(_write(tmp_path / "own.jsonl", GAPS)), str(_write(tmp_path / "humaneval.jsonl", [PROBLEM]))]
    answers = [
        {"task_id": "pytest", "completion": "    return 2\n"},
        {"task_id": "pytest", "completion": "    return 3\n"},
        {"task_id": "untested", "completion": "2"},
        {"task_id": "doctest", "completion": "    return 2\n"},
        {"task_id": "doctest", "completion": "    return 2 - 1\n"},
        {"task_id": "Own/0", "solution": "def half(x):\n    return x * 0.5\n"},
        {"task_id": "Own/0", "solution": "    return x / 2\n"},  # no program
        {"task_id": "Own/0", "completion": "    return x / 2\n"},
    ]
    path = _write(tmp_path / "answers.jsonl", answers)
    report = judge_file(path, problems=problems, progress=False)
    assert [line["passed"] for line in _verdicts(path)] == [*(True, False), *(False, True), *(True, False, True)]
    assert (report.tasks, report.untested) == (3, 1)
    assert "left out: 1 completion of gaps without tests" in report.as_text()
    assert "\n      1  the program raised IndentationError\n" in report.as_text()
    assert judge_file(path, problems=problems, progress=False).resumed == 7
    # A file of problems is one of answers too: its references.
    assert judge_file(problems[1], problems=problems, progress=False).pass_at == {1: 1.0}
    with pytest.raises(DataError, match="1 completion, no test for any of them"):
        judge_file(_write(tmp_path / "no.jsonl", answers[2:3]), problems=problems)
    with pytest.raises(ConfigError, match="two places"):
        judge_file(path, problems=problems, task="infill_toy")


@pytest.mark.data("replays/gpt-4o-mini_random-span.jsonl.gz")
def test_all_recorded_verdicts_of_a_real_model(tmp_path: Path) -> None:
    """gpt-4o-mini, 2 x (1640 random-span + 164 light), judged with OpenAI's evaluator by others."""
    source = Path(DATA or "") / "replays" / "gpt-4o-mini_random-span.jsonl.gz"
    path = tmp_path / source.name
    path.write_bytes(source.read_bytes())
    recorded = [json.loads(line)["passed"] for line in gzip.decompress(source.read_bytes()).decode().split("\n") if line]
    report = judge_file(path, k=(1, 2), progress=False)
    assert [line["passed"] for line in _verdicts(path)] == recorded
    assert len(recorded) == report.completions == 3608
    assert report.pass_at[1] == pytest.approx(sum(recorded) / 3608)
