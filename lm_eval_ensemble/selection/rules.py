"""Selectors that need nothing but the recorded scores and texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lm_eval_ensemble.selection.base import TOLERANCE, Case, Selector, lowest, score_of, settled, stream

__all__ = [
    "Rule",
    "always",
    "argmin",
    "inverse",
    "longest",
    "margin",
    "preferred",
    "random",
    "scored_by",
    "sequence",
    "shortest",
]

#: one step of a sequence: who stays, and the reason if all who stay have the same text.
Rule = Callable[[Case], tuple[Sequence[int], str]]


def argmin(case: Case) -> tuple[int, str]:
    """The candidate with the lowest score. The reason is ``single``, ``agreement``, ``score`` or ``tie``."""
    return lowest(case, [score_of(scored, case.rule) for scored in case.candidates])


def sequence(*rules: Rule) -> Selector:
    """Each rule narrows what the one before left, until one text is left; ``argmin`` decides what they leave open."""

    def select(case: Case) -> tuple[int, str]:
        if answer := settled(case):
            return answer
        kept = list(range(len(case.candidates)))
        for rule in (*rules, deciding(argmin)):
            stay, reason = rule(case.of(kept))
            narrowed = len(stay) < len(kept)
            kept = [kept[i] for i in stay]
            if narrowed and len({case.candidates[i].candidate.text for i in kept}) == 1:
                break
        return kept[argmin(case.of(kept))[0] if len(kept) > 1 else 0], reason

    return select


def deciding(selector: Selector) -> Rule:
    """A selector as the step of a sequence that leaves nothing open."""

    def rule(case: Case) -> tuple[Sequence[int], str]:
        winner, reason = selector(case)
        return [winner], reason

    return rule


def scored_by(selector: Selector, score: str) -> Selector:
    """The same selector with another score in the place of the run's rule: the score swap."""
    return lambda case: selector(case.by(score))


def margin(threshold: float) -> Selector:
    """Keep the preferred member's best answer unless another's score is lower by more than ``threshold`` (nats).

    Reason ``margin`` where this kept an answer that another one beat, else as ``argmin``.
    """

    def select(case: Case) -> tuple[int, str]:
        best, reason, held, lead = preferred(case)
        return (best, reason) if held is None or lead > threshold + TOLERANCE else (held, "margin")

    return select


def preferred(case: Case) -> tuple[int, str, int | None, float]:
    """``argmin``'s answer, and where another than the preferred member's best answer beats that one: its place, and by how
    many nats it is beaten."""
    best, reason = argmin(case)
    own = [i for i, scored in enumerate(case.candidates) if scored.candidate.member == case.prefer]
    if reason != "score" or not own or best in own:
        return best, reason, None, 0.0
    held = own[argmin(case.of(own))[0]]
    ours, theirs = (score_of(case.candidates[i], case.rule) for i in (held, best))
    if ours is None or theirs is None or not case.candidates[held].candidate.text.strip():
        return best, reason, None, 0.0
    return best, reason, held, ours - theirs


def always(member: str) -> Selector:
    """A member's answer, whatever the others say; its best by score where it offers several. Reason ``always``."""

    def select(case: Case) -> tuple[int, str]:
        own = [i for i, scored in enumerate(case.candidates) if scored.candidate.member == member]
        if settled(case) or not own:
            return argmin(case)
        return own[0] if len(own) == 1 else own[argmin(case.of(own))[0]], "always"

    return select


def longest(case: Case) -> tuple[int, str]:
    """The text with the most characters."""
    return lowest(case, [-float(len(scored.candidate.text)) for scored in case.candidates], "longest")


def shortest(case: Case) -> tuple[int, str]:
    """The text with the fewest characters; blank texts last."""
    return lowest(case, [float(len(scored.candidate.text)) for scored in case.candidates], "shortest")


def random(case: Case) -> tuple[int, str]:
    """Any candidate, each with the same chance; the seed and the gap decide, not the order of members."""
    return settled(case) or _draw(case, [1.0] * len(case.candidates), "random")


def inverse(case: Case) -> tuple[int, str]:
    """Draw a candidate with a chance in proportion to 1 / perplexity = exp(-score). Reason ``sampled``."""
    if answer := settled(case):
        return answer
    values = [score_of(scored, case.rule) for scored in case.candidates]
    texts = [scored.candidate.text.strip() for scored in case.candidates]
    usable = [v if v is not None and math.isfinite(v) and t else None for v, t in zip(values, texts, strict=True)]
    defined = [value for value in usable if value is not None]
    if not defined:
        return argmin(case)
    # Relative to the best one: a sum of many tokens would underflow.
    return _draw(case, [0.0 if v is None else math.exp(min(defined) - v) for v in usable], "sampled")


def _draw(case: Case, weights: Sequence[float], reason: str) -> tuple[int, str]:
    order = sorted(
        range(len(weights)),
        key=lambda i: (case.candidates[i].candidate.text, case.candidates[i].candidate.member, weights[i], i),
    )
    point = stream(case, reason).random() * sum(weights)
    for i in order:
        point -= weights[i]
        if point < 0:
            return i, reason
    return max(order, key=lambda i: weights[i]), reason
