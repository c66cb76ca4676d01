"""Two flat files for other tools: one line per completion, and one summary per task."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lm_eval_ensemble.report.documents import as_number, record_of
from lm_eval_ensemble.report.load import first_few

__all__ = ["flat_lines", "stats"]


def flat_lines(
    samples: Iterable[tuple[int, Mapping[str, Any]]], filter_name: str, where: str, problems: list[str]
) -> Iterator[str]:
    """JSON lines with ``task_id, completion``, then ``<member>_output`` and ``<member>_perplexity`` of each member, ``winner,
    prefix, suffix, canonical_solution``. ``lm-eval-ensemble judge`` reads them.

    The perplexity is exp of the mean negative log-likelihood per token given the prefix (score ``causal``), whatever rule
    chose; null where it was not recorded or overflows. A member's first candidate stands for it. Repeats are lines of one
    ``task_id``.
    """
    told: list[str] = []
    seen = set()
    for line, sample in samples:
        if sample.get("filter", filter_name) != filter_name:
            continue
        identity = (repr(sample.get("doc_id")), repr(sample.get("doc_hash")))
        if identity in seen:
            told.append(f"{where}, line {line}: the document stands there again; it is not exported.")
            continue
        try:
            rows = _flat(sample)
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            told.append(f"{where}, line {line}: the record is damaged ({type(error).__name__}: {error}); it is not exported.")
            continue
        seen.add(identity)
        yield from (json.dumps(row, ensure_ascii=False) for row in rows)
    problems += first_few(told, where)


def _flat(sample: Mapping[str, Any]) -> list[dict[str, Any]]:
    doc = sample["doc"] if isinstance(sample.get("doc"), Mapping) else {}
    head = {"task_id": doc.get("task_id", sample["doc_id"])}
    tail = {
        "prefix": doc.get("prefix"),
        "suffix": doc.get("suffix"),
        "canonical_solution": doc.get("middle", sample.get("target")),
    }
    record = record_of(sample)
    if record is None:
        if sample.get("selection") is not None:
            raise ValueError("selection has no candidates")
        return [{**head, "completion": text, "winner": None, **tail} for text in _texts(sample)]
    rows = []
    for completion in record.get("completions", [record]):
        candidates = completion["candidates"]
        if not (isinstance(winner := completion["winner_index"], int) and 0 <= winner < len(candidates)):
            raise ValueError(f"winner_index is {winner}, there are {len(candidates)} candidates")
        first: dict[str, Mapping[str, Any]] = {}
        for candidate in candidates:
            first.setdefault(str(candidate["member"]), candidate)
        rows.append(
            {
                **head,
                "completion": candidates[winner]["text"],
                **{f"{member}_output": own["text"] for member, own in first.items()},
                **{f"{member}_perplexity": _perplexity(own) for member, own in first.items()},
                "winner": completion["winner"],
                **tail,
            }
        )
    return rows


def _texts(sample: Mapping[str, Any]) -> list[str]:
    """The answers of a model that keeps no record of candidates; of a question its recorded answer serves as well."""
    told = sample.get("uncertainty")
    if not sample.get("filtered_resps") and isinstance(told, Mapping) and isinstance(told.get("answer"), str):
        return [told["answer"]]
    found = [text for texts in sample.get("filtered_resps", ()) for text in (texts if isinstance(texts, list) else [texts])]
    if not found or not all(isinstance(text, str) for text in found):
        raise ValueError("filtered_resps holds no texts")
    return found


def _perplexity(candidate: Mapping[str, Any]) -> float | None:
    score = as_number((candidate.get("scores") or {}).get("causal"))
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
