"""Percentile intervals by resampling documents."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["percentile", "resamples"]


def resamples(wrong: NDArray[np.bool_], draws: int, seed: int = 0) -> tuple[NDArray[np.int32], int]:
    """How often each document is in each resample, (draws, n), and how many of these had to be stratified.

    Documents are drawn with replacement. A resample that holds one class only, where both exist, is drawn again within
    each class: discrimination is not defined on it, and leaving it out would flatter the interval.
    """
    generator = np.random.default_rng(seed)
    n, positive = len(wrong), int(wrong.sum())
    counts = generator.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.int32) if n else np.zeros((draws, 0), np.int32)
    if positive in (0, n):
        return counts, 0
    held = counts[:, wrong].sum(1)
    for row in np.flatnonzero((held == 0) | (held == n)):
        for group in (wrong, ~wrong):
            size = int(group.sum())
            counts[row, group] = generator.multinomial(size, np.full(size, 1 / size))
    return counts, int(((held == 0) | (held == n)).sum())


def percentile(values: NDArray[np.float64], level: float = 0.95) -> tuple[float, float] | None:
    """The middle ``level`` of the resampled values (percentile, not BCa: that one divides by zero on degenerate data).

    Values that are not a number are left out; None if fewer than half are left.
    """
    known = values[np.isfinite(values)]
    if not len(values) or 2 * len(known) < len(values):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
