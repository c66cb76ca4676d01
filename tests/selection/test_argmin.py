from __future__ import annotations

import math
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from lm_eval_ensemble.selection import Case, argmin
from lm_eval_ensemble.selection.base import TOLERANCE
from lm_eval_ensemble.types import Candidate, Scored


def make(member: str, text: str, value: float | None) -> Scored:
    return Scored(Candidate(member, text, text), {"fim": value})


def pick(*candidates: Scored, prefer: str | None = None) -> tuple[str, str]:
    winner, reason = argmin(Case(candidates, "fim", prefer))
    return candidates[winner].candidate.member, reason


def test_lower_wins() -> None:
    assert pick(make("a", "x", 1.0), make("b", "y", 0.9)) == ("b", "score")


def test_ties_go_to_the_preferred_member_then_to_the_smaller_text() -> None:
    close = 1.0 + TOLERANCE / 2
    assert pick(make("a", "y", 1.0), make("b", "x", close), prefer="a") == ("a", "tie")
    assert pick(make("a", "y", 1.0), make("b", "x", close), prefer="b") == ("b", "tie")
    assert pick(make("a", "y", 1.0), make("b", "x", close)) == ("b", "tie")


def test_same_text_is_agreement_and_one_candidate_single() -> None:
    assert pick(make("a", "x", 1.0), make("b", "x", 2.0), prefer="b") == ("b", "agreement")
    assert pick(make("a", "x", 1.0)) == ("a", "single")


def test_blank_and_undefined_rank_last() -> None:
    for bad in (make("b", "\n", 0.1), make("b", "", None), make("b", "y", None), make("b", "y", math.nan)):
        assert pick(bad, make("a", "x", 9.0), prefer="b") == ("a", "score")
    assert pick(make("a", "", None), make("b", "\n", None), prefer="b") == ("b", "tie")
    # A text that could not be scored is still better than none.
    assert pick(make("b", "\n", 0.1), make("a", "x", None), prefer="b") == ("a", "score")


values = st.one_of(st.none(), st.floats(0, 5), st.sampled_from([1.0, 1.0 + TOLERANCE / 3, math.nan]))
candidates = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "x", "y", "z\n"]), values), min_size=1, max_size=6)


@given(candidates, st.randoms(use_true_random=False), st.sampled_from(["a", "b", None]))
def test_the_order_of_candidates_never_changes_the_winning_text(
    rows: list[tuple[str, str, float | None]], random: Random, prefer: str | None
) -> None:
    # A text has one score, whoever wrote it.
    by_text = {text: value for _, text, value in rows}
    scored = [make(member, text, by_text[text]) for member, text, _ in rows]
    shuffled = list(scored)
    random.shuffle(shuffled)
    first, _ = argmin(Case(tuple(scored), "fim", prefer))
    second, _ = argmin(Case(tuple(shuffled), "fim", prefer))
    assert scored[first].candidate.text == shuffled[second].candidate.text


@given(st.floats(0, 5), st.floats(0, 5))
def test_a_worse_duplicate_changes_nothing(first: float, second: float) -> None:
    two = [make("a", "x", first), make("b", "y", second)]
    three = [*two, make("c", "y", second)]
    assert two[argmin(Case(tuple(two), "fim"))[0]].candidate.text == three[argmin(Case(tuple(three), "fim"))[0]].candidate.text
