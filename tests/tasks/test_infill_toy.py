"""``infill_toy``: the problems hold what their file promises. One subprocess runs all programs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
import yaml

from lm_eval_ensemble.data import load_documents, tasks_folder

# Our own text, so a fresh dict per program is separation enough; the alarm turns an endless loop into a failure.
_RUNNER = """
import json, signal, sys

def stop(number, frame):
    raise TimeoutError

def passes(program, test, entry_point):
    space = {}
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        exec(program, space)
        exec(test, space)
        space["check"](space[entry_point])
    except Exception:
        return False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return True

signal.signal(signal.SIGALRM, stop)
print(json.dumps([passes(*job) for job in json.load(sys.stdin)]))
"""


def _run(programs: list[tuple[str, str, str]]) -> list[bool]:
    """Whether each (program, test, entry point) passes."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", _RUNNER],
        input=json.dumps(programs),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    verdicts: list[bool] = json.loads(done.stdout)
    return verdicts


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return load_documents("infill_toy")


@pytest.fixture(scope="module")
def problems() -> list[dict[str, Any]]:
    text = (tasks_folder() / "infill_toy" / "problems.yaml").read_text(encoding="utf-8")
    loaded: list[dict[str, Any]] = yaml.safe_load(text)
    return loaded


def test_canonical_programs_pass_and_empty_middles_fail(documents: list[dict[str, Any]]) -> None:
    filled = [(d["prefix"] + d["middle"] + d["suffix"], d["test"], d["entry_point"]) for d in documents]
    empty = [(d["prefix"] + d["suffix"], d["test"], d["entry_point"]) for d in documents]
    verdicts = _run(filled + empty)
    names = [d["task_id"] for d in documents]
    wrong = [name for name, passed in zip(names, verdicts[: len(names)], strict=True) if not passed]
    idle = [name for name, passed in zip(names, verdicts[len(names) :], strict=True) if passed]
    assert (wrong, idle) == ([], [])


def test_about_forty_gaps_over_three_kinds(problems: list[dict[str, Any]], documents: list[dict[str, Any]]) -> None:
    kinds = Counter(gap["kind"] for problem in problems for gap in problem["gaps"])
    assert set(kinds) == {"line", "block", "span"}
    assert 35 <= kinds.total() <= 50
    assert min(kinds.values()) >= 10
    assert len({d["task_id"] for d in documents}) == kinds.total()
    assert len({problem["name"] for problem in problems}) == len(problems)


def test_gaps_are_of_the_kind_they_claim(problems: list[dict[str, Any]]) -> None:
    for problem in problems:
        lines = problem["source"].splitlines(keepends=True)
        for gap in problem["gaps"]:
            middle = gap["middle"]
            pieces = middle.splitlines(keepends=True)
            starts = [i for i in range(len(lines)) if lines[i : i + len(pieces)] == pieces]
            whole = len(pieces) if starts else 0
            expected = {"line": whole == 1, "block": 2 <= whole <= 4, "span": whole == 0}
            assert expected[gap["kind"]], (problem["name"], gap)


def test_every_check_has_at_least_five_asserts(problems: list[dict[str, Any]]) -> None:
    for problem in problems:
        assert problem["test"].startswith("def check(candidate):\n"), problem["name"]
        assert problem["test"].count("    assert candidate(") >= 5, problem["name"]
        assert problem["test"].count("    assert ") == problem["test"].count(") == "), problem["name"]


def test_only_one_line_gaps_are_cut(documents: list[dict[str, Any]]) -> None:
    for document in documents:
        kind = document["task_id"].rsplit("/", 1)[1].rstrip("0123456789")
        assert document["cut"] == ("line" if kind == "line" else "none"), document["task_id"]
