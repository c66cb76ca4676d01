"""``lm-eval-ensemble uncertainty RUN...``: how well scores tell wrong answers from right ones, from saved records."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lm_eval_ensemble.errors import ConfigError, DataError

# scipy takes a second to import: --help and the other commands do without, so the work is imported in main.

__all__ = ["add_arguments", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``lm-eval-ensemble uncertainty``."""
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="results file or folder of lm_eval (made with --log_samples), or an old validation_generations.pkl",
    )
    parser.add_argument("--csv", type=Path, help="write one row per task and run here")
    parser.add_argument("--json", type=Path, help="write everything here")
    parser.add_argument(
        "--similarity",
        metavar="NAME",
        help="add RW-G-NLL (and SAR, with samples): ngram, constant, or cross-encoder:ID_OR_FOLDER",
    )
    parser.add_argument(
        "--clusters",
        metavar="NAME",
        default="match",
        help="which samples mean the same: match (normalised text) or nli:ID_OR_FOLDER (default: %(default)s)",
    )
    parser.add_argument(
        "--label",
        default="f1",
        choices=["f1", "em", "rougeL", "stored"],
        help="which rule calls an answer right: f1 >= 0.5, em, rougeL >= 0.3, or stored (old files); default: %(default)s",
    )
    parser.add_argument(
        "--alpha", type=float, default=0.1, help="target error of the answers given, for the threshold (default: %(default)s)"
    )
    parser.add_argument(
        "--delta", type=float, default=0.05, help="chance that the threshold breaks its promise (default: %(default)s)"
    )
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap resamples (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of resamples and folds (default: %(default)s)")
    parser.add_argument("--device", help="for the models of --similarity and --clusters (default: cuda if there is one)")


def main(arguments: argparse.Namespace) -> int:
    """Run the command with parsed arguments; prints the tables, writes the files asked for."""
    from lm_eval_ensemble.uncertainty.analysis import Analysis, Settings, analyse, compare
    from lm_eval_ensemble.uncertainty.answers import load_answers
    from lm_eval_ensemble.uncertainty.clusters import clusters_from
    from lm_eval_ensemble.uncertainty.output import as_json, as_text, comparisons_text, write_csv, write_json
    from lm_eval_ensemble.uncertainty.similarity import similarity_from

    for path in (arguments.csv, arguments.json):
        _check_writable(path)
    # The plain settings are checked before a model is loaded, and files are read before that too.
    plain = {name: getattr(arguments, name) for name in ("label", "alpha", "delta", "draws", "seed")}
    Settings(**plain)
    answers, problems = load_answers(arguments.runs)
    similarity = similarity_from(arguments.similarity, arguments.device) if arguments.similarity else None
    settings = Settings(similarity, clusters_from(arguments.clusters, arguments.device), **plain)
    analyses: list[Analysis] = []
    for run in answers:
        try:
            analyses.append(analyse(run, settings))
        except DataError as error:
            problems.append(str(error))
            continue
        sys.stdout.write(as_text(analyses[-1]) + "\n\n")
    comparisons = compare(analyses)
    if comparisons:
        sys.stdout.write(comparisons_text(comparisons) + "\n")
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    if not analyses:
        raise DataError("no run could be analysed.")
    if arguments.csv:
        write_csv(arguments.csv, analyses)
    if arguments.json:
        shown: dict[str, Any] = {**plain, "similarity": similarity and similarity.name, "clusters": settings.clusters.name}
        write_json(arguments.json, as_json(analyses, comparisons, shown))
    return 0


def _check_writable(path: Path | None) -> None:
    """Told at once, not after minutes of work."""
    if path is not None and path.is_dir():
        raise ConfigError(f"{path}: found a folder, expected the name of a file to write.")
