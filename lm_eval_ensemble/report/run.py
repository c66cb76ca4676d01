"""One run, read and described: what the text, the page and the plots of a report are made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.report.figures import figures
from lm_eval_ensemble.report.records import Measured, read_measured
from lm_eval_ensemble.runs.load import TaskRun, short_label
from lm_eval_ensemble.runs.samples import Line, NotMeasuredError, Samples, choose_metric

__all__ = ["RunReport", "report_of"]


@dataclass(frozen=True)
class RunReport:
    """One task of one run. ``content`` is what it says, JSON-able: ``run, task, metric, filter, model, date, length_mode,
    seconds_per_document, results_path`` and ``figures``. ``rows`` are what they were made from, ``samples`` how these were read
    (None where the run has none), ``problems`` what could not be used, ``notes`` what is no fault."""

    run: TaskRun
    content: Mapping[str, Any]
    rows: Sequence[Measured]
    samples: Samples[Measured | None] | None
    problems: Sequence[str]
    notes: Sequence[str]

    @property
    def figures(self) -> Mapping[str, Any]:
        figures: Mapping[str, Any] = self.content["figures"]
        return figures


def report_of(run: TaskRun, seed: int = 0, name: str | None = None, lines: Iterable[Line] | None = None) -> RunReport:
    """:param name: what the run is called (``runs.load.labels``); by default its own short name.
    :param lines: instead of those of the run's file, numbered, in the form they have there.
    """
    rows: list[Measured] = []
    samples, metric = None, None
    problems: list[str] = []
    notes: list[str] = []
    if lines is None and run.samples_path is None:
        problems.append(
            f"{run.results_path}: no samples of {run.task}, so there is nothing to report. Run lm_eval with --log_samples."
        )
    else:
        try:
            metric = choose_metric(run)
            rows, samples = read_measured(run, metric, lines)
        except NotMeasuredError as error:
            notes.append(str(error))
        except DataError as error:
            problems.append(str(error))
    if samples is not None:
        problems += samples.problems
        notes += samples.notes
        if without := len(samples.rows) - len(rows):
            notes.append(f"{run.samples_path}: {without} documents have no value of {metric} and are left out.")
        if not samples.rows and not samples.problems:
            problems.append(
                f"{run.samples_path}: no sample of {run.task} in it, so there is nothing to report: the file is empty or "
                "damaged."
            )
    mode = run.results.get("length_mode")
    content = {
        "run": name or short_label(run),
        "task": run.task,
        "metric": metric,
        "filter": run.first_filter,
        "model": run.model_source,
        "date": run.date,
        "length_mode": mode if isinstance(mode, str) else None,
        "seconds_per_document": run.run_seconds / run.run_documents if run.run_seconds and run.run_documents else None,
        "results_path": str(run.results_path),
        "figures": figures(rows, seed),
    }
    return RunReport(run, content, rows, samples, problems, notes)
