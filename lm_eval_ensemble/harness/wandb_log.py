"""Weights & Biases: what our runs add to the run that ``lm_eval --wandb_args`` opened.

Loaded with lm_eval's logger in every run, so it imports nothing heavy until something is logged. A failure costs one warning
and nothing else: results are printed and saved by lm_eval whatever happens here.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lm_eval_ensemble.report.records import Measured
    from lm_eval_ensemble.report.run import RunReport

__all__ = ["extend", "flat", "sample_table"]

_LOG = logging.getLogger(__name__)
#: what a sample has and no table of ours needs: prompts are in lm_eval's own.
_HEAVY = ("arguments", "resps")
#: metrics that lm_eval takes apart; they cannot be filled in.
_PAIRED = ("word_perplexity", "byte_perplexity", "bits_per_byte")
_ANSWERED = ("question", "answer", "references", "f1", "em", "rougeL", "stop_kind")


def extend(logger: type) -> None:
    """Adds our part to lm_eval's ``WandbLogger``, and mends what ends its logging for tasks like ours. Twice is once."""
    if getattr(logger, "of_lm_eval_ensemble", False):
        return
    logger.of_lm_eval_ensemble = True  # type: ignore[attr-defined]
    for name, wrap in _WRAPPERS.items():
        if (original := getattr(logger, name, None)) is not None:
            setattr(logger, name, _wrapped(original, wrap))
        else:
            _LOG.warning("lm_eval's %s has no %s: our part of what it logs is missing in W&B.", logger.__name__, name)


