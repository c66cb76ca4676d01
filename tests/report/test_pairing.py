"""Which documents two runs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lm_eval_ensemble.report.columns import Columns
from lm_eval_ensemble.report.pairing import pair, shared
from lm_eval_ensemble.runs.load import TaskRun

RUN = TaskRun("t", "m", "hf", {}, {}, {}, Path("r"), None, "")


def documents(ids: list[int], hashes: list[Any] | None = None) -> Columns:
    given_hashes = [f"h{i}" for i in ids] if hashes is None else hashes
    return Columns(RUN, "acc", "none", list(ids), given_hashes, ids, [True] * len(ids), {"": [float(i) for i in ids]})


@given(st.permutations(range(8)), st.permutations(range(8)))
def test_the_order_of_the_files_does_not_matter(first: list[int], second: list[int]) -> None:
    a, b = documents(first), documents(second)
    found = pair(a, b)
    assert found.complete
    assert [a.ids[i] for i in found.first] == [b.ids[j] for j in found.second]


def test_wrong_numbers_of_unsorted_samples_are_harmless() -> None:
    # lm_eval numbers the documents of an unsorted --samples wrongly; their content tells them.
    a, b = documents([3, 1], ["h1", "h3"]), documents([1, 3], ["h1", "h3"])
    assert (pair(a, b).first, pair(a, b).second) == ([0, 1], [0, 1])
    assert pair(a, b).complete


def test_what_differs_is_named() -> None:
    found = pair(documents(list(range(20))), documents([0, 1, 30]))
    assert not found.complete
    text = found.explain("A", "B")
    assert "18 only in A (doc_id 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ...)" in text
    assert "1 only in B (doc_id 30)" in text
    changed = pair(documents([0, 1]), documents([0, 1], ["h0", "other"]))
    assert changed.changed == [1]
    assert "1 of the same number have another content (doc_id 1)" in changed.explain("A", "B")


def test_without_hashes_numbers_pair() -> None:
    found = pair(documents([1, 2]), documents([2, 1], [None, None]))
    assert (found.first, found.second, found.complete) == ([0, 1], [1, 0], True)


def test_what_all_runs_share_comes_in_one_order() -> None:
    runs = [documents([4, 2, 3]), documents([2, 3, 9]), documents([3, 1, 2])]
    assert [[run.ids[i] for i in places] for run, places in zip(runs, shared(runs), strict=True)] == [[2, 3]] * 3
