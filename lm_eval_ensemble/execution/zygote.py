"""The process that forks guests, locked down itself, and its end of the talk with the judge.

The judge forks it before the first job arrives, so no test was ever in its memory, nor in a guest's. It sees no
job at all: the judge hands it one end of a fresh socket, the guest reads its program from there.

Being the guest's parent it can end and reap it without any race over process numbers. It is not trusted with
more: a forged answer of the zygote could at most make a job fail.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from lm_eval_ensemble.execution import guest, lockdown, probe, processes, surroundings

__all__ = ["Zygote", "ZygoteLostError"]

# Orders, each with the number of a process: fork one, end one now, or see first whether it ended by itself.
_FORK, _STOP, _LOOK = b"f\0\0\0\0", b"s", b"l"
_PATIENCE = 0.05
_LAST_FD = 4
_ROOM = socket.CMSG_SPACE(4)  # for one descriptor
_SIGKILL = int(signal.SIGKILL)  # an enum is looked up at length


def _order(what: bytes, pid: int) -> bytes:
    return what + pid.to_bytes(4, "little")


class ZygoteLostError(Exception):
    """The zygote has ended; the worker cannot go on and must be replaced."""


class Zygote:
    """The judge's handle."""

    def __init__(self, settings: dict[str, Any], scratch: str, group: str = "", unlimited: str = "") -> None:
        self._link, theirs = socket.socketpair()
        judge = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._link.close()
                _become_zygote(theirs, judge, settings, scratch, group, unlimited)
            finally:
                os._exit(1)
        theirs.close()
        self._next: socket.socket | None = None  # to the guest that was ordered
        self._number: int | None = None  # its process number, once it was told

    def hello(self) -> dict[str, Any]:
        """The layers it put on and what a probing guest found; see ``probe``."""
        answer: dict[str, Any] = json.loads(self._receive(1 << 16))
        return answer

    def order_guest(self) -> socket.socket:
        """Have the next guest forked, without waiting for it: the socket to it. Raises OSError if there is none to be had."""
        self._next, theirs = socket.socketpair()
        with theirs:
            self._tell(lambda: socket.send_fds(self._link, [_FORK], [theirs.fileno()]))
        return self._next

    def guest(self) -> tuple[socket.socket, int]:
        """The guest that was ordered, or one that is ordered now: the socket to it, and its process number.

        Raises OSError if the system has none to give.
        """
        ours, pid = self._take()
        if _is_closed(ours):  # somebody killed it while it waited: another one
            with ours:
                self.end_guest(pid, look=False)
                self.await_end()
            ours, pid = self._take()
        return ours, pid

    def _take(self) -> tuple[socket.socket, int]:
        ours, pid = self._next or self.order_guest(), self._number_of_the_next()
        self._next = self._number = None
        if pid < 0:
            ours.close()
            raise OSError(-pid, os.strerror(-pid))
        return ours, pid

    def end_guest(self, pid: int, *, look: bool) -> None:
        """End a guest; ``await_end`` must follow before anything else is ordered.

        :param look: whether it may be ending by itself, and its end is to be told.
        """
        if self._next is not None:
            self._number_of_the_next()  # answers come in the order of the orders
        self._tell(lambda: self._link.sendall(_order(_LOOK if look else _STOP, pid)))

    def await_end(self) -> bool:
        """Return when the guest that was ended is no more, and its threads neither.

        True if a SIGKILL that was not ours had ended it (if it was asked to look).
        """
        return self._answer() == 1

    @property
    def fds(self) -> tuple[int, ...]:
        """What a fork of this process must let go of."""
        return (self._link.fileno(), *(() if self._next is None else (self._next.fileno(),)))

    def _number_of_the_next(self) -> int:
        if self._number is None:
            self._number = self._answer()
        return self._number

    def _answer(self) -> int:
        return int.from_bytes(self._receive(4), "little", signed=True)

    def close(self) -> None:
        self._link.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def _tell(self, send: Callable[[], object]) -> None:
        try:
            send()
        except OSError as error:
            raise ZygoteLostError(str(error)) from None

    def _receive(self, size: int) -> bytes:
        try:
            data = self._link.recv(size)
        except OSError as error:
            raise ZygoteLostError(str(error)) from None
        if not data:
            raise ZygoteLostError("end of stream")
        return data


def _is_closed(link: socket.socket) -> bool:
    try:
        return not link.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return False


