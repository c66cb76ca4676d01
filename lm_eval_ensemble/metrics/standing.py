"""How a system stands: the mean of a metric with its interval, by the same rules wherever it is printed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from lm_eval_ensemble.metrics.clustered import Clustered, Clusters, clustered_mean, clustered_share, wilson

__all__ = ["Repeated", "Standing", "repeated", "standing"]


@dataclass(frozen=True)
class Standing:
    """``clustered`` is the mean with the interval to quote: of values between 0 and 1 Wilson's on the effective sample size
    (:func:`~lm_eval_ensemble.metrics.clustered.clustered_share`), else Student's, without one where nothing varies. ``wilson``
    takes documents for independent and is for the record; None unless all values are 0 or 1."""

    clustered: Clustered
    wilson: tuple[float, float] | None


@dataclass(frozen=True)
class Repeated:
    """The standard error ``se`` of a mean over documents that were answered several times, apart: se^2 = within^2 + between^2.
    ``within`` comes of drawing the answers, and more repeats lessen it; ``between`` of drawing the documents."""

    se: float
    within: float
    between: float


def repeated(values: ArrayLike, documents: ArrayLike, clusters: Clusters) -> Repeated | None:
    """:param values: one per answer (m,); ``documents`` (m,) the number of its document, 0 to n - 1; ``clusters``: (n,).

    The mean of a document's R answers has the variance s^2 / R within (Miller 2024, arXiv:2411.00640, section 3.1), s^2 being
    theirs, or where there is one answer only the mean of all others'. What is left of the clustered variance is between
    documents; 0 where it is less, which chance can do.

    :returns: None where no document has two answers, or there is no standard error.
    """
    x, codes = np.asarray(values, dtype=np.float64), np.asarray(documents, dtype=np.intp)
    count = np.bincount(codes).astype(np.float64)
    means = np.bincount(codes, x) / count
    squares = np.bincount(codes, (x - means[codes]) ** 2)
    several = count > 1
    se = standing(means, clusters).clustered.se
    if not several.any() or not se:
        return None
    own = np.full(len(count), (squares[several] / (count[several] - 1)).mean())
    own[several] = squares[several] / (count[several] - 1)
    within = float((own / count).sum()) / len(count) ** 2
    return Repeated(se, within**0.5, max(0.0, se**2 - within) ** 0.5)


def standing(values: ArrayLike, clusters: Clusters) -> Standing:
    """:param values: one number per document (n,), none of them NaN; ``clusters`` likewise (``doc.problem``)."""
    x = np.asarray(values, dtype=np.float64)
    share = clustered_share(x, clusters) if x.min() >= 0 and x.max() <= 1 else None
    mean = share or clustered_mean(x, clusters)
    if share is None and not mean.se:
        mean = replace(mean, low=None, high=None)
    binary = bool(np.isin(x, (0.0, 1.0)).all())
    return Standing(mean, wilson(int(x.sum()), len(x)) if binary else None)
