"""Result folders of real lm_eval runs, and damaged ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble.cli import main
from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.runs.load import load_runs
from tests.report.helpers import sample, write_run

DATE = "2026-01-02T03-04-05.000006"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of lm_eval's own dummy model on our toy task, with samples."""
    folder = tmp_path_factory.mktemp("real")
    command = [
        *(sys.executable, "-m", "lm_eval", "--model", "dummy", "--tasks", "infill_toy", "--limit", "3"),
        *("--output_path", str(folder), "--log_samples", "--confirm_run_unsafe_code"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def results(**changes: object) -> dict[str, object]:
    content = {
        "results": {"t": {"alias": "t", "acc,none": 0.5, "acc_stderr,none": 0.1, "acc,strict": 0.25}},
        "configs": {"t": {"task": "t"}},
        "config": {"model": "hf", "model_args": "pretrained=x/y,trust_remote_code=True"},
        "n-samples": {"t": {"original": 9, "effective": 4}},
        "model_name": "x/y",
        "model_source": "hf",
    }
    return {**content, **changes}


def write(folder: Path, content: object, date: str = DATE, samples: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"results_{date}.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    if samples is not None:
        (folder / f"samples_t_{date}.jsonl").write_text(samples, encoding="utf-8")
    return path


def test_a_real_run_is_read_from_its_folder_and_from_its_file(real: Path) -> None:
    runs, problems = load_runs([real])
    assert problems == []
    assert [(run.task, run.model_source) for run in runs] == [("infill_toy", "dummy")]
    assert [sample["doc_id"] for _, sample in runs[0].lines({})] == [0, 1, 2]
    assert runs[0].results["pass@1"] == 0.0
    again, _ = load_runs([runs[0].results_path, real])
    assert [run.results_path for run in again] == [runs[0].results_path]


def test_filters_arguments_and_counts(tmp_path: Path) -> None:
    (run,), _ = load_runs([write(tmp_path, results())])
    assert (run.results, run.filters) == ({"acc": 0.5, "acc_stderr": 0.1}, {"strict": {"acc": 0.25}})
    assert run.config["model_args"] == {"pretrained": "x/y", "trust_remote_code": True}
    assert run.n_samples == 4
    with pytest.raises(DataError, match="--log_samples"):
        next(run.lines({}))


def test_the_newest_of_a_model_and_task_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "a", results(), "2026-01-02T03-04-05.000006")
    newer = write(tmp_path / "a", results(), "2026-02-02T03-04-05.000006")
    other = write(tmp_path / "b", results(model_name="z"), "2025-01-02T03-04-05.000006")
    runs, _ = load_runs([tmp_path])
    assert [run.results_path for run in runs] == [newer, other]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"results": {}}', '{"results": 3, "configs": {}, "config": {}}'])
def test_damaged_results_are_told_and_the_rest_is_read(tmp_path: Path, content: str) -> None:
    good, bad = write(tmp_path / "good", results()), write(tmp_path / "bad", content)
    runs, problems = load_runs([tmp_path])
    assert [run.results_path for run in runs] == [good]
    assert len(problems) == 1
    assert str(bad) in problems[0]
    with pytest.raises(DataError, match="found no results"):
        load_runs([bad])


def test_damaged_lines_are_told_with_their_number(tmp_path: Path) -> None:
    (run,), _ = load_runs([write(tmp_path, results(), samples='{"doc_id": 0}\n{"doc_id": \n\n[1]\n{"doc_id": 3}\n')])
    told: dict[int, str] = {}
    assert [(number, sample["doc_id"]) for number, sample in run.lines(told)] == [(1, 0), (5, 3)]
    assert list(told) == [2, 4]
    assert all(f"line {number}:" in fault for number, fault in told.items())


def test_nothing_there_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        load_runs([tmp_path / "missing"])
    with pytest.raises(DataError, match="found no results"):
        load_runs([tmp_path])


def test_a_file_that_may_not_be_read_is_told_and_other_runs_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, [sample(0, 1.0), sample(1, 0.0)])
    (closed,) = (tmp_path / "b").glob("samples_*")
    opened = Path.open

    def open_or_not(path: Path, *given: Any, **more: Any) -> Any:
        if path == closed:  # the tests may run as root, who may read everything
            raise PermissionError(13, "Permission denied")
        return opened(path, *given, **more)

    monkeypatch.setattr(Path, "open", open_or_not)
    assert main(["compare", str(tmp_path), "--format", "csv"]) == 1
    printed = capsys.readouterr()
    assert f"{closed}: cannot be read (Permission denied)." in printed.err
    assert "t,acc,none,a,run,hf,2,2,0.5" in printed.out


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [sample(0, 1.0), sample(1, 0.0)])
    for file in folder.iterdir():
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    (run,), problems = load_runs([folder])
    told: dict[int, str] = {}
    assert [found["doc_id"] for _, found in run.lines(told)] == [0, 1]
    assert (problems, told) == ([], {})
