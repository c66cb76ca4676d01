"""The scores: perplexities of a candidate, each a pure function of the log-probabilities of its passes.

``joint``: by Bayes' rule log q(m|p) + log q(s|p,m) differs from log q(m|p,s) by a term that is the same for all candidates, so
the *sum* ranks middles by the model's true infilling posterior. A mean over tokens would not; ``joint_mean`` is the tamed form
instead: the mean over the middle and the mean over the beginning of the suffix, with equal weights, so that neither a long
suffix nor a long middle drowns the other.

``onepass``: crude (it ignores the dependence inside the middle, and never pays for the length), cheap, and on the tiny pair a
better judge than masking one token at a time. ``chain``: exact for a model whose order is fixed, deterministic; n forwards. It
conditions on the number of tokens, as every diffusion score does. ``elbo``: a Monte Carlo estimate of the mean over all orders
of unmasking (LLaDA, arXiv 2502.09992, section 2.4, conditioned on both sides); its standard error is recorded beside it.
Candidates of one gap with equally many tokens are masked alike, so that their difference is less noisy.

``pmi``: how much prefix and suffix raise the likelihood of the middle (pointwise mutual information). Exploratory:
-[log q(m, stop | p, s) - 0.5 log q(m | its indentation)]; the second term takes back the bonus of lines that are likely
anywhere, such as ``return result``. The weight is a guess, fitted on nothing. Not a likelihood; it may be negative.
"""

from __future__ import annotations

from lm_eval_ensemble.scoring.base import PER_SEQUENCE, PER_TOKEN, Score, Statistic, mean_nll, per_token_family

__all__ = ["PRIOR_WEIGHT", "SCORES", "SUFFIX_TOKENS"]

#: tokens of the suffix that ``joint_mean`` reads: what lies further on says little about the gap.
SUFFIX_TOKENS = 64
PRIOR_WEIGHT = 0.5


def _middle(statistic: Statistic) -> tuple[float, ...]:
    # Token i is predicted by the logits of token i-1. Scoring logits[start:end] against tokens[start+1:end+1]
    # instead drops the first token of the middle and charges the first of the suffix.
    return tuple(statistic.middle)


def _middle_and_stop(statistic: Statistic) -> tuple[float, ...]:
    # Without the stop token the beginning of a good answer would beat the answer.
    return (*statistic.middle, *statistic.after) if statistic.middle else ()


def _joint(statistic: Statistic) -> float | None:
    if not statistic.middle:
        return None
    return -(sum(statistic.middle) + sum(statistic.after))


def _joint_mean(statistic: Statistic) -> float | None:
    # Without a suffix, the end of the text takes its place: or the beginning of a good answer would beat the answer.
    middle, after = mean_nll(statistic.middle), mean_nll(statistic.after[:SUFFIX_TOKENS] or statistic.end)
    return middle if middle is None or after is None else (middle + after) / 2


def _pmi(fim: Statistic, prior: Statistic) -> float | None:
    if not fim.middle:
        return None
    return -(sum(fim.middle) + sum(fim.after)) + PRIOR_WEIGHT * sum(prior.middle)


#: every score by name; the order is that of the record.
SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        *per_token_family("causal", "sequence", _middle, "middle given prefix, autoregressive model"),
        Score("joint", ("sequence",), PER_SEQUENCE, _joint, "middle and suffix given prefix, autoregressive model"),
        Score("joint_mean", ("sequence",), PER_TOKEN, _joint_mean, "mean of the means over middle and first 64 suffix tokens"),
        *per_token_family("fim", "fim", _middle_and_stop, "middle and stop given prefix and suffix, autoregressive model"),
        *per_token_family("onepass", "onepass", _middle, "middle given prefix and suffix, diffusion model"),
        *per_token_family("chain", "chain", _middle, "middle given prefix and suffix, diffusion model, left to right"),
        *per_token_family("elbo", "elbo", _middle, "bound on middle given prefix and suffix, diffusion model", worst=False),
        Score("pmi", ("fim", "prior"), PER_SEQUENCE, _pmi, "fim as a sum, less half of the middle given its indentation"),
    )
}
