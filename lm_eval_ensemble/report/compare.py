"""Several runs side by side, task by task: scores with intervals, and whether differences are real.

The primary test is the sign flip by problem, the primary interval the clustered one; Wilson's interval and McNemar's test
stand beside them, labelled, because readers know them. Formulas and how to read them: ``docs/report.md``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_ensemble.errors import DataError, did_you_mean
from lm_eval_ensemble.metrics.clustered import clustered_mean, wilson
from lm_eval_ensemble.metrics.multiple import holm
from lm_eval_ensemble.metrics.paired import compare_paired, minimal_detectable_gain
from lm_eval_ensemble.report.comparison import Comparison, Contrast, Overlap, Row, TaskComparison
from lm_eval_ensemble.report.documents import (
    BOUNDS,
    Documents,
    choose_filter,
    choose_metric,
    label_of,
    read_documents,
)
from lm_eval_ensemble.report.load import TaskRun
from lm_eval_ensemble.report.pairing import pair, shared
from lm_eval_ensemble.report.sentences import verdict

__all__ = ["Options", "compare"]


@dataclass(frozen=True)
class Options:
    """``metric`` and ``filter``: None takes the first of the results. ``common``: compare on the documents all runs share."""

    baseline: str | None = None
    metric: str | None = None
    filter: str | None = None
    members: bool = False
    common: bool = False
    seed: int = 0


@dataclass
class _Line:
    """A row in the making: its values by document, still on its own."""

    row: Row
    documents: Documents | None
    values: NDArray[np.float64]


@dataclass
class _Table:
    task: str
    metric: str
    filter: str
    better: bool
    baseline: _Line | None
    lines: list[_Line]
    notes: list[str]


def compare(runs: Sequence[TaskRun], options: Options, problems: Sequence[str] = ()) -> Comparison:
    """All tasks of all runs. Samples are read one run after the other, and only their numbers are kept.

    :param problems: what could not be read on the way here.
    :raises DataError: the baseline is none of the runs, or no task has the metric.
    """
    found = list(problems)
    names = _labels(runs)
    baseline = _baseline(names, runs, options.baseline)
    tables = []
    for task in dict.fromkeys(run.task for run in runs):
        own = [(name, run) for name, run in zip(names, runs, strict=True) if run.task == task]
        if table := _table(task, own, baseline, options, found):
            tables.append(table)
    if not tables:
        raise DataError("Nothing to compare:\n" + "\n".join(found))
    for table in tables:
        _contrast(table, options)
    _correct(tables)
    return Comparison([_finished(table) for table in tables], _notes(runs, tables), found)


def _labels(runs: Sequence[TaskRun]) -> list[str]:
    """A name for each run, the same for all tasks of one model."""
    short = [label_of(run) for run in runs]
    models = _models(runs)
    folders = [run.results_path.resolve().parent.parent.name for run in runs]
    # Each step is taken only where names still clash: the kind of model, the folder, a number.
    for detail in ([f"({m[0]})" for m in models], [f"({f})" for f in folders], [f"#{m[2] + 1}" for m in models]):
        owners = Counter(name for name, _ in set(zip(short, models, strict=True)))
        short = [f"{name} {more}" if owners[name] > 1 else name for name, more in zip(short, detail, strict=True)]
    return short


def _models(runs: Sequence[TaskRun]) -> list[tuple[str, str, int]]:
    """(kind, name, how many before it had that name) of each run. Folders of one kind and name are one model that was run
    task by task, unless they share a task: then they are several. The same checkpoint in other bits is another model."""
    named = [run.cell or f"{run.model_name} {run.quantization}".rstrip() for run in runs]
    tasks: dict[tuple[str, str, Path], set[str]] = {}
    for run, name in zip(runs, named, strict=True):
        tasks.setdefault((run.model_source, name, run.results_path.parent), set()).add(run.task)
    taken: dict[tuple[str, str, int], set[str]] = {}
    numbers = {}
    for (kind, name, folder), own in tasks.items():
        number = next(k for k in range(len(tasks)) if not own & taken.get((kind, name, k), set()))
        taken.setdefault((kind, name, number), set()).update(own)
        numbers[kind, name, folder] = number
    return [
        (run.model_source, name, numbers[run.model_source, name, run.results_path.parent])
        for run, name in zip(runs, named, strict=True)
    ]


def _baseline(names: Sequence[str], runs: Sequence[TaskRun], asked: str | None) -> str:
    """The label of the baseline; the first run unless one is named."""
    if asked is None:
        return names[0]
    if asked in names:
        return asked
    for name, run in zip(names, runs, strict=True):
        if asked in (run.model_name, label_of(run)) or asked.rpartition("/")[0] == name:
            return asked if asked.rpartition("/")[0] == name else name
    raise DataError(
        f"--baseline {asked}: expected one of the runs: {', '.join(dict.fromkeys(names))}, or a path with results."
        f"{did_you_mean(asked, list(dict.fromkeys(names)))}"
    )


def _table(
    task: str, runs: Sequence[tuple[str, TaskRun]], baseline: str, options: Options, problems: list[str]
) -> _Table | None:
    """Reads one task of all runs."""
    read: list[tuple[str, TaskRun, Documents | None]] = []
    metric = options.metric
    used = options.filter
    for name, run in runs:
        chosen = choose_filter(run, used)
        if chosen is None:
            problems.append(
                f"{run.results_path}: {task} has no filter {used!r}; found {', '.join([run.first_filter, *run.filters])}."
            )
            continue
        try:
            metric = choose_metric(run, metric, chosen)
        except DataError as error:
            problems.append(str(error))
            continue
        used = chosen
        documents = None
        if run.samples_path is None:
            problems.append(
                f"{run.results_path}: no samples of {task}, so {name} has its score but no interval and no comparison. Run "
                "lm_eval with --log_samples."
            )
        else:
            documents = read_documents(run, metric, chosen, problems, options.members or "/" in baseline)
            if not documents.ids:
                problems.append(f"{run.samples_path}: no sample of {task} can be used; its score is that of the results file.")
        read.append((name, run, documents if documents and documents.ids else None))
    if not read or metric is None or used is None:
        return None
    notes: list[str] = []
    kept = _common([d for _, _, d in read if d is not None], options.common, notes)
    lines = [
        line for name, run, documents in read for line in _lines(name, run, documents, metric, used, kept, options, baseline)
    ]
    others = sorted({f for _, run, _ in read for f in (run.first_filter, *run.filters)} - {used})
    if others:
        notes.append(f"Filter {used}; there is also {', '.join(others)} (--filter).")
    found = next((line for line in lines if line.row.label == baseline), None)
    if found is None:
        notes.append(f"The baseline {baseline} has no results of this task.")
    higher = next((run.higher_is_better[metric] for _, run, _ in read if metric in run.higher_is_better), True)
    return _Table(task, metric, used, bool(higher), found, lines, notes)


def _common(documents: Sequence[Documents], wanted: bool, notes: list[str]) -> dict[int, list[int]] | None:
    """``--common``: places to keep, by run."""
    if not wanted or not documents:
        return None
    places = shared(documents)
    sizes = {len(own.ids) for own in documents}
    if sizes != {len(places[0])}:
        notes.append(
            f"Only the {len(places[0])} documents that all runs answered (--common); the runs have {min(sizes)} to "
            f"{max(sizes)}."
        )
    return {id(own): chosen for own, chosen in zip(documents, places, strict=True)}


def _lines(
    name: str,
    run: TaskRun,
    documents: Documents | None,
    metric: str,
    used: str,
    kept: dict[int, list[int]] | None,
    options: Options,
    baseline: str,
) -> list[_Line]:
    """The row of a run, and those of its members."""
    seconds = run.run_seconds / run.run_documents if run.run_seconds and run.run_documents else None
    if documents is None:
        table = run.results if used == run.first_filter else run.filters[used]
        score = table[metric] if isinstance(table[metric], int | float) else None
        return [_Line(Row(name, "run", run.model_source, run.n_samples or 0, None, score, seconds=seconds), None, np.array([]))]
    if kept is not None:
        documents = _subset(documents, kept[id(documents)])
    mode = "+".join(documents.length_modes) or None
    several = len(documents.members) > 1
    lines = []
    for member, values in documents.values.items():
        label = f"{name}/{member}" if member else name
        if member and not (options.members or label == baseline):
            continue
        kind = "bound" if member in BOUNDS else "member" if member else "run"
        own = documents.forwards if not member else {k: v for k, v in documents.forwards.items() if k == member}
        memory = documents.memory if not member else {k: v for k, v in documents.memory.items() if k == member}
        # Only a diffusion member is told a length; the records say which one was.
        length = None if kind == "member" and documents.informed and member not in documents.informed else mode
        row = _scored(Row(label, kind, run.model_source, 0, None, None, length_mode=length), np.array(values), documents)
        row = replace(row, seconds=None if member else seconds)
        # A model that runs alone has no member to name.
        row = replace(row, row_forwards=_named(own, several), memory_mib=_named(memory, several))
        lines.append(_Line(row, documents, np.array(values)))
    return lines


def _named(values: dict[str, float], several: bool) -> dict[str, float]:
    return dict(values) if several or not values else {"": next(iter(values.values()))}


def _subset(documents: Documents, places: Sequence[int]) -> Documents:
    def chosen(values: Sequence[Any]) -> list[Any]:
        return [values[i] for i in places]

    return replace(
        documents,
        ids=chosen(documents.ids),
        hashes=chosen(documents.hashes),
        clusters=chosen(documents.clusters),
        values={name: chosen(values) for name, values in documents.values.items()},
    )


def _scored(row: Row, values: NDArray[np.float64], documents: Documents) -> Row:
    defined = ~np.isnan(values)
    x = values[defined]
    if not len(x):
        return row
    mean = clustered_mean(x, [c for c, keep in zip(documents.clusters, defined, strict=True) if keep])
    binary = bool(np.isin(x, (0.0, 1.0)).all())
    low, high = mean.low, mean.high
    if low is not None and high is not None and x.min() >= 0 and x.max() <= 1:
        low, high = max(0.0, low), min(1.0, high)
    return replace(
        row,
        n=mean.n,
        clusters=mean.clusters,
        score=mean.mean,
        se=mean.se,
        # Without any variation between problems the interval would be a point, and a lie.
        low=low if mean.se else None,
        high=high if mean.se else None,
        deff=mean.deff,
        wilson=wilson(int(x.sum()), len(x)) if binary else None,
    )


def _contrast(table: _Table, options: Options) -> None:
    """Fills in every row's difference to the baseline, or says why there is none."""
    base = table.baseline
    if base is None or base.documents is None:
        return
    for line in table.lines:
        if line is base or line.documents is None or line.row.kind == "bound":
            continue
        partners = pair(line.documents, base.documents)
        unpaired = (partners.only_first, partners.only_second, partners.changed)
        line.row = replace(line.row, overlap=Overlap(len(partners.first), *map(len, unpaired)))
        if not partners.complete and not options.common:
            shared = f", or compare the {len(partners.first)} they share with --common" if len(partners.first) else ""
            table.notes.append(
                f"{line.row.label} and {base.row.label} answered different documents and are not compared: "
                f"{partners.explain(line.row.label, base.row.label)}. Run both on the same documents{shared}."
            )
            continue
        ours, theirs = line.values[partners.first], base.values[partners.second]
        defined = ~(np.isnan(ours) | np.isnan(theirs))
        if not defined.any():
            table.notes.append(f"{line.row.label} and {base.row.label}: {table.metric} is defined on no document of both.")
            continue
        if left := int((~defined).sum()):
            table.notes.append(f"{line.row.label}: {left} documents without a value of {table.metric} are left out.")
        clusters = [line.documents.clusters[i] for i, keep in zip(partners.first, defined, strict=True) if keep]
        line.row = replace(line.row, contrast=_one(ours[defined], theirs[defined], clusters, table.better, options.seed))


