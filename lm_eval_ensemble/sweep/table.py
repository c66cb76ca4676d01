"""The tables at the end, over all finished cells: those of ``compare`` and of ``uncertainty``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.sweep.board import Board, duration
from lm_eval_ensemble.sweep.cells import Cell
from lm_eval_ensemble.sweep.files import write_text

__all__ = ["cells_table", "results_tables"]


def cells_table(board: Board) -> str:
    """One row per cell: state, time, memory."""
    from lm_eval_ensemble.report.tables import markdown_table

    rows = []
    for cell in board.cells:
        record, state = cell.record(board.output), board.states[cell.digest]
        if cell not in board.chosen and state != "done":
            state = "not asked for"
        gpus = record.get("gpu_memory_mib") or {}
        rows.append(
            [
                cell.name,
                state,
                str(record.get("attempts", 0) or "-"),
                duration(record["seconds"]) if record.get("seconds") is not None else "-",
                f"{record['peak_memory_mib']:.0f}" if record.get("peak_memory_mib") else "-",
                ", ".join(f"{name} {mib:.0f}" for name, mib in (record.get("member_memory_mib") or {}).items()) or "-",
                ", ".join(f"{index}: {before} -> {after}" for index, (before, after) in gpus.items()) or "-",
            ]
        )
    head = ["cell", "state", "attempts", "time", "peak MiB", "members, peak MiB", "GPU MiB before -> after"]
    kept = [i for i in range(len(head)) if i < 2 or any(row[i] != "-" for row in rows)]
    return markdown_table([head[i] for i in kept], [[row[i] for i in kept] for row in rows], left=2)


def results_tables(board: Board) -> tuple[str, list[Path], list[str]]:
    """What the commands print over the finished cells, the files written beside the manifest, and what could not be read."""
    done = [cell for cell in board.cells if board.states[cell.digest] == "done"]
    texts: list[str] = []
    files: list[Path] = []
    problems: list[str] = []
    questions = {cell.digest for cell in done if _answers_questions(cell, board)}
    for kind, chosen, make in (
        ("compare", [cell for cell in done if cell.digest not in questions], _comparison),
        ("uncertainty", [cell for cell in done if cell.digest in questions], _uncertainty),
    ):
        if not chosen:
            continue
        try:
            texts.append(make(chosen, board.output, files, problems))
        except (DataError, OSError) as error:
            problems.append(f"no table of {kind}: {error}")
    return "\n\n".join(texts), files, problems


def _answers_questions(cell: Cell, board: Board) -> bool:
    """Whether its table is that of ``uncertainty``; where the grid does not say, whether its records have what that needs."""
    if board.grid.file.table != "auto":
        return board.grid.file.table == "uncertainty"
    from lm_eval_ensemble.runs.load import load_runs

    (run, *_), _ = load_runs([_results(cell, board.output)])
    first = next(run.lines({}), None) if run.samples_path is not None else None
    return first is not None and "uncertainty" in first[1]


def _results(cell: Cell, output: Path) -> Path:
    return cell.folder(output) / str(cell.record(output)["results"])


def _comparison(cells: Sequence[Cell], output: Path, files: list[Path], problems: list[str]) -> str:
    from lm_eval_ensemble.report.compare import CompareOptions, compare
    from lm_eval_ensemble.report.tables import render
    from lm_eval_ensemble.runs.load import load_runs

    runs, told = load_runs([_results(cell, output) for cell in cells])
    found = compare(runs, CompareOptions(), told)
    problems += found.problems
    for form in ("md", "csv", "json"):
        files.append(output / f"compare.{form}")
        write_text(files[-1], render(found, form))
    return render(found, "md").rstrip("\n")


def _uncertainty(cells: Sequence[Cell], output: Path, files: list[Path], problems: list[str]) -> str:
    from lm_eval_ensemble.plots.findings import uncertainty_table
    from lm_eval_ensemble.uncertainty.command import analyse_runs
    from lm_eval_ensemble.uncertainty.output import as_json, as_text, comparisons_text, write_csv, write_json

    analyses, comparisons, told, shown = analyse_runs([_results(cell, output) for cell in cells])
    problems += told
    between = [comparisons_text(comparisons)] if comparisons else []
    if not analyses:
        raise DataError("no cell could be analysed.")
    full = [uncertainty_table(analyses), *map(as_text, analyses), *between]
    files += [output / f"uncertainty.{form}" for form in ("md", "csv", "json")]
    fenced = "\n\n".join([full[0], *(f"```text\n{text}\n```" for text in full[1:])])
    write_text(output / "uncertainty.md", fenced + "\n")
    write_csv(output / "uncertainty.csv", analyses)
    write_json(output / "uncertainty.json", as_json(analyses, comparisons, shown))
    return "\n\n".join([full[0], *between])
