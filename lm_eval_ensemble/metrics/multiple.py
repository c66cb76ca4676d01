"""Many tests at once."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["holm"]


def holm(pvalues: Sequence[float]) -> list[float]:
    """P-values adjusted by Holm's step-down rule (1979), in the order given; compare each with the level itself.

    The chance of one or more false findings among all stays below the level, whatever the dependence.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(pvalues)), key=lambda i: pvalues[i])
    adjusted = [0.0] * len(pvalues)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(pvalues) - rank) * pvalues[i]))
        adjusted[i] = highest
    return adjusted
