"""``causal``: perplexity of the middle after the prefix, under the autoregressive model. Blind to the suffix."""

from __future__ import annotations

from lm_eval_ensemble.scoring.base import Score, Statistic, mean_nll


def _causal(statistic: Statistic) -> float | None:
    # Token i is predicted by the logits of token i-1. Scoring logits[start:end] against tokens[start+1:end+1]
    # instead drops the first token of the middle and charges the first of the suffix.
    return mean_nll(statistic.middle)


CAUSAL = Score("causal", "sequence", "nats per token", _causal, "middle given prefix, autoregressive model")
