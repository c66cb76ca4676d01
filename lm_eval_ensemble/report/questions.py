"""Figures of answered questions: is an answer right by each rule, and does a score tell the wrong ones?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from lm_eval_ensemble.metrics.uncertainty import auroc, usable
from lm_eval_ensemble.report.records import Measured
from lm_eval_ensemble.report.signals import curves
from lm_eval_ensemble.runs.answer import RULES, is_right, value_of

__all__ = ["question_figures"]

#: the rules of question tasks as the figures call them (``stored`` is that of old files, which are no runs).
_RULES = {f"{rule}>={least:g}" if least < 1 else rule: rule for rule, least in RULES.items() if rule != "stored"}


def question_figures(rows: Sequence[Measured]) -> dict[str, Any]:
    """``answers`` and ``uncertainty`` of a run with such records; nothing else otherwise."""
    records = [row.answer for row in rows if row.answer is not None]
    found: dict[str, Any] = {}
    if records:
        lengths = [float(len(record["logprobs"])) for record in records if record.get("logprobs") is not None]
        found["answers"] = {
            "n": len(records),
            "right": {
                name: _mean([r for record in records if (r := is_right(record, rule)) is not None])
                for name, rule in _RULES.items()
            },
            "mean": {
                rule: _mean([v for record in records if (v := value_of(record, rule)) is not None]) for rule in _RULES.values()
            },
            "truncated": _mean([bool(record.get("truncated")) for record in records]),
            "empty": _mean([not record["answer"] for record in records]),
            "mean_tokens": _mean(lengths),
            "stops": dict(Counter(str(record["stop_kind"]) for record in records if record.get("stop_kind"))),
        }
    names = list(dict.fromkeys(name for row in rows for name in row.areas))
    if names:
        found["uncertainty"] = {name: _score(rows, name) for name in names}
    return found


def _score(rows: Sequence[Measured], name: str) -> dict[str, Any]:
    """Area under the ROC curve (wrong is the positive class) with its interval, and risk-coverage."""
    having = [row for row in rows if name in row.areas]
    pairs = [row.areas[name] for row in having]
    score, wrong = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    area = auroc(score, wrong, [row.cluster for row in having])
    more = curves(score, wrong) or {}
    kept = {key: more.get(key) for key in ("aurc", "eaurc", "prr", "risk", "points", "roc")}
    return {**area.as_json(), "wrong": int(usable(score, wrong).wrong.sum()), **kept}


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
