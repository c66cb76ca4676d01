"""p(True): the model is shown its own answer and asked whether it is true (Kadavath et al., arXiv 2207.05221, section 3).

The prompt is theirs, without examples and without further samples; it costs one more prompt per answer, scored with its two
possible ends. The score of uncertainty is 1 - p(True).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["probability_true", "true_pairs"]


def true_pairs(doc: Mapping[str, Any], answer: str) -> list[tuple[str, str]]:
    """The prompt with each of its two ends, true first: the question, what it is to be answered from (where there is
    something), the proposed answer, and the choice."""
    context = f"Context: {doc['context']}\n" if doc.get("context") else ""
    prompt = (
        f"{context}Question: {str(doc['question']).strip()}\nProposed Answer: {answer}\n"
        "Is the proposed answer:\n (A) True\n (B) False\nThe proposed answer is:"
    )
    return [(prompt, " (A)"), (prompt, " (B)")]


def probability_true(log_true: float, log_false: float) -> float:
    """Probability of ``(A)`` against ``(B)``, from their log-likelihoods in nats; 0.5 where neither is possible.

    >>> round(probability_true(-1.0, -2.0), 4)
    0.7311
    """
    if log_true == log_false or math.isnan(log_true + log_false):
        return 0.5
    return 1.0 / (1.0 + math.exp(min(log_false - log_true, 700.0)))
