"""What the scores know: each scorer on each member's candidates, margins, and how differently the members fail."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_ensemble.metrics import rejection
from lm_eval_ensemble.metrics.diversity import agreement
from lm_eval_ensemble.metrics.uncertainty import auroc, usable
from lm_eval_ensemble.report.records import Choice, rule_score
from lm_eval_ensemble.selection.base import TOLERANCE, Case, lowest
from lm_eval_ensemble.types import Candidate, Scored

__all__ = ["COVERAGES", "curves", "diversity", "margin", "risk_coverage", "scorers"]

#: points of a risk-coverage curve.
COVERAGES = tuple(round(0.05 * k, 2) for k in range(1, 21))
_BINS = 4


def scorers(choices: Sequence[Choice], members: Sequence[str]) -> dict[str, Any]:
    """The score-swap table: what each scorer says of each member's candidates, and how well it would have chosen alone.

    ``prefers``: share of the choices between different texts in which the member's text has the lowest score (equal scores
    share). ``accuracy``: share of right choices among the decisive ones if this score alone decided, which is what ``select``
    calls s. Choices in which a text has no such score are left out of both; blank texts need none.
    """
    names = list(dict.fromkeys(name for c in choices for option in c.options for name in option.scores))
    found = {}
    for name in names:
        entry: dict[str, Any] = {"members": {m: _on_member(choices, m, name) for m in members}}
        if len(members) > 1:
            entry |= _as_selector(choices, members, name)
        found[name] = entry
    return found


def _on_member(choices: Sequence[Choice], member: str, scorer: str) -> dict[str, Any]:
    """Mean score of a member's candidates, and how well it tells the wrong ones."""
    own = [option for c in choices for option in c.options if option.member == member]
    score = [option.scores.get(scorer) for option in own]
    wrong = [not option.right for option in own]
    known = [value for value in score if value is not None]
    area = auroc(score, wrong)
    return {
        "n": len(known),
        "mean": math.fsum(known) / len(known) if known else None,
        "auroc": area.value,
        "auroc_low": area.low,
        "auroc_high": area.high,
        "point_biserial": _point_biserial(score, wrong),
        "reason": area.reason,
    }


def _point_biserial(score: Sequence[float | None], wrong: Sequence[bool]) -> float | None:
    """Pearson's correlation of the score with being right (0 or 1); negative if low scores go with right answers."""
    pairs = usable(score, wrong)
    if pairs.reason or np.ptp(pairs.score) == 0:
        return None
    return float(np.clip(np.corrcoef(pairs.score, ~pairs.wrong)[0, 1], -1.0, 1.0))


def _as_selector(choices: Sequence[Choice], members: Sequence[str], scorer: str) -> dict[str, Any]:
    votes = dict.fromkeys(members, 0.0)
    compared = 0
    hits: list[bool] = []
    for choice in choices:
        values = [option.scores.get(scorer) if option.text.strip() else None for option in choice.options]
        known = [value for value in values if value is not None]
        if not known or len(known) < sum(bool(option.text.strip()) for option in choice.options):
            continue
        if choice.decisive:
            hits.append(choice.options[_lowest(choice, values)].right)
        if len({option.text for option in choice.options}) > 1:
            compared += 1
            winners = [m for m, value in enumerate(values) if value is not None and value - min(known) <= TOLERANCE]
            for number in winners:
                votes[choice.options[number].member] += 1 / len(winners)
    return {
        "prefers": {m: votes[m] / compared for m in members} if compared else None,
        "accuracy": sum(hits) / len(hits) if hits else None,
        "decisive": len(hits),
    }


def _lowest(choice: Choice, values: Sequence[float | None]) -> int:
    """What a selector would take by these values, ties included."""
    candidates = tuple(Scored(Candidate(option.member, option.text, ""), {}) for option in choice.options)
    return lowest(Case(candidates, choice.rule, choice.prefer), values)[0]


