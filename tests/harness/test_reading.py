"""Reading spans: against a hand-made bigram model, and with a shared prompt against without."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from lm_eval_ensemble.batching import Batcher
from lm_eval_ensemble.harness.beginnings import cache_name
from lm_eval_ensemble.harness.reading import SpanReader
from lm_eval_ensemble.scoring import SCORES, Statistic
from lm_eval_ensemble.scoring.base import Span
from tests.standins import ARCHITECTURES, save_standin

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


def test_stock_models_share_under_whatever_name_this_transformers_gives_the_cache(scored: Any, tmp_path: Path) -> None:
    assert scored._reader.share
    for architecture in ARCHITECTURES:
        model = AutoModelForCausalLM.from_pretrained(save_standin(tmp_path / architecture, architecture))
        assert SpanReader(model, 0, "cpu").obstacle is None, architecture


class Lent:
    """A stock model, counting how often it is lent a cache."""

    def __init__(self, model: Any) -> None:
        self.model, self.config, self.lent = model, model.config, 0

    def _answer(self, cache: Any, named: dict[str, Any]) -> Any:
        self.lent += cache is not None
        return self.model(**{str(cache_name(self.model)): cache}, **named)


class Older(Lent):
    """Takes it under the name of transformers before 5.24, as remote code may for long."""

    def forward(self, past_key_values: Any = None, logits_to_keep: int = 0, **named: Any) -> Any:
        return self._answer(past_key_values, {"logits_to_keep": logits_to_keep, **named})

    __call__ = forward


class Newer(Lent):
    """Takes it under the name of 5.24 and later."""

    def forward(self, cache: Any = None, logits_to_keep: int = 0, **named: Any) -> Any:
        return self._answer(cache, {"logits_to_keep": logits_to_keep, **named})

    __call__ = forward


@pytest.mark.parametrize("kind", [Older, Newer])
def test_either_name_of_the_cache_is_found_and_used(scored: Any, kind: type[Lent]) -> None:
    spans = [Span(scored.encoder.encode(text), 3) for text in ("def f(x):\n    return x\n", "def f(x):\n    pass\n")]
    assert spans[0].ids[:3] == spans[1].ids[:3]
    model = kind(scored.model)
    shared = SpanReader(model, 0, scored.device).read(spans, Batcher(4))
    assert model.lent == 2  # the prompt once, and what follows it once for both
    for one, other in zip(SpanReader(model, 0, scored.device, share=False).read(spans, Batcher(4)), shared, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert model.lent == 2


class Adapted:
    """What wraps a model for an adapter: its own ``forward`` names nothing."""

    def __init__(self, model: Any) -> None:
        self.model, self.config = model, model.config

    def get_base_model(self) -> Any:
        return self.model

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.model(*arguments, **named)


def test_a_model_under_an_adapter_shares(scored: Any) -> None:
    assert SpanReader(Adapted(scored.model), 0, "cpu").obstacle is None


def test_models_that_share_nothing_say_why_once(caplog: pytest.LogCaptureFixture) -> None:
    reader = SpanReader(Bigram(), 0, "cpu")
    assert not reader.share
    reader.read([Span([0, 1], 1), Span([1, 2], 1)], Batcher(2))
    assert not caplog.messages  # nothing to share, nothing to say
    for _ in range(2):
        reader.read([Span([0, 1], 1), Span([0, 2], 1)], Batcher(2))
    assert [record.message for record in caplog.records] == [
        "Bigram: its forward takes no cache (looked for cache and past_key_values). What prompts have in common is "
        "read again for each of them (1 such prompts here): scoring takes longer, its numbers are the same."
    ]


@pytest.mark.parametrize(
    ("kind", "own", "reason"),
    [
        ("Mamba", {"state_size": 4, "num_hidden_layers": 1}, "recurrent state"),
        (
            "Mistral",
            {"sliding_window": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2},
            "layers that forget",
        ),
    ],
)
def test_what_forgets_is_not_lent(kind: str, own: dict[str, Any], reason: str) -> None:
    config = getattr(transformers, f"{kind}Config")(vocab_size=16, hidden_size=16, **own)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    assert reason in str(SpanReader(model, 0, "cpu").obstacle)
