"""``fim``: perplexity of the middle and the stop token after a fill-in-the-middle prompt.

The stop token is part of it: without it, the beginning of a good answer would beat the answer.
"""

from __future__ import annotations

from lm_eval_ensemble.scoring.base import Statistic, per_token_family

__all__ = ["FIM"]


def _fim(statistic: Statistic) -> tuple[float, ...]:
    return (*statistic.middle, *statistic.after) if statistic.middle else ()


FIM = per_token_family("fim", "fim", _fim, "middle and stop given prefix and suffix, autoregressive model")
