"""A comparison as text: Markdown, LaTeX, CSV or JSON. The page is ``report.page.board``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lm_eval_ensemble.errors import DataError, did_you_mean
from lm_eval_ensemble.report.comparison import Comparison, RunRow, TaskComparison

__all__ = ["FORMATS", "as_json", "fitting", "markdown_table", "render", "tables_of", "tex"]

_NONE = "-"


def render(comparison: Comparison, form: str, columns: Sequence[str] | None = None) -> str:
    """The whole comparison in one of :data:`FORMATS`, ending in a newline.

    :param columns: of the tables (Markdown, LaTeX) only these, in this order; None: all that hold something.
    :raises DataError: no table has such a column.
    """
    if form in ("csv", "json"):
        return FORMATS[form](comparison).rstrip("\n") + "\n"
    sections = tables_of(comparison, columns)
    return FORMATS[form](comparison, sections).rstrip("\n") + "\n"


def as_json(value: Any) -> str:
    """JSON with numbers to 6 significant decimals; nothing in it is NaN."""
    return json.dumps(_rounded(value), indent=1, ensure_ascii=False, allow_nan=False)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table with aligned columns; the first ``left`` columns are text, the rest are set right."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [header, *rows]]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = [cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(cells[0]), line(rule), *(line(row) for row in cells[1:])])


def _score_cells(task: TaskComparison) -> tuple[list[str], list[list[str]]]:
    scale = 100.0 if task.share else 1.0
    unit = " (%)" if task.share else ""
    lengths = [row.length_mode for row in task.rows]
    header = [
        "run",
        f"{task.metric}{unit}",
        "95 %",
        "n",
        "problems",
        "deff",
        "s/doc",
        "row-forwards",
        "peak MiB",
    ]
    rows = [
        [
            row.label,
            _number(row.score, scale),
            _interval(row.low, row.high, scale),
            str(row.n),
            _NONE if row.clusters is None else str(row.clusters),
            _plain(row.deff, ".2f"),
            _plain(row.seconds, ".3g"),
            _per_member(row, row.row_forwards, ".3g"),
            _per_member(row, row.memory_mib, ".0f"),
        ]
        for row in task.rows
    ]
    if any(lengths):
        header.append("length")
        for cells, mode in zip(rows, lengths, strict=True):
            cells.append(mode or _NONE)
    return header, rows


def _contrast_cells(task: TaskComparison) -> tuple[list[str], list[list[str]]]:
    scale = 100.0 if task.share else 1.0
    header = [
        f"vs {task.baseline}",
        "difference",
        "95 %",
        "SE",
        "p sign-flip",
        "Holm",
        "McNemar*",
        "W/L/T",
        "deff",
        "detectable",
    ]
    rows = []
    for row in task.rows:
        if (c := row.contrast) is None:
            if row.overlap is not None:  # a row that is missing is easily missed
                rows.append([row.label, "not compared", *[_NONE] * (len(header) - 2)])
            continue
        rows.append(
            [
                row.label,
                _number(c.difference, scale, sign=True),
                _interval(c.low, c.high, scale, sign=True),
                _number(c.se, scale),
                _plain(c.p, ".2g"),
                _plain(c.p_holm, ".2g"),
                _plain(c.p_mcnemar, ".2g"),
                f"{c.wins}/{c.losses}/{c.ties}",
                _plain(c.deff, ".2f"),
                _number(c.detectable, scale),
            ]
        )
    return header, rows


#: a table as finished cells.
Cells = tuple[list[str], list[list[str]]]
Sections = list[tuple[TaskComparison, list[Cells]]]


def tables_of(comparison: Comparison, columns: Sequence[str] | None = None) -> Sections:
    """The tables of each task; columns in which nothing is known are left out, and those that are not in ``columns``.

    :raises DataError: no table has such a column.
    """
    found = []
    known = dict[str, None]()
    for task in comparison.tasks:
        tables = [_without_empty(*_score_cells(task))]
        header, rows = _contrast_cells(task)
        if rows:
            tables.append(_without_empty(header, rows))
        known.update(dict.fromkeys(name for header, _ in tables for name in header[1:]))
        if columns is not None:
            tables = [table for header, rows in tables if len((table := _chosen(header, rows, columns))[0]) > 1]
        found.append((task, tables))
    for name in columns or ():
        if not any(name in (column, column.removesuffix(" (%)")) for column in known):
            raise DataError(f"--columns {name}: no table has this column.{did_you_mean(name, known)}")
    return found


def _chosen(header: list[str], rows: list[list[str]], columns: Sequence[str]) -> Cells:
    """The first column and those of ``columns``; the unit in a header need not be said."""
    kept = [0, *(i for name in columns for i, cell in enumerate(header) if i and name in (cell, cell.removesuffix(" (%)")))]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _without_empty(header: list[str], rows: list[list[str]]) -> Cells:
    kept = [i for i in range(len(header)) if i < 2 or any(row[i] != _NONE for row in rows)]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


_FOOT = "McNemar*: exact, but unclustered: it takes documents for independent, so p is too small where problems have several."


def _markdown(comparison: Comparison, sections: Sections, width: int = 120) -> str:
    parts = []
    for task, tables in sections:
        parts.append(f"### {task.task}: {task.metric} ({'higher' if task.higher_is_better else 'lower'} is better)")
        for header, rows in tables:
            parts += [markdown_table(*piece) for piece in fitting(header, rows, width)]
        if any("McNemar*" in header for header, _ in tables):
            parts.append(_FOOT)
        parts += ["\n".join(f"- {line}" for line in lines) for lines in (task.verdicts, task.notes) if lines]
    if told := [*comparison.cautions, *comparison.notes]:
        parts.append("\n".join(f"- {note}" for note in told))
    return "\n\n".join(parts)


def fitting(header: list[str], rows: list[list[str]], width: int) -> list[tuple[list[str], list[list[str]]]]:
    """The table cut between columns so that no line is longer than ``width``; each piece repeats the first column."""
    widths = [max(3, len(name), *(len(row[i]) for row in rows)) + 3 for i, name in enumerate(header)]
    pieces: list[list[int]] = [[]]
    used = widths[0] + 1
    for i in range(1, len(header)):
        if pieces[-1] and used + widths[i] > width:
            pieces.append([])
            used = widths[0] + 1
        pieces[-1].append(i)
        used += widths[i]
    return [
        ([header[0], *(header[i] for i in piece)], [[row[0], *(row[i] for i in piece)] for row in rows]) for piece in pieces
    ]


def _latex(comparison: Comparison, sections: Sections) -> str:
    import pandas

    parts = ["% needs \\usepackage{booktabs}"]
    for task, tables in sections:
        name = re.sub(r"[^A-Za-z0-9]+", "-", task.task)
        for header, rows in tables:
            differences = header[0].startswith("vs ")
            frame = pandas.DataFrame(rows, columns=[tex(cell) for cell in header]).map(tex)
            parts.append(
                frame.to_latex(
                    index=False,
                    escape=False,
                    column_format="l" + "r" * (len(header) - 1),
                    caption=tex(f"{task.task}: differences to {task.baseline}" if differences else task.task),
                    label=f"tab:{name}-differences" if differences else f"tab:{name}",
                )
            )
        parts += [f"% {line}" for line in (*task.verdicts, *task.notes, _FOOT)]
    return "\n".join([*parts, *(f"% {note}" for note in (*comparison.cautions, *comparison.notes))])


def tex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


_COUNTS = ["n", "clusters"] + [
    f"vs_{name}" for name in ("n", "clusters", "wins", "losses", "ties", "shared", "only_run", "only_baseline", "changed")
]


def _csv(comparison: Comparison) -> str:
    """One line per task and run, full precision; empty cells are undefined."""
    import pandas

    rows = [{"task": t.task, "metric": t.metric, "filter": t.filter, **_flat(row)} for t in comparison.tasks for row in t.rows]
    frame = pandas.DataFrame(rows)
    for name in frame.columns.intersection(_COUNTS):
        frame[name] = frame[name].astype("Int64")  # with an empty cell among them pandas would make them 20.0
    return str(frame.to_csv(index=False))


def _flat(row: RunRow) -> dict[str, Any]:
    found = asdict(row)
    low, high = found.pop("wilson") or (None, None)
    contrast, overlap = found.pop("contrast") or {}, found.pop("overlap") or {}
    for name in ("row_forwards", "memory_mib"):
        found[name] = ";".join(f"{member}={value:.6g}" for member, value in found[name].items())
    beside = {f"vs_{name}": value for name, value in {**overlap, **contrast}.items()}
    return {**found, "wilson_low": low, "wilson_high": high, **beside}


def _json(comparison: Comparison) -> str:
    return as_json(asdict(comparison))


#: name of a format -> function of the comparison.
FORMATS: Mapping[str, Callable[..., str]] = {
    "md": _markdown,
    "latex": _latex,
    "csv": _csv,
    "json": _json,
}


def _number(value: float | None, scale: float, sign: bool = False) -> str:
    if value is None:
        return _NONE
    digits = ".1f" if scale == 100.0 else ".4g"
    return format(scale * value, f"+{digits}" if sign else digits)


def _interval(low: float | None, high: float | None, scale: float, sign: bool = False) -> str:
    return _NONE if low is None or high is None else f"{_number(low, scale, sign)} to {_number(high, scale, sign)}"


def _plain(value: float | None, form: str) -> str:
    return _NONE if value is None else format(value, form)


def _per_member(row: RunRow, values: Mapping[str, float], form: str) -> str:
    if not values:
        return _NONE
    if row.kind == "member" or list(values) == [""]:
        return format(next(iter(values.values())), form)
    return ", ".join(f"{name} {value:{form}}" for name, value in values.items())


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, list | tuple) else value
