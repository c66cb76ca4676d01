"""Several runs side by side, task by task: scores with intervals, and whether differences are real.

The primary test is the sign flip by problem, and every figure has one interval, clustered by problem. McNemar's test stands
beside them, labelled, because readers know it. Formulas and how to read them: ``docs/report.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_ensemble.errors import DataError, did_you_mean
from lm_eval_ensemble.metrics.clustered import few_clusters
from lm_eval_ensemble.metrics.multiple import holm
from lm_eval_ensemble.metrics.paired import compare_paired
from lm_eval_ensemble.metrics.standing import standing
from lm_eval_ensemble.report.columns import Columns, read_columns
from lm_eval_ensemble.report.comparison import Comparison, Contrast, Overlap, RunRow, TaskComparison
from lm_eval_ensemble.report.pairing import pair, shared
from lm_eval_ensemble.report.sentences import cautions, verdict
from lm_eval_ensemble.runs.load import TaskRun, identities, labels, short_label
from lm_eval_ensemble.runs.samples import BOUNDS, BY_TEXT, NotMeasuredError, choose_filter, choose_metric, is_text

__all__ = ["CompareOptions", "compare"]

#: a model under one setting (``runs.load.identities``), and the name of one of its members or bounds (empty for itself).
Owner = tuple[int, str]


@dataclass(frozen=True)
class CompareOptions:
    """``metric`` and ``filter``: None takes the first of the results. ``common``: compare on the documents all runs share.
    ``over_runs``: Holm's correction is over all rows and tasks together, not over the tasks of each row."""

    baseline: str | None = None
    metric: str | None = None
    filter: str | None = None
    members: bool = False
    common: bool = False
    seed: int = 0
    over_runs: bool = False


@dataclass
class _Line:
    """A row in the making: whose it is, and its values by document, still on its own."""

    row: RunRow
    owner: Owner
    documents: Columns | None
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


@dataclass(frozen=True)
class _Named:
    """A run with its label and its identity."""

    label: str
    identity: int
    run: TaskRun


def compare(runs: Sequence[TaskRun], options: CompareOptions, problems: Sequence[str] = ()) -> Comparison:
    """All tasks of all runs. Samples are read one run after the other, and only their numbers are kept.

    :param problems: what could not be read on the way here.
    :raises DataError: the baseline is none of the runs, or no task has the metric.
    """
    told, notes = list(problems), list[str]()
    named = [_Named(*entry) for entry in zip(labels(runs), identities(runs), runs, strict=True)]
    baseline = _baseline(named, options.baseline)
    tables = []
    for task in dict.fromkeys(run.task for run in runs):
        own = [entry for entry in named if entry.run.task == task]
        if table := _table(task, own, baseline, options, told, notes):
            tables.append(table)
    if not tables:
        raise DataError("\n".join(["Nothing to compare:", *told, *notes]))
    for table in tables:
        _contrast(table, options)
    _correct(tables, options.over_runs)
    finished = [_finished(table) for table in tables]
    return Comparison(finished, [*_notes(named, tables, options.over_runs), *notes], told, cautions(finished))


def _baseline(named: Sequence[_Named], asked: str | None) -> Owner:
    """Whose row the others are compared with: the first run that measured something, unless one is named.

    :raises DataError: the name is that of no run, or of several.
    """
    if asked is None:
        return next((entry for entry in named if entry.run.is_measured), named[0]).identity, ""
    whole, slash, member = asked.rpartition("/")
    for found, part in (
        ({entry.identity for entry in named if entry.label == asked}, ""),
        ({entry.identity for entry in named if slash and entry.label == whole}, member),
        ({entry.identity for entry in named if asked in (entry.run.model_name, short_label(entry.run))}, ""),
    ):
        if len(found) == 1:
            return found.pop(), part
        if found:
            names = dict.fromkeys(entry.label for entry in named if entry.identity in found)
            raise DataError(f"--baseline {asked}: this is the name of {len(found)} runs; give one of {', '.join(names)}.")
    known = list(dict.fromkeys(entry.label for entry in named))
    raise DataError(
        f"--baseline {asked}: expected one of the runs: {', '.join(known)}, or a path with results.{did_you_mean(asked, known)}"
    )


