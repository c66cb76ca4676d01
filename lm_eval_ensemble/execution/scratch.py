"""The one folder a guest may write to: emptied after every job, removed with its worker."""

from __future__ import annotations

import contextlib
import os

__all__ = ["clear", "create", "remove"]


def create(base: str | None) -> str:
    """A fresh private folder under ``base``, or under the first usable place for temporary files."""
    for place in (base, os.environ.get("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm"):
        path = os.path.join(place or "/tmp", f"guest-{os.urandom(8).hex()}")
        with contextlib.suppress(OSError):
            os.mkdir(path, 0o700)
            return os.path.realpath(path)
    raise OSError("no place for temporary files: /tmp, /var/tmp and /dev/shm cannot be written")


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
    with contextlib.suppress(OSError):
        os.chmod(folder, 0o700)
        clear(folder)
        os.rmdir(folder)
