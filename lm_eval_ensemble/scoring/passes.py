"""The model passes behind the scores: which tokens, in which order, and which of them are scored.

Prefix, middle and suffix are tokenised apart and concatenated, so that no token straddles a border and all candidates
of a gap share the same prefix and suffix ids.
"""

from __future__ import annotations

from collections.abc import Sequence

from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.scoring.base import CausalScorer, DiffusionScorer, Pass, Scorers, Span, Statistic
from lm_eval_ensemble.tokens import fit_window
from lm_eval_ensemble.types import InfillRequest

__all__ = ["run_pass"]

Pair = tuple[InfillRequest, str]


def run_pass(name: Pass, scorers: Scorers, pairs: Sequence[Pair]) -> list[Statistic | None]:
    """One statistic per (request, text); None where the text has no tokens.

    :raises ConfigError: no member can run this pass.
    """
    model = scorers.diffusion if name == "onepass" else scorers.causal
    if name not in scorers.passes() or model is None:
        kind = "a diffusion-infill member" if name == "onepass" else "an hf-scored member with a FIM layout"
        raise ConfigError(f"score needs the pass {name!r}: found no {kind} in this ensemble. Add one, or choose another score.")
    middles = [model.encoder.encode(text) for _, text in pairs]
    todo = [i for i, middle in enumerate(middles) if middle]
    chosen = [(pairs[i][0], middles[i]) for i in todo]
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


def _sequence(model: CausalScorer, items: Sequence[tuple[InfillRequest, list[int]]]) -> list[Statistic]:
    """prefix, middle, suffix in reading order: log-probabilities of the middle and of the suffix."""
    spans = []
    for request, middle in items:
        window = fit_window(
            model.encoder.encode(request.prefix), model.encoder.encode(request.suffix), model.window - len(middle) - 1
        )
        # A first token needs something before it.
        prefix = window.prefix or [model.end_id]
        spans.append(Span([*prefix, *middle, *window.suffix], len(prefix)))
    return _split(model.token_logprobs(spans), [middle for _, middle in items])


def _fim(model: CausalScorer, items: Sequence[tuple[InfillRequest, list[int]]]) -> list[Statistic]:
    """The FIM prompt, then the middle and the stop token."""
    assert model.layout is not None
    stop = model.layout.end_id(model.encoder, model.end_id)
    spans = []
    for request, middle in items:
        room = model.window - len(middle) - 1
        prompt = model.layout.encode(model.encoder, request.prefix, request.suffix, room)
        spans.append(Span([*prompt.ids, *middle, stop], len(prompt.ids)))
    return _split(model.token_logprobs(spans), [middle for _, middle in items])


def _onepass(model: DiffusionScorer, items: Sequence[tuple[InfillRequest, list[int]]]) -> list[Statistic]:
    """The middle masked in one piece between prefix and suffix."""
    rows = []
    for request, middle in items:
        window = fit_window(
            model.encoder.encode(request.prefix), model.encoder.encode(request.suffix), model.window - len(middle)
        )
        rows.append((window.prefix, middle, window.suffix))
    return _split(model.onepass_logprobs(rows), [middle for _, middle in items])


def _split(logprobs: Sequence[Sequence[float]], middles: Sequence[list[int]]) -> list[Statistic]:
    return [
        Statistic(tuple(row[: len(middle)]), tuple(row[len(middle) :])) for row, middle in zip(logprobs, middles, strict=True)
    ]
