"""Scores that cost nothing beyond the greedy answer: sums, means and extremes of its log-probabilities.

Every score is an uncertainty: higher means less certain. A score that the record cannot give is None, never 0 and
never NaN. With l_t the log-probability of answer token t (nats, raw logits, the stop token left out), T tokens:

==================  ====================================================================================
``g_nll``           -sum l_t, not divided by the length (G-NLL, Aichberger et al., arXiv:2412.15176)
``g_nll_stop``      the same with the stop token's; equals ``g_nll`` where none was generated: the length limit
                    ended the answer, or the stop lies inside its last token
``ln_nll``          -mean l_t (Malinin and Gales, arXiv:2002.07650). The mean token NLL is the same number and the
                    perplexity the same ranking, so neither is listed again
``max_token_nll``   max -l_t (Manakul et al., arXiv:2303.08896)
``first_token_nll`` -l_1
``mean_prob``       1 - mean exp(l_t), from the average token probability
``length_tokens``   T: the baseline every score has to beat
``length_chars``    characters of the answer
``mean_entropy``    mean over tokens of the entropy of the next-token distribution (Fomicheva et al. 2020)
``max_entropy``     its maximum
``mean_margin``     1 - mean(p1 - p2), from the gap between the two most likely tokens
``p_true``          1 - p(True) (Kadavath et al., arXiv:2207.05221): one extra prompt, where the run asked for it
==================  ====================================================================================

An empty answer has no token: its first token was the stop. All scores made of log-probabilities are then
-log p(stop), as the one token that was generated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["FREE_SCORES", "free_scores"]

FREE_SCORES = (
    "g_nll",
    "g_nll_stop",
    "ln_nll",
    "max_token_nll",
    "first_token_nll",
    "mean_prob",
    "length_tokens",
    "length_chars",
    "mean_entropy",
    "max_entropy",
    "mean_margin",
    "p_true",
)


def free_scores(record: Mapping[str, Any]) -> dict[str, float | None]:
    """All of :data:`FREE_SCORES` for one ``uncertainty`` record of a samples file.

    :param record: needs ``logprobs`` (list or null), ``stop_logprob``, ``stop_kind``, ``tokens`` or ``token_ids``,
        ``answer``; reads ``entropy``, ``margin`` and ``p_true`` where they are there. Where only the sum is known (one
        log-probability for an answer of several tokens), what needs single tokens is None.
    :returns: score name -> uncertainty in nats, tokens, characters or 1 - probability; None where unknown.
        A log-probability of minus infinity gives plus infinity.
    """
    count = _count(record)
    stop = _number(record.get("stop_logprob"))
    listed = record.get("logprobs")
    values = None if listed is None else [_number(value) for value in listed]
    if values == [] and stop is not None:
        values, single = [stop], True
    else:
        single = values is not None and len(values) == (count if count is not None else len(values))
    nll = None if not values or None in values else [-value for value in values if value is not None]
    total = math.fsum(nll) if nll else None
    each = nll if single else None
    return {
        "g_nll": total,
        "g_nll_stop": _with_stop(total, stop, record),
        "ln_nll": _reduce(_mean, each),
        "max_token_nll": _reduce(max, each),
        "first_token_nll": each[0] if each else None,
        "mean_prob": 1.0 - _mean([math.exp(-value) for value in each]) if each else None,
        "length_tokens": None if count is None else float(count),
        "length_chars": float(len(record.get("answer") or "")),
        "mean_entropy": _reduce(_mean, record.get("entropy")),
        "max_entropy": _reduce(max, record.get("entropy")),
        "mean_margin": _complement(_reduce(_mean, record.get("margin"))),
        "p_true": _complement(_number(record.get("p_true"))),
    }


def _with_stop(total: float | None, stop: float | None, record: Mapping[str, Any]) -> float | None:
    # Nothing to add where no stop token was generated: at the length limit, or where the stop lies inside the last token.
    if total is None or not record.get("logprobs") or record.get("stop_kind") == "length":
        return total
    if stop is None and record.get("straddle"):
        return total
    return None if stop is None else total - stop


def _count(record: Mapping[str, Any]) -> int | None:
    """Answer tokens; None where the record has text but no tokens (a model that tells neither)."""
    for name in ("token_ids", "tokens"):
        if record.get(name):
            return len(record[name])
    if record.get("logprobs") and record.get("source") != "loglikelihood":
        return len(record["logprobs"])
    return None if record.get("raw") or record.get("answer") else 0


def _reduce(function: Callable[[Sequence[float]], float], values: Sequence[Any] | None) -> float | None:
    numbers = [_number(value) for value in values or []]
    known = [value for value in numbers if value is not None]
    return function(known) if known and len(known) == len(numbers) else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _complement(value: float | None) -> float | None:
    return None if value is None else 1.0 - value


def _number(value: Any) -> float | None:
    """A float, or None for null, not-a-number, what no float can hold and anything that is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return None if math.isnan(found) else found