def margin(choice: Choice) -> float | None:
    """Nats by which the chosen text is ahead of the best other text under the rule; below 0 if something else decided.

    None where all texts are equal or a score is undefined.
    """
    chosen = rule_score(choice.chosen, choice.rule)
    others = [rule_score(option, choice.rule) for option in choice.options if option.text != choice.chosen.text]
    known = [value for value in others if value is not None]
    return min(known) - chosen if chosen is not None and known and len(known) == len(others) else None


def risk_coverage(choices: Sequence[Choice]) -> dict[str, Any] | None:
    """Error among the choices kept when the least certain are left out: by margin, or for one model by its own mean
    negative log-likelihood. Also the accuracy of selection by margin, in quarters of the decisive choices."""
    if all(len(choice.options) == 1 for choice in choices):
        own = [choice.chosen.scores.get("own") for choice in choices]
        found = curves(own, [not choice.chosen.right for choice in choices])
        return None if found is None else {"by": "own mean negative log-likelihood", **found}
    margins = [margin(choice) for choice in choices]
    found = curves([None if m is None else -m for m in margins], [not choice.chosen.right for choice in choices])
    if found is None:
        return None
    decisive = sorted((m, c.chosen.right) for m, c in zip(margins, choices, strict=True) if m is not None and c.decisive)
    parts = [part for part in np.array_split(np.arange(len(decisive)), _BINS) if len(part)]
    bins = [
        {
            "low": decisive[part[0]][0],
            "high": decisive[part[-1]][0],
            "n": len(part),
            "accuracy": sum(decisive[i][1] for i in part) / len(part),
        }
        for part in parts
    ]
    return {"by": "margin", **found, "selection_accuracy_by_margin": bins}


def curves(uncertainty: Sequence[float | None], wrong: Sequence[bool]) -> dict[str, Any] | None:
    """Area under the risk-coverage curve and what belongs to it; None without any score."""
    pairs = usable(uncertainty, wrong)
    n = len(pairs.wrong)
    if not n:
        return None
    total, errors = rejection.grouped(pairs.score, pairs.wrong)

    def value(function: Any, *more: float) -> float | None:
        number = float(np.asarray(function(total, errors, *more), dtype=np.float64)[0])
        return number if math.isfinite(number) else None

    base: NDArray[np.float64] = errors.sum(1) / total.sum(1)
    area = value(rejection.aurc)
    return {
        "n": n,
        "excluded": pairs.excluded,
        "risk": float(base[0]),
        "aurc": area,
        "eaurc": None if area is None else area - float(rejection.oracle_aurc(total, errors)[0]),
        "prr": value(rejection.prr),
        "auroc": value(rejection.areas),
        "points": [{"coverage": c, "risk": 1.0 - (value(rejection.accuracy_at, c) or 0.0)} for c in COVERAGES],
    }


def diversity(choices: Sequence[Choice], members: Sequence[str]) -> list[dict[str, Any]]:
    """For each pair of members, on the first candidate of each."""
    found = []
    for first, second in itertools.combinations(members, 2):
        pairs = []
        for choice in choices:
            a = next((option for option in choice.options if option.member == first), None)
            b = next((option for option in choice.options if option.member == second), None)
            if a is not None and b is not None:
                pairs.append((a, b))
        table = agreement((a.right, b.right) for a, b in pairs)
        wrong = [(a, b) for a, b in pairs if not a.right and not b.right]
        found.append(
            {
                "pair": [first, second],
                "n": table.n,
                "both": table.both,
                f"only_{first}": table.first,
                f"only_{second}": table.second,
                "neither": table.neither,
                "disagreement": table.disagreement,
                "q": table.q,
                "kappa": table.kappa,
                "phi": table.phi,
                "double_fault": table.double_fault,
                "same_text": sum(a.text == b.text for a, b in pairs) / len(pairs) if pairs else None,
                "same_wrong_text": sum(a.text == b.text for a, b in wrong) / len(wrong) if wrong else None,
            }
        )
    return found
