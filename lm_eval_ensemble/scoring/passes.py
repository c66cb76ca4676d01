"""The model passes behind the scores: which tokens, in which order, and which of them are scored.

Prefix, middle and suffix are tokenised apart and concatenated, so that no token straddles a border. Where they do not fit
into the context together, prefix and suffix are trimmed for the longest candidate of the gap: all candidates of a gap
share the same prefix and suffix ids, or their scores would not compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.scoring.base import CausalScorer, DiffusionScorer, Pass, Scorers, Span, Statistic
from lm_eval_ensemble.tokens import Window, fit_window
from lm_eval_ensemble.types import InfillRequest

__all__ = ["run_pass"]

Pair = tuple[InfillRequest, str]


@dataclass(frozen=True)
class _Item:
    """A gap, one candidate's tokens, and how many tokens the longest candidate of the gap has."""

    request: InfillRequest
    middle: list[int]
    longest: int


def run_pass(name: Pass, scorers: Scorers, pairs: Sequence[Pair]) -> list[Statistic | None]:
    """One statistic per (request, text); None where the text has no tokens.

    :raises ConfigError: no member can run this pass.
    """
    model = scorers.diffusion if name == "onepass" else scorers.causal
    if name not in scorers.passes() or model is None:
        kind = "a diffusion-infill member" if name == "onepass" else "an hf-scored member with a FIM layout"
        raise ConfigError(f"score needs the pass {name!r}: found no {kind} in this ensemble. Add one, or choose another score.")
    middles = [model.encoder.encode(text) for _, text in pairs]
    gaps = [(request.prefix, request.suffix) for request, _ in pairs]
    longest: dict[tuple[str, str], int] = {}
    for gap, middle in zip(gaps, middles, strict=True):
        longest[gap] = max(longest.get(gap, 0), len(middle))
    todo = [i for i, middle in enumerate(middles) if middle]
    chosen = [_Item(pairs[i][0], middles[i], longest[gaps[i]]) for i in todo]
    if name == "onepass":
        assert scorers.diffusion is not None
        found = _onepass(scorers.diffusion, chosen)
    else:
        assert scorers.causal is not None
        found = (_sequence if name == "sequence" else _fim)(scorers.causal, chosen)
    statistics: list[Statistic | None] = [None] * len(pairs)
    for i, statistic in zip(todo, found, strict=True):
        statistics[i] = statistic
    return statistics


def _sequence(model: CausalScorer, items: Sequence[_Item]) -> list[Statistic]:
    """prefix, middle, suffix in reading order: log-probabilities of the middle and of the suffix."""
    spans = []
    for item in items:
        window = _window(model, item, 1)
        # A first token needs something before it.
        prefix = window.prefix or [model.end_id]
        spans.append(Span([*prefix, *item.middle, *window.suffix], len(prefix)))
    return _split(model.token_logprobs(spans), items)


def _fim(model: CausalScorer, items: Sequence[_Item]) -> list[Statistic]:
    """The FIM prompt, then the middle and the stop token."""
    assert model.layout is not None
    stop = model.layout.end_id(model.encoder, model.end_id)
    spans = []
    for item in items:
        room = model.window - item.longest - 1
        prompt = model.layout.encode(model.encoder, item.request.prefix, item.request.suffix, room)
        spans.append(Span([*prompt.ids, *item.middle, stop], len(prompt.ids)))
    return _split(model.token_logprobs(spans), items)


def _onepass(model: DiffusionScorer, items: Sequence[_Item]) -> list[Statistic]:
    """The middle masked in one piece between prefix and suffix."""
    rows = []
    for item in items:
        window = _window(model, item, 0)
        rows.append((window.prefix, item.middle, window.suffix))
    return _split(model.onepass_logprobs(rows), items)


def _window(model: CausalScorer | DiffusionScorer, item: _Item, extra: int) -> Window:
    encode = model.encoder.encode
    return fit_window(encode(item.request.prefix), encode(item.request.suffix), model.window - item.longest - extra)


def _split(logprobs: Sequence[Sequence[float]], items: Sequence[_Item]) -> list[Statistic]:
    sizes = [len(item.middle) for item in items]
    return [Statistic(tuple(row[:n]), tuple(row[n:])) for row, n in zip(logprobs, sizes, strict=True)]
