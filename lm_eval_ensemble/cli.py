"""``lm-eval-ensemble``: the commands beside plain ``lm_eval``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lm_eval_ensemble import __version__
from lm_eval_ensemble.errors import EnsembleError

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """The command line. Rooms that need torch or lm_eval are imported only by the commands that use them."""
    from lm_eval_ensemble import doctor, fit_length
    from lm_eval_ensemble.execution import files

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
    check = commands.add_parser(
        "doctor",
        help="what is installed, what works here, and what to do about the rest",
        description="Check versions, the plugin, the sandbox, data sets, models and the machine; nothing is downloaded (--try "
        "may, with a preset from the Hub). The exit status is 0 if the essentials work, 1 otherwise.",
    )
    doctor.add_arguments(check)
    check.set_defaults(handler=doctor.main)
    judge = commands.add_parser(
        "judge",
        help="execute a file of completions and print pass@k",
        description="Judge a file of completions (one JSON object a line: task_id, completion). The lines of one task_id "
        "are its samples. Verdicts are written beside the file; a second run goes on where the first stopped.",
    )
    files.add_arguments(judge)
    judge.set_defaults(handler=files.main)
    fit = commands.add_parser(
        "fit-length",
        help="fit, on any code, how a diffusion model's confidence depends on the length of a gap",
        description="Cut random gaps into unlabelled code, read the diffusion model's signals at many lengths, and write the "
        "calibration that length=ar:K and length=search use (length_bias=FILE). Never give it what you evaluate on.",
    )
    fit_length.add_arguments(fit)
    fit.set_defaults(handler=fit_length.main)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; errors of ours are shown as their message, with exit status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["run"]:
            return _run(given[1:])
        parsed = build_parser().parse_args(given)
        return int(parsed.handler(parsed))
    except EnsembleError as error:
        print(f"lm-eval-ensemble: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
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
