"""A line of lm_eval's samples file: what a run of ours writes into it, and the one reader of it.

:func:`record` makes the JSON under ``selection``; :func:`read` makes the same values of it again. Whatever is wrong with a line
is decided here, once, so that all commands count the same documents and print the same numbers:

- of lines that repeat a document (its number and its content) the first counts;
- a line is left out whose record is damaged or contradicts its row, whose metric is no number, or that lacks the record which
  other lines have: counting such a document as wrong would be an invention;
- a member that has no candidate for a document has no value there.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from lm_eval_ensemble.errors import DataError, did_you_mean
from lm_eval_ensemble.metrics.answer_scores import free_scores
from lm_eval_ensemble.metrics.matching import exact_match, exact_match_first_line
from lm_eval_ensemble.problems import compiles
from lm_eval_ensemble.runs.answer import fault_of, is_right, row_of
from lm_eval_ensemble.runs.load import NO_METRICS, UNJUDGED, UNMEASURED, TaskRun, first_few
from lm_eval_ensemble.types import Candidate, Scored, Selection

__all__ = [
    "BOUNDS",
    "BY_TEXT",
    "Choice",
    "NotMeasuredError",
    "Sample",
    "Samples",
    "again",
    "as_number",
    "choose_filter",
    "choose_metric",
    "document_keys",
    "is_text",
    "judged_measures",
    "kind_of_clusters",
    "measures",
    "problem_of",
    "read",
    "record",
    "recorded",
    "text_of",
    "unjudged_record",
    "without_collection",
]


class NotMeasuredError(DataError):
    """A sound run that measured nothing (``--predict_only``)."""


T = TypeVar("T")
Measure = Callable[[Scored], bool]
Line = tuple[int, Mapping[str, Any]]

#: rows of an ensemble that no selector can reach on purpose.
BOUNDS = ("oracle", "floor")
_CANDIDATE = frozenset(("member", "sample", "text", "raw", "tokens", "logprobs", "scores", "verdict", "why", "right"))
_CHOICE = frozenset(("winner", "winner_index", "reason", "rule", "candidates", "measure", "problem", "completions"))
#: what is said where some clusters are texts (:func:`is_text`).
BY_TEXT = (
    "questions are clustered by the text they are answered from, as no articles were recorded: where articles hold several "
    "texts, as SQuAD's do, intervals are still too narrow; a run of today records the articles"
)
_TEXT = re.compile(r"text [0-9a-f]{12}")
# HumanEval's number within the names of the sets that are cut from it.
_HUMANEVAL = re.compile(r"HumanEval[/_](\d+)")
#: beyond that a square is infinite; no metric and no score is.
_MOST = 1e150
_NUMBERS = {float, int, type(None)}
_DAMAGE = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)


@dataclass(slots=True)
class Choice:
    """One completion: how it was chosen, and which of its candidates are right."""

    selection: Selection
    right: tuple[bool, ...]

    @property
    def chosen(self) -> Scored:
        return self.selection.candidates[self.selection.winner]

    @property
    def is_right(self) -> bool:
        return self.right[self.selection.winner]

    @property
    def decisive(self) -> bool:
        """Some candidates are right and some are wrong: only then selection matters."""
        return any(self.right) and not all(self.right)

    def of(self, member: str) -> list[tuple[Scored, bool]]:
        """The member's candidates, each with whether it is right."""
        pairs = zip(self.selection.candidates, self.right, strict=True)
        return [pair for pair in pairs if pair[0].candidate.member == member]


