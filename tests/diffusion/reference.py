"""The published algorithms, written for clarity: full ``[B, L, V]`` logits, softmax, a full sort for top-p, Categorical.

Nothing is saved and nothing is clever: every position of every row is computed in every step. ``benchmarks/diffusion.py``
measures against it, and the tests hold the package's decoding to it.

Letters: B = rows, L = row length, V = vocabulary, N = longest middle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

FullLogits = Callable[[Tensor], Tensor]


def plain_fill(
    full_logits: FullLogits,
    ids: Tensor,
    middle: Tensor,
    mask_id: int,
    *,
    alg: str = "p2",
    steps: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    alg_temp: float | None = None,
    ties: str = "published",
    coins: Tensor | None = None,
    sampler: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Fill the positions ``middle`` ``(B, L)`` of ``ids`` ``(B, L)``.

    :param full_logits: ids ``(B, L)`` -> logits ``(B, L, V)`` that predict each position.
    :param ties: ``published`` (torch's unstable sort of whole rows) or ``stable`` (the package's rule).
    :param coins: ``(B, steps, L)`` uniforms for ``origin``; drawn where they are None.
    :param sampler: probabilities ``(B, L, V)`` -> tokens ``(B, L)``; ``Categorical`` where it is None.
    """
    ids = torch.where(middle, mask_id, ids)
    masked = middle.clone()
    times = torch.linspace(1, 1e-3, steps + 1)
    for step in range(steps):
        if not masked.any():
            break
        logits = full_logits(ids)
        probs = top_p_softmax(logits / temperature if temperature > 0 else logits, top_p)
        drawn = probs.argmax(-1)
        if temperature > 0:
            drawn = torch.distributions.Categorical(probs=probs).sample() if sampler is None else sampler(probs)
        minor = logits.log_softmax(-1).gather(-1, drawn[..., None])[..., 0]
        confidence = rank_value(alg, probs, drawn)
        fraction = 1 - times[step + 1] / times[step] if step < steps - 1 else torch.tensor(1.0)
        if alg == "p2":
            keep = (middle.sum(1).float() * (1 - (step + 1) / steps)).long()
            after = extreme(confidence, minor, middle, keep, ties, lowest=True)
        elif alg == "origin":
            numbers = torch.rand(ids.shape) if coins is None else coins[:, step]
            after = masked & ~(numbers < fraction)
        else:
            count = (masked.sum(1).float() * fraction).long()
            if alg_temp:
                gumbel = -torch.log(-torch.log(torch.rand(ids.shape).clamp(1e-20, 1 - 1e-7)))
                confidence = confidence / alg_temp + gumbel
            after = masked & ~extreme(confidence, minor, masked, count, ties, lowest=False)
        ids = torch.where(after, mask_id, torch.where(masked, drawn, ids))
        masked = after
    return ids


def top_p_softmax(logits: Tensor, top_p: float) -> Tensor:
    """Probabilities of the nucleus: a token goes when the mass before it already exceeds ``top_p``."""
    if top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        beyond = ordered.softmax(-1).cumsum(-1) > top_p
        beyond = torch.cat([torch.zeros_like(beyond[..., :1]), beyond[..., :-1]], -1)
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), torch.finfo(logits.dtype).min)
    return logits.softmax(-1)


def rank_value(alg: str, probs: Tensor, drawn: Tensor) -> Tensor:
    """What positions are ranked by, ``(B, L)``; higher is filled first."""
    if alg == "topk_margin":
        best = probs.sort(dim=-1, descending=True).values
        return best[..., 0] - best[..., 1]
    if alg == "entropy":
        return (probs * probs.clamp(min=1e-10).log()).sum(-1)
    return probs.gather(-1, drawn[..., None])[..., 0]


def extreme(confidence: Tensor, minor: Tensor, eligible: Tensor, count: Tensor, ties: str, *, lowest: bool) -> Tensor:
    """``(B, L)``: the ``count`` ``(B,)`` eligible positions of lowest (or highest) confidence."""
    chosen = torch.zeros_like(eligible)
    if ties == "published":
        other = float("inf") if lowest else float("-inf")
        whole = confidence.masked_fill(~eligible, other)
        order = whole.argsort(dim=-1) if lowest else whole.topk(int(count.max()), dim=1).indices
        for row, n in enumerate(count.tolist()):
            chosen[row, order[row, :n]] = True
        return chosen & eligible
    for row, n in enumerate(count.tolist()):
        places = eligible[row].nonzero()[:, 0].tolist()
        places.sort(key=lambda i: (float(confidence[row, i]), float(minor[row, i]), -i))
        chosen[row, places[:n] if lowest else places[len(places) - n :]] = True
    return chosen


def shifted_logits(network: Any) -> FullLogits:
    """All logits of a ``MaskedDiffusionModel``, the whole row through the LM head, pads visible to everybody."""

    @torch.no_grad()
    def logits(ids: Tensor) -> Tensor:
        hidden = network.model.base_model(input_ids=ids, use_cache=False, is_causal=False).last_hidden_state
        full: Tensor = network.model.get_output_embeddings()(hidden).float()
        full[..., network._forbidden] = float("-inf")
        return torch.cat([full[:, :1], full[:, :-1]], 1) if network.shift else full

    return logits
