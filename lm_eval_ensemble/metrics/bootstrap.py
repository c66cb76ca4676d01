"""Percentile intervals by resampling documents."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["percentile", "resamples"]


def resamples(
    wrong: NDArray[np.bool_], draws: int, seed: int = 0, codes: NDArray[np.intp] | None = None
) -> tuple[NDArray[np.int32], int]:
    """How often each document is in each resample, (draws, n), and how many of these had to be stratified or drawn again.

    Documents are drawn with replacement, or whole clusters where ``codes`` (n,) number them. A resample that holds one class
    only, where both exist, is drawn again within each class (clusters: as a whole): discrimination is not defined on it, and
    leaving it out would flatter the interval.
    """
    generator = np.random.default_rng(seed)
    n, positive = len(wrong), int(wrong.sum())
    if codes is not None:
        return _of_clusters(wrong, draws, codes, generator)
    counts = generator.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.int32) if n else np.zeros((draws, 0), np.int32)
    if positive in (0, n):
        return counts, 0
    held = counts[:, wrong].sum(1)
    for row in np.flatnonzero((held == 0) | (held == n)):
        for group in (wrong, ~wrong):
            size = int(group.sum())
            counts[row, group] = generator.multinomial(size, np.full(size, 1 / size))
    return counts, int(((held == 0) | (held == n)).sum())


def _of_clusters(
    wrong: NDArray[np.bool_], draws: int, codes: NDArray[np.intp], generator: np.random.Generator
) -> tuple[NDArray[np.int32], int]:
    count = int(codes.max()) + 1
    ours, theirs = (np.bincount(codes[of], minlength=count) for of in (wrong, ~wrong))
    both = bool(ours.any() and theirs.any())
    drawn = np.zeros((draws, count), np.int32)
    missing, again = np.arange(draws), 0
    # Of two clusters that hold the two classes a draw has both with a chance of about 0.4, however many others there are.
    while len(missing):
        drawn[missing] = generator.multinomial(count, np.full(count, 1 / count), size=len(missing))
        if not both:
            break
        missing = missing[(drawn[missing] @ ours == 0) | (drawn[missing] @ theirs == 0)]
        again = again or len(missing)
    return drawn[:, codes], again


def percentile(values: NDArray[np.float64], level: float = 0.95) -> tuple[float, float] | None:
    """The middle ``level`` of the resampled values (percentile, not BCa: that one divides by zero on degenerate data).

    Values that are not a number are left out; None if fewer than half are left.
    """
    known = values[np.isfinite(values)]
    if not len(values) or 2 * len(known) < len(values):
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
