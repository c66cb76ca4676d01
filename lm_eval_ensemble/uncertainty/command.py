"""``lm-eval-ensemble uncertainty RUN...``: how well scores tell wrong answers from right ones, from saved records."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_ensemble.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from lm_eval_ensemble.uncertainty.analysis import Analysis, ModelPair
    from lm_eval_ensemble.uncertainty.clusters import Clusters
    from lm_eval_ensemble.uncertainty.similarity import Memo, Similarity

# scipy takes a second to import: --help and the other commands do without, so the work is imported in main.

__all__ = ["add_arguments", "analyse_runs", "clusters_from", "main", "similarity_from"]


#: settings that are plain values, as the command line has them.
_PLAIN = ("label", "alpha", "delta", "draws", "seed", "abstain_by")


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
        help="add RW-G-NLL (and SAR, with samples): ngram, constant, cross-encoder:ID_OR_FOLDER or sentence:ID_OR_FOLDER",
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
    parser.add_argument(
        "--abstain-by",
        metavar="SCORE",
        default="g_nll",
        help="the score of the threshold, named before looking (default: %(default)s)",
    )
    parser.add_argument(
        "--score",
        metavar="SCORE",
        action="append",
        default=[],
        help="also a score of your own, higher = less certain: FILE.csv (document,value) or module:function (of a record)",
    )
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap resamples (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of resamples and folds (default: %(default)s)")
    parser.add_argument("--device", help="for the models of --similarity and --clusters (default: cuda if there is one)")


def main(arguments: argparse.Namespace) -> int:
    """Run the command with parsed arguments; prints the tables, writes the files asked for. The exit status is 1 if something
    could not be used, as for ``compare``."""
    from lm_eval_ensemble.uncertainty.output import as_json, as_text, comparisons_text, write_csv, write_json

    for path in (arguments.csv, arguments.json):
        _check_writable(path)
    plain = {name: getattr(arguments, name) for name in _PLAIN}
    analyses, comparisons, problems, shown = analyse_runs(
        arguments.runs, arguments.similarity, arguments.clusters, arguments.device, arguments.score, **plain
    )
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    if not analyses:
        raise DataError("no run could be analysed.")
    faults = _write(arguments.csv, lambda path: write_csv(path, analyses))
    faults += _write(arguments.json, lambda path: write_json(path, as_json(analyses, comparisons, shown)))
    texts = [*map(as_text, analyses), *([comparisons_text(comparisons)] if comparisons else [])]
    _show("\n\n".join(texts) + "\n")
    if faults:
        raise DataError("\n".join(faults))
    return 1 if problems else 0


def analyse_runs(
    paths: Sequence[str | Path],
    similarity: str | None = None,
    clusters: str = "match",
    device: str | None = None,
    scores: Sequence[str] = (),
    **plain: Any,
) -> tuple[list[Analysis], list[ModelPair], list[str], dict[str, Any]]:
    """The runs analysed and compared, what could not be used, and the settings as they go into the files.

    :param scores: of the user's own (:func:`~lm_eval_ensemble.uncertainty.own.own_scores`).
    :param plain: fields of ``analysis.AnalysisSettings``; left out ones take its defaults.
    :raises ConfigError: a setting is out of range or names nothing.
    :raises DataError: nothing usable is there.
    """
    from lm_eval_ensemble.uncertainty.analysis import AnalysisSettings, analyse, compare
    from lm_eval_ensemble.uncertainty.answers import load_answers
    from lm_eval_ensemble.uncertainty.own import own_scores

    # The plain settings are checked before a model is loaded, and files are read before that too.
    AnalysisSettings(**plain)
    own = own_scores(scores)
    answers, problems = load_answers(paths)
    if len(answers) > 1 and (files := [score.spec for score in own if score.one_run]):
        raise ConfigError(
            f"--score {files[0]}: its values are those of one run, and {len(answers)} were found. Give one run and task, or a "
            "function (module:function)."
        )
    model = similarity_from(similarity, device) if similarity else None
    settings = AnalysisSettings(model, clusters_from(clusters, device), own=own, **plain)
    analyses = []
    for run in answers:
        try:
            analyses.append(analyse(run, settings))
        except DataError as error:
            problems.append(str(error))
    told = {name: getattr(settings, name) for name in _PLAIN}
    shown = {**told, "scores": list(scores), "similarity": model and model.name, "clusters": settings.clusters.name}
    return analyses, compare(analyses), problems, shown


def similarity_from(spec: str, device: str | None = None) -> Memo:
    """The similarity a command line names (``uncertainty.similarity``), behind a :class:`Memo`.

    :raises ConfigError: an unknown name.
    :raises ModelError: the model is missing or of another kind.
    """
    from lm_eval_ensemble.uncertainty.similarity import Constant, Memo, NGram

    kind, _, source = spec.partition(":")
    if kind in ("cross-encoder", "sentence") and source:
        from lm_eval_ensemble.uncertainty.models import CrossEncoder, SentenceEncoder  # torch and transformers

        return Memo((CrossEncoder if kind == "cross-encoder" else SentenceEncoder)(source, device))
    plain: dict[str, Similarity] = {"constant": Constant(), "ngram": NGram()}
    if spec not in plain:
        known = [*plain, "cross-encoder:ID_OR_FOLDER", "sentence:ID_OR_FOLDER"]
        raise ConfigError(f"similarity {spec!r} is unknown.{did_you_mean(spec, known)}")
    return Memo(plain[spec])


def clusters_from(spec: str, device: str | None = None) -> Clusters:
    """The clusters a command line names: ``match``, or ``nli:ID or FOLDER`` of a model with a label 'entailment'.

    :raises ConfigError: an unknown name.
    :raises ModelError: the model is missing or of another kind.
    """
    from lm_eval_ensemble.uncertainty.clusters import MatchClusters, NLIClusters

    kind, _, source = spec.partition(":")
    if kind == "nli" and source:
        from lm_eval_ensemble.uncertainty.models import Entailment  # torch and transformers

        model = Entailment(source, device)
        return NLIClusters(model, model.name)
    if spec != "match":
        raise ConfigError(f"clusters {spec!r} are unknown.{did_you_mean(spec, ['match', 'nli:ID_OR_FOLDER'])}")
    return MatchClusters()


def _write(path: Path | None, write: Callable[[Path], None]) -> list[str]:
    """Writes a file that was asked for; what fails is told after the table is out."""
    try:
        if path is not None:
            write(path)
    except OSError as error:
        return [f"{path}: could not be written ({error})."]
    return []


def _show(text: str) -> None:
    """Prints; a reader that has seen enough (``| head``) is no error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end; nowhere is better than a traceback there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_writable(path: Path | None) -> None:
    """Told at once, not after minutes of work."""
    if path is not None and path.is_dir():
        raise ConfigError(f"{path}: found a folder, expected the name of a file to write.")
