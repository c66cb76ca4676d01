"""Drawing tokens: the nucleus without a full sort, and random numbers that belong to a row.

Letters: M = number of positions, V = vocabulary, K = columns kept, R = rows, S = draws of one position.
Everything is float32, on contiguous last dimensions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Draws", "Nucleus", "draw", "draw_ahead", "nucleus", "row_uniforms"]


class Nucleus(NamedTuple):
    """The tokens a position may draw, most probable first.

    ids ``(M, K)``; probs ``(M, K)``, tempered, renormalised over the nucleus, 0 outside it;
    logprobs ``(M, K)``, untempered and unfiltered, in nats.
    """

    ids: Tensor
    probs: Tensor
    logprobs: Tensor


class Draws(NamedTuple):
    """Several draws of each position, and what the distribution looks like.

    ids, probs, logprobs ``(M, S)`` as in ``Nucleus``; margin ``(M,)``: difference of the two highest ``probs``;
    certainty ``(M,)``: negative entropy of ``probs`` in nats, 0 where it was not asked for.
    """

    ids: Tensor
    probs: Tensor
    logprobs: Tensor
    margin: Tensor
    certainty: Tensor


def nucleus(logits: Tensor, temperature: float, top_p: float, first: int = 64) -> Nucleus:
    """The smallest set of tokens whose probability reaches ``top_p`` (Holtzman et al., arXiv 1904.09751).

    Exact, without sorting the vocabulary: the best ``first`` tokens are taken, and only rows whose nucleus is
    not closed by then are redone with eight times as many.

    :param logits: ``(M, V)``.
    :param temperature: 0 keeps the logits as they are (the caller then takes the first column).
    :param top_p: in (0, 1]; 1 keeps the whole vocabulary (greedy: the best token alone).
    """
    raw = logits.float().contiguous()
    log_total = torch.logsumexp(raw, -1, keepdim=True)
    scaled = raw / temperature if temperature > 0 else raw
    scaled_total = torch.logsumexp(scaled, -1, keepdim=True) if temperature > 0 else log_total
    whole = 1 if temperature <= 0 else raw.shape[-1]
    width = whole if top_p >= 1 else min(first, raw.shape[-1])
    best, ids = scaled.topk(width, dim=-1)
    probs = (best - scaled_total).exp()
    logprobs = raw.gather(-1, ids) - log_total
    if top_p >= 1:
        return Nucleus(ids, probs, logprobs)
    # A token is in the nucleus if the mass before it has not yet reached top_p; the best one always is.
    kept = probs.masked_fill(probs.cumsum(-1) - probs >= top_p, 0.0)
    kept[:, 0] = probs[:, 0]
    still_open = (kept[:, -1] > 0) & (width < raw.shape[-1])
    if bool(still_open.any()):
        ids, kept, logprobs = _widened(raw, temperature, top_p, width, still_open, Nucleus(ids, kept, logprobs))
    return Nucleus(ids, kept / kept.sum(-1, keepdim=True), logprobs)


def _widened(raw: Tensor, temperature: float, top_p: float, width: int, rows: Tensor, old: Nucleus) -> Nucleus:
    """Redo the open ``rows`` with more columns; the others are padded with zero probability."""
    new = nucleus(raw[rows], temperature, top_p, width * 8)
    extra = new.ids.shape[1] - width
    ids, probs, logprobs = (torch.nn.functional.pad(part, (0, extra)) for part in old)
    ids[rows], probs[rows], logprobs[rows] = new
    return Nucleus(ids, probs, logprobs)


def draw(choices: Nucleus, uniforms: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one token per position: by inverse transform of ``uniforms`` ``(M,)`` in [0, 1), or greedily if None.

    :returns: token ids, their probability in the nucleus, their untempered log-probability; each ``(M,)``.
    """
    if uniforms is None:
        column = torch.zeros_like(choices.ids[:, :1])
    else:
        cumulative = choices.probs.cumsum(-1)
        column = (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(-1, keepdim=True)
        # Rounding may step past the last token that has any probability.
        last = ((choices.probs > 0).sum(-1, keepdim=True) - 1).clamp_min(0)
        column = torch.minimum(column, last)
    ids, probs, logprobs = (part.gather(-1, column)[:, 0] for part in choices)
    return ids, probs, logprobs


def draw_ahead(logits: Tensor, temperature: float, top_p: float, uniforms: Tensor | None, certainty: bool = False) -> Draws:
    """All draws that a position may need while its distribution stays the same, so that nothing of the size of the
    vocabulary has to be kept.

    :param logits: ``(M, V)``.
    :param uniforms: ``(M, S)`` in [0, 1), for the inverse transform: over the tokens of the nucleus, most probable first,
        or over the whole vocabulary in the order of ids (``top_p=1``, without any sort). None: the best token, S = 1.
    """
    greedy = uniforms is None or temperature <= 0
    if top_p < 1:
        kept = nucleus(logits, temperature, top_p)
        # Padded by a column, for vocabularies and nuclei of one token.
        best = torch.nn.functional.pad(kept.probs[:, :2], (0, 1))
        if greedy:
            # argmax: of equal logits the lowest id, which topk does not promise.
            column = (kept.ids == logits.argmax(-1, keepdim=True)).long().argmax(-1, keepdim=True)
        else:
            column = _inverse_transform(kept.probs, uniforms)
        ids, picked, logprobs = (part.gather(-1, column) for part in kept)
        return Draws(ids, picked, logprobs, best[:, 0] - best[:, 1], _negative_entropy(kept.probs, certainty))
    raw = logits.float()
    log_total = torch.logsumexp(raw, -1, keepdim=True)
    # Greedy decoding reads confidences off the untempered distribution.
    scaled = raw / temperature if temperature > 0 else raw
    probs = scaled.softmax(-1)
    best = torch.nn.functional.pad(probs.topk(min(2, probs.shape[-1]), dim=-1).values, (0, 1))
    ids = raw.argmax(-1, keepdim=True) if greedy else _inverse_transform(probs, uniforms)
    logprobs = raw.gather(-1, ids) - log_total
    return Draws(ids, probs.gather(-1, ids), logprobs, best[:, 0] - best[:, 1], _negative_entropy(probs, certainty))


def _negative_entropy(probs: Tensor, wanted: bool) -> Tensor:
    return torch.xlogy(probs, probs).sum(-1) if wanted else torch.zeros_like(probs[:, 0])


def _inverse_transform(probs: Tensor, uniforms: Tensor | None) -> Tensor:
    """Columns ``(M, S)`` of ``probs`` ``(M, K)``: the first whose cumulated probability exceeds the uniform number."""
    assert uniforms is not None
    cumulative = probs.cumsum(-1)
    total = cumulative[:, -1:].contiguous()
    column = torch.searchsorted(cumulative, uniforms * total, right=True)
    # Rounding may step past the last token that has any probability.
    return torch.minimum(column, torch.searchsorted(cumulative, total))


def row_uniforms(seed: int, names: Sequence[tuple[object, ...]], steps: int | Sequence[int], widths: Sequence[int]) -> Tensor:
    """Uniform numbers ``(R, max(steps), max(widths))``, one stream per row, on the CPU; zero beyond a row's own size.

    A stream is named by (seed, member, task, document, sample): the numbers of a row do not depend on its batch,
    on the order of rows, on the device or on how often the run was resumed.

    :param steps: how many numbers each position gets, for all rows or one by one.
    """
    counts = [steps] * len(names) if isinstance(steps, int) else list(steps)
    out = torch.zeros(len(names), max(counts, default=0), max(widths, default=0))
    for row, (name, count, width) in enumerate(zip(names, counts, widths, strict=True)):
        digest = hashlib.sha256(repr((seed, *name)).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        out[row, :count, :width] = torch.rand(count, width, generator=generator)
    return out