@dataclass(slots=True)
class Sample:
    """One document of one run.

    ``line`` is its place in the file, ``number`` lm_eval's, ``content`` the hash of its text (None in old files), ``problem``
    the program it was cut from (None if it does not say). ``choices``, one per repeat, are empty for models that keep no
    record; ``measure`` names the row that says who is right in them. ``answer`` is the record of an answer to a question.
    ``score`` is the value of the metric that is read, ``raw`` the line itself, for what only one reader wants.
    """

    line: int
    number: Any
    content: str | None
    problem: Hashable
    choices: tuple[Choice, ...]
    measure: str
    answer: Mapping[str, Any] | None
    raw: Mapping[str, Any]
    score: float | None = None

    @property
    def doc(self) -> Mapping[str, Any]:
        doc = self.raw.get("doc")
        return doc if isinstance(doc, dict) else {}

    @property
    def cluster(self) -> Hashable:
        """What is resampled as one; a document that names no problem stands alone."""
        return ("document", repr(self.number), self.content) if self.problem is None else self.problem

    @property
    def clustered_by(self) -> str:
        """What its cluster is, in the plural; empty where it stands alone."""
        if self.problem is None:
            return ""
        titles = (self.doc.get("title"), (self.answer or {}).get("title"))
        return "texts" if is_text(self.problem) else "articles" if self.problem in titles else "problems"

    @property
    def members(self) -> tuple[str, ...]:
        """Those that have a candidate here, in the order of the record."""
        return tuple(dict.fromkeys(name for choice in self.choices for name in choice.selection.members))

    def value(self, metric: str) -> float | None:
        """The row of a metric; where it is missing, what the record says of it. None where neither does."""
        if metric in self.raw:
            return as_number(self.raw[metric])
        if self.choices and metric == self.measure:
            return _mean([choice.is_right for choice in self.choices])
        return None if self.answer is None else row_of(self.answer, metric)

    def value_of(self, name: str, metric: str) -> float | None:
        """The same of a member (its share of right candidates) or of one of :data:`BOUNDS`; None where it has no candidate."""
        if not self.choices or metric != self.measure:
            return as_number(self.raw.get(f"{metric}_{name}"))
        if name in BOUNDS:
            pick = any if name == "oracle" else all
            return _mean([pick(choice.right) for choice in self.choices])
        return _mean([right for choice in self.choices for _, right in choice.of(name)])

    def answers(self) -> list[str]:
        """The texts that were chosen or written, one per repeat.

        :raises ValueError: the line holds no texts (the options of multiple choice have likelihoods instead).
        """
        if self.choices:
            return [choice.chosen.candidate.text for choice in self.choices]
        given = self.raw.get("filtered_resps")
        texts = [text for answer in given or () for text in (answer if isinstance(answer, list) else [answer])]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError("filtered_resps holds no texts")
        return texts

    def reference(self) -> str | None:
        """The text that would have been right, if there is one: the gap's, else the target, unless that holds the tests."""
        doc, target = self.doc, self.raw.get("target")
        for name in ("middle", "canonical_solution"):
            if isinstance(doc.get(name), str):
                return str(doc[name])
        listed = doc.get("test_list")
        tests = [doc.get("test"), *(listed if isinstance(listed, list) else [])]
        if isinstance(target, str) and not any(isinstance(t, str) and t.strip() and t.strip() in target for t in tests):
            return target
        return None

    def areas(self) -> dict[str, tuple[float | None, bool]]:
        """Uncertainty score -> (its value, whether the answer is wrong), for the scores whose AUROC the run reports. The values
        are computed from the record of the answer, as its rows were; None where that gives no finite number."""
        rows = (name for name in self.raw if name.startswith("auroc_") and not name.endswith(("_low", "_high")))
        names = [name.removeprefix("auroc_") for name in rows]
        if self.answer is None:
            return {name: pair for name in names if (pair := _pair(self.raw[f"auroc_{name}"])) is not None}
        scores, wrong = free_scores(self.answer), not is_right(self.answer)
        areas: dict[str, tuple[float | None, bool]] = {}
        for name in names:
            score = scores.get(name.removeprefix("unanswerable_"))
            if name.removeprefix("unanswerable_") in scores:
                unanswerable = self.answer.get("answerable") is False
                positive = unanswerable if name.startswith("unanswerable_") else wrong
                number = as_number(score)
                areas[name] = (None if number is None else round(number, 7), positive)
        return areas


