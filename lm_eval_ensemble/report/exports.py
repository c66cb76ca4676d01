"""Two flat files for other tools: one line per completion, and one summary per task."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from lm_eval_ensemble.runs.load import TaskRun
from lm_eval_ensemble.runs.samples import Sample, Samples, read
from lm_eval_ensemble.types import Scored

__all__ = ["flat", "flat_lines", "stats"]


def flat_lines(run: TaskRun) -> tuple[list[str], Samples[Any]]:
    """JSON lines with ``task_id, completion``, then ``<member>_output`` and ``<member>_perplexity`` of each member, ``winner,
    prefix, suffix, canonical_solution``, and how they were read. ``lm-eval-ensemble judge`` reads them.

    The perplexity is exp of the mean negative log-likelihood per token given the prefix (score ``causal``), whatever rule
    chose; null where it was not recorded or overflows. A member's first candidate stands for it. Repeats are lines of one
    ``task_id``. Documents whose model wrote nothing (multiple choice) have no line.
    """
    samples = read(run, flat)
    return [line for lines in samples.rows for line in lines], samples


def flat(sample: Sample) -> list[str]:
    """The lines of one document."""
    doc, reference = sample.doc, sample.reference()
    head = {"task_id": doc.get("task_id", sample.number)}
    tail = {
        "prefix": doc.get("prefix", doc.get("prompt") if "suffix" in doc else None),
        "suffix": doc.get("suffix"),
        "canonical_solution": sample.raw.get("target") if reference is None else reference,
    }
    if not sample.choices:
        try:
            texts = sample.answers()
        except ValueError:
            texts = [] if sample.answer is None else [sample.answer["answer"]]
        rows: list[dict[str, Any]] = [{**head, "completion": text, "winner": None, **tail} for text in texts]
        return [json.dumps(row, ensure_ascii=False) for row in rows]
    lines = []
    for choice in sample.choices:
        first: dict[str, Scored] = {}
        for scored in choice.selection.candidates:
            first.setdefault(scored.candidate.member, scored)
        row = {
            **head,
            "completion": choice.chosen.candidate.text,
            **{f"{member}_output": own.candidate.text for member, own in first.items()},
            **{f"{member}_perplexity": _perplexity(own) for member, own in first.items()},
            "winner": choice.chosen.candidate.member,
            **tail,
        }
        lines.append(json.dumps(row, ensure_ascii=False))
    return lines


def _perplexity(scored: Scored) -> float | None:
    score = scored.scores.get("causal")
    return round(math.exp(score), 5) if score is not None and score < 700 else None


def stats(figures: Mapping[str, Any]) -> dict[str, Any]:
    """``n, score, oracle, floor`` of a task, and per member ``score, selected, mean_log_ppl`` (mean of ``causal``, nats per
    token: the geometric mean of perplexities is its exp, an arithmetic one is set by outliers)."""
    found = {"n": figures["n"]}
    if figures["n"]:
        found["score"] = figures["score"]["value"]
        for bound in ("oracle", "floor"):
            found[bound] = figures[bound]["value"] if bound in figures else None
        found["members"] = {
            name: {"score": entry["value"], "selected": entry["selected"], "mean_log_ppl": entry["mean_log_ppl"]}
            for name, entry in figures.get("members", {}).items()
        }
    return found
