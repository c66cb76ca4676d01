"""``lm-eval-ensemble judge FILE``: judges a file of completions, as OpenAI's ``evaluate_infilling_functional_correctness``.

Each line of the file is an object with ``task_id`` and ``completion`` (or ``middle``, ``canonical_solution``, as problem files
have them; or ``solution``, a whole program, as EvalPlus writes them); repeated ids are samples of the same problem, a subset
of a data set is fine. The problems are those of our data sets, or of files of the user's own. Completions are judged exactly
as they stand. One line per completion is written to ``FILE.verdicts.jsonl``; a second run skips what is there.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval_ensemble.data import SETS, Document, load_documents, on_disk
from lm_eval_ensemble.errors import ConfigError, DataError, counted, did_you_mean
from lm_eval_ensemble.execution.jobs import LOST, Job
from lm_eval_ensemble.execution.pool import JUDGES, SANDBOXES, Judge
from lm_eval_ensemble.metrics.passk import pass_at_k
from lm_eval_ensemble.problems import add_problems_option, load_problems, title
from lm_eval_ensemble.types import Cut, is_of_the_judge, normalise

__all__ = ["TASKS", "Report", "Row", "add_arguments", "judge_file", "main", "read_completions", "sets_of"]

_REASONS, _WIDTH = 8, 120  # that a report prints, and how much of each
_CHUNK = 500  # completions between two writes: what an interrupted run may lose
#: task -> data set.
TASKS = {
    "humaneval_infill": "single-line",
    "humaneval_infill_multi_line": "multi-line",
    "humaneval_infill_random_span": "random-span",
    "humaneval_infill_random_span_light": "random-span-light",
    "santacoder_fim": "santacoder-py",
    "santacoder_fim_java": "santacoder-java",
    "santacoder_fim_js": "santacoder-js",
    "infill_toy": "infill_toy",
}
#: where the text of an answer stands in a line; the first that it has is taken.
_TEXTS = ("completion", "solution", "canonical_solution", "middle")


@dataclass(frozen=True)
class Row:
    """One completion of the file: ``index`` counts completions, ``line`` lines (both for messages and resuming). ``fields``
    is the whole object it stands in. ``whole``: it is a program, not the text of a gap."""

    index: int
    line: int
    task_id: str
    completion: str
    fields: Mapping[str, Any] = field(default_factory=dict, compare=False)
    whole: bool = False

    @property
    def digest(self) -> str:
        text = json.dumps([self.task_id, self.completion, *(["whole"] if self.whole else [])])
        return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


@dataclass(frozen=True)
class Report:
    """What a run found. Rates are of completions; ``pass_at`` maps k to the mean over tasks (None: too few samples), those
    left out that are ``unjudgeable``. ``untested``: completions of gaps that have no tests. ``reasons``: how often each ``why``
    is given."""

    path: Path
    verdicts: Path
    tasks: int
    unjudgeable: int
    completions: int
    resumed: int
    pass_at: Mapping[int, float | None]
    timeout_rate: float
    judge_error_rate: float
    sandbox: str
    untested: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)

    def as_text(self) -> str:
        there = f" ({self.resumed} of the verdicts were there already)" if self.resumed else ""
        lines = [f"{counted(self.completions, 'completion')} of {counted(self.tasks, 'task')}{there}"]
        if self.untested:
            lines.append(
                f"left out: {counted(self.untested, 'completion')} of gaps without tests (`score` counts exact matches)"
            )
        if self.unjudgeable:
            lines.append(f"not counted: {counted(self.unjudgeable, 'task')} whose own reference fails")
        for k, value in self.pass_at.items():
            lines.append(f"pass@{k:<4} {'(some task has fewer samples)' if value is None else f'{value:.5f}'}")
        lines += [f"timeouts  {self.timeout_rate:.5f}", f"judge errors {self.judge_error_rate:.5f}", self.sandbox]
        reasons = Counter(self.reasons).most_common()
        if reasons:
            lines.append("why not passed, by number of completions:")
            lines += [f"{number:7,}  {why}" for why, number in reasons[:_REASONS]]
            if len(reasons) > _REASONS:
                lines.append(f"{sum(number for _, number in reasons[_REASONS:]):7,}  for other reasons")
        return "\n".join([*lines, f"verdicts: {self.verdicts}"])


def judge_file(
    path: str | Path,
    *,
    task: str | None = None,
    data_dir: str | None = None,
    problems: Sequence[str] = (),
    k: Sequence[int] = (1, 10, 100),
    workers: int | None = None,
    timeout: float = 3.0,
    sandbox: str = "auto",
    sandbox_command: str | Sequence[str] | None = None,
    judge: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Report:
    """Judge every completion of a file and write the verdicts beside it.

    :param task: the data set or task the ids belong to; default: every set that is found on disk.
    :param problems: files of the user's own problems, in the place of our sets (see ``problems.load_problems``).
    :param k: which pass@k to compute.
    :param judge: one of ``JUDGES``; ``auto`` takes the documents' own middles as references. Default: ``auto`` for the
        user's own problems, whose tests may be of any style, else ``split``.
    :param overwrite: judge everything again.
    :raises DataError: a line that is not of the expected form, an id that no set has.
    """
    path, judge = Path(path), judge or ("auto" if problems else "split")
    given = list(read_completions(path))
    documents = _documents(given, path, sets_of(task, data_dir, problems))
    rows = [row for row in given if documents[row.task_id]["test"]]
    if not rows:
        raise DataError(f"{path}: {counted(len(given), 'completion')}, no test for any of them; `score` counts exact matches.")
    target = path.with_name(path.name + ".verdicts.jsonl")
    settings = {"timeout": timeout, "documents": _digest_documents(documents)} | ({"asked": judge} if judge != "split" else {})
    done = [] if overwrite else _finished(target, rows, settings)
    with Judge(workers, timeout, sandbox, sandbox_command, progress=progress) as pool, _opened(target, done) as file:
        verdicts = list(done)
        for chunk in _chunks(rows[len(done) :]):
            jobs = [_job(documents[row.task_id], row.completion, row.whole) for row in chunk]
            references = [_job(documents[row.task_id], documents[row.task_id]["middle"]) for row in chunk]
            for row, verdict in zip(chunk, pool.run_as(judge, jobs, references), strict=True):
                verdicts.append(_line(row, verdict.status, verdict.why, verdict.mode, settings))
                file.write(json.dumps(verdicts[-1]) + "\n")
            file.flush()
        return _report(path, target, verdicts, (len(done), len(given) - len(rows)), k, pool.describe(judge))


def read_completions(path: Path) -> Iterator[Row]:
    """The completions of a JSONL file (``.gz`` too). Every fault is a DataError that names the line."""
    index = 0
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON ({error}). Each line is one object with task_id and completion.") from None
        if not isinstance(row, dict):
            raise DataError(f"{where}: found {type(row).__name__}, expected an object with task_id and completion.")
        for answer in _answers(row):
            text = next((name for name in _TEXTS if name in answer), "completion")
            for name in ("task_id", text):
                if not isinstance(answer.get(name), str):
                    found = type(answer[name]).__name__ if name in answer else f"only {', '.join(sorted(row)) or 'nothing'}"
                    raise DataError(f"{where}: found {found}, expected a string {name!r}.")
            yield Row(index, number, answer["task_id"], answer[text], row, text == "solution")
            index += 1


def _answers(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The completions of one line: the line itself, or the answers of a line of lm_eval's samples file, cut by the rule
    of the document as the task does."""
    doc, answers = row.get("doc"), row.get("resps")
    if not (isinstance(doc, dict) and isinstance(answers, list)) or "completion" in row:
        return [row]
    texts = [text for group in answers for text in (group if isinstance(group, list) else [group])]
    cut: Cut = "line" if doc.get("cut") == "line" else "none"
    return [
        {"task_id": doc.get("task_id"), "completion": normalise(text, cut) if isinstance(text, str) else text} for text in texts
    ]