@dataclass(frozen=True)
class Samples(Generic[T]):
    """The sound lines of one task of one run by number, each as what its reader kept of it.

    ``lines`` are their places in the file. ``problems`` say what was left out and why, ``notes`` what is no fault. ``mean`` is
    that of the metric over the documents that have a value.
    """

    run: TaskRun
    metric: str | None
    filter: str
    rows: tuple[T, ...]
    lines: frozenset[int]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    mean: float | None


def choose_filter(run: TaskRun, asked: str | None) -> str | None:
    """The name of the filter to read; None if the run does not have the one asked for."""
    names = [run.first_filter, *run.filters]
    return run.first_filter if asked is None else asked if asked in names else None


def choose_metric(run: TaskRun, asked: str | None = None, filter_name: str | None = None) -> str:
    """The metric of a run: the one asked for, else the first of the results that has a number.

    :raises DataError: the run does not have it, or has none.
    """
    values = run.metrics(filter_name)
    names = [name for name in values if "_stderr" not in name and name not in NO_METRICS]
    if asked is None:
        first = next((name for name in names if as_number(values[name]) is not None), None)
        if first is not None:
            return first
        if UNMEASURED in values:
            raise NotMeasuredError(_not_measured(run))
        raise DataError(f"{run.results_path}: {run.task} has no metric with a number; found {', '.join(names) or 'none'}.")
    if asked not in names:
        if UNMEASURED in values:
            raise NotMeasuredError(_not_measured(run))
        shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise DataError(
            f"{run.results_path}: {run.task} has no metric {asked!r}; found {shown or 'none'}.{did_you_mean(asked, names)}"
        )
    return asked


def read(
    run: TaskRun,
    keep: Callable[[Sample], T],
    metric: str | None = None,
    filter_name: str | None = None,
    lines: Iterable[Line] | None = None,
    facts: Sequence[str] | None = None,
) -> Samples[T]:
    """The samples of a run, one after the other, so that no more of them is held than ``keep`` returns. The pieces of the
    candidates' texts (``tokens``) are left out; :func:`again` has them.

    :param metric: the row that must be a number where it is given; None takes that of :func:`choose_metric`.
    :param lines: instead of those of the run's file, numbered, in the form they have there.
    :param facts: make of a candidate its texts, its scores and these of its facts (texts or whole numbers) alone; None makes
        all of it.
    :raises DataError: the run has no samples.
    """
    if metric is None:
        metric = _metric_or_none(run, filter_name)
    wanted = filter_name or run.first_filter
    told: dict[int, str] = {}
    with without_collection():
        entries = list(_entries(run, keep, metric, wanted, told, run.lines(told) if lines is None else lines, facts))
    entries, lost = _without_the_lost(entries)
    told |= {line: f"{run.samples_path}, line {line}: no record as in other lines; the line is left out." for line in lost}
    entries, notes = _corpus(entries, run, metric, told)
    problems = first_few([told[line] for line in sorted(told)], run.samples_path)
    if run.n_samples is not None and run.n_samples != len(entries):
        problems.append(
            f"{run.samples_path}: {len(entries)} documents can be used, the results file counts {run.n_samples}: part of the "
            "file is missing or damaged."
        )
    values = [entry.score for entry in entries if entry.score is not None]
    return Samples(
        run,
        metric,
        wanted,
        tuple([entries[place].row for place in _in_order([entry.number for entry in entries])]),
        frozenset([entry.line for entry in entries]),
        tuple(problems),
        tuple(notes),
        math.fsum(values) / len(values) if values else None,
    )


def again(samples: Samples[Any]) -> Iterator[Sample]:
    """The documents of ``samples`` once more, whole and in the order of the file, for a reader that cannot keep them all."""
    for line, raw in samples.run.lines({}):
        if line in samples.lines:
            sample = _sample(line, raw, None, pieces=True)
            sample.score = None if samples.metric is None else sample.value(samples.metric)
            yield sample


