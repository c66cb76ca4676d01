"""The samples of a run as short rows: candidates, who is right, scores; prompts and tests are dropped."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval_ensemble.report.documents import as_number, contradiction, order_of, problem_of, record_of

__all__ = ["Answer", "Choice", "Option", "read_rows", "rule_score"]


@dataclass(frozen=True)
class Option:
    """A candidate. ``scores``: name -> nats, lower is better; ``own`` among them is the mean of its own log-probabilities,
    negated. Undefined scores are left out."""

    member: str
    text: str
    right: bool
    scores: Mapping[str, float]
    verdict: str | None
    why: str
    row_forwards: float | None


@dataclass(frozen=True)
class Choice:
    """One completion: its candidates, which of them won, and why; ``rule`` names the score that decided, ``prefer`` the member
    that wins a tie."""

    options: tuple[Option, ...]
    winner: int
    reason: str
    rule: str
    prefer: str | None = None

    @property
    def chosen(self) -> Option:
        return self.options[self.winner]

    @property
    def decisive(self) -> bool:
        """Whether some but not all candidates are right: only here selection matters."""
        return any(o.right for o in self.options) and not all(o.right for o in self.options)


@dataclass(frozen=True)
class Answer:
    """One document: ``value`` of the metric, ``choices`` (one per repeat; none for models that do not tell how they chose),
    ``length`` of the reference in characters (of the answer where there is none), ``uncertainty`` where recorded: its
    record without the texts, and the pairs (score, is wrong) of each score."""

    number: Any
    cluster: Hashable
    problem: Hashable
    value: float
    length: int | None
    length_of: str
    choices: tuple[Choice, ...]
    uncertainty: Mapping[str, Any] | None
    pairs: Mapping[str, tuple[float | None, bool]]


def read_rows(
    samples: Iterable[tuple[int, Mapping[str, Any]]], metric: str, filter_name: str, where: str, problems: list[str]
) -> list[Answer]:
    """The rows of numbered samples, sorted by document; damaged ones are told with file and line, and left out.

    :param where: the file, for the messages.
    """
    numbered: list[tuple[int, Answer]] = []
    seen = set()
    for line, sample in samples:
        if sample.get("filter", filter_name) != filter_name:
            continue
        identity = (repr(sample.get("doc_id")), repr(sample.get("doc_hash")))
        fault = "the document stands there again" if identity in seen else None
        try:
            row = None if fault else _row(sample, metric)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            row, fault = None, f"the record is damaged ({type(error).__name__}: {error})"
        if row is not None:
            fault = contradiction(sample, metric, record_of(sample))
        if row is None or fault:
            problems.append(f"{where}, line {line}: {fault or f'{metric} is no number'}; the sample is left out.")
            continue
        seen.add(identity)
        numbered.append((line, row))
    if any(row.choices for _, row in numbered):
        # Where candidates are unknown nobody's answer is: counting them as wrong would be an invention.
        lost = [line for line, row in numbered if not row.choices]
        problems += [
            f"{where}, line {line}: no record of candidates as in other lines; the sample is left out." for line in lost
        ]
        numbered = [(line, row) for line, row in numbered if row.choices]
    return sorted((row for _, row in numbered), key=lambda row: order_of(row.number))


def rule_score(option: Option, rule: str) -> float | None:
    """The score a rule compares: the recorded one, or the mean of its parts (``fim+onepass``)."""
    if rule in option.scores:
        return option.scores[rule]
    parts = [option.scores.get(name.strip()) for name in rule.split("+")]
    known = [part for part in parts if part is not None]
    return math.fsum(known) / len(parts) if len(known) == len(parts) else None


def _row(sample: Mapping[str, Any], metric: str) -> Answer | None:
    value = as_number(sample.get(metric))
    if value is None:
        return None
    record = record_of(sample)
    if record is None and sample.get("selection") is not None:
        raise ValueError("selection has no candidates")
    completions = record.get("completions", [record]) if record is not None else []
    choices = tuple(_choice(completion) for completion in completions)
    doc = sample["doc"] if isinstance(sample.get("doc"), Mapping) else {}
    answer = _answer(sample, choices)
    # Where nothing was written (multiple choice) the target is the number of an option.
    target = sample.get("target") if answer is not None else None
    reference = next((text for text in (doc.get("middle"), target) if isinstance(text, str)), None)
    text = reference if reference is not None else answer
    problem = problem_of(sample)
    told = sample.get("uncertainty")
    return Answer(
        number=sample["doc_id"],
        cluster=("document", repr(sample["doc_id"]), repr(sample.get("doc_hash"))) if problem is None else problem,
        problem=problem,
        value=value,
        length=None if text is None else len(text.strip()),
        length_of="reference" if reference is not None else "answer",
        choices=choices,
        uncertainty=_uncertainty(told) if isinstance(told, Mapping) else None,
        pairs=_pairs(sample),
    )


def _choice(record: Mapping[str, Any]) -> Choice:
    options = tuple(_option(candidate) for candidate in record["candidates"])
    winner = int(record["winner_index"])
    if not 0 <= winner < len(options):
        raise ValueError(f"winner_index is {winner}, there are {len(options)} candidates")
    return Choice(options, winner, str(record["reason"]), str(record["rule"]), record.get("prefer"))


def _option(candidate: Mapping[str, Any]) -> Option:
    scores = {name: value for name, found in (candidate.get("scores") or {}).items() if (value := as_number(found)) is not None}
    logprobs = candidate.get("logprobs")
    if isinstance(logprobs, list) and logprobs and None not in logprobs:
        scores["own"] = -math.fsum(logprobs) / len(logprobs)
    if not isinstance(candidate["right"], bool):
        raise ValueError("right is neither true nor false")
    return Option(
        str(candidate["member"]),
        str(candidate["text"]),
        candidate["right"],
        scores,
        candidate.get("verdict"),
        str(candidate.get("why") or ""),
        as_number(candidate.get("row_forwards")),
    )


def _answer(sample: Mapping[str, Any], choices: tuple[Choice, ...]) -> str | None:
    if choices:
        return choices[0].chosen.text
    answers = sample.get("filtered_resps")
    first = answers[0] if isinstance(answers, list) and answers else None
    first = first[0] if isinstance(first, list) and first else first  # repeats
    return first if isinstance(first, str) else None


def _uncertainty(record: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("stop_kind", "truncated", "f1", "em", "rougeL", "answerable", "source")
    logprobs = record.get("logprobs")
    return {
        **{name: record.get(name) for name in kept},
        "tokens": None if logprobs is None else len(logprobs),
        "empty": not record.get("answer"),
    }


def _pairs(sample: Mapping[str, Any]) -> dict[str, tuple[float | None, bool]]:
    """``auroc_<score>``: [score, is wrong], as the question tasks write it for each score."""
    found = {}
    for name, value in sample.items():
        if name.startswith("auroc_") and not name.endswith(("_low", "_high")) and isinstance(value, list) and len(value) == 2:
            found[name.removeprefix("auroc_")] = (as_number(value[0]), bool(value[1]))
    return found
