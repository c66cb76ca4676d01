"""The rows of an infilling task: per document numbers from the records of its completions.

``selections`` are the repeats of one document (usually one). A *measure* says whether one candidate is right.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lm_eval_ensemble.data import check_document
from lm_eval_ensemble.metrics.matching import edit_similarity
from lm_eval_ensemble.metrics.passk import pass_at_k
from lm_eval_ensemble.runs.samples import Measure, judged_measures, record
from lm_eval_ensemble.types import RUN, Selection, is_of_the_judge

__all__ = ["directions", "document_rows", "higher_is_better", "mean_defined", "selection_accuracy", "single_value"]

_WHOLE = {0.0: 0.0, 1.0: 1.0}


def document_rows(doc: Mapping[str, Any], selections: Sequence[Selection], ks: Sequence[int] = ()) -> dict[str, Any]:
    """All rows of one document.

    :param ks: further k for the unbiased pass@k; a k above the number of completions is left out.
    :returns: metric name -> number, and ``selection`` -> the record (real JSON) where the model told us how it chose.
    """
    check_document(doc, columns=("middle",))
    modes = {str(scored.facts["judge"]) for s in selections for scored in s.candidates if "judge" in scored.facts}
    right = judged_measures(doc, selections)
    chosen = [selection.candidates[selection.winner] for selection in selections]
    rows: dict[str, Any] = {name: _mean(map(is_right, chosen)) for name, is_right in right.items()}
    if "pass@1" in right:
        rows |= _pass_at(ks, [[right["pass@1"](s.candidates[s.winner]) for s in run] for run in _by_run(selections)], "")
        rows["timeout_rate"] = _mean(scored.verdict == "timeout" for scored in chosen)
        rows["judge_error_rate"] = _mean(any(is_of_the_judge(c.why) for c in s.candidates) for s in selections)
    if "language" in doc:
        rows["edit_similarity"] = _mean(edit_similarity(scored.candidate.text, doc["middle"]) for scored in chosen)
    rows["cut_rate"] = _mean(scored.candidate.was_cut for scored in chosen)
    if any("cleaned" in scored.candidate.info for selection in selections for scored in selection.candidates):
        rows["cleaned_rate"] = _mean(bool(scored.candidate.info.get("cleaned")) for scored in chosen)
    if selections[0].members != ("",):
        trims = ("trimmed_prefix", "trimmed_suffix")
        rows["trimmed_rate"] = _mean(any(c.candidate.info.get(t) for c in s.candidates for t in trims) for s in selections)
        if any("stop" in c.candidate.info for s in selections for c in s.candidates):
            rows["truncated_rate"] = _mean(scored.candidate.was_truncated for scored in chosen)
        rows["selection"] = record(doc, selections)
    rows |= _modes(selections)
    if modes:
        rows |= {"judge": single_value(sorted(modes)), "unjudgeable_rate": float("unjudgeable" in modes)}
    if len(selections[0].candidates) > 1:
        rows |= _ensemble_rows(doc, right, selections, ks)
    return rows


def _ensemble_rows(
    doc: Mapping[str, Any], right: Mapping[str, Measure], selections: Sequence[Selection], ks: Sequence[int]
) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    members = selections[0].members
    own = {m: [s for sel in selections for s in sel.candidates if s.candidate.member == m] for m in members}
    for name, is_right in right.items():
        rows |= {f"{name}_{member}": _mean(map(is_right, own[member])) for member in members}
        rows[f"{name}_oracle"] = _mean(any(map(is_right, s.candidates)) for s in selections)
        rows[f"{name}_floor"] = _mean(all(map(is_right, s.candidates)) for s in selections)
    for member in members:
        if "pass@1" in right:
            passed = [
                [right["pass@1"](s) for sel in run for s in sel.candidates if s.candidate.member == member]
                for run in _by_run(selections)
            ]
            rows |= _pass_at(ks, passed, f"_{member}")
        if "language" in doc:
            rows[f"edit_similarity_{member}"] = _mean(edit_similarity(s.candidate.text, doc["middle"]) for s in own[member])
        # Identical candidates are agreement, never a win: with agreement_rate these rates add up to 1.
        rows[f"pick_rate_{member}"] = _mean(s.chosen.member == member and s.reason != "agreement" for s in selections)
        values = [v for s in own[member] if (v := s.scores.get(selections[0].rule)) is not None and math.isfinite(v)]
        rows[f"log_ppl_{member}"] = _mean(values) if values else None
    rows["agreement_rate"] = _mean(s.reason == "agreement" for s in selections)
    rows["tie_rate"] = _mean(s.reason == "tie" for s in selections)
    return rows


def _by_run(selections: Sequence[Selection]) -> list[list[Selection]]:
    """The repeats of each run (``length=fixed-mean``); one run where no candidate names one."""
    found: dict[int, list[Selection]] = {}
    for selection in selections:
        run = next((s.candidate.info[RUN] for s in selection.candidates if RUN in s.candidate.info), 0)
        found.setdefault(run, []).append(selection)
    return list(found.values())


def _pass_at(ks: Sequence[int], runs: Sequence[Sequence[bool]], ending: str) -> dict[str, float]:
    """pass@k of each run, averaged: completions of two runs are never pooled."""
    n = min(map(len, runs))
    return {f"pass@{k}{ending}": _mean(pass_at_k(len(own), sum(own), k) for own in runs) for k in ks if 1 < k <= n}


def _modes(selections: Sequence[Selection]) -> dict[str, str]:
    """As text for the table: how diffusion members got their length, which layout autoregressive prompts had."""
    infos = [s.candidate.info for selection in selections for s in selection.candidates]
    found = {name: sorted({info[name] for info in infos if name in info}) for name in ("length_mode", "layout")}
    return {name: single_value(values) for name, values in found.items() if values}


def selection_accuracy(records: Sequence[Mapping[str, Any]]) -> float | None:
    """Share of right choices among the choices where some but not all candidates were right; higher is better.

    None if there is no such document: selection had nothing to decide.
    """
    decisive = []
    for entry in records:
        for completion in entry.get("completions", [entry]):
            right = [candidate["right"] for candidate in completion["candidates"]]
            if any(right) and not all(right):
                decisive.append(right[completion["winner_index"]])
    return _mean(decisive) if decisive else None


def mean_defined(values: Sequence[float | None]) -> float | None:
    """Mean of the values that exist; None if none does."""
    defined = [value for value in values if value is not None and math.isfinite(value)]
    return _mean(defined) if defined else None


def single_value(values: Sequence[str | None]) -> str:
    """The one value all share, or all of them in alphabetical order, joined by ``+``."""
    return "+".join(sorted({value for value in values if value is not None}))


def higher_is_better(name: str) -> bool | None:
    """Direction of a row; None where neither is better (who was picked, what the length came from)."""
    if name.startswith("pick_rate_") or name in ("agreement_rate", "length_mode", "layout", "judge", "unjudged"):
        return None
    rates = ("timeout", "judge_error", "unjudgeable", "cut", "cleaned", "tie", "trimmed", "truncated")
    return not name.startswith(("log_ppl_", *(f"{rate}_rate" for rate in rates)))


def directions(names: Iterable[str]) -> dict[str, bool]:
    """The rows that have a direction, with it."""
    found = {name: higher_is_better(name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _mean(values: Any) -> float:
    found = [float(value) for value in values]
    # One object for all documents that are simply right or wrong: there are twenty such rows in each.
    return _WHOLE.get(mean := sum(found) / len(found), mean)
