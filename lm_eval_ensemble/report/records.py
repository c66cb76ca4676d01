"""The documents of a run as short rows: one value of the metric, candidates and scores; prompts and tests are dropped."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval_ensemble.runs.load import TaskRun
from lm_eval_ensemble.runs.samples import Choice, Line, Sample, Samples, as_number, read
from lm_eval_ensemble.types import Scored

__all__ = ["Measured", "measured", "own_score", "read_measured"]


@dataclass(slots=True)
class Measured:
    """One document: ``value`` of the metric, ``choices`` (one per repeat; none for models that do not tell how they chose),
    ``length`` of the reference in characters (of the answer where there is none), ``answer`` to a question where recorded, and
    ``areas``: uncertainty score -> (its value, whether the answer is wrong). ``clustered_by`` is ``Sample.clustered_by``."""

    number: Any
    cluster: Hashable
    problem: Hashable
    value: float
    length: int | None
    length_of: str
    choices: tuple[Choice, ...]
    answer: Mapping[str, Any] | None
    areas: Mapping[str, tuple[float | None, bool]]
    clustered_by: str = ""

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for choice in self.choices for name in choice.selection.members))

    def share(self, member: str) -> float | None:
        """Share of right ones among a member's candidates; None where it has none."""
        right = [is_right for choice in self.choices for _, is_right in choice.of(member)]
        return sum(right) / len(right) if right else None


def read_measured(
    run: TaskRun, metric: str, lines: Iterable[Line] | None = None
) -> tuple[list[Measured], Samples[Measured | None]]:
    """The rows of a run, sorted by document, and how they were read; documents without a value of the metric are left out."""
    samples = read(run, measured, metric, lines=lines)
    return [row for row in samples.rows if row is not None], samples


def measured(sample: Sample) -> Measured | None:
    """A document as a row; None where it has no value of the metric."""
    if sample.score is None:
        return None
    text, length_of = _text(sample)
    return Measured(
        sample.number,
        sample.cluster,
        sample.problem,
        sample.score,
        None if text is None else len(text.strip()),
        length_of,
        sample.choices,
        sample.answer,
        sample.areas(),
        sample.clustered_by,
    )


def own_score(scored: Scored) -> float | None:
    """Mean negative log-likelihood (nats) of a candidate's own tokens; None where it does not tell all of them."""
    logprobs = scored.candidate.logprobs
    if not logprobs or None in logprobs:
        return None
    return as_number(-math.fsum(logprobs) / len(logprobs))


def _text(sample: Sample) -> tuple[str | None, str]:
    """What the length of a document is that of. Where nothing was written (multiple choice) the target is the number of an
    option."""
    try:
        answer = sample.answers()[0]
    except ValueError:
        middle = sample.doc.get("middle")
        return (middle, "reference") if isinstance(middle, str) else (None, "answer")
    reference = sample.reference()
    return (answer, "answer") if reference is None else (reference, "reference")
