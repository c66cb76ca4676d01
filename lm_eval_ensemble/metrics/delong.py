"""DeLong's covariance of areas under ROC curves, on midranks, for one or several scores and for two models.

DeLong, DeLong and Clarke-Pearson 1988 (Biometrics 44:837), in the fast form of Sun and Xu 2014 (IEEE Signal
Processing Letters 21:1389): with R the midranks of all documents and R' those within a class, the share of right
answers below wrong answer i is V10_i = (R_i - R'_i) / n0, and the share of wrong ones above right answer j is
V01_j = 1 - (R_j - R'_j) / n1.

Where documents come in clusters (questions about one text) the clusters are what is drawn, as in Obuchowski 1997
(Biometrics 53:567). The variance is the jackknife's over clusters, sum over c of (A - A_(c))^2 with A_(c) the area without
cluster c, but at least DeLong's: Obuchowski's is its limit for many clusters and too small for few. Its degrees of freedom are
those of a mean over the same clusters (:func:`~lm_eval_ensemble.metrics.clustered.spread`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, expit, logit, ndtri, stdtr, stdtrit

from lm_eval_ensemble.metrics.clustered import Spread, spread

__all__ = [
    "NO_VARIANCE",
    "SCARCE",
    "Area",
    "Difference",
    "auroc_interval",
    "components",
    "delong",
    "midranks",
    "paired",
    "unpaired",
    "within",
]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
#: (n,) the cluster of each document as a number from 0, as from ``clustered.cluster_codes``; None: all are independent.
Codes = NDArray[np.intp] | None


#: why a difference to an area of 1 (or 0) has no p.
NO_VARIANCE = "an area of 1 or 0 has no variance: no p, only an interval"
#: the same where a class is too small for Student's t: with two right answers of 400, 5 % of true hypotheses had p < 0.005,
#: with three and four 1 %, from five on no more than there should be (2,000 simulated sets each, two equally good scores).
TOO_FEW = "fewer than five wrong or right answers: no p, only an interval"
_FEW = 5
#: degrees of freedom from which Student's t is the normal distribution.
_NORMAL = 1e9
#: answers of the scarcer class from which DeLong's variance alone makes the interval.
SCARCE = 100


class Area(NamedTuple):
    """An area with its interval, or the ``reason`` why it has none; ``df``: degrees of freedom of its quantile."""

    value: float
    low: float | None
    high: float | None
    method: str
    reason: str | None
    df: float | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """Two areas compared: ``value`` = first - second, its interval, a two-sided p-value; all None with a ``reason``. ``df`` are
    the degrees of freedom of Student's t."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    method: str
    reason: str | None
    n: int
    df: float | None = None


def midranks(values: Floats) -> Floats:
    """Ranks from 1, equal values sharing the mean of theirs: ``scipy.stats.rankdata``, which takes half a second to import.

    >>> midranks(np.array([0.2, 0.1, 0.2])).tolist()
    [2.5, 1.0, 2.5]
    """
    _, order, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(count) - (count - 1) / 2)[order]
    return ranks


def components(score: Floats, wrong: Bools) -> tuple[float, Floats, Floats]:
    """AUROC of one score and DeLong's structural components.

    :param score: (n,), higher = less certain.
    :param wrong: (n,), both classes present.
    :returns: the area, V10 (n1,) for the wrong answers, V01 (n0,) for the right ones; the mean of each is the area.
    """
    ranks = midranks(score)
    positive, negative = ranks[wrong], ranks[~wrong]
    v10 = (positive - midranks(score[wrong])) / len(negative)
    v01 = 1.0 - (negative - midranks(score[~wrong])) / len(positive)
    return float(v10.mean()), v10, v01


def delong(scores: Floats, wrong: Bools) -> tuple[Floats, Floats]:
    """Areas (k,) of ``scores`` (k, n) on the same answers, and their covariance (k, k).

    A class of one document has no variance: its part of the covariance is NaN.
    """
    parts = [components(score, wrong) for score in scores]
    areas = np.array([area for area, _, _ in parts])
    return areas, sum((_covariance(np.stack([part[i] for part in parts])) for i in (1, 2)), np.zeros((len(parts),) * 2))


def _covariance(values: Floats) -> Floats:
    k, n = values.shape
    return np.full((k, k), np.nan) if n < 2 else np.atleast_2d(np.cov(values)) / n


