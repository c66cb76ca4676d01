"""One table of a comparison: models by tasks, groups of tasks and their mean."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lm_eval_ensemble.errors import DataError, did_you_mean
from lm_eval_ensemble.report.comparison import LEVEL, Comparison, RunRow, TaskComparison
from lm_eval_ensemble.runs.load import TaskRun

__all__ = ["LEGEND", "Column", "Summary", "SummaryCell", "SummaryRow", "as_records", "groups_of", "of_columns", "summarise"]

LEGEND = "Best of a column bold, second underlined (of three or more), by the estimate alone."


@dataclass(frozen=True)
class Column:
    """``kind`` is ``task`` or ``mean`` (of a group's tasks, or of all). ``metric``, direction and ``share`` as in the
    comparison of its tasks."""

    name: str
    kind: str
    metric: str
    higher_is_better: bool
    share: bool
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class SummaryCell:
    """A score in units of its metric, with the 95 % interval (None for means: their tasks may share problems). ``rank`` is 1
    for the best and 2 for the second of a column, else None. ``difference`` is to the baseline, ``p`` the sign flip's after
    Holm, and ``better`` says what is significant: True, False, or None where nothing is."""

    score: float
    n: int | None = None
    low: float | None = None
    high: float | None = None
    rank: int | None = None
    difference: float | None = None
    p: float | None = None
    better: bool | None = None


@dataclass(frozen=True)
class SummaryRow:
    """A run, a member or a bound; a cell is None where it has no score."""

    label: str
    kind: str
    model: str
    length_mode: str | None
    cells: tuple[SummaryCell | None, ...]


@dataclass(frozen=True)
class Summary:
    """``baseline`` is the label of a row, None where the tasks have none in common."""

    columns: tuple[Column, ...]
    rows: tuple[SummaryRow, ...]
    baseline: str | None
    notes: tuple[str, ...]


def groups_of(runs: Sequence[TaskRun]) -> dict[str, tuple[str, ...]]:
    """The groups of tasks that the runs were asked for, by name."""
    return {name: tasks for run in runs for name, tasks in run.groups.items()}


def summarise(comparison: Comparison, groups: Mapping[str, Sequence[str]] | None = None) -> Summary:
    """The scores of all tasks side by side.

    A mean is plain, over tasks of one metric, and only for rows that have all of them.

    :param groups: name -> tasks; those of which the comparison has all tasks, and more than one, get a column.
    """
    tasks = {task.task: task for task in comparison.tasks}
    columns = [_column(task) for task in comparison.tasks]
    whole = {name: own for name, own in (groups or {}).items() if len(own) > 1 and all(task in tasks for task in own)}
    means = [*whole.items(), *([] if set(tasks) in map(set, whole.values()) else [("mean", tuple(tasks))])]
    columns += [found for name, own in means if (found := _mean_column(name, [tasks[task] for task in own]))]
    by_label = {label: [_row_of(task, label) for task in comparison.tasks] for label in _labels(comparison)}
    rows = []
    for label, own in by_label.items():
        first = next(row for row in own if row is not None)
        cells = {task.task: _cell(task, row) for task, row in zip(comparison.tasks, own, strict=True)}
        modes = sorted({row.length_mode for row in own if row is not None and row.length_mode})
        values = tuple(cells[c.name] if c.kind == "task" else _mean([cells[task] for task in c.tasks]) for c in columns)
        rows.append(SummaryRow(label, first.kind, first.model, "+".join(modes) or None, values))
    bases = {task.baseline for task in comparison.tasks}
    baseline = bases.pop() if len(bases) == 1 else None
    ranked = _ranked(columns, rows)
    return Summary(tuple(columns), ranked, baseline, _notes(columns, ranked, baseline))


def of_columns(summary: Summary, names: Sequence[str]) -> Summary:
    """Only these columns, in this order.

    :raises DataError: there is no such column.
    """
    known = [column.name for column in summary.columns]
    for name in names:
        if name not in known:
            raise DataError(f"--columns {name}: the table has no such column.{did_you_mean(name, known)}")
    places = [known.index(name) for name in dict.fromkeys(names)]
    columns = tuple(summary.columns[i] for i in places)
    rows = tuple(replace(row, cells=tuple(row.cells[i] for i in places)) for row in summary.rows)
    return replace(summary, columns=columns, rows=rows, notes=_notes(columns, rows, summary.baseline))


def _labels(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(row.label for task in comparison.tasks for row in task.rows))


def _row_of(task: TaskComparison, label: str) -> RunRow | None:
    return next((row for row in task.rows if row.label == label), None)


def _column(task: TaskComparison) -> Column:
    return Column(task.task, "task", task.metric, task.higher_is_better, task.share, (task.task,))


def _mean_column(name: str, tasks: Sequence[TaskComparison]) -> Column | None:
    """None where the tasks have no unit in common."""
    units = {(task.metric, task.higher_is_better, task.share) for task in tasks}
    if len(tasks) < 2 or len(units) > 1:
        return None
    return Column(name, "mean", *next(iter(units)), tuple(task.task for task in tasks))


def _cell(task: TaskComparison, row: RunRow | None) -> SummaryCell | None:
    if row is None or row.score is None:
        return None
    contrast = row.contrast
    if contrast is None:
        return SummaryCell(row.score, row.n, row.low, row.high)
    gain = contrast.difference if task.higher_is_better else -contrast.difference
    better = gain > 0 if contrast.p_holm < LEVEL and gain else None
    return SummaryCell(row.score, row.n, row.low, row.high, None, contrast.difference, contrast.p_holm, better)


def _mean(cells: Sequence[SummaryCell | None]) -> SummaryCell | None:
    known = [cell.score for cell in cells if cell is not None]
    return SummaryCell(sum(known) / len(known)) if len(known) == len(cells) else None


def _ranked(columns: Sequence[Column], rows: Sequence[SummaryRow]) -> tuple[SummaryRow, ...]:
    """The rows with the ranks of their cells. Oracle and floor are no models, and one model is not the best of itself; equal
    scores share a rank."""
    found = [list(row.cells) for row in rows]
    for i, column in enumerate(columns):
        own = [k for k, row in enumerate(rows) if row.kind != "bound" and row.cells[i] is not None]
        sign = -1.0 if column.higher_is_better else 1.0
        scores = {k: round(sign * _score(rows[k].cells[i]), 9) for k in own}  # sums in another order are equal too
        place = 1
        for _, equal in itertools.groupby(sorted(own, key=scores.__getitem__), key=scores.__getitem__):
            members = list(equal)
            if place <= (2 if len(own) > 2 else 1) and len(members) < len(own):
                for k in members:
                    cell = found[k][i]
                    found[k][i] = replace(cell, rank=place) if cell is not None else None
            place += len(members)
    return tuple(replace(row, cells=tuple(cells)) for row, cells in zip(rows, found, strict=True))


def _score(cell: SummaryCell | None) -> float:
    assert cell is not None
    return cell.score


def _notes(columns: Sequence[Column], rows: Sequence[SummaryRow], baseline: str | None) -> tuple[str, ...]:
    notes = [LEGEND] if any(cell is not None and cell.rank for row in rows for cell in row.cells) else []
    if any(cell is not None and cell.p is not None for row in rows for cell in row.cells):
        notes.append(f"An arrow: better or worse than {baseline or 'the baseline'}, p < {LEVEL:g} (sign flip, after Holm).")
    notes.append("Intervals: 95 %, clustered by problem.")
    if means := [column.name for column in columns if column.kind == "mean"]:
        notes.append(
            f"{', '.join(means)}: plain means over tasks, only for rows that have all of them, without interval: tasks may "
            "share problems. lm_eval's rows of groups may be weighted by documents."
        )
    metrics = {(column.metric, column.higher_is_better) for column in columns}
    told = ", ".join(f"{metric} ({'higher' if better else 'lower'} is better)" for metric, better in sorted(metrics))
    return (f"{told}.", *notes)


def as_records(summary: Summary) -> list[dict[str, Any]]:
    """One record per row and column that has a score."""
    return [
        {
            "run": row.label,
            "kind": row.kind,
            "model": row.model,
            "length": row.length_mode,
            "column": column.name,
            "of": column.kind,
            "metric": column.metric,
            **asdict(cell),
        }
        for row in summary.rows
        for column, cell in zip(summary.columns, row.cells, strict=True)
        if cell is not None
    ]
