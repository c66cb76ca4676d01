"""Filling the middles of a batch: the loop around the algorithms, which owns rows, memory and what need not be computed.

Deviations from the published code, each exact in law or named in ``docs/diffusion.md``: only the positions a step can use
pass the LM head; a row leaves when it is finished; a row whose tokens did not change is not computed again (its draws for
all later steps were made when it was); mask, control and padding ids are never drawn; ties are decided by a rule.

Letters: B = rows, L = row length, N = longest middle of the batch, S = steps, M = positions computed at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lm_eval_ensemble.diffusion.algorithms import Algorithm, Moment, Proposal, PublishedTies, StableTies, Ties, find_algorithm
from lm_eval_ensemble.errors import ConfigError, did_you_mean
from lm_eval_ensemble.sampling import draw_ahead
from lm_eval_ensemble.values import PROTOCOLS

__all__ = ["Canvas", "Filled", "Predictor", "fill"]

#: logits held at once: what bounds the memory, whatever the batch. 32 MB of float32 on a CPU, 256 MB on an accelerator,
#: where reading the LM head anew for every piece would cost more.
_CHUNK, _CHUNK_GPU = 2**23, 2**26


class Predictor(Protocol):
    """What decoding needs of a model."""

    mask_id: int
    #: logits per position.
    vocabulary_rows: int

    def states_at(self, ids: Tensor, lengths: Tensor, rows: Tensor, columns: Tensor) -> Tensor: ...

    def logits_of(self, states: Tensor, ending: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Canvas:
    """Rows to fill: ids ``(B, L)`` right-padded, lengths ``(B,)``, first position ``(B,)`` and size ``(B,)`` of the
    middle. The middle is known by its place, not by the mask's id, which user code may contain.

    ``fixed`` ``(B, N)`` marks positions of the middle that keep the token they have in ``ids``; the others are filled
    anew, whatever ``ids`` holds there. None: all are filled. N is the longest middle.
    ``ending`` ``(B,)`` marks rows in which end-of-text may be drawn (nothing follows their middle); None: no row.
    """

    ids: Tensor
    lengths: Tensor
    starts: Tensor
    sizes: Tensor
    fixed: Tensor | None = None
    ending: Tensor | None = None


class Filled(NamedTuple):
    """tokens: the middles, one list per row; logprobs: untempered log-probability of each token when it was last committed
    (nats; 0.0 for fixed ones); row_forwards: how often each row went through the model; steps: the step after which each
    row was finished; history: per row the middle after each of these steps, None where masked (if asked for)."""

    tokens: list[list[int]]
    logprobs: list[list[float]]
    row_forwards: list[int]
    steps: list[int]
    history: list[list[list[int | None]]] | None = None


@torch.no_grad()
def fill(
    model: Predictor,
    canvas: Canvas,
    *,
    alg: str = "p2",
    steps: int | Sequence[int],
    temperature: float = 0.0,
    top_p: float = 1.0,
    uniforms: Tensor | None = None,
    order: Tensor | None = None,
    alg_temp: float | None = None,
    early_commit: float | None = None,
    history: bool = False,
    protocol: str | None = None,
) -> Filled:
    """Fill the middles of a batch.

    :param alg: a name of ``ALGORITHMS``.
    :param steps: number of denoising steps, for all rows or one by one; a row may be finished earlier.
    :param temperature: of the tokens; 0 takes the most probable.
    :param top_p: nucleus, in (0, 1]; 1 is the whole vocabulary.
    :param uniforms: ``(B, S, N)`` in [0, 1) for the tokens, one stream per row; needed when ``temperature`` > 0.
    :param order: ``(B, S, N)`` in [0, 1) for the choice of positions; needed by ``origin`` and by ``alg_temp``.
    :param alg_temp: temperature of the choice of positions, for the algorithms that rank them by confidence.
    :param early_commit: finish a row as soon as, at all of its masked positions, the best token of the nucleus leads the
        second by at least this probability (1: only one token is left); an approximation, see ``docs/diffusion.md``.
    :param protocol: ``open-dllm`` takes that code's schedule in float32 and its order of equal confidences.
    :raises ConfigError: unknown ``alg`` or ``protocol``, or ``alg_temp`` where it has no meaning.
    :raises ValueError: random numbers are needed and missing.
    """
    algorithm = find_algorithm(alg, alg_temp)
    if protocol is not None and protocol not in PROTOCOLS:
        raise ConfigError(f"protocol={protocol!r} is not known.{did_you_mean(protocol, PROTOCOLS)}")
    if temperature > 0 and uniforms is None:
        raise ValueError("fill: temperature > 0 needs uniforms=.")
    if algorithm.needs_order(alg_temp) and order is None:
        raise ValueError(f"fill: alg={alg}, alg_temp={alg_temp} choose positions at random and need order=.")
    rows = len(canvas.sizes)
    counts = torch.tensor([steps] * rows if isinstance(steps, int) else list(steps), dtype=torch.long)
    state = _State(model, canvas, algorithm, temperature, top_p, uniforms if temperature > 0 else None)
    ties: Ties = StableTies() if protocol is None else PublishedTies(state.columns, canvas.ids.shape[1])
    states: list[list[list[int | None]]] | None = [[] for _ in range(rows)] if history else None
    for step in range(max(counts.tolist(), default=0)):
        if not bool(state.live.any()):
            break
        numbers = None if order is None else order[:, step, : state.width].to(state.device)
        moment = Moment(step, counts, ties, numbers, alg_temp)
        before = state.live
        state.advance(moment, early_commit)
        if states is not None:
            state.record(states, before)
    return state.result(states)


class _State:
    """The rows while they are being filled, and the draws of every position for the tokens as they are now."""

    def __init__(
        self,
        model: Predictor,
        canvas: Canvas,
        algorithm: Algorithm,
        temperature: float,
        top_p: float,
        uniforms: Tensor | None,
    ) -> None:
        self.model, self.canvas, self.algorithm = model, canvas, algorithm
        self.temperature, self.top_p, self.uniforms = temperature, top_p, uniforms
        self.ids, self.device = canvas.ids.clone(), canvas.ids.device
        self.width = int(canvas.sizes.max()) if len(canvas.sizes) else 0
        offsets = torch.arange(self.width, device=self.device)
        self.valid = offsets[None] < canvas.sizes[:, None]
        self.columns = (canvas.starts[:, None] + offsets).clamp_max(self.ids.shape[1] - 1)
        self.free = self.valid if canvas.fixed is None else self.valid & ~canvas.fixed
        self.masked = self.free.clone()
        self.tokens = self.ids.gather(1, self.columns).masked_fill(self.free, model.mask_id)
        self._write()
        self.committed = torch.zeros(self.columns.shape, device=self.device)
        self.live = self.free.any(1)
        self.stale = self.live.clone()
        self.row_forwards = torch.zeros_like(canvas.sizes)
        self.finished = torch.zeros_like(canvas.sizes)
        # One draw per step, made when the row is computed; greedy ones are all the same.
        draws = 1 if uniforms is None else uniforms.shape[1]
        self.drawn = torch.zeros((*self.columns.shape, draws), dtype=torch.long, device=self.device)
        self.confidence, self.logprobs = self.drawn.float(), self.drawn.float()
        self.margin, self.certainty = torch.zeros_like(self.committed), torch.zeros_like(self.committed)

    def advance(self, moment: Moment, early_commit: float | None) -> None:
        """One step of all live rows."""
        live = self.live[:, None]
        wanted = self.algorithm.wanted(self.masked, self.free, moment) & live
        if early_commit is not None:
            wanted = wanted | (self.masked & live)
        self._refresh(wanted)
        at = min(moment.step, self.drawn.shape[-1] - 1)
        proposal = Proposal(self.drawn[..., at], self.confidence[..., at], self.logprobs[..., at], self.margin, self.certainty)
        masked = torch.where(live, self.algorithm.rule(self.masked, proposal, self.free, moment), self.masked)
        done = self.live & (moment.step + 1 >= moment.steps).to(self.device)
        if early_commit is not None:
            certain = self.live & ((self.margin >= early_commit) | ~self.masked).all(1)
            masked, done = masked & ~certain[:, None], done | certain
        self._apply(masked, proposal)
        # P2 may mask again what is filled, but not once its schedule leaves nothing masked.
        done = done | (self.live & ~self.masked.any(1))
        self.finished = torch.where(done, moment.step + 1, self.finished)
        self.live = self.live & ~done

    def _apply(self, masked: Tensor, proposal: Proposal) -> None:
        """Move to the next set of masked positions."""
        filled = self.masked & ~masked
        changed = filled | (masked & ~self.masked)
        new = torch.where(filled, proposal.tokens, self.tokens)
        self.tokens = torch.where(masked, self.model.mask_id, new)
        self.committed = torch.where(filled, proposal.logprobs, self.committed)
        self.masked, self.stale = masked, self.stale | changed.any(1)
        self._write()

    def _write(self) -> None:
        rows, places = self.free.nonzero(as_tuple=True)
        self.ids[rows, self.columns[rows, places]] = self.tokens[rows, places]

    def _refresh(self, wanted: Tensor) -> None:
        """Forward the rows that are wanted and whose tokens changed; the draws of the others still hold."""
        todo = (self.stale & wanted.any(1)).nonzero()[:, 0]
        if not len(todo):
            return
        self.row_forwards[todo] += 1
        self.stale[todo] = False
        lengths = self.canvas.lengths[todo]
        local, places = wanted[todo].nonzero(as_tuple=True)
        rows = todo[local]
        columns = self.columns[rows, places]
        states = self.model.states_at(self.ids[todo, : int(lengths.max())], lengths, local, columns)
        size = max((_CHUNK if self.device.type == "cpu" else _CHUNK_GPU) // self.model.vocabulary_rows, 1)
        for start in range(0, len(states), size):
            part = slice(start, start + size)
            self._draw(states[part], rows[part], places[part])

    def _draw(self, states: Tensor, rows: Tensor, places: Tensor) -> None:
        ending = None if self.canvas.ending is None else self.canvas.ending[rows]
        logits = self.model.logits_of(states, ending)
        uniforms = None if self.uniforms is None else self.uniforms[rows.cpu(), :, places.cpu()].to(logits.device)
        found = draw_ahead(logits, self.temperature, self.top_p, uniforms, self.algorithm.certainty)
        kept = (self.drawn, self.confidence, self.logprobs, self.margin, self.certainty)
        for part, new in zip(kept, found, strict=True):
            part[rows, places] = new.to(self.device)

    def record(self, states: list[list[list[int | None]]], live: Tensor) -> None:
        """Add the middles of the rows that this step has worked on."""
        sizes, masked = self.canvas.sizes.tolist(), self.masked.tolist()
        for row, tokens in enumerate(self.tokens.tolist()):
            if live[row]:
                states[row].append([None if masked[row][i] else tokens[i] for i in range(sizes[row])])

    def result(self, states: list[list[list[int | None]]] | None) -> Filled:
        sizes: Sequence[int] = self.canvas.sizes.tolist()
        tokens = [row[:n] for row, n in zip(self.tokens.tolist(), sizes, strict=True)]
        logprobs = [row[:n] for row, n in zip(self.committed.tolist(), sizes, strict=True)]
        return Filled(tokens, logprobs, self.row_forwards.tolist(), self.finished.tolist(), states)
