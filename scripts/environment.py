"""Sets up what the doors of the Makefile run in.

    python scripts/environment.py locked | lowest | latest [--venv FOLDER] [--torch REQUIREMENT]
    python scripts/environment.py lock                      renew requirements.lock and say what changed

locked: the versions of requirements.lock, exactly. lowest: the lowest that the ranges of pyproject.toml admit. latest: the
newest. torch is chosen apart (--torch): which of its builds fits is a matter of the machine, so it does not stand in the lock.

Standard library only, and no syntax after Python 3.7, so that an old one is told what it lacks. A finished environment is
recognised by its stamp and costs a tenth of a second. What pip says is kept in FOLDER/install.log.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK, PROJECT = Path("requirements.lock"), Path("pyproject.toml")
OLDEST = (3, 10)
TORCH = "torch==2.13.0"
#: What `python -m venv` and this program put into a folder.
MADE = {
    "bin",
    "etc",
    "include",
    "lib",
    "lib64",
    "share",
    "pyvenv.cfg",
    ".gitignore",
    "installed",
    "install.log",
    "requirements.txt",
}
HEAD = "# Written by `make lock`, without torch: which of its builds fits is a matter of the machine (TORCH in the Makefile).\n"
#: What a failed pip says, and what helps. The first that is found is told.
CAUSES = (
    (
        r"NewConnectionError|NameResolution|name resolution|Name or service not known|Network is unreachable|timed out",
        "The package index cannot be reached. Connect to a network once, or point pip at a folder of wheels (PIP_NO_INDEX=1 "
        "PIP_FIND_LINKS=FOLDER).",
    ),
    (
        r"Location '.*' is ignored[\s\S]*(ResolutionImpossible|No matching distribution)",
        "A place that pip was told to look for wheels in does not exist or lacks them (PIP_FIND_LINKS, PIP_NO_INDEX, pip's "
        "configuration: pip config list).",
    ),
    (r"No space left on device", "The disk is full: the environment takes about 3 GB, and as much in pip's cache."),
    (
        r"No matching distribution found for torch\b",
        "The package index has no such torch for this Python and machine. Name one it has: make TORCH='torch==VERSION' ...",
    ),
)


class SetupError(Exception):
    """Told as one line; ends the program with status 1."""


class Environment:
    """A virtual environment in a folder of the project.

    :param torch: the requirement that pip installs torch by.
    """

    def __init__(self, folder: str, torch: str) -> None:
        self.folder, self.torch = Path(folder), torch
        self.python = self.folder / "bin" / "python"
        self.log, self.stamp = self.folder / "install.log", self.folder / "installed"

    def install(self, which: str) -> None:
        """Everything that is not there yet.

        :param which: ``locked``, ``lowest`` or ``latest``.
        :raises SetupError: says what is in the way and what to do.
        """
        works = self._works()
        if works:
            self._check_version()
            if self.stamp.is_file() and self.stamp.read_text() == self._wanted(which):
                return
        begun = time.monotonic()
        if not works:
            self._create()
        if which == "locked":
            wanted = LOCK
            self._pip("torch", [self.torch, "--constraint", str(LOCK)])
        else:
            wanted = self.folder / "requirements.txt"
            self._pip("torch and uv", [self.torch, "uv"])
            say(f"resolving the {which} versions")
            how = ["--resolution", "lowest-direct"] if which == "lowest" else ["--upgrade"]
            resolve(self, wanted, [*how, "--python", str(self.python)])
        self._pip(f"what {wanted} lists", ["--no-deps", "--requirement", str(wanted)])
        self._pip("the package itself", ["--no-deps", "--no-build-isolation", "--editable", "."])
        self.stamp.write_text(self._wanted(which))
        say(f"{self.folder} is ready after {time.monotonic() - begun:.0f} s (what pip said: {self.log})")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Its Python with these arguments; output and errors together."""
        return subprocess.run([str(self.python), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def torch_needs(self) -> tuple[str, list[str]]:
        """Version of the installed torch, and what it asks for without the parts of its CUDA builds."""
        code = "import importlib.metadata as m, json; print(json.dumps([m.version('torch'), m.requires('torch')]))"
        version, needs = json.loads(self.run("-c", code).stdout.splitlines()[-1])
        plain = [need for need in needs if not re.match(r"nvidia|cuda|triton|pytorch-triton", need) and "extra ==" not in need]
        return version.partition("+")[0], plain

    def _wanted(self, which: str) -> str:
        files = [PROJECT, *([LOCK] if which == "locked" else [])]
        return " ".join([which, self.torch, *(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)])

    def _works(self) -> bool:
        return self.python.exists() and self.run("-c", "import pip").returncode == 0

    def _check_version(self) -> None:
        """A folder made by another Python is neither silently used nor thrown away."""
        found = self.run("-c", "import sys; print('%d.%d' % sys.version_info[:2])").stdout.split()[-1]
        asked = "{}.{}".format(*sys.version_info)
        if found != asked:
            raise SetupError(
                f"{self.folder} holds Python {found}, but {sys.executable} is {asked}. Use the one that is there (make "
                f"PYTHON={self.python} ...), another folder (make VENV=.venv-{asked} ...), or begin anew (make clean)."
            )

    def _create(self) -> None:
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            raise SetupError(f"{self.folder} is a file or a link and no folder. Move it away, or name another: VENV=FOLDER.")
        there = {path.name for path in self.folder.iterdir()} if self.folder.exists() else set()
        if there:
            if "pyvenv.cfg" not in there or there - MADE:
                raise SetupError(
                    f"{self.folder} holds something else than an environment ({', '.join(sorted(there - MADE)[:3])}). Move it "
                    "away, or name another folder: VENV=FOLDER."
                )
            say(f"{self.folder} is broken (its Python or its pip does not run) and is made anew")
            shutil.rmtree(self.folder)
        say(f"creating {self.folder} with Python {sys.version.split()[0]}")
        made = subprocess.run(
            [sys.executable, "-m", "venv", str(self.folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if made.returncode:
            said = " ".join(made.stdout.split())[:300] or "no reason given"
            hint = " On Debian and Ubuntu: apt install python3-venv." if "ensurepip" in said else ""
            raise SetupError(f"{sys.executable} -m venv failed: {said}.{hint}")
        # An older one does not install a pyproject.toml in place, or does not know the tags of today's wheels.
        self._pip("pip", ["pip>=23.1"])

    def _pip(self, title: str, arguments: list[str]) -> None:
        say(f"installing {title}")
        options = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-compile"]
        with self.log.open("a") as log:
            at = log.tell()
            done = subprocess.run([str(self.python), "-m", "pip", "install", *options, *arguments], stdout=log, stderr=log)
        if done.returncode:
            said = self.log.read_bytes()[at:].decode(errors="replace")
            raise SetupError(f"pip could not install {title}. {cause(said)} The whole log: {self.log}")


def cause(said: str) -> str:
    """Why pip failed, in words, as far as it can be told from what it said."""
    last = [line.strip() for line in said.splitlines() if "ERROR" in line][-1:] or ["nothing"]
    return next((text for pattern, text in CAUSES if re.search(pattern, said)), f"It said: {last[0]}")


def resolve(environment: Environment, output: Path, options: list[str]) -> None:
    """Write the versions that uv finds for the package and all that its development needs, without torch."""
    version, needs = environment.torch_needs()
    with tempfile.TemporaryDirectory() as folder:
        settings, constraint = Path(folder, "uv.toml"), Path(folder, "constraint.txt")
        # uv would else read the metadata of a CUDA build, and list gigabytes of libraries.
        known = f"name = {json.dumps('torch')}\nversion = {json.dumps(version)}\nrequires-dist = {json.dumps(needs)}\n"
        settings.write_text(f"[[dependency-metadata]]\n{known}")
        constraint.write_text(f"torch=={version}\n")
        common = [
            "--extra",
            "dev",
            "--no-emit-package",
            "torch",
            "--constraint",
            str(constraint),
            "--config-file",
            str(settings),
        ]
        quiet = ["--no-header", "--no-annotate", "--quiet", "--no-python-downloads"]
        made = environment.run(
            "-m", "uv", "pip", "compile", str(PROJECT), "--output-file", str(output), *common, *quiet, *options
        )
    if made.returncode:
        raise SetupError(f"uv could not resolve the versions: {made.stdout.strip()}")


def renew(environment: Environment) -> None:
    """requirements.lock anew: a version of each package per Python, no hashes, no addresses of indexes."""
    environment.install("locked")
    before = pinned(LOCK)
    resolve(environment, LOCK, ["--upgrade", "--universal", "--python-version", "{}.{}".format(*OLDEST)])
    LOCK.write_text(HEAD + LOCK.read_text())
    after = pinned(LOCK)
    changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    for name in changed:
        old, new = (", ".join(found.get(name, ())) or "-" for found in (before, after))
        print(f"{name:40} {old} -> {new}")
    print(f"{len(changed)} of {len(after)} packages changed.")


def pinned(path: Path) -> dict[str, list[str]]:
    """Name of a package -> its versions, in the order of the file."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), re.MULTILINE):
        found.setdefault(name, []).append(version)
    return found


def say(text: str) -> None:
    print(f"environment: {text}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["locked", "lowest", "latest", "lock"])
    parser.add_argument("--venv", default=".venv", metavar="FOLDER", help="where it lives (default: .venv)")
    parser.add_argument("--torch", default=TORCH, metavar="REQUIREMENT", help="the torch to install (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    if sys.version_info < OLDEST:
        raise SetupError(
            "Python {}.{}.{} runs this ({}); {}.{} or newer is needed. Name one: make PYTHON=python3.12 ...".format(
                *sys.version_info[:3], sys.executable, *OLDEST
            )
        )
    os.chdir(ROOT)
    environment = Environment(chosen.venv, chosen.torch)
    if chosen.what == "lock":
        renew(environment)
    else:
        environment.install(chosen.what)


if __name__ == "__main__":
    try:
        main()
    except SetupError as problem:
        say(str(problem))
        sys.exit(1)
