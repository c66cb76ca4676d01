"""``lm-eval-ensemble judge``: the completions of a file are judged (``execution.files``), and of a folder the runs made with
``--predict_only``, which are completed: all candidates stand in their samples.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval_ensemble.errors import ConfigError, DataError
from lm_eval_ensemble.execution import files
from lm_eval_ensemble.execution.files import add_arguments
from lm_eval_ensemble.runs.load import UNJUDGED, UNMEASURED, TaskRun, load_runs
from lm_eval_ensemble.types import Scored

__all__ = ["add_arguments", "complete", "main"]

logger = logging.getLogger(__name__)
#: what a results file says of each task.
_OF_TASKS = ("results", "configs", "versions", "n-shot", "n-samples", "higher_is_better")


def main(arguments: argparse.Namespace) -> int:
    """Run the command with parsed arguments; prints pass@k, or the rows of the completed runs."""
    path = Path(arguments.file)
    if not path.is_dir():
        return files.main(arguments)
    from lm_eval_ensemble.harness.score_file import as_text  # lm_eval: only the work needs it

    if arguments.problems:
        raise ConfigError("--problems: the lines of a run hold their documents; leave it out.")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    given = {
        "judge": arguments.judge,
        "judge_timeout": arguments.timeout,
        "judge_workers": arguments.workers,
        "sandbox": arguments.sandbox,
        "sandbox_command": arguments.sandbox_command,
    }
    done = complete(path, {name: value for name, value in given.items() if value is not None}, arguments.task)
    sys.stdout.write("".join(map(as_text, done)) + f"next: lm-eval-ensemble report {path}\n")
    return 0


def complete(path: Path, judge: Mapping[str, Any], task: str | None = None) -> list[Path]:
    """Judge the answers of runs that measured nothing, and write what the runs would have written, beside their files.

    :param judge: settings of the judge, as in ``--metadata``; others are those of the run.
    :param task: only this one.
    :returns: the new results files.
    :raises DataError: no such run; its lines are damaged, or of no infilling task.
    """
    runs, problems = load_runs([path])
    found: dict[Path, list[TaskRun]] = {}
    for run in runs:
        if UNMEASURED in run.results and task in (None, run.task):
            found.setdefault(run.results_path, []).append(run)
    for problem in problems:
        logger.warning("%s", problem)
    if not found:
        raise DataError(
            f"{path}: holds no run made with --predict_only{f' of {task}' if task else ''}; nothing is to be judged."
        )
    return [_complete(results, own, judge) for results, own in found.items()]


def _complete(results: Path, runs: Sequence[TaskRun], judge: Mapping[str, Any]) -> Path:
    from lm_eval.utils import sanitize_task_name

    from lm_eval_ensemble.harness.scored_run import aggregate
    from lm_eval_ensemble.runs.rows import directions

    date = datetime.datetime.now().isoformat().replace(":", "-")
    content = json.loads(results.read_text(encoding="utf-8"))
    content |= {part: {run.task: content.get(part, {}).get(run.task) for run in runs} for part in _OF_TASKS if part in content}
    for name in ("groups", "group_subtasks"):
        content.pop(name, None)
    samples: dict[Path, str] = {}
    for run in runs:
        lines, sandbox = _judged(run, judge)
        rows = {name: value for name, value in aggregate(lines).items() if value is not None}
        before = {name: value for name, value in content["results"][run.task].items() if "," not in name}
        content["results"][run.task] = {**before, **rows}
        own = content["configs"][run.task] or {}
        own["metadata"] = {**(own.get("metadata") or {}), "executed_in": sandbox, "judged_later": date}
        content["configs"][run.task] = own
        metrics = dict.fromkeys(metric for line in lines for metric in line["metrics"])
        content.setdefault("higher_is_better", {})[run.task] = directions(metrics)
        file = results.with_name(f"samples_{sanitize_task_name(run.task)}_{date}.jsonl")
        samples[file] = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    content["date"] = date
    target = results.with_name(f"results_{date}.json")
    written = {**samples, target: json.dumps(content, indent=2, ensure_ascii=False)}
    for file, text in written.items():
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
    return target


def _judged(run: TaskRun, judge: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str | None]:
    """The lines of a run with their rows, and in which sandbox these were found."""
    from dataclasses import replace

    from lm_eval_ensemble.harness.answered import selections_of
    from lm_eval_ensemble.harness.judging import JudgeSettings, judge_all
    from lm_eval_ensemble.harness.task import ks_of
    from lm_eval_ensemble.runs.rows import document_rows

    told: dict[int, str] = {}
    lines = list(run.lines(told))
    kept = [selections_of(run, number, raw) for number, raw in lines]
    for fault in told.values():
        logger.warning("%s", fault)
    if not lines:
        raise DataError(f"{run.samples_path}: holds no line that can be used.")
    meta = dict(run.task_config.get("metadata") or {})
    # Gaps of the user's own, whose tests may be of any style, are judged as their task would have.
    default = {"judge": "auto"} if any("language" in raw["doc"] for _, raw in lines) else {}
    settings = JudgeSettings.from_metadata({**default, **meta, **judge})
    candidates: list[tuple[Mapping[str, Any], Scored]] = [
        (raw["doc"], scored)
        for (_, raw), selections in zip(lines, kept, strict=True)
        for selection in selections
        for scored in selection.candidates
    ]
    verdicts, sandbox = judge_all(candidates, settings, run.task)
    following = iter(verdicts)
    done = []
    for (_, raw), selections in zip(lines, kept, strict=True):
        found = [replace(s, candidates=tuple(next(following) for _ in s.candidates)) for s in selections]
        rows = document_rows(raw["doc"], found, ks_of(meta, int(run.task_config.get("repeats") or 1)))
        rest = {name: value for name, value in raw.items() if name not in (UNMEASURED, UNJUDGED)}
        done.append({**rest, "metrics": list(rows), **rows})
    return done, sandbox
