"""Stored records as cases: what the selectors saw in the run, and what came of each candidate."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lm_eval_ensemble.errors import ConfigError, DataError, did_you_mean
from lm_eval_ensemble.metrics.infill import measures
from lm_eval_ensemble.report.documents import contradiction
from lm_eval_ensemble.report.load import TaskRun, first_few
from lm_eval_ensemble.selection import Case
from lm_eval_ensemble.types import RUN, Candidate, Scored

__all__ = ["Choice", "NoRecordsError", "Recorded", "read_record"]

_HUMANEVAL = re.compile(r"(SingleLine|MultiLine|RandomSpan|RandomSpanLight)Infilling/")


class NoRecordsError(DataError):
    """The samples of a run are sound, and hold no record of candidates."""


@dataclass(frozen=True)
class Choice:
    """One gap: the case, its outcome (``case.right``), and how the run itself chose."""

    case: Case
    problem: str
    task_id: str
    winner: int
    reason: str

    @property
    def members(self) -> frozenset[str]:
        return frozenset(scored.candidate.member for scored in self.case.candidates)

    @property
    def decisive(self) -> bool:
        """Some candidates are right and some are wrong: only then selection matters."""
        return any(self.case.right or ()) and not all(self.case.right or ())


@dataclass(frozen=True)
class Recorded:
    """One task of one run. ``selector`` and ``rule`` are the run's own; ``prefer`` and ``seed`` likewise."""

    run: TaskRun
    choices: tuple[Choice, ...]
    measure: str
    selector: str
    rule: str
    prefer: str | None
    length_modes: tuple[str, ...]
    problems: tuple[str, ...] = field(default=())

    @property
    def task(self) -> str:
        return self.run.task

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(s.candidate.member for choice in self.choices for s in choice.case.candidates))

    @property
    def scores(self) -> tuple[str, ...]:
        """The scores that are defined somewhere, without means of several."""
        found = Counter(
            name
            for choice in self.choices
            for scored in choice.case.candidates
            for name, value in scored.scores.items()
            if value is not None and "+" not in name
        )
        return tuple(found)

    @property
    def is_humaneval(self) -> bool:
        """HumanEval-Infilling, by the ids of its documents: the only set that numbers are fitted on for later use."""
        return all(_HUMANEVAL.match(choice.task_id) for choice in self.choices)

    @property
    def is_santacoder(self) -> bool:
        return "santacoder" in self.task or any(choice.task_id.startswith("humaneval-HumanEval") for choice in self.choices)


def read_record(run: TaskRun, rule: str | None = None, measure: str | None = None) -> Recorded:
    """:param rule: another score to compare than the run's; ``measure``: another row that says what is right.

    Records that are damaged, or contradict their rows, are told and left out.

    :raises NoRecordsError: the run has no records of candidates; ``DataError``: none of them can be used.
    """
    told: list[str] = []
    choices: list[Choice] = []
    seed, first, own = _seed(run.config), None, None
    modes: set[str] = set()
    seen: set[str] = set()
    for sample in run.samples(told):
        first = sample.get("filter") if first is None else first
        if sample.get("filter") != first:
            continue
        record = sample.get("selection")
        if record is None:
            continue
        if (number := str(sample["doc_id"])) in seen:
            told.append(f"{run.samples_path}: document {number} stands there again; the first one is used.")
            continue
        try:
            found = _choices(run, sample, record, rule, measure, seed)
            own = own or (
                str(record["measure"]),
                str(record.get("selector", "argmin")),
                str(record["rule"]),
                record.get("prefer"),
            )
            modes |= {c["length_mode"] for c in record["candidates"] if "length_mode" in c}
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            told.append(
                f"{run.samples_path}, doc_id {sample['doc_id']}: the record under 'selection' is damaged "
                f"({type(error).__name__}: {error}); expected the fields of docs/results.md. The document is left out."
            )
            continue
        if fault := contradiction(sample, str(record["measure"]), record) if measure in (None, record["measure"]) else None:
            told.append(f"{run.samples_path}, doc_id {sample['doc_id']}: {fault}. The document is left out.")
            continue
        choices += found
        seen.add(number)
    problems = first_few(told, run.samples_path)
    if not choices or own is None:
        # A sound run of another kind has nothing to replay; it is no damaged one.
        raise (DataError if problems else NoRecordsError)(
            "\n".join(
                [
                    f"{run.samples_path}: found no record of candidates ('selection') to use in {run.task} by "
                    f"{run.model_source}; expected a run of ensemble-ppl with --log_samples and without --predict_only.",
                    *problems,
                ]
            )
        )
    if run.n_samples is not None and len(seen) < run.n_samples and not problems:
        problems.append(f"{run.samples_path}: {len(seen)} records, but the results speak of {run.n_samples} documents.")
    return Recorded(run, tuple(choices), measure or own[0], own[1], own[2], own[3], tuple(sorted(modes)), tuple(problems))


