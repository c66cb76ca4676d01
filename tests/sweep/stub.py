"""A sweep whose cells do not load models: each child writes the results of a saved run when it is allowed to.

``python -m tests.sweep.stub sweep GRID ...`` is the real command in all but the child and the check of configurations. What
a child does is said by ``behaviour`` in its ``metadata``: ``ok``, ``refuse``, ``crash``, ``half`` (results without samples),
``oom``, ``once`` (crashes at its first attempt). It waits for the file ``go`` in the sweep's folder.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lm_eval_ensemble.sweep.attempt import How
from lm_eval_ensemble.sweep.locks import hold_as_worker

ROOT = Path(__file__).resolve().parent.parent.parent
SAVED = ROOT / "tests" / "fixtures" / "runs" / "dllm" / "tiny-dllm"

GRID: dict[str, Any] = {
    "defaults": {"model": "diffusion-infill", "confirm_run_unsafe_code": True, "metadata": {"behaviour": "ok"}},
    "tasks": ["infill_toy"],
    "models": [{"name": name, "model_args": {"preset": "tiny", "pretrained": name}} for name in ("a", "b")],
    "grid": {"model_args.steps": [4, 8]},
}


@dataclass(frozen=True)
class StubHow(How):
    def command(self, config: Path) -> list[str]:
        return [sys.executable, str(ROOT / "tests" / "sweep" / "stub.py"), "child", str(config)]


def write_results(folder: Path, config: dict[str, Any], samples: bool = True, date: str = "2026-11-21T08-50-03.420812") -> Path:
    """A saved run as if made with ``config``."""
    source = next(SAVED.glob("results_*.json"))
    content = json.loads(source.read_text(encoding="utf-8"))
    content["config"] |= {"model": config["model"], "model_args": config["model_args"], "limit": config.get("limit")}
    content["model_name"] = config["model_args"]["pretrained"]
    place = folder / str(content["model_name"])
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"results_{date}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    if samples:
        lines = next(SAVED.glob("samples_*.jsonl")).read_text(encoding="utf-8")
        (place / f"samples_infill_toy_{date}.jsonl").write_text(lines, encoding="utf-8")
    return path


def child(path: Path) -> None:
    config, folder = yaml.safe_load(path.read_text(encoding="utf-8")), path.parent
    held = hold_as_worker(folder)
    behaviour = config["metadata"]["behaviour"]
    (folder / "started").write_text(f"{os.getpid()}\n")
    while not (folder.parent / "go").exists():
        time.sleep(0.02)
    if behaviour == "refuse":
        print("lm_eval_ensemble: ConfigError: $.steps: got 0, expected >= 1", file=sys.stderr)
        raise SystemExit(2)
    if behaviour == "crash" or (behaviour == "once" and not (folder / "tried").exists()):
        (folder / "tried").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "oom":
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
    write_results(folder, config, samples=behaviour != "half", date=time.strftime("%Y-%m-%dT%H-%M-%S") + f".{time.time_ns()}")
    os.close(held)


if __name__ == "__main__":
    if sys.argv[1] == "child":
        child(Path(sys.argv[2]))
        raise SystemExit
    from lm_eval_ensemble import cli
    from lm_eval_ensemble.sweep import attempt, command
    from tests.sweep import stub

    # setattr: a module's names are not for assigning, says mypy, and so should everybody but a stub
    setattr(command, "How", stub.StubHow)  # noqa: B010
    setattr(command, "check_cells", lambda grid, cells: [])  # noqa: B010
    assert attempt.How is How
    # A test may run in the background, where Ctrl-C is ignored and stays so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise SystemExit(cli.main(sys.argv[1:]))
