"""One worker: the process that has jobs judged, one after the other, for as long as the pool wants it.

::

    pool (harness)             worker                  examiner            zygote              guest
       │  sources, settings       │  fork, before any job   │                 │
       ├─────────────────────────►├─────────────────────────┼────────────────►│ locks itself
       │◄── hello: layers ────────┤◄────────────────────────┼─────────────────┤
       │  program, head, test     │  a fresh socket         │                 │  fork
       ├─────────────────────────►├─────────────────────────┼────────────────►├──────────────►│ locks itself more
       │                          │  fork, if there is none │                 │
       │                          │  job, the other end     │  program ──────────────────────►│ runs it
       │                          ├────────────────────────►│  call ─────────────────────────►│
       │                          │  looks at the clock     │◄───────────────── plain data ───┤
       │◄── status, why ──────────┤◄──── status, why ───────┤  end it ───────►│  SIGKILL,reap ╳

The worker itself reads no test and no answer of a program. It kills examiner and guest when the time is over, so no
test can swallow that. Runs with the standard library only, from sources sent by the pool, so that it works inside
containers too.
"""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import select
import signal
import socket
import sys
from typing import Any, NoReturn

from lm_eval_ensemble.execution import lockdown, processes, scratch, suite, surroundings, trusted
from lm_eval_ensemble.execution.clock import FIRST_LOOK, NEXT_LOOKS, FairClock, open_delay, read_delay
from lm_eval_ensemble.execution.wire import Channel, ClosedError, framed
from lm_eval_ensemble.execution.zygote import Zygote, ZygoteLostError

__all__ = ["main"]

# Loaded once here and shared by every fork: what HumanEval's programs and tests import.
PRELOAD = (
    *("bisect", "collections", "copy", "functools", "heapq", "itertools"),
    *("math", "operator", "re", "string", "typing"),
)


def main(settings: dict[str, Any]) -> None:
    """Serve jobs from standard input until it ends. The bootstrap calls this."""
    _stay(settings)
    for name in PRELOAD:
        __import__(name)
    surroundings.seed_random()
    folder = scratch.create(settings.get("folder"))
    try:
        bounded, zygote = _first_forks(settings, folder)  # before any job has arrived
        _Worker(settings, folder, zygote, bounded).serve()
        zygote.close()
    except ZygoteLostError:  # somebody killed it; let that look like what it is
        os.kill(os.getpid(), signal.SIGKILL)
    finally:
        scratch.remove(folder)
        processes.remove_groups(folder)


def _stay(settings: dict[str, Any]) -> None:
    """Keep this worker's processes on one processor, if there is a worker for each: they take turns, and to wake one up
    elsewhere takes longer than most calls.
    """
    if hasattr(os, "sched_setaffinity"):
        usable = sorted(os.sched_getaffinity(0))
        if settings["workers"] >= len(usable):
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, {usable[settings["number"] % len(usable)]})


def _first_forks(settings: dict[str, Any], folder: str) -> tuple[str, Zygote]:
    try:
        namespace = processes.namespace()
        return scratch.bound(folder), Zygote(settings, folder, *processes.limit(folder, namespace))
    except OSError as error:
        sys.exit(f"cannot start a process: {error.strerror}. Is the limit on processes (ulimit -u) reached?")


class _PoolGoneError(Exception):
    """Noticed in the middle of a long job."""


