"""The samples of a run as short JSON for the page: long texts cut, repeated ones written once.

What the names mean stands in :func:`task_data`; ``page.js`` is the reader.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lm_eval_ensemble.report.candidates import OWN
from lm_eval_ensemble.report.failures import category
from lm_eval_ensemble.report.records import measured, own_score
from lm_eval_ensemble.report.run import RunReport
from lm_eval_ensemble.report.signals import margin
from lm_eval_ensemble.runs.samples import Choice, Sample, again, as_number
from lm_eval_ensemble.types import Scored

__all__ = ["embedded", "task_data"]

#: characters of one text, tried in turn until the task fits.
_LIMITS = (20_000, 4_000, 1_000, 300)
#: bytes of a task's samples: 4.4 MB, and in large runs as much for every further 1,000.
_BUDGET = 4_400
_LEAST = 1_000
#: more samples than this make a browser slow; the rest is left out, and the page says so.
_MOST = 20_000
#: so many samples show how all prompts begin.
_PROMPTS = 50

#: accepted answers, samples or repeats of one document.
_SEVERAL = 100

_ASIDE = ("stop", "stop_logprob", "length", "row_forwards", "steps", "layout", "seed", "remasked", "refined_tokens", "changed")
_RECORDED = ("stop_kind", "truncated", "f1", "em", "rougeL", "answerable", "source", "p_true", "trimmed_prefix")
# Besides what ends a script element or starts another context: line separators of old JavaScript, halves of surrogate pairs
# (no UTF-8 for them), and the control characters that HTML does not allow.
_ESCAPED = re.compile("[<>&\u007f-\u009f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def embedded(value: Any) -> str:
    """JSON that can stand inside ``<script type="application/json">`` whatever the texts hold."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def task_data(report: RunReport) -> dict[str, Any]:
    """What the page shows of the samples of one task: of the documents that the figures count.

    ``strings``: texts that several documents share. ``head``: how all prompts begin. ``cut``: characters that longer texts
    were cut to, if any was. ``left_out``: documents that did not fit. ``documents``: each as JSON text, with

    - ``i`` number, ``n`` name, ``p`` problem, ``v`` value of the metric, ``l`` length, ``m`` other metrics
    - ``w``: [text, start, end]: prefix, reference and suffix are that text before, in and after the span; the span counts
      UTF-16 units, as JavaScript does. ``e`` the test.
    - or ``c`` the prompt (after the head if ``b``), ``q`` the question alone, ``t`` the reference answer
    - ``k``: completions, each ``w`` winner, ``r`` reason, ``u`` rule, ``g`` margin in nats, ``c`` candidates: ``o`` member,
      ``t`` text, ``a`` raw text where it differs, ``z`` token pieces, ``y`` their log-probabilities, ``k`` 1 if right, ``f``
      kind of failure, ``x`` why, ``s`` scores, ``d`` other facts
    - ``a``: answers of models that tell no more; ``h``: options of multiple choice, [text, log-likelihood, greedy]
    - ``u``: record of uncertainty, ``s``: its scores
    """
    n = len(report.rows)
    for limit in _LIMITS:
        found = _Task(report, limit)
        if found.read(_BUDGET * max(_LEAST, n), last=limit == _LIMITS[-1]):
            break
    return {
        "strings": list(found.strings),
        "head": found.head,
        "cut": limit if found.was_cut else None,
        "left_out": max(0, n - len(found.documents)),
        "members": list(found.members),
        "documents": found.documents,
    }


