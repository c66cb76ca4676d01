"""Does the sandbox hold? A throw-away guest tries what each layer must refuse, by doing it."""

from __future__ import annotations

import os
import resource
import socket
import sys
from collections.abc import Callable

__all__ = ["forbidden_acts"]


def forbidden_acts(layers: list[str], scratch: str) -> list[tuple[str, str]]:
    """What a locked guest, this process, found wrong, as (layer, act); an empty list is good news.

    An act that succeeded although its layer forbids it, or (with layer "") one that is allowed and yet failed.
    """
    names = {layer.partition("(")[0] for layer in layers}
    broken = [(layer, act) for layer, act, attempt in _ACTS if layer in names and _succeeds(attempt)]
    if not _succeeds(lambda: _write(scratch)):
        broken.append(("", "could not write to its scratch folder"))
    if not _succeeds(_import):
        broken.append(("", "could not import a module of the standard library"))
    return broken


def _succeeds(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except Exception:
        return False
    return True


def _write(scratch: str) -> None:
    path = f"{scratch}/probe"
    with open(path, "w") as file:
        file.write("x")
    os.unlink(path)


def _import() -> None:
    import colorsys  # noqa: F401 (any module of the standard library that nobody has imported yet)


def _fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _send_to_a_path() -> None:
    """A datagram to a path that does not exist: an error other than "not permitted" means that it was tried."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        try:
            ours.sendto(b"x", "/no/such/socket")
        except PermissionError:
            raise
        except OSError:
            return


def _raise_limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


_ACTS: tuple[tuple[str, str, Callable[[], object]], ...] = (
    ("capabilities", "raised its own limits", _raise_limit),
    ("landlock", "read /etc/passwd", lambda: open("/etc/passwd").close()),
    ("landlock", "listed /", lambda: os.listdir("/")),
    ("landlock", "read its own entry in /proc", lambda: open("/proc/self/status").close()),
    ("landlock", "created a file in /tmp", lambda: os.mkdir(f"/tmp/probe-{os.getpid()}")),
    ("seccomp", "forked", _fork),
    ("seccomp", "opened a socket", lambda: socket.socket().close()),
    ("seccomp", "started a program", lambda: os.execv(sys.executable, [sys.executable, "-c", ""])),
    ("seccomp", "sent a message to a path", _send_to_a_path),
    ("seccomp", "pinned itself to a processor", lambda: os.sched_setaffinity(0, os.sched_getaffinity(0))),
    ("seccomp", "sent a signal", lambda: os.kill(os.getpid(), 0)),
)
