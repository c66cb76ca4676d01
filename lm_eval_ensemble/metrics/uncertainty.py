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

from lm_eval_ensemble.metrics.clustered import Clusters, cluster_codes, clustered_share
from lm_eval_ensemble.metrics.delong import auroc_interval, within

__all__ = ["FEW", "Estimate", "Pairs", "auroc", "auroc_within", "usable"]

# Below this many right or wrong answers an interval is wide, and rests on a model of the scores.
FEW = 40


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval, or the reason why there is none.

    ``n`` documents were used, ``excluded`` had no score. ``method`` names how the interval was made, ``reason`` why
    ``value`` or its interval is None. ``clusters`` is their number where documents are not taken for independent, ``df`` the
    degrees of freedom of the quantile.
    """

    value: float | None
    low: float | None
    high: float | None
    method: str
    reason: str | None
    n: int
    excluded: int
    clusters: int | None = None
    df: float | None = None

    def as_json(self) -> dict[str, Any]:
        """A dict without NaN, floats to 6 decimals."""
        numbers = {name: getattr(self, name) for name in ("value", "low", "high", "df")}
        rounded = {name: None if value is None else round(value, 6) for name, value in numbers.items()}
        told = {name: getattr(self, name) for name in ("method", "reason", "n", "excluded", "clusters")}
        return {**{name: rounded[name] for name in ("value", "low", "high")}, **told, "df": rounded["df"]}


@dataclass(frozen=True, slots=True)
class Pairs:
    """Scores (n,) float64 without NaN, and whether each answer was wrong, (n,) bool; ``reason`` why no AUROC exists. ``codes``
    (n,) number the clusters; None where every document is one of its own."""

    score: NDArray[np.float64]
    wrong: NDArray[np.bool_]
    excluded: int
    codes: NDArray[np.intp] | None = None

    @property
    def clusters(self) -> int | None:
        return None if self.codes is None else len(np.unique(self.codes))

    @property
    def reason(self) -> str | None:
        """Why no wrong answer can be told from a right one here; None if it can."""
        if not len(self.wrong):
            return "no document has this score"
        if self.wrong.all():
            return "all answers are wrong"
        return None if self.wrong.any() else "all answers are right"


def usable(uncertainty: Sequence[float | None] | ArrayLike, wrong: ArrayLike, clusters: Clusters | None = None) -> Pairs:
    """The documents that have a score; None and NaN are excluded and counted.

    :param clusters: (n,) names of what is drawn as one; None: every document by itself.
    :raises ValueError: if they differ in length.
    """
    score = _floats(uncertainty)
    label = np.asarray(wrong).astype(bool)
    if score.shape != label.shape:
        raise ValueError(f"{score.size} scores for {label.size} answers")
    if clusters is not None and len(clusters) != score.size:
        raise ValueError(f"{score.size} scores for {len(clusters)} clusters")
    there = ~np.isnan(score)
    codes = None if clusters is None else cluster_codes(cluster_codes(clusters)[there])
    # Clusters of one document each are no clusters.
    if codes is not None and (not len(codes) or codes.max() + 1 == len(codes)):
        codes = None
    return Pairs(score[there], label[there], int((~there).sum()), codes)


def auroc(
    uncertainty: Sequence[float | None] | ArrayLike,
    wrong: ArrayLike,
    clusters: Clusters | None = None,
    level: float = 0.95,
) -> Estimate:
    """Area under the ROC curve with its interval; higher is better, 0.5 is chance.

    Ties count one half (midranks). One class only gives no value but the reason. See
    :func:`~lm_eval_ensemble.metrics.delong.auroc_interval` for the interval.

    :param uncertainty: (n,) scores, higher = less certain; None and NaN are excluded and counted.
    :param wrong: (n,) truthy where the answer is wrong.
    :param clusters: (n,) names of the texts, programs or problems that documents share; None: all are independent.
    """
    pairs = usable(uncertainty, wrong, clusters)
    n = len(pairs.wrong)
    if pairs.reason:
        return Estimate(None, None, None, "delong", pairs.reason, n, pairs.excluded)
    found = auroc_interval(pairs.score, pairs.wrong, pairs.codes, level)
    more = (n, pairs.excluded, pairs.clusters, found.df)
    return Estimate(found.value, found.low, found.high, found.method, found.reason, *more)


def auroc_within(
    uncertainty: Sequence[float | None] | ArrayLike,
    wrong: ArrayLike,
    documents: Clusters,
    clusters: Clusters | None = None,
    level: float = 0.95,
) -> Estimate:
    """The share of pairs of a wrong and a right answer to the *same* document in which the wrong one has the higher score.

    The pooled area also counts pairs of different documents, so a score that only knows which documents are hard does well
    there; for choosing among the answers to one document this is what counts. Every pair weighs the same; equal scores count
    one half.

    :param documents: (n,) the document of each answer; ``clusters`` (n,) what documents share, by default nothing.
    """
    pairs = usable(uncertainty, wrong)
    n, names = len(pairs.wrong), cluster_codes(documents)
    shared = names if clusters is None else cluster_codes(clusters)
    none = Estimate(None, None, None, "within documents", "no document has right and wrong answers", n, pairs.excluded)
    if not n:
        return none
    count = int(names.max()) + 1
    won, every = within(pairs.score, pairs.wrong, names[~np.isnan(_floats(uncertainty))], count)
    of_document = np.zeros(count, np.intp)
    of_document[names] = shared
    found = clustered_share(won, of_document, every, level)
    if found is None:
        return none
    reason = "one cluster only: no interval" if found.low is None else None
    return Estimate(found.mean, found.low, found.high, "within documents", reason, n, pairs.excluded, found.clusters, found.df)


def _floats(values: Sequence[float | None] | ArrayLike) -> NDArray[np.float64]:
    """(n,), not-a-number for None."""
    if isinstance(values, np.ndarray) and values.dtype == np.float64:
        return np.atleast_1d(values)
    known = (np.nan if value is None else value for value in np.atleast_1d(np.asarray(values, dtype=object)))
    return np.array(list(known)).astype(np.float64)
