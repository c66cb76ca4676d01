"""``lm-eval-ensemble gaps``: what is drawn, and that ``infill_file`` reads it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import lm_eval_ensemble
from lm_eval_ensemble.cli import main
from lm_eval_ensemble.gaps.command import cut_gaps
from lm_eval_ensemble.gaps.places import KINDS
from lm_eval_ensemble.problems import load_problems

SOURCE = Path(lm_eval_ensemble.__file__).parent / "metrics"


def test_gaps_of_this_package_are_read_back_and_compile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "gaps.jsonl"
    assert main(["gaps", str(SOURCE), "--output", str(file), "--count", "50"]) == 0
    told = capsys.readouterr().out
    assert "50 gaps of " in told
    assert "line 10, lines 10, body 10, span 10, arguments 10 (python 50)" in told
    assert "50 of 50 references compile\n" in told
    assert f'--metadata \'{{"file": "{file}"}}\'' in told
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    documents = load_problems(file)
    columns = ("task_id", "problem", "prefix", "middle", "suffix", "cut", "language")
    assert [[d[c] for c in columns] for d in documents] == [[r[c] for c in columns] for r in rows]
    assert {row["cut"] for row in rows if row["kind"] == "line"} == {"line"}
    assert all(len(row["prefix"]) <= 6000 and len(row["suffix"]) <= 3000 for row in rows)
    places = Counter()  # type: Counter[tuple[str, int]]
    for row in rows:
        lines = row["middle"].removesuffix("\n").count("\n") + 1
        places.update((row["problem"], row["line"] + i) for i in range(lines))
    assert set(places.values()) == {1}  # no line twice
    assert len({row["middle"].strip() for row in rows}) == len(rows)


def test_the_seed_decides(tmp_path: Path) -> None:
    def draw(seed: int) -> tuple[Any, ...]:
        return cut_gaps([SOURCE], count=20, seed=seed).rows

    assert draw(0) == draw(0) != draw(1)


def test_kinds_that_are_short_are_filled_by_others(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("".join(f"const value{i} = read({i});\n" for i in range(30)))
    (tmp_path / "broken.py").write_text("print 'an older Python'\n")
    made = cut_gaps([tmp_path], count=100)
    assert {row["kind"] for row in made.rows} == {"line", "lines"}
    assert made.compiling == (0, 0)
    told = made.as_text()
    assert "100 were asked for" in told
    assert "1 no program of this Python" in told
    assert "compile" not in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kinds", "line,bodies"], "--kinds bodies: no such kind. Did you mean 'body'?"),
        (["--count", "0"], "numbers of at least 1"),
        (["--kinds", ","], "at least one kind"),
        (["--output", "g.csv"], "--output g.csv: expected a name that ends in .jsonl"),
    ],
)
def test_bad_settings(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gaps", str(SOURCE), "--output", str(tmp_path / "g.jsonl"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_source_is_not_overwritten(tmp_path: Path) -> None:
    source = tmp_path / "a.py"
    source.write_text("total = sum(values)\n")
    assert main(["gaps", str(source), "--output", str(source)]) == 2
    assert source.read_text() == "total = sum(values)\n"


def test_nothing_to_cut_and_nowhere_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    assert main(["gaps", str(tmp_path), "--output", str(tmp_path / "g.jsonl")]) == 2
    assert f"nothing to cut out (1 file, kinds {', '.join(KINDS)})" in capsys.readouterr().err
    assert main(["gaps", str(SOURCE), "--output", str(tmp_path / "no" / "g.jsonl"), "--count", "5"]) == 2
    assert "cannot be written" in capsys.readouterr().err