def document_keys(numbers: Sequence[Any], contents: Sequence[str | None]) -> list[Hashable]:
    """What makes a document the same in two runs: its content, which does not depend on prompt or number; equal documents of
    one set are told apart by their order. Where a content is unknown, all go by number."""
    if None in contents:
        return [("doc_id", number) for number in numbers]
    keys: list[Hashable] = list(contents)
    if len(set(contents)) < len(contents):
        seen: Counter[str | None] = Counter()
        for i in _in_order(numbers):
            if before := seen[contents[i]]:
                keys[i] = (contents[i], before)
            seen[contents[i]] += 1
    return keys


def measures(doc: Mapping[str, Any]) -> dict[str, Measure]:
    """The measures a document allows; the first is the task's main one."""
    middle = str(doc["middle"])
    tested: dict[str, Measure] = {"pass@1": lambda s: s.verdict == "pass"} if doc.get("test") else {}
    own: dict[str, Measure] = {}
    if "language" in doc:  # gaps of the user's own; where the reference is no whole program, no answer makes it one
        prefix, suffix, language = str(doc["prefix"]), str(doc["suffix"]), str(doc["language"])
        if compiles(prefix + middle + suffix, language):
            own = {"compiles": lambda s: bool(compiles(prefix + s.candidate.text + suffix, language))}
    return {
        **tested,
        "exact_match": lambda s: exact_match(s.candidate.raw, middle),
        "exact_match_first_line": lambda s: exact_match_first_line(s.candidate.raw, middle),
        **own,
    }


def judged_measures(doc: Mapping[str, Any], selections: Sequence[Selection]) -> dict[str, Measure]:
    """The measures of a document that was judged: without tests where those could not be judged, even with the reference."""
    unjudgeable = any(scored.facts.get("judge") == "unjudgeable" for s in selections for scored in s.candidates)
    return measures({**doc, "test": ""} if unjudgeable else doc)


def record(doc: Mapping[str, Any], selections: Sequence[Selection]) -> dict[str, Any]:
    """How the answer came about, as JSON: every candidate with text, log-probabilities, scores and verdict.

    Numbers have 5 decimals; there is no NaN. Repeats stand under ``completions``, the first one also at the top.
    """
    main, is_right_candidate = next(iter(judged_measures(doc, selections).items()))
    rows = [_as_json(selection, is_right_candidate) for selection in selections]
    return {"measure": main, "problem": doc.get("problem"), **rows[0], **({"completions": rows} if len(rows) > 1 else {})}


def unjudged_record(selections: Sequence[Selection]) -> dict[str, Any]:
    """The same where nothing was judged (``--predict_only``): nobody is right or wrong yet."""
    rows = [_as_json(selection, None) for selection in selections]
    return {UNJUDGED: {**rows[0], **({"completions": rows} if len(rows) > 1 else {})}}


def recorded(raw: Mapping[str, Any]) -> tuple[Selection, ...]:
    """What :func:`unjudged_record` or :func:`record` wrote into a line; empty where it holds neither.

    :raises DataError: it is damaged.
    """
    if (kept := raw.get(UNJUDGED, raw.get("selection"))) is None:
        return ()
    try:
        return tuple(_selection(entry, None, pieces=True) for entry in kept.get("completions") or [kept])
    except _DAMAGE as error:
        raise DataError(f"the record is damaged ({type(error).__name__}: {error})") from None


def as_number(value: Any) -> float | None:
    """A finite number of reasonable size, also of a truth value or of a number written as text; else None."""
    if type(value) is not float and not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < _MOST else None


@dataclass(slots=True)
class _Entry(Generic[T]):
    """A sound line on the way: which ``kind`` of record it has, and what the reader keeps of it. ``listed``: its metric is a
    list."""

    number: Any
    line: int
    kind: str
    score: float | None
    listed: bool
    row: T


