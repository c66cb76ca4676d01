"""How likely a given middle is under the diffusion model, n tokens between a prefix and a suffix.

A masked-diffusion model gives one conditional per masked token and set of visible ones, not one probability of a text.
What is made of them here, all natural logarithms (nats), higher is more likely, all given n:

=========  =============  =========================================================================================
function   forwards       what
=========  =============  =========================================================================================
onepass    1              all tokens masked at once: ignores the dependence inside the middle
chain      n              left to right: token i given prefix, middle[:i], masks for the rest, suffix. Exact for the
                          model that fills from left to right; deterministic
pseudo     n              one token masked at a time: over-confident (duplicates confirm each other), no bound
elbo       K (samples)    the bound, which is the mean of the chain over all orders (Ou et al., arXiv 2406.03736), by
                          Monte Carlo with fixed counts (Nie et al., arXiv 2502.09992, eq. 6)
=========  =============  =========================================================================================

Letters: n = tokens of a middle, K = samples, k = number of masked tokens, M = the masked set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple, TypeAlias

import torch

from lm_eval_ensemble.diffusion.model import MaskedDiffusionModel, pad_right
from lm_eval_ensemble.sampling import row_uniforms

__all__ = [
    "Forward",
    "LikelihoodBound",
    "MaskedRow",
    "Reading",
    "Row",
    "chain_logprobs",
    "chain_readings",
    "elbo",
    "onepass_logprobs",
    "onepass_readings",
    "pseudo_logprobs",
    "read_masked",
]

#: prefix ids, middle ids, suffix ids.
Row: TypeAlias = tuple[Sequence[int], Sequence[int], Sequence[int]]


@dataclass(frozen=True, slots=True)
class MaskedRow:
    """One row for the model: the ids of ``row`` with ``mask_id`` at the places ``hidden`` of its middle, of which those at
    ``asked`` are read. They are put together when they are needed: a candidate may have as many rows as tokens.
    """

    row: Row
    hidden: frozenset[int]
    asked: tuple[int, ...]
    mask_id: int

    @property
    def length(self) -> int:
        return sum(map(len, self.row))

    @property
    def ids(self) -> Sequence[int]:
        prefix, middle, suffix = self.row
        covered = [self.mask_id if i in self.hidden else token for i, token in enumerate(middle)]
        return (*prefix, *covered, *suffix)

    @property
    def columns(self) -> tuple[int, ...]:
        return tuple(len(self.row[0]) + i for i in self.asked)

    @property
    def targets(self) -> tuple[int, ...]:
        return tuple(self.row[1][i] for i in self.asked)


class Reading(NamedTuple):
    """Log-probability of one token (nats), and whether no other token is more probable."""

    logprob: float
    is_best: bool


class LikelihoodBound(NamedTuple):
    """``value`` in nats per sequence, its standard error (0 where it is exact), and how many masked sets it took."""

    value: float
    stderr: float
    samples: int


#: reads rows; a caller with a batcher gives its own, so that memory goes by single rows, not by documents.
Forward: TypeAlias = Callable[[Sequence[MaskedRow]], Sequence[Sequence[Reading]]]


def read_masked(model: MaskedDiffusionModel, rows: Sequence[MaskedRow]) -> list[list[Reading]]:
    """One batch, one forward; only the places asked for pass the LM head. Float32, clean padding."""
    if not rows:
        return []
    ids, lengths = pad_right([row.ids for row in rows], model.mask_id, model.device)
    row_of = torch.tensor([r for r, row in enumerate(rows) for _ in row.columns], device=model.device)
    column_of = torch.tensor([c for row in rows for c in row.columns], device=model.device)
    target = torch.tensor([t for row in rows for t in row.targets], device=model.device)
    logits = model.logits_at(ids, lengths, row_of, column_of)
    chosen = logits.gather(-1, target[:, None])[:, 0]
    logprobs = (chosen - logits.logsumexp(-1)).tolist()
    best = (chosen >= logits.amax(-1)).tolist()
    flat = iter(zip(logprobs, best, strict=True))
    return [[Reading(*next(flat)) for _ in row.asked] for row in rows]


def onepass_logprobs(model: MaskedDiffusionModel, rows: Sequence[Row], *, forward: Forward | None = None) -> list[list[float]]:
    """Log-probability (nats) of each middle token with the whole middle masked: one forward per row.

    It ignores the dependence between the tokens of the middle, and conditions on their number.

    :param rows: (prefix ids, middle ids, suffix ids).
    :param forward: reads masked rows in batches of its own; without it all rows are one batch.
    :returns: per row one log-probability per middle token.
    """
    return [[r.logprob for r in found] for found in onepass_readings(model, rows, forward=forward)]


def onepass_readings(
    model: MaskedDiffusionModel, rows: Sequence[Row], *, forward: Forward | None = None
) -> list[list[Reading]]:
    """``onepass_logprobs`` with, for every token, whether it is the best one of its conditional."""
    masked = [[_masked(row, range(len(row[1])), model.mask_id)] for row in rows]
    return [list(found[0]) for found in _read(model, masked, forward)]


def chain_logprobs(model: MaskedDiffusionModel, rows: Sequence[Row], *, forward: Forward | None = None) -> list[list[float]]:
    """Chain rule from left to right, exact: token i given prefix, ``middle[:i]``, masks for the rest, and suffix.

    :param rows, forward: as in ``onepass_logprobs``; a middle of n tokens takes n rows.
    :returns: per row one log-probability (nats) per middle token; their sum is the sequence's.
    """
    return [[r.logprob for r in found] for found in chain_readings(model, rows, forward=forward)]


def chain_readings(model: MaskedDiffusionModel, rows: Sequence[Row], *, forward: Forward | None = None) -> list[list[Reading]]:
    """``chain_logprobs`` with, for every token, whether it is the best one of its conditional."""
    masked = [[_masked(row, range(i, len(row[1])), model.mask_id, [i]) for i in range(len(row[1]))] for row in rows]
    return [[single[0] for single in found] for found in _read(model, masked, forward)]


def pseudo_logprobs(model: MaskedDiffusionModel, rows: Sequence[Row], *, forward: Forward | None = None) -> list[list[float]]:
    """Log-probability (nats) of each middle token given all others: a pseudo-likelihood (Salazar et al., arXiv 1910.14659).

    :param rows, forward: as in ``onepass_logprobs``; a middle of n tokens takes n rows.
    """
    masked = [[_masked(row, [i], model.mask_id) for i in range(len(row[1]))] for row in rows]
    return [[single[0].logprob for single in found] for found in _read(model, masked, forward)]


def elbo(
    model: MaskedDiffusionModel,
    rows: Sequence[Row],
    *,
    samples: int = 16,
    seed: int,
    names: Sequence[tuple[object, ...]],
    forward: Forward | None = None,
) -> list[LikelihoodBound]:
    """Evidence lower bound of each middle (nats per sequence): ``sum over k of S_k / k``, where S_k is the mean over all
    sets M of k tokens of ``sum over i in M of log p(token i | the tokens outside M)``.

    Monte Carlo with fixed counts: k uniform in 1..n (stratified: one draw in each of ``samples`` equal parts), M uniform
    among the sets of k tokens, weight n / k. Unbiased. Where all 2^n - 1 sets are at most ``samples`` they are enumerated,
    and the value is exact. The standard error is that of independent draws; stratification makes the true one no larger.

    :param samples: at least 2, for there is no standard error of one.
    :param names: the name of each row's random stream; with ``seed`` and n it fixes the sets, so that candidates of one
        gap with as many tokens are compared on the same sets when they are given one name.
    """
    if samples < 2:
        raise ValueError(f"elbo takes at least 2 samples, got {samples}")
    plans = [_plan(len(row[1]), samples, seed, name) for row, name in zip(rows, names, strict=True)]
    # Small middles draw the same set often; each is computed once.
    distinct = [tuple(dict.fromkeys(chosen for chosen, _ in plan)) for plan in plans]
    masked = [[_masked(row, m, model.mask_id) for m in sets] for row, sets in zip(rows, distinct, strict=True)]
    estimates = []
    for row, plan, sets, found in zip(rows, plans, distinct, _read(model, masked, forward), strict=True):
        sums = {m: math.fsum(r.logprob for r in readings) for m, readings in zip(sets, found, strict=True)}
        terms = [weight * sums[m] for m, weight in plan]
        estimates.append(_sum_up(terms, exact=_is_enumerated(len(row[1]), samples)))
    return estimates


# A plan: masked sets with the weights that make the (mean or, if enumerated, the) sum of weighted terms the bound.
_Plan: TypeAlias = list[tuple[tuple[int, ...], float]]


def _plan(n: int, samples: int, seed: int, name: tuple[object, ...]) -> _Plan:
    if _is_enumerated(n, samples):
        counts = range(1, n + 1)
        return [(chosen, 1 / (k * math.comb(n, k))) for k in counts for chosen in combinations(range(n), k)]
    # Column 0 gives the count, the others rank the places.
    uniforms = row_uniforms(seed, [("elbo", *name, n)], samples, [n + 1])[0].tolist()
    plan = []
    for stratum, (u, *ranks) in enumerate(uniforms):
        k = min(int((stratum + u) / samples * n) + 1, n)
        chosen = sorted(sorted(range(n), key=lambda i, ranks=ranks: ranks[i])[:k])  # type: ignore[misc]
        plan.append((tuple(chosen), n / k))
    return plan


def _is_enumerated(n: int, samples: int) -> bool:
    return (1 << n) - 1 <= samples


def _sum_up(terms: Sequence[float], exact: bool) -> LikelihoodBound:
    count = len(terms)
    if exact:
        return LikelihoodBound(math.fsum(terms), 0.0, count)
    mean = math.fsum(terms) / count
    variance = math.fsum((t - mean) ** 2 for t in terms) / (count - 1)
    return LikelihoodBound(mean, math.sqrt(variance / count), count)


def _masked(row: Row, places: Iterable[int], mask_id: int, read: Sequence[int] | None = None) -> MaskedRow:
    """The row with some places of its middle masked; ``read`` (default: all of them) are the places asked for."""
    hidden = frozenset(places)
    return MaskedRow(row, hidden, tuple(sorted(hidden) if read is None else read), mask_id)


def _read(
    model: MaskedDiffusionModel, masked: Sequence[Sequence[MaskedRow]], forward: Forward | None
) -> list[list[Sequence[Reading]]]:
    """All masked rows of all documents, read together, by document."""
    flat = [row for rows in masked for row in rows if row.asked]
    found: Iterator[Sequence[Reading]] = iter(forward(flat) if forward else read_masked(model, flat))
    return [[next(found) if row.asked else () for row in rows] for rows in masked]
