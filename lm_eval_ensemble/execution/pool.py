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
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lm_eval_ensemble.errors import ConfigError, SandboxError, did_you_mean
from lm_eval_ensemble.execution.clock import HARD_WALL
from lm_eval_ensemble.execution.handle import Worker, WorkerLostError
from lm_eval_ensemble.execution.jobs import LOST, MODES, Job, Mode, Verdict
from lm_eval_ensemble.types import CANNOT_JUDGE

__all__ = ["JUDGES", "SANDBOXES", "Judge", "judge", "usable_workers"]

SANDBOXES = ("auto", "strict", "off")
#: what tasks and commands offer, and how it is told
_WAYS = {
    "split": "split judge",
    "together": "program and test together (a program can forge its verdict)",
    "auto": "split judge, together where the reference needs that (a program can forge its verdict there)",
}
JUDGES = tuple(_WAYS)
_STRICT = ("landlock", "seccomp")
_MARGIN = 5.0  # seconds beyond the worker's own hard wall before it is taken for hung
_LONGEST = 3600.0  # seconds
_STARTS = 20  # of a worker in one place, those that were killed from outside included
FOLDER_PREFIX = "lm-eval-ensemble-judge-"


def judge(
    jobs: Iterable[Job],
    *,
    workers: int | None = None,
    timeout: float = 3.0,
    sandbox: str = "auto",
    sandbox_command: str | Sequence[str] | None = None,
    mode: Mode = "split",
    progress: bool = True,
) -> list[Verdict]:
    """Judge programs, each in its own process, and give the verdicts in the order of the jobs.

    :param workers: processes to use; default: the usable processors, shared among the ranks of this machine.
    :param timeout: seconds a job may take, program and tests together, measured fairly (see ``clock``).
    :param sandbox: ``auto`` uses every layer that works here, ``strict`` refuses to run without Landlock and
        seccomp, ``off`` only sets resource limits and drops capabilities (see docs/judge.md for what that leaves).
    :param sandbox_command: a command that each worker is started under, e.g. ``docker run -i --network none
        python:3.11 python``.
    :param mode: ``split`` keeps the tests away from the program, whose verdict cannot be forged then; ``together`` runs
        both in one process, as other harnesses do: for tests that need more than plain values, of models one trusts.
    :raises SandboxError: the judge cannot run here, or a promised layer is missing.
    """
    with Judge(workers, timeout, sandbox, sandbox_command, progress=progress) as pool:
        return pool.run(jobs, mode)


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
        folder = _own_folder()
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
        return self.describe("split")

    def describe(self, judge: str) -> str:
        """That line for one of ``JUDGES``."""
        line = "sandbox: " + ", ".join((_WAYS[judge], *self.layers))
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

    def run(self, jobs: Iterable[Job], mode: Mode = "split") -> list[Verdict]:
        """The verdicts in the order of the jobs. Equal jobs are judged once, also across calls."""
        if mode not in MODES:
            raise ConfigError(f"judge: unknown mode {mode!r}.{did_you_mean(str(mode), MODES)}")
        if not self._clean_up.alive:
            raise SandboxError("The judge is closed; make a new one.")
        total = len(jobs) if isinstance(jobs, Sized) else None
        try:
            with (
                self._turn,
                tqdm(total=total, desc="judging", unit="sample", disable=None if self._progress else True) as bar,
            ):
                return _Round(self, mode, bar).run(jobs)
        except BaseException:
            self.close(kill=True)
            raise

    def run_as(self, judge: str, jobs: Sequence[Job], references: Sequence[Job]) -> list[Verdict]:
        """The verdicts of one of ``JUDGES``.

        ``auto`` judges the references first, apart, and together those that fail so. A job is then judged as its reference
        passed; if it never passes the job is ``unjudgeable``, whatever its program does.

        :param references: for ``auto``, the job of the right answer for each job.
        """
        if judge not in JUDGES:
            raise ConfigError(f"judge: unknown value {judge!r}.{did_you_mean(str(judge), JUDGES)}")
        if judge != "auto":
            return self.run(jobs, "together" if judge == "together" else "split")
        found: dict[Job, Verdict] = {}
        for mode in MODES:
            left = [job for job in dict.fromkeys(references) if job not in found or not found[job].passed]
            found |= {job: _second(found.get(job), verdict) for job, verdict in zip(left, self.run(left, mode), strict=True)}
        ways = [found[reference] for reference in references]
        verdicts = [replace(way, status="fail", mode="unjudgeable") for way in ways]
        for mode in MODES:
            chosen = [index for index, way in enumerate(ways) if way.passed and way.mode == mode]
            for index, verdict in zip(chosen, self.run([jobs[index] for index in chosen], mode), strict=True):
                verdicts[index] = verdict
        return verdicts

    def _slot(self, index: int) -> _Slot:
        while len(self._slots) <= index:
            self._slots.append(_Slot(self))
        return self._slots[index]

    def _key(self, message: Mapping[str, Any]) -> str:
        # Timeout and sandbox are the pool's and cannot change; so is this memory.
        return hashlib.sha256(json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


def _second(apart: Verdict | None, verdict: Verdict) -> Verdict:
    """The verdict of a reference; one that fails together too is told with both reasons."""
    if apart is None or verdict.passed:
        return verdict
    apart_why, why = (v.why.removeprefix(CANNOT_JUDGE) for v in (apart, verdict))
    return replace(verdict, why=f"{CANNOT_JUDGE}the reference itself fails its tests (split: {apart_why}; together: {why})")


_Item = tuple[str, Mapping[str, Any]]  # a job's key and message


class _Round:
    """One call of ``Judge.run``: a bounded queue and a thread per worker; then what timed out or was lost once more."""

    def __init__(self, pool: Judge, mode: Mode, bar: tqdm[Any]) -> None:
        self._pool, self._mode, self._bar = pool, mode, bar
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        self._again: list[_Item] = []

    def run(self, jobs: Iterable[Job]) -> list[Verdict]:
        keys: list[str] = []
        self._pass(self._new(jobs, keys))
        # A busy machine is no reason to fail, nor is a process that somebody killed: these get a second run, side by
        # side, with nothing else beside them.
        if self._again:
            self._bar.set_postfix_str(f"{len(self._again)} timed out or lost: once more")
            self._pass(iter(self._again), final=True)
        return [self._pool._verdicts[key] for key in keys]

    def _new(self, jobs: Iterable[Job], keys: list[str]) -> Iterator[_Item]:
        """What has not been judged before; the keys of all go to ``keys``."""
        seen = set(self._pool._verdicts)
        for job in jobs:
            message = job.message(self._mode)
            keys.append(key := self._pool._key(message))
            if key in seen:
                self._count()
            else:
                seen.add(key)
                yield key, message

    def _pass(self, items: Iterator[_Item], *, final: bool = False) -> None:
        """Have items judged by all workers. After the first failure nothing new is begun."""
        waiting: queue.Queue[_Item | None] = queue.Queue(maxsize=2 * self._pool.workers)
        threads: list[threading.Thread] = []
        try:
            for item in items:
                if len(threads) < self._pool.workers:
                    threads.append(self._hire(len(threads), waiting, final))
                waiting.put(item)
                if self._failure:
                    break
        except BaseException as error:
            self._failure = error
            self._pool.close(kill=True)
        for _ in threads:
            waiting.put(None)
        for thread in threads:
            thread.join()
        if self._failure:
            raise self._failure

    def _hire(self, index: int, waiting: queue.Queue[_Item | None], final: bool) -> threading.Thread:
        thread = threading.Thread(target=self._work, args=(self._pool._slot(index), waiting, final), daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise SandboxError(f"The judge cannot start a thread ({error}). {_NO_PROCESS}") from None
        return thread

    def _work(self, slot: _Slot, waiting: queue.Queue[_Item | None], final: bool) -> None:
        """A thread: drives one worker until the queue says stop. After a failure it only empties the queue."""
        while (item := waiting.get()) is not None:
            if self._failure:
                continue
            try:
                self._record(item, slot.run(item[1]), final)
            except BaseException as error:
                # The first failure is the one to tell: closing the pool makes the other workers fail too.
                self._failure = self._failure or error

    def _record(self, item: _Item, verdict: Verdict, final: bool) -> None:
        with self._lock:
            if not final:
                self._bar.update(1)
                if verdict.status == "timeout" or verdict.why.startswith(LOST):
                    self._again.append(item)
            elif verdict.status == "timeout":
                verdict = replace(verdict, why=f"{verdict.why}, confirmed")
            elif verdict.why.startswith(LOST):
                self._pool.lost += 1
            self._pool._verdicts[item[0]] = verdict

    def _count(self) -> None:
        with self._lock:
            self._bar.update(1)


_NO_PROCESS = "Is the limit on processes (ulimit -u) reached?"


class _Slot:
    """The place of one worker: whoever sits in it is replaced when lost."""

    def __init__(self, pool: Judge) -> None:
        # Not the pool itself: that would keep it alive, and its clean-up waiting.
        self._command, self._settings, self._staff = pool._command, pool._settings, pool._staff
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

    def run(self, message: Mapping[str, Any]) -> Verdict:
        """Judge one job. ``why`` is LOST if that could not be done: its worker, or a process of it, was killed."""
        worker = self._checked()
        try:
            reply = worker.run(message, self._wall)
        except WorkerLostError:
            self._replace(worker)
            return Verdict("fail", LOST, message["mode"])
        if reply.get("status") in ("pass", "fail", "timeout"):
            return Verdict(reply["status"], str(reply.get("why", "")), message["mode"])
        why = str(reply.get("why", ""))
        return Verdict("fail", f"{LOST}: {why}" if why else LOST, message["mode"])

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


def _own_folder() -> str:
    try:
        return tempfile.mkdtemp(prefix=FOLDER_PREFIX)
    except OSError as error:
        raise SandboxError(
            f"The judge needs a folder for temporary files and cannot make one: {error.strerror or error}. Set TMPDIR to a "
            "folder with some space (and inodes) left."
        ) from None


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
