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
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lm_eval_ensemble import __version__
from lm_eval_ensemble.data import SETS, Document, load_documents, on_disk
from lm_eval_ensemble.errors import ConfigError, DataError, did_you_mean
from lm_eval_ensemble.execution.files import TASKS, Row, read_completions
from lm_eval_ensemble.execution.pool import JUDGES
from lm_eval_ensemble.harness.judging import JudgeSettings
from lm_eval_ensemble.members.identity import identified
from lm_eval_ensemble.types import Candidate, Cut, InfillRequest, normalise

__all__ = ["Gap", "Options", "add_arguments", "main", "read_gaps", "score_file"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What ``score_file`` does with a file.

    ``task``: where the ids belong; None: every set on disk. ``member`` names the candidates' author, ``member_field`` a field
    of the lines that does. ``cut``: None is the rule of each set, ``none`` scores the completions as they stand. ``limit``:
    the first so many documents. ``judge``: None executes nothing. ``chunk``: documents between two writes.
    """

    output: Path
    model_args: Mapping[str, Any]
    task: str | None = None
    data_dir: str | None = None
    member: str = "file"
    member_field: str | None = None
    cut: Cut | None = None
    limit: int | None = None
    judge: JudgeSettings | None = field(default_factory=JudgeSettings)
    batch_size: int | str = 1
    device: str | None = None
    chunk: int = 50


@dataclass(frozen=True)
class Gap:
    """A document, its number in the data set, and the candidates of the file."""

    task: str
    number: int
    document: Document
    candidates: tuple[Candidate, ...]

    @property
    def key(self) -> str:
        """Names the document, by its content too (data change under the same name), and its candidates."""
        content = [self.task, self.number, self.document, [(c.member, c.sample, c.text, c.raw) for c in self.candidates]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode("ascii")).hexdigest()[:20]

    @property
    def request(self) -> InfillRequest:
        cut: Cut = "line" if self.document["cut"] == "line" else "none"
        return InfillRequest(self.document["prefix"], self.document["suffix"], self.task, self.number, cut=cut)


def score_file(path: str | Path, options: Options) -> Path:
    """Score the completions of a file; what an earlier run of the same settings has finished is not computed again.

    :returns: the results file; the samples stand beside it.
    :raises DataError: a line that is not of the expected form, ids that no set has.
    :raises ConfigError: a setting of the models.
    """
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


def _digest(options: Options) -> str:
    """Of everything that decides a document's record, beside its candidates; files and folders count by their content."""
    judge = None if options.judge is None else asdict(options.judge) | {"workers": None}
    content = [__version__, identified(options.model_args), judge]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode("ascii")).hexdigest()[:16]


def read_gaps(path: Path, options: Options) -> list[Gap]:
    """The documents of a file with their candidates, in the order of the data sets.

    :raises DataError: an unreadable line; ids that no set has (counted, the first ones named); no completion at all.
    """
    by_id: dict[str, list[Row]] = {}
    for row in read_completions(path):
        by_id.setdefault(row.task_id, []).append(row)
    if not by_id:
        raise DataError(f"{path}: holds no completion.")
    gaps: list[Gap] = []
    names = _sets(options)
    unknown = dict(by_id)
    for task, name in names.items():
        for number, document in enumerate(load_documents(name, options.data_dir) if unknown else ()):
            rows = unknown.pop(document["task_id"], None)
            if rows is not None:
                chosen = document if options.cut is None else {**document, "cut": options.cut}
                gaps.append(Gap(task, number, chosen, _candidates(rows, chosen, path, options)))
    if unknown and options.task is not None and gaps:
        logger.warning(
            "%s: %d of %d task ids do not belong to %s and are left out.", path, len(unknown), len(by_id), options.task
        )
    elif unknown:
        rows = [rows[0] for rows in unknown.values()]
        first = ", ".join(f"{row.task_id!r} (line {row.line})" for row in rows[:3]) + (", ..." if len(rows) > 3 else "")
        places = ", ".join(names.values()) or "no set at all (set LM_EVAL_ENSEMBLE_DATA, or give --task)"
        raise DataError(
            f"{path}: {len(unknown)} of {len(by_id)} task ids are unknown: {first}. Looked in: {places}. "
            "Give the set they belong to with --task, or remove the lines."
        )
    return gaps[: options.limit] if options.limit else gaps


