"""Which files a guest may open: a Landlock ruleset, applied once, to the zygote.

What is granted is read access to the standard library, to a few well-known packages, to shared libraries and
to harmless devices; write access to one scratch folder. No home, no data sets, no /proc, no /tmp, nothing of
site-packages beyond those packages (this very project's test data may be installed there).
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import sysconfig

from lm_eval_ensemble.execution.surroundings import PACKAGES, package_folders

__all__ = ["restrict", "version"]

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same numbers on every architecture
_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
_EXECUTE, _MAKE_CHAR, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK = 1 << 0, 1 << 6, 1 << 9, 1 << 10, 1 << 11
_READ = _READ_FILE | _READ_DIR
_TCP = 0b11  # bind, connect
_SCOPES = 0b11  # abstract unix sockets, signals

_SHARED = ("/usr/lib", "/lib", "/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache", "/etc/localtime")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """The kernel's Landlock version; 0 where there is none or it may not be used."""
    if sys.platform != "linux":
        return 0
    return max(0, int(_libc.syscall(_CREATE, None, ctypes.c_size_t(0), 1)))


def restrict(scratch: str) -> bool:
    """Confine this process and its children for good. False where the kernel refuses (needs no_new_privs)."""
    abi = version()
    handled = _file_rights(abi)
    attributes = struct.pack("<QQQ", handled, _TCP, _SCOPES)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = int(_libc.syscall(_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0))
    if ruleset < 0:
        return False
    try:
        for path, rights in _grants(handled).items():
            _allow(ruleset, path, rights & handled)
        special = _EXECUTE | _MAKE_CHAR | _MAKE_BLOCK | _MAKE_SOCK | _MAKE_FIFO
        return _allow(ruleset, scratch, handled & ~special) and _libc.syscall(_RESTRICT, ruleset, 0) == 0
    finally:
        os.close(ruleset)


def _file_rights(abi: int) -> int:
    """Every right on files that this version can withhold."""
    rights = (1 << 13) - 1
    for since, right in ((2, 1 << 13), (3, _TRUNCATE), (5, 1 << 15)):
        rights |= right if abi >= since else 0
    return rights


def _grants(handled: int) -> dict[str, int]:
    grants = dict.fromkeys(_SHARED, _READ)
    grants |= dict.fromkeys(_DEVICES, _READ_FILE | _WRITE_FILE | _TRUNCATE)
    grants |= dict.fromkeys(_standard_library(), _READ)
    for folder in (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *package_folders()):
        # Imports list the folder (its content stays closed) and then read the granted packages in it.
        grants[folder] = _READ_DIR
        grants |= dict.fromkeys((f"{folder}/{name}" for name in PACKAGES), _READ)
    return {os.path.realpath(path): rights for path, rights in grants.items()}


def _standard_library() -> list[str]:
    """Its parts one by one: site-packages often lies inside it and must stay closed."""
    paths = []
    for folder in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}:
        if os.path.isdir(folder):
            names = set(os.listdir(folder)) - {"site-packages", "dist-packages"}
            paths += [f"{folder}/{name}" for name in sorted(names)]
    libraries = os.path.join(sys.base_prefix, "lib")
    if os.path.isdir(libraries):
        paths += [f"{libraries}/{name}" for name in os.listdir(libraries) if ".so" in name or name.endswith(".zip")]
    return paths


def _allow(ruleset: int, path: str, rights: int) -> bool:
    """Grant rights below ``path``; paths that do not exist are skipped."""
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if not os.path.isdir(path):
            rights &= _READ_FILE | _WRITE_FILE | _TRUNCATE
        return bool(_libc.syscall(_ADD_RULE, ruleset, 1, struct.pack("<Qi", rights, handle), 0) == 0)
    finally:
        os.close(handle)
