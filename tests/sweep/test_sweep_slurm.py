"""Cells as jobs: submitit's local executor, and its Slurm executor on an ``sbatch`` that starts the jobs itself."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from lm_eval_ensemble.cli import main
from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.sweep import command
from lm_eval_ensemble.sweep.slurm import Submitter
from tests.sweep.conftest import Start, until
from tests.sweep.stub import GRID
from tests.sweep.test_sweep_command import ended, go, running, states, with_behaviours

Write = Callable[..., Path]
HERE = ("--launcher", "slurm", "--slurm", "cluster=local", "timeout_min=5")

SBATCH = r"""#!/bin/sh
echo "$@" >> "$FAKE_SLURM/calls"
cp "$1" "$FAKE_SLURM/submitted.sh"
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$1")
for k in $(seq 0 "$last"); do
  SLURM_JOB_ID=$((100 + k)) SLURM_ARRAY_JOB_ID=12 SLURM_ARRAY_TASK_ID=$k SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_PROCID=0 \
  SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_JOB_NODELIST=here sh "$1" > "$FAKE_SLURM/job$k" 2>&1 < /dev/null &
done
echo "Submitted batch job 12"
"""
SRUN = r"""#!/bin/sh
while [ "${1#--}" != "$1" ]; do case $1 in --*=*|--unbuffered) shift;; *) shift 2;; esac; done
exec "$@"
"""


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """Variables of a login node whose scheduler starts everything at once and knows no state of anything."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", "#!/bin/sh\necho 'JobID|State|NodeList'\n")):
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "FAKE_SLURM": str(folder)}


def test_jobs_on_this_machine(write_grid: Write, tmp_path: Path, start: Start) -> None:
    grid, output = write_grid(models=with_behaviours(a="refuse"), grid={}), go(tmp_path / "out")
    status, text = ended(start(grid, output, *HERE, "--jobs", "2"))
    assert status == 1
    assert states(output) == {"a__infill_toy": "failed", "b__infill_toy": "done"}, text
    assert "$.steps: got 0, expected >= 1" in text
    assert "| b " in text
    row = json.loads((output / "manifest.json").read_text(encoding="utf-8"))["cells"][1]
    assert row["job"]["cluster"] == "local"
    assert row["peak_memory_mib"] > 0


def test_a_killed_sweep_leaves_its_jobs_and_the_next_takes_their_results(
    write_grid: Write, tmp_path: Path, start: Start
) -> None:
    grid, output = write_grid(models=GRID["models"][:1], grid={}), tmp_path / "out"
    first = start(grid, output, *HERE)
    (folder,) = until(lambda: running(output))
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = start(grid, output, *HERE)
    assert second.stdout is not None
    assert any("not submitted again" in line for line in second.stdout)
    go(output)
    status, text = ended(second)
    assert status == 0, text
    assert len(list(folder.glob("*/results_*.json"))) == 1
    assert len(list((output / "jobs").glob("*_submitted.pkl"))) == 1


def test_stopped_it_ends_jobs_on_this_machine(write_grid: Write, tmp_path: Path, start: Start) -> None:
    output = tmp_path / "out"
    process = start(write_grid(), output, *HERE)
    (folder,) = until(lambda: running(output))
    child = int((folder / "started").read_text())
    process.send_signal(signal.SIGTERM)
    status, text = ended(process)
    assert status == 128 + signal.SIGTERM
    assert "No job of this sweep is running" in text
    assert not running(output)
    until(lambda: not Path(f"/proc/{child}").exists())


def test_one_array_of_slurm(write_grid: Write, tmp_path: Path, start: Start, cluster: dict[str, str]) -> None:
    grid, output = write_grid(models=with_behaviours(a="refuse")), tmp_path / "out"
    options = ("--launcher", "slurm", "--slurm", "slurm_partition=gpu", "gpus_per_node=2", "timeout_min=90", "--jobs", "3")
    first = start(grid, output, *options, **cluster)
    until(lambda: len(running(output)) == 4)
    # Stopped here: the jobs of a cluster go on.
    first.send_signal(signal.SIGINT)
    status, text = ended(first)
    assert status == 130
    assert "4 jobs go on (scancel 12_0 12_1 12_2 12_3 ends them)" in text
    assert len(running(output)) == 4
    second = start(grid, output, *options, **cluster)
    assert second.stdout is not None
    adopted = (line for line in second.stdout if "not submitted again" in line)
    assert len([next(adopted) for _ in range(4)]) == 4
    go(output)
    status, text = ended(second)
    assert status == 1
    assert sorted(states(output).values()) == ["done", "done", "failed", "failed"], text
    asked = (Path(cluster["FAKE_SLURM"]) / "submitted.sh").read_text(encoding="utf-8")
    for line in ("--array=0-3%3", "--partition=gpu", "--gpus-per-node=2", "--time=90"):
        assert f"#SBATCH {line}" in asked
    assert len((Path(cluster["FAKE_SLURM"]) / "calls").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["timeout_min"], "expected KEY=VALUE"),
        (["cluster=local", "partition=gpu"], "Use 'slurm_partition' instead"),
        (["cluster=local", "color=red"], "prefixed by an executor name"),
        (["cluster=local", "slurm_partitoin=gpu"], "Unknown argument 'partitoin'"),
        (["cluster=local", "timeout_min=long"], 'Parameter "timeout_min" expected type'),
        (["cluster=cloud"], "expected slurm, or local"),
        ([], "found no sbatch on PATH"),
    ],
)
def test_refusals_of_parameters(words: list[str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError) as caught:
        Submitter.parse(words)
    assert told in str(caught.value)


def test_without_submitit_it_says_what_to_install(
    write_grid: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "submitit", None)
    monkeypatch.setattr(command, "check_cells", lambda grid, cells: [])
    assert main(["sweep", str(write_grid()), "--output", str(tmp_path / "out"), *HERE]) == 2
    assert "pip install 'lm_eval_ensemble[sweep]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
