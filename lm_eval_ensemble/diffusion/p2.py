"""P2, path planning for masked diffusion (Peng et al., arXiv 2502.03540), as Open-dCoder decodes.

In every step each position of the middle draws a token; the positions whose draw was least probable are masked
(again), the others keep their token or take the draw. Deviations from the published code, all of them exact in law
or named: only the middle passes the LM head; rows leave when they are finished; a row whose tokens did not change is
not computed again; mask, control and padding ids are never drawn; equal confidences are ordered by the unfiltered
log-probability and then from left to right (the published code leaves ties to an unstable sort).

Letters: B = rows, L = row length, N = longest middle of the batch, K = columns of a nucleus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lm_eval_ensemble.diffusion.schedules import remaining_masks
from lm_eval_ensemble.sampling import Nucleus, draw, nucleus

__all__ = ["Canvas", "Filled", "Predictor", "p2", "p2_update"]


class Predictor(Protocol):
    """What decoding needs of a model."""

    mask_id: int

    def logits_at(self, ids: Tensor, lengths: Tensor, rows: Tensor, columns: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Canvas:
    """Rows to fill: ids ``(B, L)`` right-padded, lengths ``(B,)``, first position ``(B,)`` and size ``(B,)`` of the
    middle. The middle is known by its place, not by the mask's id, which user code may contain."""

    ids: Tensor
    lengths: Tensor
    starts: Tensor
    sizes: Tensor


class Filled(NamedTuple):
    """tokens: the middles, one list per row; logprobs: untempered log-probability of each token when it was last
    committed (nats); row_forwards: how often each row went through the model."""

    tokens: list[list[int]]
    logprobs: list[list[float]]
    row_forwards: list[int]


def p2_update(
    current: Tensor,
    drawn: Tensor,
    confidence: Tensor,
    logprobs: Tensor,
    valid: Tensor,
    keep_masked: Tensor,
    mask_id: int,
) -> Tensor:
    """One P2 step over a batch of middles: mask the least confident positions, fill the other masked ones.

    :param current: ``(B, N)`` tokens of the middle, ``mask_id`` where masked.
    :param drawn: ``(B, N)`` freshly drawn tokens; ``confidence`` ``(B, N)`` their nucleus probability;
        ``logprobs`` ``(B, N)`` their log-probability, for ties.
    :param valid: ``(B, N)`` bool, False beyond the end of a short middle.
    :param keep_masked: ``(B,)`` how many positions stay masked.
    :returns: ``(B, N)`` the new middle.
    """
    width = current.shape[1]
    # Two stable sorts, minor key first. Positions are reversed so that, all else equal, the leftmost is kept.
    # Places beyond the end count as the most confident: they are never chosen to be masked.
    confidence = confidence.masked_fill(~valid, float("inf")).flip(1)
    minor = logprobs.masked_fill(~valid, float("inf")).flip(1).argsort(dim=1, stable=True)
    order = minor.gather(1, confidence.gather(1, minor).argsort(dim=1, stable=True))
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(width, device=order.device).expand_as(order))
    masked = rank.flip(1) < keep_masked[:, None]
    filled = torch.where(current == mask_id, drawn, current)
    return torch.where(masked & valid, mask_id, filled)


def p2(
    model: Predictor,
    canvas: Canvas,
    *,
    steps: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    uniforms: Tensor | None = None,
) -> Filled:
    """Fill the middles of a batch.

    :param steps: number of denoising steps; a row of n tokens is finished after at most ``steps`` and may be earlier.
    :param uniforms: ``(B, steps, N)`` in [0, 1), one stream per row; needed when ``temperature`` > 0.
    """
    state = _State(model, canvas, temperature, top_p)
    for step in range(steps):
        if not bool(state.live.any()):
            break
        state.advance(remaining_masks(canvas.sizes, step, steps), None if uniforms is None else uniforms[:, step])
    return state.result()