def _one(ours: NDArray[np.float64], theirs: NDArray[np.float64], clusters: Sequence[Any], better: bool, seed: int) -> Contrast:
    sign = 1.0 if better else -1.0
    found = compare_paired(sign * ours, sign * theirs, clusters, seed)
    mean, n = found.difference, len(ours)
    gaps = ours - theirs
    largest = float(np.abs(gaps).max())
    detectable = None
    if largest > 0:
        # For 0/1 metrics the mean square is the share of discordant documents; other metrics are brought to that scale.
        share = float(np.mean((gaps / largest) ** 2))
        # A design effect below 1 is chance, and is no promise.
        detectable = largest * minimal_detectable_gain(n, share, max(1.0, mean.deff or 1.0))
    low, high = (mean.low, mean.high) if better else (_negated(mean.high), _negated(mean.low))
    if not mean.se:
        low = high = None
    binary = bool(np.isin(np.concatenate([ours, theirs]), (0.0, 1.0)).all())
    return Contrast(
        n=n,
        clusters=mean.clusters,
        difference=sign * mean.mean,
        se=mean.se or None,
        low=low,
        high=high,
        deff=mean.deff,
        p=found.p,
        p_holm=found.p,
        p_mcnemar=found.p_unclustered if binary else None,
        wins=found.wins,
        losses=found.losses,
        ties=n - found.wins - found.losses,
        detectable=detectable,
    )