def _become_zygote(
    link: socket.socket, judge: int, settings: dict[str, Any], scratch: str, group: str, unlimited: str
) -> NoReturn:
    _keep_only(link)
    surroundings.settle(scratch)
    if sys.platform == "linux":
        # If memory runs out, a guest is to go first, not the model that is being evaluated.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    unlimited = unlimited or _joined(group)
    layers, missing = lockdown.lock_zygote(settings["sandbox"], scratch)
    lockdown.die_with_parent(judge)
    if unlimited:
        missing["process limit"] = unlimited
    else:
        layers.append(f"process limit({processes.MOST})")
    lock = lockdown.GuestLock(settings["timeout"], layers)
    link = socket.socket(fileno=_LAST_FD)
    link.sendall(json.dumps({"layers": layers, "missing": missing, "broken": _probe(lock, layers, scratch)}).encode())
    ready = guest.rehearsed(scratch)
    gc.collect()
    lockdown.tidy_memory()
    gc.freeze()  # untouched by the collector, the pages stay shared with every guest
    while True:
        _obey(link, lock, ready)


def _joined(group: str) -> str:
    """Why the limit on processes does not hold; empty if it does."""
    try:
        processes.join(group)
    except OSError as error:
        return f"the system refuses it ({error.strerror})"
    return ""


def _keep_only(link: socket.socket) -> None:
    """Let go of the pipes to the pool, and of everything else but the link."""
    null = os.open(os.devnull, os.O_RDWR)
    number = link.detach()
    spare = os.dup(number) if number <= _LAST_FD else number
    for fd in (0, 1, 2, guest.GUEST_FD):
        os.dup2(null, fd)
    os.dup2(spare, _LAST_FD, inheritable=False)
    os.closerange(_LAST_FD + 1, 1 << 16)


def _obey(link: socket.socket, lock: lockdown.GuestLock, ready: guest.Guest) -> None:
    """Carry out one order."""
    # Not socket.recv_fds, nor anything else that would make this loop longer: every page of memory that is touched while
    # a guest lives is copied.
    order, ancillary, _, _ = link.recvmsg(5, _ROOM)
    if not ancillary:
        if not order:
            os._exit(0)
        link.sendall(b"\1\0\0\0" if _end(order) else b"\0\0\0\0")
        return
    fd = int.from_bytes(ancillary[0][2], sys.byteorder)
    try:
        pid = os.fork()
    except OSError as error:
        pid = -(error.errno or 1)
    if pid == 0:
        try:
            _become_guest(fd, lock, ready)
        finally:
            os._exit(1)
    os.close(fd)
    link.sendall(pid.to_bytes(4, "little", signed=True))


def _end(order: bytes) -> bool:
    """End a guest and its group, and reap it; True if it had already died of somebody else's SIGKILL."""
    pid = int.from_bytes(order[1:], "little")
    was_killed = order[:1] == _LOOK and _was_killed(pid)
    # Still unreaped, so its number cannot have been given to another process.
    for end in (os.killpg, os.kill):
        try:  # noqa: SIM105 (shorter)
            end(pid, _SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # it had no time to make a group, or it has ended
    os.waitpid(pid, 0)
    return was_killed


def _become_guest(fd: int, lock: lockdown.GuestLock, ready: guest.Guest) -> None:
    os.dup2(fd, guest.GUEST_FD)
    os.close(fd)
    os.close(_LAST_FD)
    lock.apply()
    ready.serve()


def _was_killed(pid: int) -> bool:
    """Whether a guest dies of somebody's SIGKILL. It gets a moment to end; it is not reaped."""
    deadline = time.monotonic() + _PATIENCE
    while (status := _ended(pid)) is None and time.monotonic() < deadline:
        time.sleep(0.001)
    return status == signal.SIGKILL


def _ended(pid: int) -> int | None:
    """The signal that ended a process (0: none did), None while it runs. Does not reap it."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return None
    result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if result is None:
        return None
    return 0 if result.si_code == os.CLD_EXITED else result.si_status


def _probe(lock: lockdown.GuestLock, layers: list[str], scratch: str) -> list[tuple[str, str]]:
    """Let a throw-away guest try what the layers forbid; see ``probe.forbidden_acts``."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            lock.apply()
            os.write(writer, json.dumps(probe.forbidden_acts(layers, scratch)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:  # from outside: ask another one
        return _probe(lock, layers, scratch)
    return list(json.loads(answer)) if answer else [("", "did not answer the probe")]
