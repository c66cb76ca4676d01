"""Formats of a comparison: readable, escaped, and saying the same."""

from __future__ import annotations

import csv
import io
import itertools
import json
from pathlib import Path

import pytest

from lm_eval_ensemble.report.compare import CompareOptions, compare
from lm_eval_ensemble.report.comparison import Comparison
from lm_eval_ensemble.report.page.board import board
from lm_eval_ensemble.report.summary import summarise
from lm_eval_ensemble.report.tables import FORMATS, as_json, markdown_table, render, tables_of
from lm_eval_ensemble.runs.load import load_runs
from tests.report.helpers import FIXTURES, sample, write_run


@pytest.fixture(scope="module")
def real() -> Comparison:
    runs, _ = load_runs([FIXTURES / name for name in ("ensemble", "fim", "dllm", "hf")])
    return compare(runs, CompareOptions(members=True))


def test_markdown_tables_fit_a_terminal(real: Comparison) -> None:
    lines = render(real, "md").splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert tables
    assert max(map(len, tables)) <= 120
    # every piece of a table has one number of columns
    for line, following in itertools.pairwise(tables):
        if set(following) <= set("|-: "):
            assert line.count("|") == following.count("|")
    assert "unclustered" in render(real, "md")


def test_long_names_split_the_table(tmp_path: Path) -> None:
    names = ["a" * 50, "b" * 50]
    paths = [write_run(tmp_path / name, [sample(0, 1.0), sample(1, float(i))]) for i, name in enumerate(names)]
    text = render(compare(load_runs(paths)[0], CompareOptions()), "md")
    assert max(len(line) for line in text.splitlines() if line.startswith("|")) <= 120


def test_csv_and_json_hold_every_row(real: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(render(real, "csv"))))
    content = json.loads(render(real, "json"))
    assert [row["label"] for row in rows] == [row["label"] for row in content["tasks"][0]["rows"]]
    assert float(rows[0]["score"]) == pytest.approx(content["tasks"][0]["rows"][0]["score"])
    assert rows[0]["vs_difference"] == ""
    assert float(rows[1]["vs_difference"]) == pytest.approx(content["tasks"][0]["rows"][1]["contrast"]["difference"])


@pytest.mark.parametrize("form", FORMATS)
def test_hostile_names_stay_text(tmp_path: Path, form: str) -> None:
    name = "<script>alert(1)</script>|x_&%$#\\ \n\\input{x}"
    a = write_run(tmp_path / "a", [sample(0, 1.0), sample(1, 0.0)], model=name)
    b = write_run(tmp_path / "b", [sample(0, 1.0), sample(1, 1.0)])
    text = render(compare(load_runs([a, b])[0], CompareOptions()), form)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    if form == "latex":
        assert r"\textbackslash{}" in text
        assert r"x\_\&\%\$\#" in text
    if form == "md":
        table = [line for line in text.splitlines() if line.startswith("|")][:4]
        assert len({line.replace("\\|", "").count("|") for line in table}) == 1


def test_hostile_names_stay_text_on_the_page(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [sample(0, 1.0), sample(1, 0.0)], model="<script>alert(1)</script>_x")
    b = write_run(tmp_path / "b", [sample(0, 1.0), sample(1, 1.0)])
    found = compare(load_runs([a, b])[0], CompareOptions())
    text = board(found, tables_of(found), summarise(found))
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;_<wbr>x" in text


def test_json_never_holds_nan() -> None:
    assert json.loads(as_json({"a": 1 / 3, "b": [None, 2]})) == {"a": 0.33333333, "b": [None, 2]}
    with pytest.raises(ValueError, match="JSON"):
        as_json({"a": float("nan")})


def test_columns_are_aligned() -> None:
    assert markdown_table(["a", "bc"], [["long name", "1"]]) == "| a         |  bc |\n| --------- | --: |\n| long name |   1 |"
