"""``model: refine``: a member that corrects another member's completion with a diffusion model that is loaded already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lm_eval_ensemble.config import REFINE, RefineConfig
from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.members.base import Ledger, Member
from lm_eval_ensemble.types import Candidate, InfillRequest, normalise

__all__ = ["RefineMember"]


class RefineMember(Member):
    """Settings in ``RefineConfig``.

    :param model: the diffusion model of that name, shared with the member (or scorer) it belongs to.
    """

    wants_partner = True

    def __init__(self, name: str, config: RefineConfig, model: Any, seed: int) -> None:
        self.name, self.config, self.model, self.seed = name, config, model, seed
        self.device = str(model.device)

    def fingerprint(self) -> dict[str, Any] | None:
        """Everything that decides an answer, beside the request and its hint; None if its model has none."""
        settings, of = self.config.model_dump(exclude={"of"}), self.model.fingerprint()
        return of and {"model": REFINE, "settings": settings, "of": of, "stream": [self.name, self.config.of, self.seed]}

    def relevant(self, request: InfillRequest) -> InfillRequest:
        """Without the prompt text and the reference; the hint is what it works on."""
        return replace(request, context="", reference=None)

    def propose(self, requests: Sequence[InfillRequest], ledger: Ledger | None = None) -> list[Candidate]:
        """One corrected completion per request.

        :raises ConfigError: nobody has answered before.
        """
        texts = []
        for request in requests:
            if request.hint is None:
                raise ConfigError(
                    f"{self.name}: no other member has answered {request.task!r}, document {request.doc_id}; a refine member "
                    "corrects the completion of the first member that needs nobody else (fills of length=fixed-mean do not "
                    "count). Add one, such as hf-scored."
                )
            texts.append(request.hint)
        found = self.model.refill(requests, texts, self.config, self.seed)
        return [self._candidate(*row) for row in zip(requests, texts, found, strict=True)]

    def _candidate(self, request: InfillRequest, hint: str, found: Any) -> Candidate:
        cut = min((found.text.find(stop) for stop in request.until if stop and stop in found.text), default=-1)
        raw = found.text if cut < 0 or found.text == hint else found.text[:cut]
        info = {
            "refined_tokens": found.tokens,
            "remasked": found.remasked,
            "changed": raw != hint,
            "row_forwards": found.row_forwards,
        }
        return Candidate(self.name, normalise(raw, request.cut), raw, info=info)