def _sets(options: Options) -> dict[str, str]:
    """task -> data set, for the sets to look in. The languages of SantaCoder-FIM share ids: only sets with tests are asked
    unless one is named."""
    by_set = {name: task for task, name in TASKS.items()}
    if options.task is None:
        executed = [name for name, data_set in SETS.items() if data_set.executed]
        return {by_set[name]: name for name in (*executed, "infill_toy") if on_disk(name, options.data_dir)}
    name = TASKS.get(options.task, options.task)
    if name not in by_set:
        raise ConfigError(f"--task {options.task!r} is no data set.{did_you_mean(options.task, [*by_set, *TASKS])}")
    return {by_set[name]: name}


def _candidates(rows: Sequence[Row], document: Document, path: Path, options: Options) -> tuple[Candidate, ...]:
    """The completions of one document; those of one member are its samples, numbered in the order of the file."""
    cut: Cut = "line" if document["cut"] == "line" else "none"
    seen: Counter[str] = Counter()
    found = []
    for row in rows:
        member = options.member
        if options.member_field is not None:
            member = row.fields.get(options.member_field, "")
            if not isinstance(member, str) or not member:
                raise DataError(
                    f"{path}, line {row.line}: found no text under {options.member_field!r} (columns: "
                    f"{', '.join(sorted(row.fields))}); --member_field names the column that says whose completion it is."
                )
        found.append(Candidate(member, normalise(row.completion, cut), row.completion, sample=seen[member]))
        seen[member] += 1
    return tuple(sorted(found, key=lambda candidate: (candidate.member, candidate.sample)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``lm-eval-ensemble score``."""
    parser.add_argument(
        "file",
        metavar="FILE",
        help="JSONL (or .jsonl.gz) with task_id and completion on each line, or a samples file of lm_eval",
    )
    parser.add_argument(
        "--model_args",
        required=True,
        help="the models that score, as for --model ensemble-ppl: preset=tiny, or JSON with members, scorers, score, ...",
    )
    parser.add_argument("--output", help="folder to write to (default: FILE.scored beside the file)")
    parser.add_argument("--task", help="data set or task; lines of others are left out (default: every set found on disk)")
    parser.add_argument("--data_dir", help="folder with local data sets (default: $LM_EVAL_ENSEMBLE_DATA)")
    parser.add_argument("--member", default="file", help="whose completions they are (default: %(default)s)")
    parser.add_argument("--member_field", help="column of the lines that says whose completion it is, instead")
    parser.add_argument("--cut", choices=["none"], help="none: as they stand (default: the cut rule of the set)")
    parser.add_argument("--limit", type=int, help="only the first documents, in the order of the set")
    parser.add_argument("--batch_size", default="auto", help="rows per forward (default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU if there is one)")
    parser.add_argument("--no_judge", action="store_true", help="execute nothing; exact match only")
    parser.add_argument(
        "--judge", choices=JUDGES, default="split", help="how tests are run; see docs/judge.md (default: %(default)s)"
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
    if not arguments.no_judge and not arguments.confirm_run_unsafe_code:
        raise ConfigError(
            "score runs the completions against their tests (in the judge's sandbox). Give --confirm_run_unsafe_code, or "
            "--no_judge to execute nothing."
        )
    if arguments.limit is not None and arguments.limit < 1:
        raise ConfigError(f"--limit {arguments.limit}: expected 1 or more.")
    judge = {"judge": arguments.judge, "judge_timeout": arguments.timeout, "judge_workers": arguments.workers}
    path = Path(arguments.file)
    options = Options(
        output=Path(arguments.output) if arguments.output else path.with_name(path.name + ".scored"),
        model_args=dict(_model_args(arguments.model_args)),
        task=arguments.task,
        data_dir=arguments.data_dir,
        member=arguments.member,
        member_field=arguments.member_field,
        cut=arguments.cut,
        limit=arguments.limit,
        judge=None if arguments.no_judge else JudgeSettings.from_metadata(judge),
        batch_size=arguments.batch_size,
        device=arguments.device,
    )
    results = score_file(path, options)
    content = json.loads(results.read_text(encoding="utf-8"))
    for task, rows in content["results"].items():
        sys.stdout.write(f"{task}: {content['n-samples'][task]['effective']} documents\n")
        for name, value in rows.items():
            metric, comma, _ = name.partition(",")
            if comma and not metric.endswith("_stderr"):
                error = rows.get(f"{metric}_stderr,none")
                sys.stdout.write(f"  {metric:36}{_shown(value)}{f' ± {error:.5f}' if isinstance(error, float) else ''}\n")
    sys.stdout.write(f"results: {results}\nnext: lm-eval-ensemble select {results.parent}\n")
    return 0


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
