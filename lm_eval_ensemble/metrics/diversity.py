"""How differently two systems are right and wrong, from the four counts of a 2 x 2 table."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Agreement", "agreement"]


@dataclass(frozen=True)
class Agreement:
    """Counts of answers: ``both`` right, only the ``first``, only the ``second``, ``neither``.

    What has no value (a zero in a denominator) is None.
    """

    both: int
    first: int
    second: int
    neither: int

    @property
    def n(self) -> int:
        return self.both + self.first + self.second + self.neither

    @property
    def disagreement(self) -> float | None:
        """D: share where exactly one is right. Only there a selector can gain or lose."""
        return (self.first + self.second) / self.n if self.n else None

    @property
    def double_fault(self) -> float | None:
        """Share where both are wrong; lower is better: no selector can repair it."""
        return self.neither / self.n if self.n else None

    @property
    def q(self) -> float | None:
        """Yule's Q = (N11 N00 - N10 N01) / (N11 N00 + N10 N01), -1 to 1; 0 if independent, lower is more diverse."""
        same, other = self.both * self.neither, self.first * self.second
        return (same - other) / (same + other) if same + other else None

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa of the two outcomes: agreement beyond chance, 1 if always equal, 0 if independent."""
        if not self.n:
            return None
        observed = (self.both + self.neither) / self.n
        a, b = (self.both + self.first) / self.n, (self.both + self.second) / self.n
        chance = a * b + (1 - a) * (1 - b)
        return (observed - chance) / (1 - chance) if not math.isclose(chance, 1.0) else None

    @property
    def phi(self) -> float | None:
        """Correlation of the two outcomes (Pearson on 0/1)."""
        a, b = self.both + self.first, self.both + self.second
        below = a * b * (self.n - a) * (self.n - b)
        return (self.both * self.neither - self.first * self.second) / math.sqrt(below) if below else None


def agreement(outcomes: Iterable[tuple[bool, bool]]) -> Agreement:
    """The table of pairs (first is right, second is right)."""
    counts = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
    for first, second in outcomes:
        counts[bool(first), bool(second)] += 1
    return Agreement(counts[True, True], counts[True, False], counts[False, True], counts[False, False])
