"""Comparing two systems on the same documents.

The primary test is the sign flip by cluster, the primary interval that of the mean difference. McNemar's test takes documents
for independent: with the clusters of HumanEval-Infilling it finds a difference where there is none three times as often as it
says.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, stdtrit

from lm_eval_ensemble.metrics.clustered import Clustered, Clusters, cluster_codes, cluster_sums, clustered_mean, clustered_share

__all__ = [
    "Paired",
    "Simultaneous",
    "compare_paired",
    "detectable_difference",
    "mcnemar_unclustered",
    "paired_difference",
    "sign_flip",
    "simultaneous",
]

#: clusters with a difference up to which all sign patterns are counted instead of drawn: 2^14 = 16384 of them.
_EXACT = 14
#: of eight signs, all 256 patterns (256, 8).
_SIGNS = np.array(list(itertools.product((1.0, -1.0), repeat=8)))


@dataclass(frozen=True)
class Paired:
    """A against B on the same documents: ``difference`` is the mean of A - B, positive if A is better.

    ``wins`` and ``losses`` count the documents where A is above, below B; ``discordant`` is their share. ``p`` is the sign
    flip's, ``p_unclustered`` McNemar's (two-sided both). ``detectable`` is :func:`detectable_difference`.
    """

    difference: Clustered
    wins: int
    losses: int
    discordant: float
    p: float
    p_unclustered: float
    detectable: float | None


def compare_paired(first: ArrayLike, second: ArrayLike, clusters: Clusters, seed: int = 0) -> Paired:
    """:param first: one number per document (n,), higher is better; ``second`` likewise, of the same documents.
    :param clusters: the program each document was cut from.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"{a.shape[0]} values against {b.shape[0]}: expected the same documents on both sides")
    gaps = a - b
    wins, losses = int((gaps > 0).sum()), int((gaps < 0).sum())
    both = np.concatenate([a, b])
    difference = paired_difference(gaps, clusters, bool((both >= 0).all() and (both <= 1).all()))
    return Paired(
        difference=difference,
        wins=wins,
        losses=losses,
        discordant=(wins + losses) / len(gaps),
        p=sign_flip(gaps, clusters, seed=seed),
        p_unclustered=mcnemar_unclustered(wins, losses),
        detectable=detectable_difference(gaps, clusters, difference),
    )


def paired_difference(gaps: ArrayLike, clusters: Clusters, shares: bool, level: float = 0.95) -> Clustered:
    """The mean of ``gaps`` (n,) with its interval.

    :param shares: the gaps are between two numbers from 0 to 1. Then the interval is kept within -1 and 1, and where all gaps
        are 0, or all 1, it is that of the share of documents that do not differ so (:func:`clustered_share`); for other
        metrics a difference that does not vary has no interval.
    """
    x = np.asarray(gaps, dtype=np.float64)
    found = clustered_mean(x, clusters, level)
    if found.low is None or found.high is None:
        return found
    if found.deff is None:
        size = abs(float(x[0]))
        same = clustered_share(np.ones_like(x), clusters, level=level) if shares and size in (0.0, 1.0) else None
        if same is None or same.low is None:
            return replace(found, low=None, high=None)
        low, high = (same.low - 1, 1 - same.low) if not size else (same.low, 1.0) if x[0] > 0 else (-1.0, -same.low)
        return replace(found, low=low, high=high, df=same.df)
    return replace(found, low=max(-1.0, found.low), high=min(1.0, found.high)) if shares else found


def detectable_difference(gaps: ArrayLike, clusters: Clusters, difference: Clustered, power: float = 0.8) -> float | None:
    """The smallest true difference that a comparison like this one shows at 5 % with chance ``power``: its standard error times
    t_0.975 + t_power, with the degrees of freedom of its interval.

    None where no difference is that sure to be seen: there is no error, fewer than six clusters differ (the sign flip has
    2^C patterns, so its p stays above 0.05), or it would take more than all documents that differ to fall to one side.
    """
    x = np.asarray(gaps, dtype=np.float64)
    if not difference.se or difference.df is None or len(np.unique(cluster_codes(clusters)[x != 0])) < 6:
        return None
    needed = difference.se * float(stdtrit(difference.df, 0.975) + stdtrit(difference.df, power))
    return needed if needed <= float(np.abs(x).mean()) else None


