"""``joint`` and ``joint_mean``: middle and suffix after the prefix, under the autoregressive model.

By Bayes' rule log q(m|p) + log q(s|p,m) differs from log q(m|p,s) by a term that is the same for all candidates, so
the *sum* ranks middles by the model's true infilling posterior. A mean over tokens would not; ``joint_mean`` is the tamed
form instead: the mean over the middle and the mean over the beginning of the suffix, with equal weights, so that neither
a long suffix nor a long middle drowns the other.
"""

from __future__ import annotations

from lm_eval_ensemble.scoring.base import PER_SEQUENCE, PER_TOKEN, Score, Statistic, mean_nll

__all__ = ["JOINT", "SUFFIX_TOKENS"]

#: tokens of the suffix that ``joint_mean`` reads: what lies further on says little about the gap.
SUFFIX_TOKENS = 64


def _joint(statistic: Statistic) -> float | None:
    if not statistic.middle:
        return None
    return -(sum(statistic.middle) + sum(statistic.after))


def _joint_mean(statistic: Statistic) -> float | None:
    # Without a suffix, the end of the text takes its place: or the beginning of a good answer would beat the answer.
    middle, after = mean_nll(statistic.middle), mean_nll(statistic.after[:SUFFIX_TOKENS] or statistic.end)
    return middle if middle is None or after is None else (middle + after) / 2


JOINT = (
    Score("joint", ("sequence",), PER_SEQUENCE, _joint, "middle and suffix given prefix, autoregressive model"),
    Score("joint_mean", ("sequence",), PER_TOKEN, _joint_mean, "mean of the means over middle and first 64 suffix tokens"),
)
