"""Minimum Bayes risk: the candidate that is most like the others."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import SequenceMatcher
from functools import partial

from lm_eval_ensemble.selection.base import Case, Selector, lowest, settled
from lm_eval_ensemble.selection.rules import argmin

__all__ = ["SIMILARITIES", "edit_similarity", "minimum_risk", "token_similarity"]

#: characters compared by edit similarity, whose cost is quadratic.
_LONGEST = 2_000
_TOKEN = re.compile(r"\w+|[^\w\s]")


def token_similarity(one: str, other: str) -> float:
    """Shared tokens over all tokens, as sets (Jaccard), in [0, 1]; 1 for two texts without any."""
    a, b = set(_TOKEN.findall(one)), set(_TOKEN.findall(other))
    return len(a & b) / len(a | b) if a | b else 1.0


def edit_similarity(one: str, other: str) -> float:
    """Twice the matching characters over all characters (Ratcliff and Obershelp), in [0, 1]; symmetric here."""
    first, second = sorted((one[:_LONGEST], other[:_LONGEST]))
    return SequenceMatcher(None, first, second, autojunk=False).ratio()


SIMILARITIES: dict[str, Callable[[str, str], float]] = {"tokens": token_similarity, "edit": edit_similarity}


def minimum_risk(similarity: str = "tokens") -> Selector:
    """Highest mean similarity to the other candidates (Shi et al. 2022, arXiv:2204.11454, without execution).

    Reason ``consensus``. With two candidates each is as like the other as the other is like it, so fewer than three are
    decided by ``argmin``, reason ``few``.
    """
    return partial(_select, SIMILARITIES[similarity])


def _select(similar: Callable[[str, str], float], case: Case) -> tuple[int, str]:
    texts = [scored.candidate.text for scored in case.candidates]
    if answer := settled(case):
        return answer
    if len(texts) < 3:
        return argmin(case)[0], "few"
    gains = [sum(similar(text, other) for j, other in enumerate(texts) if j != i) for i, text in enumerate(texts)]
    return lowest(case, [-gain / (len(texts) - 1) for gain in gains], "consensus")
