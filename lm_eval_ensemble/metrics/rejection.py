"""What is gained by answering only where the model is certain: risk-coverage curves and the like.

Documents stand in order of uncertainty; *coverage* k/n answers the k most certain ones, *risk* is the share of wrong
answers among them. Documents of equal score are taken in random order and the expectation over that order is used, so
a constant score is worth what chance is worth.

Everything is computed from counts per group of equal scores, so one call does a whole set of bootstrap resamples:
``total[b, g]`` documents and ``wrong[b, g]`` wrong answers of resample b in group g, groups in ascending uncertainty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CURVES",
    "accuracy_at",
    "areas",
    "auprc",
    "aurac_quantiles",
    "aurc",
    "grouped",
    "higher_is_better",
    "oracle_aurc",
    "prr",
    "risks",
    "roc",
]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def grouped(score: Floats, wrong: Bools, counts: NDArray[np.integer] | None = None) -> tuple[Floats, Floats]:
    """(total, wrong), each (b, groups), from scores and labels (n,).

    :param counts: (b, n), how often each resample holds each document; None for the documents as they are, b = 1.
    """
    order = np.argsort(score, kind="stable")
    weight = np.ones((1, len(score))) if counts is None else counts[:, order].astype(np.float64)
    if counts is None:
        weight = weight[:, order]
    starts = np.flatnonzero(np.r_[True, np.diff(np.unique(score, return_inverse=True)[1][order]) != 0])
    return np.add.reduceat(weight, starts, axis=1), np.add.reduceat(weight * wrong[order], starts, axis=1)


def areas(total: Floats, wrong: Floats) -> Floats:
    """AUROC (b,), ties one half; NaN where a resample has one class. Higher is better."""
    right = total - wrong
    below = np.cumsum(right, axis=1) - right
    with np.errstate(invalid="ignore", divide="ignore"):
        value: Floats = (wrong * (below + right / 2)).sum(1) / (wrong.sum(1) * right.sum(1))
    return value


def roc(total: Floats, wrong: Floats, rates: Floats) -> Floats:
    """Share of the wrong answers (b, r) whose score is above a threshold that flags the share ``rates`` (r,) of the right ones.

    Higher is better. The curve joins its points by straight lines, as ties ask (the area under it is :func:`areas`); of a
    vertical piece the upper end counts. NaN where a resample has one class.
    """
    right = total - wrong
    flagged, found = (
        np.concatenate([np.zeros((len(part), 1)), np.cumsum(part[:, ::-1], axis=1)], axis=1) for part in (right, wrong)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y = flagged / flagged[:, -1:], found / found[:, -1:]
    # Equal x in a row: np.interp takes the last of them, which is the upper end.
    value: Floats = np.stack([np.interp(rates, a, b) for a, b in zip(x, y, strict=True)])
    return np.where((wrong.sum(1) > 0)[:, None] & (right.sum(1) > 0)[:, None], value, np.nan)


def auprc(total: Floats, wrong: Floats) -> Floats:
    """Average precision (b,) of finding wrong answers: the step-wise sum, as in scikit-learn. Higher is better; chance is
    the share of wrong answers. NaN with one class."""
    found = np.cumsum(wrong[:, ::-1], axis=1)
    flagged = np.cumsum(total[:, ::-1], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(flagged > 0, found / flagged, 0.0)
        value = (wrong[:, ::-1] * precision).sum(1) / wrong.sum(1)
    return np.where(wrong.sum(1) < total.sum(1), value, np.nan)


def aurc(total: Floats, wrong: Floats, rejected: float = 1.0) -> Floats:
    """Mean risk (b,) over the coverages k/n, k = 1..n (Geifman et al. 2019, arXiv:1805.08206). Lower is better.

    :param rejected: only the coverages left when at most this share is rejected, the int(rejected * n) largest k.
    """
    n = total.sum(1, keepdims=True)
    harmonic = np.r_[0.0, np.cumsum(1.0 / np.arange(1, int(n.max()) + 1))]
    end = np.cumsum(total, axis=1)
    start = end - total
    errors = np.cumsum(wrong, axis=1) - wrong
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.where(total > 0, wrong / total, 0.0)
    # Within a group the expected risk at k is (errors + (k - start) rate) / k: summed over k it needs 1 + 1/2 + ... only.
    first = np.clip(n - np.floor(rejected * n), start, end)
    inside = (end - first) * rate + (errors - rate * start) * (harmonic[end.astype(int)] - harmonic[first.astype(int)])
    value: Floats = inside.sum(1) / np.floor(rejected * n)[:, 0]
    return value


def oracle_aurc(total: Floats, wrong: Floats, rejected: float = 1.0) -> Floats:
    """The lowest :func:`aurc` (b,) that any order of the same answers can have: all right ones first."""
    errors = wrong.sum(1)
    right = total.sum(1) - errors
    return aurc(np.stack([right, errors], axis=1), np.stack([np.zeros_like(errors), errors], axis=1), rejected)


def prr(total: Floats, wrong: Floats, rejected: float = 1.0) -> Floats:
    """Prediction-rejection ratio (b,): 1 for the perfect order, 0 for a random one, below 0 for worse. Higher is better.

    (AURC of chance - AURC) / (AURC of chance - AURC of the oracle), as in lm-polygraph (Vashurin et al. 2025), for
    binary correctness; NaN with one class.
    """
    chance = wrong.sum(1) / total.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        value: Floats = (chance - aurc(total, wrong, rejected)) / (chance - oracle_aurc(total, wrong, rejected))
    return value


def risks(total: Floats, wrong: Floats, coverages: Sequence[float]) -> Floats:
    """Share of wrong ones (b, r) among the ceil(coverage * n) most certain answers, at r coverages. Lower is better."""
    n = total.sum(1)
    start = np.cumsum(total, axis=1) - total
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.where(total > 0, wrong / total, 0.0)
    found = np.empty((len(total), len(coverages)))
    for i, coverage in enumerate(coverages):
        kept = np.ceil(np.round(coverage * n, 9))
        found[:, i] = (rate * np.clip(kept[:, None] - start, 0, total)).sum(1) / kept
    return found


def accuracy_at(total: Floats, wrong: Floats, coverage: float) -> Floats:
    """Accuracy (b,) of the ceil(coverage * n) most certain answers. Higher is better."""
    value: Floats = 1.0 - risks(total, wrong, (coverage,))[:, 0]
    return value


def aurac_quantiles(total: Floats, wrong: Floats) -> Floats:
    """Area under the rejection-accuracy curve (b,) as published with semantic entropy (Farquhar et al. 2024). Higher is better.

    Twenty quantiles of the score from 0.1 to 1, accuracy of the answers up to each (equal scores pass together), times
    the distance of two quantiles. A perfect model gets 20 * 0.9 / 19 = 0.947, not 1; kept for comparison only.
    """
    n = total.sum(1, keepdims=True)
    start = np.cumsum(total, axis=1) - total
    quantiles = np.linspace(0.1, 1.0, 20)
    value = np.zeros(len(total))
    for quantile in quantiles:
        kept = start < np.floor(np.round(quantile * (n - 1), 9)) + 1
        value += 1.0 - (wrong * kept).sum(1) / (total * kept).sum(1)
    step: float = quantiles[1] - quantiles[0]
    return np.asarray(value * step, np.float64)


# Name -> function of (total, wrong). The order is the order of columns.
CURVES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "auroc": areas,
    "auprc": auprc,
    "prr": prr,
    "prr_50": lambda total, wrong: prr(total, wrong, 0.5),
    "aurc": aurc,
    "eaurc": lambda total, wrong: aurc(total, wrong) - oracle_aurc(total, wrong),
    "aurac": lambda total, wrong: 1.0 - aurc(total, wrong),
    "aurac_quantiles": aurac_quantiles,
    "acc@80": lambda total, wrong: accuracy_at(total, wrong, 0.80),
    "acc@90": lambda total, wrong: accuracy_at(total, wrong, 0.90),
    "acc@95": lambda total, wrong: accuracy_at(total, wrong, 0.95),
}


def higher_is_better(name: str) -> bool:
    """Direction of a metric of this room."""
    return name not in ("aurc", "eaurc", "ece", "brier")