def _seed(config: Mapping[str, Any]) -> int:
    """The seed of the run's random streams: its own, else torch's, as in the run."""
    settings = config.get("ensemble")
    own = settings.get("seed") if isinstance(settings, Mapping) else None
    found = config.get("torch_seed") if own is None else own
    return found if isinstance(found, int) else 0


def _choices(
    run: TaskRun, sample: Mapping[str, Any], record: Mapping[str, Any], rule: str | None, measure: str | None, seed: int
) -> list[Choice]:
    doc = sample["doc"]
    if not isinstance(sample["doc_id"], str | int | float):
        raise TypeError("doc_id is neither a number nor a text")
    found = []
    entries = record.get("completions") or [record]
    runs = max([1, *(c[RUN] + 1 for entry in entries for c in entry["candidates"] if RUN in c)])
    for number, entry in enumerate(entries):
        candidates = tuple(_scored(row) for row in entry["candidates"])
        right = tuple(bool(row["right"]) for row in entry["candidates"])
        if measure is not None and measure != record["measure"]:
            right = _by_measure(doc, measure, candidates)
        winner = entry["winner_index"]
        if not (isinstance(winner, int) and 0 <= winner < len(candidates)):
            raise ValueError(f"winner_index {winner!r} of {len(candidates)} candidates")
        prefix, suffix = doc.get("prefix", doc.get("prompt", "")), doc.get("suffix", "")
        if not all(isinstance(text, str) for text in (prefix, suffix, entry["rule"])):
            raise TypeError("prefix, suffix or rule is no text")
        # All runs of a repeat (length=fixed-mean) have the random stream of that repeat.
        key: tuple[Any, ...] = (run.task, sample["doc_id"], number // runs)
        case = Case(candidates, rule or entry["rule"], entry.get("prefer"), prefix, suffix, key, seed, right)
        problem = str(record.get("problem") or doc.get("problem") or doc.get("task_id") or sample["doc_id"])
        found.append(Choice(case, problem, str(doc.get("task_id", "")), winner, str(entry["reason"])))
    return found


def _scored(row: Mapping[str, Any]) -> Scored:
    candidate = Candidate(str(row["member"]), str(row["text"]), str(row["raw"]), int(row.get("sample", 0)))
    scores = {name: _number(value) for name, value in row["scores"].items()}
    return Scored(candidate, scores, row.get("verdict"), str(row.get("why") or ""))


def _number(value: Any) -> float | None:
    if value is None or (isinstance(value, int | float) and not math.isfinite(value)):
        return None
    return float(value)


def _by_measure(doc: Mapping[str, Any], name: str, candidates: Sequence[Scored]) -> tuple[bool, ...]:
    known = measures(doc)
    if name not in known:
        raise ConfigError(f"--measure {name!r}: not a measure of this task.{did_you_mean(name, known)}")
    return tuple(known[name](scored) for scored in candidates)
