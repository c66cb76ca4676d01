"""What the scores know: each scorer on each member's candidates, margins, and how differently the members fail."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_ensemble.metrics import rejection
from lm_eval_ensemble.metrics.clustered import clustered_share
from lm_eval_ensemble.metrics.diversity import agreement
from lm_eval_ensemble.metrics.uncertainty import auroc, auroc_within, usable
from lm_eval_ensemble.report.candidates import Candidates
from lm_eval_ensemble.report.records import own_score
from lm_eval_ensemble.runs.samples import Choice
from lm_eval_ensemble.selection.base import TOLERANCE, Case, lowest, score_of

__all__ = ["COVERAGES", "curves", "diversity", "margin", "risk_coverage", "scorers"]

#: points of a risk-coverage curve.
COVERAGES = tuple(round(0.05 * k, 2) for k in range(1, 21))
_BINS = 4


def scorers(candidates: Candidates, documents: NDArray[np.intp], clusters: NDArray[np.intp]) -> dict[str, Any]:
    """The score-swap table: what each scorer says of each member's candidates, and how well it would have chosen alone.

    ``prefers``: share of the choices between different texts in which the member's text has the lowest score (equal scores
    share). ``accuracy``: share of right choices among the decisive ones if this score alone decided, which is what ``select``
    calls s. Choices in which a text has no such score are left out of both; blank texts need none. ``auroc_within`` is the area
    among candidates of one document, of a member or of all: what choosing needs; the pooled one also knows hard documents.

    :param documents: (C,) the document of each choice; ``clusters`` (n,) the problem of each document, as numbers.
    """
    table = {}
    document = documents[candidates.choice]
    own_cluster = clusters[document]
    for name, scores in candidates.scores.items():
        own = {member: candidates.member == number for number, member in enumerate(candidates.members)}
        entry: dict[str, Any] = {"members": {}}
        for m, of in own.items():
            entry["members"][m] = _on_member(scores[of], ~candidates.right[of], document[of], own_cluster[of])
        if len(own) > 1:
            entry |= _as_selector(candidates, scores)
            entry |= _within(scores, ~candidates.right, document, own_cluster)
        table[name] = entry
    return table


def _on_member(
    scores: NDArray[np.float64], wrong: NDArray[np.bool_], document: NDArray[np.intp], cluster: NDArray[np.intp]
) -> dict[str, Any]:
    """Mean score of a member's candidates, and how well it tells the wrong ones."""
    known = scores[~np.isnan(scores)]
    area = auroc(scores, wrong, cluster)
    return {
        "n": len(known),
        "without": len(scores) - len(known),
        "mean": math.fsum(known) / len(known) if len(known) else None,
        "auroc": area.value,
        "auroc_low": area.low,
        "auroc_high": area.high,
        **_within(scores, wrong, document, cluster),
        "point_biserial": _point_biserial(scores, wrong),
        "reason": area.reason,
    }


def _within(
    scores: NDArray[np.float64], wrong: NDArray[np.bool_], document: NDArray[np.intp], cluster: NDArray[np.intp]
) -> dict[str, float | None]:
    found = auroc_within(scores, wrong, document, cluster)
    return {"auroc_within": found.value, "auroc_within_low": found.low, "auroc_within_high": found.high}


def _point_biserial(score: NDArray[np.float64], wrong: NDArray[np.bool_]) -> float | None:
    """Pearson's correlation of the score with being right (0 or 1); negative if low scores go with right answers."""
    pairs = usable(score, wrong)
    if pairs.reason or np.ptp(pairs.score) == 0:
        return None
    return float(np.clip(np.corrcoef(pairs.score, ~pairs.wrong)[0, 1], -1.0, 1.0))


def _as_selector(candidates: Candidates, scores: NDArray[np.float64]) -> dict[str, Any]:
    start, choice = candidates.start, candidates.choice
    values = np.where(candidates.blank, np.nan, scores)
    known = np.add.reduceat(~np.isnan(values), start)
    usable_ones = (known > 0) & (known == np.add.reduceat(~candidates.blank, start))
    close = values - np.fmin.reduceat(values, start)[choice] <= TOLERANCE
    winners = np.add.reduceat(close, start)
    decisive = np.flatnonzero(usable_ones & candidates.decisive)
    # Where one value is the lowest by far it wins; ties are the selectors' business.
    first = start + np.array([int(part) for part in _first_true(close, start)], dtype=np.intp)
    hits = 0
    for i in decisive:
        if winners[i] == 1 and candidates.differ[i]:
            hits += bool(candidates.right[first[i]])
        else:
            hits += _settled_right(candidates, int(i), values)
    compared = usable_ones & candidates.differ
    counted = close & compared[choice]
    votes = np.bincount(candidates.member[counted], 1 / winners[choice[counted]], len(candidates.members))
    total = int(compared.sum())
    return {
        "prefers": {m: float(v) / total for m, v in zip(candidates.members, votes, strict=True)} if total else None,
        "accuracy": hits / len(decisive) if len(decisive) else None,
        "decisive": len(decisive),
    }


