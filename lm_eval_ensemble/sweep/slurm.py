"""Cells as jobs of a cluster, by submitit: one job per cell, one array for all. Jobs outlive the sweep; a second call finds
them, or their results."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.sweep.attempt import SCHEMA, Children, How, run_cell
from lm_eval_ensemble.sweep.board import Board, facts_of
from lm_eval_ensemble.sweep.cells import Cell
from lm_eval_ensemble.sweep.files import read_json, write_json
from lm_eval_ensemble.sweep.locks import CellLock, is_taken
from lm_eval_ensemble.sweep.results import finished

__all__ = ["CellJob", "Submitter"]

_POLL = 1.0
_GRACE = 30.0  # seconds a job's files may take to show on another machine's disk


class CellJob:
    """What a job does: run one cell. Called once per node."""

    def __init__(self, folder: str, facts: dict[str, Any], how: How) -> None:
        self.folder, self.facts, self.how = folder, facts, how

    def __call__(self) -> str:
        folder, how, children = Path(self.folder), self.how, Children()
        nodes, rank, first = _nodes()
        if nodes > 1:
            how = How(how.retries, how.backoff, how.processes, how.gpus, (nodes, rank, first))
            if rank:  # the first node holds the cell and writes its record
                ended = children.run(how.command(folder / "config.yaml"), folder / f"log.{rank}.txt", None, how.gpus)
                return "done" if ended and ended[0] == 0 else "failed"
        lock = CellLock(folder)
        if not lock.take():
            return "running"  # another sweep, or the last attempt of this job on a node that has not ended yet
        try:
            config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
            if finished(folder, config):
                return "done"
            facts = {**self.facts, "job": read_json(folder / "cell.json").get("job")}
            return str(run_cell(folder, facts, how, children, lock.fd)["state"])
        finally:
            children.kill()
            lock.release()

    def checkpoint(self) -> Any:
        """After a time limit or preemption the cluster starts the job again; ensembles go on from their store."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _nodes() -> tuple[int, int, str]:
    """How many nodes run this job, which one this is, and the name of the first."""
    from submitit import JobEnvironment

    environment = JobEnvironment()
    if environment.num_nodes == 1:
        return 1, 0, "localhost"
    return environment.num_nodes, environment.node, environment.hostnames[0]


