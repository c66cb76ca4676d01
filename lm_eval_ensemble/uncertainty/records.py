"""The ``uncertainty`` record of one answered question: what was written, how likely each token was, and whether it is right.

It holds everything the scores and metrics need, so that all of them can be computed again from a samples file alone. Numbers
are nats, untempered, from raw logits, to 7 decimals; what a model did not tell is null, and nothing is NaN.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval_ensemble.metrics.answers import normalise, rouge_l, squad_em, squad_f1
from lm_eval_ensemble.types import Candidate, Completion

__all__ = ["ACCEPTED", "STOP_KINDS", "answer_record", "is_right"]

#: an answer is right if its best SQuAD F1 reaches this (Farquhar et al., Nature 2024, and the documents).
ACCEPTED = 0.5
#: how a candidate says it stopped -> how the record does.
STOP_KINDS = {"stop_token": "eos", "stop_string": "until", "length": "length"}

_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_NO_DECIMALS = re.compile(r"(?<=\d)\.0+(?!\d)")


def is_right(record: Mapping[str, Any]) -> bool:
    """Whether the answer counts as correct."""
    return float(record["f1"]) >= ACCEPTED


def answer_record(doc: Mapping[str, Any], answer: str) -> dict[str, Any]:
    """The record of an answer to ``doc`` (``question, references, answerable``).

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
    """F1, exact match and ROUGE-L, each in [0, 1]. Where there is no answer, saying so is as good as saying nothing.

    Where all references are numbers, 51.0 is read as 51: the normaliser drops the point and would take it for 510.
    """
    references = list(doc["references"])
    if references and all(_NUMBER.fullmatch(reference) for reference in references):
        text = _NO_DECIMALS.sub("", text)
    if not references and normalise(text) in ("unanswerable", "no answer"):
        text = ""
    return {
        "f1": round(squad_f1(text, references), 7),
        "em": int(squad_em(text, references)),
        "rougeL": round(rouge_l(text, references), 7),
    }


def _numbers(values: Sequence[Any] | None) -> list[float | None] | None:
    return None if values is None else [_number(value) for value in values]


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 7)
