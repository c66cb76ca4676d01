"""Lower is better: take the candidate with the lowest score."""

from __future__ import annotations

from lm_eval_ensemble.selection.base import TOLERANCE, Case, lowest, score_of

__all__ = ["TOLERANCE", "argmin"]


def argmin(case: Case) -> tuple[int, str]:
    """Index of the winner and the reason: ``single``, ``agreement``, ``score`` or ``tie``."""
    return lowest(case, [score_of(scored, case.rule) for scored in case.candidates])
