"""Many jobs, a few workers: results in order, lost workers replaced, timeouts confirmed, nothing left behind."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import shlex
import shutil
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lm_eval_ensemble.errors import ConfigError, SandboxError, did_you_mean
from lm_eval_ensemble.execution.clock import HARD_WALL
from lm_eval_ensemble.execution.handle import Worker, WorkerHungError, WorkerLostError
from lm_eval_ensemble.execution.jobs import LOST, Job, Verdict

__all__ = ["SANDBOXES", "Judge", "judge", "usable_workers"]

SANDBOXES = ("auto", "strict", "off")
_STRICT = ("landlock", "seccomp")
_MARGIN = 5.0  # seconds beyond the worker's own hard wall before it is taken for hung
_LONGEST = 3600.0  # seconds
FOLDER_PREFIX = "lm-eval-ensemble-judge-"


def judge(
    jobs: Iterable[Job],
    *,
    workers: int | None = None,
    timeout: float = 3.0,
    sandbox: str = "auto",
    sandbox_command: str | Sequence[str] | None = None,
    progress: bool = True,
) -> list[Verdict]:
    """Judge programs, each in its own process, and give the verdicts in the order of the jobs.

    :param workers: processes to use; default: the usable processors, shared among the ranks of this machine.
    :param timeout: seconds a job may take, program and tests together, measured fairly (see ``clock``).
    :param sandbox: ``auto`` uses every layer that works here, ``strict`` refuses to run without Landlock and
        seccomp, ``off`` sets resource limits only. The verdict is safe with each.
    :param sandbox_command: a command that each worker is started under, e.g. ``docker run -i --network none
        python:3.11 python``.
    :raises SandboxError: the judge cannot run here, or a promised layer is missing.
    """
    with Judge(workers, timeout, sandbox, sandbox_command, progress=progress) as pool:
        return pool.run(jobs)


def usable_workers() -> int:
    """The processors this process may use, divided by the ranks that share the machine; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ranks = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE") or "1"
    return max(1, cores // max(1, int(ranks) if ranks.isdecimal() else 1))


class Judge:
    """Workers that stay for many calls of ``run``, and remember their verdicts. A context manager.

    ``layers`` are the layers of the sandbox that a probe found to hold, ``description`` says them in one line,
    ``lost`` counts the jobs whose worker was lost twice.
    """

    def __init__(
        self,
        workers: int | None = None,
        timeout: float = 3.0,
        sandbox: str = "auto",
        sandbox_command: str | Sequence[str] | None = None,
        *,
        progress: bool = True,
    ) -> None:
        _refuse_windows()
        if sandbox not in SANDBOXES:
            raise ConfigError(f"sandbox: unknown value {sandbox!r}.{did_you_mean(str(sandbox), SANDBOXES)}")
        if not 0 < timeout <= _LONGEST or (workers is not None and workers < 1):
            raise ConfigError(
                f"judge: timeout is {timeout}, workers {workers}; expected 0 < timeout <= {_LONGEST:g} and workers >= 1."
            )
        self.workers = workers or usable_workers()
        self.timeout = timeout
        self.lost = 0
        self._progress = progress
        self._command = _words(sandbox_command)
        self._verdicts: dict[str, Verdict] = {}
        self._turn = threading.Lock()
        folder = tempfile.mkdtemp(prefix=FOLDER_PREFIX)
        self._settings: dict[str, Any] = {"sandbox": sandbox, "timeout": timeout, "folder": folder}
        self._staff = _Staff(folder)
        self._clean_up = weakref.finalize(self, self._staff.dismiss)  # also runs when the interpreter exits
        try:
            first = _Slot(self)
            self.layers, self._missing = _check_layers(first.start().hello, sandbox)
        except BaseException:
            self.close()
            raise
        self._slots = [first]

    @property
    def description(self) -> str:
        """One line for logs and results."""
        line = "sandbox: " + ", ".join(("split judge", *self.layers))
        if self._command:
            line += f", under {Path(self._command[0]).name}"
        if self._missing:
            line += "; without " + ", ".join(f"{name} ({reason})" for name, reason in self._missing.items())
        return line

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(kill=kind is not None)

    def close(self, *, kill: bool = False) -> None:
        """End the workers (at once if ``kill``) and remove their folder. May be called twice."""
        self._staff.kill = kill
        self._clean_up()

    def run(self, jobs: Iterable[Job]) -> list[Verdict]:
        """The verdicts in the order of the jobs. Equal jobs are judged once, also across calls."""
        if not self._clean_up.alive:
            raise SandboxError("The judge is closed; make a new one.")
        total = len(jobs) if isinstance(jobs, Sized) else None
        try:
            with (
                self._turn,
                tqdm(total=total, desc="judging", unit="sample", disable=None if self._progress else True) as bar,
            ):
                return _Round(self, bar).run(jobs)
        except BaseException:
            self.close(kill=True)
            raise

    def _slot(self, index: int) -> _Slot:
        while len(self._slots) <= index:
            self._slots.append(_Slot(self))
        return self._slots[index]

    def _key(self, job: Job) -> str:
        # Timeout and sandbox are the pool's and cannot change; so is this memory.
        return hashlib.sha256(json.dumps(job.message()).encode("ascii")).hexdigest()


class _Round:
    """One call of ``Judge.run``: a bounded queue, a thread per worker, then the timeouts one by one."""

    def __init__(self, pool: Judge, bar: tqdm[Any]) -> None:
        self._pool, self._bar = pool, bar
        self._waiting: queue.Queue[tuple[str, Job] | None] = queue.Queue(maxsize=2 * pool.workers)
        self._threads: list[threading.Thread] = []
        self._timeouts: list[tuple[str, Job]] = []
        self._failure: BaseException | None = None
        self._lock = threading.Lock()

    def run(self, jobs: Iterable[Job]) -> list[Verdict]:
        try:
            keys = self._feed(jobs)
        except BaseException as error:
            self._failure = error
            self._pool.close(kill=True)
            self._finish()
            raise
        self._finish()
        self._confirm_timeouts()
        return [self._pool._verdicts[key] for key in keys]

    def _feed(self, jobs: Iterable[Job]) -> list[str]:
        """Put what is new on the queue; the keys of all jobs."""
        keys = []
        seen = set(self._pool._verdicts)
        for job in jobs:
            keys.append(key := self._pool._key(job))
            if key in seen:
                self._count(1)
                continue
            seen.add(key)
            self._hire()
            self._waiting.put((key, job))
            if self._failure:
                break
        return keys

    def _hire(self) -> None:
        if len(self._threads) < self._pool.workers:
            slot = self._pool._slot(len(self._threads))
            self._threads.append(threading.Thread(target=self._work, args=(slot,), daemon=True))
            self._threads[-1].start()

    def _work(self, slot: _Slot) -> None:
        """A thread: drives one worker until the queue says stop. After a failure it only empties the queue."""
        while (item := self._waiting.get()) is not None:
            if self._failure:
                continue
            try:
                self._record(*item, slot.run(item[1]))
            except BaseException as error:
                # The first failure is the one to tell: closing the pool makes the other workers fail too.
                self._failure = self._failure or error

    def _record(self, key: str, job: Job, verdict: Verdict) -> None:
        with self._lock:
            self._pool._verdicts[key] = verdict
            if verdict.status == "timeout":
                self._timeouts.append((key, job))
            self._bar.update(1)

    def _count(self, jobs: int) -> None:
        with self._lock:
            self._bar.update(jobs)

    def _finish(self) -> None:
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        if self._failure:
            raise self._failure

    def _confirm_timeouts(self) -> None:
        """A busy machine is no reason to fail: each timeout gets a second run with nothing beside it."""
        for index, (key, job) in enumerate(self._timeouts):
            self._bar.set_postfix_str(f"confirming timeout {index + 1}/{len(self._timeouts)}")
            verdict = self._pool._slot(0).run(job)
            if verdict.status == "timeout":
                verdict = Verdict("timeout", f"{verdict.why}, confirmed alone")
            self._pool._verdicts[key] = verdict


class _Slot:
    """The place of one worker: whoever sits in it is replaced when lost."""

    def __init__(self, pool: Judge) -> None:
        # Not the pool itself: that would keep it alive, and its clean-up waiting.
        self._command, self._settings, self._staff = pool._command, pool._settings, pool._staff
        self._pool = weakref.proxy(pool)
        self._wall = HARD_WALL * pool.timeout + _MARGIN
        self._worker: Worker | None = None

    def start(self) -> Worker:
        """The worker, started if there is none. A machine in trouble gets three attempts."""
        complaint = ""
        for _ in range(3):
            if self._worker is not None:
                return self._worker
            worker = self._staff.hire(self._command)
            try:
                worker.greet(self._settings)
            except WorkerLostError as error:
                self._staff.leave(worker)
                complaint = str(error)
                continue
            self._worker = worker
        if self._worker is not None:
            return self._worker
        raise SandboxError(
            f"The judge's worker ended while starting, three times. It said:\n  {complaint or '(nothing)'}\n"
            "Check sandbox_command, and that a folder for temporary files can be written."
        )

    def run(self, job: Job) -> Verdict:
        """Judge one job; once more if the worker was lost under it."""
        for _ in range(2):
            worker = self._checked()
            try:
                reply = worker.run(job.message(), self._wall)
            except WorkerHungError:
                self._replace(worker)
                return Verdict("timeout", f"no answer after {self._wall:g} s")
            except WorkerLostError:
                hung = worker.ended_by_its_alarm()
                self._replace(worker)
                if hung:
                    return Verdict("timeout", "the tests did not come back from the program's values")
                continue
            if reply.get("status") in ("pass", "fail", "timeout"):
                return Verdict(reply["status"], str(reply.get("why", "")))
        self._pool.lost += 1
        return Verdict("fail", LOST)

    def _checked(self) -> Worker:
        """The worker; a replacement must hold at least the layers that were promised."""
        if self._worker is not None and not self._worker.is_alive:  # it died idle: no attempt of a job is lost
            self._replace(self._worker)
        is_new = self._worker is None
        worker = self.start()
        if is_new:
            layers, _ = _check_layers(worker.hello, self._settings["sandbox"])
            lacking = set(self._pool.layers) - set(layers)
            if lacking:
                raise SandboxError(f"A new worker lacks {', '.join(sorted(lacking))}, which the first one had.")
        return worker

    def _replace(self, worker: Worker) -> None:
        self._staff.leave(worker)
        self._worker = None


class _Staff:
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


def _check_layers(hello: Mapping[str, Any], sandbox: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """The layers that hold and, with reasons, those that do not. Refuses what ``sandbox`` does not put up with."""
    missing = dict(hello["missing"])
    for layer, act in hello["broken"]:
        if not layer:
            raise SandboxError(f"The judge cannot run here: a guest under its sandbox {act}; try sandbox=off.")
        missing[layer] = f"accepted by the kernel, but a guest {act}"
    layers = tuple(layer for layer in hello["layers"] if layer.partition("(")[0] not in missing)
    if sandbox == "strict":
        for name in _STRICT:
            if name in missing:
                raise SandboxError(
                    f"sandbox=strict: {name} is missing ({missing[name]}). Use a kernel that has it (5.13 or newer), "
                    "or sandbox=auto inside a container or virtual machine that you trust to hold."
                )
    return layers, missing


def _words(command: str | Sequence[str] | None) -> list[str]:
    if not isinstance(command, str):
        return [*(command or ())]
    try:
        return shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"sandbox_command={command!r}: {error}; expected a command line.") from None


def _refuse_windows() -> None:
    if sys.platform == "win32":
        raise SandboxError(
            "The judge does not run on Windows: it needs fork, Unix sockets and resource limits. Use WSL 2, or "
            "generate with --predict_only and judge the file elsewhere with `lm-eval-ensemble judge`."
        )