def _lines(path: Path) -> Iterator[str]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="\n") as file:
            yield from file
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from None


def sets_of(
    task: str | None = None, data_dir: str | None = None, problems: Sequence[str] = ()
) -> dict[str, Callable[[], list[Document]]]:
    """Where the ids of a file may belong: task -> what loads its documents.

    :param task: a task or data set; None: every set with tests that is on disk (the languages of SantaCoder-FIM share ids).
    :param problems: files of the user's own instead; they are the task ``infill_file`` of that file.
    :raises ConfigError: no such set, or a set and files. :raises DataError: the files cannot be read.
    """
    if problems:
        if task is not None:
            raise ConfigError(f"--task {task} and --problems name two places for the same ids; give one.")
        documents = load_problems(list(problems), "--problems")
        return {f"infill_file_{title(list(problems))}": lambda: documents}
    by_set = {name: task for task, name in TASKS.items()}
    names = [name for name in by_set if (name not in SETS or SETS[name].executed) and on_disk(name, data_dir)]
    if task is not None:
        names = [TASKS.get(task, task)]
        if names[0] not in by_set:
            raise ConfigError(f"--task {task!r} is no data set.{did_you_mean(task, [*by_set, *TASKS])}")
    return {by_set[name]: functools.partial(load_documents, name, data_dir) for name in names}


def _documents(rows: Iterable[Row], path: Path, sets: Mapping[str, Callable[[], list[Document]]]) -> dict[str, Document]:
    """The documents of the ids in the file, by id."""
    wanted = {row.task_id: row for row in reversed(list(rows))}  # the first line of each
    if not wanted:
        raise DataError(f"{path}: holds no completion.")
    found: dict[str, Document] = {}
    for load in sets.values():
        if len(found) < len(wanted):
            found |= {d["task_id"]: d for d in load() if d["task_id"] in wanted}
    for row in sorted(wanted.values(), key=lambda row: row.index):
        if row.task_id not in found:
            places = ", ".join(sets) or "no set at all (set LM_EVAL_ENSEMBLE_DATA, give --task, or --problems FILE)"
            raise DataError(f"{path}, line {row.line}: task_id {row.task_id!r} is unknown. Looked in: {places}.")
    return found


