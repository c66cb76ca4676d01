"""The command from its first line to its exit status: finished, failed, killed, stopped, resumed, twice at once."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble.cli import main
from lm_eval_ensemble.sweep import command
from lm_eval_ensemble.sweep.cells import make_cells
from lm_eval_ensemble.sweep.grid import load_grid
from lm_eval_ensemble.sweep.locks import is_taken, owner
from tests.sweep.conftest import Start, until
from tests.sweep.stub import GRID, write_results

Write = Callable[..., Path]


def with_behaviours(**behaviours: str) -> list[dict[str, Any]]:
    models = [dict(model) for model in GRID["models"]]
    return [{**m, "metadata": {"behaviour": behaviours.get(str(m["name"]), "ok")}} for m in models]


def states(output: Path) -> dict[str, str]:
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    return {row["name"]: row["state"] for row in manifest["cells"]}


def go(output: Path) -> Path:
    output.mkdir(parents=True, exist_ok=True)
    (output / "go").touch()
    return output


def ended(process: subprocess.Popen[str], seconds: float = 120) -> tuple[int, str]:
    text, _ = process.communicate(timeout=seconds)
    return process.returncode, text


def running(output: Path) -> list[Path]:
    return [path.parent for path in output.glob("*/started") if is_taken(path.parent)]


def test_all_cells_then_the_table_and_nothing_twice(
    write_grid: Write, tmp_path: Path, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    grid, output = write_grid(), go(tmp_path / "out")
    status, text = ended(start(grid, output, "--jobs", "2"))
    assert status == 0, text
    assert set(states(output).values()) == {"done"}
    assert "4 of 4 cells done" in text
    # Cells of one checkpoint are told apart by what differs.
    for label in ("a steps=4", "a steps=8", "b steps=4", "b steps=8"):
        assert f"| {label} " in text
    rows = list(csv.DictReader((output / "compare.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["label"] for row in rows] == ["a steps=4", "a steps=8", "b steps=4", "b steps=8"]
    assert (output / "compare.md").read_text(encoding="utf-8") in text + "\n"
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    assert {"versions", "git_commit", "grid", "environment"} <= set(manifest)
    for row in manifest["cells"]:
        assert (output / row["config"]).is_file()
        assert (output / row["results"]).is_file()
        assert (row["attempts"], row["exit_status"], row["error"]) == (1, 0, None)
        assert row["peak_memory_mib"] > 0
    before = sorted(output.rglob("results_*"))
    status, text = ended(start(grid, output))
    assert (status, sorted(output.rglob("results_*"))) == (0, before)
    assert "4 cells, 4 done already" in text
    assert "was changed since the cell was run" not in text
    # The same order, and so the same baseline, by the other command.
    capsys.readouterr()
    assert main(["compare", str(output), "--format", "csv"]) == 0
    assert [row["label"] for row in csv.DictReader(capsys.readouterr().out.splitlines())] == [row["label"] for row in rows]
    config = output / manifest["cells"][1]["config"]
    config.write_text(config.read_text(encoding="utf-8").replace("steps: 8", "steps: 16"), encoding="utf-8")
    status, text = ended(start(grid, output))
    assert f"{config}: was changed since the cell was run, which is not run again" in text
    assert "| a steps=4 " in text
    # The other commands read the folder, and call the runs alike.
    assert main(["compare", str(output)]) == 0
    assert "| b steps=8 " in capsys.readouterr().out
    assert main(["report", str(output), "--no_html"]) == 0
    assert "b steps=8" in capsys.readouterr().out


def test_a_changed_setting_is_another_cell(write_grid: Write, tmp_path: Path, start: Start) -> None:
    output = go(tmp_path / "out")
    assert ended(start(write_grid(), output, "--only", "a__steps=4", "--limit", "15"))[0] == 0
    variables = {"LM_EVAL_ENSEMBLE_SWEEP_SEED": "5", "LM_EVAL_ENSEMBLE_SWEEP_LIMIT": "7"}
    status, text = ended(start(write_grid(), output, "--only", "a__steps=4", "--limit", "15", **variables))
    assert (status, "1 cells, 0 done already" in text) == (0, True)
    assert len(list(output.glob("a__steps=4__infill_toy__*"))) == 2
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["environment"] == {"LM_EVAL_ENSEMBLE_SWEEP_SEED": 5}  # the command line came before the other
    assert "LM_EVAL_ENSEMBLE_SWEEP_SEED=5 overrides the grid" in text


def test_a_failure_is_told_and_stops_nothing(write_grid: Write, tmp_path: Path, start: Start) -> None:
    grid, output = write_grid(models=with_behaviours(a="refuse"), grid={}), go(tmp_path / "out")
    status, text = ended(start(grid, output))
    assert status == 1
    assert states(output) == {"a__infill_toy": "failed", "b__infill_toy": "done"}
    assert "$.steps: got 0, expected >= 1" in text
    assert "log.txt" in text
    assert "| b " in text
    (row, _) = json.loads((output / "manifest.json").read_text(encoding="utf-8"))["cells"]
    # A refusal is not tried again.
    assert (row["attempts"], row["exit_status"]) == (1, 2)
    assert "ConfigError" in row["error"]


@pytest.mark.parametrize(
    ("behaviour", "attempts", "state"), [("once", 2, "done"), ("crash", 3, "failed"), ("half", 1, "failed")]
)
def test_what_may_pass_is_tried_again(
    write_grid: Write, tmp_path: Path, start: Start, behaviour: str, attempts: int, state: str
) -> None:
    grid, output = write_grid(models=with_behaviours(a=behaviour)[:1], grid={}), go(tmp_path / "out")
    status, text = ended(start(grid, output, "--retries", "2", "--backoff", "0.01"))
    assert status == (0 if state == "done" else 1), text
    (row,) = json.loads((output / "manifest.json").read_text(encoding="utf-8"))["cells"]
    assert (row["state"], row["attempts"]) == (state, attempts)
    assert (output / row["config"]).parent.joinpath("log.txt").read_text(encoding="utf-8").count("=== attempt ") == attempts


def test_killed_and_called_again_it_waits_for_the_orphan(write_grid: Write, tmp_path: Path, start: Start) -> None:
    grid, output = write_grid(), tmp_path / "out"
    first = start(grid, output)
    (folder,) = until(lambda: running(output))
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert is_taken(folder)  # the child goes on, and holds the cell
    orphan = int((folder / "started").read_text())
    assert owner(folder).startswith(f"process {orphan} on ")  # whom to end, not the sweep that is gone
    second = start(grid, output)
    # The second sweep works on another cell meanwhile.
    until(lambda: len(running(output)) == 2)
    go(output)
    status, text = ended(second)
    assert status == 0, text
    assert f"running {folder.name.rpartition('__')[0]}" in text
    assert len(list(folder.glob("*/results_*.json"))) == 1  # the orphan's, not run again
    assert set(states(output).values()) == {"done"}
    until(lambda: not Path(f"/proc/{orphan}").exists())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_it_ends_its_children_and_says_how_to_go_on(
    write_grid: Write, tmp_path: Path, start: Start, number: signal.Signals
) -> None:
    grid, output = write_grid(), tmp_path / "out"
    process = start(grid, output, "--jobs", "2")
    until(lambda: len(running(output)) == 2)
    children = [int(path.read_text()) for path in output.glob("*/started")]
    process.send_signal(number)
    status, text = ended(process)
    assert status == 128 + number
    assert "The same command goes on where it stopped" in text
    assert sorted(states(output).values()) == ["interrupted", "interrupted", "todo", "todo"]
    assert not running(output)
    for pid in children:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert ended(start(grid, go(output)))[0] == 0
    assert set(states(output).values()) == {"done"}


def test_half_written_results_are_run_again_and_kept_aside(write_grid: Write, tmp_path: Path, start: Start) -> None:
    grid, output = write_grid(), go(tmp_path / "out")
    cell = make_cells(load_grid(grid))[0]
    half = write_results(cell.folder(output), cell.resolved(output), samples=False)
    assert ended(start(grid, output, "--only", cell.name))[0] == 0
    assert half.with_name(half.name + ".incomplete").is_file()
    assert len(list(half.parent.glob("results_*.json"))) == 1


def test_a_folder_that_cannot_be_made_fails_alone(write_grid: Write, tmp_path: Path, start: Start) -> None:
    path, output = write_grid(), go(tmp_path / "out")
    broken = make_cells(load_grid(path))[0]
    broken.folder(output).touch()
    status, text = ended(start(path, output))
    assert (status, "3 of 4 cells done" in text) == (1, True)
    assert f"failed: {broken.name}: FileExistsError" in text
    rows = json.loads((output / "manifest.json").read_text(encoding="utf-8"))["cells"]
    assert [row["state"] for row in rows] == ["failed", "done", "done", "done"]
    assert "FileExistsError" in rows[0]["error"]


def test_a_manifest_that_cannot_be_written(write_grid: Write, tmp_path: Path, start: Start) -> None:
    """Known at the start it is a refusal; later the cells go on."""
    path, output = write_grid(), go(tmp_path / "out")
    (output / "manifest.json").mkdir()
    status, text = ended(start(path, output))
    assert (status, "Traceback" in text) == (2, False)
    assert "DataError: --output" in text
    (output / "manifest.json").rmdir()
    (output / "go").unlink()
    sweep = start(path, output)
    until(lambda: running(output))
    (output / "manifest.json").unlink()
    (output / "manifest.json").mkdir()
    (output / "go").touch()
    status, text = ended(sweep)
    assert (status, text.count("it lags behind")) == (0, 1)
    assert "4 of 4 cells done" in text


def test_two_sweeps_at_once_share_the_work(write_grid: Write, tmp_path: Path, start: Start) -> None:
    grid, output = write_grid(), tmp_path / "out"
    both = [start(grid, output), start(grid, output)]
    until(lambda: len(running(output)) == 2)
    go(output)
    assert [ended(process)[0] for process in both] == [0, 0]
    assert len(list(output.glob("*/*/results_*.json"))) == 4
    assert set(states(output).values()) == {"done"}


def test_a_dry_run_writes_nothing(
    write_grid: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "check_cells", lambda grid, cells: [])
    output = tmp_path / "out"
    assert main(["sweep", str(write_grid()), "--dry-run", "--output", str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not output.exists()
    assert len(lines) == 5
    assert lines[1].split() == ["a__steps=8__infill_toy", "a", "(diffusion-infill)", "infill_toy", "steps=8", "todo"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "GRID is missing"),
        (["tiny", "--jobs", "0"], "--jobs: got 0, expected a whole number >= 1"),
        (["tiny", "--retries", "-1"], "--retries: got -1"),
        (["tiny", "--backoff", "nan"], "--backoff: got nan"),
        (["tiny", "--slurm", "timeout_min=5"], "no meaning without --launcher slurm"),
        (["tiny", "--only", "nothing"], "--only nothing: no cell"),
        (["tiny", "--limit", "0"], "--limit 0"),
        (["no_such_grid"], "no grid of that name ships"),
    ],
)
def test_refusals(options: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", *options]) == 2
    assert told in capsys.readouterr().err


def test_the_shipped_grids_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0]: int(line.split()[1]) for line in lines} == {
        "ensemble_steps_length": 48,
        "ensemble_temperature": 10,
        "paper_pair": 8,
        "real_small": 8,
        "tiny": 6,
        "uncertainty_extended": 6,
        "uncertainty_families": 12,
        "uncertainty_families_large": 6,
        "uncertainty_families_small": 6,
    }
