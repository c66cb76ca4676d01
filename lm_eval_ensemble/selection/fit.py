"""Fits the numbers of the fitted selectors on judged cases, grouped by program: they never saw the program they are used on.

Folds are a hash of the program's name, so they are the same for every subset of HumanEval-Infilling, for SantaCoder-FIM (which
is cut from the same programs) and for every run.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_ensemble.selection.base import TOLERANCE, Case, score_of
from lm_eval_ensemble.selection.features import feature
from lm_eval_ensemble.selection.fitted import Logistic, Moments, Numbers, Weight
from lm_eval_ensemble.selection.rules import preferred

__all__ = ["FEWEST", "FOLDS", "Fitting", "Judged", "fold_of"]

FOLDS = 10
#: decisive cases (some but not all candidates right) below which margin and learned are not fitted.
FEWEST = 20
#: thresholds that are tried for ``margin``, nats.
_THRESHOLDS = [round(0.05 * i, 2) for i in range(41)]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judged:
    """A case, which of its candidates are right, and the program it was cut from."""

    case: Case
    right: tuple[bool, ...]
    problem: str

    @property
    def decisive(self) -> bool:
        """Some candidates are right and some are wrong: only then selection matters."""
        return any(self.right) and not all(self.right)


def fold_of(problem: str) -> int:
    """The fold of a program, 0 to 9."""
    return int.from_bytes(hashlib.sha256(problem.encode("utf-8", "surrogatepass")).digest()[:8], "little") % FOLDS


class Fitting:
    """Numbers fitted on ``rows``, or on all but one fold of them.

    :param rule: the score that is compared; ``scores``: those that ``weighted`` averages; ``features``: those of ``learned``,
        none to leave it out.
    """

    def __init__(self, rows: Sequence[Judged], rule: str, scores: Sequence[str], features: Sequence[str]) -> None:
        self.rows, self.rule, self.scores, self.features = rows, rule, scores, features
        self.folds = np.array([fold_of(row.problem) for row in rows])

    def numbers(self, without: int | None = None) -> Numbers:
        """:param without: the fold that is left out; None fits on everything."""
        kept = [i for i in range(len(self.rows)) if self.folds[i] != without]
        prefer = {row.case.prefer for row in self.rows}
        decisive = [i for i in kept if self.rows[i].decisive]
        enough = len(decisive) >= FEWEST
        return Numbers(
            rule=self.rule,
            prefer=next(iter(prefer)) if len(prefer) == 1 else None,
            margin=self._margin(decisive) if enough and prefer != {None} else None,
            members=self._moments(kept),
            scores={name: _moments([v for i in kept for v in self._scores[name][i]]) for name in self.scores},
            calibrated=self._calibrated(kept),
            learned=self._learned(decisive) if enough and self.features else None,
        )

    @cached_property
    def _scores(self) -> dict[str, list[list[float]]]:
        """Score -> row -> the defined values of its candidates."""
        return {
            name: [
                [v for scored in row.case.candidates if (v := score_of(scored, name)) is not None and math.isfinite(v)]
                for row in self.rows
            ]
            for name in self.scores
        }

    @cached_property
    def _candidates(self) -> list[list[tuple[str, float, float, bool]]]:
        """Row -> member, score, log length and outcome of each candidate that has a score."""
        found = []
        for row in self.rows:
            own = []
            for i, scored in enumerate(row.case.candidates):
                value = score_of(scored, self.rule)
                if value is not None and math.isfinite(value):
                    size = feature(row.case, i, "log_bytes") or 0.0
                    own.append((scored.candidate.member, value, size, row.right[i]))
            found.append(own)
        return found

    @cached_property
    def _by_threshold(self) -> dict[int, list[bool]]:
        """Decisive row -> whether each threshold of ``margin`` chooses right."""
        chosen = {}
        for i, row in enumerate(self.rows):
            if row.decisive:
                best, _, held, lead = preferred(row.case.by(self.rule))
                kept = [held is not None and lead <= threshold + TOLERANCE for threshold in _THRESHOLDS]
                chosen[i] = [row.right[held] if keeps and held is not None else row.right[best] for keeps in kept]
        return chosen

    @cached_property
    def _features(self) -> dict[int, Floats]:
        """Decisive row -> features (candidates, features), NaN where undefined."""
        return {
            i: np.array(
                [[feature(row.case, c, n) for n in self.features] for c in range(len(row.case.candidates))], dtype=np.float64
            )
            for i, row in enumerate(self.rows)
            if row.decisive
        }

    def _moments(self, kept: Collection[int]) -> dict[str, Moments]:
        values: defaultdict[str, list[float]] = defaultdict(list)
        for i in kept:
            for member, value, _, _ in self._candidates[i]:
                values[member].append(value)
        return {member: _moments(found) for member, found in sorted(values.items())}

    def _margin(self, decisive: Sequence[int]) -> float:
        """The threshold that chooses right most often; of equals the smallest."""
        right = np.array([self._by_threshold[i] for i in decisive]).sum(0)
        return _THRESHOLDS[int(right.argmax())]

    def _calibrated(self, kept: Collection[int]) -> dict[str, Logistic]:
        """Per member: log-odds of being right by score and log length (Platt 1999)."""
        rows: defaultdict[str, list[tuple[float, float, bool]]] = defaultdict(list)
        for i in kept:
            for member, value, size, right in self._candidates[i]:
                rows[member].append((value, size, right))
        return {member: _platt(np.array(found, dtype=np.float64)) for member, found in sorted(rows.items())}

    def _learned(self, decisive: Sequence[int]) -> dict[str, Weight]:
        """L2 logistic regression without intercept on differences right minus wrong; every case has the same weight."""
        every = np.concatenate([self._features[i] for i in decisive])
        mean, sd = np.zeros(len(self.features)), np.ones(len(self.features))
        for j in range(len(self.features)):
            defined = every[:, j][~np.isnan(every[:, j])]
            if len(defined) and defined.std() > 1e-9:
                mean[j], sd[j] = defined.mean(), defined.std()
        gaps, weights = [], []
        for i in decisive:
            x = np.nan_to_num((self._features[i] - mean) / sd, nan=0.0)
            right = np.array(self.rows[i].right)
            pairs = (x[right][:, None] - x[~right][None]).reshape(-1, x.shape[1])
            gaps.append(pairs)
            weights.append(np.full(len(pairs), 1 / len(pairs)))
        x, w = np.concatenate(gaps), np.concatenate(weights)
        # Each pair once in either direction: two classes, and no direction of its own.
        model = _logistic(np.concatenate([x, -x]), np.repeat([1, 0], len(x)), np.tile(w / 2, 2), intercept=False)
        return {
            name: Weight(mean=float(mean[j]), sd=float(sd[j]), weight=float(model.coef_[0, j]))
            for j, name in enumerate(self.features)
        }


def _moments(values: Sequence[float]) -> Moments:
    if not values:
        return Moments(mean=0.0, sd=1.0)
    return Moments(mean=float(np.mean(values)), sd=max(float(np.std(values)), 1e-6))


def _platt(rows: Floats) -> Logistic:
    """``rows`` (n, 3): score, log length, outcome. With one outcome only, a constant: its smoothed log-odds."""
    x, y = rows[:, :2], rows[:, 2]
    if len(set(y.tolist())) < 2:
        return Logistic(intercept=math.log((y.sum() + 0.5) / (len(y) - y.sum() + 0.5)), score=0.0, log_bytes=0.0)
    mean, sd = x.mean(0), np.maximum(x.std(0), 1e-9)
    model = _logistic((x - mean) / sd, y, np.ones(len(y)), intercept=True)
    slope = model.coef_[0] / sd
    return Logistic(intercept=float(model.intercept_[0] - slope @ mean), score=float(slope[0]), log_bytes=float(slope[1]))


def _logistic(x: Floats, y: Any, weight: Floats, intercept: bool) -> Any:
    from sklearn.linear_model import LogisticRegression

    # C = 1 on standardised columns: a prior of one nat per standard deviation, fixed in advance and not tuned.
    return LogisticRegression(C=1.0, fit_intercept=intercept, max_iter=1000).fit(x, y, sample_weight=weight)