def _table(
    task: str, named: Sequence[_Named], baseline: Owner, options: CompareOptions, problems: list[str], everywhere: list[str]
) -> _Table | None:
    """Reads one task of all runs."""
    read: list[tuple[_Named, Columns | None]] = []
    notes: list[str] = []
    metric = options.metric
    used = options.filter
    for entry in named:
        run = entry.run
        chosen = choose_filter(run, used)
        if chosen is None:
            problems.append(
                f"{run.results_path}: {task} has no filter {used!r}; found {', '.join([run.first_filter, *run.filters])}."
            )
            continue
        try:
            metric = choose_metric(run, metric, chosen)
        except NotMeasuredError as error:
            everywhere.append(str(error))
            continue
        except DataError as error:
            problems.append(str(error))
            continue
        used = chosen
        read.append((entry, _columns(entry, metric, chosen, options.members or bool(baseline[1]), problems, notes)))
    if not read or metric is None or used is None:
        return None
    kept = _common([documents for _, documents in read if documents is not None], options.common, notes)
    lines = [line for entry, documents in read for line in _lines(entry, documents, metric, used, kept, options, baseline)]
    others = sorted({f for entry, _ in read for f in (entry.run.first_filter, *entry.run.filters)} - {used})
    if others:
        notes.append(f"Filter {used}; there is also {', '.join(others)} (--filter).")
    base = next((line for line in lines if line.owner == baseline), None)
    if base is None:
        asked = options.baseline or next((entry.label for entry in named if entry.identity == baseline[0]), "the first run")
        notes.append(f"The baseline ({asked}) has no results of this task.")
    directions = (entry.run.higher_is_better for entry, _ in read)
    higher = next((known[metric] for known in directions if metric in known), True)
    return _Table(task, metric, used, bool(higher), base, lines, notes)


def _columns(entry: _Named, metric: str, used: str, members: bool, problems: list[str], notes: list[str]) -> Columns | None:
    """The numbers of a run's documents; None, and a word about it, where there are none."""
    run = entry.run
    if run.samples_path is None:
        problems.append(
            f"{run.results_path}: no samples of {run.task}, so {entry.label} has its score but no interval and no comparison. "
            "Run lm_eval with --log_samples."
        )
        return None
    documents = read_columns(run, metric, used, members)
    problems += documents.problems
    notes += documents.notes
    if not len(documents.ids):
        problems.append(f"{run.samples_path}: no sample of {run.task} can be used; its score is that of the results file.")
    # A corpus metric has no value of any document: the score is that of the results file.
    return None if documents.notes or not len(documents.ids) else documents


def _common(documents: Sequence[Columns], wanted: bool, notes: list[str]) -> dict[int, list[int]] | None:
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
    entry: _Named,
    documents: Columns | None,
    metric: str,
    used: str,
    kept: dict[int, list[int]] | None,
    options: CompareOptions,
    baseline: Owner,
) -> list[_Line]:
    """The row of a run, and those of its members."""
    run = entry.run
    seconds = run.run_seconds / run.run_documents if run.run_seconds and run.run_documents else None
    if documents is None:
        value = run.metrics(used)[metric]
        score = value if isinstance(value, int | float) else None
        row = RunRow(entry.label, "run", run.model_source, run.n_samples or 0, None, score, seconds=seconds)
        return [_Line(row, (entry.identity, ""), None, np.array([]))]
    if kept is not None:
        documents = documents.at(kept[id(documents)])
    mode = "+".join(documents.length_modes) or None
    several = len(documents.members) > 1
    lines = []
    for member, values in documents.values.items():
        owner = (entry.identity, member)
        if member and not (options.members or owner == baseline):
            continue
        kind = "bound" if member in BOUNDS else "member" if member else "run"
        own = documents.forwards if not member else {k: v for k, v in documents.forwards.items() if k == member}
        memory = documents.memory if not member else {k: v for k, v in documents.memory.items() if k == member}
        # Only a diffusion member is told a length; the records say which one was.
        length = None if kind == "member" and documents.informed and member not in documents.informed else mode
        label = f"{entry.label}/{member}" if member else entry.label
        row = _scored(RunRow(label, kind, run.model_source, 0, None, None, length_mode=length), np.array(values), documents)
        row = replace(row, seconds=None if member else seconds)
        # A model that runs alone has no member to name.
        row = replace(row, row_forwards=_by_member(own, several), memory_mib=_by_member(memory, several))
        lines.append(_Line(row, owner, documents, np.array(values)))
    return lines


