"""``lm-eval-ensemble score FILE``: scores completions that another program has written.

Each line of the file is an object with ``task_id`` and ``completion`` (or a line of lm_eval's samples file); the lines of one
task are its candidates. They are joined with the data set's documents, scored by the given models, judged, and written as a
run of ``ensemble-ppl`` would have written them: ``samples_TASK_DATE.jsonl`` with ``selection`` records, and a results file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lm_eval_ensemble import __version__
from lm_eval_ensemble.errors import ConfigError, counted
from lm_eval_ensemble.execution.pool import JUDGES
from lm_eval_ensemble.harness.gaps import ScoreOptions, read_gaps
from lm_eval_ensemble.harness.judging import JudgeSettings
from lm_eval_ensemble.members.identity import identified
from lm_eval_ensemble.problems import add_problems_option, load_problems

__all__ = ["add_arguments", "as_text", "main", "score_file"]

logger = logging.getLogger(__name__)


def score_file(path: str | Path, options: ScoreOptions) -> Path:
    """Score the completions of a file; what an earlier run of the same settings has finished is not computed again.

    :returns: the results file; the samples stand beside it.
    :raises DataError: a line that is not of the expected form, ids that no set has.
    :raises ConfigError: a setting of the models.
    """
    # torch and lm_eval: only the work needs them
    from lm_eval_ensemble.harness import scored_run
    from lm_eval_ensemble.harness.judging import check_judge

    path = Path(path)
    gaps = read_gaps(path, options)
    if options.judge is not None:
        check_judge(options.judge)  # now, not when the scoring is done
    progress = Progress(options.output / f".score-{_digest(options)}.jsonl")
    todo = [gap for gap in gaps if gap.key not in progress.done]
    logger.info("%s: %d documents, %d of them scored earlier.", path, len(gaps), len(gaps) - len(todo))
    if todo:
        run = scored_run.ScoredRun(options)
        for start in range(0, len(todo), options.chunk):
            chunk = todo[start : start + options.chunk]
            progress.add({gap.key: sample for gap, sample in zip(chunk, run.samples(chunk), strict=True)})
            logger.info("%d of %d documents", len(gaps) - len(todo) + start + len(chunk), len(gaps))
    return scored_run.write_run(path, gaps, [progress.done[gap.key] for gap in gaps], options)


class Progress:
    """Finished documents, one JSON line each, by the key of their gap."""

    def __init__(self, path: Path) -> None:
        self.path, self.done = path, dict[str, dict[str, Any]]()
        if path.exists():
            for line in path.read_text(encoding="utf-8").split("\n"):
                try:
                    found = json.loads(line)
                    self.done[found["key"]] = found["sample"]
                except (ValueError, KeyError, TypeError):
                    continue  # the last line of an interrupted run may be torn

    def add(self, samples: Mapping[str, dict[str, Any]]) -> None:
        if not self.path.exists() or not self.path.read_bytes().endswith(b"\n"):
            # Whole again, so that nothing is written behind a torn line.
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("".join(map(_line, self.done.items())), encoding="utf-8")
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(map(_line, samples.items())))
        self.done.update(samples)


def _line(item: tuple[str, dict[str, Any]]) -> str:
    return json.dumps({"key": item[0], "sample": item[1]}) + "\n"


def _digest(options: ScoreOptions) -> str:
    """Of everything that decides a document's record, beside its candidates; files and folders count by their content."""
    judge = None if options.judge is None else asdict(options.judge) | {"workers": None}
    content = [__version__, identified(options.model_args), judge]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode("ascii")).hexdigest()[:16]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``lm-eval-ensemble score``."""
    parser.add_argument(
        "file",
        metavar="FILE",
        help="JSONL (or .jsonl.gz) with task_id and completion (or solution, a whole program) on each line, a samples file of "
        "lm_eval, or the folder of a run with --log_samples (with --predict_only, too)",
    )
    parser.add_argument(
        "--model_args",
        required=True,
        help="the models that score, as for --model ensemble-ppl: preset=tiny, or JSON with members, scorers, score, ...",
    )
    parser.add_argument("--output", help="folder to write to (default: FILE.scored beside the file)")
    parser.add_argument("--task", help="data set or task; lines of others are left out (default: every set found on disk)")
    parser.add_argument("--data_dir", help="folder with local data sets (default: $LM_EVAL_ENSEMBLE_DATA)")
    add_problems_option(parser)
    parser.add_argument("--member", default="file", help="whose completions they are (default: %(default)s)")
    parser.add_argument("--member_field", help="column of the lines that says whose completion it is, instead")
    parser.add_argument("--cut", choices=["none"], help="none: as they stand (default: the cut rule of the set)")
    parser.add_argument("--limit", type=int, help="only the first documents, in the order of the set")
    parser.add_argument("--batch_size", default="auto", help="rows per forward (default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU if there is one)")
    parser.add_argument("--no_judge", action="store_true", help="execute nothing; exact match only")
    parser.add_argument(
        "--judge", choices=JUDGES, help="how tests are run; see docs/judge.md (default: split; with --problems auto)"
    )
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds per completion (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="processes of the judge (default: the usable processors)")
    parser.add_argument(
        "--confirm_run_unsafe_code", action="store_true", help="confirm that the completions, which are programs, may be run"
    )


def main(arguments: argparse.Namespace) -> int:
    """Run the command with parsed arguments; prints where the results are."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    if arguments.problems and Path(arguments.file).is_dir():
        raise ConfigError("--problems: the lines of a run hold their documents; leave it out.")
    own = load_problems(arguments.problems, "--problems") if arguments.problems else []
    runs_tests = not arguments.no_judge and (not own or any(document["test"] for document in own))
    if runs_tests and not arguments.confirm_run_unsafe_code:
        raise ConfigError(
            "score runs the completions against their tests (in the judge's sandbox). Give --confirm_run_unsafe_code, or "
            "--no_judge to execute nothing."
        )
    if arguments.limit is not None and arguments.limit < 1:
        raise ConfigError(f"--limit {arguments.limit}: expected 1 or more.")
    mode = arguments.judge or ("auto" if arguments.problems else "split")
    judge = {"judge": mode, "judge_timeout": arguments.timeout, "judge_workers": arguments.workers}
    path = Path(arguments.file)
    options = ScoreOptions(
        output=Path(arguments.output) if arguments.output else path.with_name(path.name + ".scored"),
        model_args=dict(_model_args(arguments.model_args)),
        task=arguments.task,
        data_dir=arguments.data_dir,
        problems=tuple(arguments.problems),
        member=arguments.member,
        member_field=arguments.member_field,
        cut=arguments.cut,
        limit=arguments.limit,
        judge=None if not runs_tests else JudgeSettings.from_metadata(judge),
        batch_size=arguments.batch_size,
        device=arguments.device,
    )
    results = score_file(path, options)
    sys.stdout.write(as_text(results) + f"next: lm-eval-ensemble select {results.parent}\n")
    return 0


