"""The table of models by tasks as text: Markdown, LaTeX, CSV or JSON. The page is ``report.page.board``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict

from lm_eval_ensemble.report.summary import Column, Summary, SummaryCell, as_records
from lm_eval_ensemble.report.tables import as_json, fitting, markdown_table, tex

__all__ = ["SUMMARY_FORMATS", "heading", "in_units"]

_NONE = "-"
_ARROWS = {True: " ↑", False: " ↓", None: ""}
_TEX_ARROWS = {True: r"$^{\uparrow}$", False: r"$^{\downarrow}$", None: ""}


def in_units(column: Column, value: float) -> str:
    """A score as it stands in the table: shares in percent."""
    return f"{100 * value:.1f}" if column.share else f"{value:.4g}"


def heading(column: Column) -> str:
    return f"{column.name} (%)" if column.share else column.name


def _markdown(summary: Summary, width: int = 120) -> str:
    def text(column: Column, cell: SummaryCell | None) -> str:
        if cell is None:
            return _NONE
        mark = {1: "**", 2: "_"}.get(cell.rank or 0, "")
        bounds = "" if cell.low is None or cell.high is None else f" ({_bounds(column, cell, ' to ')})"
        return f"{mark}{in_units(column, cell.score)}{mark}{_ARROWS[cell.better]}{bounds}"

    header = ["run", *map(heading, summary.columns)]
    rows = [[_name(summary, row.label), *map(text, summary.columns, row.cells)] for row in summary.rows]
    pieces = [markdown_table(*piece) for piece in fitting(header, rows, width)]
    told = [note.replace("underlined", "in italics") for note in summary.notes]
    return "\n\n".join([*pieces, "\n".join(f"- {note}" for note in told)]) + "\n"


def _latex(summary: Summary) -> str:
    """Two lines a row, scores and intervals, and names in several lines, so that tables of several tasks fit a page."""
    import pandas

    def score(column: Column, cell: SummaryCell | None) -> str:
        if cell is None:
            return "--"
        shown = in_units(column, cell.score)
        shown = {1: rf"\textbf{{{shown}}}", 2: rf"\underline{{{shown}}}"}.get(cell.rank or 0, shown)
        return f"{shown}{_TEX_ARROWS[cell.better]}"

    def interval(column: Column, cell: SummaryCell | None) -> str:
        known = cell is not None and cell.low is not None and cell.high is not None
        return rf"{{\scriptsize [{_bounds(column, cell, ', ')}]}}" if cell is not None and known else ""

    header = ["", *(_stacked(column.name) for column in summary.columns)]
    rows = []
    for row in summary.rows:
        rows.append([tex(_name(summary, row.label)), *map(score, summary.columns, row.cells)])
        if any(beneath := list(map(interval, summary.columns, row.cells))):
            rows.append(["", *beneath])
    unit = ["In percent."] if any(column.share for column in summary.columns) else []
    table = pandas.DataFrame(rows, columns=header).to_latex(
        index=False,
        escape=False,
        column_format="l" + "r" * len(summary.columns),
        position="t",
        caption=tex(" ".join([*unit, *summary.notes])),
        label="tab:summary",
    )
    return f"% needs \\usepackage{{booktabs}}\n{table}"


def _stacked(name: str) -> str:
    """A name in lines of up to 12 letters, broken behind underscores."""
    lines = [""]
    for part in name.replace("_", "_\0").split("\0"):
        if lines[-1] and len(lines[-1] + part) > 12:
            lines.append("")
        lines[-1] += part
    stacked = r"\\".join(map(tex, lines))
    return tex(name) if len(lines) == 1 else rf"\shortstack[r]{{{stacked}}}"


def _csv(summary: Summary) -> str:
    """One line per run and column, full precision; empty cells are undefined."""
    import pandas

    frame = pandas.DataFrame(as_records(summary))
    for name in ("n", "rank"):
        frame[name] = frame[name].astype("Int64")  # with an empty cell among them pandas would make them 20.0
    return str(frame.to_csv(index=False))


def _json(summary: Summary) -> str:
    return as_json(asdict(summary)) + "\n"


#: name of a format -> function of the summary.
SUMMARY_FORMATS: Mapping[str, Callable[[Summary], str]] = {"md": _markdown, "latex": _latex, "csv": _csv, "json": _json}


def _name(summary: Summary, label: str) -> str:
    return f"{label} (baseline)" if label == summary.baseline else label


def _bounds(column: Column, cell: SummaryCell, between: str) -> str:
    return between.join(in_units(column, value) for value in (cell.low, cell.high) if value is not None)