def _entries(
    run: TaskRun,
    keep: Callable[[Sample], T],
    metric: str | None,
    wanted: str,
    told: dict[int, str],
    lines: Iterable[Line],
    facts: Sequence[str] | None,
) -> Iterator[_Entry[T]]:
    """The lines that are sound by themselves; the others are told."""
    seen: set[tuple[str, str | None]] = set()
    for line, raw in lines:
        if raw.get("filter", wanted) != wanted:
            continue
        listed = False
        try:
            sample = _sample(line, raw, facts)
            identity = (sample.number, sample.content)
            fault = "the document stands there again" if identity in seen else _contradiction(sample)
            if metric is not None and fault is None:
                sample.score = sample.value(metric)
                if sample.score is None and raw.get(metric) is not None:
                    listed = isinstance(raw[metric], list)
                    fault = None if listed else f"{metric} is {_shown(raw[metric])}, expected a number"
        except _DAMAGE as error:
            fault = f"the record is damaged ({type(error).__name__}: {error})"
        if fault is not None:
            told[line] = f"{run.samples_path}, line {line}: {fault}; the line is left out."
            continue
        seen.add(identity)
        kind = "selection" if sample.choices else "" if sample.answer is None else "uncertainty"
        yield _Entry(sample.number, line, kind, sample.score, listed, keep(sample))


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Lines hold no cycles: looking for some among millions of values, again and again, would take up to half of the time."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _metric_or_none(run: TaskRun, filter_name: str | None) -> str | None:
    try:
        return choose_metric(run, None, filter_name)
    except DataError:
        return None


def _without_the_lost(entries: list[_Entry[T]]) -> tuple[list[_Entry[T]], list[int]]:
    """Without the lines that lack the record which others have, and the places of these."""
    kinds = {entry.kind for entry in entries} - {""}
    if not kinds:
        return entries, []
    # No task of ours writes both.
    wanted = "selection" if "selection" in kinds else "uncertainty"
    return [e for e in entries if e.kind == wanted], [e.line for e in entries if e.kind != wanted]


def _corpus(
    entries: list[_Entry[T]], run: TaskRun, metric: str | None, told: dict[int, str]
) -> tuple[list[_Entry[T]], list[str]]:
    """A metric that is a list everywhere is computed over the whole corpus, which is no fault; one among numbers is damage."""
    listed = [entry.line for entry in entries if entry.listed]
    if not listed:
        return entries, []
    if any(entry.score is not None for entry in entries):
        fault = f"{metric} is a list, expected a number; the line is left out."
        told |= {line: f"{run.samples_path}, line {line}: {fault}" for line in listed}
        return [entry for entry in entries if not entry.listed], []
    return entries, [
        f"{run.results_path}: {metric} of {run.task} is a corpus metric: no value per document, so there is no interval and no "
        "comparison."
    ]


def _sample(line: int, raw: Mapping[str, Any], facts: Sequence[str] | None, pieces: bool = False) -> Sample:
    kept, answer, number, content = raw.get("selection"), raw.get("uncertainty"), raw["doc_id"], raw.get("doc_hash")
    doc = raw.get("doc")
    if not isinstance(number, str | int | float):
        raise TypeError("doc_id is neither a number nor a text")
    if answer is not None and (fault := fault_of(answer)):
        raise ValueError(fault)
    choices = () if kept is None else _choices(kept, facts, pieces)
    if choices and isinstance(doc, dict):
        for name in ("prefix", "suffix"):
            if not isinstance(doc.get(name, ""), str):
                raise TypeError(f"doc.{name} is no text")
    return Sample(
        line,
        number,
        content if isinstance(content, str) else None,
        problem_of(doc, kept, answer),
        choices,
        str(kept["measure"]) if kept is not None else "",
        answer,
        raw,
    )


