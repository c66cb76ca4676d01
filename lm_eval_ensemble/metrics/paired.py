"""Comparing two systems on the same documents.

The primary test is the sign flip by cluster, the primary interval that of ``clustered_mean`` on the differences. McNemar's
test takes documents for independent: with the clusters of HumanEval-Infilling it finds a difference where there is none
three times as often as it says.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, ndtri, stdtr

from lm_eval_ensemble.metrics.clustered import Clustered, Clusters, cluster_sums, clustered_mean

__all__ = ["Paired", "cluster_t", "compare_paired", "mcnemar_unclustered", "minimal_detectable_gain", "sign_flip"]

#: clusters with a difference up to which all sign patterns are counted instead of drawn: 2^14 = 16384 of them.
_EXACT = 14
#: clusters with a difference up to which a matrix of signs is drawn, and the entries of a block beyond.
_BITS, _BLOCK = 2_000, 10_000_000


@dataclass(frozen=True)
class Paired:
    """A against B on the same documents: ``difference`` is the mean of A - B, positive if A is better.

    ``wins`` and ``losses`` count the documents where A is above, below B; ``discordant`` is their share. ``p`` is the sign
    flip's, ``p_unclustered`` McNemar's (two-sided both).
    """

    difference: Clustered
    wins: int
    losses: int
    discordant: float
    p: float
    p_unclustered: float


def compare_paired(first: ArrayLike, second: ArrayLike, clusters: Clusters, seed: int = 0) -> Paired:
    """:param first: one number per document (n,), higher is better; ``second`` likewise, of the same documents.
    :param clusters: the program each document was cut from.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"{a.shape[0]} values against {b.shape[0]}: expected the same documents on both sides")
    gaps = a - b
    wins, losses = int((gaps > 0).sum()), int((gaps < 0).sum())
    return Paired(
        difference=clustered_mean(gaps, clusters),
        wins=wins,
        losses=losses,
        discordant=(wins + losses) / len(gaps),
        p=sign_flip(gaps, clusters, seed=seed),
        p_unclustered=mcnemar_unclustered(wins, losses),
    )


def sign_flip(differences: ArrayLike, clusters: Clusters, flips: int = 9_999, seed: int = 0) -> float:
    """Two-sided p of "no difference": how often random signs, one per cluster, give a sum at least as far from zero.

    Exact while at most 14 clusters have a difference; else (1 + hits) / (1 + flips), which never is zero (Phipson and Smyth
    2010, arXiv:1603.05766).
    """
    sums = cluster_sums(differences, clusters)
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    # Rounding must not turn an equal sum into a smaller one.
    bar = abs(sums.sum()) - 1e-9 * np.abs(sums).sum()
    if len(sums) <= _EXACT:
        patterns = np.array(list(itertools.product((1.0, -1.0), repeat=len(sums))))
        return float((np.abs(patterns @ sums) >= bar).mean())
    random = np.random.default_rng(seed)
    if len(sums) > _BITS:
        totals = _many_signs(sums, flips, random)
    else:
        negative = np.unpackbits(random.integers(0, 256, size=(flips, -(-len(sums) // 8)), dtype=np.uint8), axis=1)
        totals = sums.sum() - 2 * (negative[:, : len(sums)] @ sums)
    return float((1 + (np.abs(totals) >= bar).sum()) / (1 + flips))


def _many_signs(sums: NDArray[np.float64], flips: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Sums (flips,) with random signs, for so many clusters that a matrix of signs would fill the memory.

    Of k clusters with the same absolute sum a binomial number turns negative, so one draw serves them all (0/1 metrics have
    few different sums). Where all sums differ the signs are drawn in blocks of clusters.
    """
    sizes, counts = np.unique(np.abs(sums), return_counts=True)
    totals = np.full(flips, sizes @ counts, dtype=np.float64)
    block = max(1, _BLOCK // flips)
    for start in range(0, len(sizes), block):
        negative = random.binomial(counts[start : start + block], 0.5, size=(flips, len(counts[start : start + block])))
        totals -= 2 * (negative @ sizes[start : start + block])
    return totals


def cluster_t(differences: ArrayLike, clusters: Clusters) -> float:
    """Two-sided p of the clustered mean against zero: Student t with C - 1 degrees of freedom. 1 if undefined."""
    found = clustered_mean(differences, clusters)
    if not found.se:
        return 1.0
    return float(2 * stdtr(found.clusters - 1, -abs(found.mean / found.se)))


def mcnemar_unclustered(wins: int, losses: int) -> float:
    """McNemar's exact test, two-sided: 2 * BinCDF(min(W, L); W + L, 1/2), at most 1. Ignores clusters.

    >>> mcnemar_unclustered(8, 1)
    0.0390625
    """
    if wins + losses == 0:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))


def minimal_detectable_gain(n: int, discordant: float, deff: float = 1.0, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest true difference of two shares that a two-sided test at ``alpha`` finds with chance ``power``.

    (z_(1 - alpha/2) + z_power) * sqrt(discordant * deff / n), after Connor 1987 with the variance under no difference.

    :param n: documents; ``discordant``: share where the two systems differ; ``deff``: design effect of the difference.
    """
    if n < 1 or not 0 <= discordant <= 1 or deff <= 0:
        raise ValueError(f"minimal_detectable_gain(n={n}, discordant={discordant}, deff={deff}): out of range")
    return float(ndtri(1 - alpha / 2) + ndtri(power)) * math.sqrt(discordant * deff / n)