def _negated(value: float | None) -> float | None:
    return None if value is None else -value


def _correct(tables: Sequence[_Table]) -> None:
    """Holm over the tasks, for each run on its own."""
    for label in dict.fromkeys(line.row.label for table in tables for line in table.lines):
        own = [line for table in tables for line in table.lines if line.row.label == label and line.row.contrast]
        adjusted = holm([line.row.contrast.p for line in own if line.row.contrast])
        for line, p in zip(own, adjusted, strict=True):
            if line.row.contrast:
                line.row = replace(line.row, contrast=replace(line.row.contrast, p_holm=p))


def _finished(table: _Table) -> TaskComparison:
    base = table.baseline.row.label if table.baseline else None
    every = np.concatenate([line.values for line in table.lines])
    scores = [line.row.score for line in table.lines if line.row.score is not None]
    share = bool(np.all((np.nan_to_num(every) >= 0) & (np.nan_to_num(every) <= 1))) and all(0 <= score <= 1 for score in scores)
    for line in table.lines:
        if line.documents is None or line.row.kind != "run" or not line.documents.alone:
            continue
        alone, count = line.documents.alone, len(line.documents.ids)
        table.notes.append(
            f"{line.row.label}: {alone} of {count} documents name no problem (doc.problem) and are clusters of their own, as "
            "if independent."
        )
    rows = [line.row for line in table.lines]
    found = TaskComparison(table.task, table.metric, table.filter, table.better, share, base, rows, [], table.notes)
    return replace(found, verdicts=[verdict(found, row) for row in rows if row.contrast])


def _notes(runs: Sequence[TaskRun], tables: Sequence[_Table]) -> list[str]:
    notes = []
    against = {line.row.label for table in tables for line in table.lines if line.row.contrast}
    if len(against) > 1:
        notes.append(
            f"{len(against)} rows are compared with one baseline. Holm corrects for the tasks, not for these: decide "
            "beforehand which one counts."
        )
    for name in ("lm_eval_version", "transformers_version"):
        values = sorted({str(run.versions.get(name)) for run in runs if run.versions.get(name)})
        if len(values) > 1:
            notes.append(f"The runs differ in {name}: {', '.join(values)}.")
    return notes
