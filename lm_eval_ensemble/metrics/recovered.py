"""How much of the gap between one system and the best possible choice another one recovers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from lm_eval_ensemble.metrics.clustered import Clusters, clustered_share

__all__ = ["recovered_interval"]


def recovered_interval(gain: ArrayLike, gap: ArrayLike, clusters: Clusters, level: float = 0.95) -> tuple[float, float] | None:
    """Bounds of sum(gain) / sum(gap); None without a gap, or with one cluster.

    The share is won / gap - lost / gap, the first a share of the gap, the second the odds of lost / (lost + gap). Both have the
    interval of a clustered share, and that of their difference is made from these two by the method of variance estimates
    recovery (Zou and Donner 2008), as if won and lost were independent: they come from different documents.

    :param gain: (n,) what was gained on each document, at most its ``gap``, negative where it was lost; ``gap`` (n,) >= 0.
    """
    gains, gaps = np.asarray(gain, dtype=np.float64), np.asarray(gap, dtype=np.float64)
    won, lost = np.clip(gains, 0.0, gaps), np.clip(-gains, 0.0, None)
    first = clustered_share(won, clusters, gaps, level)
    second = clustered_share(lost, clusters, lost + gaps, level)
    if first is None or second is None or first.low is None or first.high is None or second.low is None or second.high is None:
        return None
    minus, low, high = _odds(second.mean), _odds(second.low), _odds(second.high)
    value = first.mean - minus
    return value - math.hypot(first.mean - first.low, high - minus), value + math.hypot(first.high - first.mean, minus - low)


def _odds(share: float) -> float:
    return share / (1 - share) if share < 1 else math.inf
