from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from lm_eval_ensemble.diffusion.confidence import Probe, Signals
from lm_eval_ensemble.diffusion.fit import digest, fit_table, make_gaps, read_code
from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.types import Cut

CODE = "".join(f"def f{i}(x):\n    # comment\n    y = x + {i}\n\n    return y * {i}\n\n" for i in range(12))


@pytest.mark.parametrize("cut", ["line", "none"])
def test_gaps_are_pieces_of_the_code(cut: Cut) -> None:
    other = CODE.replace("f", "g")
    gaps = make_gaps([CODE, other], cut, 60, seed=1)
    assert gaps == make_gaps([CODE, other], cut, 60, seed=1) != make_gaps([CODE, other], cut, 60, seed=2)
    for gap in gaps:
        assert gap.prefix + gap.middle + gap.suffix in (CODE, other)
        assert gap.middle.strip()
        if cut == "line":
            assert gap.middle.endswith("\n")
            assert gap.middle.count("\n") == 1
            assert not gap.middle.strip().startswith("#")
    if cut == "none":
        assert {gap.middle.count("\n") for gap in gaps} >= {0, 1, 2, 3, 4}


def planted(slope: float) -> tuple[list[tuple[list[int], int, list[int]]], list[Signals]]:
    """500 gaps whose true length has ``exp(slope)`` times the odds per unit of the first signal; lengths 1, 2 and 3."""
    drawn = random.Random(0)
    gaps, found = [], []
    for _ in range(500):
        signals = [drawn.random() for _ in range(3)]
        weights = [2.718281828 ** (slope * s) * w for s, w in zip(signals, (1, 2, 1), strict=True)]
        gaps.append(([1], drawn.choices((1, 2, 3), weights)[0], [2]))
        found += [Signals(s, -1.0) for s in signals]
    return gaps, found


@pytest.mark.parametrize("slope", [0.0, 3.0])
def test_the_fit_finds_the_odds_that_were_planted(slope: float) -> None:
    gaps, found = planted(slope)

    def read(probes: Sequence[Probe]) -> list[Signals]:
        assert [p.length for p in probes[:3]] == [1, 2, 3]
        return found

    table = fit_table(gaps, "line", 3, read)
    assert table.lengths == (1, 2, 3)
    assert table.confidence == pytest.approx(slope, abs=0.6)
    # A constant signal says nothing. The middle length is twice as likely, e^0.69.
    assert table.one_line == pytest.approx(0, abs=1e-3)
    assert table.bias[1] == 0
    assert table.bias[0] == pytest.approx(-0.69, abs=0.3)


def test_code_is_read_from_files_folders_and_rows(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.py").write_text(CODE)
    (tmp_path / "a" / "short.py").write_text("x = 1\n")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"content": CODE + "x = 1\n"}) + "\n\n" + json.dumps({"text": CODE}) + "\n")
    found = read_code([tmp_path / "a", rows])
    assert found == [CODE, CODE + "x = 1\n"]
    assert digest(found) == digest(found[::-1]) != digest(found[:1])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.py", None, "no such file"),
        ("short.py", "x = 1\n", "none of at least 16 lines"),
        ("a.jsonl", "{", "line 1: not JSON"),
        ("a.jsonl", '{"prompt": "x"}', "column content, text, code"),
        ("a.jsonl", '{"text": "x", "canonical_solution": "y"}', "set of an evaluation"),
    ],
)
def test_what_is_not_code_is_one_message(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_code([path])


def test_too_few_gaps_are_refused() -> None:
    with pytest.raises(DataError, match="3 gaps of at most 8 tokens are too few"):
        fit_table([([1], 2, [3])] * 3 + [([1], 99, [3])] * 60, "line", 8, lambda probes: [])