class _Task:
    """One pass over the samples with one limit."""

    def __init__(self, report: RunReport, limit: int) -> None:
        self.report, self.limit = report, limit
        self.strings: dict[str, int] = {}
        self.members: dict[str, int] = {}
        self.documents: list[str] = []
        self.head = ""
        self.was_cut = False
        self._size = 0

    def read(self, budget: int, last: bool) -> bool:
        """False if the samples have more bytes than ``budget``; the ``last`` time those that do not fit are left out."""
        self.head = self._common_head()
        for sample in self._samples():
            if len(self.documents) >= _MOST or self._size > budget:
                break
            if (document := self._document(sample)) is None:
                continue
            text = embedded(document)
            self._size += len(text.encode("utf-8"))
            self.documents.append(text)
        return last or self._size <= budget

    def _samples(self) -> Iterator[Sample]:
        samples = self.report.samples
        return iter(()) if samples is None else again(samples)

    def _common_head(self) -> str:
        prompts: list[str] = []
        for sample in itertools.islice(self._samples(), _PROMPTS):
            if (prompt := _prompt(sample.raw)) is not None and not _is_infill(sample.raw):
                prompts.append(prompt)
        head = _beginning(prompts) if len(prompts) > 1 else ""
        return head[: head.rfind("\n") + 1] if len(head) < self.limit else ""

    def _document(self, sample: Sample) -> dict[str, Any] | None:
        row = measured(sample)
        if row is None:
            return None
        raw, doc = sample.raw, sample.doc
        name = doc.get("task_id")
        found: dict[str, Any] = {
            "i": str(row.number),
            "n": None if name is None else self._cut(str(name)),
            "p": None if row.problem is None else self._cut(str(row.problem)),
            "v": _rounded(row.value),
            "l": row.length,
        }
        if _is_infill(raw):
            found["w"] = self._whole(doc["prefix"], doc["middle"] if isinstance(doc.get("middle"), str) else "", doc["suffix"])
            found["e"] = self._shared(doc["test"]) if isinstance(doc.get("test"), str) else None
        else:
            self._asked(found, sample)
        if sample.choices:
            found["k"] = [self._completion(choice) for choice in sample.choices]
        else:
            self._plain(found, raw)
        if sample.answer is not None:
            found["u"] = self._uncertainty(sample.answer)
            found["s"] = {name: _rounded(pair[0]) for name, pair in row.areas.items()}
        return {name: value for name, value in found.items() if value is not None}

    def _asked(self, found: dict[str, Any], sample: Sample) -> None:
        """The prompt and the reference of a plain task."""
        raw, doc = sample.raw, sample.doc
        prompt = _prompt(raw)
        if prompt is not None:
            bare = bool(self.head) and prompt.startswith(self.head)
            found["c"] = self._shared(self._cut(prompt[len(self.head) :] if bare else prompt, end=True))
            found["b"] = 1 if bare else None
        for key in ("question", "query", "input", "text"):
            if isinstance(doc.get(key), str):
                found["q"] = self._cut(doc[key])
                break
        reference = sample.reference()
        target = raw.get("target") if reference is None else reference
        found["t"] = None if target is None else self._cut(target if isinstance(target, str) else json.dumps(target))
        metrics = raw.get("metrics") if isinstance(raw.get("metrics"), list) else []
        names = [name for name in metrics or [] if isinstance(name, str) and not name.startswith("auroc_")]
        values = {name: as_number(raw.get(name)) for name in names}
        found["m"] = {name: _rounded(value) for name, value in values.items() if value is not None}

    def _plain(self, found: dict[str, Any], sample: Mapping[str, Any]) -> None:
        """What a model answered that tells no more: texts, or log-likelihoods of options."""
        answers = sample.get("filtered_resps")
        answers = answers if isinstance(answers, list) else [answers]
        if options := _options(sample, answers):
            found["h"] = [[self._cut(text), _rounded(value), greedy] for text, value, greedy in options]
            return
        flat = [part for answer in answers for part in (answer if isinstance(answer, list) else [answer])]
        found["a"] = [self._cut(part if isinstance(part, str) else json.dumps(part)) for part in flat[:_SEVERAL]]

    def _completion(self, choice: Choice) -> dict[str, Any]:
        selection = choice.selection
        return {
            "w": selection.winner,
            "r": selection.reason,
            "u": selection.rule,
            "g": _rounded(margin(choice)),
            "c": [self._candidate(*pair) for pair in zip(selection.candidates, choice.right, strict=True)],
        }

    def _candidate(self, scored: Scored, right: bool) -> dict[str, Any]:
        own = scored.candidate
        scores = {**scored.scores, OWN: own_score(scored)}
        shown = {
            "o": self.members.setdefault(own.member, len(self.members)),
            "t": self._cut(own.text),
            "a": self._cut(own.raw) if own.raw != own.text else None,
            **self._tokens(own.tokens, own.logprobs, len(own.text)),
            "k": int(right),
            "f": category(scored.verdict, scored.why),
            "x": self._cut(scored.why) or None,
            "s": {name: _rounded(value) for name, value in scores.items() if value is not None} or None,
            "d": self._facts(own.info, _ASIDE) or None,
        }
        return {name: value for name, value in shown.items() if value is not None}

    def _uncertainty(self, record: Mapping[str, Any]) -> dict[str, Any]:
        answer, references = record.get("answer"), record.get("references")
        samples = record.get("samples") if isinstance(record.get("samples"), list) else []
        return {
            "a": self._cut(answer if isinstance(answer, str) else ""),
            **self._tokens(record.get("tokens"), record.get("logprobs"), len(str(answer or ""))),
            "t": [self._cut(str(text)) for text in references[:_SEVERAL]] if isinstance(references, list) else [],
            "m": [self._cut(str(drawn.get("text"))) for drawn in (samples or [])[:_SEVERAL] if isinstance(drawn, Mapping)],
            "e": _rounded(as_number(record.get("stop_logprob"))),
            "d": self._facts(record, _RECORDED),
        }

    def _facts(self, record: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
        """Short facts that are there: texts, truth values, finite numbers."""
        found: dict[str, Any] = {}
        for name in names:
            value = record.get(name)
            if isinstance(value, str):
                found[name] = self._cut(value)
            elif isinstance(value, bool):
                found[name] = value
            elif (number := as_number(value)) is not None:
                found[name] = _rounded(number)
        return found

    def _tokens(self, pieces: Any, logprobs: Any, length: int) -> dict[str, Any]:
        """Pieces with log-probabilities, where both were recorded and belong together."""
        good = pieces is not None and logprobs is not None and len(pieces) == len(logprobs) > 0
        if not good or length > self.limit or sum(len(str(piece)) for piece in pieces) > self.limit:
            return {}
        return {"z": [str(piece) for piece in pieces], "y": [_rounded(as_number(value), 3) for value in logprobs]}

    def _whole(self, prefix: str, middle: str, suffix: str) -> list[int]:
        """The whole program is written once for all its gaps."""
        prefix, middle, suffix = self._cut(prefix, end=True), self._cut(middle), self._cut(suffix)
        start = _units(prefix)
        return [self._shared(prefix + middle + suffix), start, start + _units(middle)]

    def _shared(self, text: str) -> int:
        text = text if len(text) <= 3 * self.limit + 300 else self._cut(text)
        if text not in self.strings:
            self._size += len(embedded(text).encode("utf-8"))
        return self.strings.setdefault(text, len(self.strings))

    def _cut(self, text: str, end: bool = False) -> str:
        """The beginning of a long text, or its ``end``, with a line that says how much is missing."""
        missing = len(text) - self.limit
        if missing <= 0:
            return text
        self.was_cut = True
        note = f"[… {missing:,} characters more in the samples file …]"
        return f"{note}\n{text[missing:]}" if end else f"{text[: self.limit]}\n{note}"


def _is_infill(sample: Mapping[str, Any]) -> bool:
    doc = sample.get("doc")
    return isinstance(doc, Mapping) and isinstance(doc.get("prefix"), str) and isinstance(doc.get("suffix"), str)


def _beginning(texts: Sequence[str]) -> str:
    """What all texts begin with; the first and the last in order differ earliest."""
    first, last = min(texts), max(texts)
    return first[: next((i for i, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))]


def _prompt(sample: Mapping[str, Any]) -> str | None:
    """The text of the first request; older files keep the requests in a list."""
    requests = _requests(sample)
    return requests[0][0] if requests and isinstance(requests[0][0], str) else None


def _requests(sample: Mapping[str, Any]) -> list[Sequence[Any]]:
    given = sample.get("arguments")
    if isinstance(given, Mapping):
        given = [[entry.get("arg_0"), entry.get("arg_1")] for entry in given.values() if isinstance(entry, Mapping)]
    return [entry for entry in given if isinstance(entry, list) and len(entry) > 1] if isinstance(given, list) else []


def _options(sample: Mapping[str, Any], answers: Sequence[Any]) -> list[tuple[str, float | None, bool]]:
    """Multiple choice: every request is one option, every answer its log-likelihood and whether it was the likeliest text."""
    requests = _requests(sample)
    if len(requests) != len(answers) or not all(isinstance(r[1], str) for r in requests):
        return []
    pairs = [answer if isinstance(answer, list) and len(answer) == 2 else None for answer in answers]
    if any(pair is None for pair in pairs):
        return []
    return [
        (request[1], as_number(pair[0]), str(pair[1]) == "True")
        for request, pair in zip(requests, pairs, strict=True)
        if pair is not None
    ]


def _units(text: str) -> int:
    """Length as JavaScript counts it."""
    return len(text) + sum(character > "\uffff" for character in text)


def _rounded(value: float | None, digits: int = 5) -> float | int | None:
    if value is None:
        return None
    short = round(value, digits)
    return int(short) if short == int(short) else short
