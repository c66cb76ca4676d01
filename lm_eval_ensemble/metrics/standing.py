"""How a system stands: the mean of a metric with its intervals, by the same rules wherever it is printed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from lm_eval_ensemble.metrics.clustered import Clustered, Clusters, clustered_mean, wilson

__all__ = ["Standing", "standing"]


@dataclass(frozen=True)
class Standing:
    """``clustered`` is the mean with its clustered 95 % interval, kept inside [0, 1] where all values lie there, and without
    one where the problems do not vary at all: it would be a point, and a lie. ``wilson`` takes documents for independent; None
    unless all values are 0 or 1."""

    clustered: Clustered
    wilson: tuple[float, float] | None


def standing(values: ArrayLike, clusters: Clusters) -> Standing:
    """:param values: one number per document (n,), none of them NaN; ``clusters`` likewise (``doc.problem``)."""
    x = np.asarray(values, dtype=np.float64)
    mean = clustered_mean(x, clusters)
    low, high = (mean.low, mean.high) if mean.se else (None, None)
    if low is not None and high is not None and x.min() >= 0 and x.max() <= 1:
        low, high = max(0.0, low), min(1.0, high)
    binary = bool(np.isin(x, (0.0, 1.0)).all())
    return Standing(replace(mean, low=low, high=high), wilson(int(x.sum()), len(x)) if binary else None)
