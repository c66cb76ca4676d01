"""The commands ``compare`` and ``report``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.runs.load import TaskRun, identities, labels, load_runs
from lm_eval_ensemble.runs.samples import without_collection

if TYPE_CHECKING:
    from lm_eval_ensemble.report.comparison import Comparison
    from lm_eval_ensemble.report.run import RunReport

__all__ = ["add_compare_arguments", "add_report_arguments", "main_compare", "main_report"]

_FORMATS = ("md", "latex", "csv", "json", "html")


def add_compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="results file, or folder given to --output_path (newest per setting and task)"
    )
    parser.add_argument(
        "--baseline",
        metavar="RUN",
        help="what the others are compared with: a path, a label of the table, or a checkpoint (default: the first run)",
    )
    parser.add_argument("--metric", metavar="NAME", help="default: the first metric of each task")
    parser.add_argument("--filter", metavar="NAME", help="default: the first filter of each task")
    parser.add_argument("--task", action="append", metavar="NAME", help="only this task; may be repeated")
    parser.add_argument(
        "--members", action="store_true", help="also the members, oracle and floor of an ensemble, from its own samples"
    )
    parser.add_argument("--common", action="store_true", help="compare on the documents that all runs answered")
    parser.add_argument(
        "--holm",
        choices=("tasks", "runs"),
        default="tasks",
        help="correct p for the tasks of each run, or for all rows compared with the baseline too (default: %(default)s)",
    )
    parser.add_argument("--format", choices=_FORMATS, default="md", help="default: %(default)s")
    parser.add_argument(
        "--summary",
        action="store_true",
        help="one table of all runs by all tasks, groups of tasks and their mean; with --format html and --output a page that "
        "sorts, and beside it, in pages/, one of each run",
    )
    parser.add_argument(
        "--columns",
        metavar="A,B",
        help="only these columns, in this order; with --summary tasks and groups (all formats but csv and json: default all)",
    )
    parser.add_argument("--output", metavar="PATH", help="write there instead of printing")
    parser.add_argument("--seed", type=int, default=0, help="of the random signs of the test (default: %(default)s)")


@without_collection()
def main_compare(arguments: argparse.Namespace) -> int:
    """Prints the tables; what could not be read goes to stderr. The exit status is 1 if something could not."""
    from lm_eval_ensemble.report.compare import CompareOptions, compare
    from lm_eval_ensemble.report.tables import render

    baseline, paths = arguments.baseline, list(arguments.runs)
    runs, problems = load_runs(paths)
    if baseline is not None and baseline not in labels(runs) and Path(baseline).exists():
        base, _ = load_runs([baseline])
        if len(set(identities(base))) > 1:
            raise DataError(f"--baseline {baseline}: holds several runs ({', '.join(dict.fromkeys(labels(base)))}); name one.")
        runs, problems = load_runs([baseline, *paths])
        baseline = labels(runs)[0]
    options = CompareOptions(
        baseline,
        arguments.metric,
        arguments.filter,
        arguments.members,
        arguments.common,
        arguments.seed,
        arguments.holm == "runs",
    )
    asked = _asked(runs, arguments.task)
    found = compare(asked, options, problems)
    columns = None if arguments.columns is None else [name.strip() for name in arguments.columns.split(",") if name.strip()]
    if arguments.summary:
        return _summary(arguments, runs, asked, found, columns)
    if arguments.format != "html":
        return _deliver(render(found, arguments.format, columns), found.problems, arguments.output)
    from lm_eval_ensemble.report.page.board import board
    from lm_eval_ensemble.report.tables import tables_of

    return _deliver(board(found, tables_of(found, columns)), found.problems, arguments.output)


def _summary(
    arguments: argparse.Namespace, runs: list[TaskRun], asked: list[TaskRun], found: Comparison, columns: list[str] | None
) -> int:
    """The table of runs by tasks; as a page with those of the runs beside it."""
    from lm_eval_ensemble.report.page.board import board
    from lm_eval_ensemble.report.page.build import write_page
    from lm_eval_ensemble.report.summary import groups_of, of_columns, summarise
    from lm_eval_ensemble.report.summary_tables import SUMMARY_FORMATS
    from lm_eval_ensemble.report.tables import tables_of

    table = summarise(found, groups_of(runs))
    table = table if columns is None else of_columns(table, columns)
    if arguments.format != "html":
        remarks = [*(line for task in found.tasks for line in task.verdicts), *found.cautions, *found.notes]
        text = SUMMARY_FORMATS[arguments.format](table)
        if arguments.format == "md" and remarks:
            text += "\n" + "".join(f"- {line}\n" for line in remarks)
        return _deliver(text, found.problems, arguments.output)
    if arguments.output is None:
        return _deliver(board(found, tables_of(found), table), found.problems, None)
    output = Path(arguments.output)
    names = dict(zip(map(id, runs), labels(runs), strict=True))
    links, problems = _run_pages([(names[id(run)], run) for run in asked], output.parent / "pages", arguments.seed)
    write_page(board(found, tables_of(found), table, links), output)
    return _deliver("", [*found.problems, *problems], None)


def _run_pages(named: Sequence[tuple[str, TaskRun]], folder: Path, seed: int) -> tuple[dict[str, str], list[str]]:
    """A page for every run that has samples, written where it is missing or older than they are.

    :returns: label -> address from beside the folder, and what went wrong.
    """
    from lm_eval_ensemble.report.page.build import page, write_page
    from lm_eval_ensemble.report.run import report_of

    links: dict[str, str] = {}
    problems: list[str] = []
    for label in dict.fromkeys(label for label, _ in named):
        own = [run for name, run in named if name == label and run.samples_path is not None]
        if not own:
            continue
        name = re.sub(r"[^\w.+-]+", "_", label).strip("._")[:80] or "run"
        path = folder / f"{name if f'{folder.name}/{name}.html' not in links.values() else f'{name}_{len(links)}'}.html"
        links[label] = f"{folder.name}/{path.name}"
        made_of = [file for run in own for file in (run.results_path, run.samples_path) if file is not None]
        if path.exists() and path.stat().st_mtime > max(file.stat().st_mtime for file in made_of):
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{folder}: the pages of the runs cannot be written ({error.strerror}).") from None
        reports = [report_of(run, seed, label) for run in own]
        write_page(page(reports), path)
        problems += [problem for report in reports for problem in report.problems]
    return links, problems


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", metavar="RUN", help="results file, or folder given to --output_path (newest per setting and task)"
    )
    parser.add_argument("--task", action="append", metavar="NAME", help="only this task; may be repeated")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: %(default)s")
    parser.add_argument(
        "--export",
        choices=("jsonl", "stats"),
        help="instead: jsonl, one line per completion with all members' texts; stats, a short summary per task as JSON",
    )
    parser.add_argument("--output", metavar="PATH", help="write there instead of printing")
    parser.add_argument(
        "--html",
        metavar="PATH",
        help="where the page with every sample goes (default: RUN/report.html, and for a results file beside it; "
        "with --format json and --export only if asked for)",
    )
    parser.add_argument("--no_html", action="store_true", help="write no page")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--seed", type=int, default=0, help="of the resamples and random signs (default: %(default)s)")


@without_collection()
def main_report(arguments: argparse.Namespace) -> int:
    """Prints figures or an export, and writes the page; what could not be read goes to stderr. The exit status is 1 if
    something could not."""
    from lm_eval_ensemble.report.run import report_of
    from lm_eval_ensemble.report.tables import as_json
    from lm_eval_ensemble.report.text import as_text

    asked = arguments.html is not None or arguments.open
    if asked and arguments.no_html:
        raise DataError("--no_html contradicts --html and --open; give one of them.")
    every, problems = load_runs([arguments.run])
    runs = _asked(every, arguments.task)
    # An export of lines needs no figures.
    figures = arguments.export != "jsonl" or asked
    names = dict(zip(map(id, every), labels(every), strict=True))
    reports = [report_of(run, arguments.seed, names[id(run)]) for run in runs] if figures else []
    problems += [problem for report in reports for problem in report.problems]
    compared = _compared(runs, arguments.seed) if arguments.export is None and figures else None
    if arguments.export is not None:
        text = _export(arguments.export, runs, reports, problems)
    elif arguments.format == "json":
        text = as_json([report.content for report in reports]) + "\n"
    else:
        first = [] if compared is None else [_side_by_side(compared, runs)]
        text = "\n\n".join([*first, *(as_text(report.content) for report in reports)]) + "\n"
    notes = [note for report in reports for note in report.notes]
    status = _deliver(text, list(dict.fromkeys(problems)), arguments.output, notes)
    if arguments.no_html or not (asked or (arguments.export is None and arguments.format == "text")):
        return status
    return max(status, _page(arguments, reports, compared))


def _compared(runs: list[TaskRun], seed: int) -> Comparison | None:
    """The comparison of several runs; None where there is one, or nothing to compare."""
    from lm_eval_ensemble.report.compare import CompareOptions, compare

    if len(set(identities(runs))) < 2:
        return None
    try:
        return compare(runs, CompareOptions(seed=seed))
    except DataError:
        return None  # what cannot be read is told with each run


def _side_by_side(compared: Comparison, runs: list[TaskRun]) -> str:
    from lm_eval_ensemble.report.summary import groups_of, summarise
    from lm_eval_ensemble.report.summary_tables import SUMMARY_FORMATS

    told = [*(line for task in compared.tasks for line in task.verdicts), *compared.cautions]
    table = SUMMARY_FORMATS["md"](summarise(compared, groups_of(runs)))
    return "## Comparison\n\n" + "\n".join([table, *(f"- {line}" for line in told)])


def _export(kind: str, runs: list[TaskRun], reports: list[RunReport], problems: list[str]) -> str:
    from lm_eval_ensemble.report import exports
    from lm_eval_ensemble.report.tables import as_json

    if kind == "stats":
        summary: dict[str, Any] = {}
        for report in (report.content for report in reports):
            if report["figures"]["n"]:
                name = report["task"] if report["task"] not in summary else f"{report['task']} ({report['run']})"
                summary[name] = {"run": report["run"], "metric": report["metric"], **exports.stats(report["figures"])}
        return as_json(summary) + "\n"
    lines: list[str] = []
    for run in runs:
        if run.samples_path is None:
            problems.append(f"{run.results_path}: no samples of {run.task}. Run lm_eval with --log_samples.")
            continue
        own, samples = exports.flat_lines(run)
        lines += own
        problems += samples.problems
    return "".join(f"{line}\n" for line in lines)


def _page(arguments: argparse.Namespace, reports: list[RunReport], compared: Comparison | None) -> int:
    """Writes the page after everything else: whatever goes wrong here, the figures are out."""
    import webbrowser

    from lm_eval_ensemble.report.page.build import page, write_page

    run = Path(arguments.run)
    path = Path(arguments.html) if arguments.html else run / "report.html" if run.is_dir() else run.with_suffix(".html")
    try:
        write_page(page(reports, compared), path)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.output is not None or (arguments.export is None and arguments.format == "text"):
        # JSON on stdout is read by another program.
        print(f"\nEvery sample: {path}")
    if arguments.open and not webbrowser.open(path.resolve().as_uri()):
        print(f"{path}: no browser could be started; open the file in one.", file=sys.stderr)
        return 1
    return 0


def _asked(runs: list[TaskRun], tasks: list[str] | None) -> list[TaskRun]:
    chosen = [run for run in runs if not tasks or run.task in tasks]
    if missing := sorted(set(tasks or ()) - {run.task for run in runs}):
        raise DataError(f"--task {', '.join(missing)}: found {', '.join(sorted({run.task for run in runs}))}.")
    return chosen


def _deliver(text: str, problems: list[str], output: str | None, notes: Sequence[str] = ()) -> int:
    """Prints or writes; what could not be read goes to stderr, and so do notes, which are no fault. The exit status."""
    if output is None:
        sys.stdout.write(text)
    else:
        try:
            Path(output).write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise DataError(f"--output {output}: cannot be written ({error.strerror}).") from None
    for line in [*problems, *notes]:
        print(line, file=sys.stderr)
    return 1 if problems else 0
