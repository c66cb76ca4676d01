"""Figures of answered questions: is an answer right by each rule, and does a score tell the wrong ones?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from lm_eval_ensemble.metrics.uncertainty import auroc
from lm_eval_ensemble.report.records import Answer
from lm_eval_ensemble.report.signals import curves

__all__ = ["question_figures"]

#: what counts as right: the first is the tasks' own rule (question tasks write F1, exact match and ROUGE-L).
_RULES = {"f1>=0.5": ("f1", 0.5), "em": ("em", 1.0), "rougeL>=0.3": ("rougeL", 0.3)}


def question_figures(rows: Sequence[Answer]) -> dict[str, Any]:
    """``answers`` and ``uncertainty`` of a run with such records; nothing else otherwise."""
    told = [row.uncertainty for row in rows if row.uncertainty is not None]
    found: dict[str, Any] = {}
    if told:
        lengths = [float(entry["tokens"]) for entry in told if entry["tokens"] is not None]
        found["answers"] = {
            "n": len(told),
            "right": {
                rule: _mean([value >= least for entry in told if (value := _share(entry[key])) is not None])
                for rule, (key, least) in _RULES.items()
            },
            "mean": {
                key: _mean([value for entry in told if (value := _share(entry[key])) is not None])
                for key in ("f1", "em", "rougeL")
            },
            "truncated": _mean([bool(entry["truncated"]) for entry in told]),
            "empty": _mean([bool(entry["empty"]) for entry in told]),
            "mean_tokens": _mean(lengths),
            "stops": dict(Counter(str(entry["stop_kind"]) for entry in told if entry["stop_kind"])),
        }
    names = list(dict.fromkeys(name for row in rows for name in row.pairs))
    if names:
        found["uncertainty"] = {name: _score(rows, name) for name in names}
    return found


def _score(rows: Sequence[Answer], name: str) -> dict[str, Any]:
    """Area under the ROC curve (wrong is the positive class) with DeLong's interval, and risk-coverage."""
    pairs = [row.pairs[name] for row in rows if name in row.pairs]
    score, wrong = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    area = auroc(score, wrong)
    more = curves(score, wrong) or {}
    kept = {key: more.get(key) for key in ("aurc", "eaurc", "prr", "points")}
    return {**area.as_json(), "wrong": sum(wrong), **kept}


def _share(value: Any) -> float | None:
    """A number from 0 to 1; None for anything else, not-a-number among it."""
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
