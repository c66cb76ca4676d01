"""The ``uncertainty`` record of one answered question: what was written, how likely each token was, and whether it is right.

It holds everything the scores and metrics need, so that all of them can be computed again from a samples file alone. Numbers
are nats, untempered, from raw logits, to 7 decimals; what a model did not tell is null, and nothing is NaN.
:func:`answer_record` writes it, :func:`fault_of` says whether what was read is one, and :data:`RULES` what counts as right.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval_ensemble.metrics.answers import normalise, rouge_l, squad_em, squad_f1
from lm_eval_ensemble.types import Candidate, Completion

__all__ = ["RULES", "STOP_KINDS", "answer_record", "fault_of", "is_right", "row_of", "value_of"]

#: rule -> the least value of that field of a record that counts as right. The first is the tasks' own: best SQuAD F1 of 0.5
#: (Farquhar et al., Nature 2024, and the documents); ``stored`` is the verdict of old files.
RULES: dict[str, float] = {"f1": 0.5, "em": 1.0, "rougeL": 0.3, "stored": 0.5}
_MEASURES = {"f1": squad_f1, "em": squad_em, "rougeL": rouge_l}
_LISTS = ("logprobs", "tokens", "token_ids", "samples", "entropy", "margin", "references")
# A server's rounding may put a log-probability this little above 0 (nats).
_ROUNDING = 1e-3
#: how a candidate says it stopped -> how the record does.
STOP_KINDS = {"stop_token": "eos", "stop_string": "until", "length": "length"}

_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_NO_DECIMALS = re.compile(r"(?<=\d)\.0+(?!\d)")


def value_of(record: Mapping[str, Any], rule: str) -> float | None:
    """The value that a rule of :data:`RULES` compares; a missing one is computed from ``answer`` and ``references`` where the
    rule allows, else it is None."""
    value = record.get(rule)
    if isinstance(value, int | float):
        return float(value)
    references = record.get("references")
    if rule not in _MEASURES or references is None:
        return None
    return _MEASURES[rule](*_compared(record["answer"], [str(reference) for reference in references]))


def is_right(record: Mapping[str, Any], rule: str = "f1") -> bool | None:
    """Whether the answer counts as correct; None if the record cannot tell."""
    value = value_of(record, rule)
    return None if value is None else value >= RULES[rule]


def row_of(record: Mapping[str, Any], metric: str) -> float | None:
    """What the row of a metric must be that question tasks make of the record; None for other metrics."""
    if metric == "accuracy":
        right = is_right(record)
        return None if right is None else float(right)
    return value_of(record, metric) if metric in _MEASURES else None


def answer_record(doc: Mapping[str, Any], answer: str, title: str = "") -> dict[str, Any]:
    """The record of an answer to ``doc`` (``question, references, answerable``).

    :param title: the article that the question is about, if it has one: such questions are no independent documents.
    :param answer: a ``Completion`` of ours, or the plain text of a model that tells nothing else.
    """
    trace = answer.trace if isinstance(answer, Completion) else None
    if trace is None:
        own, samples = Candidate("", str(answer), str(answer)), []
    else:
        own = trace.chosen
        samples = [s.candidate for s in trace.candidates if s.candidate.member == own.member and s.candidate.sample]
    info, text = own.info, own.raw.strip()
    return {
        "question": doc["question"],
        **({"title": title} if title else {}),
        "answer": text,
        "raw": own.raw,
        "tokens": list(own.tokens or ()),
        "token_ids": list(info.get("token_ids") or ()),
        "logprobs": _numbers(own.logprobs),
        "stop_logprob": _number(info.get("stop_logprob")),
        "stop_kind": STOP_KINDS.get(info.get("stop", "")),
        "truncated": info.get("stop") == "length",
        "straddle": bool(info.get("straddle")),
        "source": info.get("source", "generation"),
        "entropy": _numbers(info.get("entropy")),
        "margin": _numbers(info.get("margin")),
        "entropy_kind": info.get("entropy_kind"),
        **_judged(doc, text),
        "references": list(doc["references"]),
        "answerable": bool(doc["answerable"]),
        "p_true": _number(info.get("p_true")),
        "trimmed_prefix": info.get("trimmed_prefix", 0),
        "samples": [_sample(doc, sample) for sample in samples],
    }


def _sample(doc: Mapping[str, Any], sample: Candidate) -> dict[str, Any]:
    text = sample.raw.strip()
    return {
        "text": text,
        "logprobs": _numbers(sample.logprobs),
        "tokens": list(sample.tokens or ()),
        "token_ids": list(sample.info.get("token_ids") or ()),
        # all there is of a sample that is empty
        "stop_logprob": _number(sample.info.get("stop_logprob")),
        "f1": _judged(doc, text)["f1"],
    }


def _judged(doc: Mapping[str, Any], text: str) -> dict[str, Any]:
    """F1, exact match and ROUGE-L, each in [0, 1]. Where there is no answer, saying so is as good as saying nothing."""
    text, references = _compared(text, list(doc["references"]))
    if not references and normalise(text) in ("unanswerable", "no answer"):
        text = ""
    return {
        "f1": round(squad_f1(text, references), 7),
        "em": int(squad_em(text, references)),
        "rougeL": round(rouge_l(text, references), 7),
    }


def _compared(text: str, references: list[str]) -> tuple[str, list[str]]:
    """Where all references are numbers, 51.0 is read as 51 on both sides: the normaliser drops the point and would take it for
    510."""
    if references and all(_NUMBER.fullmatch(reference.strip()) for reference in references):
        return _NO_DECIMALS.sub("", text), [_NO_DECIMALS.sub("", reference) for reference in references]
    return text, references


def _numbers(values: Sequence[Any] | None) -> list[float | None] | None:
    return None if values is None else [_number(value) for value in values]


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 7)


def fault_of(record: Any) -> str | None:
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
    if not isinstance(record.get("title", ""), str):
        return f"'uncertainty.title' is {type(record['title']).__name__}, expected a text"
    for name in RULES:
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
