"""How long is the gap? A diffusion model must be told before it starts.

``oracle`` takes the true middle's number of tokens, as the published single-line figures do; it leaks the answer's
length and is labelled in every table. ``ar`` takes the length of another member's completion. ``fixed:N`` is N.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.types import InfillRequest

__all__ = ["DEFAULT_FIXED", "Length", "LengthPolicy"]

DEFAULT_FIXED = 16


@dataclass(frozen=True)
class Length:
    """Number of tokens to fill, and how it was found."""

    tokens: int
    mode: str


@dataclass(frozen=True)
class LengthPolicy:
    """``mode`` is oracle, ar, fixed or auto; ``fixed`` is N of ``fixed:N``; ``limit`` bounds every length.

    ``auto`` is oracle where the document has a reference, else ar where a partner answered, else fixed.
    """

    mode: str = "auto"
    fixed: int = DEFAULT_FIXED
    limit: int = 512

    @classmethod
    def parse(cls, text: str | None, limit: int) -> LengthPolicy:
        """From ``oracle``, ``ar``, ``fixed:N`` or None (auto); the settings were checked in ``config``."""
        mode, _, number = (text or "auto").partition(":")
        return cls(mode, int(number), limit) if number else cls(mode, limit=limit)

    @property
    def wants_partner(self) -> bool:
        """True if another member's completion may be needed."""
        return self.mode in ("ar", "auto")

    def choose(self, request: InfillRequest, count: Callable[[str], int]) -> Length:
        """The length for one request. ``count`` gives the number of tokens of a text.

        :raises ConfigError: ``oracle`` without a reference, ``ar`` without a partner.
        """
        mode = self.mode
        if mode == "auto":
            mode = "oracle" if request.reference is not None else "ar" if request.hint is not None else "fixed"
        if mode == "fixed":
            return Length(min(self.fixed, self.limit), f"fixed:{self.fixed}")
        text = request.reference if mode == "oracle" else request.hint
        if text is None:
            raise ConfigError(self._missing(mode, request))
        return Length(min(max(count(text), 1), self.limit), mode)

    @staticmethod
    def _missing(mode: str, request: InfillRequest) -> str:
        where = f"length={mode}, task {request.task!r}, document {request.doc_id}"
        if mode == "oracle":
            return (
                f"{where}: found no reference to measure; expected a document with a 'middle'. Use length=ar or length=fixed:N."
            )
        return (
            f"{where}: no other member has answered; expected an autoregressive partner (ensemble-ppl). "
            "Use length=oracle or length=fixed:N for a diffusion model alone."
        )
