"""``lm-eval-ensemble plots`` on real and on damaged folders."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble.cli import main
from lm_eval_ensemble.plots import style
from lm_eval_ensemble.plots.gallery import read
from lm_eval_ensemble.plots.models import models_of
from tests.report.helpers import FIXTURES, sample, write_run

ANSWERS = FIXTURES.parent / "answers"


def test_everything_the_runs_allow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plots", str(FIXTURES / "ensemble"), str(FIXTURES / "hf"), str(ANSWERS), "--output", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    for name in ("infill_toy-accuracy", "infill_toy-tiny-scatter", "infill_toy-fim-lengths", "uncertainty-auroc-heatmap"):
        assert {f"{name}.png", f"{name}.svg"} <= names
    assert "left out: infill_toy-fim-scatter: one model only: nothing to choose between" in said
    assert "left out: uncertainty-datasets: no model has an AUROC on two data sets" in said
    assert f"{(len(names) - 1) // 2} plots as png, svg" in said
    summary = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((.+?)\)", summary)) == {name for name in names if name.endswith(".png")}
    assert "infill_toy: fim is ahead of tiny by 6.67 points" in summary
    assert "tiny_qa (float32)" in summary


def test_runs_of_one_name_given_apart_are_told_apart(tmp_path: Path) -> None:
    for heat in (0.2, 0.6):
        config = {"model": "hf", "model_args": {"pretrained": "m", "temperature": heat}}
        write_run(tmp_path / f"heat{heat}", [sample(0, 1.0), sample(1, 0.0)], model="m", config=config)
    folders = [str(tmp_path / f"heat{heat}") for heat in (0.2, 0.6)]
    assert main(["plots", *folders, "--format", "svg", "--output", str(tmp_path / "out")]) == 0
    summary = (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    assert "## t: m (temperature=0.2)" in summary
    assert "## t: m (temperature=0.6)" in summary


def test_questions_of_one_model_asked_in_two_ways_are_told_apart(tmp_path: Path) -> None:
    for count in (3, 5):
        folder = shutil.copytree(ANSWERS / "qa_float32", tmp_path / f"n{count}")
        (results,) = folder.rglob("results_*")
        content = json.loads(results.read_text(encoding="utf-8"))
        content["config"]["model_args"] = {"pretrained": "tiny_qa", "n_samples": count}
        results.write_text(json.dumps(content), encoding="utf-8")
    read_runs = read([tmp_path / "n3", tmp_path / "n5"], [])
    assert list(models_of(read_runs.analyses)) == ["tiny_qa (n_samples=3)", "tiny_qa (n_samples=5)"]


def test_one_format_and_one_task(tmp_path: Path) -> None:
    assert main(["plots", str(FIXTURES / "stock"), "--task", "words_choice", "--format", "svg", "--output", str(tmp_path)]) == 0
    assert {path.suffix for path in tmp_path.iterdir()} == {".svg", ".md"}
    assert not list(tmp_path.glob("words_generate*"))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--format", "gif"], "--format gif: expected png or svg"),
        (["--task", "nope"], "--task nope: found words_choice, words_generate"),
    ],
)
def test_wrong_arguments(more: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plots", str(FIXTURES / "stock"), "--output", str(tmp_path), *more]) == 2
    assert told in capsys.readouterr().err


def test_damaged_lines_are_told_and_the_rest_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", [sample(0, 1.0), "{", sample(1, 0.0)])
    assert main(["plots", str(folder), "--output", str(tmp_path / "out")]) == 1
    assert "line 2" in capsys.readouterr().err
    assert (tmp_path / "out" / "t-accuracy.png").is_file()


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(Exception, match="plots need matplotlib"):
        style.require()
    assert main(["plots", str(FIXTURES / "stock"), "--output", str(tmp_path)]) == 2
    assert "pip install 'lm_eval_ensemble[plots]'" in capsys.readouterr().err


def test_a_place_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["plots", str(FIXTURES / "stock"), "--output", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_bin_without_a_member_is_drawn_without_it() -> None:
    from lm_eval_ensemble.plots.infill import length_histogram

    ends = {"score": [0.1, 0.9], "a": [None, None], "b": [0.2, 0.8]}
    bins = [
        {"n": 2, "score": 0.5, "low": 0, "high": 10, "members": {"a": None, "b": 0.5}, "intervals": ends},
        {"n": 4, "score": 0.25, "low": 10, "high": 20, "members": {"a": 0.75, "b": 0.5}, "intervals": ends},
    ]
    figures = {
        "n": 6,
        "problems": 6,
        "clusters_are": "problems",
        "by_length": {"of": "reference", "unit": "characters", "bins": bins},
    }
    report = {"run": "r", "task": "t", "metric": "pass@1", "figures": figures}
    drawn: Any = length_histogram(report).axes[1].containers
    assert [list(found.lines[0].get_ydata()) for found in drawn] == [[50.0, 25.0], [75.0], [50.0, 50.0]]
