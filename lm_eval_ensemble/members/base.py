"""What the pipeline needs of a member. The harness adapts any registered LM to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from lm_eval_ensemble.types import Candidate, InfillRequest

__all__ = ["Ledger", "Member"]


class Member(Protocol):
    """Proposes one candidate per request.

    A member may have more, all of it optional:

    ``device``: members of different devices are asked at the same time.
    ``fingerprint() -> dict | None``: JSON-able facts of everything that decides its answers, beside the request. Answers of
    a member without one, or with None, are not stored.
    ``relevant(request) -> InfillRequest``: the request without what the member does not look at (the reference, the hint).
    ``propose(requests, ledger)`` and ``resumes = True``: it fills a ``Ledger`` batch by batch. Others are asked for a few
    dozen requests at a time.
    """

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


class Ledger(dict[int, Candidate]):
    """The candidates there are so far, by number of the request. A member adds each batch as soon as it is finished."""

    def add(self, found: Mapping[int, Candidate]) -> None:
        """Note finished candidates; those that were known stay as they are."""
        for number, candidate in found.items():
            self.setdefault(number, candidate)
