"""The pipeline with members and a scorer whose output is known."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from lm_eval_ensemble.ensemble import Settings, by_device, run
from lm_eval_ensemble.members.base import Ledger, Member
from lm_eval_ensemble.scoring import Scorers, Span
from lm_eval_ensemble.tokens import PlainEncoder
from lm_eval_ensemble.types import RUN, Candidate, Completion, InfillRequest, Selection


class Speaker(Member):
    """Answers with fixed texts; remembers what it was asked."""

    def __init__(self, name: str, *texts: str, wants_partner: bool = False) -> None:
        self.name, self.texts, self.wants_partner = name, texts, wants_partner
        self.asked: list[InfillRequest] = []

    def propose(self, requests: Sequence[InfillRequest], ledger: Ledger | None = None) -> list[Candidate]:
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


def void(_: object) -> None:
    """Takes a value where none is wanted."""


class Placed(Speaker):
    """A member on a device; tells when it works."""

    def __init__(self, name: str, device: str, during: Callable[[], None]) -> None:
        super().__init__(name, f"{name}\n")
        self.device, self.during = device, during

    def propose(self, requests: Sequence[InfillRequest], ledger: Ledger | None = None) -> list[Candidate]:
        self.during()
        return super().propose(requests)


def test_members_on_different_devices_work_at_the_same_time(tokenizer: Any) -> None:
    """Each waits inside its work until the other is inside its own."""
    meeting = threading.Barrier(2, timeout=60)
    members = [Placed("a", "cuda:0", lambda: void(meeting.wait())), Placed("b", "cuda:1", lambda: void(meeting.wait()))]
    assert [s.candidate.text for s in trace(fill(tokenizer, *members)[0]).candidates] == ["a\n", "b\n"]


@pytest.mark.parametrize(("devices", "concurrent"), [(("cpu", "cpu"), True), (("cuda:0", "cuda:1"), False)])
def test_members_on_one_device_never_do(tokenizer: Any, devices: tuple[str, str], concurrent: bool) -> None:
    busy = threading.Lock()

    def during() -> None:
        assert busy.acquire(blocking=False)
        time.sleep(0.05)
        busy.release()

    members = [Placed(name, device, during) for name, device in zip("ab", devices, strict=True)]
    fill(tokenizer, *members, concurrent=concurrent)
    assert [len(member.asked) for member in members] == [1, 1]


def test_groups_of_devices() -> None:
    placed = [Placed(n, d, lambda: None) for n, d in [("a", "cuda"), ("b", "cpu"), ("c", "cuda:0"), ("d", "cuda:1")]]
    plain = [Speaker("e", "x"), Speaker("f", "x")]
    assert [[m.name for m in group] for group in by_device([*placed, *plain])] == [["a", "c"], ["b"], ["d"], ["e", "f"]]


def test_the_first_error_of_a_device_ends_the_run(tokenizer: Any) -> None:
    def fail() -> None:
        raise ValueError("out of order")

    with pytest.raises(ValueError, match="out of order"):
        fill(tokenizer, Placed("a", "cpu", lambda: None), Placed("b", "cuda:1", fail))


def test_a_routed_gap_is_asked_of_one_member_only(tokenizer: Any) -> None:
    a, b = Speaker("a", "from a\n"), Speaker("b", "from b\n", wants_partner=True)
    requests = [InfillRequest("p\n", suffix, "t", i) for i, suffix in enumerate(["", "s\n", ""])]
    found = fill(tokenizer, a, b, requests=requests, route="suffix_empty?b:a")
    assert found == ["from b\n", "from a\n", "from b\n"]
    assert [r.doc_id for r in a.asked] == [1]
    # A partner that was not asked gives no hint.
    assert [(r.doc_id, r.hint) for r in b.asked] == [(0, None), (2, None)]
    assert [trace(f).reason for f in found] == ["single"] * 3
    assert trace(found[0]).settings == {"selector": "argmin", "prefer": None, "route": "suffix_empty?b:a"}


def test_the_selector_that_was_named_decides(tokenizer: Any) -> None:
    members = Speaker("a", "long = 1 + 2 + 3 + 4\n"), Speaker("b", "x\n")
    assert fill(tokenizer, *members, selector="argmin") == ["x\n"]
    assert fill(tokenizer, *members, selector="longest") == ["long = 1 + 2 + 3 + 4\n"]
    assert fill(tokenizer, *members, selector="always:a") == ["long = 1 + 2 + 3 + 4\n"]


def test_a_hint_is_the_first_variant_of_the_same_sample(tokenizer: Any) -> None:
    partner, needy = Speaker("a", "s0v0\n", "s0v1\n", "s1v0\n", "s1v1\n"), Speaker("b", "y\n", wants_partner=True)
    partner.offers = 2
    fill(tokenizer, needy, partner, samples=2)
    assert [(r.sample, r.hint) for r in needy.asked] == [(0, "s0v0\n"), (1, "s1v0\n")]


def test_the_fill_of_one_run_is_nobodys_hint(tokenizer: Any) -> None:
    """An answer to it would stand beside the fills of all runs (length=fixed-mean)."""

    class Averaged(Speaker):
        offers = 2

        def propose(self, requests: Sequence[InfillRequest], ledger: Ledger | None = None) -> list[Candidate]:
            found = super().propose(requests)
            return [replace(c, info={RUN: r.variant}) for c, r in zip(found, requests, strict=True)]

    needy, first, second = Speaker("n", "y\n", wants_partner=True), Averaged("a", "v0\n", "v1\n"), Speaker("b", "own\n")
    fill(tokenizer, needy, first, second)
    assert [request.hint for request in needy.asked] == ["own\n"]
    needy.asked.clear()
    fill(tokenizer, needy, first)
    assert [request.hint for request in needy.asked] == [None]
