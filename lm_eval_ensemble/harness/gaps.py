"""A file of completions as gaps: joined with the documents of the data sets they belong to."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lm_eval_ensemble.data import Document
from lm_eval_ensemble.errors import DataError, counted
from lm_eval_ensemble.execution.files import Row, read_completions, sets_of
from lm_eval_ensemble.harness.judging import JudgeSettings
from lm_eval_ensemble.runs.load import TaskRun, identities, labels, load_runs
from lm_eval_ensemble.types import Candidate, Cut, InfillRequest, normalise

__all__ = ["Gap", "ScoreOptions", "read_gaps", "runs_of"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoreOptions:
    """What ``score_file`` does with a file.

    ``task``: where the ids belong; None: every set on disk, or ``problems``, files of the user's own. ``member`` names the
    candidates' author, ``member_field`` a field of the lines that does. ``cut``: None is the rule of each set, ``none`` scores
    the completions as they stand. ``limit``: the first so many documents of each task. ``judge``: None executes nothing.
    ``chunk``: documents between two writes.
    """

    output: Path
    model_args: Mapping[str, Any]
    task: str | None = None
    data_dir: str | None = None
    problems: tuple[str, ...] = ()
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
    """A document, its number in the data set, and the candidates of the file, among which one is chosen; of a run with
    ``repeats``, those of each repeat."""

    task: str
    number: int
    document: Document
    repeats: tuple[tuple[Candidate, ...], ...]

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Those of all repeats."""
        return tuple(candidate for repeat in self.repeats for candidate in repeat)

    @property
    def key(self) -> str:
        """Names the document, by its content too (data change under the same name), and its candidates."""
        told = [[(c.member, c.sample, c.text, c.raw) for c in repeat] for repeat in self.repeats]
        content = [self.task, self.number, self.document, told]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode("ascii")).hexdigest()[:20]

    @property
    def request(self) -> InfillRequest:
        cut: Cut = "line" if self.document["cut"] == "line" else "none"
        return InfillRequest(self.document["prefix"], self.document["suffix"], self.task, self.number, cut=cut)


def read_gaps(path: Path, options: ScoreOptions) -> list[Gap]:
    """The documents of a file with their candidates, in the order of the data sets; or those of the runs in a folder, judged
    or not (``--predict_only``), with the candidates of their records.

    :raises DataError: an unreadable line; ids that no set has (counted, the first ones named); no completion at all.
    """
    if path.is_dir():
        gaps = [gap for gap in _of_runs(path, options) if options.task in (None, gap.task)]
        if not gaps:
            raise DataError(f"{path}: holds no run of {options.task or 'an infilling task'} with samples.")
        return _limited(gaps, options.limit)
    by_id: dict[str, list[Row]] = {}
    for row in read_completions(path):
        by_id.setdefault(row.task_id, []).append(row)
    if not by_id:
        raise DataError(f"{path}: holds no completion.")
    if several := sum(_recorded(row) > 1 for rows in by_id.values() for row in rows):
        logger.warning(
            "%s: the chosen texts of %s are scored, as %r; to score every recorded candidate, give the run's folder.",
            path,
            counted(several, "documents"),
            options.member,
        )
    gaps = []
    sets = sets_of(options.task, options.data_dir, options.problems)
    unknown = dict(by_id)
    for task, load in sets.items():
        for number, document in enumerate(load() if unknown else ()):
            rows = unknown.pop(document["task_id"], None)
            if rows is not None:
                chosen = document if options.cut is None else {**document, "cut": options.cut}
                gaps.append(Gap(task, number, chosen, (_candidates(rows, chosen, path, options),)))
    if unknown and options.task is not None and gaps:
        logger.warning(
            "%s: %d of %d task ids do not belong to %s and are left out.", path, len(unknown), len(by_id), options.task
        )
    elif unknown:
        rows = [rows[0] for rows in unknown.values()]
        first = ", ".join(f"{row.task_id!r} (line {row.line})" for row in rows[:3]) + (", ..." if len(rows) > 3 else "")
        places = ", ".join(sets) or "no set at all (set LM_EVAL_ENSEMBLE_DATA, give --task, or --problems FILE)"
        raise DataError(
            f"{path}: {len(unknown)} of {len(by_id)} task ids are unknown: {first}. Looked in: {places}. "
            "Give the set they belong to with --task or --problems, or remove the lines."
        )
    return _limited(gaps, options.limit)