def _by_member(values: dict[str, float], several: bool) -> dict[str, float]:
    return dict(values) if several or not values else {"": next(iter(values.values()))}


def _scored(row: RunRow, values: NDArray[np.float64], documents: Columns) -> RunRow:
    defined = ~np.isnan(values)
    if not defined.any():
        return row
    stands = standing(values[defined], [c for c, keep in zip(documents.clusters, defined, strict=True) if keep])
    mean = stands.clustered
    return replace(
        row,
        n=mean.n,
        clusters=mean.clusters,
        score=mean.mean,
        se=mean.se,
        low=mean.low,
        high=mean.high,
        deff=mean.deff,
        df=mean.df,
        wilson=stands.wilson,
    )


def _contrast(table: _Table, options: CompareOptions) -> None:
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
    low, high = (mean.low, mean.high) if better else (_negated(mean.high), _negated(mean.low))
    binary = bool(np.isin(np.concatenate([ours, theirs]), (0.0, 1.0)).all())
    return Contrast(
        n=n,
        clusters=mean.clusters,
        difference=sign * mean.mean,
        se=mean.se or None,
        low=low,
        high=high,
        deff=mean.deff,
        df=mean.df,
        p=found.p,
        p_holm=found.p,
        p_mcnemar=found.p_unclustered if binary else None,
        wins=found.wins,
        losses=found.losses,
        ties=n - found.wins - found.losses,
        detectable=found.detectable,
    )


def _negated(value: float | None) -> float | None:
    return None if value is None else -value


def _correct(tables: Sequence[_Table], over_runs: bool) -> None:
    """Holm over the tasks, for each run on its own or for all together."""
    lines = [line for table in tables for line in table.lines if line.row.contrast]
    for owner in [None] if over_runs else dict.fromkeys(line.owner for line in lines):
        own = [line for line in lines if owner in (None, line.owner)]
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
        if line.documents is not None and line.row.kind == "run" and any(map(is_text, line.documents.clusters)):
            table.notes.append(f"{line.row.label}: {BY_TEXT}.")
        if line.documents is None or line.row.kind != "run" or not (alone := sum(line.documents.alone)):
            continue
        table.notes.append(
            f"{line.row.label}: {alone} of {len(line.documents.ids)} documents name no problem (doc.problem) and are clusters "
            "of their own, as if independent."
        )
    rows = [line.row for line in table.lines]
    least = min((row.clusters for row in rows if row.clusters), default=None)
    df = min((row.df for row in rows if row.df is not None), default=None)
    if few := few_clusters(least, df=df, compared=any(row.contrast for row in rows)):
        table.notes.append(few)
    told = TaskComparison(table.task, table.metric, table.filter, table.better, share, base, rows, [], table.notes)
    return replace(told, verdicts=[verdict(told, row) for row in rows if row.contrast])


def _notes(named: Sequence[_Named], tables: Sequence[_Table], over_runs: bool) -> list[str]:
    notes = []
    against = {line.owner for table in tables for line in table.lines if line.row.contrast}
    if len(against) > 1 and over_runs:
        notes.append(f"Holm corrects for all {len(against)} rows and their tasks together (--holm runs).")
    elif len(against) > 1:
        notes.append(
            f"{len(against)} rows are compared with one baseline. Holm corrects for the tasks, not for these: decide "
            "beforehand which one counts, or correct for all (--holm runs)."
        )
    for entry in named:
        if entry.run.older:
            runs = "an earlier run" if entry.run.older == 1 else f"{entry.run.older} earlier runs"
            notes.append(f"{entry.label}, {entry.run.task}: the newest of its folder; {runs} of the same settings not shown.")
    for name in ("lm_eval_version", "transformers_version"):
        values = sorted({str(entry.run.versions.get(name)) for entry in named if entry.run.versions.get(name)})
        if len(values) > 1:
            notes.append(f"The runs differ in {name}: {', '.join(values)}.")
    return notes
