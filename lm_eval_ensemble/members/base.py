"""What the pipeline needs of a member. The harness adapts any registered LM to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lm_eval_ensemble.types import Candidate, InfillRequest

__all__ = ["Member"]


class Member(Protocol):
    """Proposes one candidate per request."""

    @property
    def name(self) -> str: ...

    @property
    def wants_partner(self) -> bool:
        """True if requests should carry another member's completion as ``hint``."""
        ...

    @property
    def offers(self) -> int:
        """Candidates per gap: the member is asked once for each ``InfillRequest.variant`` in ``range(offers)``."""
        ...

    def propose(self, requests: Sequence[InfillRequest]) -> list[Candidate]:
        """One candidate per request, in order, already cut by the request's rule."""
        ...
