"""The table of models by tasks: marks, means and significance by hand, formats that say the same."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble.cli import main
from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.report.compare import CompareOptions, compare
from lm_eval_ensemble.report.comparison import Comparison, Contrast, RunRow, TaskComparison
from lm_eval_ensemble.report.sentences import cautions
from lm_eval_ensemble.report.summary import Summary, groups_of, of_columns, summarise
from lm_eval_ensemble.report.summary_tables import SUMMARY_FORMATS
from lm_eval_ensemble.runs.load import load_runs
from tests.report.helpers import FIXTURES, write_run


def against(difference: float, p: float) -> Contrast:
    return Contrast(9, 3, difference, 0.1, -0.2, 0.3, 1.0, 2.0, p, p, None, 1, 1, 7, None)


def row(
    label: str, score: float | None, contrast: Contrast | None = None, kind: str = "run", mode: str | None = None
) -> RunRow:
    return RunRow(label, kind, "hf", 9, 3, score, 0.1, 0.1, 0.9, contrast=contrast, length_mode=mode)


def task(name: str, rows: list[RunRow], metric: str = "acc", higher: bool = True, share: bool = True) -> TaskComparison:
    return TaskComparison(name, metric, "none", higher, share, rows[0].label, rows, [], [])


def table(*tasks: TaskComparison, groups: dict[str, tuple[str, ...]] | None = None) -> Summary:
    return summarise(Comparison(list(tasks), [], []), groups)


def column(found: Summary, name: str) -> dict[str, Any]:
    place = [c.name for c in found.columns].index(name)
    return {row.label: row.cells[place] for row in found.rows}


def test_the_best_and_the_second_of_each_column() -> None:
    bound = row("a/oracle", 0.9, kind="bound")
    found = table(
        task("up", [row("a", 0.5), row("b", 0.7), row("c", 0.6), bound]),
        task("down", [row("a", 0.5), row("b", 0.7), row("c", 0.6)], "loss", higher=False),
        task("equal", [row("a", 0.5), row("b", 0.5), row("c", 0.4)], "f1"),
        task("two", [row("a", 0.5), row("b", 0.7)], "em"),
        task("one", [row("a", 0.5)], "bleu"),
        task("all", [row("a", 0.5), row("b", 0.5)], "rouge"),
    )
    ranks = {c.name: {who: cell and cell.rank for who, cell in column(found, c.name).items()} for c in found.columns}
    assert ranks["up"] == {"a": None, "b": 1, "c": 2, "a/oracle": None}  # a bound is no model
    assert ranks["down"] == {"a": 1, "b": None, "c": 2, "a/oracle": None}
    assert ranks["equal"] == {"a": 1, "b": 1, "c": None, "a/oracle": None}  # two share the first place, nobody is second
    assert ranks["two"] == {"a": None, "b": 1, "c": None, "a/oracle": None}
    assert set(ranks["one"].values()) == set(ranks["all"].values()) == {None}  # nobody is the best of one, or of equals


def test_significance_goes_by_the_direction_of_the_metric() -> None:
    own = [against(0.2, 0.01), against(-0.2, 0.01), against(0.2, 0.06)]
    rows = [row("base", 0.5), *(row(name, 0.5, c) for name, c in zip("xyz", own, strict=True))]
    assert [cell and cell.better for cell in column(table(task("t", rows)), "t").values()] == [None, True, False, None]
    found = table(task("t", rows, "loss", higher=False))
    assert [cell and cell.better for cell in column(found, "t").values()] == [None, False, True, None]


def test_means_are_of_rows_that_have_all_tasks_of_one_metric() -> None:
    tasks = [task("p", [row("a", 0.2), row("b", 0.1)]), task("q", [row("a", 0.4), row("b", 0.9)]), task("r", [row("a", 0.9)])]
    found = table(*tasks, groups={"g": ("p", "q"), "part": ("p", "missing"), "single": ("p",)})
    assert [c.name for c in found.columns] == ["p", "q", "r", "g", "mean"]
    assert {who: cell and round(cell.score, 9) for who, cell in column(found, "g").items()} == {"a": 0.3, "b": 0.5}
    assert {who: cell and round(cell.score, 9) for who, cell in column(found, "mean").items()} == {"a": 0.5, "b": None}
    assert column(found, "g")["b"].rank == 1
    assert column(found, "g")["b"].low is None  # the tasks of a group may share problems
    mixed = table(tasks[0], task("s", [row("a", 0.4)], "f1"))
    assert [c.name for c in mixed.columns] == ["p", "s"]
    whole = table(*tasks[:2], groups={"g": ("p", "q")})
    assert [c.name for c in whole.columns] == ["p", "q", "g"]  # the mean of all would be the group's again


def test_columns_can_be_chosen() -> None:
    found = table(task("p", [row("a", 0.2)]), task("q", [row("a", 0.4)]))
    assert [c.name for c in of_columns(found, ["mean", "p"]).columns] == ["mean", "p"]
    with pytest.raises(DataError, match=r"--columns quu.*Did you mean|--columns quu.*Known"):
        of_columns(found, ["quu"])


def test_all_formats_say_the_same() -> None:
    rows = [row("a_b", 0.5), row("b", 0.7, against(0.2, 0.01)), row("c", 0.6, against(0.1, 0.4))]
    found = table(task("t", rows))
    text = SUMMARY_FORMATS["md"](found)
    assert "| a_b (baseline) |" in text
    assert "**70.0** ↑ (10.0 to 90.0)" in text
    assert "_60.0_ (10.0 to 90.0)" in text
    tex = SUMMARY_FORMATS["latex"](found)
    lines = tex.splitlines()
    at = lines.index(r"b & \textbf{70.0}$^{\uparrow}$ \\")
    assert lines[at - 2 : at + 4] == [
        r"a\_b (baseline) & 50.0 \\",
        r" & {\scriptsize [10.0, 90.0]} \\",
        lines[at],
        r" & {\scriptsize [10.0, 90.0]} \\",
        r"c & \underline{60.0} \\",
        r" & {\scriptsize [10.0, 90.0]} \\",
    ]
    assert all(part in tex for part in (r"\toprule", r"\bottomrule", r"\label{tab:summary}", r"\caption{"))
    read = list(csv.DictReader(io.StringIO(SUMMARY_FORMATS["csv"](found))))
    assert [(line["run"], line["score"], line["rank"], line["better"]) for line in read] == [
        ("a_b", "0.5", "", ""),
        ("b", "0.7", "1", "True"),
        ("c", "0.6", "2", ""),
    ]
    assert json.loads(SUMMARY_FORMATS["json"](found))["rows"][1]["cells"][0]["better"] is True


def test_groups_come_from_the_results_with_their_own_groups_resolved(tmp_path: Path) -> None:
    nested = {"all": ["code", "r"], "code": ["p", "q"], "p": [], "q": [], "r": []}
    results = {name: {"alias": name, "acc,none": 0.5} for name in "pqr"}
    configs = {name: {"task": name} for name in "pqr"}
    write_run(tmp_path / "run", None, results=results, configs=configs, group_subtasks=nested)
    runs, _ = load_runs([tmp_path])
    assert groups_of(runs) == {"all": ("p", "q", "r"), "code": ("p", "q")}


def test_a_page_that_links_to_a_page_of_every_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(FIXTURES / name) for name in ("ensemble", "dllm", "fim")]
    output = tmp_path / "site" / "index.html"
    output.parent.mkdir()
    call = ["compare", *runs, "--summary", "--format", "html", "--output", str(output)]
    assert main(call) == 0
    assert capsys.readouterr().out == ""
    text = output.read_text(encoding="utf-8")
    links = set(re.findall(r'href="([^"#]+)', text))
    assert links == {"pages/tiny.html", "pages/tiny-dllm.html", "pages/tiny-fim.html"}
    assert all((output.parent / link).read_text(encoding="utf-8").startswith("<!doctype html>") for link in links)
    assert "told the true length of every gap" in text
    assert "is ahead of tiny by 6.67 points" in text
    assert "://" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    before = {link: (output.parent / link).stat().st_mtime_ns for link in links}
    assert main(call) == 0  # pages that are newer than their runs stay
    assert before == {link: (output.parent / link).stat().st_mtime_ns for link in links}


def test_summary_and_columns_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(FIXTURES / name) for name in ("ensemble", "fim")]
    assert main(["compare", *runs, "--summary"]) == 0
    out = capsys.readouterr().out
    assert "| tiny (baseline) |" in out
    assert "is ahead of tiny by 6.67 points" in out
    assert main(["compare", *runs, "--columns", "pass@1,n,difference"]) == 0
    heads = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| run", "| vs"))]
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in heads] == [
        ["run", "pass@1 (%)", "n"],
        ["vs tiny", "difference"],
    ]
    assert main(["compare", *runs, "--columns", "pass@2"]) == 2
    assert "--columns pass@2: no table has this column" in capsys.readouterr().err


def test_a_report_of_several_runs_opens_on_their_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ensemble", "fim"):
        shutil.copytree(FIXTURES / name, tmp_path / "out" / name)
    assert main(["report", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("## Comparison\n\n| run")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.index("Comparison</h2>") < page.index('data-task="0"')
    assert 'href="#infill_toy%20%28tiny-fim%29"' in page
    assert "The ensemble is level with dllm" in page
    assert main(["report", str(tmp_path / "out" / "fim")]) == 0
    assert "Comparison" not in capsys.readouterr().out


def test_a_comparison_says_who_was_told_the_lengths() -> None:
    runs, _ = load_runs([FIXTURES / "ensemble", FIXTURES / "fim"])
    (caution,) = compare(runs, CompareOptions()).cautions
    assert caution.startswith("tiny: told the true length of every gap (length=oracle)")
    assert caution.endswith("the other runs were not told it.")
    (alone,) = compare(runs[:1], CompareOptions()).cautions
    assert alone.endswith("compare only with models that are told it.")
    assert compare(runs[1:], CompareOptions()).cautions == []
    # One label, told the lengths of one task and not of the other.
    (task,) = compare(runs[:1], CompareOptions()).tasks
    fair = replace(task, task="fair", rows=[replace(task.rows[0], length_mode="ar")])
    for order in ([task, fair], [fair, task]):
        (caution,) = cautions(order)
        assert caution.startswith("tiny on infill_toy: told the true length")
        assert caution.endswith("compare only with models that are told it.")