def within(score: Floats, wrong: Bools, codes: NDArray[np.intp], count: int) -> tuple[Floats, Floats]:
    """Pairs of a wrong and a right answer inside each of ``count`` clusters: those in which the wrong one has the higher score,
    equal ones by half, and all; (C,) both."""
    ours, theirs = (np.bincount(codes[of], minlength=count).astype(np.float64) for of in (wrong, ~wrong))
    size = ours + theirs
    # Midranks within each cluster: among all, if clusters are laid end to end, less the documents of those before.
    _, order = np.unique(score, return_inverse=True)
    ranks = midranks(codes * (order.max() + 1) + order) - (np.cumsum(size) - size)[codes]
    won: Floats = np.bincount(codes[wrong], ranks[wrong], count) - ours * (ours + 1) / 2
    return won, ours * theirs


class _Moved(NamedTuple):
    """What an area owes to its clusters: ``area`` - the area without each cluster, (C,), NaN where a class would be gone; their
    ``share`` (C,) in the area, sum 1; DeLong's variance ``alone``; the sum of the squared shares of the documents."""

    area: float
    moved: Floats
    share: Floats
    alone: float
    squares: float


def _moved(score: Floats, wrong: Bools, codes: NDArray[np.intp], count: int) -> _Moved:
    """The jackknife over ``count`` clusters in one pass: the pairs a cluster takes part in, from ranks among all and within."""
    area, v10, v01 = components(score, wrong)
    n1, n0 = len(v10), len(v01)
    ours, theirs = (np.bincount(codes[of], minlength=count).astype(np.float64) for of in (wrong, ~wrong))
    won = n0 * np.bincount(codes[wrong], v10, count) + n1 * np.bincount(codes[~wrong], v01, count)
    inner, _ = within(score, wrong, codes, count)
    with np.errstate(divide="ignore", invalid="ignore"):
        without = (n1 * n0 * area - (won - inner)) / ((n1 - ours) * (n0 - theirs))
    alone = float(v10.var(ddof=1) / n1 + v01.var(ddof=1) / n0) if min(n1, n0) > 1 else float("nan")
    return _Moved(area, area - without, (ours / n1 + theirs / n0) / 2, alone, (1 / n1 + 1 / n0) / 4)


def _spread(moved: Floats, share: Floats, alone: float, squares: float) -> Spread:
    """The variance of an area, or of a difference of two, by cluster, at least ``alone``, with its degrees of freedom."""
    return spread(moved * (1 - share), share, np.asarray(alone), np.asarray(squares))


def auroc_interval(score: Floats, wrong: Bools, codes: Codes = None, level: float = 0.95) -> Area:
    """The area of a score (n,) and its interval, both classes present.

    DeLong's interval on the logit scale (Pepe 2003), with Student's quantile: Welch's degrees of freedom for the two classes,
    or those that the fourth moment of the components allows, if these are fewer. Below :data:`SCARCE` answers of a class its
    variance is an optimist, above all for high areas, and the interval is joined with the one where the area is a quantile away
    from the bound with the variance that Hanley and McNeil's model (1982) has at the bound, of the class that varies more
    (Newcombe 2006, Statistics in Medicine 25:559, method 5, uses the mean of both). With clusters the variance is that of the
    jackknife, and counts of answers are divided by the design effect. What this covers is measured by
    ``benchmarks/coverage.py``.

    Where the classes do not overlap at all (area 0 or 1) DeLong's variance is zero; then the answers are thought of as
    disjoint pairs of a wrong and a right one (of different clusters, no cluster in two pairs), all of which came out the same
    way, and Clopper and Pearson's exact bound for that count is given. It is valid and cautious.
    """
    area, v10, v01 = components(score, wrong)
    n1, n0 = len(v10), len(v01)
    if area in (0.0, 1.0):
        pairs = min(n1, n0) if codes is None else _disjoint_pairs(wrong, codes)
        if not pairs:
            return Area(area, None, None, "exact pairs", "one cluster only: no pair of different ones")
        edge = float(betaincinv(pairs, 1, (1 - level) / 2))
        return Area(area, edge, 1.0, "exact pairs", None) if area else Area(area, 0.0, 1.0 - edge, "exact pairs", None)
    name = "logit delong" if codes is None else "logit delong by cluster"
    if min(n1, n0) < 2:
        return Area(area, None, None, name, "one wrong or one right answer only: no variance")
    variance, df = _independent(v10, v01)
    deff, z = 1.0, float(ndtri((1 + level) / 2))
    if codes is not None:
        own = _moved(score, wrong, codes, int(codes.max()) + 1)
        if not np.isfinite(own.moved).all():
            return Area(area, None, None, name, "all wrong or all right answers are in one cluster: no variance")
        found = _spread(*own[1:])
        variance, df, deff = float(found.variance), min(df, float(found.df)), float(found.deff)
        z = float(stdtrit(df, (1 + level) / 2)) * deff**0.5
    if variance <= 0.0:
        return Area(area, None, None, name, "all scores are equal" if area == 0.5 else "the variance is zero")
    half = float(stdtrit(df, (1 + level) / 2)) * variance**0.5 / (area * (1 - area))
    low, high = float(expit(logit(area) - half)), float(expit(logit(area) + half))
    if min(n1, n0) / deff >= SCARCE:
        return Area(area, low, high, name, None, df)
    below, above = (_bound(area, end, n1, n0, z) for end in (0.0, 1.0))
    return Area(area, min(low, below), max(high, above), f"{name}, score", None, df)


