"""The figures of one task of one run, from its samples alone. Formulas and how to read them: ``docs/report.md``.

:func:`figures` gives one dict, JSON-able, without NaN: what does not exist is None or left out. Text, page and plots are made
from it. Shares are between 0 and 1; higher is better unless ``docs/report.md`` says otherwise.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lm_eval_ensemble.metrics.clustered import Clusters, cluster_codes, clustered_share, wilson
from lm_eval_ensemble.metrics.paired import compare_paired
from lm_eval_ensemble.metrics.recovered import recovered_interval
from lm_eval_ensemble.metrics.standing import repeated, standing
from lm_eval_ensemble.report.candidates import Candidates
from lm_eval_ensemble.report.failures import failures
from lm_eval_ensemble.report.questions import question_figures
from lm_eval_ensemble.report.records import Measured
from lm_eval_ensemble.report.signals import diversity, risk_coverage, scorers
from lm_eval_ensemble.runs.samples import as_number, kind_of_clusters
from lm_eval_ensemble.types import RUN

__all__ = ["LENGTHS", "figures", "score_figures"]

#: upper ends of the length bins, in characters.
LENGTHS = (10, 20, 40, 80, 160)


def figures(rows: Sequence[Measured], seed: int = 0) -> dict[str, Any]:
    """All figures that make sense for these rows: of an ensemble, of one model, of a run of questions."""
    if not rows:
        return {"n": 0}
    clusters = cluster_codes([row.cluster for row in rows])
    found: dict[str, Any] = {
        "n": len(rows),
        "problems": int(clusters.max()) + 1,
        "clusters_are": kind_of_clusters(row.clustered_by for row in rows) or "problems",
        "documents_without_problem": sum(row.problem is None for row in rows),
        "clustered_by_text": any(row.clustered_by == "texts" for row in rows),
        "completions_per_document": max((len(row.choices) for row in rows), default=0) or 1,
        "score": score_figures([row.value for row in rows], clusters),
    }
    choices = [choice for row in rows for choice in row.choices]
    members = list(dict.fromkeys(s.candidate.member for choice in choices for s in choice.selection.candidates))
    if not members:
        return found | _breakdowns(rows, None, clusters) | question_figures(rows)
    documents = _Documents(rows, Candidates(choices, members), clusters)
    if (apart := _repeats(documents)) is not None:
        found["repeats"] = apart
    single = len(members) < 2 and all(len(choice.right) == 1 for choice in choices)
    if not single:
        found |= _ensemble(documents, seed)
    found |= _breakdowns(rows, None if single else documents, clusters)
    found["scorers"] = scorers(documents.candidates, documents.document, clusters)
    found["risk_coverage"] = risk_coverage(choices, clusters[documents.document])
    found["failures"] = failures(choices, members)
    found["row_forwards"] = _forwards(documents)
    return found | question_figures(rows)


def _repeats(documents: _Documents) -> dict[str, float] | None:
    """The standard error of the score within and between documents; None without repeats. The runs of ``length=fixed-mean`` are
    none: they differ in more than chance."""
    candidates = documents.candidates
    if any(candidates.every[place].candidate.info.get(RUN) is not None for place in candidates.winner.tolist()):
        return None
    apart = repeated(candidates.is_right, documents.document, documents.clusters)
    return None if apart is None else asdict(apart)


def score_figures(values: ArrayLike, clusters: Clusters) -> dict[str, Any]:
    """A mean over documents with its 95 % interval; ``wilson`` takes documents for independent (0/1 values only)."""
    stands = standing(values, clusters)
    mean = stands.clustered
    return {
        "value": mean.mean,
        "low": mean.low,
        "high": mean.high,
        "se": mean.se,
        "deff": mean.deff,
        "df": mean.df,
        "wilson": None if stands.wilson is None else list(stands.wilson),
        "n": mean.n,
        "clusters": mean.clusters,
    }


class _Documents:
    """The choices of a run by document: (n,) means over its repeats.

    A member that was not asked for a document has no value there (NaN).
    """

    def __init__(self, rows: Sequence[Measured], candidates: Candidates, clusters: NDArray[np.intp]) -> None:
        self.candidates, self.clusters, self.n = candidates, clusters, len(rows)
        repeats = np.array([len(row.choices) for row in rows], dtype=np.intp)
        self.repeats = repeats
        #: (C,) the document of each choice.
        self.document = np.repeat(np.arange(len(rows), dtype=np.intp), repeats)
        self.chosen, self.oracle, self.floor = map(self.mean, (candidates.is_right, candidates.any_right, candidates.all_right))
        every, right = candidates.counts
        with np.errstate(invalid="ignore"):
            self.own = {name: self.total(right[:, m]) / self.total(every[:, m]) for m, name in enumerate(candidates.members)}
        #: (n,) whether all members answered.
        self.shared = ~np.isnan(list(self.own.values())).any(axis=0)

    def total(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """(n,) sum over the choices of each document."""
        return np.bincount(self.document, values, self.n).astype(np.float64)

    def mean(self, values: NDArray[Any]) -> NDArray[np.float64]:
        return self.total(values) / self.repeats


def _ensemble(documents: _Documents, seed: int) -> dict[str, Any]:
    """Members, bounds, and what selection did with them.

    A member's own row is over the documents it answered, against the ensemble on the same ones; what sets all members side by
    side (the best of them, gain, break-even) is over the documents that all of them answered, and left out where there is none.
    """
    candidates, clusters, shared = documents.candidates, documents.clusters, documents.shared
    selections = [choice.selection for choice in candidates.choices]
    winners = [candidates.members[number] for number in candidates.member[candidates.winner]]
    picked = ("agreement" if s.reason == "agreement" else winner for s, winner in zip(selections, winners, strict=True))
    selection, recovered = _selection(documents), _against_the_best(documents)
    hits = documents.total(candidates.decisive & candidates.is_right)
    accuracy = clustered_share(hits, clusters, documents.total(candidates.decisive))
    if accuracy is not None:
        selection |= {"low": accuracy.low, "high": accuracy.high, "deff": accuracy.deff, "df": accuracy.df}
        selection["clusters"] = accuracy.clusters
    gain, gap = recovered.pop("gain"), recovered.pop("gap")
    regained = recovered_interval(gain, gap, clusters[shared]) if len(gain) else None
    recovered["recovered"]["low"], recovered["recovered"]["high"] = regained or (None, None)
    return {
        "members": {name: _member(documents, number, seed) for number, name in enumerate(candidates.members)},
        "documents_of_all_members": int(shared.sum()),
        "ensemble": score_figures(documents.chosen, clusters),
        "oracle": score_figures(documents.oracle, clusters),
        "floor": score_figures(documents.floor, clusters),
        **recovered,
        "selection": selection,
        "picks": _shares(Counter(picked)),
        "reasons": _shares(Counter(s.reason for s in selections)),
        "rule": Counter(s.rule for s in selections).most_common(1)[0][0],
        "diversity": diversity(candidates),
    }


def _against_the_best(documents: _Documents) -> dict[str, Any]:
    """What always taking the best member would give, and how much of the gap to the oracle selection recovers; ``gain`` and
    ``gap`` are by document."""
    shared = documents.shared
    regret = float(documents.oracle.mean() - documents.chosen.mean())
    own = {name: values[shared] for name, values in documents.own.items()}
    oracle, chosen = documents.oracle[shared], documents.chosen[shared]
    if not len(oracle):
        recovered = {"value": None, "low": None, "high": None, "reason": "no document was answered by all members"}
        return {
            "random": None,
            "best_member": None,
            "members_are_level": False,
            "regret": regret,
            "recovered": recovered,
            "gain": oracle,
            "gap": oracle,
        }
    best = max(own, key=lambda name: math.fsum(own[name]))
    gap, gain = oracle - own[best], chosen - own[best]
    whole = math.fsum(gap)
    reason = None if whole else f"no choice is better than always taking {best}"
    return {
        "random": float(np.mean([values.mean() for values in own.values()])),
        "best_member": best,
        "members_are_level": len({math.fsum(values) for values in own.values()}) == 1,
        "regret": regret,
        "recovered": {"value": math.fsum(gain) / whole if whole else None, "low": None, "high": None, "reason": reason},
        "gain": gain,
        "gap": gap,
    }


def _member(documents: _Documents, number: int, seed: int) -> dict[str, Any]:
    """A member alone, and the ensemble against it, on the documents it answered."""
    candidates = documents.candidates
    own = documents.own[candidates.members[number]]
    there = ~np.isnan(own)
    own, clusters = own[there], documents.clusters[there]
    paired = compare_paired(documents.chosen[there], own, clusters, seed)
    gain = paired.difference
    scores = candidates.scores.get("causal", np.array([]))
    known = scores[candidates.member == number] if len(scores) else scores
    known = known[~np.isnan(known)]
    return {
        **score_figures(own, clusters),
        "selected": float((candidates.member[candidates.winner] == number).mean()),
        "mean_log_ppl": math.fsum(known) / len(known) if len(known) else None,
        "ensemble_minus_member": {
            "difference": gain.mean,
            "low": gain.low,
            "high": gain.high,
            "df": gain.df,
            "detectable": paired.detectable,
            "p": paired.p,
            "p_mcnemar_unclustered": paired.p_unclustered,
            "wins": paired.wins,
            "losses": paired.losses,
            "ties": len(own) - paired.wins - paired.losses,
        },
    }


def _selection(documents: _Documents) -> dict[str, Any]:
    """Right choices among the decisive ones, where some but not all candidates are right."""
    candidates = documents.candidates
    is_right, share = candidates.is_right[candidates.decisive], candidates.share[candidates.decisive]
    n, right = len(is_right), int(is_right.sum())
    by_member = {}
    for number, member in enumerate(candidates.members):
        here = is_right[share[:, number] > 0]
        by_member[member] = {"n": len(here), "accuracy": _mean(here)}
    known = [entry["accuracy"] for entry in by_member.values() if entry["accuracy"] is not None]
    full = share[~np.isnan(share).any(axis=1)]
    return {
        "n": n,
        "right": right,
        "accuracy": right / n if n else None,
        "low": None,
        "high": None,
        "wilson": list(wilson(right, n)) if n else None,
        "by_member": by_member,
        "balanced": float(np.mean(known)) if len(known) == len(by_member) else None,
        "break_even": float(full.mean(axis=0).max()) if len(full) else None,
    }


def _intervals(
    rows: Sequence[Measured], where: NDArray[np.bool_], clusters: NDArray[np.intp], documents: _Documents | None
) -> dict[str, list[float | None]]:
    """``score`` and members -> both ends of the interval of a part of the documents."""
    columns = {"score": np.array([row.value for row in rows]), **({} if documents is None else documents.own)}
    found = {}
    for name, values in columns.items():
        there = where & ~np.isnan(values)
        stands = score_figures(values[there], clusters[there]) if there.any() else {"low": None, "high": None}
        found[name] = [stands["low"], stands["high"]]
    return found


def _breakdowns(rows: Sequence[Measured], documents: _Documents | None, clusters: NDArray[np.intp]) -> dict[str, Any]:
    """By length of the gap and by problem; of members too where they are told apart."""
    binned = [None if row.length is None else sum(row.length >= end for end in LENGTHS) for row in rows]
    ends = (0, *LENGTHS)
    lengths = [
        {"low": ends[i], "high": LENGTHS[i] if i < len(LENGTHS) else None, **part}
        for i, part in sorted(_parts(rows, binned, documents).items())
    ]
    for part, number in zip(lengths, sorted({number for number in binned if number is not None}), strict=True):
        part["intervals"] = _intervals(rows, np.array([own == number for own in binned]), clusters, documents)
    kinds = sorted({row.length_of for row in rows if row.length is not None})
    problems = _parts(rows, [row.problem for row in rows], documents)
    return {
        "by_length": {"of": "+".join(kinds), "unit": "characters", "bins": lengths} if lengths else None,
        "by_problem": [{"problem": name, **part} for name, part in problems.items()],
    }


def _parts(rows: Sequence[Measured], names: Sequence[Hashable], documents: _Documents | None) -> dict[Any, dict[str, Any]]:
    """What is said of each part of the documents; those named None belong to none."""
    known = dict.fromkeys(name for name in names if name is not None)
    if not known:
        return {}
    numbers = {name: number for number, name in enumerate(known)}
    part = np.array([numbers.get(name, len(known)) for name in names], dtype=np.intp)
    n = np.bincount(part, minlength=len(known))
    score = np.bincount(part, [row.value for row in rows], len(known)) / np.maximum(n[: len(n)], 1)
    parts: dict[Any, dict[str, Any]] = {name: {"n": int(n[i]), "score": float(score[i])} for name, i in numbers.items()}
    if documents is None:
        return parts
    candidates = documents.candidates
    of_choice = part[documents.document]

    def means(values: NDArray[Any], where: NDArray[np.bool_]) -> list[float | None]:
        total = np.bincount(of_choice[where], values[where], len(known) + 1)
        count = np.bincount(of_choice[where], minlength=len(known) + 1)
        return [float(t / c) if c else None for t, c in zip(total.tolist(), count.tolist(), strict=True)]

    everywhere = np.ones(len(of_choice), dtype=bool)
    members = {m: means(candidates.share[:, i], ~np.isnan(candidates.share[:, i])) for i, m in enumerate(candidates.members)}
    oracle, accuracy = means(candidates.any_right, everywhere), means(candidates.is_right, candidates.decisive)
    decisive = np.bincount(of_choice[candidates.decisive], minlength=len(known) + 1).tolist()
    for name, i in numbers.items():
        parts[name] |= {
            "members": {member: values[i] for member, values in members.items()},
            "oracle": oracle[i],
            "decisive": decisive[i],
            "selection_accuracy": accuracy[i],
        }
    return parts


def _forwards(documents: _Documents) -> dict[str, float]:
    """Mean row-forwards per document, of members that count them."""
    counted: dict[str, list[float]] = {}
    for scored in documents.candidates.every:
        if (count := as_number(scored.candidate.info.get("row_forwards"))) is not None:
            counted.setdefault(scored.candidate.member, []).append(count)
    members = [member for member in documents.candidates.members if member in counted]
    return {member: math.fsum(counted[member]) / documents.n for member in members}


def _shares(counts: Mapping[str, int]) -> dict[str, float]:
    total = sum(counts.values())
    return {name: counts[name] / total for name in sorted(counts)}


def _mean(values: NDArray[np.bool_]) -> float | None:
    return float(values.mean()) if len(values) else None
