"""DeLong's covariance of areas under ROC curves, on midranks, for one or several scores and for two models.

DeLong, DeLong and Clarke-Pearson 1988 (Biometrics 44:837), in the fast form of Sun and Xu 2014 (IEEE Signal
Processing Letters 21:1389): with R the midranks of all documents and R' those within a class, the share of right
answers below wrong answer i is V10_i = (R_i - R'_i) / n0, and the share of wrong ones above right answer j is
V01_j = 1 - (R_j - R'_j) / n1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtri, stdtrit
from scipy.stats import beta, norm, rankdata

__all__ = ["SCARCE", "Difference", "auroc_interval", "components", "delong", "paired", "unpaired"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


#: answers of the scarcer class from which DeLong's variance alone makes the interval.
SCARCE = 100


@dataclass(frozen=True, slots=True)
class Difference:
    """Two areas compared: ``value`` = first - second, its interval, a two-sided p-value; all None with a ``reason``."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    method: str
    reason: str | None
    n: int


def components(score: Floats, wrong: Bools) -> tuple[float, Floats, Floats]:
    """AUROC of one score and DeLong's structural components.

    :param score: (n,), higher = less certain.
    :param wrong: (n,), both classes present.
    :returns: the area, V10 (n1,) for the wrong answers, V01 (n0,) for the right ones; the mean of each is the area.
    """
    ranks = rankdata(score)
    positive, negative = ranks[wrong], ranks[~wrong]
    v10 = (positive - rankdata(score[wrong])) / len(negative)
    v01 = 1.0 - (negative - rankdata(score[~wrong])) / len(positive)
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


def auroc_interval(
    score: Floats, wrong: Bools, level: float = 0.95
) -> tuple[float, float | None, float | None, str, str | None]:
    """(area, low, high, method, reason) of the area of a score (n,), both classes present.

    DeLong's interval on the logit scale (Pepe 2003), with Student's quantile: Welch's degrees of freedom for the two classes,
    or those that the fourth moment of the components allows, if these are fewer. Below :data:`SCARCE` answers of a class its
    variance is an optimist, above all for high areas, and the interval is joined with the one where the area is a quantile away
    from the bound with the variance that Hanley and McNeil's model (1982) has at the bound, of the class that varies more
    (Newcombe 2006, Statistics in Medicine 25:559, method 5, uses the mean of both). What this covers is measured by
    ``benchmarks/coverage.py``.

    Where the classes do not overlap at all (area 0 or 1) DeLong's variance is zero; then the answers are thought of as
    min(n0, n1) disjoint pairs of a wrong and a right one, all of which came out the same way, and Clopper and Pearson's exact
    bound for that count is given. It is valid and cautious.
    """
    area, v10, v01 = components(score, wrong)
    n1, n0 = len(v10), len(v01)
    if area in (0.0, 1.0):
        edge = float(beta.ppf((1 - level) / 2, min(n1, n0), 1))
        return (area, edge, 1.0, "exact pairs", None) if area else (area, 0.0, 1.0 - edge, "exact pairs", None)
    if min(n1, n0) < 2:
        return area, None, None, "delong", "one wrong or one right answer only: no variance"
    parts = np.array([v10.var(ddof=1) / n1, v01.var(ddof=1) / n0])
    variance = float(parts.sum())
    if variance <= 0.0:
        return area, None, None, "delong", "all scores are equal" if area == 0.5 else "the variance is zero"
    welch = variance**2 / float(parts[0] ** 2 / (n1 - 1) + parts[1] ** 2 / (n0 - 1))
    squares = np.concatenate([((v10 - area) / n1) ** 2, ((v01 - area) / n0) ** 2])
    rest = float((squares**2).sum() - squares.sum() ** 2 / len(squares))
    df = max(1.0, min(welch, 2 * float(squares.sum()) ** 2 / rest if rest > 0 else np.inf))
    half = float(stdtrit(df, (1 + level) / 2)) * variance**0.5 / (area * (1 - area))
    low, high = float(expit(logit(area) - half)), float(expit(logit(area) + half))
    if min(n1, n0) >= SCARCE:
        return area, low, high, "logit delong", None
    z = float(ndtri((1 + level) / 2))
    below, above = (_bound(area, end, n1, n0, z) for end in (0.0, 1.0))
    return area, min(low, below), max(high, above), "logit delong, score", None


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
    first: Floats, second: Floats, first_wrong: Bools, second_wrong: Bools | None = None, level: float = 0.95
) -> Difference:
    """AUROC(first) - AUROC(second) on the same n documents.

    With one set of labels this is DeLong's paired test. With two (two models answered the same questions, each with its
    own errors) the components of all documents enter as one cluster per document (Obuchowski 1997, Biometrics 53:567).
    """
    labels = (first_wrong, first_wrong if second_wrong is None else second_wrong)
    name = "paired delong" if second_wrong is None else "paired by document (delong components)"
    n = len(first)
    if reason := _one_class(labels):
        return Difference(None, None, None, None, name, reason, n)
    if second_wrong is None:
        areas, covariance = delong(np.stack([first, second]), first_wrong)
        variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
        return _difference(float(areas[0] - areas[1]), variance, level, name, n)
    area_a, influence_a = _influence(first, labels[0])
    area_b, influence_b = _influence(second, labels[1])
    variance = float(np.sum((influence_a - influence_b) ** 2)) * n / max(n - 1, 1)
    return _difference(area_a - area_b, variance, level, name, n)


def unpaired(first: Floats, second: Floats, first_wrong: Bools, second_wrong: Bools, level: float = 0.95) -> Difference:
    """AUROC(first) - AUROC(second) on different documents: the variances add."""
    n = len(first) + len(second)
    if reason := _one_class((first_wrong, second_wrong)):
        return Difference(None, None, None, None, "unpaired delong", reason, n)
    (area_a,), ((variance_a,),) = delong(first[None, :], first_wrong)
    (area_b,), ((variance_b,),) = delong(second[None, :], second_wrong)
    return _difference(float(area_a - area_b), float(variance_a + variance_b), level, "unpaired delong", n)


def _influence(score: Floats, wrong: Bools) -> tuple[float, Floats]:
    """The area, and what each document adds to its error: their sum of squares is DeLong's variance, up to n/(n-1)."""
    area, v10, v01 = components(score, wrong)
    influence = np.empty(len(score))
    influence[wrong] = (v10 - area) / len(v10)
    influence[~wrong] = (v01 - area) / len(v01)
    return area, influence


def _one_class(labels: tuple[Bools, Bools]) -> str | None:
    for label in labels:
        if label.all():
            return "all answers are wrong" if len(label) else "no documents"
        if not label.any():
            return "all answers are right"
    return None


def _difference(value: float, variance: float, level: float, method: str, n: int) -> Difference:
    if not np.isfinite(variance):
        return Difference(value, None, None, None, method, "one wrong or one right answer only: no variance", n)
    # A tiny negative variance is rounding: the two scores rank alike, or differ without any spread.
    if variance <= 1e-15:
        if abs(value) < 1e-12:
            return Difference(value, 0.0, 0.0, 1.0, method, "both rank alike", n)
        return Difference(value, None, None, None, method, "zero variance", n)
    error = variance**0.5
    half = float(norm.ppf((1 + level) / 2)) * error
    return Difference(value, value - half, value + half, float(2 * norm.sf(abs(value) / error)), method, None, n)
