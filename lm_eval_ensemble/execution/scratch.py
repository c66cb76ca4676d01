"""The one folder a guest may write to: emptied after every job, removed with its worker."""

from __future__ import annotations

import contextlib
import os
import stat

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

    The folder itself stays, because the Landlock rule is about it and not about its name.
    """
    names = os.listdir(folder)
    fresh = 0
    while names:
        path = os.path.join(folder, names.pop())
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            continue
        os.chmod(path, 0o700)
        # Its content moves up instead of being walked down to: no recursion, and paths stay short.
        for name in os.listdir(path):
            fresh += 1
            moved = f".{fresh}"
            inner = os.path.join(path, name)
            if stat.S_ISDIR(os.lstat(inner).st_mode):
                os.chmod(inner, 0o700)  # moving a folder writes its ".." entry
            while os.path.lexists(os.path.join(folder, moved)):
                moved += "."
            os.rename(inner, os.path.join(folder, moved))
            names.append(moved)
        os.rmdir(path)


def remove(folder: str) -> None:
    with contextlib.suppress(OSError):
        os.chmod(folder, 0o700)
        clear(folder)
        os.rmdir(folder)