def _independent(*groups: Floats) -> tuple[float, float]:
    """DeLong's variance, the sum over classes of (sample variance / n) of their components, and its degrees of freedom."""
    if min(map(len, groups)) < 2:
        return float("nan"), 1.0
    parts = np.array([group.var(ddof=1) / len(group) for group in groups])
    variance = float(parts.sum())
    if variance <= 0.0:
        return 0.0, 1.0
    welch = variance**2 / float((parts**2 / np.array([len(group) - 1 for group in groups])).sum())
    added = np.concatenate([(group - group.mean()) / len(group) for group in groups])
    return variance, min(welch, _seen(added))


def _seen(added: Floats) -> float:
    """Degrees of freedom that the fourth moment of what each document adds allows (as in ``metrics.clustered``)."""
    squares = added**2
    total, rest = float(squares.sum()), float((squares**2).sum() - squares.sum() ** 2 / len(squares))
    return max(1.0, 2 * total**2 / rest) if rest > 1e-12 * total**2 else math.inf


def _disjoint_pairs(wrong: Bools, codes: NDArray[np.intp]) -> int:
    """How many pairs of a cluster with a wrong answer and another with a right one there are, no cluster in two of them."""
    clusters = int(codes.max()) + 1
    ours, theirs = (np.bincount(codes[of], minlength=clusters) > 0 for of in (wrong, ~wrong))
    return int(min(ours.sum(), theirs.sum(), clusters // 2))


def _bound(area: float, end: float, n1: int, n0: int, z: float) -> float:
    """The area farthest towards ``end`` from which this one is at most z standard errors away, by bisection."""
    inside, outside = area, end
    for _ in range(40):
        middle = (inside + outside) / 2
        far = max(middle, 1 - middle)
        spread = 2 * far**2 / (1 + far) - far**2
        error = ((middle * (1 - middle) + (n1 + n0 - 2) * spread) / (n1 * n0)) ** 0.5
        inside, outside = (middle, outside) if abs(area - middle) <= z * error else (inside, middle)
    return inside


def paired(
    first: Floats,
    second: Floats,
    first_wrong: Bools,
    second_wrong: Bools | None = None,
    codes: Codes = None,
    level: float = 0.95,
) -> Difference:
    """AUROC(first) - AUROC(second) on the same n documents.

    With one set of labels this is DeLong's paired test. With two (two models answered the same questions, each with its
    own errors) the components of all documents enter as one cluster per document (Obuchowski 1997, Biometrics 53:567). With
    clusters of documents the jackknife over these takes the place of both. z is the published one; its p is Student's, with the
    degrees of freedom of Welch for the two classes, or those that the fourth moment allows: with ten wrong answers, normal
    quantiles reject a truth in 8 % (``benchmarks/coverage.py``). Of an area of 1 (or 0), which has no variance, and with
    fewer than five answers of a class, the interval is made of the bounds of both, unless the scores rank alike, and a
    difference has no p.
    """
    labels = (first_wrong, first_wrong if second_wrong is None else second_wrong)
    name = "paired delong" if second_wrong is None else "paired by document (delong components)"
    name, n = name if codes is None else "paired by cluster", len(first)
    if reason := _one_class(labels):
        return Difference(None, None, None, None, name, reason, n)
    if second_wrong is None:
        one, other = components(first, first_wrong), components(second, first_wrong)
        areas = one[0], other[0]
        variance, df = _independent(one[1] - other[1], one[2] - other[2])
    else:
        area_a, added_a = _added(first, labels[0])
        area_b, added_b = _added(second, labels[1])
        areas, added = (area_a, area_b), added_a - added_b
        variance, df = float(np.sum(added**2)), _seen(added)
    value, alike = areas[0] - areas[1], bool((labels[0] == labels[1]).all() and (midranks(first) == midranks(second)).all())
    if not alike and (reason := _no_test(areas, labels)):
        own = (_area(areas, first, labels[0], codes, level), _area(areas, second, labels[1], codes, level))
        return _apart(*own, reason, n)
    if codes is None:
        return _difference(value, variance, level, name, n, df)
    count = int(codes.max()) + 1
    a, b = (_moved(score, wrong, codes, count) for score, wrong in zip((first, second), labels, strict=True))
    return _by_cluster(a, b, (variance, df), (a.squares + b.squares) / 2, level, name, n)


def unpaired(
    first: Floats,
    second: Floats,
    first_wrong: Bools,
    second_wrong: Bools,
    codes: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None,
    level: float = 0.95,
) -> Difference:
    """AUROC(first) - AUROC(second) on different documents: the variances add.

    :param codes: the clusters of both, by one numbering: what they have in common (questions about one article) is paired.
    """
    n = len(first) + len(second)
    name = "unpaired delong" if codes is None else "unpaired by cluster"
    if reason := _one_class((first_wrong, second_wrong)):
        return Difference(None, None, None, None, name, reason, n)
    (area_a, *one), (area_b, *other) = components(first, first_wrong), components(second, second_wrong)
    variance, df = _independent(*one, *other)
    if reason := _no_test(areas := (area_a, area_b), (first_wrong, second_wrong)):
        ours, theirs = codes or (None, None)
        own = (_area(areas, first, first_wrong, ours, level), _area(areas, second, second_wrong, theirs, level))
        return _apart(*own, reason, n)
    if codes is None:
        return _difference(area_a - area_b, variance, level, name, n, df)
    count = int(max(own.max() for own in codes)) + 1
    a, b = _moved(first, first_wrong, codes[0], count), _moved(second, second_wrong, codes[1], count)
    return _by_cluster(a, b, (variance, df), (a.squares + b.squares) / 4, level, name, n)


def _no_test(areas: tuple[float, float], labels: tuple[Bools, Bools]) -> str | None:
    """Why two areas are not tested: one is 1 or 0 (no error was seen there, which is not to say that there is none), or has too
    few answers of a class."""
    if not {0.0, 1.0}.isdisjoint(areas):
        return NO_VARIANCE
    return TOO_FEW if min(min(label.sum(), (~label).sum()) for label in labels) < _FEW else None


def _area(areas: tuple[float, float], score: Floats, wrong: Bools, codes: Codes, level: float) -> Area:
    """Of two areas that are both 1, or 0, each is on its side of its exact bound but for half of 1 - level, so both are at
    once; of others either bound may fail."""
    return auroc_interval(score, wrong, codes, level if areas[0] == areas[1] else (1 + level) / 2)


def _apart(first: Area, second: Area, why: str, n: int) -> Difference:
    """Of two areas that are not tested: the interval is made of the bounds of both."""
    value = first.value - second.value
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return Difference(value, None, None, None, first.method, first.reason or second.reason, n)
    ends = (first.low - second.high, first.high - second.low)
    if not value:
        return Difference(value, *ends, 1.0, first.method, None, n)
    return Difference(value, *ends, None, "bounds of both", why, n)


def _by_cluster(
    a: _Moved, b: _Moved, alone: tuple[float, float], squares: float, level: float, method: str, n: int
) -> Difference:
    with np.errstate(invalid="ignore"):  # of two clusters without which a class would be gone
        moved, value = a.moved - b.moved, a.area - b.area
    if not (np.isfinite(moved).all() and np.isfinite(alone[0])):
        reason = "all wrong or all right answers are in one cluster: no variance"
        return Difference(value, None, None, None, method, reason, n)
    found = _spread(moved, (a.share + b.share) / 2, alone[0], squares)
    return _difference(value, float(found.variance), level, method, n, min(float(found.df), alone[1]))


def _added(score: Floats, wrong: Bools) -> tuple[float, Floats]:
    """The area, and what each document adds to its error: their sum of squares is DeLong's variance."""
    area, v10, v01 = components(score, wrong)
    added = np.empty(len(score))
    with np.errstate(divide="ignore", invalid="ignore"):
        for of, own in ((wrong, v10), (~wrong, v01)):
            added[of] = (own - area) / np.sqrt(len(own) * (len(own) - 1.0))
    return area, added


def _one_class(labels: tuple[Bools, Bools]) -> str | None:
    for label in labels:
        if label.all():
            return "all answers are wrong" if len(label) else "no documents"
        if not label.any():
            return "all answers are right"
    return None


def _difference(value: float, variance: float, level: float, method: str, n: int, df: float) -> Difference:
    if not np.isfinite(variance):
        return Difference(value, None, None, None, method, "one wrong or one right answer only: no variance", n)
    # A tiny negative variance is rounding: the two scores rank alike, or differ without any spread.
    if variance <= 1e-15:
        if abs(value) < 1e-12:
            return Difference(value, 0.0, 0.0, 1.0, method, "both rank alike", n)
        return Difference(value, None, None, None, method, "zero variance", n)
    error = variance**0.5
    # scipy knows no Student's t of infinite degrees of freedom.
    df = min(df, _NORMAL)
    quantile = float(stdtrit(df, (1 + level) / 2))
    p = float(2 * stdtr(df, -abs(value) / error))
    return Difference(value, value - quantile * error, value + quantile * error, p, method, None, n, df)
