"""Reading spans: against a hand-made bigram model, and with a shared prompt against without."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lm_eval_ensemble.batching import Batcher
from lm_eval_ensemble.harness.reading import SpanReader
from lm_eval_ensemble.scoring import SCORES, Statistic
from lm_eval_ensemble.scoring.base import Span

#: P(next | current) of a language of three tokens.
BIGRAM = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.5, 0.375], [0.25, 0.625, 0.125]])


class Bigram:
    """A language model that looks at one token; it keeps no cache."""

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return SimpleNamespace(logits=BIGRAM.log()[input_ids])

    __call__ = forward


def test_the_span_of_a_hand_made_model() -> None:
    # prefix 0, middle 1 2, suffix 1: P(1|0) P(2|1) = 1/4 * 3/8 for the middle, P(1|2) = 5/8 for the suffix.
    found = SpanReader(Bigram(), 0, "cpu").read([Span([0, 1, 2, 1], 1)], Batcher(4))[0]
    assert found == pytest.approx([math.log(0.25), math.log(0.375), math.log(0.625)])
    statistic = Statistic(tuple(found[:2]), tuple(found[2:]))
    assert SCORES["causal"].compute(statistic) == pytest.approx(-math.log(0.25 * 0.375) / 2)
    assert SCORES["joint"].compute(statistic) == pytest.approx(-math.log(0.25 * 0.375 * 0.625))
    # The span shifted by one, of the first design, drops P(1|0) and charges P(1|2): another number.
    assert SCORES["causal"].compute(statistic) != pytest.approx(-math.log(0.375 * 0.625) / 2)


def test_rows_of_unequal_length_do_not_mix() -> None:
    spans = [Span([0, 1], 1), Span([2, 2, 2, 1, 0], 3), Span([1, 0, 0], 1)]
    found = SpanReader(Bigram(), 0, "cpu").read(spans, Batcher(3))
    for span, row in zip(spans, found, strict=True):
        expected = [math.log(BIGRAM[span.ids[i - 1], span.ids[i]]) for i in range(span.start, len(span.ids))]
        assert row == pytest.approx(expected)


@pytest.mark.parametrize("size", [1, 3, 16])
def test_a_shared_prompt_changes_no_number(scored: Any, size: int) -> None:
    encode = scored.encoder.encode
    prompts = [encode("def total(values):\n    result = 0\n"), encode("import os\n\n\ndef f(x):\n")]
    rests = [encode(text) for text in ("    return x\n", "x", "    for v in values:\n        result += v\n", "y\n" * 9)]
    spans = [Span([*prompt, *rest], len(prompt)) for prompt in prompts for rest in rests]
    spans.append(Span(encode("alone = 1\n"), 2))
    apart = SpanReader(scored.model, 0, scored.device, share=False).read(spans, Batcher(size))
    shared = SpanReader(scored.model, 0, scored.device, share=True).read(spans, Batcher(size))
    assert [len(row) for row in shared] == [len(span.ids) - span.start for span in spans]
    for one, other in zip(apart, shared, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_models_that_remember_otherwise_share_nothing() -> None:
    assert not SpanReader(Bigram(), 0, "cpu").share
