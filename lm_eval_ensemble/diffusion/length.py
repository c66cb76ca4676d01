"""How long is the gap? A diffusion model must be told before it starts.

==============  =========================================================================================================
policy          the middle's number of tokens
==============  =========================================================================================================
``oracle``      that of the true middle, as in the published single-line figures; it leaks part of the answer and is
                labelled in every table
``fixed:N``     N
``fixed-mean``  4, 8, 16, 32 and 64, one fill each; every metric is the mean over the five, none is chosen (as published
                for models without the true length: DreamOn, arXiv 2602.01326)
``ar``          that of the partner's completion
``ar:K``        the best of the partner's -K..+K by calibrated score, all in one first-step forward
``search``      the best found by calibrated score: powers of two, then up and down from the best
``grid:A,B,C``  A, B and C, one fill each, all offered to the selector; ``ar`` may be one of them
``expand:N``    what the model makes of N masks (4): it was trained to expand and delete them (``diffusion.grow``)
==============  =========================================================================================================

Scores and their calibration: ``diffusion.confidence``. ``+`` may stand for the comma, which ``--model_args`` takes for
itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.types import InfillRequest

__all__ = [
    "DEFAULT_FIXED",
    "DEFAULT_GRID",
    "FALLBACK",
    "FIXED_MEAN",
    "PULL",
    "SEARCH_CAP",
    "Length",
    "LengthChoice",
    "LengthPolicy",
    "Search",
]

DEFAULT_FIXED = 16
DEFAULT_GRID = (3, 4, 6, 8, 12, 16)
FIXED_MEAN = (4, 8, 16, 32, 64)
#: masks that ``expand`` begins with, as in DreamOn's README.
FIRST_MASKS = 4
#: tried beside the neighbours of a partner's answer that is blank or was never ended.
FALLBACK = (2, 4, 8, 16)
#: nats that ``ar:K`` takes off a length per token it is away from the partner's (chosen on HumanEval documents 0 to 99 of
#: ``random.Random(0).shuffle``; none of docs/tiny_pair.md's).
PULL = 0.5
#: no search looks at longer middles.
SEARCH_CAP = 128


@dataclass(frozen=True)
class Length:
    """Number of tokens to fill, how it was found, and the row-forwards that finding it took."""

    tokens: int
    mode: str
    forwards: int = 0


@dataclass(frozen=True)
class LengthChoice:
    """The policy's name for the record, the lengths to compare (one needs no comparison), and the length that ``ar:K``
    leaves only for a better score."""

    mode: str
    lengths: list[int]
    centre: int | None = None

    def best(self, scores: Mapping[int, float]) -> int:
        """The length of the highest score; the shorter one of equals."""
        pull = 0.0 if self.centre is None else PULL
        return max(scores, key=lambda n: (scores[n] - pull * abs(n - (self.centre or 0)), -n))


@dataclass(frozen=True)
class LengthPolicy:
    """``mode`` is the policy's name without its numbers, or ``auto``; ``limit`` bounds every length.

    ``fixed`` is N of ``fixed:N`` and ``expand:N``, ``around`` is K of ``ar:K``, ``grid`` the lengths of ``fixed-mean`` and
    ``grid`` (None stands for the partner's). ``auto`` is oracle where the document has a reference, else ar where a partner
    answered, else fixed.
    """

    mode: str = "auto"
    fixed: int = DEFAULT_FIXED
    limit: int = 512
    around: int = 0
    grid: tuple[int | None, ...] = ()

    @classmethod
    def parse(cls, text: str | None, limit: int) -> LengthPolicy:
        """From the settings' text or None (auto); it was checked in ``config``."""
        mode, _, rest = (text or "auto").partition(":")
        if mode == "fixed":
            return cls(mode, fixed=int(rest), limit=limit)
        if mode == "expand":
            return cls(mode, fixed=int(rest or FIRST_MASKS), limit=limit)
        if mode == "fixed-mean":
            return cls(mode, limit=limit, grid=FIXED_MEAN)
        if mode == "ar":
            return cls(mode, limit=limit, around=int(rest or 0))
        if mode == "grid":
            parts = rest.replace("+", ",").split(",") if rest else DEFAULT_GRID
            return cls(mode, limit=limit, grid=tuple(None if part == "ar" else int(part) for part in parts))
        return cls(mode, limit=limit)

    @property
    def wants_partner(self) -> bool:
        """True if another member's completion may be needed."""
        return self.mode in ("ar", "auto") or None in self.grid

    @property
    def offers(self) -> int:
        """Candidates per gap: one for each length of a grid."""
        return len(self.grid) or 1

    @property
    def is_averaged(self) -> bool:
        """True if the candidates are runs of their own, to be averaged and never selected among."""
        return self.mode == "fixed-mean"

    @property
    def needs_confidence(self) -> bool:
        """True if lengths are compared by the model's confidence."""
        return self.mode == "search" or self.around > 0

    def candidates(self, request: InfillRequest, count: Callable[[str], int], limit: int | None = None) -> LengthChoice:
        """What is to be compared for one request; for ``search``, where the search starts.

        :param count: gives the number of tokens of a text.
        :param limit: of this request, if it is lower than the policy's.
        :raises ConfigError: ``oracle`` without a reference, ``ar`` without a partner.
        """
        limit = min(self.limit, limit or self.limit)
        mode, centre = self.mode, None
        if mode == "auto":
            mode = "oracle" if request.reference is not None else "ar" if request.hint is not None else "fixed"
        if mode == "fixed":
            name, found = f"fixed:{self.fixed}", [self.fixed]
        elif mode == "expand":
            name, found = f"expand:{self.fixed}", [self.fixed]
        elif mode == "search":
            name, found = mode, Search.starts(min(limit, SEARCH_CAP))
        elif self.grid:
            asked = self.grid[request.variant]
            name, found = mode, [self._partners(mode, request, count) if asked is None else asked]
        elif mode == "oracle":
            name, found = mode, [self._oracle(request, count)]
        else:
            name = f"ar:{self.around}" if self.around else "ar"
            centre = min(self._partners(mode, request, count), limit)
            found = list(range(centre - self.around, centre + self.around + 1))
            if self.around and (not (request.hint or "").strip() or centre == limit):
                found, centre = [*found, *FALLBACK], None
        return LengthChoice(name, sorted({min(max(length, 1), limit) for length in found}), centre)

    def _oracle(self, request: InfillRequest, count: Callable[[str], int]) -> int:
        if request.reference is None:
            raise ConfigError(
                f"{self._where('oracle', request)}: found no reference to measure; expected a document with a 'middle'. Use "
                "length=ar, length=search or length=fixed:N."
            )
        return count(request.reference)

    def _partners(self, mode: str, request: InfillRequest, count: Callable[[str], int]) -> int:
        if request.hint is None:
            raise ConfigError(
                f"{self._where(mode, request)}: no other member has answered; expected an autoregressive partner "
                "(ensemble-ppl). Use length=search, length=oracle or length=fixed:N for a diffusion model alone."
            )
        return max(count(request.hint), 1)

    @staticmethod
    def _where(mode: str, request: InfillRequest) -> str:
        return f"length={mode}, task {request.task!r}, document {request.doc_id}"


class Search:
    """Training-free search for the length with the highest value: powers of two first (as LR-DLLM, arXiv 2602.07546), then
    up and down from the best one, in steps that are halved where neither is better (CAL, arXiv 2602.00476, climbs in
    steps of one).

    Ask ``wanted``, answer with ``tell``, until ``wanted`` is empty. No length is asked for twice, so that it ends; all lie
    in [1, limit].
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.values: dict[int, float] = {}
        self.wanted = self.starts(limit)
        self._step: int | None = None

    @staticmethod
    def starts(limit: int) -> list[int]:
        """1, 2, 4, ... up to ``limit``."""
        return [1 << k for k in range(int(math.log2(limit)) + 1)]

    @property
    def best(self) -> int:
        """The length with the highest value so far; the shorter one of equals."""
        return max(self.values, key=lambda length: (self.values[length], -length))

    def tell(self, values: Mapping[int, float]) -> None:
        """The values of the lengths that were wanted."""
        before = self.best if self.values else None
        self.values.update(values)
        step = max(self.best // 4, 1) if self._step is None else self._step
        if before == self.best:
            step //= 2
        while step:
            near = (self.best - step, self.best + step)
            self.wanted = [n for n in near if 1 <= n <= self.limit and n not in self.values]
            self._step = step
            if self.wanted:
                return
            step //= 2
        self.wanted = []
