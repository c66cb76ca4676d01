"""``pmi``: how much prefix and suffix raise the likelihood of the middle (pointwise mutual information). Exploratory.

-[log q(m, stop | p, s) - 0.5 log q(m | its indentation)]: the second term takes back the bonus of lines that are likely
anywhere, such as ``return result``. The weight is a guess, fitted on nothing. Not a likelihood; it may be negative.
"""

from __future__ import annotations

from lm_eval_ensemble.scoring.base import PER_SEQUENCE, Score, Statistic

__all__ = ["PMI", "PRIOR_WEIGHT"]

PRIOR_WEIGHT = 0.5


def _pmi(fim: Statistic, prior: Statistic) -> float | None:
    if not fim.middle:
        return None
    return -(sum(fim.middle) + sum(fim.after)) + PRIOR_WEIGHT * sum(prior.middle)


PMI = (Score("pmi", ("fim", "prior"), PER_SEQUENCE, _pmi, "fim as a sum, less half of the middle given its indentation"),)
