"""The report as text, for every kind of run."""

from __future__ import annotations

from pathlib import Path

import pytest

from lm_eval_ensemble.cli import main
from tests.report.helpers import FIXTURES, sample, write_run

EXPECTED = {
    "ensemble": ("oracle", "Selection by fim+onepass", "| scorer", "double fault", "syntax", "By margin", "reference length"),
    "fim": ("| scorer", "own", "AURC"),
    "hf": ("95 %", "reference length"),
    "stock": ("words_choice: acc", "words_generate: exact_match", "name no problem"),
    "repeats": ("3 completions each",),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_real_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(FIXTURES / name), "--no_html"]) == 0
    printed = capsys.readouterr().out
    assert [part for part in EXPECTED[name] if part not in printed] == []
    assert "nan" not in printed
    assert "None" not in printed


def test_a_run_without_samples_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(write_run(tmp_path / "a", None))]) == 1
    assert "--log_samples" in capsys.readouterr().err


def test_a_damaged_line_leaves_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path / "a", [sample(0, 1.0), "{", sample(2, 0.0)], value=0.5)
    assert main(["report", str(path)]) == 1
    printed = capsys.readouterr()
    assert "2 documents" in printed.out
    assert "line 2: not JSON" in printed.err
