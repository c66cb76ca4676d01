"""Filters of system calls (seccomp) for guests, written as BPF by hand so that no library is needed.

Two filters. The first goes into the zygote, once; every guest inherits it. The second, a handful of
instructions, takes away what only the zygote needs (forking, signals, setting limits) and is installed by each
guest before it runs anything. Both refuse with an errno that a program can handle; neither kills.
"""

from __future__ import annotations

import ctypes
import platform
import struct
import sys

from lm_eval_ensemble.execution.syscalls import ARCHITECTURES, DENIED, DENIED_TO_GUESTS, FIRST_UNKNOWN, SPECIAL

__all__ = ["Filter", "guest_filter", "supported", "zygote_filter"]

# Instructions of classic BPF (linux/bpf_common.h) and answers of a filter (linux/seccomp.h).
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _EPERM, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
# Offsets in struct seccomp_data: number, architecture, then six arguments of 8 bytes (low word first).
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_CLONE_THREAD = 0x10000
_X32_BIT = 0x40000000
# fcntl and ioctl can make the kernel send any signal to any process of the same user (F_SETOWN, F_SETSIG,
# F_SETOWN_EX; FIOSETOWN, SIOCSPGRP), or type into a terminal (TIOCSTI, TIOCLINUX). Leases and notices (F_SETLEASE,
# F_NOTIFY) are about what other processes do with a file.
_BAD_FCNTL = (8, 10, 15, 1024, 1026)
_BAD_IOCTL = (0x8901, 0x8902, 0x5412, 0x541C)
# A guest must keep its tie to the life of the zygote (PR_SET_PDEATHSIG) and stay closed to debuggers
# (PR_SET_DUMPABLE, PR_SET_PTRACER).
_BAD_PRCTL = (1, 4, 0x59616D61)
# Of another process than oneself (number 0) these tell which numbers are alive.
_OF_OTHERS = (
    *("sched_getaffinity", "sched_getscheduler", "sched_getparam", "sched_getattr", "sched_rr_get_interval"),
    *("getpgid", "getsid", "get_robust_list"),
)


def supported() -> bool:
    """Whether these tables know the machine. (Whether its kernel plays along is for the probe to see.)"""
    return sys.platform == "linux" and platform.machine() in ARCHITECTURES and sys.byteorder == "little"


class _Program:
    """A BPF program in the making; the accumulator holds the number of the call between two checks."""

    def __init__(self, machine: str) -> None:
        self.column = ARCHITECTURES[machine][1]
        self.code = b""
        self._add(_LOAD, _ARCHITECTURE)
        self._add(_JUMP_EQUAL, ARCHITECTURES[machine][0], yes=1)
        self._add(_RETURN, _KILL)
        self._add(_LOAD, _NUMBER)

    def _add(self, code: int, value: int, yes: int = 0, no: int = 0) -> None:
        self.code += struct.pack("<HBBI", code, yes, no, value)

    def refuse_unknown(self) -> None:
        """Calls newer than our tables, and the x32 doubles of known ones."""
        self._add(_JUMP_AT_LEAST, _X32_BIT, no=1)
        self._add(_RETURN, _EPERM)
        self._add(_JUMP_AT_LEAST, FIRST_UNKNOWN, no=1)
        self._add(_RETURN, _ENOSYS)

    def answer(self, name: str, answer: int) -> None:
        self._add(_JUMP_EQUAL, SPECIAL[name][self.column], no=1)
        self._add(_RETURN, answer)

    def refuse_values(self, name: str, argument: int, values: tuple[int, ...]) -> None:
        """Refuse the call ``name`` where an argument's low word (all the kernel reads) is one of ``values``."""
        self._add(_JUMP_EQUAL, SPECIAL[name][self.column], no=len(values) + 3)
        self._add(_LOAD, _ARGUMENTS + 8 * argument)
        for index, value in enumerate(values):
            self._add(_JUMP_EQUAL, value, yes=len(values) - index)
        self._add(_RETURN, _ALLOW)
        self._add(_RETURN, _EPERM)

    def only_threads(self) -> None:
        """Allow ``clone`` for threads of the same process only."""
        self._add(_JUMP_EQUAL, SPECIAL["clone"][self.column], no=4)
        self._add(_LOAD, _ARGUMENTS)
        self._add(_JUMP_ANY_BIT, _CLONE_THREAD, yes=1)
        self._add(_RETURN, _EPERM)
        self._add(_RETURN, _ALLOW)

    def only_null(self, name: str, argument: int) -> None:
        """Allow the call ``name`` only where an argument (both its words) is null."""
        self._add(_JUMP_EQUAL, SPECIAL[name][self.column], no=6)
        self._add(_LOAD, _ARGUMENTS + 8 * argument)
        self._add(_JUMP_EQUAL, 0, no=2)
        self._add(_LOAD, _ARGUMENTS + 8 * argument + 4)
        self._add(_JUMP_EQUAL, 0, yes=1)
        self._add(_RETURN, _EPERM)
        self._add(_RETURN, _ALLOW)

    def finish(self, denied: dict[str, tuple[int | None, int | None]]) -> Filter:
        """Refuse the calls of a table, allow the rest."""
        numbers = sorted(row[self.column] for row in denied.values() if row[self.column] is not None)  # type: ignore[type-var]
        for index, number in enumerate(numbers):
            self._add(_JUMP_EQUAL, number or 0, yes=len(numbers) - index)
        self._add(_RETURN, _ALLOW)
        self._add(_RETURN, _EPERM)
        return Filter(self.code)


class _SockFprog(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


class Filter:
    """A finished program, held in memory where the kernel can read it."""

    def __init__(self, code: bytes) -> None:
        self.code = code
        self._buffer = ctypes.create_string_buffer(code, len(code))
        self._header = _SockFprog(len(code) // 8, ctypes.addressof(self._buffer))
        address = ctypes.addressof(self._header)
        self._call = tuple(map(ctypes.c_ulong, (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, address, 0, 0)))
        self._prctl = ctypes.CDLL(None).prctl

    def install(self) -> bool:
        """Install it for this process and its children, for good. False where the kernel refuses."""
        return bool(self._prctl(*self._call) == 0)


def zygote_filter(machine: str) -> Filter:
    program = _Program(machine)
    program.refuse_unknown()
    program.answer("clone3", _ENOSYS)  # its flags lie in memory, out of a filter's sight; glibc falls back to clone
    program.refuse_values("fcntl", 1, _BAD_FCNTL)
    program.refuse_values("ioctl", 1, _BAD_IOCTL)
    program.only_null("sendto", 4)  # an unconnected datagram socket of a pair could be sent to any path
    for name in _OF_OTHERS:
        program.only_null(name, 0)
    for name in ("getpriority", "ioprio_get"):
        program.only_null(name, 1)
    return program.finish(DENIED)


def guest_filter(machine: str) -> Filter:
    program = _Program(machine)
    program.only_threads()
    program.only_null("prlimit64", 2)  # reading limits, not setting them
    program.refuse_values("prctl", 0, _BAD_PRCTL)
    return program.finish(DENIED_TO_GUESTS)
