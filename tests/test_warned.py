"""The rule of warnings, on a dependency of ours that changes: a run of pytest over a small project of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warned

WARNED = Path(warned.__file__)
#: Raises warnings of its own when it is imported and when it is called; its old names, when they are called.
DEPENDENCY = """
import functools, warnings
warnings.warn("a dependency of mine moves", FutureWarning, stacklevel=2)

def _inner():
    warnings.warn("mine, inside", FutureWarning, stacklevel=2)

def compute(value):
    _inner()
    warnings.warn("mine, plain", FutureWarning)
    return value

def old_name(value):
    warnings.warn("old_name is compute now", FutureWarning, stacklevel=2)
    return value

def divide(value):
    warnings.warn("divided by zero", RuntimeWarning)
    return value

def renamed(function):
    @functools.wraps(function)
    def wrapped(self, **named):
        if "old" in named:
            warnings.warn("old is new now", FutureWarning, stacklevel=2)
            named["new"] = named.pop("old")
        return function(self, **named)
    return wrapped

def layer():
    import torch

    class Layer(torch.nn.Module):
        @renamed
        def forward(self, new):
            return new

    return Layer()
"""


#: A room of ours that calls it.
ROOM = """
import dependency

def compute():
    dependency.compute(1)

def old_name():
    dependency.old_name(1)

def old_argument():
    dependency.layer()(old=1)

def caught():
    try:
        dependency.old_name(1)
    except Warning:
        pass

def divide():
    dependency.divide(1)
"""
GREEN = {
    "called_by_a_test": "dependency.compute(1)",
    "called_by_us": "room.compute()",
    "expected": "with pytest.warns(FutureWarning):\n        dependency.old_name(1)",
    "about_something_else": "dependency.divide(1)",
}
RED = {
    "an_old_name_in_a_test": ("dependency.old_name(1)", "FutureWarning: old_name is compute now"),
    "an_old_name_of_ours": ("room.old_name()", "FutureWarning: old_name is compute now"),
    "an_old_argument_through_torch": ("room.old_argument()", "FutureWarning: old is new now"),
    "a_caught_one": ("room.caught()", "FutureWarning: old_name is compute now"),
    "what_we_do": ("room.divide()", "RuntimeWarning: divided by zero"),
}


def run(folder: Path, tests: str) -> str:
    """What pytest prints of a project that watches its warnings."""
    for name, text in {
        "site/dependency.py": DEPENDENCY,
        "lm_eval_ensemble/room.py": ROOM,
        "tests/test_it.py": f"import dependency\nimport pytest\nimport room\n\n{tests}",
        "conftest.py": "import pathlib\nimport importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('warned', {str(WARNED)!r})\n"
        "warned = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(warned)\n\n"
        "def pytest_configure(config):\n    config.pluginmanager.register(warned.Watch(pathlib.Path(__file__).parent))\n",
        "pytest.ini": "[pytest]\nfilterwarnings = always\npythonpath = lm_eval_ensemble site\n"
        "addopts = -p no:cacheprovider --import-mode=importlib -rA\n",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "tests"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    bodies = {**GREEN, **{name: body for name, (body, _) in RED.items()}}
    tests = "\n".join(f"def test_{name}():\n    {body}\n" for name, body in bodies.items())
    return run(tmp_path_factory.mktemp("project"), tests)


@pytest.mark.parametrize("name", GREEN)
def test_a_dependencys_own_warnings_leave_the_tests_green(printed: str, name: str) -> None:
    assert f"PASSED tests/test_it.py::test_{name}\n" in printed


@pytest.mark.parametrize("name", RED)
def test_what_our_calls_raise_turns_them_red(printed: str, name: str) -> None:
    assert re.search(rf"^FAILED tests/test_it\.py::test_{name}\b", printed, re.MULTILINE)
    part = printed.split(f" test_{name} _")[1].split("\n____")[0]
    assert "A call of ours raises a warning." in part
    assert RED[name][1] in part


def test_deprecations_below_our_calls_are_listed_at_the_end(printed: str) -> None:
    listed = printed.split("deprecations below calls of ours")[1]
    assert "lm_eval_ensemble/room.py:5: FutureWarning: mine, inside" in listed
    assert "lm_eval_ensemble/room.py:2: FutureWarning: a dependency of mine moves" not in listed  # the test imported it first
    assert "tests/test_it.py:1: FutureWarning: a dependency of mine moves" in listed


def test_an_import_of_ours_by_an_old_name_turns_them_red(tmp_path: Path) -> None:
    printed = run(tmp_path, "dependency.old_name(1)\n")
    assert "An import of ours raises a warning." in printed
    assert "passed" not in printed
