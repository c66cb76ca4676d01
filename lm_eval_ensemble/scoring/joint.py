"""``joint``: middle and suffix together after the prefix, under the autoregressive model.

By Bayes' rule log q(m|p) + log q(s|p,m) differs from log q(m|p,s) by a term that is the same for all candidates, so
the *sum* ranks middles by the model's true infilling posterior. A mean over tokens would not.
"""

from __future__ import annotations

from lm_eval_ensemble.scoring.base import Score, Statistic


def _joint(statistic: Statistic) -> float | None:
    if not statistic.middle:
        return None
    return -(sum(statistic.middle) + sum(statistic.after))


JOINT = Score("joint", "sequence", "nats per sequence", _joint, "middle and suffix given prefix, autoregressive model")
