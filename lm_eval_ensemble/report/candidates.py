"""The candidates of a run as columns, made once: what counts right choices, and what weighs scores, reads them here.

Letters: C choices (completions), K candidates of all of them, M members. Candidates of one choice stand together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lm_eval_ensemble.report.records import own_score
from lm_eval_ensemble.runs.samples import Choice

__all__ = ["OWN", "Candidates"]

#: the score that is made of the log-probabilities a candidate was drawn with.
OWN = "own"
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Places = NDArray[np.intp]


class Candidates:
    """``choice`` (K,) and ``start`` (C,) say where a candidate belongs, ``member`` (K,) whose it is, ``right`` (K,) whether it
    is right, ``blank`` (K,) whether its text is; ``winner`` (C,) is the place of the chosen one, ``differ`` (C,) says whether
    a choice has different texts."""

    def __init__(self, choices: Sequence[Choice], members: Sequence[str]) -> None:
        self.choices, self.members = choices, members
        every = [scored for choice in choices for scored in choice.selection.candidates]
        sizes = np.array([len(choice.right) for choice in choices], dtype=np.intp)
        numbers = {name: number for number, name in enumerate(members)}
        texts = [scored.candidate.text for scored in every]
        self.start: Places = np.r_[0, np.cumsum(sizes)[:-1]].astype(np.intp)
        self.choice: Places = np.repeat(np.arange(len(choices), dtype=np.intp), sizes)
        self.member: Places = np.array([numbers[scored.candidate.member] for scored in every], dtype=np.intp)
        self.right: Bools = np.array([right for choice in choices for right in choice.right], dtype=bool)
        self.winner: Places = self.start + np.array([choice.selection.winner for choice in choices], dtype=np.intp)
        self.blank: Bools = np.array([not text.strip() for text in texts], dtype=bool)
        self.differ: Bools = np.array([_differ(choice) for choice in choices], dtype=bool)
        self.texts = texts
        self.every = every

    @cached_property
    def is_right(self) -> Bools:
        """(C,) whether the chosen candidate is right."""
        return self.right[self.winner]

    @cached_property
    def any_right(self) -> Bools:
        return np.logical_or.reduceat(self.right, self.start)

    @cached_property
    def all_right(self) -> Bools:
        return np.logical_and.reduceat(self.right, self.start)

    @cached_property
    def decisive(self) -> Bools:
        """(C,) some candidates are right and some are wrong: only then selection matters."""
        return self.any_right & ~self.all_right

    @cached_property
    def counts(self) -> tuple[Floats, Floats]:
        """(C, M) twice: a member's candidates, and those of them that are right."""
        size = len(self.choices) * len(self.members)
        place = self.choice * len(self.members) + self.member
        every, right = np.bincount(place, minlength=size), np.bincount(place[self.right], minlength=size)
        shape = (len(self.choices), len(self.members))
        return every.reshape(shape).astype(np.float64), right.reshape(shape).astype(np.float64)

    @cached_property
    def share(self) -> Floats:
        """(C, M) the share of right ones among a member's candidates; NaN where it has none."""
        every, right = self.counts
        with np.errstate(invalid="ignore"):
            share: Floats = right / every
        return share

    @cached_property
    def first(self) -> Places:
        """(C, M) the place of a member's first candidate; -1 where it has none."""
        places = np.full((len(self.choices), len(self.members)), -1, dtype=np.intp)
        # Assigned from the end, so that the first one stays.
        places[self.choice[::-1], self.member[::-1]] = np.arange(len(self.choice), dtype=np.intp)[::-1]
        return places

    @cached_property
    def scores(self) -> dict[str, Floats]:
        """Score -> (K,) nats, lower is better; NaN where it is undefined. Scores that no candidate has are left out."""
        names = dict.fromkeys(name for scored in self.every for name in scored.scores)
        columns = {name: np.array([s.scores.get(name) for s in self.every], dtype=np.float64) for name in names}
        columns[OWN] = np.array([own_score(scored) for scored in self.every], dtype=np.float64)
        return {name: column for name, column in columns.items() if not np.isnan(column).all()}


def _differ(choice: Choice) -> bool:
    first, *others = choice.selection.candidates
    return any(other.candidate.text != first.candidate.text for other in others)
