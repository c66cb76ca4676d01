"""From a score to a probability of being right, without judging a fit on the answers it was fitted to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import bdtr, expit

from lm_eval_ensemble.metrics.clustered import Clusters, clustered_mean, clustered_share
from lm_eval_ensemble.metrics.uncertainty import Estimate, usable

__all__ = ["METHODS", "Bin", "Calibration", "brier", "calibrate", "equal_mass_ece", "expected_ece", "folds_of", "platt"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
METHODS = ("isotonic", "platt")


class Bin(NamedTuple):
    """Answers of like ``probability`` (their mean) and the share ``right`` among these ``n``, which lies between ``low`` and
    ``high`` (95 %, as the interval of an accuracy; None where one cluster holds them all)."""

    probability: float
    right: float
    n: int
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """``ece`` and ``brier`` (lower is better) of cross-fitted probabilities; ``base`` is the Brier score of always saying
    the accuracy, ``expected`` the ECE that the same bins would show on average if the probabilities were true
    (:func:`expected_ece`). ``bins``: the equal-mass bins."""

    method: str
    ece: Estimate
    brier: Estimate
    base: float | None
    expected: float | None
    bins: tuple[Bin, ...]


def calibrate(
    uncertainty: object,
    wrong: object,
    method: str = "isotonic",
    folds: int = 5,
    seed: int = 0,
    clusters: Clusters | None = None,
) -> Calibration:
    """Probabilities of being right for every document from a fit on the other folds, and how good they are.

    Raw scores such as G-NLL are no probabilities; an ECE of them means nothing. Folds are stratified and fixed by
    ``seed``; with fewer than ``folds`` documents of a class there are that many folds, with fewer than 2 no value. The interval
    of the Brier score is that of a mean, the folds held fixed.

    :param method: ``isotonic`` (monotone, free form) or ``platt`` (a logistic curve; Platt 1999).
    :param clusters: (n,) names of what is drawn as one: it goes into one fold as a whole.
    """
    pairs = usable(uncertainty, wrong, clusters)  # type: ignore[arg-type]
    score, right, n = _finite(pairs.score), ~pairs.wrong, len(pairs.wrong)
    codes = np.arange(n) if pairs.codes is None else pairs.codes
    reason = pairs.reason
    smallest = min(len(np.unique(codes[of])) for of in (right, ~right)) if n else 0
    if reason is None and smallest < 2:
        reason = "one wrong or one right answer only: no cross-fitting"
        if pairs.codes is not None:
            reason = "all wrong or all right answers are in one cluster: no cross-fitting"
    if reason is not None:
        none = Estimate(None, None, None, method, reason, n, pairs.excluded, pairs.clusters)
        return Calibration(method, none, none, None, None, ())
    assigned = folds_of(right, min(folds, smallest), seed, pairs.codes)
    probability = np.empty(n)
    for fold in range(assigned.max() + 1):
        held = assigned == fold
        probability[held] = _fit_predict(method, score[~held], right[~held], score[held])
    ece, bins = equal_mass_ece(probability, right, codes=codes)
    found = clustered_mean((probability - right) ** 2, codes)
    low, high = (None, None) if found.low is None or found.high is None else (max(0.0, found.low), min(1.0, found.high))
    unbounded = "no interval: ECE is biased upwards in small samples"
    name, more = f"{method}, cross-fitted", (n, pairs.excluded, pairs.clusters)
    return Calibration(
        method,
        Estimate(ece, None, None, name, unbounded, *more),
        Estimate(found.mean, low, high, name, None, *more, found.df),
        float(right.mean() * (1 - right.mean())),
        expected_ece(bins),
        tuple(bins),
    )


def folds_of(right: Bools, folds: int, seed: int = 0, codes: NDArray[np.intp] | None = None) -> NDArray[np.int64]:
    """A fold number (n,) for each document, each class spread evenly; of clusters (``codes`` (n,)) as evenly as they allow."""
    generator = np.random.default_rng(seed)
    assigned = np.empty(len(right), np.int64)
    if codes is not None:
        classes = np.stack([np.bincount(codes, of) / of.sum() for of in (right, ~right)], axis=1)
        held = np.zeros((folds, 2))
        fold_of = np.empty(len(classes), np.int64)
        mixed = generator.permutation(len(classes))
        # The largest first, each to the fold whose shares of the two classes it leaves most even.
        for cluster in mixed[np.argsort(-classes[mixed].max(1), kind="stable")]:
            fold_of[cluster] = np.argmin((2 * held * classes[cluster] + classes[cluster] ** 2).sum(1))
            held[fold_of[cluster]] += classes[cluster]
        assigned[:] = fold_of[codes]
        return assigned
    for group in (right, ~right):
        members = generator.permutation(np.flatnonzero(group))
        assigned[members] = np.arange(len(members)) % folds
    return assigned


def expected_ece(bins: list[Bin]) -> float:
    """What :func:`equal_mass_ece` would be on average if every answer of a bin were right with the bin's probability,
    independently: the mean absolute deviation of a binomial share, in de Moivre's closed form.

    An ECE is an average of distances and so above 0 even then; only what exceeds this tells of miscalibration.
    """
    return math.fsum(found.n * _mean_deviation(found.n, found.probability) for found in bins) / sum(b.n for b in bins)


def _mean_deviation(n: int, p: float) -> float:
    """E|X / n - p| for X binomial: 2 p (1 - p) P(Y = floor(n p)) with Y of n - 1 draws."""
    k = min(math.floor(n * p), n - 1)
    mass = float(bdtr(k, n - 1, p)) - (float(bdtr(k - 1, n - 1, p)) if k else 0.0) if n > 1 else 1.0
    return 2 * p * (1 - p) * mass


def equal_mass_ece(
    probability: Floats, right: Bools, bins: int = 10, codes: NDArray[np.intp] | None = None
) -> tuple[float, list[Bin]]:
    """Expected calibration error over bins of (nearly) equal size, and the bins. Lower is better; 0 is perfect.

    Equal probabilities stay in one bin, that of the middle one of them: bins must not depend on the order of the documents.

    :param codes: (n,) the clusters of the documents, for the intervals of the bins; None: all are independent.
    """
    codes = np.arange(len(right)) if codes is None else codes
    n = len(probability)
    order = np.argsort(probability, kind="stable")
    of_place = np.repeat(np.arange(bins), [len(part) for part in np.array_split(order, bins)])
    _, group, size = np.unique(probability, return_inverse=True, return_counts=True)
    bin_of_group = of_place[np.cumsum(size) - size + (size - 1) // 2]
    parts = [part for b in range(bins) if len(part := np.flatnonzero(bin_of_group[group] == b))] if n else []
    rows = []
    for part in parts:
        share = clustered_share(right[part].astype(float), codes[part])
        ends = (None, None) if share is None else (share.low, share.high)
        rows.append(Bin(float(probability[part].mean()), float(right[part].mean()), len(part), *ends))
    return sum(row.n * abs(row.probability - row.right) for row in rows) / len(right), rows


def brier(probability: Floats, right: Bools) -> float:
    """Mean squared distance of probability and outcome. Lower is better."""
    return float(np.mean((probability - right) ** 2))


def platt(score: Floats, right: Bools) -> tuple[float, float]:
    """(a, b) of P(right) = 1 / (1 + exp(a * score + b)), by maximum likelihood on Platt's smoothed targets.

    The targets (n1 + 1)/(n1 + 2) and 1/(n0 + 2) keep the fit finite where a threshold separates the classes.
    """
    n1, n0 = int(right.sum()), int((~right).sum())
    target = np.where(right, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    centre, scale = float(score.mean()), float(score.std()) or 1.0
    x = (score - centre) / scale

    def loss(parameters: Floats) -> tuple[float, Floats]:
        z = -(parameters[0] * x + parameters[1])
        gap = expit(z) - target
        return float(np.sum(np.logaddexp(0, z) - target * z)), np.array([-(gap @ x), -gap.sum()])

    a, b = minimize(loss, np.zeros(2), jac=True, method="BFGS").x
    return float(a / scale), float(b - a * centre / scale)


def _fit_predict(method: str, score: Floats, right: Bools, new: Floats) -> Floats:
    if method == "platt":
        a, b = platt(score, right)
        return np.asarray(expit(-(a * new + b)))
    if method != "isotonic":
        raise ValueError(f"calibration {method!r}; known: {', '.join(METHODS)}")
    from sklearn.isotonic import IsotonicRegression  # a second to import

    fit = IsotonicRegression(y_min=0.0, y_max=1.0, increasing=False, out_of_bounds="clip").fit(score, right.astype(float))
    return np.asarray(fit.predict(new))


def _finite(score: Floats) -> Floats:
    """Plus infinity becomes the largest finite score plus one (it ranks last), minus infinity the smallest minus one."""
    known = score[np.isfinite(score)]
    top, bottom = (known.max(), known.min()) if len(known) else (0.0, 0.0)
    return np.where(score == np.inf, top + 1, np.where(score == -np.inf, bottom - 1, score))
