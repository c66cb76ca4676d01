"""What holds for every selector, on any candidates."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_ensemble.problems import compiles
from lm_eval_ensemble.selection import SELECTORS, Case, make_selector
from lm_eval_ensemble.selection.base import TOLERANCE
from lm_eval_ensemble.types import Candidate, Scored

# Two texts are the same program, one does not compile, one is blank.
TEXTS = ("    return a\n", "    return (a)  # same\n", "    return b\n", "    return (\n", "  \n", "")
LAWFUL = ["argmin", "margin:0.2", "veto", "agreement", "sequence:veto,agreement,margin:0.05", "sequence:agreement/veto"]
ALL = [*SELECTORS, *LAWFUL, "mbr:edit", "always:a", "always:nobody", "argmin[other]"]

values = st.one_of(st.none(), st.floats(0, 5), st.sampled_from([1.0, 1.0 + TOLERANCE / 3, 1.15, math.nan]))
rows = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(TEXTS), values), min_size=1, max_size=6)
preferred = st.sampled_from(["a", "b", None])


def case(found: list[tuple[str, str, float | None]], prefer: str | None) -> Case:
    # A text has one score, whoever wrote it.
    value = {text: v for _, text, v in found}
    candidates = [Scored(Candidate(m, text, text), {"fim": value[text], "other": 1.0}) for m, text, _ in found]
    return Case(tuple(candidates), "fim", prefer, "def f(a, b):\n    a\n", "# end\n", ("toy", 3, 0), 7)


def text(case: Case, winner: int) -> str:
    return case.candidates[winner].candidate.text


@pytest.mark.parametrize("spec", [*dict.fromkeys([*SELECTORS, *LAWFUL])])
@settings(max_examples=60, deadline=None)
@given(rows, st.randoms(use_true_random=False), preferred)
def test_the_order_of_candidates_never_changes_the_winning_text(
    spec: str, found: list[tuple[str, str, float | None]], random: Random, prefer: str | None
) -> None:
    select = make_selector(spec)
    shuffled = list(found)
    random.shuffle(shuffled)
    value = {text: v for _, text, v in found}
    one = case(found, prefer)
    other = case([(m, text, value[text]) for m, text, _ in shuffled], prefer)
    (first, why), (second, also) = select(one), select(other)
    assert (text(one, first), why) == (text(other, second), also)


@pytest.mark.parametrize("spec", LAWFUL)
@settings(max_examples=60, deadline=None)
@given(rows, preferred, st.randoms(use_true_random=False))
def test_a_duplicate_that_is_no_better_changes_nothing(
    spec: str, found: list[tuple[str, str, float | None]], prefer: str | None, random: Random
) -> None:
    select = make_selector(spec)
    one = case(found, prefer)
    winner, _ = select(one)
    known = {row[1]: row for row in found}
    losers = [row for row in known.values() if row[1] != text(one, winner)]
    if not losers:
        return
    # From a member that has no say in ties.
    more = case([*found, ("z", *random.choice(losers)[1:])], prefer)
    assert text(more, select(more)[0]) == text(one, winner)


@pytest.mark.parametrize("spec", dict.fromkeys(ALL))
@settings(max_examples=40, deadline=None)
@given(rows, preferred)
def test_every_selector_chooses_one_of_the_candidates_and_says_why(
    spec: str, found: list[tuple[str, str, float | None]], prefer: str | None
) -> None:
    winner, reason = make_selector(spec)(case(found, prefer))
    assert 0 <= winner < len(found)
    assert reason.isalpha()


@settings(deadline=None)
@given(rows, preferred)
def test_the_veto_never_takes_a_file_that_does_not_compile_over_one_that_does(
    found: list[tuple[str, str, float | None]], prefer: str | None
) -> None:
    one = case(found, prefer)
    sound = [compiles(one.program(i)) for i in range(len(found))]
    assert sound[SELECTORS["veto"](one)[0]] == any(sound)