def _first_true(flags: NDArray[np.bool_], start: NDArray[np.intp]) -> NDArray[np.intp]:
    """For each part that begins at ``start`` the place of its first True within it; 0 where there is none."""
    ends = np.r_[start[1:], len(flags)]
    places = np.where(flags, np.arange(len(flags)), len(flags))
    first = np.minimum.reduceat(places, start)
    return np.where(first < ends, first - start, 0)


def _settled_right(candidates: Candidates, i: int, values: NDArray[np.float64]) -> bool:
    """Whether a selector would take a right candidate of choice ``i`` by these values, ties included."""
    choice = candidates.choices[i]
    found = choice.selection
    place = int(candidates.start[i])
    own = [None if math.isnan(value) else float(value) for value in values[place : place + len(choice.right)]]
    return choice.right[lowest(Case(found.candidates, found.rule, found.settings.get("prefer")), own)[0]]


def margin(choice: Choice) -> float | None:
    """Nats by which the chosen text is ahead of the best other text under the rule; below 0 if something else decided.

    None where all texts are equal or a score is undefined.
    """
    rule, text = choice.selection.rule, choice.chosen.candidate.text
    chosen = score_of(choice.chosen, rule)
    others = [score_of(scored, rule) for scored in choice.selection.candidates if scored.candidate.text != text]
    known = [value for value in others if value is not None]
    return min(known) - chosen if chosen is not None and known and len(known) == len(others) else None


def risk_coverage(choices: Sequence[Choice], clusters: NDArray[np.intp]) -> dict[str, Any] | None:
    """Error among the choices kept when the least certain are left out: by margin, or for one model by its own mean
    negative log-likelihood. Also the accuracy of selection by margin, in quarters of the decisive choices.

    :param clusters: (C,) the problem of each choice, as numbers.
    """
    if all(len(choice.selection.candidates) == 1 for choice in choices):
        own = [own_score(choice.chosen) for choice in choices]
        found = curves(own, [not choice.is_right for choice in choices])
        return None if found is None else {"by": "own mean negative log-likelihood", **found}
    margins = [margin(choice) for choice in choices]
    found = curves([None if m is None else -m for m in margins], [not choice.is_right for choice in choices])
    if found is None:
        return None
    known = sorted((m, i) for i, (m, c) in enumerate(zip(margins, choices, strict=True)) if m is not None and c.decisive)
    bins = []
    for part in np.array_split(np.arange(len(known)), _BINS):
        if not len(part):
            continue
        quarter = known[part[0] : part[-1] + 1]
        right = [choices[i].is_right for _, i in quarter]
        share = clustered_share(np.array(right, float), clusters[[i for _, i in quarter]])
        ends = {"accuracy_low": share and share.low, "accuracy_high": share and share.high}
        bins.append(
            {
                "margin_from": quarter[0][0],
                "margin_to": quarter[-1][0],
                "n": len(part),
                "accuracy": sum(right) / len(right),
                **ends,
            }
        )
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
    area, rates = value(rejection.aurc), (0.0, *COVERAGES)
    return {
        "n": n,
        "excluded": pairs.excluded,
        "risk": float(base[0]),
        "aurc": area,
        "eaurc": None if area is None else area - float(rejection.oracle_aurc(total, errors)[0]),
        "prr": value(rejection.prr),
        "auroc": value(rejection.areas),
        "points": [
            {"coverage": c, "risk": float(risk)}
            for c, risk in zip(COVERAGES, rejection.risks(total, errors, COVERAGES)[0], strict=True)
        ],
        # Of one class only there is no curve.
        "roc": [
            {"false_alarms": rate, "found": float(found)}
            for rate, found in zip(rates, rejection.roc(total, errors, np.array(rates))[0], strict=True)
            if 0 < base[0] < 1
        ],
    }


def diversity(candidates: Candidates) -> list[dict[str, Any]]:
    """For each pair of members, on the first candidate of each."""
    pairs = []
    for first, second in itertools.combinations(range(len(candidates.members)), 2):
        both = (candidates.first[:, [first, second]] >= 0).all(axis=1)
        ours, theirs = candidates.first[both, first], candidates.first[both, second]
        right, also = candidates.right[ours], candidates.right[theirs]
        table = agreement(zip(right.tolist(), also.tolist(), strict=True))
        texts = candidates.texts
        same = np.array([texts[i] == texts[j] for i, j in zip(ours.tolist(), theirs.tolist(), strict=True)], dtype=bool)
        same_wrong = same[~right & ~also]
        names = candidates.members[first], candidates.members[second]
        pairs.append(
            {
                "pair": list(names),
                "n": table.n,
                "both": table.both,
                f"only_{names[0]}": table.first,
                f"only_{names[1]}": table.second,
                "neither": table.neither,
                "disagreement": table.disagreement,
                "q": table.q,
                "kappa": table.kappa,
                "phi": table.phi,
                "double_fault": table.double_fault,
                "same_text": float(same.mean()) if len(same) else None,
                "same_wrong_text": float(same_wrong.mean()) if len(same_wrong) else None,
            }
        )
    return pairs
