"""One process works on a cell at a time, on this machine or on another that shares the disk.

The lock is taken by the sweep and inherited by the child, so it outlives a sweep that is killed and ends when the last of
them does. The processes of a distributed run are started by torch, which hands nothing down: each holds a second lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path

from lm_eval_ensemble.errors import DataError

__all__ = ["CellLock", "hold_as_worker", "is_taken", "owner", "sign"]

_MAIN, _WORKERS = ".lock", ".workers"


class CellLock:
    """The lock of a cell's folder, not yet taken."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fd: int | None = None

    def take(self) -> bool:
        """True if it is ours now; False if somebody works on the cell."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fd = _open(self.folder / _MAIN)
        if not _lock(fd, fcntl.LOCK_EX, self.folder) or not self._no_workers():
            os.close(fd)
            return False
        sign(fd, os.getpid())
        self.fd = fd
        return True

    def _no_workers(self) -> bool:
        fd = _open(self.folder / _WORKERS)
        try:
            return _lock(fd, fcntl.LOCK_EX, self.folder)
        finally:
            os.close(fd)

    def release(self) -> None:
        """Only our handle is closed: a child that goes on keeps the lock."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


def is_taken(folder: Path) -> bool:
    """Whether somebody works on the cell now. Looks without taking."""
    # Workers share theirs, so only an exclusive look finds them.
    for name, kind in ((_MAIN, fcntl.LOCK_SH), (_WORKERS, fcntl.LOCK_EX)):
        if not (folder / name).exists():
            continue
        try:
            fd = _open(folder / name)
        except OSError:  # not ours to write: a look is enough
            fd = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not _lock(fd, kind, folder):
                return True
        finally:
            os.close(fd)
    return False


def owner(folder: Path) -> str:
    """Who took the lock last, for people."""
    try:
        note = json.loads((folder / _MAIN).read_text(encoding="utf-8"))
        return f"process {note['pid']} on {note['host']} since {note['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def sign(fd: int, pid: int) -> None:
    """Notes in a lock who holds it: the process that a person would have to end."""
    note = {"host": socket.gethostname(), "pid": pid, "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps(note).encode(), 0)


def hold_as_worker(folder: Path) -> int:
    """Taken by every process of a run for as long as it lives."""
    fd = _open(folder / _WORKERS)
    with contextlib.suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_SH)
    return fd


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _lock(fd: int, kind: int, folder: Path) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise DataError(
            f"{folder}: the file system cannot lock files ({error}), so two sweeps could write one cell. Give --output on "
            "another disk."
        ) from None
    return True
