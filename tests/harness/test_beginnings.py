"""What prompts have in common is read once: groups by hand, and no number changes by it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from lm_eval_ensemble.harness.beginnings import Lender, find_beginnings
from lm_eval_ensemble.harness.reading import pad_left
from lm_eval_ensemble.harness.recorder import ends_at
from lm_eval_ensemble.harness.requests import to_requests
from lm_eval_ensemble.harness.scored_lm import ScoredHF
from lm_eval_ensemble.types import Candidate, InfillRequest, normalise
from tests.harness.test_scored_lm import gaps

COMMON = list(range(100, 130))


def test_the_lines_of_one_program_lean_on_the_longest_prefix() -> None:
    # The prefixes are nested, and a sentinel (9) follows each.
    rows = [[*COMMON[:n], 9, n] for n in (20, 30, 25)] + [[5] * 40]
    found = find_beginnings(rows)
    assert list(found[0].trunk) == list(found[1].trunk) == list(found[2].trunk) == COMMON[:25]
    assert [own.length for own in found] == [20, 25, 25, 0]
    assert sorted(range(4), key=lambda i: -found[i].rank)[:3] == [1, 2, 0]  # the group first, its longest row before the others


def test_equal_prompts_leave_a_token_to_read() -> None:
    found = find_beginnings([COMMON, COMMON, COMMON])
    assert [(len(own.trunk), own.length) for own in found] == [(29, 29)] * 3


def test_few_common_tokens_are_nothing_to_share() -> None:
    found = find_beginnings([[*COMMON[:15], 1], [*COMMON[:15], 2], COMMON[:1], []])
    assert [own.length for own in found] == [0, 0, 0, 0]
    # Behind a long text of its own, a common licence of 20 tokens is not worth a forward either.
    assert [own.length for own in find_beginnings([[*COMMON[:20], *[n] * 100] for n in (1, 2)])] == [0, 0]


@pytest.mark.parametrize("least", [1, 6])
def test_lent_columns_are_those_the_model_would_compute(scored: Any, toy: Sequence[dict[str, Any]], least: int) -> None:
    rows = [scored._gap_row(request).ids for request in to_requests(gaps(toy[:6]))]
    ids, mask = pad_left(rows, 0, "cpu")
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    lender = Lender(scored.model, "cpu")
    with torch.no_grad():
        cache = lender.lend(find_beginnings(rows), [len(row) for row in rows], least)
        lent = cache.get_seq_length()
        assert 16 <= lent <= ids.shape[1] - least
        expected = scored.model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, -least:]
        given = {"input_ids": ids[:, lent:], "attention_mask": mask, "position_ids": positions[:, lent:]}
        found = scored.model(**given, **lender.named(cache)).logits[:, -least:]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_positions_that_depend_on_the_length_are_not_lent() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    config = Qwen2Config(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        rope_parameters=rope, max_position_embeddings=32,
    )  # fmt: skip
    lender = Lender(Qwen2ForCausalLM(config), "cpu")
    assert lender.obstacle == "its positions depend on the length of the text"
    assert lender.lend(find_beginnings([COMMON, COMMON]), [30, 30]) is None


@pytest.fixture(scope="module", params=[0.0, 0.8])
def model(assets: Path, request: pytest.FixtureRequest) -> ScoredHF:
    drawn: dict[str, Any] = {"temperature": request.param, "top_p": 0.95, "max_new_tokens": 40, "seed": 3}
    return ScoredHF(pretrained=str(assets / "fim"), batch_size=8, **drawn)


@pytest.fixture
def wholly(model: ScoredHF) -> Iterator[ScoredHF]:
    """The model without any of it: every prompt read whole, every row kept until its batch is done."""
    model._reader.lender.obstacle = "for comparison"
    yield model
    model._reader.lender.obstacle = None


@pytest.fixture(scope="module")
def lines(toy: Sequence[dict[str, Any]]) -> list[InfillRequest]:
    """Gaps of which one line is wanted, though in some of them several are missing: there the model goes on."""
    return [replace(request, cut="line") for request in to_requests(gaps(toy[:24]))]


@pytest.fixture(scope="module")
def shared(model: ScoredHF, lines: Sequence[InfillRequest]) -> list[Candidate]:
    return model.propose(lines)


def test_sharing_and_dropping_change_no_answer(
    wholly: ScoredHF, shared: Sequence[Candidate], lines: Sequence[InfillRequest]
) -> None:
    found = wholly.propose(lines)
    assert [(c.text, c.raw, c.info["stop"], c.info["token_ids"]) for c in found] == [
        (c.text, c.raw, c.info["stop"], c.info["token_ids"]) for c in shared
    ]
    for one, other in zip(found, shared, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert one.info.get("end_logprob") == pytest.approx(other.info.get("end_logprob"), abs=1e-4)


def test_an_answer_ends_where_its_line_is_decided(
    model: ScoredHF, shared: Sequence[Candidate], lines: Sequence[InfillRequest]
) -> None:
    """The text after the cut, and whether anything was cut off, are those of the answer written to its end."""
    written = model.propose([replace(request, cut="none") for request in lines])
    for short, whole in zip(shared, written, strict=True):
        text = normalise(whole.raw, "line")
        assert short.text == text
        assert short.was_cut == (text.rstrip() != whole.raw.rstrip())
        assert whole.raw.startswith(short.raw)
        assert (short.info["stop"] == "cut") <= short.was_cut
    assert sum(len(c.info["token_ids"]) for c in shared) < sum(len(c.info["token_ids"]) for c in written)


@pytest.mark.parametrize(
    ("text", "until", "expected"),
    [
        ("    x = 1\n", [], None),  # an end may follow, and then nothing was cut off
        ("    x = 1\n  ", [], None),
        ("    x = 1\n    y", [], 15),
        ("\n\n  x\n\ny z", [], 8),
        ("x\n\ufffd", [], None),  # half of a character: perhaps a space
        ("x\ny", ["\nclass", "\n\n"], 3),
        ("x\ny", ["x\nyz"], None),  # this stop would take the line away
    ],
)
def test_when_a_line_is_decided(text: str, until: list[str], expected: int | None) -> None:
    assert ends_at(text, "line", until) == expected
    assert ends_at(text, "none", until) is None


def test_the_end_is_the_one_that_scoring_would_read(model: ScoredHF, shared: Sequence[Candidate]) -> None:
    """The log-probability of the end behind the cut text, for answers that went on after it too."""
    known = [c for c in shared if "end_logprob" in c.info]
    assert len(known) > len(shared) // 2
    assert any(c.info["stop"] == "cut" for c in known)
    assert all(len(c.logprobs or ()) >= len(model.encoder.encode(c.text)) for c in known)


def test_gaps_with_different_cuts_are_batches_of_their_own(model: ScoredHF) -> None:
    line, none = (InfillRequest("def f(x):\n", "\n", cut=cut, max_new_tokens=24) for cut in ("line", "none"))
    together = model.propose([line, none])
    assert [c.raw for c in together] == [model.propose([request])[0].raw for request in (line, none)]
