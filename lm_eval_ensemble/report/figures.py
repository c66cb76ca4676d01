"""The figures of one task of one run, from its samples alone. Formulas and how to read them: ``docs/report.md``.

:func:`figures` gives one dict, JSON-able, without NaN: what does not exist is None or left out. Text, page and plots are made
from it. Shares are between 0 and 1; higher is better unless ``docs/report.md`` says otherwise.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lm_eval_ensemble.metrics.clustered import cluster_bootstrap, clustered_mean, wilson
from lm_eval_ensemble.metrics.paired import compare_paired
from lm_eval_ensemble.report.failures import failures
from lm_eval_ensemble.report.questions import question_figures
from lm_eval_ensemble.report.records import Answer, Choice, Option
from lm_eval_ensemble.report.signals import diversity, risk_coverage, scorers

__all__ = ["LENGTHS", "figures", "score_figures"]

#: upper ends of the length bins, in characters.
LENGTHS = (10, 20, 40, 80, 160)


def figures(rows: Sequence[Answer], seed: int = 0) -> dict[str, Any]:
    """All figures that make sense for these rows: of an ensemble, of one model, of a run of questions."""
    if not rows:
        return {"n": 0}
    clusters = [row.cluster for row in rows]
    found: dict[str, Any] = {
        "n": len(rows),
        "problems": len(set(clusters)),
        "documents_without_problem": sum(row.problem is None for row in rows),
        "completions_per_document": max((len(row.choices) for row in rows), default=0) or 1,
        "score": score_figures([row.value for row in rows], clusters),
    }
    members = list(dict.fromkeys(o.member for row in rows for c in row.choices for o in c.options))
    single = all(len(c.options) == 1 for row in rows for c in row.choices)
    if members and not single:
        found |= _ensemble(rows, members, clusters, seed)
    found |= _breakdowns(rows, [] if single else members)
    if members:
        choices = [choice for row in rows for choice in row.choices]
        found["scorers"] = scorers(choices, members)
        found["risk_coverage"] = risk_coverage(choices)
        found["failures"] = failures(choices, members)
        found["row_forwards"] = _forwards(rows, members)
    return found | question_figures(rows)


def score_figures(values: Sequence[float], clusters: Sequence[Any]) -> dict[str, Any]:
    """A mean over documents with its clustered 95 % interval, and Wilson's where all values are 0 or 1."""
    mean = clustered_mean(values, clusters)
    binary = all(value in (0.0, 1.0) for value in values)
    # Without any variation between problems the interval would be a point, and a lie.
    low, high = (mean.low, mean.high) if mean.se else (None, None)
    if low is not None and high is not None and all(0.0 <= value <= 1.0 for value in values):
        low, high = max(0.0, low), min(1.0, high)
    return {
        "value": mean.mean,
        "low": low,
        "high": high,
        "se": mean.se,
        "deff": mean.deff,
        "wilson": list(wilson(int(sum(values)), len(values))) if binary else None,
        "n": mean.n,
        "clusters": mean.clusters,
    }


def _ensemble(rows: Sequence[Answer], members: Sequence[str], clusters: Sequence[Any], seed: int) -> dict[str, Any]:
    """Members, bounds, and what selection did with them."""
    chosen = _by_document(rows, lambda c: float(c.chosen.right))
    oracle = _by_document(rows, lambda c: float(any(o.right for o in c.options)))
    floor = _by_document(rows, lambda c: float(all(o.right for o in c.options)))
    own = {member: _by_document(rows, lambda c, m=member: _share(c, m)) for member in members}  # type: ignore[misc]
    choices = [choice for row in rows for choice in row.choices]
    best = max(members, key=lambda m: math.fsum(own[m]))
    gap = [o - b for o, b in zip(oracle, own[best], strict=True)]
    gain = [c - b for c, b in zip(chosen, own[best], strict=True)]
    interval = cluster_bootstrap(gain, gap, clusters, resamples=_draws(clusters), seed=seed)
    return {
        "members": {m: _member(m, own[m], chosen, choices, clusters, seed) for m in members},
        "ensemble": score_figures(chosen, clusters),
        "oracle": score_figures(oracle, clusters),
        "floor": score_figures(floor, clusters),
        "random": math.fsum(math.fsum(own[m]) for m in members) / len(members) / len(rows),
        "best_member": best,
        "regret": math.fsum(oracle) / len(rows) - math.fsum(chosen) / len(rows),
        "recovered": {
            "value": math.fsum(gain) / math.fsum(gap) if math.fsum(gap) else None,
            "low": interval[0] if interval else None,
            "high": interval[1] if interval else None,
            "reason": None if math.fsum(gap) else f"no choice is better than always taking {best}",
        },
        "selection": _selection(rows, members, clusters, seed),
        "picks": _shares(Counter("agreement" if c.reason == "agreement" else c.chosen.member for c in choices)),
        "reasons": _shares(Counter(c.reason for c in choices)),
        "rule": Counter(c.rule for c in choices).most_common(1)[0][0],
        "diversity": diversity(choices, members),
    }


