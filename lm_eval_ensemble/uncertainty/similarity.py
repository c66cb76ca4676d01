"""How alike two texts are, in [0, 1]: the measure behind relevance weights and sentence weights.

A *similarity* takes pairs of texts and gives one number per pair; where it comes from is its own affair::

    constant                    0 for every pair: relevance weights become equal, RW-G-NLL the mean token NLL
    ngram                       cosine of character trigrams; no model, no download, the same everywhere
    cross-encoder:ID or FOLDER  a sentence-pair regressor such as cross-encoder/stsb-roberta-large
    sentence:ID or FOLDER       cosine of two embeddings, such as sentence-transformers/all-MiniLM-L6-v2
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lm_eval_ensemble.errors import ModelError

__all__ = ["Constant", "Memo", "NGram", "Pair", "Similarity"]

Pair = tuple[str, str]


class Similarity(Protocol):
    """Pairs of texts -> (n,) similarities in [0, 1]; 1 means the same content. ``name`` goes into reports."""

    name: str

    def __call__(self, pairs: Sequence[Pair]) -> NDArray[np.float64]: ...


class Constant:
    """Nothing is like anything: every token is equally relevant, every sample stands alone."""

    name = "constant"

    def __call__(self, pairs: Sequence[Pair]) -> NDArray[np.float64]:
        return np.zeros(len(pairs))


class NGram:
    """Cosine of the counts of character trigrams, lower case, one space put around the text."""

    name = "ngram"

    def __call__(self, pairs: Sequence[Pair]) -> NDArray[np.float64]:
        return np.array([_cosine(first, second) for first, second in pairs])


class Memo:
    """A similarity that is asked once per distinct pair.

    The pairs of a call that are not known yet go to the model together, sorted by length so that a batch pads little.
    The key is the pair itself: with the question inside both texts, the same answer to another question is another pair.
    """

    def __init__(self, similarity: Similarity) -> None:
        self.name = similarity.name
        self._similarity = similarity
        self._known: dict[Pair, float] = {}

    def __call__(self, pairs: Sequence[Pair]) -> NDArray[np.float64]:
        """:raises ModelError: the model gave something that is no number."""
        new = sorted({pair for pair in pairs if pair not in self._known}, key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
        if new:
            values = np.asarray(self._similarity(new), dtype=np.float64)
            if values.shape != (len(new),) or not np.isfinite(values).all():
                raise ModelError(
                    f"similarity {self.name}: found {values.shape} values with {int((~np.isfinite(values)).sum())} that are no "
                    f"number, expected {len(new)} numbers in [0, 1]. The weights of the model may be damaged."
                )
            self._known.update(zip(new, np.clip(values, 0.0, 1.0).tolist(), strict=True))
        return np.array([self._known[pair] for pair in pairs])


@lru_cache(maxsize=4096)
def _trigrams(text: str) -> tuple[Counter[str], float]:
    padded = f" {text.lower().strip()} "
    counts = Counter(padded[i : i + 3] for i in range(max(1, len(padded) - 2)))
    return counts, float(sum(count * count for count in counts.values()))


def _cosine(first: str, second: str) -> float:
    if first == second:
        return 1.0
    (a, norm_a), (b, norm_b) = _trigrams(first), _trigrams(second)
    shared = sum(count * b[gram] for gram, count in a.items() if gram in b)
    return float(min(1.0, shared / (norm_a * norm_b) ** 0.5))
