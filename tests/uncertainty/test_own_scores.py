"""Scores and the threshold's score that the user names: a file, a function, and what is wrong with them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lm_eval_ensemble.cli import main
from lm_eval_ensemble.errors import ConfigError, DataError
from lm_eval_ensemble.uncertainty.analysis import AnalysisSettings, analyse
from lm_eval_ensemble.uncertainty.answers import load_answers
from lm_eval_ensemble.uncertainty.own import own_scores
from tests.uncertainty.runs import records, write_run

MODULE = """
def nll(record):
    return -sum(record["logprobs"])

def broken(record):
    return record["nothing"]
"""


def scores(folder: Path, lines: list[str]) -> str:
    path = folder / "mine.csv"
    path.write_text("\n".join(["document,value", *lines]) + "\n", encoding="utf-8")
    return str(path)


def test_a_file_and_a_function_are_scores_like_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = records(n=60)
    write_run(tmp_path / "run", found, docs=[{"task_id": f"q/{i}"} for i in range(60)])
    (tmp_path / "own_scores_of_a_test.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    values = [-sum(record["logprobs"]) for record in found]
    names = scores(tmp_path, [f"q/{i},{value}" for i, value in reversed(list(enumerate(values)))])
    out = tmp_path / "all.json"
    asked = ["--score", names, "--score", "own_scores_of_a_test:nll", "--abstain-by", "mine", "--draws", "0"]
    assert main(["uncertainty", str(tmp_path / "run"), *asked, "--json", str(out)]) == 0
    (told,) = json.loads(out.read_text(encoding="utf-8"))["runs"]
    area = told["scores"]["g_nll"]["metrics"]["auroc"]
    assert told["scores"]["mine"]["metrics"]["auroc"] == area
    assert told["scores"]["nll"]["metrics"]["auroc"] == area
    assert told["abstention"]["score"] == "mine"
    # by number as well; what is no number is told and left out
    (answers,), _ = load_answers([tmp_path / "run"])
    numbered = scores(tmp_path, ["0,nan", "1,inf", "2,", *(f"{i},{values[i]}" for i in range(3, 60))])
    analysis = analyse(answers, AnalysisSettings(draws=0, own=own_scores([numbered])))
    assert analysis.columns["mine"] == [None, None, None, *values[3:]]
    assert any("no finite numbers are left out: 2 of mine" in warning for warning in analysis.warnings)
    with pytest.raises(DataError, match=r"broken: KeyError: 'nothing', for answer 0 of"):
        analyse(answers, AnalysisSettings(draws=0, own=own_scores(["own_scores_of_a_test:broken"])))
    with pytest.raises(DataError, match="no score 'gnll' to abstain by"):
        analyse(answers, AnalysisSettings(draws=0, abstain_by="gnll"))
    assert math.isfinite(analysis.abstention.coverage)


def test_a_file_is_of_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", records(n=12), model="a")
    write_run(tmp_path / "b", records(n=12), model="b")
    own = scores(tmp_path, [f"{i},0.5" for i in range(12)])
    assert main(["uncertainty", str(tmp_path / "a"), str(tmp_path / "b"), "--score", own]) == 2
    assert "its values are those of one run, and 2 were found" in capsys.readouterr().err
    (answers,), _ = load_answers([tmp_path / "a"])
    for lines, fault in (
        (["x,1"], "none of its 1 documents"),
        (["0,1", "x,1"], "1 of its 2 documents"),
        (["0,1", "0,2"], "'0' stands there again"),
        (["0,many"], "value is 'many', expected a number"),
    ):
        with pytest.raises(DataError, match=fault):
            analyse(answers, AnalysisSettings(draws=0, own=own_scores([scores(tmp_path, lines)])))


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("nowhere.csv", "cannot be read"),
        ("text", "expected module:function"),
        ("no_such_module:f", "cannot be imported"),
        ("math:nothing", "has no function nothing"),
    ],
)
def test_what_is_no_score(spec: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        own_scores([spec])
