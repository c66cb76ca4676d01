"""The report as text, for every kind of run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from lm_eval_ensemble.cli import main
from lm_eval_ensemble.plots.findings import infill_findings
from lm_eval_ensemble.report.compare import CompareOptions, compare
from lm_eval_ensemble.report.run import report_of
from lm_eval_ensemble.report.text import as_text, closing, verdict_of
from lm_eval_ensemble.runs.load import load_runs
from lm_eval_ensemble.types import Scored
from tests.replay import runs
from tests.report.helpers import FIXTURES, candidate, ensemble_sample, record, sample, write_run

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


def test_the_verdict_is_that_of_the_corrected_test_and_says_where_the_interval_differs() -> None:
    gain = {"difference": 0.4, "low": 0.1, "high": 0.7, "p": 0.03}
    members = {"a": {"ensemble_minus_member": gain}, "b": {"ensemble_minus_member": {**gain, "p": 0.5}}}
    told = verdict_of({"members": members})
    # 0.03 is not significant among two, which is no contradiction; 0.5 beside an interval without 0 is one.
    assert "ahead of a by 40 points (+10.0 to +70.0; not significant; p = 0.06 after Holm)" in told
    assert told.endswith(
        "p = 0.5). The interval of the difference to b leaves out 0; the verdict is that of the sign flip, which needs no "
        "variance."
    )


def test_report_and_summary_name_one_p_and_read_the_interval_on_both_sides(tmp_path: Path) -> None:
    """The selector takes the worse member: s is 0 with an interval wholly below what pays."""

    def fim_is_right(i: int, _: Random) -> list[Scored]:
        wrong = runs.scored("dllm", f"    return -{i}\n", False, 1.0, 1.0)
        return [wrong, runs.scored("fim", f"    return {i}\n", i % 4 > 0, 2.0, 2.0)]

    runs.write_run(tmp_path, candidates=fim_is_right, selector="always:dllm")
    (run,), _ = load_runs([tmp_path])
    report = report_of(run).content
    chosen = report["figures"]["selection"]
    assert chosen["high"] < chosen["break_even"] == 1.0
    found = infill_findings(report)
    assert "at most 100.0 %, which the interval excludes." in found[-1]
    assert any("significant, p = 0.0002 (sign flip by problem, Holm over 2 members)" in line for line in found)
    assert "p = 0.0002 after Holm" in verdict_of(report["figures"])


def test_members_that_are_level_are_not_called_best(tmp_path: Path) -> None:
    def level(i: int, _: Random) -> list[Scored]:
        return [runs.scored(name, f"    return {name}\n", i % 2 == 0, 1.0, 1.0) for name in ("dllm", "fim")]

    runs.write_run(tmp_path, n=48, candidates=level)
    (run,) = load_runs([tmp_path])[0]
    report = report_of(run).content
    told = "\n".join([*closing(report), *infill_findings(report)])
    assert "members, all level: dllm, fim 50.0 %" in told
    assert "best member" not in told


def test_a_single_member_is_not_level_with_itself(tmp_path: Path) -> None:
    def fills(i: int, _: Random) -> list[Scored]:
        return [runs.scored("dllm", f"    return {n}\n", i % 2 == n, float(n), 1.0) for n in (0, 1)]

    runs.write_run(tmp_path, n=48, candidates=fills)
    (run,) = load_runs([tmp_path])[0]
    told = "\n".join(closing(report_of(run).content))
    assert "dllm, drawn blindly among its candidates 50.0 %" in told
    assert "level" not in told


def test_scores_that_are_no_number_are_told_in_words(tmp_path: Path) -> None:
    pair = [candidate("a", "x", True, 1.0), candidate("b", "y", False, 2.0)]
    lines = [ensemble_sample(i, record(json.loads(json.dumps(pair)), 0)) for i in range(6)]
    for line in lines[:2]:
        line["selection"]["candidates"][1]["scores"]["fim"] = float("nan")
    write_run(tmp_path / "m", lines, metric="pass@1")
    report = report_of(load_runs([tmp_path])[0][0]).content
    assert "Candidates without a finite score are left out there: fim of 2 of 6 by b." in as_text(report)


def test_few_clusters_speak_of_differences_only_where_there_are_some(tmp_path: Path) -> None:
    lines = [sample(i, float(i % 2), problem=f"p{i // 2}") for i in range(8)]
    alone = report_of(load_runs([write_run(tmp_path / "a", lines)])[0][0]).content
    assert "4 problems are few" in as_text(alone)
    assert "four runs of five" not in as_text(alone)
    write_run(tmp_path / "b", lines)
    assert not any("four runs of five" in note for note in notes_of(tmp_path / "a"))
    assert any("four runs of five" in note for note in notes_of(tmp_path))


def notes_of(folder: Path) -> Sequence[str]:
    (table,) = compare(load_runs([folder])[0], CompareOptions()).tasks
    return table.notes


def test_articles_are_not_called_problems(tmp_path: Path) -> None:
    lines = []
    for i in range(6):
        answer = {"question": f"q{i}", "title": f"article {i // 2}", "answer": "x", "references": ["x"], "f1": 1.0}
        lines.append(sample(i, 1.0, "f1", doc={"question": f"q{i}"}, uncertainty=answer))
    write_run(tmp_path / "m", lines, metric="f1")
    report = report_of(load_runs([tmp_path])[0][0]).content
    assert "6 documents of 3 articles" in closing(report)[0]
    assert "6 documents of 3 articles" in as_text(report)
    assert "problem" not in closing(report)[0]


def test_a_run_without_samples_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(write_run(tmp_path / "a", None))]) == 1
    assert "--log_samples" in capsys.readouterr().err


def test_a_damaged_line_leaves_the_rest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path / "a", [sample(0, 1.0), "{", sample(2, 0.0)], value=0.5)
    assert main(["report", str(path)]) == 1
    printed = capsys.readouterr()
    assert "2 documents" in printed.out
    assert "line 2: not JSON" in printed.err
