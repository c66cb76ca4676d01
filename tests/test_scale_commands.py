"""The commands of docs/scale.md run as they stand, on CPU: only what they are run on is made small."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TINY = "preset=tiny,pretrained=tiny"
DOCUMENTS = 3


def commands() -> list[str]:
    """The whole lines of the page's shell blocks that start a run of the harness."""
    blocks = re.findall(
        r"^```sh\n(.*?)^```", (ROOT / "docs" / "scale.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return [line for block in blocks for line in block.splitlines() if re.search(r"lm_eval --model .* --log_samples$", line)]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def smaller(command: str) -> tuple[str, int, int]:
    """The command with the tiny pair, three gaps and two processes; how many times it is started, and its processes in all.

    Everything else stays as the page has it, and each of these must be there to be replaced.
    """
    changes = {"--tasks humaneval_infill ": f"--tasks infill_toy --limit {DOCUMENTS} "}
    machines, processes = 1, 2
    if "--nnodes 2 " in command:
        machines = 2
        changes |= {"--nproc-per-node 8 ": "--nproc-per-node 1 ", "HOST:29500 ": f"127.0.0.1:{free_port()} "}
    elif command.startswith("accelerate launch "):
        changes |= {"--num_processes 8 ": f"--num_processes 2 --main_process_port {free_port()} "}
    elif command.startswith("python "):
        changes |= {"--nproc-per-node 8 ": "--nproc-per-node 2 "}
    else:
        processes = 1
    if "ensemble-ppl" in command:
        changes |= {"--model ensemble-ppl ": f"--model ensemble-ppl --model_args {TINY} "}
    else:
        changes |= {"pretrained=Qwen/Qwen2.5-Coder-32B,": f"{TINY},"}
    for old, new in changes.items():
        assert command.count(old) == 1, f"{old!r} in {command}"
        command = command.replace(old, new)
    return command, machines, processes


def test_the_page_has_the_four_ways() -> None:
    starts = [command.split(" --")[0] for command in commands()]
    assert starts == ["python -m torch.distributed.run", "accelerate launch", "python -m torch.distributed.run", "lm_eval"]


@pytest.mark.parametrize("command", commands(), ids=["torch", "accelerate", "machines", "spread"])
def test_a_command_runs_with_the_processes_it_says(command: str, tmp_path: Path) -> None:
    typed, machines, processes = smaller(command)
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": search}
    environment |= {"LM_EVAL_ENSEMBLE_STORE": str(tmp_path / "store.sqlite")}
    started = [
        subprocess.Popen(["sh", "-ec", typed], cwd=tmp_path, env=environment, stdout=-1, stderr=-1, text=True)
        for _ in range(machines)
    ]
    ended = [process.communicate() for process in started]
    for process, (_, told) in zip(started, ended, strict=True):
        assert process.returncode == 0, told[-3000:]
    # One table, one results file, every document once: whoever writes, it is one process.
    assert sum(table.count("|infill_toy|") for table, _ in ended) == 1
    (results,), (samples,) = tmp_path.rglob("results_*.json"), tmp_path.rglob("samples_*.jsonl")
    assert json.loads(results.read_text())["config"]["processes"] == processes
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert sorted(row["doc_id"] for row in rows) == list(range(DOCUMENTS))
    assert all(row["selection"]["candidates"][0]["verdict"] for row in rows)
