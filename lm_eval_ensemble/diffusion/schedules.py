"""How many positions change in a step. Pure tensor functions. R = rows."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["EPS", "auto_steps", "published_remaining_masks", "remaining_masks", "transfer_fraction"]

#: where time ends in Dream's and Open-dCoder's ``timesteps``; it begins at 1.
EPS = 1e-3
#: ``steps=auto`` never takes more steps than this, the published number.
MOST_STEPS = 64


def auto_steps(length: int) -> int:
    """``steps=auto``: one step per token, at most 64, at least one."""
    return min(MOST_STEPS, max(length, 1))


def remaining_masks(lengths: Tensor, step: int, steps: int | Tensor) -> Tensor:
    """Linear schedule of P2: ``floor(n * (1 - (step + 1) / steps))``.

    :param lengths: ``(R,)`` number of positions n of each row; ``step`` counts from 0.
    :param steps: number of steps, for all rows or ``(R,)``.
    :returns: ``(R,)`` number of positions to leave masked; 0 after the last step.

    >>> remaining_masks(torch.tensor([4, 1]), 0, 4)
    tensor([3, 0])
    """
    # In integers: a float product such as 5 * (1 - 0.4) may fall just under 3.
    return (lengths * (torch.as_tensor(steps, device=lengths.device) - step - 1)).clamp_min(0) // steps


def published_remaining_masks(lengths: Tensor, step: int, steps: Tensor) -> Tensor:
    """The same in float32, as the published code rounds it; it differs by one for some numbers of steps that are no power
    of two."""
    fraction = [max(1 - (step + 1) / count, 0.0) for count in steps.tolist()]
    return (lengths.float() * torch.tensor(fraction, device=lengths.device)).long()


def transfer_fraction(step: int, steps: Tensor) -> Tensor:
    """The fraction ``1 - s / t`` of the masked positions that is filled in this step; 1 in the last one.

    Times are ``linspace(1, eps, steps + 1)`` in float32, as in the code of Dream (arXiv 2508.15487) and Open-dCoder.

    :param steps: ``(R,)``. :returns: ``(R,)`` float32.

    >>> transfer_fraction(0, torch.tensor([1, 2])).tolist()[0]
    1.0
    """
    table = [_fractions(count)[min(step, count - 1)] for count in steps.tolist()]
    return torch.tensor(table, device=steps.device)


@lru_cache(maxsize=256)
def _fractions(steps: int) -> list[float]:
    times = torch.linspace(1, EPS, steps + 1)
    found: list[float] = (1 - times[1:] / times[:-1]).tolist()
    return [*found[:-1], 1.0]
