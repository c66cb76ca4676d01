"""From a score to a probability of being right, without judging a fit on the answers it was fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import norm

from lm_eval_ensemble.metrics.uncertainty import Estimate, usable

__all__ = ["METHODS", "Calibration", "brier", "calibrate", "equal_mass_ece", "folds_of", "platt"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
METHODS = ("isotonic", "platt")


@dataclass(frozen=True, slots=True)
class Calibration:
    """``ece`` and ``brier`` (lower is better) of cross-fitted probabilities; ``base`` is the Brier score of always saying
    the accuracy. ``bins``: one row per equal-mass bin, (mean probability, accuracy, documents)."""

    method: str
    ece: Estimate
    brier: Estimate
    base: float | None
    bins: tuple[tuple[float, float, int], ...]


def calibrate(uncertainty: object, wrong: object, method: str = "isotonic", folds: int = 5, seed: int = 0) -> Calibration:
    """Probabilities of being right for every document from a fit on the other folds, and how good they are.

    Raw scores such as G-NLL are no probabilities; an ECE of them means nothing. Folds are stratified and fixed by
    ``seed``; with fewer than ``folds`` documents of a class there are that many folds, with fewer than 2 no value.

    :param method: ``isotonic`` (monotone, free form) or ``platt`` (a logistic curve; Platt 1999).
    """
    pairs = usable(uncertainty, wrong)  # type: ignore[arg-type]
    score, right, n = _finite(pairs.score), ~pairs.wrong, len(pairs.wrong)
    reason = pairs.reason
    smallest = int(min(right.sum(), (~right).sum())) if n else 0
    if reason is None and smallest < 2:
        reason = "one wrong or one right answer only: no cross-fitting"
    if reason is not None:
        none = Estimate(None, None, None, method, reason, n, pairs.excluded)
        return Calibration(method, none, none, None, ())
    assigned = folds_of(right, min(folds, smallest), seed)
    probability = np.empty(n)
    for fold in range(assigned.max() + 1):
        held = assigned == fold
        probability[held] = _fit_predict(method, score[~held], right[~held], score[held])
    ece, bins = equal_mass_ece(probability, right)
    squares = (probability - right) ** 2
    half = float(norm.ppf(0.975) * squares.std(ddof=1) / n**0.5)
    value = brier(probability, right)
    unbounded = "no interval: ECE is biased upwards in small samples"
    return Calibration(
        method,
        Estimate(ece, None, None, f"{method}, cross-fitted", unbounded, n, pairs.excluded),
        Estimate(value, max(0.0, value - half), value + half, f"{method}, cross-fitted", None, n, pairs.excluded),
        float(right.mean() * (1 - right.mean())),
        tuple(bins),
    )


def folds_of(right: Bools, folds: int, seed: int = 0) -> NDArray[np.int64]:
    """A fold number (n,) for each document, each class spread evenly."""
    generator = np.random.default_rng(seed)
    assigned = np.empty(len(right), np.int64)
    for group in (right, ~right):
        members = generator.permutation(np.flatnonzero(group))
        assigned[members] = np.arange(len(members)) % folds
    return assigned


def equal_mass_ece(probability: Floats, right: Bools, bins: int = 10) -> tuple[float, list[tuple[float, float, int]]]:
    """Expected calibration error over bins of (nearly) equal size, and the bins. Lower is better; 0 is perfect.

    Equal probabilities stay in one bin, that of the middle one of them: bins must not depend on the order of the documents.
    """
    n = len(probability)
    order = np.argsort(probability, kind="stable")
    of_place = np.repeat(np.arange(bins), [len(part) for part in np.array_split(order, bins)])
    _, group, size = np.unique(probability, return_inverse=True, return_counts=True)
    bin_of_group = of_place[np.cumsum(size) - size + (size - 1) // 2]
    parts = [part for b in range(bins) if len(part := np.flatnonzero(bin_of_group[group] == b))] if n else []
    rows = [(float(probability[part].mean()), float(right[part].mean()), len(part)) for part in parts]
    return sum(size * abs(mean - share) for mean, share, size in rows) / len(right), rows


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
