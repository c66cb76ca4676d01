"""The one folder a guest may write to: emptied after every job, removed with its worker."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

__all__ = ["MEGABYTES", "bound", "clear", "create", "remove"]

MEGABYTES, FILES = 64, 10_000  # of the folder, if it can be bounded
_NEWNS, _NEWUSER = 0x20000, 0x10000000  # linux/sched.h
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 2, 4, 0x4000, 1 << 18, 2  # linux/mount.h


def create(base: str | None) -> str:
    """A fresh private folder under ``base``, or under the first usable place for temporary files."""
    for place in (base, os.environ.get("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm"):
        path = os.path.join(place or "/tmp", f"guest-{os.urandom(8).hex()}")
        with contextlib.suppress(OSError):
            os.mkdir(path, 0o700)
            return os.path.realpath(path)
    raise OSError("no place for temporary files: /tmp, /var/tmp and /dev/shm cannot be written")


def bound(folder: str) -> str:
    """Put a small file system of its own over ``folder``, seen by this process and its children alone.

    Whatever a guest writes (``fallocate``, a thousand files) then ends there, and nobody else's disk is full.

    :returns: why that cannot be done here; empty if it was.
    """
    if sys.platform != "linux":
        return f"not on {sys.platform}"
    # In a process of its own first: a half-made namespace is no place to go on from.
    trial = os.fork()
    if trial == 0:
        os._exit(0 if _mount(folder) else 1)
    status = os.waitpid(trial, 0)[1]
    if os.WIFSIGNALED(status):  # somebody kills processes: that says nothing about this system
        return bound(folder)
    if status or not _mount(folder):
        return "this system lets nobody but root mount a folder"
    return ""


def _mount(folder: str) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_NEWNS) != 0:
        if libc.unshare(_NEWUSER | _NEWNS) != 0:
            return False
        with contextlib.suppress(OSError):  # without these the files belong to nobody, and the mount fails below
            for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(line)
    options = f"size={MEGABYTES}m,nr_inodes={FILES},mode=0700".encode()
    return bool(
        libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None) == 0
        and libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", ctypes.c_ulong(_MS_NOSUID | _MS_NODEV), options) == 0
    )


def clear(folder: str) -> None:
    """Empty ``folder``. Copes with modes of 0, with symbolic links and with nesting beyond any path length.

    The folder itself stays, because the Landlock rule is about it and not about its name. Steps down by one name at
    a time and back by "..", so that neither paths, nor open files, nor recursion grow with the depth.
    """
    here = _enter(folder, None)
    inner = _remove_files(here)  # the folders in this one that are still to do
    trail: list[tuple[str, list[str], tuple[int, int]]] = []  # the way here: name, what is to do there, which it was
    try:
        while inner or trail:
            if inner:
                name = inner.pop()
                trail.append((name, inner, _identity(here)))
                here = _step(here, _enter(name, here))
                inner = _remove_files(here)
            else:
                name, inner, parent = trail.pop()
                here = _step(here, os.open("..", _FOLDER, dir_fd=here))
                if _identity(here) != parent:
                    raise OSError("a folder was moved while it was being emptied")
                os.rmdir(name, dir_fd=here)
    finally:
        os.close(here)


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _enter(name: str, parent: int | None) -> int:
    """Open a folder, whatever mode it was given."""
    try:
        folder = os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        folder = os.open(name, _FOLDER, dir_fd=parent)
    os.fchmod(folder, 0o700)
    return folder


def _step(old: int, new: int) -> int:
    os.close(old)
    return new


def _remove_files(folder: int) -> list[str]:
    """Remove what is no folder; the names of the folders that are left."""
    inner = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                inner.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=folder)
    return inner


def _identity(folder: int) -> tuple[int, int]:
    status = os.fstat(folder)
    return status.st_dev, status.st_ino


def remove(folder: str) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).umount2(os.fsencode(folder), _MNT_DETACH)  # if ``bound`` mounted it; else nothing happens
    with contextlib.suppress(OSError):
        os.chmod(folder, 0o700)
        clear(folder)
        os.rmdir(folder)
