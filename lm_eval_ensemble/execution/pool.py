"""Many jobs, a few workers: results in order, lost workers replaced, timeouts confirmed, nothing left behind."""

from __future__ import annotations

import hashlib
import os
import queue
import shlex
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any

from lm_eval_ensemble.errors import ConfigError, SandboxError, did_you_mean
from lm_eval_ensemble.execution.jobs import LOST, MODES, Job, Mode, Verdict
from lm_eval_ensemble.execution.staff import Slot, Staff, check_layers, own_folder
from lm_eval_ensemble.execution.wire import encoded
from lm_eval_ensemble.progress import ProgressBar
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
_LONGEST = 3600.0  # seconds


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
        self.command = _words(sandbox_command)
        self._verdicts: dict[str, Verdict] = {}
        self._turn = threading.Lock()
        folder = own_folder()
        self.settings: dict[str, Any] = {"sandbox": sandbox, "timeout": timeout, "folder": folder, "workers": self.workers}
        self.staff = Staff(folder)
        self._clean_up = weakref.finalize(self, self.staff.dismiss)  # also runs when the interpreter exits
        try:
            first = Slot(self, 0)
            self.layers, self._missing = check_layers(first.start().hello, sandbox)
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
        if self.command:
            line += f", under {Path(self.command[0]).name}"
        if self._missing:
            line += "; without " + ", ".join(f"{name} ({reason})" for name, reason in self._missing.items())
        return line

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(kill=kind is not None)

    def close(self, *, kill: bool = False) -> None:
        """End the workers (at once if ``kill``) and remove their folder. May be called twice."""
        self.staff.kill = kill
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
                ProgressBar(total, "judging", unit="samples", shown=self._progress) as bar,
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

    def _slot(self, index: int) -> Slot:
        while len(self._slots) <= index:
            self._slots.append(Slot(self, len(self._slots)))
        return self._slots[index]


def _second(apart: Verdict | None, verdict: Verdict) -> Verdict:
    """The verdict of a reference; one that fails together too is told with both reasons."""
    if apart is None or verdict.passed:
        return verdict
    apart_why, why = (v.why.removeprefix(CANNOT_JUDGE) for v in (apart, verdict))
    return replace(verdict, why=f"{CANNOT_JUDGE}the reference itself fails its tests (split: {apart_why}; together: {why})")


_NO_PROCESS = "Is the limit on processes (ulimit -u) reached?"
_Item = tuple[str, bytes]  # a job's key and the body of its frame


class _Round:
    """One call of ``Judge.run``: a bounded queue and a thread per worker; then what timed out or was lost once more."""

    def __init__(self, pool: Judge, mode: Mode, bar: ProgressBar) -> None:
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
            frame = encoded(job.message(self._mode))
            # Timeout and sandbox are the pool's and cannot change; so is its memory of verdicts.
            keys.append(key := hashlib.sha256(frame).hexdigest())
            if key in seen:
                self._count()
            else:
                seen.add(key)
                yield key, frame

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

    def _work(self, slot: Slot, waiting: queue.Queue[_Item | None], final: bool) -> None:
        """A thread: drives one worker until the queue says stop. After a failure it only empties the queue."""
        while (item := waiting.get()) is not None:
            if self._failure:
                continue
            try:
                self._record(item, slot.run(item[1], self._mode), final)
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
