"""Who works for a pool: places for workers, the workers that live, and what is asked of a new one."""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from lm_eval_ensemble.errors import SandboxError
from lm_eval_ensemble.execution.clock import HARD_WALL
from lm_eval_ensemble.execution.handle import Worker, WorkerLostError
from lm_eval_ensemble.execution.jobs import LOST, Mode, Verdict
from lm_eval_ensemble.execution.processes import remove_groups

__all__ = ["FOLDER_PREFIX", "Slot", "Staff", "check_layers", "own_folder"]

FOLDER_PREFIX = "lm-eval-ensemble-judge-"
_STRICT = ("landlock", "seccomp")
_MARGIN = 5.0  # seconds beyond the worker's own hard wall before it is taken for hung
_STARTS = 20  # of a worker in one place, those that were killed from outside included


class Pool(Protocol):
    """What a place for a worker knows of its pool."""

    layers: tuple[str, ...]
    timeout: float
    command: list[str]
    settings: dict[str, Any]
    staff: Staff


class Slot:
    """The place of one worker: whoever sits in it is replaced when lost."""

    def __init__(self, pool: Pool, number: int) -> None:
        # Not the pool itself: that would keep it alive, and its clean-up waiting.
        self._command, self._settings, self._staff = pool.command, pool.settings | {"number": number}, pool.staff
        self._pool = weakref.proxy(pool)
        self._wall = HARD_WALL * pool.timeout + _MARGIN
        self._worker: Worker | None = None

    def start(self) -> Worker:
        """The worker, started if there is none. A machine in trouble gets three attempts; those that somebody killed
        do not count (up to a point)."""
        complaint, failures = "", 0
        for _ in range(_STARTS):
            if self._worker is not None:
                return self._worker
            worker = self._staff.hire(self._command)
            try:
                worker.greet(self._settings)
            except WorkerLostError as error:
                self._staff.leave(worker)
                failures += not worker.was_killed
                complaint = str(error) or complaint
                if failures == 3:
                    break
                continue
            self._worker = worker
        if self._worker is not None:
            return self._worker
        raise SandboxError(
            f"The judge's worker ended while starting, again and again. It said:\n  {complaint or '(nothing)'}\n"
            "Check sandbox_command, that a folder for temporary files can be written (TMPDIR: neither full nor out of "
            "inodes), and that processes may be started (ulimit -u)."
        )

    def run(self, job: bytes, mode: Mode) -> Verdict:
        """Judge one job. ``why`` is LOST if that could not be done: its worker, or a process of it, was killed."""
        worker = self._checked()
        try:
            reply = worker.run(job, self._wall)
        except WorkerLostError:
            self._replace(worker)
            return Verdict("fail", LOST, mode)
        if reply.get("status") in ("pass", "fail", "timeout"):
            return Verdict(reply["status"], str(reply.get("why", "")), mode)
        why = str(reply.get("why", ""))
        return Verdict("fail", f"{LOST}: {why}" if why else LOST, mode)

    def _checked(self) -> Worker:
        """The worker; a replacement must hold at least the layers that were promised."""
        if self._worker is not None and not self._worker.is_alive:  # it died idle: no attempt of a job is lost
            self._replace(self._worker)
        is_new = self._worker is None
        worker = self.start()
        if is_new:
            layers, _ = check_layers(worker.hello, self._settings["sandbox"])
            lacking = set(self._pool.layers) - set(layers)
            if lacking:
                raise SandboxError(f"A new worker lacks {', '.join(sorted(lacking))}, which the first one had.")
        return worker

    def _replace(self, worker: Worker) -> None:
        self._staff.leave(worker)
        self._worker = None


class Staff:
    """Every living worker and the folder they share; outlives the pool just long enough to clean up."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._workers: list[Worker] = []
        self._lock = threading.Lock()
        self._closed = False
        self.kill = False

    def hire(self, command: Sequence[str]) -> Worker:
        """Start a worker; under the lock, so that none starts unseen while ``dismiss`` runs."""
        with self._lock:
            if self._closed:
                raise SandboxError("The judge is closed; make a new one.")
            self._workers.append(worker := Worker(command, self._folder))
            return worker

    def leave(self, worker: Worker) -> None:
        with self._lock:
            if worker in self._workers:
                self._workers.remove(worker)
        worker.forget()

    def dismiss(self) -> None:
        with self._lock:
            self._closed, workers, self._workers = True, self._workers, []
        for worker in workers:
            if not self.kill:
                worker.close()
            worker.forget()
        shutil.rmtree(self._folder, ignore_errors=True)
        remove_groups(self._folder)  # of workers that were killed


def check_layers(hello: Mapping[str, Any], sandbox: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """The layers that hold and, with reasons, those that do not. Refuses what ``sandbox`` does not put up with."""
    missing = dict(hello["missing"])
    for layer, act in hello["broken"]:
        if not layer:
            raise SandboxError(f"The judge cannot run here: a guest under its sandbox {act}.{_REMEDIES.get(act, '')}")
        missing[layer] = f"accepted by the kernel, but a guest {act}"
    if hello["root"] and "capabilities" in missing:
        raise SandboxError(
            f"The judge does not run as root here: a program would keep root's powers ({missing['capabilities']}). Run as "
            "another user."
        )
    layers = tuple(layer for layer in hello["layers"] if layer.partition("(")[0] not in missing)
    if sandbox == "strict":
        for name in _STRICT:
            if name in missing:
                raise SandboxError(
                    f"sandbox=strict: {name} is missing ({missing[name]}). Use a kernel that has it (5.13 or newer), "
                    "or sandbox=auto inside a container or virtual machine that you trust to hold."
                )
    return layers, missing


_REMEDIES = {
    "could not import a module of the standard library": " Is the interpreter installed where only you may read? If so, try "
    "sandbox=off, or an interpreter elsewhere.",
}


def own_folder() -> str:
    try:
        return tempfile.mkdtemp(prefix=FOLDER_PREFIX)
    except OSError as error:
        raise SandboxError(
            f"The judge needs a folder for temporary files and cannot make one: {error.strerror or error}. Set TMPDIR to a "
            "folder with some space (and inodes) left."
        ) from None
