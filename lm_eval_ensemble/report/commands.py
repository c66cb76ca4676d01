"""The commands ``compare`` and ``report``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.runs.load import TaskRun, identities, labels, load_runs

if TYPE_CHECKING:
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
    parser.add_argument("--output", metavar="PATH", help="write there instead of printing")
    parser.add_argument("--seed", type=int, default=0, help="of the random signs of the test (default: %(default)s)")


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
    found = compare(_asked(runs, arguments.task), options, problems)
    return _deliver(render(found, arguments.format), found.problems, arguments.output)


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
    if arguments.export is not None:
        text = _export(arguments.export, runs, reports, problems)
    elif arguments.format == "json":
        text = as_json([report.content for report in reports]) + "\n"
    else:
        text = "\n\n".join(as_text(report.content) for report in reports) + "\n"
    notes = [note for report in reports for note in report.notes]
    status = _deliver(text, list(dict.fromkeys(problems)), arguments.output, notes)
    if arguments.no_html or not (asked or (arguments.export is None and arguments.format == "text")):
        return status
    return max(status, _page(arguments, reports))


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


def _page(arguments: argparse.Namespace, reports: list[RunReport]) -> int:
    """Writes the page after everything else: whatever goes wrong here, the figures are out."""
    import webbrowser

    from lm_eval_ensemble.report.page.build import page, write_page

    run = Path(arguments.run)
    path = Path(arguments.html) if arguments.html else run / "report.html" if run.is_dir() else run.with_suffix(".html")
    try:
        write_page(page(reports), path)
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
