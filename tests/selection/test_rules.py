from __future__ import annotations

import collections

import pytest

from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.selection import Case, make_selector
from lm_eval_ensemble.selection.consensus import edit_similarity, token_similarity
from lm_eval_ensemble.types import Candidate, Scored


def make(member: str, text: str, fim: float | None, **scores: float) -> Scored:
    return Scored(Candidate(member, text, text), {"fim": fim, **scores})


def pick(spec: str, *candidates: Scored, prefer: str | None = None, key: int = 0) -> tuple[int, str]:
    return make_selector(spec)(Case(candidates, "fim", prefer, "def f(a):\n", "", ("toy", key, 0)))


A, B, SAME, BROKEN = (f"    return {text}\n" for text in ("a", "a + 1", "(a)", "(a"))


def test_margin_keeps_the_preferred_member_up_to_the_threshold() -> None:
    pair = (make("a", A, 1.0), make("b", B, 0.9))
    assert pick("margin:0.05", *pair, prefer="a") == (1, "score")
    assert pick("margin:0.2", *pair, prefer="a") == (0, "margin")
    # Exactly at the threshold the preferred one stays.
    assert pick("margin:0.1", *pair, prefer="a") == (0, "margin")
    assert pick("margin:0.2", *pair, prefer="b") == (1, "score")
    assert pick("margin:0.2", *pair) == (1, "score")
    assert pick("margin:0.2", make("a", "", None), make("b", B, 0.9), prefer="a") == (1, "score")


def test_margin_compares_the_best_of_several_answers() -> None:
    assert pick("margin:0.2", make("a", A, 3.0), make("a", SAME, 1.0), make("b", B, 0.9), prefer="a") == (1, "margin")


def test_veto_takes_the_file_that_compiles() -> None:
    assert pick("veto", make("a", A, 2.0), make("b", BROKEN, 1.0)) == (0, "veto")
    assert pick("veto", make("a", BROKEN, 2.0), make("b", "    return (\n", 1.0)) == (1, "score")
    # Of three the broken one is dropped, the score decides between the others.
    assert pick("veto", make("a", A, 2.0), make("b", B, 1.0), make("c", BROKEN, 0.5)) == (1, "score")


def test_the_veto_is_for_python() -> None:
    pair = (make("a", A, 2.0), make("b", BROKEN, 1.0))
    assert make_selector("veto")(Case(pair, "fim", key=("santacoder_fim_js", 0, 0), prefix="def f(a):\n")) == (1, "score")


def test_agreement_sees_through_brackets_and_comments() -> None:
    pair = (make("a", A, 2.0), make("b", "    return (a)  # here\n", 1.0))
    assert pick("agreement", *pair, prefer="a") == (0, "agreement")
    assert pick("argmin", *pair, prefer="a") == (1, "score")
    assert pick("agreement", make("a", A, 2.0), make("b", B, 1.0)) == (1, "score")


def test_a_sequence_names_the_rule_that_decided() -> None:
    spec = "sequence:veto,agreement,margin:0.2"
    assert pick(spec, make("a", A, 2.0), make("b", BROKEN, 1.0)) == (0, "veto")
    assert pick(spec, make("a", A, 2.0), make("b", SAME, 1.0), prefer="a") == (0, "agreement")
    assert pick(spec, make("a", A, 1.0), make("b", B, 0.9), prefer="a") == (0, "margin")
    assert pick(spec, make("a", A, 1.0), make("b", B, 0.7), prefer="a") == (1, "score")
    assert pick(spec, make("a", A, 1.0), make("b", A, 1.0)) == (0, "agreement")


def test_a_member_alone_and_the_lengths() -> None:
    pair = (make("a", A, 2.0), make("b", B, 1.0))
    assert pick("always:a", *pair) == (0, "always")
    assert pick("always:gone", *pair) == (1, "score")
    assert pick("longest", *pair) == (1, "longest")
    assert pick("shortest", *pair) == (0, "shortest")
    assert pick("shortest", make("a", "\n", 1.0), make("b", B, 1.0)) == (1, "shortest")


def test_another_score_can_take_the_place_of_the_rule() -> None:
    pair = (make("a", A, 2.0, onepass=0.5), make("b", B, 1.0, onepass=2.0))
    assert pick("argmin", *pair) == (1, "score")
    assert pick("argmin[onepass]", *pair) == (0, "score")
    # The mean of two is made from its parts: 1.25 against 1.5.
    assert pick("argmin[fim+onepass]", *pair) == (0, "score")
    assert pick("margin[onepass]:0.1", *pair, prefer="b") == (0, "score")


def test_draws_follow_their_weights_and_the_gap() -> None:
    # exp(-0) against exp(-1): 0.731 of the draws.
    pair = (make("a", A, 1.0), make("b", B, 0.0))
    drawn = collections.Counter(pick("inverse", *pair, key=key) for key in range(2000))
    assert set(drawn) == {(0, "sampled"), (1, "sampled")}
    assert abs(drawn[1, "sampled"] / 2000 - 0.731) < 0.03  # three standard errors
    even = collections.Counter(pick("random", *pair, key=key) for key in range(2000))
    assert abs(even[1, "random"] / 2000 - 0.5) < 0.034
    assert pick("inverse", *pair, key=5) == pick("inverse", *pair, key=5)
    # Very unlikely and blank texts are no accident.
    assert pick("inverse", make("a", A, 5000.0), make("b", B, 4000.0)) == (1, "sampled")
    assert {pick("inverse", make("a", "", 0.0), make("b", B, 9.0), key=key) for key in range(20)} == {(1, "sampled")}
    assert pick("inverse", make("a", A, None), make("b", B, None))[1] == "tie"


def test_consensus_needs_three() -> None:
    # {x, y} and {x, y, z} share 2 of 3 tokens; {q} shares none.
    assert token_similarity("x y", "x y z") == pytest.approx(2 / 3)
    assert edit_similarity("abcd", "bcde") == pytest.approx(0.75)  # 2 * 3 / 8
    trio = (make("a", "q", 0.1), make("b", "x y z", 3.0), make("c", "x y", 2.0))
    for spec in ("mbr", "mbr:tokens", "mbr:edit"):
        assert pick(spec, *trio)[0] in (1, 2)
    assert pick("mbr", *trio[:2]) == (0, "few")
    assert pick("mbr", make("a", "q", 0.1), make("b", "x y", 3.0), make("c", "x y", 3.0)) == (1, "consensus")


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("argmn", "Did you mean 'argmin'"),
        ("margin", "selector_file"),
        ("margin:-1", "nats >= 0"),
        ("margin:nan", "nats >= 0"),
        ("margin:x", "nats >= 0"),
        ("learned", "selector_file"),
        ("argmin:3", "takes no argument"),
        ("always", "NAME"),
        ("always:dlm", "Did you mean 'dllm'"),
        ("mbr:bleu", "not a similarity"),
        ("oracle", "verdicts"),
        ("sequence:", "missing"),
        ("sequence:veto,,argmin", "missing"),
        ("sequence:margin:0.1,veto", "always decides"),
        ("sequence:vetoo,argmin", "Did you mean 'veto'"),
        ("", "not a selector"),
        ("argmin[fim", "not a selector"),
    ],
)
def test_a_wrong_name_is_one_message(spec: str, found: str) -> None:
    with pytest.raises(ConfigError, match="selector") as caught:
        make_selector(spec, members=("dllm", "fim"))
    assert found in str(caught.value)
