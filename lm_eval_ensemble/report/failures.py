"""Why texts fail their tests, in five words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from lm_eval_ensemble.runs.samples import Choice
from lm_eval_ensemble.types import Scored

__all__ = ["CATEGORIES", "category", "failures"]

CATEGORIES = ("syntax", "name", "assertion", "timeout", "other")

_RAISED = "the program raised "
_SYNTAX = ("SyntaxError", "IndentationError", "TabError")
_NAMES = ("NameError", "UnboundLocalError")


def category(verdict: str | None, why: str) -> str | None:
    """The kind of a failure; None for a pass and for texts that were not executed.

    ``assertion``: the program ran, and a test of the benchmark found its answer wrong. The program's own ``assert`` is
    ``other``, as is a lost worker.
    """
    if verdict in (None, "pass"):
        return None
    if verdict == "timeout":
        return "timeout"
    if why.startswith(_RAISED):
        name = why.removeprefix(_RAISED)
        return "syntax" if name in _SYNTAX else "name" if name in _NAMES else "other"
    return "assertion" if why.startswith("AssertionError") else "other"


def failures(choices: Sequence[Choice], members: Sequence[str]) -> dict[str, Any] | None:
    """Counts per kind, for the chosen texts and for every member's candidates; ``other`` by what exactly it was.

    None where nothing was executed.
    """
    every = [scored for choice in choices for scored in choice.selection.candidates]
    if all(scored.verdict is None for scored in every):
        return None
    counts: dict[str, Any] = {"chosen": _counts([choice.chosen for choice in choices])}
    for member in members:
        counts[member] = _counts([scored for scored in every if scored.candidate.member == member])
    others = Counter(
        scored.why.removeprefix(_RAISED).partition(":")[0][:60] or "no reason given"
        for scored in every
        if category(scored.verdict, scored.why) == "other"
    )
    return {"counts": counts, "other": dict(others.most_common(20))}


def _counts(candidates: Sequence[Scored]) -> dict[str, int]:
    kinds = Counter(category(scored.verdict, scored.why) for scored in candidates)
    return {"pass": sum(scored.verdict == "pass" for scored in candidates), **{name: kinds[name] for name in CATEGORIES}}