def _job(document: Document, completion: str, whole: bool = False) -> Job:
    return Job(document["prefix"], completion, document["suffix"], document["test"], document["entry_point"], whole)


def _digest_documents(documents: Mapping[str, Document]) -> str:
    columns = ("task_id", "prefix", "suffix", "middle", "test", "entry_point")
    content = json.dumps(sorted([d[column] for column in columns] for d in documents.values()))
    return hashlib.sha256(content.encode("ascii")).hexdigest()[:16]


def _line(row: Row, status: str, why: str, mode: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    head = {"task_id": row.task_id, "index": row.index, "passed": status == "pass", "status": status, "why": why}
    return {**head, "judge": mode, "completion_sha256": row.digest, **settings}


def _finished(target: Path, rows: Sequence[Row], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The verdicts of an earlier run that still hold: as many leading lines as fit the file and the settings.

    Lost jobs say nothing about the completion, so they and what follows are judged again.
    """
    done: list[dict[str, Any]] = []
    if not target.exists():
        return done
    with open(target, encoding="utf-8") as file:
        for row, text in zip(rows, file, strict=False):
            try:
                line = json.loads(text)
                holds = line == _line(row, line["status"], line["why"], line["judge"], settings) and not line["why"].startswith(
                    LOST
                )
            except (ValueError, KeyError, TypeError):
                break  # the last line of an interrupted run may be torn
            if not holds:
                break
            done.append(line)
    return done


def _opened(target: Path, done: Sequence[Mapping[str, Any]]) -> Any:
    """``target``, open for writing behind the lines that hold."""
    part = target.with_name(target.name + ".part")
    part.write_text("".join(json.dumps(line) + "\n" for line in done), encoding="utf-8")
    part.replace(target)
    return open(target, "a", encoding="utf-8")


def _chunks(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    for start in range(0, len(rows), _CHUNK):
        yield rows[start : start + _CHUNK]


def _report(
    path: Path, target: Path, verdicts: Sequence[Mapping[str, Any]], counts: tuple[int, int], k: Sequence[int], sandbox: str
) -> Report:
    judged = [line for line in verdicts if line["judge"] != "unjudgeable"]
    samples = Counter(line["task_id"] for line in judged)
    passes = Counter(line["task_id"] for line in verdicts if line["passed"])
    fewest = min(samples.values(), default=0)
    pass_at: dict[int, float | None] = {}
    for size in k:
        if size <= fewest:
            pass_at[size] = sum(pass_at_k(n, passes[task], size) for task, n in samples.items()) / len(samples)
        elif size <= max(samples.values(), default=0):
            pass_at[size] = None  # an average over some of the tasks would be of other tasks
    return Report(
        path=path,
        verdicts=target,
        tasks=len({line["task_id"] for line in verdicts}),
        unjudgeable=len({line["task_id"] for line in verdicts} - samples.keys()),
        completions=len(verdicts),
        resumed=counts[0],
        pass_at=pass_at,
        timeout_rate=sum(line["status"] == "timeout" for line in verdicts) / len(verdicts),
        judge_error_rate=sum(is_of_the_judge(line["why"]) for line in verdicts) / len(verdicts),
        sandbox=sandbox,
        untested=counts[1],
        reasons=Counter(" ".join(line["why"].split())[:_WIDTH] for line in verdicts if line["why"]),
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``lm-eval-ensemble judge``."""
    parser.add_argument(
        "file",
        metavar="FILE",
        help="JSONL (or .jsonl.gz) with task_id and completion (or solution, a whole program) on each line, a samples file of "
        "lm_eval, or the folder of a run made with --predict_only and --log_samples",
    )
    parser.add_argument("--task", help="data set the ids belong to (default: every set found on disk)")
    add_problems_option(parser)
    parser.add_argument("--data_dir", help="folder with local data sets (default: $LM_EVAL_ENSEMBLE_DATA)")
    parser.add_argument("-k", default="1,10,100", help="which pass@k to print (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="processes (default: the usable processors)")
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds per completion (default: %(default)s)")
    parser.add_argument(
        "--judge", choices=JUDGES, help="how tests are run; see docs/judge.md (default: split; with --problems auto)"
    )
    parser.add_argument("--sandbox", choices=SANDBOXES, default="auto", help="which layers (default: %(default)s)")
    parser.add_argument("--sandbox_command", help="start workers under this command, e.g. 'bwrap ...'")
    parser.add_argument("--overwrite", action="store_true", help="judge again what has been judged")


def main(arguments: argparse.Namespace) -> int:
    """Run the command with parsed arguments; prints the report."""
    try:
        k = [int(part) for part in arguments.k.split(",")]
    except ValueError:
        k = [0]
    if min(k) < 1:
        raise ConfigError(f"-k {arguments.k!r}: expected numbers of at least 1, separated by commas, such as 1,10.")
    options = vars(arguments)
    names = ("task", "data_dir", "problems", "workers", "timeout", "sandbox", "sandbox_command", "judge", "overwrite")
    report = judge_file(arguments.file, k=k, **{name: options[name] for name in names})
    sys.stdout.write(report.as_text() + "\n")
    return 0
