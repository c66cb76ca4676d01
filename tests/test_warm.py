"""A program that a test starts does the same in a fork of the process that holds its libraries (site/warm.py)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, sys
early = "torch" in sys.modules
print(sys.argv[1:], os.getcwd(), os.environ.get("LM_EVAL_ENSEMBLE_X"), early, __name__, sys.stdin.read())
print("to the other", file=sys.stderr)
os.umask(umask := os.umask(0))
sys.exit(umask)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "block.py").write_text(PROGRAM)
    return tmp_path / "block.py"


def start(program: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    command, environment, pipe = [sys.executable, "block.py", *arguments], {**os.environ, **variables}, subprocess.PIPE
    return subprocess.Popen(
        command, cwd=program.parent, env=environment, text=True, umask=5, stdin=pipe, stdout=pipe, stderr=pipe
    )


@pytest.mark.parametrize(("variable", "forked"), [("LM_EVAL_ENSEMBLE_X", True), ("HF_X", False)])
def test_files_folder_arguments_environment_and_status_are_those_of_the_program(
    program: Path, variable: str, forked: bool
) -> None:
    """What a library might read while it is imported makes it a program of its own."""
    process = start(program, "a b", "", **{variable: "y"})
    told, other = process.communicate("given")
    value = "y" if forked else None
    assert told == f"['a b', ''] {program.parent} {value} {forked} __main__ given\n"
    assert other == "to the other\n"
    assert process.returncode == 5


def test_a_signal_reaches_it_and_ends_both(program: Path) -> None:
    program.write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    process = start(program)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == -signal.SIGTERM


def test_it_ends_with_the_program_that_handed_it_over(program: Path) -> None:
    program.write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)\n")
    process = start(program)
    assert process.stdout is not None
    fork = int(process.stdout.readline())
    assert fork != process.pid
    process.kill()
    assert process.stdout.read() == ""  # its end of the pipe is closed as it ends, long before 60 seconds
    process.communicate()


def test_an_exception_is_a_traceback_and_status_one(program: Path) -> None:
    program.write_text("raise KeyError('gone')\n")
    process = start(program)
    _, told = process.communicate()
    assert told.endswith("KeyError: 'gone'\n")
    assert process.returncode == 1
