"""``chain``: perplexity of the middle under the diffusion model, unmasked from left to right (chain rule, n forwards).

Exact for a model whose order is fixed, deterministic; it conditions on the number of tokens, as every diffusion score does.
"""

from __future__ import annotations

from collections.abc import Sequence

from lm_eval_ensemble.scoring.base import Statistic, per_token_family

__all__ = ["CHAIN"]


def _chain(statistic: Statistic) -> Sequence[float]:
    return statistic.middle


CHAIN = per_token_family("chain", "chain", _chain, "middle given prefix and suffix, diffusion model, left to right")
