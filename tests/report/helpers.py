"""Small runs written by the tests, in the format of lm_eval."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval_ensemble.report.records import Measured, read_measured
from lm_eval_ensemble.runs.load import TaskRun
from lm_eval_ensemble.runs.samples import Choice
from lm_eval_ensemble.types import Scored, Selection

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "runs"
DATE = "2026-01-02T03-04-05.000006"


def sample(doc_id: int, value: Any, metric: str = "acc", problem: str | None = None, **more: Any) -> dict[str, Any]:
    """A line of a samples file; ``doc_hash`` names the content, whatever the number."""
    doc = {"question": f"q{doc_id}"} | ({"problem": problem} if problem else {})
    return {
        "doc_id": doc_id,
        "doc": doc,
        "filter": "none",
        "metrics": [metric],
        "doc_hash": f"hash{doc_id}",
        metric: value,
        **more,
    }


def write_run(
    folder: Path,
    samples: Sequence[Mapping[str, Any] | str] | None,
    task: str = "t",
    metric: str = "acc",
    model: str | None = None,
    value: float | None = None,
    date: str = DATE,
    **changes: Any,
) -> Path:
    """A results folder; samples given as text are written as they are. The results agree with the samples unless told."""
    folder.mkdir(parents=True, exist_ok=True)
    good = [entry for entry in samples or () if isinstance(entry, Mapping)]
    numbers = [entry[metric] for entry in good if isinstance(entry.get(metric), int | float)]
    mean = value if value is not None else sum(numbers) / len(numbers) if numbers else 0.0
    content = {
        "results": {task: {"alias": task, f"{metric},none": mean, f"{metric}_stderr,none": 0.1}},
        "configs": {task: {"task": task}},
        "config": {"model": "hf", "model_args": "pretrained=x"},
        "n-samples": {task: {"original": 1000, "effective": len(samples or ())}},
        "higher_is_better": {task: {metric: True}},
        "model_name": model or folder.name,
        "model_source": "hf",
        "total_evaluation_time_seconds": "12.0",
        **changes,
    }
    (folder / f"results_{date}.json").write_text(json.dumps(content), encoding="utf-8")
    if samples is not None:
        lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in samples]
        (folder / f"samples_{task}_{date}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def read_lines(samples: Sequence[Mapping[str, Any]], metric: str = "pass@1") -> tuple[list[Measured], list[str]]:
    """The rows of a report made of samples, as if they stood in a file named ``file``, and what was told of them."""
    run = TaskRun("t", "m", "hf", {}, {}, {metric: 0.0}, Path("results"), Path("file"), "")
    rows, found = read_measured(run, metric, enumerate(samples, 1))
    return rows, list(found.problems)


def chosen(
    candidates: Sequence[tuple[Scored, bool]], winner: int, reason: str = "score", rule: str = "fim", **settings: Any
) -> Choice:
    """A choice between candidates (each with whether it is right)."""
    selection = Selection(tuple(scored for scored, _ in candidates), winner, reason, rule, settings)
    return Choice(selection, tuple(right for _, right in candidates))


def candidate(member: str, text: str, right: bool, score: float | None = None, **more: Any) -> dict[str, Any]:
    scores = {} if score is None else {"fim": score, "causal": score}
    verdict = "pass" if right else "fail"
    return {
        "member": member,
        "text": text,
        "raw": text,
        "right": right,
        "scores": scores,
        "verdict": verdict,
        "why": "",
        **more,
    }


def record(candidates: Sequence[Mapping[str, Any]], winner: int, reason: str = "score", rule: str = "fim") -> dict[str, Any]:
    return {
        "measure": "pass@1",
        "winner": candidates[winner]["member"],
        "winner_index": winner,
        "reason": reason,
        "rule": rule,
        "candidates": list(candidates),
    }


def ensemble_sample(doc_id: int, selection: Mapping[str, Any], problem: str | None = None, middle: str = "x") -> dict[str, Any]:
    """A document of an ensemble, with the rows that the task derives from the record."""
    completions = selection.get("completions", [selection])
    chosen = [c["candidates"][c["winner_index"]]["right"] for c in completions]
    found = sample(doc_id, sum(chosen) / len(chosen), "pass@1", problem, selection=selection)
    found["doc"] |= {"task_id": f"task/{doc_id}", "prefix": "p", "suffix": "s", "middle": middle}
    for member in dict.fromkeys(c["member"] for c in selection["candidates"]):
        own = [c["right"] for entry in completions for c in entry["candidates"] if c["member"] == member]
        found[f"pass@1_{member}"] = sum(own) / len(own)
    found["pass@1_oracle"] = sum(any(c["right"] for c in e["candidates"]) for e in completions) / len(completions)
    found["pass@1_floor"] = sum(all(c["right"] for c in e["candidates"]) for e in completions) / len(completions)
    return found