def _limited(gaps: Sequence[Gap], limit: int | None) -> list[Gap]:
    """The first documents of each task, as lm_eval's ``--limit`` counts them."""
    of_task: dict[str, list[Gap]] = {}
    for gap in gaps:
        of_task.setdefault(gap.task, []).append(gap)
    return [gap for own in of_task.values() for gap in own[:limit]]


def _recorded(row: Row) -> int:
    """How many candidates a line of a run's samples file records."""
    selection = row.fields.get("selection")
    candidates = selection.get("candidates") if isinstance(selection, Mapping) else None
    return len(candidates) if isinstance(candidates, list) else 0


def runs_of(path: Path, task: str | None) -> tuple[list[TaskRun], list[str]]:
    """The runs with samples in a folder, a task each, and what could not be read.

    :raises DataError: several runs of one task, or of several models: what is written is one run, of one model.
    """
    runs, problems = load_runs([path])
    wanted = [run for run in runs if run.samples_path and task in (None, run.task)]
    for name, count in Counter(run.task for run in wanted).items():
        if count > 1:
            raise DataError(f"{path}: holds {count} runs of {name}; give the folder of one of them.")
    if len(set(identities(wanted))) > 1:
        named = ", ".join(f"{label}: {run.task}" for label, run in zip(labels(wanted), wanted, strict=True))
        raise DataError(f"{path}: holds runs of several models or settings ({named}); give the folder of one, or --task.")
    return wanted, problems


def _of_runs(path: Path, options: ScoreOptions) -> Iterator[Gap]:
    """:raises DataError: see ``runs_of``; a line is damaged or of another kind of task."""
    from lm_eval_ensemble.harness.answered import selections_of  # lm_eval: only the work needs it

    runs, problems = runs_of(path, options.task)
    for run in runs:
        told: dict[int, str] = {}
        for line, raw in sorted(run.lines(told), key=lambda pair: int(pair[1]["doc_id"])):
            found = [[_told(scored.candidate) for scored in each.candidates] for each in selections_of(run, line, raw)]
            if all(len(repeat) == 1 for repeat in found):  # the repeats of a single model are its samples
                found = [[candidate for repeat in found for candidate in repeat]]
            document = raw["doc"] if options.cut is None else {**raw["doc"], "cut": options.cut}
            yield Gap(run.task, int(raw["doc_id"]), document, tuple(_numbered(repeat, options.member) for repeat in found))
        problems += told.values()
    for problem in problems:
        logger.warning("%s", problem)


def _told(candidate: Candidate) -> Candidate:
    """Without the log-probability of the end, which belongs to the scores of the run and not to the text."""
    return replace(candidate, info={name: value for name, value in candidate.info.items() if name != "end_logprob"})


def _numbered(candidates: Sequence[Candidate], author: str) -> tuple[Candidate, ...]:
    """The texts of one member are its samples."""
    seen: Counter[str] = Counter()
    found = []
    for candidate in candidates:
        member = candidate.member or author
        found.append(replace(candidate, member=member, sample=seen[member]))
        seen[member] += 1
    return tuple(found)


def _candidates(rows: Sequence[Row], document: Document, path: Path, options: ScoreOptions) -> tuple[Candidate, ...]:
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
        text = _middle(row, document, path) if row.whole else row.completion
        found.append(Candidate(member, normalise(text, cut), text, sample=seen[member]))
        seen[member] += 1
    return tuple(sorted(found, key=lambda candidate: (candidate.member, candidate.sample)))


def _middle(row: Row, document: Document, path: Path) -> str:
    """What a whole program has where the gap is; a score compares texts of one gap.

    :raises DataError: the program is not the gap's prefix and suffix with something between them.
    """
    prefix, suffix, program = document["prefix"], document["suffix"].rstrip(), row.completion.rstrip()
    if len(program) < len(prefix) + len(suffix) or not (program.startswith(prefix) and program.endswith(suffix)):
        raise DataError(
            f"{path}, line {row.line}: its solution does not begin with the prefix of {row.task_id!r} and end with its suffix, "
            "so it fills no gap that could be scored. `judge` judges whole programs; `score` wants the text of the gap "
            "(completion)."
        )
    return row.completion[len(prefix) :] if not suffix else program[len(prefix) : len(program) - len(suffix)]
