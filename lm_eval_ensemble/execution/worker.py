"""One worker: the process that judges, job after job, for as long as the pool wants it.

::

    pool (harness)                  worker = judge                       zygote             guest
       │  sources, settings            │  fork, before any job              │                  │
       ├──────────────────────────────►├───────────────────────────────────►│ locks itself     │
       │◄── hello: layers ─────────────┤◄───────────────────────────────────┤                  │
       │  program, head, test          │  a fresh socket                    │  fork            │
       ├──────────────────────────────►├───────────────────────────────────►├─────────────────►│ locks itself more
       │                               │  program ───────────────────────────────────────────►│ runs it
       │                               │  call ──────────────────────────────────────────────►│
       │                               │◄────────────────────────────────── plain data ───────┤
       │◄── status, why ───────────────┤  end it ──────────────────────────►│  SIGKILL, reap   ╳

Runs with the standard library only, from sources sent by the pool, so that it works inside containers too.
"""

from __future__ import annotations

import contextlib
import os
import platform
import select
from typing import Any

from lm_eval_ensemble.execution import lockdown, scratch, trusted
from lm_eval_ensemble.execution.clock import Alarm, FairClock, TimeUp
from lm_eval_ensemble.execution.wire import MAX_REPLY, Channel, ClosedError
from lm_eval_ensemble.execution.zygote import Zygote

__all__ = ["main"]

# Loaded once here and shared by every fork: what HumanEval's programs and tests import.
PRELOAD = (
    *("bisect", "collections", "copy", "functools", "heapq", "itertools"),
    *("math", "operator", "re", "string", "typing"),
)


def main(settings: dict[str, Any]) -> None:
    """Serve jobs from standard input until it ends. The bootstrap calls this."""
    for name in PRELOAD:
        __import__(name)
    folder = scratch.create(settings.get("folder"))
    try:
        zygote = Zygote(settings, folder)  # before any job has arrived
        _serve(settings, folder, zygote)
        zygote.close()
    finally:
        scratch.remove(folder)


def _serve(settings: dict[str, Any], folder: str, zygote: Zygote) -> None:
    lockdown.hide()
    pool = Channel(*_private_pipes())
    pool.send(zygote.hello() | {"python": platform.python_version()})
    trusted.remember()
    trusted.restore()
    lockdown.restrict_self("RLIMIT_CORE", 0)
    lockdown.restrict_self("RLIMIT_AS", lockdown.MEMORY)
    hang_up = _HangUp(pool.read_fd)
    with contextlib.suppress(ClosedError):
        while (job := pool.receive()) is not None:
            pool.send(_judge(job, settings["timeout"], zygote, hang_up))
            # The reply waits for no tidying; a worker that cannot give the next guest a clean folder ends.
            if not _tidy(folder):
                return
        return
    # The harness is gone without a farewell: nobody else is left to remove the pool's folder (the last worker can).
    if settings.get("folder"):
        scratch.remove(folder)
        with contextlib.suppress(OSError):
            os.rmdir(settings["folder"])


def _private_pipes() -> tuple[int, int]:
    """Move the pipes to the pool away from where tests would print or read."""
    pipes = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    return pipes


def _judge(job: dict[str, Any], timeout: float, zygote: Zygote, hang_up: _HangUp) -> dict[str, str | None]:
    """One job: fork a guest, run the tests against it, end it."""
    clock = FairClock(timeout)
    sock, clock.guest = zygote.fork_guest()
    channel = Channel(sock.fileno(), sock.fileno(), limit=MAX_REPLY)
    closed = False
    alarm = Alarm(clock, hang_up.check)
    try:
        with alarm:
            why = trusted.run_tests(job, channel)
        status = "fail" if why else "pass"
    except TimeUp:
        status, why = "timeout", f"no verdict after {timeout:g} s"
    except ClosedError:
        status, why, closed = "fail", "the program ended its process", True
    alarm.stop()  # again, in case it rang on the way out
    trusted.restore()
    # Before its socket is closed, so that the guest does not wake up to notice.
    if zygote.end_guest(hung_up=closed):
        status, why = "lost", "the program's process was killed from outside"
    sock.close()
    return {"status": status, "why": why or ""}


def _tidy(folder: str) -> bool:
    """Empty the guest's folder; without Landlock a guest can also spoil or remove it."""
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        if os.listdir(folder):
            scratch.clear(folder)
    except OSError:
        return False
    return True


class _HangUp:
    """Notices, in the middle of a long job, that the pool is gone."""

    def __init__(self, fd: int) -> None:
        self._poll = select.poll()
        self._poll.register(fd, 0)  # hang-up is always reported

    def check(self) -> None:
        if self._poll.poll(0):
            raise ClosedError("the pool is gone")
