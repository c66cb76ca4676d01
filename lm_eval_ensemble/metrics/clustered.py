"""Intervals that know about clusters: documents cut from one program are right or wrong together.

Letters: n documents, C clusters, W the sum of the weights (n for a mean), h_c the share of a cluster in it. Clusters are named
by any hashable value, one per document (``doc.problem``). What is estimated is the mean over new programs of the same kind.

The variance is CR3 (Bell and McCaffrey 2002; MacKinnon, Nielsen and Webb 2023, arXiv:2205.03285), with r_c the sum of the
residuals of a cluster::

    V = sum over c of (r_c / (1 - h_c))^2 / W^2,    but at least V_1, the same with every document a cluster of its own

Its quantiles are Student's with Satterthwaite's degrees of freedom, the smaller of two: those of the model that the design
effect suggests (equal correlation within clusters; Bell and McCaffrey, also Pustejovsky and Tipton 2018; those of CR2, as R's
clubSandwich has them, which at ten programs are a twentieth more than CR3's), and those that the fourth moment of the r_c
allows, 2 S^2 / (sum of g^2 - S^2 / C) with g_c = (r_c / (1 - h_c))^2 and S their sum: where a few clusters hold all the errors,
the variance is known no better than from these few. What this covers is measured by ``benchmarks/coverage.py``.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Quantiles of Student's t and of the normal distribution; scipy.stats takes seconds to import.
from scipy.special import ndtri, stdtrit

__all__ = [
    "FEW_CLUSTERS",
    "Clustered",
    "Clusters",
    "Spread",
    "cluster_codes",
    "cluster_sums",
    "clustered_mean",
    "clustered_share",
    "few_clusters",
    "share_interval",
    "spread",
    "wilson",
]

Floats = NDArray[np.float64]
Clusters = Sequence[Hashable] | NDArray[np.intp]
#: below so many clusters an interval rests on a guess of its own precision, and a sentence says so.
FEW_CLUSTERS = 40
#: relative size under which a variance is rounding.
_NOTHING = 1e-12


@dataclass(frozen=True)
class Clustered:
    """A mean over documents with its clustered standard error.

    ``low`` and ``high`` bound it at ``level``. ``deff``, the design effect (at least 1), says how many times larger the
    variance is than for independent documents: n / deff of those would be worth as much. ``df`` are the degrees of freedom of
    the quantile. None where it is undefined (one cluster, or all values equal).
    """

    mean: float
    se: float | None
    low: float | None
    high: float | None
    level: float
    n: int
    clusters: int
    deff: float | None
    df: float | None = None


class Spread(NamedTuple):
    """How sure a weighted mean is, each of shape (...): the ``variance`` (at least ``alone``), that of independent documents
    ``alone``, the degrees of freedom ``df``, the design effect of clusters that are all alike inside ``worst``, the degrees of
    freedom there ``worst_df``, and the number of independent documents ``effective`` that the weights are worth."""

    variance: Floats
    alone: Floats
    df: Floats
    worst: Floats
    worst_df: Floats
    effective: Floats

    @property
    def deff(self) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.alone > 0, self.variance / self.alone, np.nan)


def spread(residuals: Floats, weights: Floats, alone: Floats, squares: Floats) -> Spread:
    """The core of all intervals here, for any number of data sets at once.

    :param residuals: (..., C) sum of the residuals in each cluster; ``weights``: (..., C) sum of the weights, not negative.
    :param alone: (...) sum over documents of (residual / (1 - w_i / W))^2; ``squares``: (...) sum over documents of w_i^2.
    """
    total = weights.sum(-1)
    h = weights / total[..., None]
    count = (weights > 0).sum(-1)
    g = (residuals / (1 - h)) ** 2
    sandwich, fourth = g.sum(-1), (g**2).sum(-1)
    variance = np.maximum(sandwich, alone)
    effective = total**2 / squares
    worst = np.maximum((weights**2).sum(-1) / squares, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = np.where((worst > 1) & (alone > 0), np.clip((variance / alone - 1) / (worst - 1), 0, 1), 0.0)
        rest = fourth - sandwich**2 / count
        seen = np.where(rest > _NOTHING * fourth, 2 * sandwich**2 / rest, np.inf)
    model, bound = _satterthwaite(h, effective, correlation), _satterthwaite(h, effective, np.ones_like(correlation))
    df = np.maximum(1.0, np.minimum(model, seen))
    return Spread(variance / total**2, alone / total**2, df, worst, np.maximum(1.0, bound), effective)


def _satterthwaite(h: Floats, n: Floats, correlation: Floats) -> Floats:
    """tr(G)^2 / tr(G^2) of Bell and McCaffrey (2002) for a mean, G = P' Omega P with Omega = (1 - rho) I + rho (ones in a
    cluster); written out in sums over clusters, so that no C x C matrix is needed. h (..., C), n and rho (...)."""
    u = h**2 / (1 - h)
    q, u0, u1, u2 = (h**2).sum(-1), u.sum(-1), (u * h).sum(-1), (u * h**2).sum(-1)
    own = u * (1 - 2 * h + q[..., None])
    first = q + u0**2 - (u**2).sum(-1)
    mixed = (h * own).sum(-1) - (q * (u0**2 - (u**2).sum(-1)) - 2 * (u0 * u1 - (u**2 * h).sum(-1)))
    second = (own**2).sum(-1) + q**2 * u0**2 + 2 * u0 * u2 + 2 * u1**2 - 4 * q * u0 * u1
    second = second - (u**2 * (q[..., None] - 2 * h) ** 2).sum(-1)
    a, b = 1 - correlation, correlation * n
    found: Floats = (a + b * own.sum(-1)) ** 2 / (a**2 * first + 2 * a * b * mixed + b**2 * second)
    return found


def share_interval(share: Floats, found: Spread, level: float = 0.95) -> tuple[Floats, Floats]:
    """Wilson's interval of a share (...) on the effective sample size, with Student's quantiles.

    The effective sample size is share (1 - share) / variance. The interval is never wider than that of clusters that are
    wholly right or wholly wrong, and it is that one where nothing varies (all right, none right): then nothing tells how far
    the documents of a cluster go together.
    """
    quantile, bound = (stdtrit(df, (1 + level) / 2) for df in (found.df, found.worst_df))
    pq = share * (1 - share)
    with np.errstate(divide="ignore", invalid="ignore"):
        own = np.where(pq > _NOTHING, found.variance * quantile**2 / pq, np.inf)
    # z^2 / n_eff of Wilson's formula.
    spread = np.minimum(np.where(own > 0, own, np.inf), bound**2 * found.worst / found.effective)
    middle = (share + spread / 2) / (1 + spread)
    half = np.sqrt(pq * spread + spread**2 / 4) / (1 + spread)
    return np.where(share <= 0, 0.0, middle - half), np.where(share >= 1, 1.0, middle + half)


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


def clustered_mean(values: ArrayLike, clusters: Clusters, level: float = 0.95) -> Clustered:
    """Mean of ``values`` (n,) of any size with its interval mean -+ t sqrt(V), e.g. of differences between paired systems."""
    x, codes = _values(values, clusters), cluster_codes(clusters)
    found = _ratio(x, np.ones_like(x), codes)
    if found is None:
        return Clustered(float(x.mean()), None, None, None, level, len(x), int(codes.max()) + 1, None)
    mean, (variance, alone, df, *_) = found
    se = math.sqrt(float(variance))
    half = float(stdtrit(float(df), (1 + level) / 2)) * se
    deff = float(variance / alone) if alone > 0 else None
    return Clustered(mean, se, mean - half, mean + half, level, len(x), int(codes.max()) + 1, deff, float(df) if deff else None)


def clustered_share(
    values: ArrayLike, clusters: Clusters, weights: ArrayLike | None = None, level: float = 0.95
) -> Clustered | None:
    """Sum of ``values`` over sum of ``weights`` with its interval (:func:`share_interval`).

    :param values: (n,) between 0 and the weight of the document; ``weights`` (n,): by default 1, so this is the mean. With the
        number of decisive choices of each document it is the selection accuracy.
    :returns: None where all weights are 0. ``n`` counts the documents that have a weight.
    """
    x = _values(values, clusters)
    w = np.ones_like(x) if weights is None else _values(weights, clusters)
    if (x < 0).any() or (x > w).any():
        raise ValueError("clustered_share: expected values between 0 and the weight of each document")
    kept = w > 0
    if not kept.any():
        return None
    x, w, codes = x[kept], w[kept], np.unique(cluster_codes(clusters)[kept], return_inverse=True)[1]
    n, count, found = len(x), int(codes.max()) + 1, _ratio(x, w, codes)
    if found is None:
        return Clustered(float(x.sum() / w.sum()), None, None, None, level, n, count, None)
    share, sure = found
    low, high = share_interval(np.asarray(share), sure, level)
    varies = bool(sure.alone > 0)
    deff, df = (float(sure.deff), float(sure.df)) if varies else (None, float(sure.worst_df))
    return Clustered(share, math.sqrt(float(sure.variance)), float(low), float(high), level, n, count, deff, df)


def few_clusters(count: int | None, of: str = "problems", df: float | None = None, compared: bool = False) -> str:
    """What is said beside an interval from few clusters; empty from :data:`FEW_CLUSTERS` on, unless its degrees of freedom
    ``df`` tell that a few of them make the variance.

    :param compared: there is a difference beside it, with the size of one that would be found.
    """
    if count is not None and count >= FEW_CLUSTERS and df is not None and df < FEW_CLUSTERS / 4:
        return (
            f"A few of the {count} {of} carry most of the variance ({df:.1f} effective degrees of freedom): the interval is "
            "wide because others in their place would give another score."
        )
    if count is None or count >= FEW_CLUSTERS:
        return ""
    if count == 1:
        return f"All documents come from one of the {of}: nothing tells how another one would do, so there is no interval."
    difference = ", and a difference said to be found in four runs of five may be found in seven of ten" if compared else ""
    return (
        f"{count} {of} are few: intervals are wide because their own precision is a guess (effective degrees of freedom in the "
        f"JSON){difference}; from {FEW_CLUSTERS} {of} on they settle."
    )


def _ratio(x: Floats, w: Floats, codes: NDArray[np.intp]) -> tuple[float, Spread] | None:
    """sum(x) / sum(w) and its spread; None for fewer than two clusters."""
    weights, total = _sums(w, codes), float(w.sum())
    if len(weights) < 2:
        return None
    mean = float(x.sum()) / total
    residuals = x - mean * w
    # Rounding must not make a variance out of equal values.
    if np.abs(residuals).max() <= _NOTHING * max(1.0, float(np.abs(x).max())):
        residuals = np.zeros_like(x)
    alone = float(((residuals / (1 - w / total)) ** 2).sum())
    return mean, spread(_sums(residuals, codes), weights, np.asarray(alone), np.asarray(float(w @ w)))


def wilson(right: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a proportion (1927), for documents that are independent.

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


def _sums(x: Floats, codes: NDArray[np.intp]) -> Floats:
    return np.bincount(codes, weights=x).astype(np.float64)


def _values(values: ArrayLike, clusters: Clusters) -> Floats:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) != len(clusters) or not len(x):
        raise ValueError(f"values of shape {x.shape} and {len(clusters)} clusters: expected one of each per document")
    return x