def sign_flip(differences: ArrayLike, clusters: Clusters, flips: int = 9_999, seed: int = 0) -> float:
    """Two-sided p of "no difference": how often random signs, one per cluster, give a sum at least as far from zero.

    It assumes that without a difference a cluster's sum is as likely to be s as -s (exchangeable signs). Exact while at most 14
    clusters have a difference; else (1 + hits) / (1 + flips), which never is zero (Phipson and Smyth 2010, arXiv:1603.05766).
    """
    sums = cluster_sums(differences, clusters)
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    # Rounding must not turn an equal sum into a smaller one.
    bar = abs(sums.sum()) - 1e-9 * np.abs(sums).sum()
    totals = np.abs(_flipped(sums[:, None], flips, seed)[:, 0])
    if len(sums) <= _EXACT:
        return float((totals >= bar).mean())
    return float((1 + (totals >= bar).sum()) / (1 + flips))


def _flipped(sums: NDArray[np.float64], flips: int, seed: int) -> NDArray[np.float64]:
    """(flips, k) sums over clusters of ``sums`` (C, k) under random signs, the same for all k; all 2^C up to 14 clusters.

    Eight clusters at a time: one random byte picks one of their 256 sums.
    """
    count, k = sums.shape
    if count <= _EXACT:
        return np.array(list(itertools.product((1.0, -1.0), repeat=count))) @ sums
    groups = -(-count // 8)
    padded = np.zeros((groups * 8, k))
    padded[:count] = sums
    random = np.random.default_rng(seed)
    totals = np.zeros((flips, k))
    for group in padded.reshape(groups, 8, k):
        totals += (_SIGNS @ group)[random.integers(0, 256, size=flips, dtype=np.uint8)]
    return totals


@dataclass(frozen=True)
class Simultaneous:
    """One of several differences: ``p`` is adjusted for all of them, ``low`` and ``high`` hold for all at once."""

    p: float
    low: float | None
    high: float | None


def simultaneous(
    gaps: Sequence[ArrayLike],
    clusters: Clusters,
    level: float = 0.95,
    flips: int = 9_999,
    seed: int = 0,
    shares: bool = False,
) -> list[Simultaneous]:
    """Several differences on the same documents, against zero all together (max-t of Westfall and Young 1993, single step).

    The largest |sum| / sqrt(sum of squares) under the same random signs for all is what each is held against; its ``level``
    quantile, but at least Student's, times the standard error is the half width of the intervals. The chance of one or more
    false findings among all stays below 1 - level if the signs of the clusters are exchangeable; selectors that choose alike
    cost nothing, unlike in Holm's correction.

    :param shares: the gaps are between two numbers from 0 to 1, so the intervals are kept within -1 and 1.
    """
    columns = [np.asarray(gap, dtype=np.float64) for gap in gaps]
    if not columns:
        return []
    sums = np.stack([cluster_sums(column, clusters) for column in columns], axis=1)
    norm = np.sqrt((sums**2).sum(0))
    scale = np.where(norm > 0, norm, 1.0)
    kept = sums[(sums != 0).any(1)]
    largest = np.abs(_flipped(kept / scale, flips, seed)).max(1) if len(kept) else np.zeros(1)
    counted = len(kept) <= _EXACT
    ours = np.abs(sums.sum(0)) / scale
    found = []
    # The quantile of a sum over the root of its own squares (uncentred) as that of a mean over its standard error.
    limit, count = float(np.quantile(largest, level)), len(sums)
    ratio = limit**2 / count
    student = limit * math.sqrt((count - 1) / count / (1 - ratio)) if ratio < 1 else math.inf
    for column, value in zip(columns, ours, strict=True):
        hits = float((largest >= value - 1e-9).sum())
        p = hits / len(largest) if counted else (1 + hits) / (1 + len(largest))
        one = clustered_mean(column, clusters, level)
        if not one.se or one.df is None:
            found.append(Simultaneous(min(1.0, p), None, None))
            continue
        width = one.se * max(student, float(stdtrit(one.df, (1 + level) / 2)))
        low, high = one.mean - width, one.mean + width
        if shares:
            low, high = max(-1.0, low), min(1.0, high)
        inside = math.isfinite(low)
        found.append(Simultaneous(min(1.0, p), low if inside else None, high if inside else None))
    return found


def mcnemar_unclustered(wins: int, losses: int) -> float:
    """McNemar's exact test, two-sided: 2 * BinCDF(min(W, L); W + L, 1/2), at most 1. Ignores clusters.

    >>> mcnemar_unclustered(8, 1)
    0.0390625
    """
    if wins + losses == 0:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))
