"""The free scores of one record, worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_ensemble.metrics.answer_scores import FREE_SCORES, free_scores


def record(logprobs: list[float] | None, **changes: Any) -> dict[str, Any]:
    count = 0 if logprobs is None else len(logprobs)
    made: dict[str, Any] = {
        "question": "Who?",
        "answer": "x" * count,
        "raw": " " + "x" * count,
        "tokens": ["x"] * count,
        "token_ids": list(range(count)),
        "logprobs": logprobs,
        "stop_logprob": -0.25,
        "stop_kind": "eos",
        "entropy": None,
        "margin": None,
        "p_true": None,
    }
    return {**made, **changes}


def test_a_record_by_hand() -> None:
    # probabilities 1/2, 1/4, 1/2: NLL ln 2, 2 ln 2, ln 2, so the sum is 4 ln 2 and the mean 4/3 ln 2
    found = free_scores(
        record([-math.log(2), -math.log(4), -math.log(2)], entropy=[0.5, 1.0, 0.0], margin=[0.5, 0.25, 0.75], p_true=0.75)
    )
    assert tuple(found) == FREE_SCORES
    ln2 = math.log(2)
    expected = {
        "g_nll": 4 * ln2,
        "g_nll_stop": 4 * ln2 + 0.25,
        "ln_nll": 4 / 3 * ln2,
        "max_token_nll": 2 * ln2,
        "first_token_nll": ln2,
        "mean_prob": 1 - 5 / 12,
        "length_tokens": 3.0,
        "length_chars": 3.0,
        "mean_entropy": 0.5,
        "max_entropy": 1.0,
        "mean_margin": 0.5,
        "p_true": 0.25,
    }
    assert found == pytest.approx(expected)


def test_an_empty_answer_scores_its_stop_token() -> None:
    empty = record([], answer="", raw="")
    found = free_scores(empty)
    assert [found[k] for k in ("g_nll", "g_nll_stop", "ln_nll", "max_token_nll", "first_token_nll")] == [0.25] * 5
    assert (found["length_tokens"], found["length_chars"]) == (0.0, 0.0)
    unknown = record([], answer="", raw="", stop_logprob=None)
    assert free_scores(unknown)["g_nll"] is None


def test_stock_models_have_lengths_only() -> None:
    found = free_scores(record(None, answer="Paris", raw=" Paris", stop_logprob=None))
    assert {name for name, value in found.items() if value is not None} == {"length_chars"}


def test_a_sum_alone_gives_no_token_scores() -> None:
    found = free_scores(record([-6.0], tokens=["a", "b", "c"], token_ids=[1, 2, 3], source="loglikelihood"))
    assert (found["g_nll"], found["ln_nll"], found["max_token_nll"], found["first_token_nll"]) == (6.0, None, None, None)


@pytest.mark.parametrize(("kind", "stop", "expected"), [("length", None, 1.0), ("until", -0.5, 1.5), ("until", None, None)])
def test_the_stop_token_in_the_ablation(kind: str, stop: float | None, expected: float | None) -> None:
    assert free_scores(record([-1.0], stop_kind=kind, stop_logprob=stop))["g_nll_stop"] == expected


def test_a_stop_inside_the_last_token_is_counted_already() -> None:
    assert free_scores(record([-1.0], stop_kind="until", stop_logprob=None, straddle=True))["g_nll_stop"] == 1.0


def test_missing_and_impossible_tokens() -> None:
    assert free_scores(record([-1.0, float("nan")]))["g_nll"] is None
    assert free_scores(record([-1.0, -math.inf]))["g_nll"] == math.inf
    assert free_scores(record([-1.0], entropy=[float("nan")]))["mean_entropy"] is None


@given(st.lists(st.floats(-30, 0), min_size=1, max_size=20))
def test_laws_of_the_sums(logprobs: list[float]) -> None:
    found = free_scores(record(logprobs))
    g_nll, ln_nll, worst = found["g_nll"], found["ln_nll"], found["max_token_nll"]
    assert g_nll is not None
    assert ln_nll is not None
    assert worst is not None
    assert g_nll == pytest.approx(ln_nll * len(logprobs))
    assert -1e-12 <= ln_nll <= worst + 1e-9 <= g_nll + 2e-9
