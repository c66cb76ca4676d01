"""All metrics of one score at once, with intervals and warnings; and which scores rank alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lm_eval_ensemble.metrics.bootstrap import percentile, resamples
from lm_eval_ensemble.metrics.clustered import Clusters
from lm_eval_ensemble.metrics.delong import midranks
from lm_eval_ensemble.metrics.rejection import CURVES, grouped
from lm_eval_ensemble.metrics.uncertainty import FEW, Estimate, Pairs, auroc, usable

__all__ = ["Discrimination", "discriminate", "spearman"]

# Rows x groups of one block of resamples: bounds the memory at a few tens of megabytes.
BLOCK = 1_000_000


@dataclass(frozen=True, slots=True)
class Discrimination:
    """``metrics``: name -> estimate (``auroc`` with DeLong's interval, ``auroc_bootstrap`` with the other, and
    :data:`~lm_eval_ensemble.metrics.rejection.CURVES`); ``mean`` and ``std`` of the finite scores; ``warnings``."""

    metrics: dict[str, Estimate]
    mean: float | None
    std: float | None
    warnings: tuple[str, ...]


def discriminate(
    uncertainty: Sequence[float | None] | ArrayLike,
    wrong: ArrayLike,
    draws: int = 1000,
    seed: int = 0,
    clusters: Clusters | None = None,
    level: float = 0.95,
) -> Discrimination:
    """Every metric of a score, by document, with percentile bootstrap intervals.

    :param draws: resamples; 0 leaves the intervals of all but ``auroc`` out.
    :param clusters: (n,) names of what is resampled as one; None: each document.
    """
    pairs = usable(uncertainty, wrong, clusters)
    area = auroc(uncertainty, wrong, clusters, level)
    metrics = {"auroc": area, **_curves(pairs, draws, seed, level)}
    finite = pairs.score[np.isfinite(pairs.score)]
    return Discrimination(
        metrics,
        float(finite.mean()) if len(finite) else None,
        float(finite.std()) if len(finite) else None,
        tuple(_warnings(pairs, area)),
    )


def spearman(scores: Mapping[str, Sequence[float | None]]) -> dict[str, dict[str, float | None]]:
    """Rank correlations of all pairs of scores, over the documents that have both; None where one does not vary."""
    known = {name: usable(values, np.zeros(len(values))).score for name, values in scores.items() if _complete(values)}
    holed = {name: np.array([np.nan if v is None else v for v in values], float) for name, values in scores.items()}
    ranks = {name: midranks(values) for name, values in known.items()}
    return {a: {b: _correlation(a, b, ranks, holed) for b in scores} for a in scores}


def _complete(values: Sequence[float | None]) -> bool:
    return not any(value is None or np.isnan(value) for value in values)


def _correlation(
    a: str, b: str, ranks: Mapping[str, NDArray[np.float64]], scores: Mapping[str, NDArray[np.float64]]
) -> float | None:
    if a in ranks and b in ranks:
        first, second = ranks[a], ranks[b]
    else:
        both = ~np.isnan(scores[a]) & ~np.isnan(scores[b])
        first, second = midranks(scores[a][both]), midranks(scores[b][both])
    if len(first) < 2 or not np.ptp(first) or not np.ptp(second):
        return None
    return float(np.clip(np.corrcoef(first, second)[0, 1], -1, 1))


def _curves(pairs: Pairs, draws: int, seed: int, level: float) -> dict[str, Estimate]:
    n = len(pairs.wrong)
    names = {name: "auroc_bootstrap" if name == "auroc" else name for name in CURVES}
    if not n:
        reason = pairs.reason
        return {name: Estimate(None, None, None, "bootstrap", reason, n, pairs.excluded) for name in names.values()}
    here = grouped(pairs.score, pairs.wrong)
    drawn: dict[str, list[NDArray[np.float64]]] = {name: [] for name in CURVES}
    # One cluster resampled is itself: no interval comes of it.
    draws = 0 if pairs.clusters == 1 else draws
    counts, stratified = resamples(pairs.wrong, draws, seed, pairs.codes)
    rows = max(1, BLOCK // n)
    for start in range(0, draws, rows):
        block = grouped(pairs.score, pairs.wrong, counts[start : start + rows])
        for name, function in CURVES.items():
            drawn[name].append(function(*block))
    name, again = ("bootstrap", "stratified") if pairs.codes is None else ("bootstrap by cluster", "drawn again")
    method = f"{name} ({stratified} of {draws} {again})" if stratified else name
    found = {}
    for name, function in CURVES.items():
        value = float(function(*here)[0])
        interval = percentile(np.concatenate(drawn[name]), level) if drawn[name] else None
        reason = None if np.isfinite(value) else pairs.reason or "the perfect order gains nothing over chance here"
        low, high = interval if interval and reason is None else (None, None)
        shown = value if reason is None else None
        found[names[name]] = Estimate(shown, low, high, method, reason, n, pairs.excluded, pairs.clusters)
    return found


def _warnings(pairs: Pairs, area: Estimate) -> list[str]:
    found = []
    wrong = int(pairs.wrong.sum())
    right = len(pairs.wrong) - wrong
    if area.high is not None and area.high < 0.5:
        found.append(
            f"the interval of the AUROC ({area.low:.3f} to {area.high:.3f}) lies under 0.5: the score ranks right answers "
            "as the less certain ones; look for a turned sign or labels of other documents"
        )
    # Of one class alone there is nothing to know; the reason says so.
    if 0 < min(wrong, right) < FEW:
        found.append(
            f"{right} right and {wrong} wrong answers: too few to know an AUROC well (fewer than {FEW} of a class); its "
            "interval rests on a model of the scores"
        )
    return found
