"""What several tests of the judge share."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import pytest

from lm_eval_ensemble.execution import Job, landlock, seccomp
from lm_eval_ensemble.execution.staff import FOLDER_PREFIX

DATA = os.environ.get("LM_EVAL_ENSEMBLE_DATA")
LINUX = platform.system() == "Linux"
# Whether a worker here can put on every layer.
STRICT = LINUX and landlock.version() > 0 and seccomp.supported()

needs_layers = pytest.mark.skipif(not STRICT, reason="Landlock or seccomp is missing on this machine")
needs_proc = pytest.mark.skipif(not LINUX, reason="looks for processes in /proc")

TEST = "def check(candidate):\n    assert candidate(3) == 4\n    assert candidate(10) == 11\n"


def job(body: str, *, test: str = TEST) -> Job:
    """``def f(x):`` completed by ``body``; right if it returns ``x + 1``."""
    return Job("def f(x):\n", body, "", test, "f")


def processes(folder: Path) -> set[int]:
    """Workers, zygotes and guests that are alive: they carry the folder of their pool on their command line."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command, state = (entry / "cmdline").read_bytes(), (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            continue
        if b"the pool closed the pipe" in command and str(folder).encode() in command and state != "Z":
            found.add(int(entry.name))
    return found


def leftovers(folder: Path, seconds: float = 5.0) -> list[object]:
    """What pools under ``folder`` left behind. The kernel may take a moment to end the last process."""
    deadline = time.monotonic() + seconds
    while True:
        left: list[object] = [*(processes(folder) if LINUX else ()), *folder.glob(FOLDER_PREFIX + "*")]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)