def _member(
    name: str, own: Sequence[float], chosen: Sequence[float], choices: Sequence[Choice], clusters: Sequence[Any], seed: int
) -> dict[str, Any]:
    """A member alone, and the ensemble against it, on the same candidates."""
    paired = compare_paired(chosen, own, clusters, seed)
    gain = paired.difference
    known = [v for c in choices for o in c.options if o.member == name and (v := o.scores.get("causal")) is not None]
    return {
        **score_figures(own, clusters),
        "selected": sum(c.chosen.member == name for c in choices) / len(choices),
        "mean_log_ppl": math.fsum(known) / len(known) if known else None,
        "ensemble_minus_member": {
            "difference": gain.mean,
            "low": gain.low if gain.se else None,
            "high": gain.high if gain.se else None,
            "p": paired.p,
            "p_mcnemar_unclustered": paired.p_unclustered,
            "wins": paired.wins,
            "losses": paired.losses,
            "ties": len(own) - paired.wins - paired.losses,
        },
    }


def _selection(rows: Sequence[Answer], members: Sequence[str], clusters: Sequence[Any], seed: int) -> dict[str, Any]:
    """Right choices among the decisive ones, where some but not all candidates are right."""
    decisive = [choice for row in rows for choice in row.choices if choice.decisive]
    n, right = len(decisive), sum(choice.chosen.right for choice in decisive)
    by_member = {}
    for member in members:
        here = [choice for choice in decisive if _share(choice, member) > 0]
        by_member[member] = {"n": len(here), "accuracy": _mean(choice.chosen.right for choice in here)}
    counts = [sum(choice.decisive for choice in row.choices) for row in rows]
    hits = [sum(choice.decisive and choice.chosen.right for choice in row.choices) for row in rows]
    interval = cluster_bootstrap(hits, counts, clusters, resamples=_draws(clusters), seed=seed) if n else None
    known = [entry["accuracy"] for entry in by_member.values() if entry["accuracy"] is not None]
    return {
        "n": n,
        "right": right,
        "accuracy": right / n if n else None,
        "low": interval[0] if interval else None,
        "high": interval[1] if interval else None,
        "wilson": list(wilson(right, n)) if n else None,
        "by_member": by_member,
        "balanced": _mean(known) if len(known) == len(members) else None,
        "break_even": max(_mean(_share(c, m) for c in decisive) or 0.0 for m in members) if n else None,
    }


def _breakdowns(rows: Sequence[Answer], members: Sequence[str]) -> dict[str, Any]:
    """By length of the gap and by problem."""
    binned: dict[int, list[Answer]] = {}
    for row in rows:
        if row.length is not None:
            binned.setdefault(sum(row.length >= end for end in LENGTHS), []).append(row)
    problems: dict[Any, list[Answer]] = {}
    for row in rows:
        if row.problem is not None:
            problems.setdefault(row.problem, []).append(row)
    ends = (0, *LENGTHS)
    lengths = [
        {"low": ends[i], "high": LENGTHS[i] if i < len(LENGTHS) else None, **_part(binned[i], members)} for i in sorted(binned)
    ]
    kinds = sorted({row.length_of for row in rows if row.length is not None})
    return {
        "by_length": {"of": "+".join(kinds), "unit": "characters", "bins": lengths} if lengths else None,
        "by_problem": [{"problem": name, **_part(own, members)} for name, own in problems.items()],
    }


def _part(rows: Sequence[Answer], members: Sequence[str]) -> dict[str, Any]:
    part: dict[str, Any] = {"n": len(rows), "score": _mean(row.value for row in rows)}
    if members:
        choices = [choice for row in rows for choice in row.choices]
        decisive = [choice for choice in choices if choice.decisive]
        part["members"] = {m: _mean(_share(c, m) for c in choices) for m in members}
        part["oracle"] = _mean(any(o.right for o in c.options) for c in choices)
        part["decisive"] = len(decisive)
        part["selection_accuracy"] = _mean(c.chosen.right for c in decisive)
    return part


def _forwards(rows: Sequence[Answer], members: Sequence[str]) -> dict[str, float]:
    """Mean row-forwards per document, of members that count them."""
    found = {}
    for member in members:
        own = [o.row_forwards for row in rows for c in row.choices for o in c.options if o.member == member]
        known = [value for value in own if value is not None]
        if known:
            found[member] = math.fsum(known) / len(rows)
    return found


def _by_document(rows: Sequence[Answer], value: Callable[[Choice], float]) -> list[float]:
    """Mean over the repeats of each document."""
    return [float(np.mean([value(choice) for choice in row.choices])) if row.choices else 0.0 for row in rows]


def _share(choice: Choice, member: str) -> float:
    """Share of right ones among a member's candidates of one completion."""
    own: list[Option] = [option for option in choice.options if option.member == member]
    return sum(option.right for option in own) / len(own) if own else 0.0


def _shares(counts: Mapping[str, int]) -> dict[str, float]:
    total = sum(counts.values())
    return {name: counts[name] / total for name in sorted(counts)}


def _mean(values: Any) -> float | None:
    found = [float(value) for value in values]
    return math.fsum(found) / len(found) if found else None


def _draws(clusters: Sequence[Any]) -> int:
    """Bootstrap resamples: 10,000, fewer where there are so many clusters that the interval hardly moves."""
    return max(500, min(10_000, 20_000_000 // max(1, len(set(clusters)))))
