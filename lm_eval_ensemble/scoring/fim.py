"""``fim``: perplexity of the middle and the stop token after a fill-in-the-middle prompt.

The stop token is part of it: without it, the beginning of a good answer would beat the answer.
"""

from __future__ import annotations

from lm_eval_ensemble.scoring.base import Score, Statistic, mean_nll


def _fim(statistic: Statistic) -> float | None:
    return mean_nll((*statistic.middle, *statistic.after)) if statistic.middle else None


FIM = Score("fim", "fim", "nats per token", _fim, "middle and stop given prefix and suffix, autoregressive model")
