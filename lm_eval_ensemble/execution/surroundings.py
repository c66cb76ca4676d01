"""What a program finds around it: standard streams, arguments, packages, a folder of its own."""

from __future__ import annotations

import functools
import importlib.machinery
import os
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["PACKAGES", "mute", "package_folders", "seed_random", "settle"]

# What honest programs import besides the standard library, and what these import in turn.
PACKAGES = (
    *("numpy", "numpy.libs", "scipy", "scipy.libs", "pandas", "pandas.libs", "sympy", "mpmath", "networkx"),
    *("sortedcontainers", "dateutil", "pytz", "tzdata", "six.py", "typing_extensions.py"),
    *("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "py.py"),
    *("exceptiongroup", "tomli"),  # of pytest, before Python 3.11
)


# Modules that set modes and times of the files they make, to make them like others.
_COPIERS = ("shutil", "tarfile", "zipfile", "tempfile")


def settle(scratch: str) -> None:
    """Prepare a process for programs; everything here is inherited by its forks."""
    mute()
    os.environ.update(HOME=scratch, TMPDIR=scratch)
    os.chdir(scratch)
    for folder in package_folders():
        sys.path_importer_cache[folder] = _GrantedFinder(folder, *_loaders())
    os.chmod, os.utime = (_lenient(act, scratch) for act in (os.chmod, os.utime))


def mute() -> None:
    """Standard streams that are real, and lead nowhere: floods end there, reading finds the end at once."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = open(number, "w" if number else "r", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.argv = [""]


def seed_random() -> None:
    """Have ``random`` seeded when it is imported, so that whoever draws numbers draws the same in every run."""
    sys.meta_path.insert(0, _SeededRandom())


def package_folders() -> list[str]:
    """Where packages are installed."""
    return [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]


class _GrantedFinder(importlib.machinery.FileFinder):
    """Finds the granted packages of a folder only: any other is not there, as on a machine that lacks it."""

    def find_spec(self, fullname: str, target: Any = None) -> Any:
        name = fullname.partition(".")[0]
        if name in PACKAGES or f"{name}.py" in PACKAGES:
            return super().find_spec(fullname, target)
        return None


class _SeededRandom:
    """Importing it beforehand would be simpler, but then every fork seeds it anew from the system, which takes longer than
    all else that a fork does.
    """

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != "random":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _SeededLoader(fullname, spec.origin)
        return spec


class _SeededLoader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: Any) -> None:
        super().exec_module(module)
        module.seed(0)


def _loaders() -> list[tuple[type, list[str]]]:
    machinery = importlib.machinery
    return [
        (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES),
        (machinery.SourceFileLoader, machinery.SOURCE_SUFFIXES),
        (machinery.SourcelessFileLoader, machinery.BYTECODE_SUFFIXES),
    ]


def _lenient(act: Callable[..., None], scratch: str) -> Callable[..., None]:
    """Modes and times of files cannot be set (their owner could set them anywhere). For the standard library, when it
    copies or unpacks files into the scratch folder, that is no reason to fail."""

    @functools.wraps(act)
    def attempt(path: Any, *arguments: Any, **keywords: Any) -> None:
        try:
            act(path, *arguments, **keywords)
        except PermissionError:
            caller = sys._getframe(1).f_globals.get("__name__")
            own = not isinstance(path, int) and os.path.realpath(path).startswith(os.path.realpath(scratch) + os.sep)
            if caller not in _COPIERS or not own:
                raise

    for group in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
        if act in group:
            group.add(attempt)
    return attempt
