"""One cell, tried until it is finished, has failed for good, or the sweep is told to stop."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lm_eval_ensemble.sweep.failures import HEADER, diagnose
from lm_eval_ensemble.sweep.files import read_json, write_json
from lm_eval_ensemble.sweep.locks import sign
from lm_eval_ensemble.sweep.machine import gpu_memory
from lm_eval_ensemble.sweep.results import finished, set_aside

__all__ = ["SCHEMA", "Children", "How", "run_cell"]

SCHEMA = 1
_POLL = 0.1
_PATIENCE = 20.0  # seconds a child has to end by itself
_MIB = 2**20


@dataclass(frozen=True)
class How:
    """How cells are run. ``backoff``: seconds before the second attempt, doubled for each further one; ``gpus``: the value of
    ``CUDA_VISIBLE_DEVICES``, None to leave it; ``nodes``: (number, own rank, address of the first) of a run over several."""

    retries: int = 2
    backoff: float = 10.0
    processes: int = 1
    gpus: str | None = None
    nodes: tuple[int, int, str] | None = None

    def command(self, config: Path) -> list[str]:
        """What is started for a configuration."""
        module = ["-m", "lm_eval_ensemble.sweep.child", str(config)]
        if self.nodes is None and self.processes == 1:
            return [sys.executable, *module]
        launch = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={self.processes}"]
        if self.nodes is None:
            return [*launch, "--standalone", *module]
        count, rank, first = self.nodes
        # One free port for all nodes, agreed on without talking: by the job's number.
        port = 20000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20000
        return [*launch, f"--nnodes={count}", f"--node-rank={rank}", f"--master-addr={first}", f"--master-port={port}", *module]


class Children:
    """The processes that were started, so that a signal can end them all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self.stop = threading.Event()

    def run(self, command: Sequence[str], log: Path, fd: int | None, gpus: str | None) -> tuple[int, float] | None:
        """Exit status (negative: a signal) and peak memory in MiB of the largest process that was waited for; None if the
        sweep was told to stop before it was started."""
        environment = {"TQDM_MININTERVAL": "10", **os.environ, **({} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus})}
        with log.open("ab") as output, self._lock:
            if self.stop.is_set():
                return None
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                # A group of its own: Ctrl-C reaches the sweep alone, which ends its children in order.
                start_new_session=True,
                pass_fds=() if fd is None else (fd,),
            )
            self._running.add(process.pid)
            if fd is not None:
                sign(fd, process.pid)  # it outlives a sweep that is killed
        while True:
            with self._lock:
                # Reaped under the lock: no signal can go to a number that is somebody else's by then.
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    self._running.discard(pid)
                    break
            time.sleep(_POLL)
        process.returncode = os.waitstatus_to_exitcode(status)
        # What the child left behind (workers of a judge) must not hold the cell.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        unit = 1 if sys.platform == "darwin" else 1024
        return process.returncode, round(usage.ru_maxrss * unit / _MIB, 1)

    def end(self) -> None:
        """Ask all to end; after a while, end them."""
        self.stop.set()
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE
        while self._running and time.monotonic() < deadline:
            time.sleep(_POLL)
        self.kill()

    def kill(self) -> None:
        """End all at once."""
        self.stop.set()
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with self._lock:
            for pid in self._running:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, number)


def run_cell(folder: Path, facts: dict[str, Any], how: How, children: Children, fd: int | None) -> dict[str, Any]:
    """Run the configuration in ``folder`` and return its record, which is also written to ``cell.json`` there.

    :param facts: what the record says of the cell itself.
    :param fd: the cell's lock, for the child to inherit.
    """
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    record = {"schema_version": SCHEMA, **facts, "attempts": read_json(folder / "cell.json").get("attempts", 0)}

    def note(**changes: Any) -> dict[str, Any]:
        record.update(changes)
        write_json(folder / "cell.json", record)
        return record

    for attempt in range(how.retries + 1):
        if attempt and children.stop.wait(how.backoff * 2 ** (attempt - 1)):
            return note(state="interrupted")
        set_aside(folder, config)
        before, start = gpu_memory(), time.monotonic()
        note(state="running", attempts=int(record["attempts"]) + 1, started=time.strftime("%Y-%m-%dT%H:%M:%S"), error=None)
        command = how.command(folder / "config.yaml")
        with (folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"{HEADER}{record['attempts']}, {record['started']}: {' '.join(command)}\n")
        ended = children.run(command, folder / "log.txt", fd, how.gpus)
        if ended is None:
            return note(state="interrupted", attempts=int(record["attempts"]) - 1)
        status, peak = ended
        after = gpu_memory()
        used = {index: [before.get(index), after.get(index)] for index in after}
        note(
            exit_status=status,
            seconds=round(time.monotonic() - start, 1),
            peak_memory_mib=peak,
            gpu_memory_mib=used or None,
        )
        if status == 0 and (found := finished(folder, config)):
            own = (read_json(found).get("config") or {}).get("peak_memory_mib")
            return note(state="done", results=str(found.relative_to(folder)), member_memory_mib=own or None)
        if children.stop.is_set():
            return note(state="interrupted")
        failure = diagnose(status, folder / "log.txt")
        note(state="failed", error=failure.line, error_lines=list(failure.lines))
        if not failure.passing:
            break
    return record
