"""Every kind of test that people bring: as a plain run says, or one clear word."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lm_eval_ensemble.execution import Judge, Verdict
from tests.execution.helpers import STRICT
from tests.execution.kinds import BROKEN, Kind
from tests.execution.kinds import KINDS as TABLE
from tests.execution.styles import STYLES

LIMIT = 1.0
KINDS = [*TABLE, *STYLES]
MODULES = ("calc.py", "tools/calc.py", "other/calc.py")  # by which tests import their program
Pair = tuple[Verdict, Verdict]

pytestmark = pytest.mark.skipif(not STRICT, reason="needs Landlock and seccomp, which this machine lacks")


@pytest.fixture(scope="module")
def verdicts() -> Iterator[dict[str, Pair]]:
    jobs = [kind.job for kind in KINDS]
    with Judge(2, LIMIT, progress=False) as judge:
        pairs = zip(judge.run(jobs), judge.run(jobs, "together"), strict=True)
        yield dict(zip((kind.name for kind in KINDS), pairs, strict=True))
        assert judge.lost == 0


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The verdict of one file with program and test, run by an interpreter of its own."""
    folder = tmp_path_factory.mktemp("plain")

    def run(number: int) -> str:
        kind = KINDS[number]
        path = folder / str(number) / "plain.py"
        seconds = 1 if kind.plain == "timeout" else 20  # of the processor: a busy machine is no reason to be late
        for name in MODULES:
            (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
            (path.parent / name).write_text(kind.job.program)
        path.write_text(kind.job.program + kind.test + _call(kind) + f"\nopen({str(path) + '.end'!r}, 'w')\n")
        try:
            done = subprocess.run(
                [sys.executable, path.name],
                cwd=path.parent,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
                timeout=120,
                check=False,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds)),
            )
        except subprocess.TimeoutExpired:
            return "timeout"
        if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            return "timeout"
        # Either the end of the file, or an exit that the test itself (or unittest) asked for.
        ended = Path(str(path) + ".end").exists() or "sys.exit" in kind.test or "unittest.main" in kind.test
        return "pass" if done.returncode == 0 and ended else "fail"

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, range(len(KINDS))))
    return {kind.name: verdict for kind, verdict in zip(KINDS, found, strict=True)}


def _call(kind: Kind) -> str:
    """What the text leaves to its harness."""
    text, entry = kind.test, kind.job.entry
    if "import pytest" in text:
        own = "assert pytest.main([__file__, '-q', '-p', 'no:cacheprovider']) == 0"
        return f"\nif __name__ == '__main__':\n    {own}\n"
    if "def check" in text and "check(f)" not in text.replace("    check(f)", ""):
        call = "check()" if "def check()" in text else f"check({entry})"
        return f"\nimport asyncio; asyncio.run({call})\n" if "async def check" in text else f"\n{call}\n"
    if "TestCase):" in text and "main" not in text:
        return "\nunittest.main(exit=False).result.wasSuccessful() or 1 / 0\n"
    if "class TestF:" in text:
        return "\nt = TestF(); getattr(t, 'setup_method', int)(); t.test_one()\n"
    return "\ntest_one()\n" if "def test_one():" in text else ""


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.replace(" ", "_"))
def test_kind(kind: Kind, verdicts: dict[str, Pair], plain: dict[str, str]) -> None:
    assert plain[kind.name] == kind.plain
    for verdict, said in zip(verdicts[kind.name], (kind.apart, kind.together), strict=True):
        assert verdict.status == ((said or kind.plain) if said != "?" else "fail"), verdict.why
        if said == "?":
            assert verdict.why.startswith("cannot judge: ")
            assert not verdict.judged


def test_no_wrong_program_passes_and_every_right_one_does_somewhere(verdicts: dict[str, Pair]) -> None:
    for kind in KINDS:
        if kind in BROKEN or "?" in kind.together:
            continue
        passed = [verdict.passed for verdict in verdicts[kind.name]]
        assert any(passed) == (kind.plain == "pass" and kind.apart + kind.together != "failfail"), kind.name


def test_the_table_has_no_name_twice() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS) > 170
