"""Which positions of a middle are masked after a step: the decoding algorithms, as pure tensor functions.

All have one signature, ``f(masked, proposal, free, moment) -> masked``. Positions that were masked and are no longer take
the drawn token; positions that become masked lose theirs; the others keep it. ``wanted`` says, before the model is asked,
which positions' proposals a step can use: rows without any need no forward pass.

=============  ==================================================================  ============================
name           fills (or keeps)                                                    source
=============  ==================================================================  ============================
p2             the most confident; may mask filled positions again                 Peng et al., 2502.03540
origin         each masked position with probability 1 - s/t                       Austin et al., 2107.03006
maskgit_plus   the masked positions whose drawn token is most probable             Chang et al., 2202.04200
topk_margin    those with the largest gap between the two best tokens              Kim et al., 2502.06768
entropy        those with the lowest entropy                                       Ye et al. (Dream), 2508.15487
=============  ==================================================================  ============================

The names and the last four rules are those of Dream's code; Open-dCoder added ``p2``. Confidences are of the tempered
nucleus (after top-p), as published.

Letters: B = rows, N = longest middle of the batch, L = row length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lm_eval_ensemble.diffusion.schedules import published_remaining_masks, remaining_masks, transfer_fraction
from lm_eval_ensemble.errors import ConfigError, did_you_mean
from lm_eval_ensemble.values import takes_alg_temp

__all__ = ["ALGORITHMS", "Algorithm", "Moment", "Proposal", "PublishedTies", "StableTies", "Ties", "find_algorithm"]


class Proposal(NamedTuple):
    """What the model proposes for the middle as it stands; each ``(B, N)``.

    tokens: freshly drawn; confidence: their probability in the tempered nucleus; logprobs: their untempered, unfiltered
    log-probability (nats); margin: difference of the two best probabilities of the nucleus; certainty: its negative
    entropy (nats, higher is more certain).
    """

    tokens: Tensor
    confidence: Tensor
    logprobs: Tensor
    margin: Tensor
    certainty: Tensor


class Ties(Protocol):
    """Chooses ``count`` ``(B,)`` of the ``eligible`` ``(B, N)`` positions by confidence; says what happens to equal ones."""

    @property
    def published(self) -> bool: ...

    def lowest(self, confidence: Tensor, logprobs: Tensor, eligible: Tensor, count: Tensor) -> Tensor: ...

    def highest(self, confidence: Tensor, logprobs: Tensor, eligible: Tensor, count: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Moment:
    """Where decoding stands: ``step`` from 0 of ``steps`` ``(B,)`` (on the CPU).

    ``order`` ``(B, N)``: uniforms in [0, 1) for algorithms that choose positions at random, else None.
    """

    step: int
    steps: Tensor
    ties: Ties
    order: Tensor | None = None
    alg_temp: float | None = None


class StableTies:
    """Equal confidences are ordered by the unfiltered log-probability of the drawn token, equal ones of these by place:
    the left one counts as more confident.

    Top-p makes a confidence exactly 1.0 wherever one token holds more than top_p, so ties are the normal case.
    """

    published = False

    def lowest(self, confidence: Tensor, logprobs: Tensor, eligible: Tensor, count: Tensor) -> Tensor:
        rank = _ranks(confidence, logprobs, eligible, float("inf"))
        return (rank < count[:, None]) & eligible

    def highest(self, confidence: Tensor, logprobs: Tensor, eligible: Tensor, count: Tensor) -> Tensor:
        rank = _ranks(confidence, logprobs, eligible, float("-inf"))
        return (rank >= confidence.shape[1] - count[:, None]) & eligible


def _ranks(confidence: Tensor, logprobs: Tensor, eligible: Tensor, other: float) -> Tensor:
    """``(B, N)`` place of each position in the ascending order; ``other`` is the value of positions not eligible."""
    # Two stable sorts, minor key first. Positions are reversed so that, all else equal, the leftmost ranks highest.
    major = confidence.masked_fill(~eligible, other).flip(1)
    minor = logprobs.masked_fill(~eligible, other).flip(1).argsort(dim=1, stable=True)
    order = minor.gather(1, major.gather(1, minor).argsort(dim=1, stable=True))
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).flip(1)


@dataclass(frozen=True)
class PublishedTies:
    """``protocol=open-dllm``: whatever torch's unstable ``argsort`` and ``topk`` make of whole rows ``(B, L)``.

    ``columns`` ``(B, N)`` are the places of the middle in its row, ``width`` is L. What comes out for equal confidences
    depends on torch's version, on the device and on L.
    """

    columns: Tensor
    width: int
    published: bool = True

    def lowest(self, confidence: Tensor, logprobs: Tensor, eligible: Tensor, count: Tensor) -> Tensor:
        order = self._rows(confidence, eligible, float("inf")).argsort(dim=-1, descending=False)
        return self._first(order, count) & eligible

    def highest(self, confidence: Tensor, logprobs: Tensor, eligible: Tensor, count: Tensor) -> Tensor:
        most = int(count.max())
        if most == 0:
            return torch.zeros_like(eligible)
        order = self._rows(confidence, eligible, float("-inf")).topk(most, dim=1).indices
        return self._first(order, count) & eligible

    def _rows(self, confidence: Tensor, eligible: Tensor, other: float) -> Tensor:
        whole = torch.full((len(confidence), self.width), other, device=confidence.device)
        rows, places = eligible.nonzero(as_tuple=True)
        whole[rows, self.columns[rows, places]] = confidence[rows, places]
        return whole

    def _first(self, order: Tensor, count: Tensor) -> Tensor:
        """The first ``count`` columns of each row of ``order`` ``(B, K)``, as positions of the middle."""
        chosen = torch.zeros(len(order), self.width, dtype=torch.bool, device=order.device)
        chosen.scatter_(1, order, torch.arange(order.shape[1], device=order.device)[None] < count[:, None])
        return chosen.gather(1, self.columns)


def p2(masked: Tensor, proposal: Proposal, free: Tensor, moment: Moment) -> Tensor:
    """Mask the positions whose draw is least probable, filled ones included; fill the other masked ones."""
    schedule = published_remaining_masks if moment.ties.published else remaining_masks
    keep = schedule(free.sum(1), moment.step, moment.steps.to(free.device))
    return moment.ties.lowest(proposal.confidence, proposal.logprobs, free, keep)


def origin(masked: Tensor, proposal: Proposal, free: Tensor, moment: Moment) -> Tensor:
    """Fill each masked position with probability ``1 - s/t``, whatever the model says of it."""
    return masked & ~_coins(masked, free, moment)


def maskgit_plus(masked: Tensor, proposal: Proposal, free: Tensor, moment: Moment) -> Tensor:
    """Fill the masked positions whose drawn token is most probable."""
    return _fill_best(proposal.confidence, masked, proposal, moment)


def topk_margin(masked: Tensor, proposal: Proposal, free: Tensor, moment: Moment) -> Tensor:
    """Fill the masked positions whose best token is furthest ahead of the second."""
    return _fill_best(proposal.margin, masked, proposal, moment)


def entropy(masked: Tensor, proposal: Proposal, free: Tensor, moment: Moment) -> Tensor:
    """Fill the masked positions whose distribution has the lowest entropy."""
    return _fill_best(proposal.certainty, masked, proposal, moment)


def _fill_best(confidence: Tensor, masked: Tensor, proposal: Proposal, moment: Moment) -> Tensor:
    count, minor = _transfers(masked, moment), proposal.logprobs
    if moment.alg_temp:
        # Drawing without replacement from softmax(confidence / alg_temp), by the Gumbel trick.
        assert moment.order is not None
        uniform = moment.order.clamp(1e-20, 1 - 1e-7)
        confidence = confidence / moment.alg_temp - (-uniform.log()).log()
    return masked & ~moment.ties.highest(confidence, minor, masked, count)


def _transfers(masked: Tensor, moment: Moment) -> Tensor:
    """``(B,)`` how many masked positions are filled: ``int(m * (1 - s/t))``, all of them in the last step."""
    return (masked.sum(1).float() * transfer_fraction(moment.step, moment.steps).to(masked.device)).long()


def _coins(masked: Tensor, free: Tensor, moment: Moment) -> Tensor:
    assert moment.order is not None
    return masked & (moment.order < transfer_fraction(moment.step, moment.steps).to(masked.device)[:, None])


def _all_free(masked: Tensor, free: Tensor, moment: Moment) -> Tensor:
    return free


def _masked_if_any_is_filled(masked: Tensor, free: Tensor, moment: Moment) -> Tensor:
    return masked & (_transfers(masked, moment) > 0)[:, None]


Rule = Callable[[Tensor, Proposal, Tensor, Moment], Tensor]
Wanted = Callable[[Tensor, Tensor, Moment], Tensor]


@dataclass(frozen=True)
class Algorithm:
    """``rule`` and ``wanted`` as above; ``random_order``: it needs uniforms for the choice of positions even without
    ``alg_temp``; ``certainty``: it needs the entropy."""

    name: str
    rule: Rule
    wanted: Wanted
    random_order: bool = False
    certainty: bool = False

    def needs_order(self, alg_temp: float | None) -> bool:
        return self.random_order or bool(alg_temp)


ALGORITHMS: Mapping[str, Algorithm] = {
    found.name: found
    for found in (
        Algorithm("p2", p2, _all_free),
        Algorithm("origin", origin, _coins, random_order=True),
        Algorithm("maskgit_plus", maskgit_plus, _masked_if_any_is_filled),
        Algorithm("topk_margin", topk_margin, _masked_if_any_is_filled),
        Algorithm("entropy", entropy, _masked_if_any_is_filled, certainty=True),
    )
}


def find_algorithm(name: str, alg_temp: float | None = None) -> Algorithm:
    """:raises ConfigError: unknown name, or ``alg_temp`` where it has no meaning."""
    if name not in ALGORITHMS:
        raise ConfigError(f"alg={name!r} is not a decoding algorithm.{did_you_mean(name, ALGORITHMS)}")
    if alg_temp is not None and (fault := takes_alg_temp(name)):
        raise ConfigError(f"alg_temp: got {alg_temp:g}, expected {fault}")
    return ALGORITHMS[name]
