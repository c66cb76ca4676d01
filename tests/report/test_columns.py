"""Columns out of samples: filters, odd values, damaged lines, costs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.report.columns import read_columns
from lm_eval_ensemble.runs.load import TaskRun, load_runs, short_label
from lm_eval_ensemble.runs.samples import choose_filter, choose_metric
from tests.report.helpers import FIXTURES, candidate, ensemble_sample, record, sample, write_run


def only(path: Path) -> TaskRun:
    (run,), problems = load_runs([path])
    assert problems == []
    return run


def test_numbers_come_in_many_spellings(tmp_path: Path) -> None:
    values = [1, 0.25, True, "0.5", None]
    run = only(write_run(tmp_path / "a", [sample(i, v) for i, v in enumerate(values)], value=0.6875))
    found = read_columns(run, "acc", "none")
    problems = found.problems
    assert found.values[""][:4] == [1.0, 0.25, 1.0, 0.5]
    assert math.isnan(found.values[""][4])
    assert problems == []


def test_what_cannot_be_used_is_told_with_file_and_line(tmp_path: Path) -> None:
    lines: list[Any] = [
        sample(0, 1.0),
        '{"doc_id": 1, "filter": "none", "acc": ',
        "",
        sample(2, [1, 2]),
        sample(0, 0.0),
        json.dumps(sample(4, 0.0)).replace("0.0", "1e999"),
        sample(5, 10**400),
    ]
    run = only(write_run(tmp_path / "a", lines, value=1.0))
    found = read_columns(run, "acc", "none")
    problems = found.problems
    assert found.ids == [0]
    assert [f"line {n}:" in text for n, text in zip((2, 4, 5, 6, 7), problems, strict=False)] == [True] * 5
    assert all(str(run.samples_path) in text for text in problems)
    assert "1 documents can be used, the results file counts 7" in problems[-1]


def test_many_damaged_lines_are_counted(tmp_path: Path) -> None:
    run = only(write_run(tmp_path / "a", ["nonsense"] * 20, value=0.0))
    found = read_columns(run, "acc", "none")
    problems = found.problems
    assert found.ids == []
    assert len(problems) == 7
    assert "15 more lines" in problems[5]


def test_results_that_contradict_their_samples_are_told(tmp_path: Path) -> None:
    run = only(write_run(tmp_path / "a", [sample(0, 1.0), sample(1, 0.0)], value=0.9))
    problems = read_columns(run, "acc", "none").problems
    assert "acc is 0.9, the mean of its samples 0.5" in problems[0]


def test_filters_are_read_one_at_a_time() -> None:
    (run,) = [run for run in load_runs([FIXTURES / "stock"])[0] if run.task == "words_generate"]
    assert (run.first_filter, list(run.filters)) == ("strict", ["first_word"])
    assert choose_filter(run, None) == "strict"
    assert choose_filter(run, "first_word") == "first_word"
    assert choose_filter(run, "other") is None
    found = read_columns(run, "exact_match", "first_word")
    assert (len(found.ids), list(found.problems)) == (12, [])


def test_a_metric_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    run = only(write_run(tmp_path / "a", [sample(0, 1.0)]))
    assert choose_metric(run, None, "none") == "acc"
    with pytest.raises(DataError, match="no metric 'acx'; found acc"):
        choose_metric(run, "acx", "none")


def test_members_bounds_costs_and_clusters(tmp_path: Path) -> None:
    first = record([candidate("a", "x", True, row_forwards=10, length_mode="oracle"), candidate("b", "y", False)], 1)
    second = record([candidate("a", "x", False, row_forwards=20), candidate("b", "x", False)], 0)
    rows = [ensemble_sample(0, first, "P1"), ensemble_sample(1, second)]
    config = {"model": "ensemble-ppl", "model_args": {}, "peak_memory_mib": {"b": 7, "a": "?"}}
    run = only(write_run(tmp_path / "e", rows, metric="pass@1", config=config))
    found = read_columns(run, "pass@1", "none", members=True)
    assert found.values == {"": [0.0, 0.0], "a": [1.0, 0.0], "b": [0.0, 0.0], "oracle": [1.0, 0.0], "floor": [0.0, 0.0]}
    assert (found.forwards, found.memory, found.length_modes) == ({"a": 15.0}, {"b": 7.0}, ["oracle"])
    assert (found.clusters[0], found.alone) == ("P1", [False, True])


def test_equal_documents_of_one_set_stay_apart(tmp_path: Path) -> None:
    rows = [sample(1, 1.0, doc_hash="same"), sample(0, 0.0, doc_hash="same")]
    found = read_columns(only(write_run(tmp_path / "a", rows)), "acc", "none")
    assert found.ids == [0, 1]
    assert found.keys == ["same", ("same", 1)]


def test_labels_are_short(tmp_path: Path) -> None:
    assert short_label(only(write_run(tmp_path / "a", None, model="/long/way/to/fim"))) == "fim"
    assert short_label(only(write_run(tmp_path / "b", None, model="Qwen/Qwen2.5-Coder-0.5B"))) == "Qwen/Qwen2.5-Coder-0.5B"
