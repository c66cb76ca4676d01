"""Intervals that know about clusters: documents cut from one program are right or wrong together.

Letters: n documents, C clusters. Clusters are named by any hashable value, one per document (``doc.problem``).
All standard errors are for the mean over documents; intervals are symmetric, Student t with C - 1 degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Quantiles of Student's t and of the normal distribution; scipy.stats takes seconds to import.
from scipy.special import ndtri, stdtrit

__all__ = [
    "Clustered",
    "Clusters",
    "cluster_bootstrap",
    "cluster_codes",
    "cluster_sums",
    "clustered_mean",
    "clustered_se",
    "design_effect",
    "wilson",
]

Floats = NDArray[np.float64]
Clusters = Sequence[Hashable] | NDArray[np.intp]
#: random numbers drawn at a time by the bootstrap.
_BLOCK = 2_000_000


@dataclass(frozen=True)
class Clustered:
    """A mean over documents with its clustered standard error.

    ``low`` and ``high`` bound it at ``level``. ``deff``, the design effect, says how many times larger the variance is
    than for independent documents: n / deff of those would be worth as much. None where it is undefined (one cluster, or
    all values equal).
    """

    mean: float
    se: float | None
    low: float | None
    high: float | None
    level: float
    n: int
    clusters: int
    deff: float | None


def cluster_codes(clusters: Clusters) -> NDArray[np.intp]:
    """The clusters as numbers 0 to C - 1, in the order of their first document; shape (n,).

    :param clusters: names, or such numbers already (those of a part of the documents are made consecutive).
    :raises ValueError: a cluster is None: without its name a document would silently count as independent.
    """
    if isinstance(clusters, np.ndarray):
        return np.unique(clusters, return_inverse=True)[1].astype(np.intp)
    places: dict[Hashable, int] = {}
    for i, name in enumerate(clusters):
        if name is None:
            raise ValueError(f"document {i} has no cluster")
        places.setdefault(name, len(places))
    return np.array([places[name] for name in clusters], dtype=np.intp)


def cluster_sums(values: ArrayLike, clusters: Clusters) -> Floats:
    """Sum of ``values`` (n,) in each cluster; shape (C,)."""
    return _sums(_values(values, clusters), cluster_codes(clusters))


def clustered_se(values: ArrayLike, clusters: Clusters) -> float | None:
    """sqrt(C / (C - 1) * sum over clusters of (sum of (x - mean))^2) / n; None for fewer than two clusters.

    Liang and Zeger's sandwich for a mean with the usual factor for few clusters, after Miller 2024 (arXiv:2411.00640,
    appendix A). With clusters of one document it is the sample standard deviation / sqrt(n).
    """
    return clustered_mean(values, clusters).se


def design_effect(values: ArrayLike, clusters: Clusters) -> float | None:
    """Clustered variance of the mean over that of independent documents; above 1 if clusters hold together."""
    return clustered_mean(values, clusters).deff


def clustered_mean(values: ArrayLike, clusters: Clusters, level: float = 0.95) -> Clustered:
    """Mean of ``values`` (n,) with its clustered interval, e.g. of the differences between two paired systems."""
    x, codes = _values(values, clusters), cluster_codes(clusters)
    mean, n, count = float(x.mean()), len(x), int(codes.max()) + 1
    if count < 2:
        return Clustered(mean, None, None, None, level, n, count, None)
    sums = _sums(x - mean, codes)
    se = math.sqrt(count / (count - 1) * float(sums @ sums)) / n
    half = float(stdtrit(count - 1, (1 + level) / 2)) * se
    alone = float(x.var(ddof=1)) / n
    return Clustered(mean, se, mean - half, mean + half, level, n, count, se * se / alone if alone > 0 else None)


def wilson(right: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion (1927). It takes documents for independent: show it beside the clustered one.

    >>> wilson(0, 10)
    (0.0, 0.2775327998628892)
    """
    if not (0 <= right <= n and n > 0):
        raise ValueError(f"wilson(right={right}, n={n}): needs 0 <= right <= n and n > 0")
    z = float(ndtri((1 + level) / 2))
    share, spread = right / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    # At the ends the exact bound is the end itself; rounding would miss it.
    return (0.0 if right == 0 else middle - half, 1.0 if right == n else middle + half)


def cluster_bootstrap(
    ratios: Sequence[tuple[ArrayLike, ArrayLike]],
    clusters: Clusters,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[tuple[float, float] | None]:
    """Percentile intervals of sum(numerator) / sum(denominator), clusters resampled with replacement.

    For quantities that are no plain mean over documents: selection accuracy (right choices over decisive documents),
    recovered share of the oracle gap. None where the denominator is zero, or so rarely not that over a tenth of the
    resamples are undefined.

    :param ratios: (numerator, denominator) of each quantity, (n,) both; all of them see the same resamples.
    """
    codes = cluster_codes(clusters)
    sums = np.array([_sums(_values(part, codes), codes) for ratio in ratios for part in ratio]).T
    count = len(sums)
    random = np.random.default_rng(seed)
    block, drawn = max(1, _BLOCK // count), []
    for begin in range(0, resamples, block):
        size = min(block, resamples - begin)
        drawn.append(random.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64) @ sums)
    totals = np.concatenate(drawn)
    return [
        _percentiles(totals[:, 2 * i], totals[:, 2 * i + 1], level) if sums[:, 2 * i + 1].sum() else None
        for i in range(len(ratios))
    ]


def _percentiles(top: Floats, bottom: Floats, level: float) -> tuple[float, float] | None:
    defined = bottom != 0
    if defined.mean() < 0.9:
        return None
    low, high = np.quantile(top[defined] / bottom[defined], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _sums(x: Floats, codes: NDArray[np.intp]) -> Floats:
    return np.bincount(codes, weights=x).astype(np.float64)


def _values(values: ArrayLike, clusters: Clusters) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) != len(clusters) or not len(x):
        raise ValueError(f"values of shape {x.shape} and {len(clusters)} clusters: expected one of each per document")
    return x
