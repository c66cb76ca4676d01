"""``lm-eval-ensemble plots RUN... --output DIR``: every plot that the runs allow, and ``summary.md``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lm_eval_ensemble.errors import ConfigError

# numpy and matplotlib take a second to import: --help does without.

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``lm-eval-ensemble plots``."""
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="results file or folder of lm_eval (made with --log_samples), or an old validation_generations.pkl",
    )
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder for the plots and summary.md")
    parser.add_argument("--format", default="png,svg", help="file types, any of png,svg (default: %(default)s)")
    parser.add_argument("--task", action="append", metavar="NAME", help="only this task; may be repeated")
    parser.add_argument(
        "--label",
        default="f1",
        choices=["f1", "em", "rougeL", "stored"],
        help="which rule calls an answer to a question right (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of resamples and folds (default: %(default)s)")


def main(arguments: argparse.Namespace) -> int:
    """Writes the files and says which plots were left out and why; the exit status is 1 if something could not be read."""
    from lm_eval_ensemble.plots.gallery import draw, read, summary
    from lm_eval_ensemble.plots.style import FORMATS, render, require

    require()
    kinds = list(dict.fromkeys(part.strip() for part in arguments.format.split(",") if part.strip()))
    if not kinds or set(kinds) - set(FORMATS):
        raise ConfigError(f"--format {arguments.format}: expected {' or '.join(FORMATS)}, or several separated by commas.")
    problems: list[str] = []
    found = read(arguments.runs, problems, arguments.task, arguments.label, arguments.seed)
    drawn, missing = draw(found, arguments.seed)
    folder: Path = arguments.output
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for plot in drawn:
            for kind in kinds:
                (folder / f"{plot.name}.{kind}").write_bytes(render(plot.figure, kind))
        told = summary(found, drawn, missing, kinds[0])
        (folder / "summary.md").write_text(told, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigError(f"--output {folder}: cannot be written ({error.strerror}).") from None
    print(f"{folder}: {len(drawn)} plots as {', '.join(kinds)}, and summary.md")
    for name, reason in missing.items():
        print(f"left out: {name}: {reason}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0
