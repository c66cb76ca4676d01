"""Which of several sampled answers mean the same.

Greedy, as published with semantic entropy (Farquhar et al. 2024): the first answer that has no cluster opens one, and
every later free answer that means the same as *it* joins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lm_eval_ensemble.metrics.answers import normalise
from lm_eval_ensemble.uncertainty.relevance import with_question
from lm_eval_ensemble.uncertainty.similarity import Pair

__all__ = ["Clusters", "MatchClusters", "NLIClusters"]


class Clusters(Protocol):
    """Questions and their sampled answers -> per question a cluster number for each answer, counted from 0."""

    name: str

    def __call__(self, questions: Sequence[str], answers: Sequence[Sequence[str]]) -> list[list[int]]: ...


class MatchClusters:
    """The same after SQuAD's normalisation (of the stripped lower-case text where that leaves nothing)."""

    name = "match"

    def __call__(self, questions: Sequence[str], answers: Sequence[Sequence[str]]) -> list[list[int]]:
        found = []
        for group in answers:
            numbers: dict[str, int] = {}
            keys = [normalise(text) or text.strip().lower() for text in group]
            found.append([numbers.setdefault(key, len(numbers)) for key in keys])
        return found


class NLIClusters:
    """The same if each entails the other, question put before both. One call of the model per round, for all documents."""

    def __init__(self, entails: Callable[[Sequence[Pair]], NDArray[np.bool_]], name: str) -> None:
        self.name = name
        self._entails = entails

    def __call__(self, questions: Sequence[str], answers: Sequence[Sequence[str]]) -> list[list[int]]:
        texts = [[with_question(question, text) for text in group] for question, group in zip(questions, answers, strict=True)]
        found = [[-1] * len(group) for group in texts]
        number = 0
        while open_ones := [i for i, labels in enumerate(found) if -1 in labels]:
            compared = []
            for i in open_ones:
                first, *rest = (j for j, label in enumerate(found[i]) if label < 0)
                found[i][first] = number
                compared += [(i, first, j) for j in rest]
            for (i, _, j), same in zip(compared, self._same([(texts[i][a], texts[i][b]) for i, a, b in compared]), strict=True):
                if same:
                    found[i][j] = number
            number += 1
        return found

    def _same(self, pairs: Sequence[Pair]) -> list[bool]:
        asked = sorted({p for a, b in pairs if a != b for p in ((a, b), (b, a))}, key=lambda p: (len(p[0]) + len(p[1]), p))
        entailed = dict(zip(asked, self._entails(asked).tolist(), strict=True)) if asked else {}
        return [a == b or (entailed[a, b] and entailed[b, a]) for a, b in pairs]
