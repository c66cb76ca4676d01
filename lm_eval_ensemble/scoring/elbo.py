"""``elbo``: the diffusion model's bound on the log-likelihood of the middle, the mean over all orders of unmasking.

A Monte Carlo estimate (LLaDA, arXiv 2502.09992, section 2.4, conditioned on both sides); its standard error is recorded
beside it. Candidates of one gap with equally many tokens are masked alike, so that their difference is less noisy.
"""

from __future__ import annotations

from collections.abc import Sequence

from lm_eval_ensemble.scoring.base import Statistic, per_token_family

__all__ = ["ELBO"]


def _elbo(statistic: Statistic) -> Sequence[float]:
    return statistic.middle


ELBO = per_token_family("elbo", "elbo", _elbo, "bound on middle given prefix and suffix, diffusion model", worst=False)