def _choices(kept: Mapping[str, Any], facts: Sequence[str] | None, pieces: bool) -> tuple[Choice, ...]:
    """The record as the values it was made of."""
    choices = []
    for entry in kept.get("completions") or [kept]:
        selection = _selection(entry, facts, pieces)
        right = tuple([row["right"] for row in entry["candidates"]])
        for value in right:
            if value is not True and value is not False:
                raise ValueError("right is neither true nor false")
        choices.append(Choice(selection, right))
    return tuple(choices)


def _selection(entry: Mapping[str, Any], facts: Sequence[str] | None, pieces: bool) -> Selection:
    winner, candidates = entry["winner_index"], tuple([_scored(row, facts, pieces) for row in entry["candidates"]])
    if not isinstance(winner, int) or not 0 <= winner < len(candidates):
        raise ValueError(f"winner_index is {winner!r}, there are {len(candidates)} candidates")
    if not isinstance(entry["rule"], str) or not isinstance(entry["reason"], str):
        raise TypeError("rule or reason is no text")
    settings = {name: value for name, value in entry.items() if name not in _CHOICE}
    return Selection(candidates, winner, entry["reason"], entry["rule"], settings)


def _scored(row: Mapping[str, Any], facts: Sequence[str] | None, pieces: bool) -> Scored:
    member, text, raw = row["member"], row["text"], row["raw"]
    if not (isinstance(member, str) and isinstance(text, str) and isinstance(raw, str)):
        raise TypeError("member, text or raw is no text")
    logprobs, tokens, verdict = row.get("logprobs"), row.get("tokens"), row.get("verdict")
    if logprobs is not None and not _NUMBERS.issuperset(map(type, logprobs)):
        raise TypeError("logprobs holds something that is no number")
    if tokens is not None and not isinstance(tokens, list):
        raise TypeError("tokens is no list")
    if verdict is not None and not isinstance(verdict, str):
        raise TypeError("verdict is no text")
    scores = row["scores"]
    if not _NUMBERS.issuperset(map(type, scores.values())):
        raise TypeError("scores holds something that is no number")
    for value in scores.values():
        if value is not None and not -_MOST < value < _MOST:
            scores = {name: value if value is None or -_MOST < value < _MOST else None for name, value in scores.items()}
            break
    # A large run has few names, and most texts were cut nowhere: one object for all of them.
    member, raw = sys.intern(member), text if raw == text else raw
    if facts is not None:
        told = tuple([(name, row[name]) for name in facts if isinstance(row.get(name), str | int)])
        return Scored(Candidate(member, text, raw, row.get("sample", 0), info=_shared(told)), scores, facts=_shared(()))
    info = {name: value for name, value in row.items() if name not in _CANDIDATE}
    kept = tuple(tokens) if tokens is not None and pieces else None
    own = Candidate(member, text, raw, row.get("sample", 0), None if logprobs is None else tuple(logprobs), kept, info)
    return Scored(own, scores, verdict, str(row.get("why") or ""))


@functools.lru_cache(maxsize=256)
def _shared(facts: tuple[tuple[str, str | int], ...]) -> Mapping[str, Any]:
    return MappingProxyType(dict(facts))


def _contradiction(sample: Sample) -> str | None:
    """How the rows of a line contradict the record they were made from, in words; None if they do not."""
    changed = "the file was changed or mixed with another"
    if sample.choices:
        if sample.measure not in sample.raw:
            return None
        row = as_number(sample.raw[sample.measure])
        share = _mean([choice.is_right for choice in sample.choices]) or 0.0
        if row is not None and abs(row - share) <= 1e-9:
            return None
        best = _mean([any(choice.right) for choice in sample.choices]) or 0.0
        told = _shown(sample.raw[sample.measure]) if row is None else f"{row:g}"
        if row is not None and row > best + 1e-9:
            return f"{sample.measure} is {told}, but no candidate that was chosen from allows more than {best:g}: {changed}"
        return f"{sample.measure} is {told}, but the chosen candidates give {share:g}: {changed}"
    if sample.answer is not None:
        for name in ("accuracy", "f1", "em", "rougeL"):
            if name in sample.raw and (value := row_of(sample.answer, name)) is not None:
                row = as_number(sample.raw[name])
                if row is None or abs(row - value) > 1e-6:
                    return f"{name} is {_shown(sample.raw[name])}, but the record gives {value:g}: {changed}"
    return None


