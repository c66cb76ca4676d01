"""OpenAI's checker through a small package of the same layout, with and without its exec line."""

from __future__ import annotations

from pathlib import Path

import pytest

from lm_eval_ensemble.errors import SandboxError
from lm_eval_ensemble.execution.reference import judge_by_reference
from tests.execution.helpers import job

# The layout and the behaviour of openai/human-eval-infilling's execution.py; {line} is its famous line.
_EXECUTION = """
import contextlib, io, multiprocessing, signal

def check_correctness(problem, completion, timeout, completion_id=None):
    def unsafe_execute():
        program = (problem["prompt"] + completion + problem["suffix"] + "\\n" + problem["test"] + "\\n"
                   + f"check({{problem['entry_point']}})")
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                signal.setitimer(signal.ITIMER_REAL, timeout)
                {line}
                signal.setitimer(signal.ITIMER_REAL, 0)
            result.append("passed")
        except BaseException as error:
            result.append(f"failed: {{error}}")

    result = multiprocessing.Manager().list()
    process = multiprocessing.Process(target=unsafe_execute)
    process.start()
    process.join(timeout=timeout + 1)
    if process.is_alive():
        process.kill()
    if not result:
        result.append("timed out")
    return dict(task_id=problem["task_id"], passed=result[0] == "passed", result=result[0], completion_id=completion_id)
"""


def _install(folder: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder / "human_eval_infilling"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "execution.py").write_text(_EXECUTION.format(line=line))
    monkeypatch.syspath_prepend(str(folder))


def test_gives_its_verdicts_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, "exec(program, {})", monkeypatch)
    jobs = [
        job("    return x + 1\n"),
        job("    return x\n"),
        job("    while True: pass\n"),
        job("    print('x')\n    return x + 1\n"),
    ]
    assert [v.status for v in judge_by_reference(jobs, timeout=1.0)] == ["pass", "fail", "timeout", "pass"]


def test_refuses_a_checker_that_passes_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, "pass  # exec(program, {})", monkeypatch)
    with pytest.raises(SandboxError, match=r"exec line in its execution\.py is still commented out"):
        judge_by_reference([job("    return x + 1\n")])


def test_says_how_to_install_the_package() -> None:
    with pytest.raises(SandboxError, match="clone https://github"):
        judge_by_reference([job("    return x + 1\n")])


def test_says_when_it_broke_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(tmp_path, "import os; os.kill(os.getppid(), 9)", monkeypatch)
    with pytest.raises(SandboxError, match="broke down after 0 of 1 jobs"):
        judge_by_reference([job("    return x + 1\n")])