class Submitter:
    """Submits cells and waits for them.

    :param cluster: ``slurm``, or ``local``: processes of this machine that go the same way.
    :param parameters: as submitit names them.
    """

    def __init__(self, cluster: str, parameters: dict[str, Any]) -> None:
        self.cluster, self.parameters = cluster, parameters
        self._jobs: dict[str, tuple[Cell, Any, float]] = {}

    @classmethod
    def parse(cls, pairs: Sequence[str]) -> Submitter:
        """From ``KEY=VALUE`` words; values are YAML.

        :raises ConfigError: submitit or sbatch is not there, or a parameter is none.
        """
        try:
            import submitit  # noqa: F401
        except ImportError:
            raise ConfigError("--launcher slurm: needs submitit: pip install 'lm_eval_ensemble[sweep]'") from None
        found: dict[str, Any] = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals or not key:
                raise ConfigError(f"--slurm {pair}: expected KEY=VALUE, such as timeout_min=240 or slurm_partition=gpu.")
            try:
                found[key] = yaml.safe_load(value)
            except yaml.YAMLError:
                found[key] = value
        cluster = str(found.pop("cluster", "slurm"))
        if cluster not in ("slurm", "local"):
            raise ConfigError(f"--slurm cluster={cluster}: expected slurm, or local to run the jobs on this machine.")
        if cluster == "slurm" and shutil.which("sbatch") is None:
            raise ConfigError(
                "--launcher slurm: found no sbatch on PATH. Run it on a login node of the cluster, try the same path on this "
                "machine with --slurm cluster=local, or leave --launcher out."
            )
        submitter = cls(cluster, {"timeout_min": 24 * 60, **found})
        with tempfile.TemporaryDirectory() as folder:  # names and types of the parameters, before anything is submitted
            submitter._executor(Path(folder), 1)
        return submitter

    def run(self, board: Board, how: How, jobs: int, children: Children) -> None:
        """Submit the chosen cells that are neither done nor on their way, and wait for all. When told to stop, jobs of a
        cluster are left running, and those on this machine are ended."""
        waiting = [cell for cell in board.chosen if board.states[cell.digest] != "done"]
        waiting = [cell for cell in waiting if not self._adopted(cell, board)]
        if self.cluster == "slurm":
            self._submit(waiting, board, how, jobs)
            waiting = []
        while (waiting or self._jobs) and not children.stop.is_set():
            while waiting and len(self._jobs) < jobs:
                self._submit([waiting.pop(0)], board, how, jobs)
            for digest, (cell, job, since) in list(self._jobs.items()):
                if self._has_ended(cell, job, since, board):
                    del self._jobs[digest]
                    self._collect(cell, job, board)
            children.stop.wait(_POLL)
        if self.cluster == "local":
            self._cancel(board)

    def _cancel(self, board: Board) -> None:
        for _, job, _ in self._jobs.values():
            if job is not None:
                job.cancel()
        for cell, _, _ in self._jobs.values():
            for _ in range(100):
                if not is_taken(cell.folder(board.output)):
                    break
                time.sleep(0.1)
            board.states[cell.digest] = "interrupted"
        self._jobs.clear()

    def left_running(self) -> str:
        """What goes on after the sweep, for people."""
        names = [str(job.job_id) for _, job, _ in self._jobs.values() if job is not None]
        if not names:
            return "No job of this sweep is running."
        return f"{len(names)} jobs go on (scancel {' '.join(names)} ends them); their results will be taken."

    def _executor(self, folder: Path, jobs: int) -> Any:
        import submitit

        parameters = dict(self.parameters)
        if self.cluster == "slurm" and jobs > 1:
            parameters.setdefault("slurm_array_parallelism", jobs)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # old names: submitit would warn at every call
                executor = submitit.AutoExecutor(folder=str(folder), cluster=self.cluster)
                executor.update_parameters(**parameters)
        except (NameError, ValueError, TypeError, AssertionError, UserWarning) as error:
            raise ConfigError(f"--slurm: {error}") from None
        return executor

    def _submit(self, cells: Sequence[Cell], board: Board, how: How, jobs: int) -> None:
        if not cells:
            return
        executor = self._executor(board.output / "jobs", jobs)
        for cell in cells:
            cell.write(board.output)
        tasks = [CellJob(str(cell.folder(board.output).resolve()), facts_of(cell, board.grid), how) for cell in cells]
        with executor.batch() if self.cluster == "slurm" else contextlib.nullcontext():  # an array, or processes
            handles = [executor.submit(task) for task in tasks]
        for cell, job in zip(cells, handles, strict=True):
            note = {"id": str(job.job_id), "cluster": self.cluster, "folder": str(job.paths.folder)}
            path = cell.folder(board.output) / "cell.json"
            kept = {"schema_version": SCHEMA, "attempts": 0, "state": "submitted", **read_json(path)}
            if kept["state"] in ("done", "failed", "interrupted"):
                kept["state"] = "submitted"
            write_json(path, {**kept, **facts_of(cell, board.grid), "job": note})
            self._jobs[cell.digest] = (cell, job, time.monotonic())
            board.started(cell)

    def _adopted(self, cell: Cell, board: Board) -> bool:
        """Whether a job of an earlier call is still on its way; it is then waited for."""
        note = cell.record(board.output).get("job") or {}
        folder = cell.folder(board.output)
        taken = folder.is_dir() and is_taken(folder)
        job = None
        if note.get("cluster") == "slurm" and self.cluster == "slurm":
            import submitit

            job = submitit.SlurmJob(folder=note["folder"], job_id=note["id"])
            if not taken and job.done():
                return False
        elif not taken and not (note.get("cluster") == "local" and _alive(note)):
            return False
        where = f"job {note['id']}" if note else "another sweep"
        board.say(f"running {cell.name}  ({where}; it is waited for, not submitted again)")
        self._jobs[cell.digest] = (cell, job, time.monotonic())
        return True

    def _has_ended(self, cell: Cell, job: Any, since: float, board: Board) -> bool:
        folder = cell.folder(board.output)
        if job is not None:
            return bool(job.done()) and not is_taken(folder)
        note = cell.record(board.output).get("job") or {}
        return not is_taken(folder) and not (note.get("cluster") == "local" and _alive(note))

    def _collect(self, cell: Cell, job: Any, board: Board) -> None:
        """A job that has ended: what its record says, unless it never came to write one."""
        folder, config = cell.folder(board.output), cell.resolved(board.output)
        deadline = time.monotonic() + (_GRACE if self.cluster == "slurm" else 0)
        while not finished(folder, config) and cell.record(board.output).get("state") != "failed":
            if time.monotonic() >= deadline:
                break
            time.sleep(_POLL)
        if finished(folder, config):
            board.adopt(cell)
        elif cell.record(board.output).get("state") != "failed":
            path = folder / "cell.json"
            state = getattr(job, "state", "gone")
            line = f"the job ended without results (state {state})"
            told = [line]
            if job is not None and job.paths.stderr.is_file():
                told += job.paths.stderr.read_text(encoding="utf-8", errors="replace").splitlines()[-4:]
            write_json(path, {**read_json(path), "state": "failed", "error": line, "error_lines": told})
        board.ended(cell, cell.record(board.output))


def _alive(note: dict[str, Any]) -> bool:
    """Whether a job on this machine still runs: its number is that of its process, which names submitit."""
    with contextlib.suppress(OSError, ValueError):
        command = Path(f"/proc/{int(note['id'])}/cmdline")
        if command.exists():
            return b"submitit" in command.read_bytes()
        os.kill(int(note["id"]), 0)
        return True
    return False
