"""``causal``: perplexity of the middle after the prefix, under the autoregressive model. Blind to the suffix."""

from __future__ import annotations

from collections.abc import Sequence

from lm_eval_ensemble.scoring.base import Statistic, per_token_family

__all__ = ["CAUSAL"]


def _causal(statistic: Statistic) -> Sequence[float]:
    # Token i is predicted by the logits of token i-1. Scoring logits[start:end] against tokens[start+1:end+1]
    # instead drops the first token of the middle and charges the first of the suffix.
    return statistic.middle


CAUSAL = per_token_family("causal", "sequence", _causal, "middle given prefix, autoregressive model")
