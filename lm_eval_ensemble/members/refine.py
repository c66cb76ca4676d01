"""A hybrid candidate: another member's text, of which the diffusion model writes the least likely tokens anew.

The autoregressive member decides length and most of the words; the diffusion model, which sees both sides of every token,
looks for the tokens that do not fit and fills their places again together, with all others fixed.

Related: remasking in masked-diffusion sampling (ReMDM, arXiv 2503.00307) re-masks the model's own tokens while it decodes;
here the first draft is somebody else's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["weakest"]


def weakest(logprobs: Sequence[float], fraction: float, threshold: float) -> list[int]:
    """Places of the tokens to write anew, ascending.

    :param logprobs: of each token given the others (nats).
    :param fraction: in (0, 1]; at most this share of the tokens, rounded up.
    :param threshold: only tokens that cost more than this many nats; 0 takes any.
    :returns: the least likely ones first come, first served; the leftmost of equals.

    >>> weakest([-0.1, -3.0, -0.2, -2.0, -2.5], 0.4, 1.0)
    [1, 4]
    """
    costly = [i for i, logprob in enumerate(logprobs) if -logprob > threshold]
    most = math.ceil(fraction * len(logprobs))
    return sorted(sorted(costly, key=lambda i: (logprobs[i], i))[:most])
