"""The other half of ``score``: models loaded, candidates scored and judged, the files of a run written."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from lm_eval.api.metrics import mean, mean_stderr
from lm_eval.utils import hash_string, sanitize_model_name, sanitize_task_name

from lm_eval_ensemble import ensemble
from lm_eval_ensemble.execution.files import TASKS, sets_of
from lm_eval_ensemble.harness.ensemble_lm import EnsemblePPL
from lm_eval_ensemble.harness.gaps import Gap, ScoreOptions, runs_of
from lm_eval_ensemble.harness.judging import judge_all
from lm_eval_ensemble.harness.task import row_aggregation
from lm_eval_ensemble.runs import rows as infill
from lm_eval_ensemble.runs.load import TaskRun
from lm_eval_ensemble.selection import Case, make_selector
from lm_eval_ensemble.types import Scored, Selection

__all__ = ["ScoredRun", "write_run"]


class ScoredRun:
    """The models of ``options.model_args``, of which none generates."""

    def __init__(self, options: ScoreOptions) -> None:
        given = {"store": "off", "batch_size": options.batch_size, "device": options.device, **options.model_args}
        self.model = EnsemblePPL(**{name: value for name, value in given.items() if value is not None})
        self.options = options

    def samples(self, gaps: Sequence[Gap]) -> list[dict[str, Any]]:
        """A line of the samples file for each document."""
        settings = self.model.settings
        pairs = [(gap.request, candidate) for gap in gaps for candidate in gap.candidates]
        scored = ensemble.score_candidates(self.model.scorers, pairs, settings, foreign=True)
        sandbox = None
        if self.options.judge is not None:
            documents = [gap.document for gap in gaps for _ in gap.candidates]
            scored, sandbox = judge_all(list(zip(documents, scored, strict=True)), self.options.judge, "score")
        found = iter(scored)
        lines = []
        for gap in gaps:
            chosen = [self._choose(gap, n, tuple(next(found) for _ in repeat)) for n, repeat in enumerate(gap.repeats)]
            lines.append(self._line(gap, chosen, sandbox))
        return lines

    def _choose(self, gap: Gap, repeat: int, candidates: tuple[Scored, ...]) -> Selection:
        settings, request = self.model.settings, replace(gap.request, sample=repeat)
        members = list(dict.fromkeys(c.candidate.member for c in candidates))
        prefer = settings.prefer if settings.prefer in members else None
        select = make_selector(settings.selector, settings.selector_file, members)
        case = Case(candidates, settings.rule, prefer, request.prefix, request.suffix, request.key, settings.seed)
        winner, reason = select(case)
        return Selection(candidates, winner, reason, settings.rule, {"selector": settings.selector, "prefer": prefer})

    def _line(self, gap: Gap, traces: Sequence[Selection], sandbox: str | None) -> dict[str, Any]:
        # Without verdicts there is nothing to say about passing.
        document = gap.document if self.options.judge is not None else {**gap.document, "test": ""}
        rows = infill.document_rows(document, traces)
        return {
            "doc_id": gap.number,
            "doc": gap.document,
            "target": gap.document["middle"],
            "arguments": {},
            "resps": [[scored.candidate.raw for scored in trace.candidates] for trace in traces],
            "filtered_resps": [trace.chosen.text for trace in traces],
            "filter": "none",
            "metrics": list(rows),
            "doc_hash": hash_string(json.dumps(gap.document, indent=2, ensure_ascii=False)),
            "prompt_hash": hash_string(gap.document["prefix"] + gap.document["suffix"]),
            "target_hash": hash_string(gap.document["middle"]),
            "executed_in": sandbox,
            **rows,
        }


def write_run(path: Path, gaps: Sequence[Gap], samples: Sequence[dict[str, Any]], options: ScoreOptions) -> Path:
    """Write samples and results as lm_eval names them, into ``output/NAME``; returns the results file."""
    date = datetime.datetime.now().isoformat().replace(":", "-")
    writers = {run.task: _results_of(run) for run in runs_of(path, options.task)[0]} if path.is_dir() else {}
    earlier = next(iter(writers.values()), {})
    name = str(earlier.get("model_name") or (options.member if options.member_field is None else path.name))
    folder = options.output / str(sanitize_model_name(name))
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {key: {} for key in ("results", "configs", "versions", "n-samples", "higher_is_better")}
    for task in dict.fromkeys(gap.task for gap in gaps):
        lines = [sample for gap, sample in zip(gaps, samples, strict=True) if gap.task == task]
        target = folder / f"samples_{sanitize_task_name(task)}_{date}.jsonl"
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        target.write_text(text, encoding="utf-8", errors="backslashreplace")  # in JSON that is an escape like any other
        rows = {key: value for key, value in aggregate(lines).items() if value is not None}
        content["results"][task] = {"alias": task, **rows}
        executed = [str(line["executed_in"]) for line in lines if line["executed_in"]]
        content["configs"][task] = {
            "task": task,
            "dataset_name": TASKS.get(task, task),
            "metadata": {"executed_in": infill.single_value(executed) if executed else None, "cut": options.cut},
        }
        content["versions"][task] = "scored"
        sets = {} if path.is_dir() else sets_of(TASKS.get(task), options.data_dir, options.problems)
        asked_of = writers.get(task, {}).get("n-samples", {}).get(task, {}).get("original", len(lines))
        original = len(sets[task]()) if task in sets else asked_of
        content["n-samples"][task] = {"original": original, "effective": len(lines)}
        metrics = dict.fromkeys(metric for line in lines for metric in line["metrics"])
        content["higher_is_better"][task] = infill.directions(metrics)
    content |= {
        "config": {"model": "score", "model_args": dict(options.model_args), "batch_size": options.batch_size},
        "model_source": "score",
        "model_name": name,
        "model_name_sanitized": sanitize_model_name(name),
        "scored_file": path.name,
        **({"scored_config": earlier["config"]} if "config" in earlier else {}),
        "date": date,
        "lm_eval_version": metadata.version("lm_eval"),
    }
    results = folder / f"results_{date}.json"
    written = json.dumps(content, indent=2, ensure_ascii=False, default=str)
    results.write_text(written, encoding="utf-8", errors="backslashreplace")
    return results


def _results_of(run: TaskRun) -> Mapping[str, Any]:
    """What the run that wrote the texts says of itself: how they were made is part of what is known of the scores."""
    found: Mapping[str, Any] = json.loads(run.results_path.read_text(encoding="utf-8-sig"))
    return found


def aggregate(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows of the table, each over the documents that have it (those with tests, those a member answered); where one with
    a single completion has no oracle, there is no such row."""
    rows: dict[str, Any] = {}
    judged = [line for line in lines if not line.get("unjudgeable_rate")] or lines
    lone = [line for line in judged if "selection" in line and len(line["selection"]["candidates"]) == 1]
    for metric in dict.fromkeys(metric for line in lone or judged for metric in line["metrics"]):
        combine = row_aggregation(metric)
        values = [line[metric] for line in lines if metric in line["metrics"]]
        rows[f"{metric},none"] = combine(values)
        if combine is mean:
            rows[f"{metric}_stderr,none"] = mean_stderr(values) if len(values) > 1 else "N/A"
    return rows
