"""What a selector sees, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lm_eval_ensemble.types import Scored

__all__ = ["Case", "Selector"]


@dataclass(frozen=True)
class Case:
    """One gap with its scored candidates; plain values only, so that a stored record gives the same case again.

    ``rule`` names the score to compare (lower is better), ``prefer`` the member that wins a tie. ``prefix`` and ``suffix``
    are the text around the gap. ``key`` (task, document, sample) and ``seed`` name the random stream of selectors that
    draw.
    """

    candidates: tuple[Scored, ...]
    rule: str
    prefer: str | None = None
    prefix: str = ""
    suffix: str = ""
    key: tuple[str | int, ...] = ()
    seed: int = 0


#: index of the winner, and the reason: one word.
Selector = Callable[[Case], tuple[int, str]]
