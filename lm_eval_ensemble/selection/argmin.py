"""Lower is better: take the candidate with the lowest score."""

from __future__ import annotations

import math

from lm_eval_ensemble.selection.base import Case
from lm_eval_ensemble.types import Scored

__all__ = ["TOLERANCE", "argmin"]

#: nats; scores closer than this are a tie. The same text scored in two batches may differ by about 1e-6.
TOLERANCE = 1e-4


def argmin(case: Case) -> tuple[int, str]:
    """Index of the winner and the reason: ``single``, ``agreement``, ``score`` or ``tie``.

    Undefined scores rank after all others, blank texts last. A tie goes to the member ``prefer``, then to the lexicographically
    smaller text, so the order in which members are listed never matters.
    """
    candidates = case.candidates
    by_preference = sorted(
        range(len(candidates)),
        key=lambda i: (candidates[i].candidate.member != case.prefer, candidates[i].candidate.text, i),
    )
    if len(candidates) == 1:
        return 0, "single"
    if len({scored.candidate.text for scored in candidates}) == 1:
        return by_preference[0], "agreement"
    ranks = [_rank(scored, case.rule) for scored in candidates]
    level, lowest = min(ranks)
    close = [i for i in by_preference if ranks[i][0] == level and ranks[i][1] - lowest <= TOLERANCE]
    alone = len({candidates[i].candidate.text for i in close}) == 1
    return close[0], "score" if alone else "tie"


def _rank(scored: Scored, rule: str) -> tuple[int, float]:
    """Defined scores first, then texts without one, then blank texts."""
    value = scored.scores.get(rule)
    if not scored.candidate.text.strip():
        return 2, 0.0
    return (1, 0.0) if value is None or not math.isfinite(value) else (0, value)