def _not_measured(run: TaskRun) -> str:
    return (
        f"{run.results_path}: {run.task} was run with --predict_only, so nothing was measured. `lm-eval-ensemble judge FOLDER` "
        "judges its answers."
    )


def _as_json(selection: Selection, is_right_candidate: Measure | None) -> dict[str, Any]:
    return {
        "winner": selection.chosen.member,
        "winner_index": selection.winner,
        "reason": selection.reason,
        "rule": selection.rule,
        **selection.settings,
        "candidates": [
            {
                "member": s.candidate.member,
                "sample": s.candidate.sample,
                "text": s.candidate.text,
                "raw": s.candidate.raw,
                "tokens": None if s.candidate.tokens is None else list(s.candidate.tokens),
                "logprobs": _plain(s.candidate.logprobs),
                "scores": _plain(s.scores),
                **(
                    {"verdict": s.verdict, "why": s.why, "right": is_right_candidate(s)}
                    if is_right_candidate is not None
                    else {}
                ),
                **{name: _plain(value) for name, value in {**s.facts, **s.candidate.info}.items()},
            }
            for s in selection.candidates
        ],
    }


def problem_of(doc: Any, *records: Any) -> Hashable:
    """What a document was cut from, and shares with others: the program or problem it names; the article (``title``) of a
    question; the number of HumanEval's within its name; else the text it is to be answered from. None: it stands alone."""
    if isinstance(doc, dict) and isinstance(problem := doc.get("problem"), str) and problem:
        return sys.intern(problem)
    places = [place for place in (doc, *records) if isinstance(place, Mapping)]
    for name in ("problem", "title"):
        for place in places:
            # Titles of documents without a text are names of anything.
            if name == "title" and place is doc and text_of(doc) is None:
                continue
            if isinstance(problem := place.get(name), str | int) and problem != "":
                return problem
    task_id = doc.get("task_id") if isinstance(doc, Mapping) else None
    match = _HUMANEVAL.search(task_id) if isinstance(task_id, str) else None
    return f"HumanEval/{match[1]}" if match else text_of(doc)


def kind_of_clusters(kinds: Iterable[str]) -> str:
    """Of :attr:`Sample.clustered_by` of all documents, where they differ the weakest word; empty where all stand alone."""
    found = set(kinds)
    return next((kind for kind in ("texts", "problems", "articles") if kind in found), "")


def is_text(cluster: Hashable) -> bool:
    """Whether a cluster is named by :func:`text_of`: no article or program is known."""
    return isinstance(cluster, str) and _TEXT.fullmatch(cluster) is not None


def text_of(doc: Any) -> str | None:
    """Names the text (``context``) that a question is to be answered from; None where there is none."""
    text = doc.get("context") if isinstance(doc, Mapping) else None
    if not isinstance(text, str) or not text.strip():
        return None
    return f"text {hashlib.sha256(text.strip().encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def _pair(value: Any) -> tuple[float | None, bool] | None:
    return (as_number(value[0]), bool(value[1])) if isinstance(value, list) and len(value) == 2 else None


def _in_order(numbers: Sequence[Any]) -> list[int]:
    """Their places by size, texts last. Lines of a run by several processes stand in another order."""
    places = list(range(len(numbers)))
    if {int, float}.issuperset(map(type, numbers)):
        return sorted(places, key=numbers.__getitem__)
    return sorted(places, key=lambda i: (0, numbers[i]) if isinstance(numbers[i], int | float) else (1, str(numbers[i])))


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _plain(value: Any) -> Any:
    """Floats to 5 decimals, not-a-number and infinity as None, also inside lists and mappings; anything else unchanged."""
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
