"""OpenAI's own checker, for comparison: ``human_eval_infilling.execution.check_correctness``.

It is not contained and can be fooled; use it to compare verdicts, not to trust them. It forks, so it runs in an
interpreter of its own, never in the harness.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lm_eval_ensemble.errors import SandboxError
from lm_eval_ensemble.execution.jobs import Job, Verdict

__all__ = ["PACKAGE", "judge_by_reference"]

PACKAGE = "human_eval_infilling"
_REPOSITORY = "https://github.com/openai/human-eval-infilling"

# Known wrong: a checker whose exec line is commented out calls it passed, like everything else.
_GUARD = Job("def f(x):\n", "    return x\n", "", "def check(candidate):\n    assert candidate(1) == 2\n", "f")

# Results go to a file that is named on the command line: the programs under test may print.
_SCRIPT = f"""
import json, sys
sys.path[:0] = json.loads(sys.argv[2])
from {PACKAGE}.execution import check_correctness

if __name__ == "__main__":
    job = json.load(sys.stdin)
    with open(sys.argv[1], "w") as file:
        for number, problem in enumerate(job["problems"]):
            result = check_correctness(problem, problem["completion"], job["timeout"], number)
            file.write(json.dumps([bool(result["passed"]), str(result["result"])]) + "\\n")
            file.flush()
"""


def judge_by_reference(jobs: Sequence[Job], *, timeout: float = 3.0) -> list[Verdict]:
    """The verdicts of OpenAI's checker, in the order of the jobs.

    :raises SandboxError: the package is not installed, its exec line is still commented out, or it broke down.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise SandboxError(
            f"judge=reference needs OpenAI's package {PACKAGE}, which is not installed: clone {_REPOSITORY}, pip install -e it."
        )
    (guard,) = _run([_GUARD], timeout)
    if guard.passed:
        raise SandboxError(
            f"judge=reference: {PACKAGE} calls a known-wrong answer {guard.why!r}. The exec line in its execution.py is still "
            "commented out, so everything passes. Read the warning there, remove the comment sign, and run again."
        )
    return _run(jobs, timeout)


def _run(jobs: Sequence[Job], timeout: float) -> list[Verdict]:
    message = {"timeout": timeout, "problems": [_problem(job, index) for index, job in enumerate(jobs)]}
    with tempfile.TemporaryDirectory(prefix="lm-eval-ensemble-reference-") as name:
        folder = Path(name)
        (folder / "checker.py").write_text(_SCRIPT, encoding="utf-8")
        (folder / "jobs.json").write_text(json.dumps(message), encoding="ascii")
        (folder / "results.jsonl").touch()
        _check(folder)
        lines = [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
        complaint = (folder / "errors.txt").read_text(encoding="utf-8", errors="replace")[-2000:]
    if len(lines) != len(jobs):
        raise SandboxError(f"judge=reference: {PACKAGE} broke down after {len(lines)} of {len(jobs)} jobs:\n{complaint}")
    return [_verdict(*line) for line in lines]


def _check(folder: Path) -> None:
    """Run the checker. It leaks managers, so no pipe is shared with it and its whole group is ended afterwards."""
    with open(folder / "jobs.json", "rb") as jobs, open(folder / "errors.txt", "wb") as errors:
        process = subprocess.Popen(
            [sys.executable, str(folder / "checker.py"), str(folder / "results.jsonl"), json.dumps(sys.path)],
            stdin=jobs,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        try:
            process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _problem(job: Job, index: int) -> dict[str, str]:
    return {
        "task_id": str(index),
        "prompt": job.prompt,
        "suffix": job.suffix,
        "test": job.test,
        "entry_point": job.entry_point,
        "completion": job.completion,
    }


def _verdict(passed: bool, result: str) -> Verdict:
    if passed:
        return Verdict("pass", result)
    return Verdict("timeout" if result == "timed out" else "fail", result)
