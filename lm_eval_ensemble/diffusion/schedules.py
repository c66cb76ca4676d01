"""How many tokens stay masked after each step. Pure tensor functions. R = rows."""

from __future__ import annotations

from torch import Tensor

__all__ = ["remaining_masks"]


def remaining_masks(lengths: Tensor, step: int, steps: int) -> Tensor:
    """Linear schedule of P2: ``floor(n * (1 - (step + 1) / steps))``.

    :param lengths: ``(R,)`` number of positions n of each row; ``step`` counts from 0.
    :returns: ``(R,)`` number of positions to leave masked; 0 after the last step.

    >>> remaining_masks(torch.tensor([4, 1]), 0, 4)
    tensor([3, 0])
    """
    # In integers: a float product such as 5 * (1 - 0.4) falls just under 3.
    return (lengths * (steps - step - 1)) // steps
