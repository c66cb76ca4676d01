"""One run, read and described: what the text, the page and the plots of a report are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.report.documents import choose_metric, label_of
from lm_eval_ensemble.report.figures import figures
from lm_eval_ensemble.report.load import TaskRun, first_few
from lm_eval_ensemble.report.records import Answer, read_rows

__all__ = ["read_run", "report_of"]


def report_of(run: TaskRun, problems: list[str], seed: int = 0) -> dict[str, Any]:
    """``run, task, metric, filter, model, date, length_mode, seconds_per_document, results_path`` and ``figures``.

    :param problems: takes one line per damaged line of the samples (up to five, then their number).
    """
    return read_run(run, problems, seed)[0]


def read_run(
    run: TaskRun, problems: list[str], seed: int = 0, samples: Sequence[Mapping[str, Any]] | None = None
) -> tuple[dict[str, Any], list[Answer]]:
    """What :func:`report_of` gives, and the rows it was made from.

    :param samples: instead of those of the run's file, in the form they have there.
    """
    rows: list[Answer] = []
    told: list[str] = []
    metric, found = None, figures([])
    if samples is None and run.samples_path is None:
        problems.append(
            f"{run.results_path}: no samples of {run.task}, so there is nothing to report. Run lm_eval with --log_samples."
        )
    else:
        try:
            metric = choose_metric(run, None, run.first_filter)
            numbered = run.numbered_samples(told) if samples is None else enumerate(samples, 1)
            rows = read_rows(numbered, metric, run.first_filter, str(run.samples_path), told)
            found = figures(rows, seed)
        except DataError as error:
            problems.append(str(error))
    if run.samples_path is not None and metric is not None and not rows and not told:
        problems.append(
            f"{run.samples_path}: no sample of {run.task} in it, so there is nothing to report; the file is empty or damaged."
        )
    problems += first_few(told, run.samples_path)
    if run.n_samples is not None and found["n"] not in (0, run.n_samples):
        problems.append(f"{run.samples_path}: {found['n']} documents can be used, the results file counts {run.n_samples}.")
    mode = run.results.get("length_mode")
    report = {
        "run": label_of(run),
        "task": run.task,
        "metric": metric,
        "filter": run.first_filter,
        "model": run.model_source,
        "date": run.date,
        "length_mode": mode if isinstance(mode, str) else None,
        "seconds_per_document": run.run_seconds / run.run_documents if run.run_seconds and run.run_documents else None,
        "results_path": str(run.results_path),
        "figures": found,
    }
    return report, rows