class _State:
    """The rows while they are being filled: tokens, and the nucleus of every position for the current tokens."""

    def __init__(self, model: Predictor, canvas: Canvas, temperature: float, top_p: float) -> None:
        self.model, self.canvas, self.temperature, self.top_p = model, canvas, temperature, top_p
        self.ids = canvas.ids.clone()
        width = int(canvas.sizes.max()) if len(canvas.sizes) else 0
        offsets = torch.arange(width, device=self.ids.device)
        self.valid = offsets[None] < canvas.sizes[:, None]
        self.columns = (canvas.starts[:, None] + offsets).clamp_max(self.ids.shape[1] - 1)
        self.tokens = torch.full_like(self.columns, model.mask_id)
        self.committed = torch.zeros(self.columns.shape, device=self.ids.device)
        self.live = canvas.sizes > 0
        self.stale = self.live.clone()
        self.choices: Nucleus | None = None
        self.row_forwards = torch.zeros_like(canvas.sizes)

    def advance(self, keep_masked: Tensor, uniforms: Tensor | None) -> None:
        """One step of all live rows."""
        self._refresh()
        assert self.choices is not None
        shape = self.tokens.shape
        flat = None if uniforms is None or self.temperature <= 0 else uniforms[:, : shape[1]].reshape(-1)
        device = self.ids.device
        flat = None if flat is None else flat.to(device)
        flattened = Nucleus(*(part.reshape(-1, part.shape[-1]) for part in self.choices))
        drawn, confidence, logprobs = (part.reshape(shape) for part in draw(flattened, flat))
        new = p2_update(self.tokens, drawn, confidence, logprobs, self.valid, keep_masked, self.model.mask_id)
        new = torch.where(self.live[:, None] & self.valid, new, self.tokens)
        changed = new != self.tokens
        self.committed = torch.where(changed, logprobs, self.committed)
        self.stale = changed.any(1)
        self.tokens = new
        rows, places = self.valid.nonzero(as_tuple=True)
        self.ids[rows, self.columns[rows, places]] = new[rows, places]
        unfinished = ((new == self.model.mask_id) & self.valid).any(1) | (keep_masked > 0)
        self.live &= unfinished

    def _refresh(self) -> None:
        """Forward the rows whose tokens changed; the nuclei of the others still hold."""
        todo = (self.live & self.stale).nonzero()[:, 0]
        if not len(todo):
            return
        self.row_forwards[todo] += 1
        lengths = self.canvas.lengths[todo]
        ids = self.ids[todo, : int(lengths.max())]
        local, places = self.valid[todo].nonzero(as_tuple=True)
        logits = self.model.logits_at(ids, lengths, local, self.columns[todo[local], places])
        fresh = nucleus(logits, self.temperature, self.top_p)
        self._store(todo[local], places, fresh)

    def _store(self, rows: Tensor, places: Tensor, fresh: Nucleus) -> None:
        count, width = self.tokens.shape
        known = 0 if self.choices is None else self.choices.ids.shape[-1]
        columns = max(known, fresh.ids.shape[-1])
        if self.choices is None:
            shape = (count, width, columns)
            ids = torch.zeros(shape, dtype=torch.long, device=self.ids.device)
            self.choices = Nucleus(ids, ids.float(), ids.float())
        elif known < columns:
            self.choices = Nucleus(*(torch.nn.functional.pad(part, (0, columns - known)) for part in self.choices))
        padding = columns - fresh.ids.shape[-1]
        for part, new in zip(self.choices, fresh, strict=True):
            part[rows, places] = torch.nn.functional.pad(new, (0, padding))

    def result(self) -> Filled:
        sizes: Sequence[int] = self.canvas.sizes.tolist()
        tokens = [row[:n] for row, n in zip(self.tokens.tolist(), sizes, strict=True)]
        logprobs = [row[:n] for row, n in zip(self.committed.tolist(), sizes, strict=True)]
        return Filled(tokens, logprobs, self.row_forwards.tolist())
