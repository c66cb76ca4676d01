"""A threshold below which at most a given share of answers is wrong, with a guarantee for finite samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import beta, binom

from lm_eval_ensemble.metrics.uncertainty import usable

__all__ = ["GRID", "Abstention", "abstain", "clopper_pearson"]

# The coverages that are tried, fixed before any data is seen: the guarantee needs that.
GRID = tuple(k / 20 for k in range(1, 21))


@dataclass(frozen=True, slots=True)
class Abstention:
    """Answer where the score is below ``threshold`` (infinity: always), else abstain.

    ``coverage`` and ``error`` are what that gave here, ``bound`` is what the error stays under with the probability
    promised. ``threshold`` is None where no coverage could be certified, with the ``reason``.
    """

    threshold: float | None
    coverage: float
    error: float | None
    bound: float | None
    alpha: float
    delta: float
    reason: str | None
    n: int


def clopper_pearson(errors: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Exact two-sided interval of a share (Clopper and Pearson 1934)."""
    tail = (1 - level) / 2
    low = float(beta.ppf(tail, errors, n - errors + 1)) if errors else 0.0
    high = float(beta.ppf(1 - tail, errors + 1, n - errors)) if errors < n else 1.0
    return low, high


def abstain(uncertainty: object, wrong: object, alpha: float = 0.1, delta: float = 0.05) -> Abstention:
    """The widest coverage whose error rate is certified to be at most ``alpha``.

    Learn-then-test (Angelopoulos et al. 2021, arXiv:2110.01052) for selective risk: at each of the coverages
    :data:`GRID` the threshold is an order statistic t of the scores; given t, the answers with a score below t are
    independent draws from those the rule would accept, so their errors are binomial and an exact test of
    "error > alpha" holds. All tests share ``delta`` (Bonferroni). Hence, with probability at least 1 - delta over
    the draw of these n documents, at most a share alpha of the answers to new documents of the same kind with a score
    below the threshold is wrong. Documents without a score are not covered by the promise.

    :param alpha: target error rate among answered, in (0, 1).
    :param delta: chance that the promise fails, in (0, 1).
    """
    pairs = usable(uncertainty, wrong)  # type: ignore[arg-type]
    n = len(pairs.wrong)
    if not n:
        return Abstention(None, 0.0, None, None, alpha, delta, "no document has this score", n)
    ordered = np.sort(pairs.score)
    level = delta / len(GRID)
    for share in reversed(GRID):
        k = int(np.floor(share * n + 1e-9))
        threshold = float(ordered[k]) if k < n else float("inf")
        inside = np.ones(n, bool) if k == n else pairs.score < threshold
        accepted, errors = int(inside.sum()), int(pairs.wrong[inside].sum())
        if accepted and binom.cdf(errors, accepted, alpha) <= level:
            bound = float(beta.ppf(1 - level, errors + 1, accepted - errors)) if errors < accepted else 1.0
            return Abstention(threshold, accepted / n, errors / accepted, bound, alpha, delta, None, n)
    needed = int(np.ceil(np.log(level) / np.log1p(-alpha)))
    reason = f"no coverage certified; even without an error it takes {needed} answers below a threshold"
    return Abstention(None, 0.0, None, None, alpha, delta, reason, n)
