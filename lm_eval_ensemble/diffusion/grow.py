"""``length=expand``: a canvas that grows and shrinks while it is filled, for models trained with two more tokens.

DreamOn (Wu et al., arXiv 2602.01326; DreamLM/DreamOn, eval/generator.py, ``batch_generate_with_expand_as_token``). A gap
begins as a few masks. Each step fills one of them, the most certain. Where the expand token was drawn, two masks stand in its
place; where the delete token was (DreamOn's is end-of-text), the mask goes, and so do all masks after it. A span at its limit,
or whose budget of expansions is spent, draws no expand token. It is filled when no mask is left.

Deviations: rows of different gaps share a forward pass, padding masked out of attention; equal confidences are ordered as in
``algorithms.StableTies``; no other control token is drawn.

Letters: B = rows, L = row length, M = masks of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from lm_eval_ensemble.diffusion.algorithms import StableTies
from lm_eval_ensemble.diffusion.model import pad_right
from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.sampling import draw_ahead

__all__ = ["GROWING", "Grower", "GrowingMiddle", "check_growing", "grow", "most_steps"]

#: what ranks the masks, as in ``algorithms``; the published choice is the entropy.
GROWING = ("entropy", "maskgit_plus", "topk_margin")


class Grower(Protocol):
    """What growing needs of a model; ``end_ids`` delete a mask, ``expand_id`` makes two of one."""

    mask_id: int
    expand_id: int | None
    end_ids: list[int]

    @property
    def device(self) -> torch.device: ...

    def states_at(self, ids: Tensor, lengths: Tensor, rows: Tensor, columns: Tensor) -> Tensor: ...

    def logits_of(self, states: Tensor, ending: Tensor | None = None, expanding: Tensor | None = None) -> Tensor: ...


@dataclass
class GrowingMiddle:
    """A gap while it is filled: ``tokens`` (None: masked), the log-probability of each when it was filled (nats), how many
    tokens it may have, how many more masks may be expanded, forward passes so far, and the tokens after every step."""

    tokens: list[int | None]
    logprobs: list[float]
    limit: int
    budget: int
    forwards: int = 0
    states: list[list[int | None]] = field(default_factory=list)

    @property
    def masks(self) -> list[int]:
        return [i for i, token in enumerate(self.tokens) if token is None]

    def put(self, place: int, token: int, logprob: float, expand_id: int | None, end_ids: Sequence[int]) -> None:
        """Fill the mask at ``place``, or do what its token says."""
        if token == expand_id:
            self.tokens[place : place + 1] = [None, None]
            self.logprobs[place : place + 1] = [0.0, 0.0]
            self.budget -= 1
        elif token in end_ids:
            kept = [i for i, old in enumerate(self.tokens) if old is not None or i < place]
            self.tokens, self.logprobs = [self.tokens[i] for i in kept], [self.logprobs[i] for i in kept]
        else:
            self.tokens[place], self.logprobs[place] = token, logprob
        self.forwards += 1
        self.states.append(list(self.tokens))


def most_steps(limit: int) -> int:
    """Steps that a span can take: ``limit`` expansions, and one for each of the masks that it then had."""
    return 3 * limit


def check_growing(expand_id: int | None, alg: str) -> None:
    """:raises ConfigError: the model has no expand token, or ``alg`` ranks no masks."""
    if expand_id is None:
        raise ConfigError("length=expand: the diffusion model has no expand token. Give a model trained with one (DreamOn).")
    if alg not in GROWING:
        raise ConfigError(
            f"length=expand: alg={alg} does not say which mask is the most certain. Give alg={', '.join(GROWING)}."
        )


@torch.no_grad()
def grow(
    model: Grower,
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    first: int,
    limits: Sequence[int],
    alg: str = "entropy",
    temperature: float = 0.0,
    top_p: float = 1.0,
    uniforms: Tensor | None = None,
) -> list[GrowingMiddle]:
    """Fill the gaps of a batch.

    :param rows: prefix ids and suffix ids.
    :param first: masks to begin with.
    :param limits: of each row: tokens its gap may have, and how often it may be expanded.
    :param alg: one of ``GROWING``.
    :param uniforms: ``(B, most_steps(N), N)`` in [0, 1), one stream per row, N at least the highest limit; needed when
        ``temperature`` > 0.
    :raises ConfigError: the model has no expand token, or ``alg`` ranks no masks.
    """
    check_growing(model.expand_id, alg)
    if temperature > 0 and uniforms is None:
        raise ValueError("grow: temperature > 0 needs uniforms=.")
    begins = [min(first, limit) for limit in limits]
    spans = [GrowingMiddle([None] * n, [0.0] * n, limit, budget=limit) for n, limit in zip(begins, limits, strict=True)]
    while live := [i for i, span in enumerate(spans) if span.masks]:
        _advance(model, [(spans[i], *rows[i]) for i in live], alg, temperature, top_p, _of(uniforms, spans, live))
    return spans


def _of(uniforms: Tensor | None, spans: Sequence[GrowingMiddle], live: Sequence[int]) -> Tensor | None:
    """Numbers ``(M,)`` of this step for the masks of the live rows."""
    if uniforms is None:
        return None
    return torch.cat([uniforms[i, spans[i].forwards, spans[i].masks] for i in live])


def _advance(
    model: Grower,
    live: Sequence[tuple[GrowingMiddle, Sequence[int], Sequence[int]]],
    alg: str,
    temperature: float,
    top_p: float,
    uniforms: Tensor | None,
) -> None:
    """One step: every row fills its most certain mask."""
    texts = [[*prefix, *(model.mask_id if t is None else t for t in span.tokens), *suffix] for span, prefix, suffix in live]
    device = model.device
    ids, lengths = pad_right(texts, model.mask_id, device)
    rows = torch.tensor([row for row, (span, _, _) in enumerate(live) for _ in span.masks])
    columns = torch.tensor([len(prefix) + place for span, prefix, _ in live for place in span.masks])
    may_grow = torch.tensor([len(span.tokens) < span.limit and span.budget > 0 for span, _, _ in live])
    states = model.states_at(ids, lengths, rows.to(device), columns.to(device))
    logits = model.logits_of(states, torch.ones(len(rows), dtype=torch.bool), may_grow[rows])
    numbers = None if uniforms is None else uniforms[:, None].to(logits.device)
    drawn = draw_ahead(logits, temperature, top_p, numbers, certainty=alg == "entropy")
    rank = {"entropy": drawn.certainty, "topk_margin": drawn.margin, "maskgit_plus": drawn.probs[:, 0]}[alg].cpu()
    tokens, logprobs = drawn.ids[:, 0].tolist(), drawn.logprobs[:, 0].cpu()
    begin = 0
    for span, _, _ in live:
        part = slice(begin, begin + len(span.masks))
        begin = part.stop
        every = torch.ones(1, len(span.masks), dtype=torch.bool)
        best = StableTies().highest(rank[part][None], logprobs[part][None], every, torch.ones(1, dtype=torch.long))
        at = int(best[0].long().argmax())
        span.put(span.masks[at], tokens[part][at], float(logprobs[part][at]), model.expand_id, model.end_ids)
