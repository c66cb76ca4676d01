"""What the pipeline needs of a member. The harness adapts any registered LM to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm_eval_ensemble.types import Candidate, InfillRequest

__all__ = ["Followed", "Ledger", "Member"]


class Ledger(dict[int, Candidate]):
    """The candidates there are so far, by number of the request. A member adds each batch as soon as it is finished."""

    def add(self, found: Mapping[int, Candidate]) -> None:
        """Note finished candidates; those that were known stay as they are."""
        for number, candidate in found.items():
            self.setdefault(number, candidate)


class Followed(Ledger):
    """Tells of every request as soon as all its candidates are there.

    :param each: candidates to a request; they follow one another.
    :param done: takes the number of the request and its candidates.
    """

    def __init__(self, done: Callable[[int, list[Candidate]], None], each: int = 1) -> None:
        super().__init__()
        self._done, self._each = done, each

    def add(self, found: Mapping[int, Candidate]) -> None:
        super().add(found)
        for number in dict.fromkeys(i // self._each for i in found):
            own = range(number * self._each, (number + 1) * self._each)
            if all(i in self for i in own):
                self._done(number, [self[i] for i in own])


class Member:
    """Proposes one candidate per request; ``propose`` is all that a member must have.

    ``name`` stands in the records. ``wants_partner``: requests should carry another member's completion as ``hint``.
    ``offers``: candidates per gap; the member is asked once for each ``InfillRequest.variant`` in ``range(offers)``.
    ``device``: members of different devices are asked at the same time. ``resumes``: it fills a ``Ledger`` batch by batch;
    others are asked for ``chunk`` requests at a time where answers are stored as they come. ``quantization``,
    ``footprint_mib`` (MiB) and ``diffusion_family`` tell of its weights.
    """

    name: str = ""
    wants_partner: bool = False
    offers: int = 1
    device: Any = None
    resumes: bool = False
    chunk: int = 16
    quantization: Any = None
    footprint_mib: Any = None
    diffusion_family: Any = None

    def propose(self, requests: Sequence[InfillRequest], ledger: Ledger | None = None) -> list[Candidate]:
        """One candidate per request, in order, already cut by the request's rule.

        :param ledger: of a member that resumes: what is in it already need not be computed.
        """
        raise NotImplementedError(f"{type(self).__name__} proposes nothing")

    def fingerprint(self) -> dict[str, Any] | None:
        """JSON-able facts of everything that decides its answers, beside the request; without them they are not stored."""
        return None

    def relevant(self, request: InfillRequest) -> InfillRequest:
        """The request without what the member does not look at (the reference, the hint)."""
        return request

    def draws(self, request: InfillRequest) -> bool:
        """Whether its answers to such requests can differ from sample to sample."""
        return True
