"""The pipeline with members and a scorer whose output is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lm_eval_ensemble.ensemble import Settings, run
from lm_eval_ensemble.scoring import Scorers, Span
from lm_eval_ensemble.tokens import PlainEncoder
from lm_eval_ensemble.types import Candidate, Completion, InfillRequest, Selection


class Speaker:
    """Answers with fixed texts; remembers what it was asked."""

    offers = 1

    def __init__(self, name: str, *texts: str, wants_partner: bool = False) -> None:
        self.name, self.texts, self.wants_partner = name, texts, wants_partner
        self.asked: list[InfillRequest] = []

    def propose(self, requests: Sequence[InfillRequest]) -> list[Candidate]:
        self.asked += requests
        return [
            Candidate(self.name, self.texts[i % len(self.texts)], self.texts[i % len(self.texts)]) for i in range(len(requests))
        ]


class LengthJudge:
    """A causal scorer that finds every token of a text less likely the longer the text is."""

    layout = None
    end_id, window = 0, 500

    def __init__(self, tokenizer: Any) -> None:
        self.encoder = PlainEncoder(tokenizer)

    def token_logprobs(self, spans: Sequence[Span]) -> list[list[float]]:
        return [[-math.log(1 + len(span.ids))] * (len(span.ids) - span.start) for span in spans]


def fill(
    tokenizer: Any, *members: Speaker, requests: Sequence[InfillRequest] | None = None, **settings: Any
) -> list[Completion]:
    asked = requests or [InfillRequest("p\n", "s\n", "t", 0)]
    return run(asked, members, Scorers(causal=LengthJudge(tokenizer)), Settings(rule="causal", **settings))


def trace(completion: Completion) -> Selection:
    assert completion.trace is not None
    return completion.trace


def test_the_better_scored_text_is_returned_with_everything_recorded(tokenizer: Any) -> None:
    completion = fill(tokenizer, Speaker("a", "long = 1 + 2 + 3 + 4\n"), Speaker("b", "x\n"))[0]
    assert completion == "x\n"
    assert trace(completion).chosen.member == "b"
    assert [set(c.scores) for c in trace(completion).candidates] == [
        {"causal", "causal_byte", "causal_worst", "joint", "joint_mean"}
    ] * 2


def test_a_member_that_wants_a_partner_is_asked_last_and_told_the_answer(tokenizer: Any) -> None:
    first, last = Speaker("needy", "y\n", wants_partner=True), Speaker("plain", "answer\n")
    completion = fill(tokenizer, first, last)[0]
    assert [r.hint for r in first.asked] == ["answer\n"]
    assert [r.hint for r in last.asked] == [None]
    # The order of the candidates stays that of the members.
    assert trace(completion).members == ("needy", "plain")


def test_alone_a_member_that_wants_a_partner_gets_none(tokenizer: Any) -> None:
    member = Speaker("needy", "y\n", wants_partner=True)
    assert trace(fill(tokenizer, member)[0]).reason == "single"
    assert [r.hint for r in member.asked] == [None]


def test_samples_have_streams_of_their_own_also_under_repeats(tokenizer: Any) -> None:
    member = Speaker("a", "u\n", "v\n")
    repeats = [InfillRequest("p\n", "s\n", "t", 0, sample=k) for k in range(2)]
    found = fill(tokenizer, member, requests=repeats, samples=2)
    assert [r.sample for r in member.asked] == [0, 1, 2, 3]
    assert [[(c.candidate.text, c.candidate.sample) for c in trace(f).candidates] for f in found] == [
        [("u\n", 0), ("v\n", 1)],
        [("u\n", 0), ("v\n", 1)],
    ]
