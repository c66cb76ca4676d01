"""The answers of a run, whichever file they come from: one record per document, with labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.runs.answer import RULES, fault_of, value_of
from lm_eval_ensemble.runs.load import TaskRun, first_few, load_runs
from lm_eval_ensemble.runs.load import labels as name_apart
from lm_eval_ensemble.runs.samples import BY_TEXT, Line, Sample, document_keys, kind_of_clusters, read
from lm_eval_ensemble.uncertainty.legacy import FILE_NAME, old_records, run_settings
from lm_eval_ensemble.uncertainty.origin import UNKNOWN, Origin, from_config, from_old_name

__all__ = ["Answers", "answers_of", "labels", "load_answers"]

_OLD = (
    "a file of earlier experiments: the log-probabilities of runs before 2025-12-08 are those of sampled answers after "
    "temperature and cut-offs, not of greedy ones; RW-G-NLL needs tokens, which it does not hold"
)
_DRAWN = "answers were drawn at a temperature, not greedy: g_nll is the NLL of a random answer, not G-NLL"


@dataclass(frozen=True)
class Answers:
    """One task of one run. ``keys`` name the documents across runs, ``records`` are as in a samples file, ``cell`` is the name
    that ``sweep`` gave the run. ``clusters`` name what is drawn as one (empty: every document), ``kind`` says what these are.
    ``docs`` are the numbers and names that a file of scores may call the documents by. ``title`` tells runs of one name apart.
    """

    origin: Origin
    source: str
    dataset: str
    run_id: str
    experiment_lot: str
    path: Path
    keys: tuple[Hashable, ...]
    records: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()
    cell: str = ""
    clusters: tuple[Hashable, ...] = ()
    kind: str = ""
    docs: tuple[tuple[str, ...], ...] = ()
    title: str = ""

    @property
    def name(self) -> str:
        """Names the model for people, and its settings where several were run."""
        return self.title or self.cell or self.origin.name

    @property
    def label(self) -> str:
        """Names the run for people."""
        return f"{self.dataset}, {self.name} ({self.source})"


def labels(records: Sequence[Mapping[str, Any]], rule: str) -> NDArray[np.bool_] | None:
    """Whether each answer is wrong, (n,), by a rule of :data:`lm_eval_ensemble.runs.answer.RULES`; None if some record cannot
    tell."""
    values = [value_of(record, rule) for record in records]
    known = [value for value in values if value is not None]
    return np.array(known) < RULES[rule] if len(known) == len(values) else None


def load_answers(paths: Sequence[str | Path]) -> tuple[list[Answers], list[str]]:
    """The runs with answers found in results files, folders and old pickles, and what could not be used.

    :raises DataError: a path does not exist, or nothing usable is there.
    """
    found: list[Answers] = []
    problems: list[str] = []
    sources: dict[int, TaskRun] = {}
    for path in map(Path, paths):
        pickles = [path] if path.suffix == ".pkl" else sorted(path.rglob(FILE_NAME)) if path.is_dir() else []
        for file in pickles:
            try:
                found.append(_old_run(file, problems))
            except DataError as error:
                problems.append(str(error))
        if path.suffix == ".pkl":
            continue
        try:
            runs, told = load_runs([path])
        except DataError as error:
            if not pickles:
                problems.append(str(error))
            continue
        problems += told
        for run in runs:
            if (answers := answers_of(run, problems)) is not None:
                sources[len(found)] = run
                found.append(answers)
    if not found:
        raise DataError("\n".join(["no run with answers to analyse was found.", *problems]))
    titles = dict(zip(sources, name_apart(list(sources.values())), strict=True))
    times = Counter(answers.label for answers in found)
    rivals = [i for i in titles if times[found[i].label] > 1]
    return [replace(one, title=titles[i]) if i in rivals else one for i, one in enumerate(found)], problems


def answers_of(run: TaskRun, problems: list[str], lines: Iterable[Line] | None = None) -> Answers | None:
    """The answers of one task of one run; None, and a line for ``problems``, where it has no records of them.

    :param lines: instead of those of the run's file, numbered, in the form they have there.
    """
    if lines is None and run.samples_path is None:
        problems.append(f"{run.results_path}: {run.task} has no samples file; run lm_eval with --log_samples. Left out.")
        return None
    samples = read(run, _kept, lines=lines)
    problems += samples.problems
    answered = [row for row in samples.rows if row.record is not None]
    if not answered:
        problems.append(
            f"{run.samples_path}: none of {len(samples.rows)} samples has an 'uncertainty' record; expected a task such as "
            "triviaqa_uncertainty. Left out."
        )
        return None
    records = tuple(row.record for row in answered if row.record is not None)
    # Old files have no hashes of their documents: there the question is the document.
    contents = [row.content or str(record["question"]) for row, record in zip(answered, records, strict=True)]
    clusters = tuple(row.cluster for row in answered)
    kind = kind_of_clusters(row.by for row in answered) if len(set(clusters)) < len(clusters) else ""
    metadata = run.task_config.get("metadata")
    lot = metadata.get("experiment_lot") if isinstance(metadata, Mapping) else None
    return Answers(
        origin=from_config(run.model_name, run.config),
        source=run.model_source,
        dataset=run.task,
        run_id=run.date,
        experiment_lot=str(lot or run.grid or run.results_path.resolve().parent.parent.name),
        path=run.results_path,
        keys=tuple(document_keys([row.number for row in answered], contents)),
        records=records,
        notes=(*((_DRAWN,) if _is_drawn(run) else ()), *((BY_TEXT,) if kind == "texts" else ())),
        cell=run.cell,
        clusters=clusters if kind else (),
        kind=kind,
        docs=tuple(row.names for row in answered),
    )


class _Answered(NamedTuple):
    """What is kept of a sample: ``by`` tells what its cluster is."""

    number: Any
    content: str | None
    record: Mapping[str, Any] | None
    cluster: Hashable
    by: str
    names: tuple[str, ...]


def _kept(sample: Sample) -> _Answered:
    name = sample.doc.get("task_id")
    names = (str(sample.number), *([str(name)] if isinstance(name, str | int) else []))
    return _Answered(sample.number, sample.content, sample.answer, sample.cluster, sample.clustered_by, names)


def _is_drawn(run: TaskRun) -> bool:
    """Whether the answers were drawn at a temperature: a member's own setting comes before that of the task."""
    own, asked = run.config.get("model_args"), run.task_config.get("generation_kwargs")
    own, asked = (given if isinstance(given, Mapping) else {} for given in (own, asked))
    if run.model_source == "hf-scored":
        if str(own.get("greedy")).lower() == "true":
            return False
        if own.get("temperature") is not None:
            return str(own["temperature"]) not in ("0", "0.0")
    sampled = asked.get("do_sample")
    return sampled is True or (sampled is None and bool(asked.get("temperature")))


def _old_run(file: Path, problems: list[str]) -> Answers:
    rows: dict[str, Mapping[str, Any]] = {}
    told: list[str] = []
    for key, record in old_records(file, told):
        if fault := fault_of(record):
            told.append(f"{file}, entry {key!r}: {fault}. The entry is left out.")
        else:
            rows[key] = record
    problems += first_few(told, file)
    if not rows:
        raise DataError(f"{file}: holds no readable entry.")
    settings = run_settings(file)
    # wandb/run-DATE-ID/files/validation_generations.pkl
    folder = file.resolve().parent
    run_id = (folder.parent if folder.name == "files" else folder).name
    return Answers(
        origin=from_old_name(str(settings.get("model_name") or UNKNOWN)),
        source="pickle",
        dataset=str(settings.get("dataset") or UNKNOWN),
        run_id=run_id,
        experiment_lot=str(settings.get("experiment_lot") or UNKNOWN),
        path=file,
        keys=tuple(rows),
        records=tuple(rows.values()),
        notes=(_OLD,),
    )
