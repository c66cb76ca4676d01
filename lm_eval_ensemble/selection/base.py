"""What a selector sees, and what it answers; the three steps all of them share."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from lm_eval_ensemble.types import Scored

__all__ = ["TOLERANCE", "Case", "Selector", "by_preference", "lowest", "score_of", "settled", "stream"]

#: nats; scores closer than this are a tie. The same text scored in two batches may differ by about 1e-6.
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Case:
    """One gap with its scored candidates; plain values only, so that a stored record gives the same case again.

    ``rule`` names the score to compare (lower is better), ``prefer`` the member that wins a tie. ``prefix`` and ``suffix``
    are the text around the gap. ``key`` (task, document, sample) and ``seed`` name the random stream of selectors that
    draw. Nothing here says which candidates are right.
    """

    candidates: tuple[Scored, ...]
    rule: str
    prefer: str | None = None
    prefix: str = ""
    suffix: str = ""
    key: tuple[str | int, ...] = ()
    seed: int = 0

    @property
    def task(self) -> str:
        return str(self.key[0]) if self.key else ""

    def of(self, places: Sequence[int]) -> Case:
        """The same gap with some of the candidates alone."""
        if list(places) == list(range(len(self.candidates))):
            return self
        kept = tuple(self.candidates[i] for i in places)
        return Case(kept, self.rule, self.prefer, self.prefix, self.suffix, self.key, self.seed)

    def by(self, rule: str) -> Case:
        """The same gap under another score."""
        return Case(self.candidates, rule, self.prefer, self.prefix, self.suffix, self.key, self.seed)

    def program(self, index: int) -> str:
        """The whole file with a candidate in the gap."""
        return self.prefix + self.candidates[index].candidate.text + self.suffix


#: index of the winner, and the reason: one word.
Selector = Callable[[Case], tuple[int, str]]


def by_preference(case: Case) -> list[int]:
    """All candidates: those of the preferred member first, then by text; the order they were given in decides last."""
    return sorted(
        range(len(case.candidates)),
        key=lambda i: (case.candidates[i].candidate.member != case.prefer, case.candidates[i].candidate.text, i),
    )


def settled(case: Case) -> tuple[int, str] | None:
    """The answer where there is nothing to choose: ``single`` candidate, or ``agreement`` of all on one text."""
    first, *others = case.candidates
    if not others:
        return 0, "single"
    for other in others:
        if other.candidate.text != first.candidate.text:
            return None
    return by_preference(case)[0], "agreement"


def lowest(case: Case, values: Sequence[float | None], reason: str = "score") -> tuple[int, str]:
    """The candidate with the lowest of ``values`` (one per candidate); ``tie`` where preference had to decide.

    Undefined values rank after all others, blank texts last. A tie goes to the member ``prefer``, then to the
    lexicographically smaller text, so the order in which members are listed never matters.
    """
    if answer := settled(case):
        return answer
    ranks = [_rank(scored, value) for scored, value in zip(case.candidates, values, strict=True)]
    level, least = min(ranks)
    close = [i for i, rank in enumerate(ranks) if rank[0] == level and rank[1] - least <= TOLERANCE]
    if len(close) == 1:
        return close[0], reason
    alone = len({case.candidates[i].candidate.text for i in close}) == 1
    return next(i for i in by_preference(case) if i in close), reason if alone else "tie"


def _rank(scored: Scored, value: float | None) -> tuple[int, float]:
    """Defined values first, then texts without one, then blank texts."""
    text = scored.candidate.text
    if not text or text.isspace():
        return 2, 0.0
    return (1, 0.0) if value is None or not math.isfinite(value) else (0, value)


def score_of(scored: Scored, rule: str) -> float | None:
    """The recorded score ``rule``, or the mean of its parts if they are recorded (``fim+onepass``); None if undefined."""
    if rule in scored.scores:
        return scored.scores[rule]
    parts = [scored.scores.get(name.strip()) for name in rule.split("+")]
    defined = [part for part in parts if part is not None and math.isfinite(part)]
    return sum(defined) / len(parts) if len(defined) == len(parts) else None


def stream(case: Case, name: str) -> Random:
    """The random numbers of one choice: they depend on the seed, the gap and the selector's name alone."""
    digest = hashlib.sha256(repr((case.seed, name, *case.key)).encode()).digest()
    return Random(int.from_bytes(digest[:8], "little"))
