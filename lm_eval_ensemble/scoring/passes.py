"""The model passes behind the scores: which tokens, in which order, and which of them are scored.

Prefix, middle and suffix are tokenised apart and concatenated, so that no token straddles a border. Where they do not fit
into the context together, prefix and suffix are trimmed for the longest candidate of the gap: all candidates of a gap
share the same prefix and suffix ids, or their scores would not compare. (So a longer candidate may change the scores of the
others, but only in a gap that has to be trimmed.)
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from lm_eval_ensemble.fim import FimPrompt
from lm_eval_ensemble.scoring.base import CausalScorer, Model, Pass, Row, Span, Statistic
from lm_eval_ensemble.tokens import Window, fit_window, pack
from lm_eval_ensemble.types import Candidate, InfillRequest

__all__ = ["ELBO_SAMPLES", "PassJob", "run_pass"]

Result = TypeVar("Result")

#: random masks per candidate in the estimate of ``elbo``.
ELBO_SAMPLES = 32


@dataclass(frozen=True, slots=True)
class PassJob:
    """One distinct candidate of one gap; ``written`` are the candidates of members with this text, if they are known."""

    request: InfillRequest
    text: str
    written: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class _Item:
    """A job, its tokens, and how many tokens the longest candidate of the gap has."""

    job: PassJob
    middle: list[int]
    longest: int

    @property
    def request(self) -> InfillRequest:
        return self.job.request


def run_pass(name: Pass, model: Model, jobs: Sequence[PassJob]) -> list[Statistic | None]:
    """One statistic per job; None where the text has no tokens."""
    middles = [model.encoder.encode(job.text) for job in jobs]
    gaps = [(job.request.prefix, job.request.suffix) for job in jobs]
    longest: dict[tuple[str, str], int] = {}
    for gap, middle in zip(gaps, middles, strict=True):
        longest[gap] = max(longest.get(gap, 0), len(middle))
    todo = [i for i, middle in enumerate(middles) if middle]
    chosen = [_Item(jobs[i], middles[i], longest[gaps[i]]) for i in todo]
    found = _PASSES[name](model, chosen)
    statistics: list[Statistic | None] = [None] * len(jobs)
    for i, item, statistic in zip(todo, chosen, found, strict=True):
        statistics[i] = replace(statistic, size=len(item.job.text.encode("utf-8", "surrogatepass")))
    return statistics


def _sequence(model: Any, items: Sequence[_Item]) -> list[Statistic]:
    """prefix, middle, suffix in reading order: log-probabilities of the middle and of the suffix."""
    spans = []
    for item, window in zip(items, _windows(model, items, lambda request: 1 if request.suffix else 2), strict=True):
        # A first token needs something before it; a text without a suffix ends after the middle.
        prefix = window.prefix or [model.end_id]
        spans.append(Span(pack(prefix, item.middle, window.suffix if item.request.suffix else [model.end_id]), len(prefix)))
    found = _split(model.token_logprobs(spans), items)
    return [s if item.request.suffix else Statistic(s.middle, (), s.after) for s, item in zip(found, items, strict=True)]


def _fim(model: Any, items: Sequence[_Item]) -> list[Statistic]:
    """The FIM prompt, then the middle and the stop token. What the model wrote itself, it has read already."""
    stop = model.layout.end_id(model.encoder, model.end_id)
    known: dict[int, Statistic] = {}
    spans: list[Span] = []

    def encode(item: _Item) -> FimPrompt:
        room = model.window - item.longest - 1
        encoded: FimPrompt = model.layout.encode(model.encoder, item.request.prefix, item.request.suffix, room)
        return encoded

    for i, (item, prompt) in enumerate(zip(items, _by_gap(items, encode), strict=True)):
        own = None if prompt.window.trims else _own(model, item)
        if own is None:
            spans.append(Span(pack(prompt.ids, item.middle, [stop]), len(prompt.ids)))
        else:
            known[i] = own
    rest = [item for i, item in enumerate(items) if i not in known]
    read = iter(_split(model.token_logprobs(spans), rest) if spans else [])
    return [known[i] if i in known else next(read) for i in range(len(items))]


def _own(model: CausalScorer, item: _Item) -> Statistic | None:
    """The log-probabilities from generation, where that was this very pass: the same model, prompt, tokens and stop.

    ``end_logprob`` in the candidate's ``info`` says so: it is the log-probability of the stop behind the text
    (``ScoredHF._end_logprob``). Token by token and at once are the same reading up to rounding: 1e-5 nats a token in float32,
    in half precision up to 0.4 of a token and 0.1 of an answer's mean (docs/selection.md#selectors).
    """
    for own in item.job.written:
        end = own.info.get("end_logprob")
        if own.member != getattr(model, "name", None) or end is None or own.text != item.job.text or own.logprobs is None:
            continue
        return Statistic(own.logprobs[: len(item.middle)], (float(end),))
    return None


def _prior(model: Any, items: Sequence[_Item]) -> list[Statistic]:
    """The middle with nothing before it but its own indentation; blank tokens at its beginning are not scored."""
    spans, blanks = [], []
    for item in items:
        blank = 0
        while blank < len(item.middle) and not model.encoder.decode(item.middle[: blank + 1]).strip():
            blank += 1
        blanks.append(blank)
        room = model.window - 1
        spans.append(Span([model.end_id, *item.middle[:room]], 1 + min(blank, room)))
    todo = [span for span in spans if span.start < len(span.ids)]
    found = iter(model.token_logprobs(todo) if todo else [])
    return [Statistic(_compact(next(found)) if span.start < len(span.ids) else ()) for span in spans]


def _onepass(model: Any, items: Sequence[_Item]) -> list[Statistic]:
    """The middle masked in one piece between prefix and suffix."""
    return _split(model.onepass_logprobs(_rows(model, items)), items)


def _chain(model: Any, items: Sequence[_Item]) -> list[Statistic]:
    """Token i with all from i on masked: as many rows as tokens."""
    return _split(model.chain_logprobs(_rows(model, items)), items)


def _elbo(model: Any, items: Sequence[_Item]) -> list[Statistic]:
    """A Monte Carlo estimate; the masks are named by the gap, so that neither order nor batch changes them."""
    names = [(item.request.prefix, item.request.suffix) for item in items]
    found = model.elbo(_rows(model, items), samples=ELBO_SAMPLES, names=names)
    return [
        Statistic((float(estimate.value),), tokens=len(item.middle), stderr=float(estimate.stderr))
        for estimate, item in zip(found, items, strict=True)
    ]


_PASSES: dict[Pass, Callable[[Any, Sequence[_Item]], list[Statistic]]] = {
    "sequence": _sequence,
    "fim": _fim,
    "prior": _prior,
    "onepass": _onepass,
    "chain": _chain,
    "elbo": _elbo,
}


def _rows(model: Model, items: Sequence[_Item]) -> list[Row]:
    windows = _windows(model, items, lambda request: 0)
    return [(window.prefix, item.middle, window.suffix) for window, item in zip(windows, items, strict=True)]


def _windows(model: Model, items: Sequence[_Item], extra: Callable[[InfillRequest], int]) -> Iterator[Window]:
    """What of prefix and suffix fits beside the longest candidate and ``extra`` tokens."""
    encode = model.encoder.encode

    def window(item: _Item) -> Window:
        room = model.window - item.longest - extra(item.request)
        found = fit_window(encode(item.request.prefix), encode(item.request.suffix), room)
        return replace(found, prefix=pack(found.prefix), suffix=pack(found.suffix))

    return _by_gap(items, window)


def _by_gap(items: Sequence[_Item], work: Callable[[_Item], Result]) -> Iterator[Result]:
    """``work`` for every item; candidates of one gap, which stand next to each other, share what it gives."""
    gaps = itertools.groupby(items, lambda item: (item.request.prefix, item.request.suffix))
    for _, group in gaps:
        own = list(group)
        yield from itertools.repeat(work(own[0]), len(own))


def _split(logprobs: Sequence[Sequence[float]], items: Sequence[_Item]) -> list[Statistic]:
    sizes = [len(item.middle) for item in items]
    return [Statistic(_compact(row[:n]), _compact(row[n:])) for row, n in zip(logprobs, sizes, strict=True)]


def _compact(numbers: Sequence[float]) -> array[float]:
    """The same numbers in little memory: every pass keeps those of all candidates until the last one has run."""
    return numbers if isinstance(numbers, array) else array("d", numbers)
