"""The values that flow through the ensemble. Start reading here, then ``ensemble.py``.

::

    lm_eval Instance
          │  harness.requests
          ▼
    InfillRequest ──► member ──► Candidate ──► scoring ──► Scored ──► selection ──► Selection
     prefix, suffix,   propose    text, raw     score_all   candidate  one pure      winner, reason,
     limits, seed                 text, token               + named    function      all candidates
                                  log-probs                 scores                        │
                                                                                          ▼
                                                        Completion: the winner's text, a ``str``, with
                                                        its Selection as ``.trace`` (what the tasks read)

Log-probabilities are natural logarithms (nats), untempered, float32; scores are negative
log-likelihoods in nats per token unless their name says otherwise, so lower is better.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "CANNOT_JUDGE",
    "RUN",
    "WORKER_LOST",
    "Candidate",
    "Completion",
    "Cut",
    "InfillRequest",
    "Scored",
    "Selection",
    "cut_line",
    "is_of_the_judge",
    "normalise",
    "split_runs",
    "unbroken",
]

Cut = Literal["line", "none"]
_HALVES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class InfillRequest:
    """One gap to fill: ``prefix`` + ? + ``suffix``.

    ``sample`` counts repeats of the same document; with ``task`` and ``doc_id`` it names the random
    stream, so that a row never depends on its batch; so does ``variant``, which counts the candidates of a member that
    offers several per gap (``Member.offers``). ``reference`` is the true middle where the data set
    has one: only ``length=oracle`` may look at it, and only at its length. ``hint`` is another member's
    completion, for ``length=ar``. ``until`` can only shorten an answer. ``max_new_tokens`` is the host's
    limit; a member's own setting comes first.
    """

    prefix: str
    suffix: str
    task: str = ""
    doc_id: int = 0
    sample: int = 0
    variant: int = 0
    reference: str | None = None
    hint: str | None = None
    cut: Cut = "none"
    until: tuple[str, ...] = ()
    max_new_tokens: int | None = None
    context: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def key(self) -> tuple[str | int, ...]:
        """Names the random stream of this request."""
        return (self.task, self.doc_id, self.sample, *([self.variant] if self.variant else []))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A member's answer to one request.

    ``text`` is what is scored and executed (after the cut rule), ``raw`` what the model wrote.
    ``tokens`` are the pieces of ``raw`` (joined they give it) and ``logprobs`` their log-probabilities when they were
    drawn (nats); None where the member does not say. ``info`` holds JSON-able facts: length mode and length, how it
    stopped, trims.
    """

    member: str
    text: str
    raw: str
    sample: int = 0
    logprobs: tuple[float, ...] | None = None
    tokens: tuple[str, ...] | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def was_cut(self) -> bool:
        """True if the cut rule removed more than blank space."""
        return self.text.rstrip() != self.raw.rstrip()

    @property
    def was_truncated(self) -> bool:
        """True if the limit of tokens ended it: neither the model nor the cut rule did. A diffusion model fills a canvas whose
        length is given, so its candidates never are."""
        return self.info.get("stop") == "length" and "length_mode" not in self.info and not self.was_cut


#: key in ``Candidate.info``: the number of the run a candidate belongs to. Candidates of different runs are never
#: compared; what they score is averaged (``length=fixed-mean``). Candidates without it belong to every run.
RUN = "run"


#: Reasons of a verdict that say something about the judge or the test instead of the text; see ``is_of_the_judge``.
WORKER_LOST, CANNOT_JUDGE = "worker lost", "cannot judge: "


def is_of_the_judge(why: str) -> bool:
    """Whether a ``fail`` blames the judge or the test: its process was lost, or the test cannot be run in this way."""
    return why.startswith((WORKER_LOST, CANNOT_JUDGE))


@dataclass(frozen=True, slots=True)
class Scored:
    """A candidate with its scores: name -> number (lower is better), None where undefined (empty text).

    ``verdict`` is pass, fail or timeout once the judge has run it, and ``why`` the reason for the last two. ``facts`` holds
    what goes with the scores, as JSON (``scoring.sheets``), and how it was judged if not by the split judge (``judge``).
    """

    candidate: Candidate
    scores: Mapping[str, float | None]
    verdict: str | None = None
    why: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which candidate won, and why.

    ``reason`` is one word: ``score`` (strictly lower), ``tie`` (within the tolerance, decided by preference),
    ``agreement`` (all candidates are the same text), ``single`` (there was one candidate), or the selector's own
    (``docs/selection.md``).
    """

    candidates: tuple[Scored, ...]
    winner: int
    reason: str
    rule: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def chosen(self) -> Candidate:
        return self.candidates[self.winner].candidate

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the members, in the order they were given."""
        return tuple(dict.fromkeys(scored.candidate.member for scored in self.candidates))


def split_runs(candidates: Sequence[Scored]) -> list[tuple[Scored, ...]]:
    """The candidates of each run; one run where no candidate names one."""
    runs = sorted({scored.candidate.info[RUN] for scored in candidates if RUN in scored.candidate.info})
    return [tuple(s for s in candidates if s.candidate.info.get(RUN, run) == run) for run in runs] or [tuple(candidates)]


class Completion(str):
    """Generated text that carries how it came about.

    It is a ``str``, so tasks that know nothing of us work unchanged; ``trace`` is None for such text. ``runs`` are the
    selections of all runs where there are several (``length=fixed-mean``): text and trace are those of the first.
    Slicing, stripping or adding gives a plain ``str`` and loses the trace, as for any ``str`` subclass.
    """

    __slots__ = ("runs", "trace")
    trace: Selection | None
    runs: tuple[Selection, ...]

    def __new__(cls, text: str = "", trace: Selection | None = None, runs: tuple[Selection, ...] = ()) -> Completion:
        self = super().__new__(cls, text)
        self.trace = trace
        self.runs = runs or ((trace,) if trace is not None else ())
        return self

    def __getnewargs__(self) -> tuple[str, Selection | None, tuple[Selection, ...]]:  # type: ignore[override]
        # lm_eval pickles answers (its cache, and between ranks): all arguments must come back.
        return (str(self), self.trace, self.runs)


def cut_line(text: str) -> str:
    """Keep up to and including the first non-blank line, ended by exactly one newline.

    Text without any non-blank line becomes a single newline.

    >>> cut_line("\\n    return x   \\n    y = 1\\n")
    '\\n    return x   \\n'
    """
    if not text.strip():
        return "\n"
    start = 0
    while True:
        head, newline, _ = text[start:].partition("\n")
        if head.strip():
            return text[:start] + head + "\n"
        start += len(head) + len(newline)


def unbroken(text: str) -> str:
    """Halves of surrogate pairs, which no file and no tokenizer takes, become U+FFFD each; other text is unchanged.

    >>> unbroken("a\\ud83d") == "a\\ufffd"
    True
    """
    return text if text.isascii() else _HALVES.sub("\ufffd", text)


def normalise(text: str, cut: Cut) -> str:
    """Apply the task's cut rule; the same for every member, and for plain strings of stock models."""
    return cut_line(text) if cut == "line" else text
