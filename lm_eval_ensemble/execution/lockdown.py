"""Containment without root, namespaces or helper programs: what a guest may still do to the machine.

Most of it is put on the zygote, once, and inherited by every guest: limits, no capabilities, no_new_privs,
Landlock, the long seccomp filter. Each guest adds only what the zygote cannot live with (see ``lock_guest``).
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys

from lm_eval_ensemble.execution import landlock, seccomp

__all__ = ["GuestLock", "hide", "lock_zygote", "restrict_self", "tidy_memory"]

MEMORY = 4 << 30  # EvalPlus's limit
FILE_SIZE = 64 << 20
OPEN_FILES = 256

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 4, 24, 38, 47
_PR_GET_NO_NEW_PRIVS, _PR_CAP_AMBIENT_CLEAR_ALL = 39, 4
_CAPABILITY_VERSION_3 = 0x20080522
_LINUX = sys.platform == "linux"
_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int = 0) -> int:
    zero = ctypes.c_ulong(0)
    return int(_libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero)) if _LINUX else -1


def hide() -> None:
    """Close this process to debuggers and to /proc readers of the same user."""
    _prctl(_PR_SET_DUMPABLE, 0)


def die_with_parent(parent: int) -> None:
    """End when the parent ends. Must be repeated after every fork."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if _LINUX and os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def restrict_self(name: str, soft: int, hard: int | None = None) -> bool:
    """Set one limit; False where the system does not know it or refuses (macOS and RLIMIT_AS)."""
    try:
        resource.setrlimit(getattr(resource, name), (soft, soft if hard is None else hard))
    except (AttributeError, ValueError, OSError):
        return False
    return True


def _within(kind: int, limit: int) -> int:
    """A limit, no higher than it may be set here."""
    most = resource.getrlimit(kind)[1]
    return limit if most == resource.RLIM_INFINITY else min(limit, most)


def tidy_memory() -> None:
    """Have the C library sort its free memory now, instead of in each child, which would copy the pages it lies in."""
    if hasattr(_libc, "malloc_trim"):  # glibc
        _libc.malloc_trim(0)


def lock_zygote(mode: str, scratch: str) -> tuple[list[str], dict[str, str]]:
    """Put every layer that works here on this process.

    :param mode: ``off`` for limits and no capabilities; ``auto`` or ``strict`` for all (who insists is decided by the pool).
    :returns: the layers that were accepted, and for each other one the reason.
    """
    restrict_self("RLIMIT_CORE", 0)
    limits = [restrict_self("RLIMIT_FSIZE", FILE_SIZE), restrict_self("RLIMIT_NOFILE", OPEN_FILES)]
    limits.append(restrict_self("RLIMIT_AS", MEMORY))
    layers = ["rlimits"]
    missing = {} if all(limits) else {"memory limit": "the system refuses RLIMIT_AS"}
    if not _LINUX:
        names = ("capabilities", "no_new_privs", "landlock", "seccomp")
        return layers, missing | dict.fromkeys(names, f"not on {sys.platform}")
    steps = [
        # Always: with its capabilities a program of root reads the tests out of the examiner's memory.
        ("capabilities", drop_capabilities, "the kernel refuses"),
        ("no_new_privs", _no_new_privileges, "the kernel refuses"),
        ("landlock", lambda: _landlock(scratch), "not in this kernel, or refused by an outer sandbox"),
        ("seccomp", _seccomp, f"no filter for {platform.machine()}, or refused by an outer sandbox"),
    ]
    if mode == "off":
        missing |= dict.fromkeys(("landlock", "seccomp"), "sandbox=off")
        steps = steps[:2]
    for name, step, reason in steps:
        if step():
            layers.append(f"landlock({landlock.version()})" if name == "landlock" else name)
        else:
            missing[name] = reason
    hide()  # a change of capabilities resets it
    return layers, missing


def drop_capabilities() -> bool:
    """Give up every capability, for children too. True if none is left."""
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(64):
        _prctl(_PR_CAPBSET_DROP, capability)
    header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
    _libc.capset(header, bytes(24))
    left = ctypes.create_string_buffer(24)
    return _libc.capget(header, left) == 0 and left.raw == bytes(24)


def _no_new_privileges() -> bool:
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    return _prctl(_PR_GET_NO_NEW_PRIVS) == 1


def _landlock(scratch: str) -> bool:
    return landlock.version() > 0 and landlock.restrict(scratch)


def _seccomp() -> bool:
    return seccomp.supported() and seccomp.zygote_filter(platform.machine()).install()


class GuestLock:
    """What each guest does to itself before it reads its program.

    Whatever can be is prepared here, in the zygote: every page of memory that a guest is the first to touch costs it as much
    as a system call.
    """

    def __init__(self, timeout: float, layers: list[str]) -> None:
        self._parent = os.getpid()
        # A soft limit below the hard one gives SIGXCPU: SIGKILL is left to mean an outsider (see zygote.py).
        limits = [(resource.RLIMIT_CPU, int(timeout) + 2, int(timeout) + 5)]
        if sys.platform == "darwin":
            limits.append((resource.RLIMIT_NPROC, 0, 0))  # no forks; there, unlike on Linux, threads are not counted
        self._limits = [(kind, (_within(kind, soft), _within(kind, hard))) for kind, soft, hard in limits]
        self._prctl = ctypes.CDLL(None).prctl if _LINUX else None
        self._die_with_parent = tuple(map(ctypes.c_ulong, (_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)))
        self._filter = seccomp.guest_filter(platform.machine()) if "seccomp" in layers else None

    def apply(self) -> None:
        """Apply it, or end this process: a promised layer that fails must cost the job, not the promise."""
        os.setsid()  # so that one signal to the group ends whatever it may have started
        if self._prctl is not None:
            self._prctl(*self._die_with_parent)
            if os.getppid() != self._parent:  # it ended before the line above
                os._exit(1)
        for limit in self._limits:
            resource.setrlimit(*limit)
        if self._filter is not None and not self._filter.install():
            os._exit(1)
