"""Every case of the table, each one exact."""

from __future__ import annotations

import collections
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lm_eval_ensemble.execution import Judge, Verdict
from tests.execution.helpers import STRICT, leftovers
from tests.execution.hostile import Case
from tests.execution.odd import CASES

# The limit is not what is tested; a short one saves a minute.
LIMIT = 1.0


@pytest.fixture(scope="module")
def verdicts() -> Iterator[dict[str, Verdict]]:
    """All judged at once, in the order of the table: a case that harms the ones after it shows."""
    cases = [case for case in CASES if STRICT or not case.layered]
    with Judge(2, LIMIT, progress=False) as judge:
        yield dict(zip((case.name for case in cases), judge.run([case.job for case in cases]), strict=True))
        assert judge.lost == 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.category}-{case.name}".replace(" ", "_"))
def test_verdict(case: Case, verdicts: dict[str, Verdict]) -> None:
    if case.name not in verdicts:
        pytest.skip("needs Landlock and seccomp, which this machine lacks")
    assert verdicts[case.name].status == case.status, verdicts[case.name].why


def test_nothing_is_left_behind(verdicts: dict[str, Verdict]) -> None:
    folders = (Path("/tmp"), Path("/dev/shm"), Path.cwd())
    assert not any((folder / "hostile-wrote-this").exists() for folder in folders)


def test_without_layers_the_verdict_is_as_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cases = [case for case in CASES if case.category == "forged verdicts"]
    with Judge(2, LIMIT, "off", progress=False) as judge:
        found = judge.run([case.job for case in cases])
    assert {c.name: v.status for c, v in zip(cases, found, strict=True)} == {c.name: c.status for c in cases}
    assert leftovers(tmp_path) == []


def test_the_table_is_large_and_has_no_name_twice() -> None:
    assert len(CASES) >= 200
    assert len(collections.Counter(case.category for case in CASES)) == 7
    assert len({case.name for case in CASES}) == len(CASES)