def flat(figures: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """The numbers of nested figures by path, ``prefix/members/dllm/value``; lists (bins, curves) are left out."""
    for name, value in figures.items():
        path = f"{prefix}/{str(name).replace('/', '_')}"
        if isinstance(value, Mapping):
            yield from flat(value, path)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield path, value


def sample_table(rows: Sequence[Measured]) -> tuple[list[str], list[list[Any]]]:
    """Column names and one line per completion: who won and why, each member's text, verdict and score; of answers to
    questions the question, the answer, the references, and every uncertainty score."""
    from lm_eval_ensemble.report.signals import margin
    from lm_eval_ensemble.selection.base import score_of

    members = list(dict.fromkeys(member for row in rows for member in row.members))
    scores = list(dict.fromkeys(name for row in rows for name in row.areas))
    answered = any(row.answer is not None for row in rows)
    columns = ["doc_id", "problem", "value", "length"]
    columns += ["winner", "reason", "rule", "right", "margin"] if members else []
    columns += [f"{member} {what}" for member in members for what in ("text", "right", "score", "verdict")]
    columns += [*_ANSWERED, *scores] if answered else []
    lines = []
    for row in rows:
        for choice in row.choices or [None]:
            line = [str(row.number), None if row.problem is None else str(row.problem), row.value, row.length]
            if members:
                line += [None] * 5
            if choice is not None:
                made = choice.selection
                line[4:9] = [made.chosen.member, made.reason, made.rule, choice.is_right, margin(choice)]
            for member in members:
                own = choice.of(member) if choice is not None else []
                if choice is None or not own:
                    line += [None] * 4
                    continue
                scored, right = own[0]
                line += [scored.candidate.text, right, score_of(scored, choice.selection.rule), scored.verdict]
            if answered:
                record = row.answer or {}
                line += [_cell(record.get(name)) for name in _ANSWERED] + [row.areas.get(name, (None,))[0] for name in scores]
            lines.append(line)
    return columns, lines


def _wrapped(original: Callable[..., Any], wrap: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(self: Any, *arguments: Any, **named: Any) -> Any:
        return wrap(self, original, *arguments, **named)

    return method


def _post_init(self: Any, original: Callable[..., Any], results: dict[str, Any]) -> None:
    """A group without a mean of its own stands among the results but has no configuration: it is no task."""
    original(self, results)
    configs = results.get("configs", {})
    self.group_names += [name for name in self.task_names if name not in configs and name not in self.group_names]


def _sanitize(self: Any, original: Callable[..., Any]) -> Any:
    """lm_eval joins task and metric by a slash and then splits there: names with a slash of their own need another way."""
    results = self.results.get("results", {})
    if not any("/" in name for task, values in results.items() for name in (task, *values)):
        return original(self)
    summary: dict[str, Any] = {}
    numbers: dict[str, Any] = {}
    for task, values in results.items():
        for name, value in values.items():
            (summary if isinstance(value, str) else numbers)[f"{task}/{name.removesuffix(',none')}"] = value
    return summary, numbers


def _dataset(self: Any, original: Callable[..., Any], data: list[dict[str, Any]], config: dict[str, Any]) -> Any:
    """A metric that some sample does not have is an empty cell, not the end of the table."""
    names = [metric.get("metric") for metric in config.get("metric_list") or ()]
    empty = {name: None for name in names if name not in _PAIRED and any(name not in sample for sample in data)}
    return original(self, [{**empty, **sample} for sample in data] if empty else data, config)


def _artifact(self: Any, original: Callable[..., Any], data: Any, task_name: str) -> None:
    """Names of artifacts take no slash."""
    original(self, data, re.sub(r"[^\w.-]", "_", task_name))


def _log_samples(self: Any, original: Callable[..., Any], samples: dict[str, list[dict[str, Any]]]) -> None:
    _guarded("lm_eval's table of samples", lambda: original(self, samples))
    _guarded("tables, figures and plots", lambda: _add(self, samples))


_WRAPPERS: dict[str, Callable[..., Any]] = {
    "post_init": _post_init,
    "_sanitize_results_dict": _sanitize,
    "_generate_dataset": _dataset,
    "_log_samples_as_artifact": _artifact,
    "log_eval_samples": _log_samples,
}


def _guarded(what: str, action: Callable[[], Any]) -> None:
    try:
        action()
    except Exception as error:
        _LOG.warning(
            "W&B: %s could not be logged (%s: %s). The results of the run are not affected.", what, type(error).__name__, error
        )


def _add(logger: Any, samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Tables, figures and plots of the tasks whose samples have a record of ours."""
    ours = {task: own for task, own in samples.items() if any(s.get("selection") or s.get("uncertainty") for s in own)}
    if not ours:
        return
    import wandb

    from lm_eval_ensemble.report.run import report_of
    from lm_eval_ensemble.runs.load import runs_in

    problems: list[str] = []
    for run in runs_in(_as_saved(logger.results), Path("results.json"), problems):
        if run.task not in ours:
            continue
        named = replace(run, model_name=str(run.config["model_args"].get("pretrained") or run.model_name))
        cooked = [_as_saved({key: value for key, value in s.items() if key not in _HEAVY}) for s in ours[run.task]]
        numbered = list(enumerate(cooked, 1))
        report = report_of(named, lines=numbered)
        problems += report.problems
        place = f"lm_eval_ensemble/{run.task.replace('/', '_')}"
        columns, lines = sample_table(report.rows)
        logged: dict[str, Any] = {f"{place}/samples": wandb.Table(columns=columns, data=lines, allow_mixed_types=True)}
        logged |= {f"{place}/{name}": image for name, image in _images(report, numbered, problems)}
        logger.run.log(logged, step=logger.step)
        logger.run.summary.update(dict(flat(report.figures, place)))
    for problem in dict.fromkeys(problems):
        _LOG.warning("W&B: %s", problem)


def _images(
    report: RunReport, lines: Sequence[tuple[int, Mapping[str, Any]]], problems: list[str]
) -> Iterator[tuple[str, Any]]:
    """The plots that the run allows; none without matplotlib."""
    from lm_eval_ensemble.errors import ConfigError, DataError
    from lm_eval_ensemble.plots.style import render, require

    try:
        require()
    except ConfigError as error:
        _LOG.info("W&B: %s", error)
        return
    import wandb
    from PIL import Image

    from lm_eval_ensemble.plots.gallery import draw_answers, draw_run
    from lm_eval_ensemble.plots.infill import accuracy_bars
    from lm_eval_ensemble.plots.profiles import reliability
    from lm_eval_ensemble.plots.style import Missing
    from lm_eval_ensemble.uncertainty.analysis import AnalysisSettings, analyse
    from lm_eval_ensemble.uncertainty.answers import answers_of

    plots: list[tuple[str, Callable[[], Figure]]] = []
    if "answers" in report.figures:
        try:
            answers = answers_of(report.run, [], lines)
            found = [analyse(answers, AnalysisSettings(draws=0))] if answers is not None else []
            plots = [("reliability", lambda: reliability(found))] if found else []
            plots += [plot for analysis in found for plot in draw_answers(analysis, str(report.content["run"]))]
        except DataError as error:
            problems.append(str(error))
    elif report.rows:
        plots = [("accuracy", lambda: accuracy_bars([report.content])), *draw_run(report)]
    for name, make in plots:
        with contextlib.suppress(Missing):
            # wandb takes figures of pyplot only; a picture is a picture.
            yield name, wandb.Image(Image.open(io.BytesIO(render(make()))))


def _as_saved(content: Mapping[str, Any]) -> dict[str, Any]:
    """As it will stand in lm_eval's files."""
    found: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return found


def _cell(value: Any) -> Any:
    return "; ".join(map(str, value)) if isinstance(value, list) else value
