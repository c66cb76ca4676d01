"""``lm-eval-ensemble``: the commands beside plain ``lm_eval``."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from lm_eval_ensemble import __version__
from lm_eval_ensemble.errors import EnsembleError
from lm_eval_ensemble.startup import hide_deprecations, load_extensions

__all__ = ["COMMANDS", "Command", "build_parser", "main"]


@dataclass(frozen=True)
class Command:
    """``module`` has ``arguments(parser)`` and ``handler(parsed) -> exit status``; it is imported when its command is
    typed, not before: some rooms need torch, and ``--help`` should not wait for it."""

    name: str
    module: str
    help: str
    description: str
    arguments: str = "add_arguments"
    handler: str = "main"


COMMANDS = (
    Command(
        "doctor",
        "doctor",
        "what is installed, what works here, and what to do about the rest",
        "Check versions, the plugin, the sandbox, data sets, models and the machine; nothing is downloaded (--try may, with a "
        "preset from the Hub). The exit status is 0 if the essentials work, 1 otherwise.",
    ),
    Command(
        "judge",
        "harness.complete",
        "execute a file of completions and print pass@k",
        "Judge a file of completions (one JSON object a line: task_id, completion). The lines of one task_id are its samples. "
        "Verdicts are written beside the file; a second run goes on where the first stopped. Of a folder, the runs made with "
        "--predict_only are judged, and completed beside their files.",
    ),
    Command(
        "fit-length",
        "fit_length",
        "fit, on any code, how a diffusion model's confidence depends on the length of a gap",
        "Cut random gaps into unlabelled code, read the diffusion model's signals at many lengths, and write the calibration "
        "that length=ar:K and length=search use (length_bias=FILE). Never give it what you evaluate on.",
    ),
    Command(
        "gaps",
        "gaps.command",
        "cut gaps out of your own code, for `infill_file`",
        "Cut lines, statements, bodies, expressions and arguments out of code of your own and write them as a file for the "
        "task infill_file: which model completes your code best? Copies, generated and vendored files and those that may hold "
        "a secret are left out.",
    ),
    Command(
        "score",
        "harness.score_file",
        "score a file of completions with given models, for `select`",
        "Score a file of completions from elsewhere with the models of an ensemble, judge them, and write what a run would "
        "have written. The lines of one task_id are candidates for the same gap. An interrupted run goes on where it stopped "
        "when the same command is given again.",
    ),
    Command(
        "select",
        "replay.command",
        "what other selectors would have chosen from a run's candidates",
        "Replay every selector over the records of a run (made with --log_samples), ranked; no model is loaded. Exit status as "
        "for compare.",
    ),
    Command(
        "compare",
        "report.commands",
        "runs side by side, with intervals and tests: is one better?",
        "Compare result folders of lm_eval, ours or anybody's (made with --log_samples): one table per task, intervals and "
        "tests that know which documents come from one problem, and one sentence per run. Files or lines that cannot be read "
        "are told on stderr, the rest is used, and the exit status is 1.",
        "add_compare_arguments",
        "main_compare",
    ),
    Command(
        "report",
        "report.commands",
        "what happened in a run: members, oracle, selection, scores, failures",
        "The figures of one run from its samples: members, ensemble, oracle and floor, how well selection worked, what the "
        "scores know, why texts fail, by length and problem; and one HTML file that shows every sample. Exit status as for "
        "compare.",
        "add_report_arguments",
        "main_report",
    ),
    Command(
        "plots",
        "plots.command",
        "plots of runs, and a summary in words",
        "Draws every plot that the runs allow, says which were left out and why, and writes summary.md: statistics, best "
        "performers and findings, each with its interval or test. Needs matplotlib: pip install 'lm_eval_ensemble[plots]'. "
        "Exit status as for compare.",
    ),
    Command(
        "sweep",
        "sweep.command",
        "a grid of runs from one file: checked, run, resumed, compared",
        "Runs every combination of a grid file's models, tasks and settings, each in a process of its own, with complete "
        "configurations on disk. Finished cells are not run again, a failed one does not stop the others, and at the end "
        "stands the table of `compare` or `uncertainty`. LM_EVAL_ENSEMBLE_SWEEP_<SETTING> overrides settings of the grid (see "
        "docs/sweeps.md). The exit status is 1 if a cell is not done.",
    ),
    Command(
        "uncertainty",
        "uncertainty.command",
        "how well a model knows when it is wrong, from saved answers",
        "Scores, intervals and tests from the records of uncertainty tasks (triviaqa_uncertainty, ...). Nothing is generated "
        "again and no model is loaded, but for --similarity cross-encoder:... or sentence:... and --clusters nli:... Exit "
        "status as for compare.",
    ),
)


def build_parser(typed: str | None = None) -> argparse.ArgumentParser:
    """The command line; of the commands only ``typed`` gets its arguments."""
    parser = argparse.ArgumentParser(
        prog="lm-eval-ensemble",
        description="Ensembles of diffusion and autoregressive code infillers for lm-evaluation-harness.",
    )
    parser.add_argument("--version", action="version", version=f"lm_eval_ensemble {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    run = commands.add_parser(
        "run",
        help="lm_eval, with our models and tasks, where the installed plugin cannot be found (PYTHONPATH, python -S)",
        description="Every argument goes to lm_eval: lm-eval-ensemble run --model ensemble-ppl --tasks infill_toy ...",
        add_help=False,
    )
    run.set_defaults(handler=None)
    for command in COMMANDS:
        found = commands.add_parser(command.name, help=command.help, description=command.description)
        if command.name == typed:
            module = importlib.import_module(f"lm_eval_ensemble.{command.module}")
            getattr(module, command.arguments)(found)
            found.set_defaults(handler=getattr(module, command.handler))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; errors of ours are shown as their message, with exit status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What this terminal cannot show (or nobody can: halves of surrogate pairs) is shown by number.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if given[:1] == ["run"]:
            return _run(given[1:])
        hide_deprecations()
        load_extensions()
        parsed = build_parser(given[0] if given else None).parse_args(given)
        status = int(parsed.handler(parsed))
        sys.stdout.flush()
        return status
    except EnsembleError as error:
        print(f"lm-eval-ensemble: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (``head``, a pager that was left) has enough. Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("lm-eval-ensemble: interrupted", file=sys.stderr)
        return 130


def _run(arguments: Sequence[str]) -> int:
    from lm_eval.__main__ import cli_evaluate

    from lm_eval_ensemble.harness import plugin

    plugin.register()
    sys.argv = ["lm-eval", "run", *arguments]
    cli_evaluate()
    return 0
