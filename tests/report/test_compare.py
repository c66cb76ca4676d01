"""Comparisons: by hand, against the statistics they stand on, and on real runs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from lm_eval_ensemble.cli import main
from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.report.compare import CompareOptions, compare
from lm_eval_ensemble.report.comparison import Comparison, Overlap, RunRow, TaskComparison
from lm_eval_ensemble.report.tables import render
from lm_eval_ensemble.runs.load import load_runs
from tests.report.helpers import DATE, FIXTURES, candidate, ensemble_sample, record, sample, write_run


def compared(*paths: Path, **options: Any) -> Comparison:
    runs, problems = load_runs(paths)
    return compare(runs, CompareOptions(**options), problems)


def row(table: TaskComparison, label: str) -> RunRow:
    return next(row for row in table.rows if row.label == label)


def two(tmp_path: Path, first: Sequence[float], second: Sequence[float], problems: str = "", **changes: Any) -> Comparison:
    names: list[str | None] = [*problems] or [None] * len(first)
    paths = []
    for name, values in (("base", first), ("other", second)):
        samples = [sample(i, value, problem=p) for i, (value, p) in enumerate(zip(values, names, strict=True))]
        paths.append(write_run(tmp_path / name, samples, **changes))
    return compared(*paths)


def test_a_comparison_by_hand(tmp_path: Path) -> None:
    # Eight documents of four problems; the other run wins in problems a, b, c and loses nowhere.
    base, other = [0, 0, 0, 1, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1]
    (table,) = two(tmp_path, base, other, "aabbccdd").tasks
    found = row(table, "other").contrast
    assert found is not None
    assert (found.n, found.clusters, found.wins, found.losses, found.ties) == (8, 4, 4, 0, 4)
    assert found.difference == pytest.approx(0.5)
    # Sums of (x - mean) by problem: 1, 0, 0, -1, each over 1 - 1/4; SE = sqrt(2 (4/3)^2) / 8.
    assert found.se == pytest.approx(np.sqrt(32 / 9) / 8)
    # Signs of the three problems with a difference: two of eight patterns are as far from zero.
    assert found.p == pytest.approx(2 / 8)
    assert found.p_mcnemar == pytest.approx(2 / 2**4)
    base_row = row(table, "base")
    exact = binomtest(4, 8).proportion_ci(method="wilson")
    assert base_row.wilson == pytest.approx((exact.low, exact.high))
    assert base_row.contrast is None
    assert "other is ahead of base by 50 points" in table.verdicts[0]
    assert "not significant" in table.verdicts[0]


def test_a_clear_difference_is_called_significant(tmp_path: Path) -> None:
    (table,) = two(tmp_path, [0.0] * 12, [1.0] * 10 + [0.0] * 2).tasks
    assert "other beats base" in table.verdicts[0]
    (table,) = two(tmp_path / "turned", [1.0] * 10 + [0.0] * 2, [0.0] * 12).tasks
    assert "other is beaten by base" in table.verdicts[0]


def test_lower_may_be_better(tmp_path: Path) -> None:
    lower: dict[str, Any] = {"higher_is_better": {"t": {"acc": False}}}
    (table,) = two(tmp_path, [30.0, 40.0, 50.0], [10.0, 20.0, 50.0], **lower).tasks
    found = row(table, "other").contrast
    assert found is not None
    assert found.difference == pytest.approx(-40 / 3)
    assert (found.wins, found.losses) == (2, 0)
    assert found.low is not None
    assert found.high is not None
    assert found.low < -40 / 3 < found.high
    assert "other is ahead of base by 13.3 " in table.verdicts[0]  # no points: this is no share
    assert found.p_mcnemar is None
    assert row(table, "other").wilson is None


def test_equal_runs_and_intervals_without_variation(tmp_path: Path) -> None:
    (table,) = two(tmp_path, [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]).tasks
    assert table.verdicts == ["t: other and base have equal acc on every document."]
    # Three problems without a right answer, and without a difference, say little, and that is what the intervals say.
    assert (row(table, "other").low, row(table, "other").score) == (0.0, 0.0)
    assert 0.8 < (row(table, "other").high or 0.0) < 0.9
    same = row(table, "other").contrast
    assert same is not None
    assert same.high is not None
    assert (same.low, same.difference) == (-same.high, 0.0)


def test_the_verdict_is_that_of_the_sign_flip(tmp_path: Path) -> None:
    # Six problems, all won: p = 2/64, and t with few degrees of freedom need not leave out 0.
    (table,) = two(tmp_path, [0.0] * 40, [1.0] * 6 + [0.0] * 34, "abcdef" + "ghijklmnopqrst" * 2 + "uvwxyz").tasks
    found = row(table, "other").contrast
    assert found is not None
    assert found.p == 2 / 64
    assert found.low is not None
    assert ("The interval holds 0; the verdict is that of the sign flip" in table.verdicts[0]) == (found.low <= 0)
    assert "other beats base" in table.verdicts[0]


def test_holm_corrects_over_tasks(tmp_path: Path) -> None:
    wins = {"one": 8, "two": 7, "three": 1}
    for day, (task, count) in enumerate(wins.items(), 1):
        date = f"2026-01-0{day}T00-00-00.0"
        write_run(tmp_path / "a", [sample(i, 0.0) for i in range(8)], task=task, date=date)
        write_run(tmp_path / "b", [sample(i, float(i < count)) for i in range(8)], task=task, date=date)
    contrasts = {t.task: row(t, "b").contrast for t in compared(tmp_path / "a", tmp_path / "b").tasks}
    found = {task: (c.p, c.p_holm) for task, c in contrasts.items() if c}
    # k wins and no loss: 2 of 2^k sign patterns are as far from zero.
    assert list(found["one"]) == pytest.approx([2 / 2**8, 3 * 2 / 2**8])
    assert list(found["two"]) == pytest.approx([2 / 2**7, 2 * 2 / 2**7])
    assert found["three"] == (1.0, 1.0)


def test_holm_corrects_over_runs_where_asked(tmp_path: Path) -> None:
    wins = {"a": 0, "b": 8, "c": 7}
    paths = [write_run(tmp_path / name, [sample(i, float(i < count)) for i in range(8)]) for name, count in wins.items()]
    for over_runs, factor in ((False, 1), (True, 2)):
        found = compared(*paths, over_runs=over_runs)
        contrasts = [row(found.tasks[0], name).contrast for name in "bc"]
        # k wins and no loss: p = 2 / 2^k; the smallest of two p is doubled.
        assert [c.p_holm for c in contrasts if c] == pytest.approx([factor * 2 / 2**8, 2 / 2**7])
        assert any("all 2 rows" in note for note in found.notes) == over_runs


def test_different_documents_are_not_paired_unless_asked(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [sample(i, 1.0) for i in range(30)])
    b = write_run(tmp_path / "b", [sample(i, float(i % 2)) for i in reversed(range(20))])
    (table,) = compared(a, b).tasks
    assert row(table, "b").contrast is None
    assert row(table, "b").score == pytest.approx(0.5)
    overlap = Overlap(shared=20, only_run=0, only_baseline=10, changed=0)
    assert row(table, "b").overlap == overlap
    (line,) = [line for line in render(compared(a, b), "md").splitlines() if "not compared" in line and line.startswith("|")]
    assert line.startswith("| b ")
    told = json.loads(render(compared(a, b), "json"))["tasks"][0]["rows"][1]
    assert (told["contrast"], told["overlap"]) == (None, asdict(overlap))
    (_, cells) = csv.DictReader(io.StringIO(render(compared(a, b), "csv")))
    assert (cells["vs_shared"], cells["vs_only_baseline"]) == ("20", "10")
    (note,) = [note for note in table.notes if "--common" in note]
    assert "10 only in a (doc_id 20, 21, 22, 23, 24, 25, 26, 27, 28, 29)" in note
    (table,) = compared(a, b, common=True).tasks
    found = row(table, "b").contrast
    assert found is not None
    assert (found.n, found.losses, row(table, "a").n) == (20, 10, 20)
    assert any("Only the 20 documents" in note for note in table.notes)


def test_a_run_without_samples_keeps_its_score(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [sample(0, 1.0), sample(1, 0.0)])
    b = write_run(tmp_path / "b", None, value=0.75)
    found = compared(a, b)
    (table,) = found.tasks
    assert (row(table, "b").score, row(table, "b").low, row(table, "b").contrast) == (0.75, None, None)
    assert any("--log_samples" in problem for problem in found.problems)


def test_undefined_values_leave_only_their_document_out(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [sample(i, v) for i, v in enumerate([1.0, None, 1.0, 0.0])], value=2 / 3)
    b = write_run(tmp_path / "b", [sample(i, v) for i, v in enumerate([0.0, 1.0, 1.0, 0.0])])
    (table,) = compared(a, b).tasks
    found = row(table, "b").contrast
    assert found is not None
    assert (found.n, found.losses, row(table, "a").n) == (3, 1, 3)


@pytest.mark.parametrize("asked", ["b", "x/b"])
def test_a_baseline_by_name(tmp_path: Path, asked: str) -> None:
    a = write_run(tmp_path / "a", [sample(0, 1.0), sample(1, 0.0)])
    b = write_run(tmp_path / "b", [sample(0, 1.0), sample(1, 1.0)], model="x/b" if "/" in asked else "b")
    (table,) = compared(a, b, baseline=asked).tasks
    assert table.baseline == asked
    assert row(table, asked).contrast is None
    with pytest.raises(DataError, match="expected one of the runs"):
        compared(a, b, baseline="nobody")


def test_one_model_run_task_by_task_is_one_model(tmp_path: Path) -> None:
    for task in ("one", "two"):
        for model, value in (("a", 0.0), ("b", 1.0)):
            folder = tmp_path / task / model
            write_run(folder, [sample(i, value) for i in range(8)], task=task, model=model)
    tables = compared(tmp_path / "one", tmp_path / "two").tasks
    assert [[r.label for r in t.rows] for t in tables] == [["a", "b"], ["a", "b"]]
    found = row(tables[0], "b").contrast
    assert found is not None
    assert found.p_holm == pytest.approx(2 * found.p)


def test_names_that_clash_get_their_folder(tmp_path: Path) -> None:
    for place in ("one", "two"):
        write_run(tmp_path / place / "m", [sample(0, 1.0), sample(1, 0.0)], model="m")
    (table,) = compared(tmp_path / "one", tmp_path / "two").tasks
    assert [r.label for r in table.rows] == ["m (one)", "m (two)"]


def test_the_same_checkpoint_in_other_bits_is_another_model(tmp_path: Path) -> None:
    """Even where each was run on a task of its own, which makes one model of the same bits."""
    config = {"model": "hf-scored", "model_args": {"pretrained": "org/m"}, "quantization": {"name": "bnb-int8", "layers": 14}}
    samples = [sample(i, i % 2) for i in range(8)]
    write_run(tmp_path / "full" / "m", samples, task="one", model="org/m")
    write_run(tmp_path / "bits" / "m", samples, task="two", model="org/m", config=config)
    tables = compared(tmp_path / "full", tmp_path / "bits").tasks
    assert [[r.label for r in t.rows] for t in tables] == [["org/m"], ["org/m bnb-int8"]]
    # In the folder of the full model the newer run hides no older one.
    write_run(tmp_path / "full" / "m", samples, task="one", model="org/m", config=config, date=DATE.replace("2026", "2027"))
    (table,) = compared(tmp_path / "full", baseline="org/m").tasks
    assert [r.label for r in table.rows] == ["org/m", "org/m bnb-int8"]


def test_real_runs_members_equal_themselves_in_the_ensemble() -> None:
    found = compared(*(FIXTURES / name for name in ("ensemble", "fim", "dllm", "hf")), members=True, baseline="tiny/fim")
    assert found.problems == []
    (table,) = found.tasks
    labels = [r.label for r in table.rows]
    assert labels == ["tiny", "tiny/dllm", "tiny/fim", "tiny/oracle", "tiny/floor", "tiny-fim", "tiny-dllm", "fim"]
    alone = row(table, "tiny-fim").contrast
    assert alone is not None
    assert (alone.wins, alone.losses) == (0, 0)  # greedy: the member alone writes what it writes in the ensemble
    assert row(table, "tiny/oracle").contrast is None
    best = max(row(table, name).score or 0.0 for name in ("tiny/dllm", "tiny/fim"))
    oracle, floor, own = (row(table, name).score or 0.0 for name in ("tiny/oracle", "tiny/floor", "tiny"))
    assert floor <= own <= oracle
    assert best <= oracle
    assert row(table, "tiny").length_mode == "oracle"
    assert row(table, "tiny").row_forwards.keys() == {"dllm"}


def test_stock_results_of_other_tasks_load() -> None:
    found = compared(FIXTURES / "stock")
    assert found.problems == []
    assert {t.task: (t.metric, t.filter, len(t.rows)) for t in found.tasks} == {
        "words_choice": ("acc", "none", 1),
        "words_generate": ("exact_match", "strict", 1),
    }
    assert all("name no problem" in " ".join(t.notes) for t in found.tasks)
    (norm,) = compared(FIXTURES / "stock", metric="acc_norm").tasks
    assert norm.metric == "acc_norm"


def test_repeats_count_once_per_document() -> None:
    (table,) = compared(FIXTURES / "repeats", members=True).tasks
    assert row(table, "tiny-repeats").n == 6


def test_damaged_runs_do_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_run(tmp_path / "good", [sample(i, float(i % 2)) for i in range(6)])
    other = write_run(tmp_path / "other", [sample(i, 1.0) for i in range(6)])
    broken = write_run(tmp_path / "broken", [*(sample(i, 1.0) for i in range(5)), '{"doc_id": 5, "acc'], value=1.0)
    empty = write_run(tmp_path / "empty", [])
    (tmp_path / "worse").mkdir()
    (tmp_path / "worse" / "results_2026-01-02T03-04-05.000006.json").write_text('{"results": {"t"')
    assert main(["compare", *map(str, (good, other, broken, empty)), str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "other is ahead of good" in printed.out
    assert "samples_t_2026-01-02T03-04-05.000006.jsonl, line 6: not JSON" in printed.err
    assert "1 only in good (doc_id 5)" in printed.out
    assert "worse/results_" in printed.err.replace("\\", "/")
    assert "no sample of t can be used" in printed.err


def test_runs_of_other_versions_are_told(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", [sample(0, 1.0), sample(1, 0.0)], lm_eval_version="0.4.13")
    b = write_run(tmp_path / "b", [sample(0, 1.0), sample(1, 0.0)], lm_eval_version="0.4.9")
    assert "The runs differ in lm_eval_version: 0.4.13, 0.4.9." in compared(a, b).notes


def test_the_command_writes_a_file_and_refuses_unknown_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_run(tmp_path / "a", [sample(0, 1.0), sample(1, 0.0)])
    b = write_run(tmp_path / "b", [sample(0, 1.0), sample(1, 1.0)])
    assert main(["compare", str(a), "--baseline", str(b), "--format", "json", "--output", str(tmp_path / "out.json")]) == 0
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["tasks"][0]["baseline"] == "b"
    assert main(["compare", str(a), "--task", "nothing"]) == 2
    assert "--task nothing: found t" in capsys.readouterr().err
    assert main(["compare", str(a), "--output", str(tmp_path / "no" / "way")]) == 2


def test_only_the_member_that_was_told_a_length_shows_the_mode(tmp_path: Path) -> None:
    told = candidate("a", "x", True, length_mode="oracle")
    samples = [ensemble_sample(i, record([told, candidate("b", "y", False)], 0)) for i in range(3)]
    runs, problems = load_runs([write_run(tmp_path / "run", samples, metric="pass@1")])
    (found,) = compare(runs, CompareOptions(members=True), problems).tasks
    modes = {row.label: row.length_mode for row in found.rows}
    assert modes == {"run": "oracle", "run/a": "oracle", "run/b": None, "run/oracle": "oracle", "run/floor": "oracle"}


def test_runs_that_share_nothing_are_not_sent_to_common(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", [sample(0, 1.0)])
    second = write_run(tmp_path / "b", [sample(1, 1.0)])
    runs, problems = load_runs([first, second])
    (found,) = compare(runs, CompareOptions(), problems).tasks
    assert found.notes
    assert not any("--common" in note for note in found.notes)
