"""The answers of a run, whichever file they come from: one record per document, with labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.metrics.answers import rouge_l, squad_em, squad_f1
from lm_eval_ensemble.report.load import TaskRun, first_few, load_runs
from lm_eval_ensemble.uncertainty.legacy import FILE_NAME, old_records, run_settings
from lm_eval_ensemble.uncertainty.origin import UNKNOWN, Origin, from_config, from_old_name

__all__ = ["LABELS", "Answers", "answers_of", "labels", "load_answers"]

# Rule -> the least value of that field of a record that counts as right. The first is the primary one.
LABELS: dict[str, float] = {"f1": 0.5, "em": 1.0, "rougeL": 0.3, "stored": 0.5}
_MEASURES = {"f1": squad_f1, "em": squad_em, "rougeL": rouge_l}
_LISTS = ("logprobs", "tokens", "token_ids", "samples", "entropy", "margin", "references")
# A server's rounding may put a log-probability this little above 0 (nats).
_ROUNDING = 1e-3
_OLD = (
    "a file of earlier experiments: the log-probabilities of runs before 2025-12-08 are those of sampled answers after "
    "temperature and cut-offs, not of greedy ones; RW-G-NLL needs tokens, which it does not hold"
)
_DRAWN = "answers were drawn at a temperature, not greedy: g_nll is the NLL of a random answer, not G-NLL"


@dataclass(frozen=True)
class Answers:
    """One task of one run. ``keys`` name the documents across runs, ``records`` are as in a samples file, ``cell`` is the name
    that ``sweep`` gave the run."""

    origin: Origin
    source: str
    dataset: str
    run_id: str
    experiment_lot: str
    path: Path
    keys: tuple[str, ...]
    records: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()
    cell: str = ""

    @property
    def name(self) -> str:
        """Names the model for people, and its settings where a sweep has several."""
        return self.cell or self.origin.name

    @property
    def label(self) -> str:
        """Names the run for people."""
        return f"{self.dataset}, {self.name} ({self.source})"


def labels(records: Sequence[Mapping[str, Any]], rule: str) -> NDArray[np.bool_] | None:
    """Whether each answer is wrong, (n,), by a rule of :data:`LABELS`; None if some record cannot tell.

    A missing value is computed from ``answer`` and ``references`` where the rule allows.
    """
    values = [_value(record, rule) for record in records]
    known = [value for value in values if value is not None]
    return np.array(known) < LABELS[rule] if len(known) == len(values) else None


def load_answers(paths: Sequence[str | Path]) -> tuple[list[Answers], list[str]]:
    """The runs with answers found in results files, folders and old pickles, and what could not be used.

    :raises DataError: a path does not exist, or nothing usable is there.
    """
    found: list[Answers] = []
    problems: list[str] = []
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
        found += [answers for run in runs if (answers := answers_of(run, problems)) is not None]
    if not found:
        raise DataError("\n".join(["no run with answers to analyse was found.", *problems]))
    return found, problems


def answers_of(run: TaskRun, problems: list[str], samples: Sequence[Mapping[str, Any]] | None = None) -> Answers | None:
    """The answers of one task of one run; None, and a line for ``problems``, where it has no records of them.

    :param samples: instead of those of the run's file, in the form they have there.
    """
    if samples is None and run.samples_path is None:
        problems.append(f"{run.results_path}: {run.task} has no samples file; run lm_eval with --log_samples. Left out.")
        return None
    rows: dict[str, Mapping[str, Any]] = {}
    told: list[str] = []
    seen = 0
    for sample in run.samples(told) if samples is None else samples:
        seen += 1
        record = sample.get("uncertainty")
        if record is None:
            continue
        if fault := _fault(record):
            told.append(f"{run.samples_path}, document {sample['doc_id']}: {fault}. The document is left out.")
            continue
        # one sample per filter; the record is the same
        rows.setdefault(str(sample.get("doc_hash") or record["question"]), record)
    problems += first_few(told, run.samples_path)
    if not rows:
        problems.append(
            f"{run.samples_path}: none of {seen} samples has an 'uncertainty' record; expected a task such as "
            "triviaqa_uncertainty. Left out."
        )
        return None
    metadata = run.task_config.get("metadata")
    lot = metadata.get("experiment_lot") if isinstance(metadata, Mapping) else None
    return Answers(
        origin=from_config(run.model_name, run.config),
        source=run.model_source,
        dataset=run.task,
        run_id=run.date,
        experiment_lot=str(lot or run.grid or run.results_path.resolve().parent.parent.name),
        path=run.results_path,
        keys=tuple(rows),
        records=tuple(rows.values()),
        notes=(_DRAWN,) if _is_drawn(run) else (),
        cell=run.cell,
    )


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
    for key, record in old_records(file, problems):
        if fault := _fault(record):
            problems.append(f"{file}, entry {key!r}: {fault}. The entry is left out.")
        else:
            rows[key] = record
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


def _fault(record: Any) -> str | None:
    """What makes a record unusable, in words; None if nothing does."""
    if not isinstance(record, Mapping):
        return f"'uncertainty' is {type(record).__name__}, expected an object"
    if not isinstance(record.get("question"), str):
        return "'uncertainty' has no question"
    for name in _LISTS:
        if record.get(name) is not None and not isinstance(record[name], list):
            return f"'uncertainty.{name}' is {type(record[name]).__name__}, expected a list or null"
    if not isinstance(record.get("answer"), str):
        return "'uncertainty' has no answer"
    for name in LABELS:
        if (value := record.get(name)) is not None and not (_is_number(value) and 0 <= value <= 1):
            return f"'uncertainty.{name}' is {_shown(value)}, expected a number from 0 to 1"
    if fault := _token_fault(record, "uncertainty"):
        return fault
    for sample in record.get("samples") or []:
        if not (isinstance(sample, Mapping) and isinstance(sample.get("text"), str)):
            return "'uncertainty.samples' holds something without a text"
        if fault := _token_fault(sample, "uncertainty.samples"):
            return fault
    return None


def _token_fault(record: Mapping[str, Any], where: str) -> str | None:
    """What is wrong with the tokens and log-probabilities of an answer or of a sample."""
    for name in ("logprobs", "tokens", "token_ids"):
        if record.get(name) is not None and not isinstance(record[name], list):
            return f"'{where}.{name}' is {type(record[name]).__name__}, expected a list or null"
    if not all(isinstance(token, str) for token in record.get("tokens") or []):
        return f"'{where}.tokens' holds something that is no text"
    for value in [*(record.get("logprobs") or []), record.get("stop_logprob")]:
        # not-a-number is a number that is not known, as null is
        if value is not None and value == value and not (_is_number(value) and value <= _ROUNDING):
            return f"'{where}.logprobs' holds {_shown(value)}, expected log-probabilities, which are 0 or below"
    return None


def _is_number(value: Any) -> bool:
    """A number that fits a float; not-a-number is none."""
    try:
        return isinstance(value, int | float) and float(value) == value
    except OverflowError:
        return False


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, float) or _is_number(value) else type(value).__name__


def _value(record: Mapping[str, Any], rule: str) -> float | None:
    value = record.get(rule)
    if isinstance(value, int | float):
        return float(value)
    references = record.get("references")
    if rule not in _MEASURES or references is None:
        return None
    return _MEASURES[rule](record["answer"], [str(reference) for reference in references])
