"""All plots of some runs at once: which ones they allow, their names, and the text that goes with them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.plots import infill, uncertainty
from lm_eval_ensemble.plots.curves import CURVES_OF_A_RUN
from lm_eval_ensemble.plots.findings import compared, infill_findings, uncertainty_findings, uncertainty_table
from lm_eval_ensemble.plots.models import models_of
from lm_eval_ensemble.plots.style import Missing
from lm_eval_ensemble.report.run import RunReport, report_of
from lm_eval_ensemble.runs.load import TaskRun, labels, load_runs, short_label
from lm_eval_ensemble.uncertainty.analysis import Analysis, AnalysisSettings, analyse
from lm_eval_ensemble.uncertainty.answers import Answers, answers_of, load_answers
from lm_eval_ensemble.uncertainty.legacy import FILE_NAME

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Found", "Plot", "draw", "draw_answers", "draw_run", "read", "summary"]

_PAIRS = 6


@dataclass
class Found:
    """What was read: reports of runs that fill gaps (or do anything else), and analysed answers to questions."""

    runs: list[RunReport] = field(default_factory=list)
    analyses: list[Analysis] = field(default_factory=list)


@dataclass(frozen=True)
class Plot:
    """``name`` is a file name without ending."""

    name: str
    figure: Figure


def read(
    paths: Sequence[str | Path], problems: list[str], tasks: Sequence[str] | None = None, label: str = "f1", seed: int = 0
) -> Found:
    """The runs in results files and folders, and old pickles of answers.

    :param problems: takes what could not be read.
    :param label: the rule that calls an answer right, as for ``lm-eval-ensemble uncertainty``.
    :raises DataError: nothing could be read, or no run is of ``tasks``.
    """
    found = Found()
    answers: list[Answers] = []
    names: set[str] = set()
    every: list[TaskRun] = []
    for path in map(Path, paths):
        pickles = [path] if path.suffix == ".pkl" else sorted(path.rglob(FILE_NAME)) if path.is_dir() else []
        old, told = load_answers(pickles) if pickles else ([], [])
        problems += told
        names |= {run.dataset for run in old}
        answers += [run for run in old if not tasks or run.dataset in tasks]
        try:
            runs, told = ([], []) if path.suffix == ".pkl" else load_runs([path])
        except DataError:
            if not pickles:
                raise
            continue
        problems += told
        names |= {run.task for run in runs}
        every += runs
    for task in dict.fromkeys(run.task for run in every if not tasks or run.task in tasks):
        own = [run for run in every if run.task == task]
        for run, name in zip(own, labels(own), strict=True):
            _sort(run, name, found, answers, problems, seed)
    if missing := sorted(set(tasks or ()) - names):
        raise DataError(f"--task {', '.join(missing)}: found {', '.join(sorted(names))}.")
    for answered in answers:
        try:
            found.analyses.append(analyse(answered, AnalysisSettings(label=label, draws=0, seed=seed)))
        except DataError as error:
            problems.append(str(error))
    if not found.runs and not found.analyses:
        raise DataError("\n".join(["no run can be drawn.", *problems]))
    return found


def draw(found: Found, seed: int = 0) -> tuple[list[Plot], dict[str, str]]:
    """Every plot that the runs allow, and why the others are left out (name -> reason)."""
    drawn: list[Plot] = []
    missing: dict[str, str] = {}
    for task in dict.fromkeys(report.run.task for report in found.runs):
        own = [report for report in found.runs if report.run.task == task]
        _try(f"{task}-accuracy", lambda own=own: infill.accuracy_bars([report.content for report in own]), drawn, missing)  # type: ignore[misc]
        names = _distinct([f"{task}-{report.content['run']}" for report in own])
        for name, report in zip(names, own, strict=True):
            for kind, make in draw_run(report, seed):
                _try(f"{name}-{kind}", make, drawn, missing)
    if found.analyses:
        for kind in uncertainty.PLOTS:
            _try(f"uncertainty-{kind}", lambda kind=kind: uncertainty.PLOTS[kind](found.analyses), drawn, missing)  # type: ignore[misc]
    named = [(run, analysis) for run, own in models_of(found.analyses).items() for analysis in own]
    for name, (run, analysis) in zip(_distinct([f"{a.answers.dataset}-{run}" for run, a in named]), named, strict=True):
        for kind, make in draw_answers(analysis, run, seed):
            _try(f"{name}-{kind}", make, drawn, missing)
    return drawn, missing


def draw_run(report: RunReport, seed: int = 0) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """(kind, how to draw it) of the plots of one run, but for the bars of its task."""
    content, rows = report.content, report.rows
    pairs = list(itertools.combinations(report.figures.get("members", {}), 2))
    chosen: list[tuple[str, str] | None] = [*pairs[:_PAIRS]] or [None]
    for pair in chosen:
        kind = "scatter" if len(pairs) < 2 or pair is None else f"scatter-{pair[0]}-{pair[1]}"
        yield kind, lambda pair=pair: infill.score_scatter(content, rows, pair)  # type: ignore[misc]
    yield "margin", lambda: infill.selection_by_margin(content)
    yield "risk-coverage", lambda: infill.risk_coverage(content, rows, seed)
    yield "lengths", lambda: infill.length_histogram(content)


def draw_answers(analysis: Analysis, run: str, seed: int = 0) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """(kind, how to draw it) of the plots of one run that answers questions, which is called ``run``."""
    for kind, make in CURVES_OF_A_RUN.items():
        yield kind, lambda make=make: make(analysis, run, seed)  # type: ignore[misc]


def summary(found: Found, drawn: Sequence[Plot], missing: Mapping[str, str], kind: str = "png") -> str:
    """Statistics, best performers, findings and the plots as one Markdown page."""
    parts = ["# Summary of the runs", "Every number is computed from the samples of the runs. Intervals are 95 %."]
    for report in (report.content for report in found.runs):
        parts.append(f"## {report['task']}: {report['run']} ({report['model']})")
        parts.append(_bullets(infill_findings(report)))
    for task in dict.fromkeys(report.run.task for report in found.runs):
        own = [report.run for report in found.runs if report.run.task == task]
        if len(own) > 1:
            parts += [f"## {task}: the runs compared", _bullets(compared(own))]
    if found.analyses:
        parts += ["## Uncertainty of answers", uncertainty_table(found.analyses)]
        for title, sentences in uncertainty_findings(found.analyses).items():
            if sentences:
                parts += [f"### {title}", _bullets(sentences)]
    parts += ["## Plots", *(f"![{plot.name}]({plot.name}.{kind})" for plot in drawn)]
    if missing:
        parts += ["Left out:", _bullets([f"{name}: {reason}." for name, reason in missing.items()])]
    return "\n\n".join(parts) + "\n"


def _sort(run: TaskRun, name: str, found: Found, answers: list[Answers], problems: list[str], seed: int) -> None:
    """A run of questions goes to the answers, any other to the runs."""
    report = report_of(run, seed, name)
    problems += report.problems
    if "answers" in report.figures:
        own = answers_of(run, [])  # what is wrong with its lines was told above
        if own is not None:
            answers.append(replace(own, title="" if name == short_label(run) else name))
    elif report.rows:
        found.runs.append(report)


def _try(name: str, make: Callable[[], Figure], drawn: list[Plot], missing: dict[str, str]) -> None:
    name = re.sub(r"[^\w.+-]+", "_", name).strip("_.")
    try:
        drawn.append(Plot(name, make()))
    except Missing as reason:
        missing[name] = str(reason)


def _distinct(names: Sequence[str]) -> list[str]:
    """Names of files: runs of one name are numbered."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return found


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)
