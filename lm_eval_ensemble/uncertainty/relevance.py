"""RW-G-NLL (TokenSAR) and its unnormalised form, from saved records and a similarity.

Duan et al. 2024 (ACL, arXiv:2307.01379), section 4: the relevance of token t of answer y to question x is
R_t = 1 - g(x y, x y without t), and TokenSAR = sum_t (R_t / sum R) (-l_t), a weighted *mean* of token NLLs.

- x is the question alone. A context would fill the model's window, and cutting it off would take the answer with it.
- A token is dropped by its index: its piece of text is left out, nothing is tokenized again, other occurrences stay.
- R is not divided by anything and never negative; a special token (an empty piece) has R = 0 by any real similarity.
- One token has weight 1. Where all relevances vanish (sum R <= 1e-9) the weights are equal, never NaN.
- An empty answer has the NLL of its stop token, as the other scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval_ensemble.metrics.answer_scores import free_scores
from lm_eval_ensemble.uncertainty.similarity import Pair, Similarity

__all__ = ["RELEVANCE_SCORES", "relevance_scores", "relevances", "token_pairs", "weighted_nll", "with_question"]

RELEVANCE_SCORES = ("rw_g_nll", "rw_sum")
NOTHING = 1e-9


def with_question(question: str, answer: str) -> str:
    """The text whose content is compared: question, one space, answer."""
    return f"{question.strip()} {answer.strip()}"


def token_pairs(question: str, tokens: Sequence[str]) -> list[Pair]:
    """One pair per token: the whole text, and the text without that token. Fewer than two tokens need none."""
    if len(tokens) < 2:
        return []
    whole = with_question(question, "".join(tokens))
    return [(whole, with_question(question, "".join([*tokens[:t], *tokens[t + 1 :]]))) for t in range(len(tokens))]


def relevances(similarities: Sequence[float]) -> list[float]:
    """R_t = 1 - similarity, not below 0; all 1 where nothing is relevant."""
    found = [max(0.0, 1.0 - float(value)) for value in similarities]
    return found if math.fsum(found) > NOTHING else [1.0] * len(found)


def weighted_nll(weights: Sequence[float], logprobs: Sequence[float]) -> float:
    """sum R_t (-l_t) / sum R_t. With equal weights of 1 it is the mean token NLL to the last bit."""
    terms = [weight * -value for weight, value in zip(weights, logprobs, strict=True) if weight]
    return math.fsum(terms) / math.fsum(weights)


def relevance_scores(records: Sequence[Mapping[str, Any]], similarity: Similarity) -> list[dict[str, float | None]]:
    """``rw_g_nll`` and ``rw_sum`` (= T times it: weights of mean 1) of each record, in one call of the similarity.

    Higher = more uncertain. None where tokens or their log-probabilities are missing; no other score stands in.
    """
    pairs = [token_pairs(record["question"], record["tokens"]) if _weighable(record) else [] for record in records]
    values = iter(similarity([pair for group in pairs for pair in group]).tolist())
    return [_scores(record, [next(values) for _ in group]) for record, group in zip(records, pairs, strict=True)]


def _weighable(record: Mapping[str, Any]) -> bool:
    tokens, logprobs = record.get("tokens"), record.get("logprobs")
    if not tokens or not logprobs or len(tokens) != len(logprobs):
        return False
    return all(isinstance(value, int | float) and not math.isnan(value) for value in logprobs)


def _scores(record: Mapping[str, Any], similarities: Sequence[float]) -> dict[str, float | None]:
    if not _weighable(record):
        # Without tokens only an answer that has none is known: its stop token is the one token there was.
        empty = free_scores(record)["g_nll"] if record.get("logprobs") == [] else None
        return dict.fromkeys(RELEVANCE_SCORES, empty)
    logprobs = record["logprobs"]
    weighted = weighted_nll(relevances(similarities) if similarities else [1.0], logprobs)
    return {"rw_g_nll": weighted, "rw_sum": weighted * len(logprobs)}
