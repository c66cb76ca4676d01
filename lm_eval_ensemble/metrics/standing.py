"""How a system stands: the mean of a metric with its interval, by the same rules wherever it is printed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from lm_eval_ensemble.metrics.clustered import Clustered, Clusters, clustered_mean, clustered_share, wilson

__all__ = ["Standing", "standing"]


@dataclass(frozen=True)
class Standing:
    """``clustered`` is the mean with the interval to quote: of values between 0 and 1 Wilson's on the effective sample size
    (:func:`~lm_eval_ensemble.metrics.clustered.clustered_share`), else Student's, without one where nothing varies. ``wilson``
    takes documents for independent and is for the record; None unless all values are 0 or 1."""

    clustered: Clustered
    wilson: tuple[float, float] | None


def standing(values: ArrayLike, clusters: Clusters) -> Standing:
    """:param values: one number per document (n,), none of them NaN; ``clusters`` likewise (``doc.problem``)."""
    x = np.asarray(values, dtype=np.float64)
    share = clustered_share(x, clusters) if x.min() >= 0 and x.max() <= 1 else None
    mean = share or clustered_mean(x, clusters)
    if share is None and not mean.se:
        mean = replace(mean, low=None, high=None)
    binary = bool(np.isin(x, (0.0, 1.0)).all())
    return Standing(mean, wilson(int(x.sum()), len(x)) if binary else None)