class _Worker:
    def __init__(self, settings: dict[str, Any], folder: str, zygote: Zygote, bounded: str) -> None:
        lockdown.hide()
        self._timeout, self._folder, self._base = settings["timeout"], folder, settings.get("folder")
        self._zygote = zygote
        self._pool = Channel(*_private_pipes())
        self._pool.send(_hello(zygote, bounded))
        surroundings.mute()
        os.chdir("/")
        lockdown.restrict_self("RLIMIT_CORE", 0)
        gc.collect()
        gc.freeze()  # untouched by the collector, the pages stay shared with every examiner
        gc.disable()
        self._examiner: _Examiner | None = None
        self._ended: socket.socket | None = None  # to a guest that is told to end
        self._poll = select.poll()
        self._poll.register(self._pool.read_fd, 0)  # hang-up is always reported

    def serve(self) -> None:
        with contextlib.suppress(ClosedError, _PoolGoneError):
            while (job := self._pool.receive_frame()) != b"null":
                self._pool.send(self._judge(job))
                # The reply waits for none of this; a worker that cannot give the next guest a clean folder ends.
                if not self._get_ready():
                    break
            self._dismiss()
            return
        # The harness is gone without a farewell: nobody else is left to remove the pool's folder (the last worker can).
        self._dismiss()
        if self._base:
            scratch.remove(self._folder)
            with contextlib.suppress(OSError):
                os.rmdir(self._base)

    def _get_ready(self) -> bool:
        """See the last guest gone, tidy up, have the processes for the next job forked: all while the pool is at work."""
        self._await_end()
        if not _tidy(self._folder):
            return False
        with contextlib.suppress(OSError):  # then the next job tells it, if it still is so
            self._staffed()
        return True

    def _judge(self, job: bytes) -> dict[str, str]:
        """One job: fork a guest, have the examiner run the tests against it, end it."""
        try:
            examiner = self._staffed()
            sock, pid = self._zygote.guest()
        except OSError as error:
            return {"status": "lost", "why": f"no process could be started ({error.strerror}; see ulimit -u)"}
        with contextlib.suppress(OSError):  # then the next job tells it, if it still is so
            self._zygote.order_guest()  # for the next job, while this one is at work
        verdict = None
        with contextlib.suppress(OSError, ClosedError):  # the examiner ended: see below
            clock = examiner.clock(self._timeout, pid)
            examiner.hand_over(job, sock)
            verdict = self._watch(examiner, clock)
        # Nobody but a process that ended too early need be looked at.
        look = verdict is None or verdict["closed"]
        self._zygote.end_guest(pid, look=look)
        self._ended = sock  # open until it is gone, or it would wake up to notice
        ended_by = 0
        if verdict is None or not verdict["again"]:
            ended_by = examiner.end()
            self._examiner = None
        is_lost = look and self._await_end()
        if is_lost or (verdict is None and ended_by == signal.SIGKILL):  # a signal that comes from outside only
            return {"status": "lost", "why": ""}
        if verdict is None:
            how = f"signal {ended_by} ended" if ended_by else "the test ended"
            return {"status": "fail", "why": f"{suite.CANNOT}{how} the process of the tests"}
        return {"status": verdict["status"], "why": verdict["why"]}

    def _await_end(self) -> bool:
        """Whether the last guest, which is gone when this returns, was killed from outside."""
        sock, self._ended = self._ended, None
        if sock is None:
            return False
        with sock:
            return self._zygote.await_end()

    def _watch(self, examiner: _Examiner, clock: FairClock) -> dict[str, Any]:
        """The examiner's verdict, or ours if the time is over. Raises ClosedError if it ended, or the pool is gone."""
        self._poll.register(examiner.fd, select.POLLIN)
        patience = FIRST_LOOK
        try:
            while not (events := dict(self._poll.poll(1000 * patience))) or self._pool.read_fd in events:
                if events:
                    raise _PoolGoneError
                if clock.is_over():
                    return {
                        "status": "timeout",
                        "why": f"no verdict after {self._timeout:g} s",
                        "closed": False,
                        "again": False,
                    }
                patience = NEXT_LOOKS
            return dict(examiner.receive())
        finally:
            self._poll.unregister(examiner.fd)

    def _staffed(self) -> _Examiner:
        if self._examiner is None:
            self._examiner = _Examiner((*self._zygote.fds, self._pool.read_fd, self._pool.write_fd))
        return self._examiner

    def _dismiss(self) -> None:
        if self._examiner is not None:
            self._examiner.end()
            self._examiner = None


class _Examiner:
    """The worker's handle on the process that runs the tests."""

    def __init__(self, not_its_own: tuple[int, ...]) -> None:
        self._link, theirs = socket.socketpair()
        worker = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _become_examiner(self._link, theirs, worker, not_its_own)
            finally:
                os._exit(1)
        theirs.close()
        self.fd = self._link.fileno()
        self._channel = Channel(self.fd, self.fd, limit=1 << 20)
        self._delay = open_delay(self.pid)

    def clock(self, limit: float, guest: int) -> FairClock:
        return FairClock(limit, guest, self.pid, read_delay(self._delay))

    def hand_over(self, job: bytes, guest: socket.socket) -> None:
        frame = framed(job)
        sent = socket.send_fds(self._link, [frame], [guest.fileno()])
        if sent < len(frame):
            self._link.sendall(memoryview(frame)[sent:])

    def receive(self) -> Any:
        return self._channel.receive()

    def end(self) -> int:
        """End and reap it: the signal that it ended by, 0 if it ended by itself."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._link.close()
        if self._delay is not None:
            os.close(self._delay)
        with contextlib.suppress(ChildProcessError):
            status = os.waitpid(self.pid, 0)[1]
            return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        return 0


def _become_examiner(link: socket.socket, theirs: socket.socket, worker: int, not_its_own: tuple[int, ...]) -> NoReturn:
    link.close()
    for fd in not_its_own:
        os.close(fd)
    lockdown.die_with_parent(worker)
    trusted.serve(theirs)


def _hello(zygote: Zygote, bounded: str) -> dict[str, Any]:
    hello = zygote.hello()
    if bounded:
        hello["missing"]["scratch limit"] = bounded
    else:
        hello["layers"].append(f"scratch limit({scratch.MEGABYTES} MB)")
    return hello | {"python": platform.python_version(), "root": hasattr(os, "geteuid") and os.geteuid() == 0}


def _private_pipes() -> tuple[int, int]:
    """Move the pipes to the pool away from where tests would print or read."""
    pipes = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    return pipes


def _made(folder: str) -> bool:
    with contextlib.suppress(OSError):
        os.mkdir(folder, 0o700)
        return True
    return False


def _tidy(folder: str) -> bool:
    """Empty the guest's folder; without Landlock a guest can also spoil or remove it."""
    try:
        if os.listdir(folder):
            scratch.clear(folder)
    except FileNotFoundError:
        return _made(folder)
    except OSError:
        return False
    return True
