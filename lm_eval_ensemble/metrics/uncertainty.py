"""How well an uncertainty score tells wrong answers from right ones.

The orientation is fixed: a score is an uncertainty (higher = less certain), the positive class is *wrong*. An AUROC
of 1 means that every wrong answer had a higher score than every right one; 0.5 is chance. Scores that are not a
number are left out and counted; plus infinity ranks last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lm_eval_ensemble.metrics.delong import auroc_interval

__all__ = ["FEW", "Estimate", "Pairs", "auroc", "usable"]

# Below this many right or wrong answers an interval is wide, and rests on a model of the scores.
FEW = 40


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval, or the reason why there is none.

    ``n`` documents were used, ``excluded`` had no score. ``method`` names how the interval was made, ``reason`` why
    ``value`` or its interval is None.
    """

    value: float | None
    low: float | None
    high: float | None
    method: str
    reason: str | None
    n: int
    excluded: int

    def as_json(self) -> dict[str, Any]:
        """A dict without NaN, floats to 6 decimals."""
        numbers = {name: getattr(self, name) for name in ("value", "low", "high")}
        rounded = {name: None if value is None else round(value, 6) for name, value in numbers.items()}
        return {**rounded, "method": self.method, "reason": self.reason, "n": self.n, "excluded": self.excluded}


@dataclass(frozen=True, slots=True)
class Pairs:
    """Scores (n,) float64 without NaN, and whether each answer was wrong, (n,) bool; ``reason`` why no AUROC exists."""

    score: NDArray[np.float64]
    wrong: NDArray[np.bool_]
    excluded: int

    @property
    def reason(self) -> str | None:
        """Why no wrong answer can be told from a right one here; None if it can."""
        if not len(self.wrong):
            return "no document has this score"
        if self.wrong.all():
            return "all answers are wrong"
        return None if self.wrong.any() else "all answers are right"


def usable(uncertainty: Sequence[float | None] | ArrayLike, wrong: ArrayLike) -> Pairs:
    """The documents that have a score; None and NaN are excluded and counted.

    :raises ValueError: if the two differ in length.
    """
    if isinstance(uncertainty, np.ndarray) and uncertainty.dtype == np.float64:
        score = np.atleast_1d(uncertainty)
    else:
        known = (np.nan if value is None else value for value in np.atleast_1d(np.asarray(uncertainty, dtype=object)))
        score = np.array(list(known)).astype(np.float64)
    label = np.asarray(wrong).astype(bool)
    if score.shape != label.shape:
        raise ValueError(f"{score.size} scores for {label.size} answers")
    there = ~np.isnan(score)
    return Pairs(score[there], label[there], int((~there).sum()))


def auroc(uncertainty: Sequence[float | None] | ArrayLike, wrong: ArrayLike, level: float = 0.95) -> Estimate:
    """Area under the ROC curve with its interval; higher is better, 0.5 is chance.

    Ties count one half (midranks). One class only gives no value but the reason. See
    :func:`~lm_eval_ensemble.metrics.delong.auroc_interval` for the interval.

    :param uncertainty: (n,) scores, higher = less certain; None and NaN are excluded and counted.
    :param wrong: (n,) truthy where the answer is wrong.
    """
    pairs = usable(uncertainty, wrong)
    n = len(pairs.wrong)
    if pairs.reason:
        return Estimate(None, None, None, "delong", pairs.reason, n, pairs.excluded)
    area, low, high, method, reason = auroc_interval(pairs.score, pairs.wrong, level)
    return Estimate(area, low, high, method, reason, n, pairs.excluded)
