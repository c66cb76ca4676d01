"""A threshold below which at most a given share of answers is wrong, with a promise for finite samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betaincinv

from lm_eval_ensemble.metrics.clustered import Clusters, clustered_share
from lm_eval_ensemble.metrics.uncertainty import usable

__all__ = ["ENOUGH", "GRID", "Abstention", "abstain"]

# The coverages that may be tried, fixed before any data is seen: the promise needs that.
GRID = tuple(k / 20 for k in range(1, 21))
#: clusters below the threshold without which no promise is made: ``benchmarks/coverage.py`` shows it kept from there on.
ENOUGH = 10


@dataclass(frozen=True, slots=True)
class Abstention:
    """Answer where the score is below ``threshold`` (infinity: always), else abstain.

    ``coverage`` and ``error`` are what that gave here, ``bound`` is what the error stays under with the probability
    promised. ``threshold`` is None where no coverage could be certified, with the ``reason``. ``clusters``: how many there
    are, None where answers are independent.
    """

    threshold: float | None
    coverage: float
    error: float | None
    bound: float | None
    alpha: float
    delta: float
    reason: str | None
    n: int
    clusters: int | None = None


def abstain(
    uncertainty: object, wrong: object, alpha: float = 0.1, delta: float = 0.05, clusters: Clusters | None = None
) -> Abstention:
    """The widest coverage whose error rate is certified to be at most ``alpha``. The score must have been named before looking.

    Learn-then-test (Angelopoulos et al. 2021, arXiv:2110.01052) for selective risk, by fixed-sequence testing from two starts,
    each with ``delta`` / 2: "always answer", and the first coverage of :data:`GRID` with three times the answers that it takes
    without an error, from where wider ones are tried until one fails. At each the threshold is an order statistic t of the
    scores; given t, the answers with a score below t are independent draws from those the rule would accept, so their errors
    are binomial and an exact test of "error > alpha" holds. Hence, with probability 1 - delta over the draw of these n
    documents, at most a share alpha of the answers to new documents of the same kind with a score below the threshold is
    wrong. Documents without a score are not covered by the promise.

    With clusters the test is the upper bound of a clustered share (Wilson's, Student's quantile) and asks for :data:`ENOUGH`
    clusters below the threshold; it holds up to its normal approximation.

    :param alpha: target error rate among answered, in (0, 1).
    :param delta: chance that the promise fails, in (0, 1).
    :param clusters: (n,) names of what is drawn as one; None: each document.
    """
    pairs = usable(uncertainty, wrong, clusters)  # type: ignore[arg-type]
    n = len(pairs.wrong)

    def none(reason: str) -> Abstention:
        return Abstention(None, 0.0, None, None, alpha, delta, reason, n, pairs.clusters)

    if not n:
        return none("no document has this score")
    level = delta / 2
    needed = int(np.ceil(np.log(level) / np.log1p(-alpha)))
    ordered = np.sort(pairs.score)
    sizes = [int(np.floor(share * n + 1e-9)) for share in GRID]
    start = next((i for i, k in enumerate(sizes) if k >= 3 * needed), len(GRID) - 1)
    best: Abstention | None = None
    for first in dict.fromkeys((start, len(GRID) - 1)):
        for k in sizes[first:]:
            threshold = float(ordered[k]) if k < n else float("inf")
            inside = np.ones(n, bool) if k == n else pairs.score < threshold
            accepted, errors = int(inside.sum()), int(pairs.wrong[inside].sum())
            # Equal scores may leave too few below a threshold to show anything: that fails no test.
            if accepted < needed:
                continue
            bound = _bound(pairs.wrong[inside], None if pairs.codes is None else pairs.codes[inside], alpha, level)
            if bound is None:
                break
            if best is None or accepted / n > best.coverage:
                error = errors / accepted
                best = Abstention(threshold, accepted / n, error, bound, alpha, delta, None, n, pairs.clusters)
    if best is not None:
        return best
    if pairs.clusters is not None and pairs.clusters < ENOUGH:
        return none(f"{pairs.clusters} clusters are too few for a promise, which takes {ENOUGH}")
    if pairs.codes is not None and (least := _bound(np.zeros(n, bool), pairs.codes, 1.0, level)) is not None:
        if least <= alpha:
            return none("no coverage certified: too many of the answers below the thresholds tried are wrong")
        return none(f"no coverage certified; even if none of all {n} answers were wrong the bound would be {100 * least:.1f} %")
    return none(f"no coverage certified; even without an error it takes {needed} answers below a threshold")


def _bound(wrong: NDArray[np.bool_], codes: NDArray[np.intp] | None, alpha: float, level: float) -> float | None:
    """The bound that the error stays under but for a chance of ``level``, if it is at most ``alpha``; else None."""
    n, errors = len(wrong), int(wrong.sum())
    if codes is None:
        if bdtr(errors, n, alpha) > level:
            return None
        return float(betaincinv(errors + 1, n - errors, 1 - level)) if errors < n else 1.0
    if len(np.unique(codes)) < ENOUGH:
        return None
    found = clustered_share(wrong.astype(float), codes, level=1 - 2 * level)
    return found.high if found is not None and found.high is not None and found.high <= alpha else None