def as_text(results: Path) -> str:
    """The rows of a results file, and where it is."""
    content, text = json.loads(results.read_text(encoding="utf-8")), ""
    for task, rows in content["results"].items():
        text += f"{task}: {counted(content['n-samples'][task]['effective'], 'documents')}\n"
        for name, value in rows.items():
            metric, comma, _ = name.partition(",")
            if comma and not metric.endswith("_stderr"):
                error = rows.get(f"{metric}_stderr,none")
                text += f"  {metric:36}{_shown(value)}{f' ± {error:.5f}' if isinstance(error, float) else ''}\n"
    return text + f"results: {results}\n"


def _shown(value: Any) -> str:
    return f"{value:.5f}" if isinstance(value, float) else str(value)


def _model_args(text: str) -> Iterator[tuple[str, Any]]:
    """As lm_eval reads them: JSON, or ``name=value`` joined by commas."""
    if not text.lstrip().startswith("{"):
        from lm_eval.utils import simple_parse_args_string

        try:
            yield from simple_parse_args_string(text).items()
        except ValueError:
            raise ConfigError(f"--model_args {text!r}: expected name=value joined by commas, or a JSON object.") from None
        return
    try:
        yield from json.loads(text).items()
    except ValueError as error:
        raise ConfigError(f"--model_args: not JSON ({error}).") from None
