"""``onepass``: perplexity of the middle under the diffusion model with all of it masked, in one forward.

Crude (it ignores the dependence inside the middle, and never pays for the length), cheap, and on the tiny pair a better
judge than masking one token at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from lm_eval_ensemble.scoring.base import Statistic, per_token_family

__all__ = ["ONEPASS"]


def _onepass(statistic: Statistic) -> Sequence[float]:
    return statistic.middle


ONEPASS = per_token_family("onepass", "onepass", _onepass, "middle given prefix and suffix, diffusion model")
