"""Any registered LM as a member of the ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

from lm_eval_ensemble.config import DIFFUSION, SCORED, MemberConfig
from lm_eval_ensemble.errors import ConfigError, HostError, did_you_mean
from lm_eval_ensemble.types import Candidate, Completion, InfillRequest, normalise

__all__ = ["ForeignMember", "build_lm", "find_kinds"]


def find_kinds(members: Sequence[MemberConfig]) -> dict[str, Any]:
    """The LM class of every member, by name; nothing is loaded.

    :raises ConfigError: names every model that is not registered.
    """
    kinds, faults = {}, []
    for index, member in enumerate(members):
        try:
            kinds[member.name] = get_model(member.model)
        except (ValueError, KeyError):
            known = [DIFFUSION, SCORED, "hf", "local-completions", "vllm"]
            faults.append(
                f"$.members[{index}].model: {member.model!r} is not registered in lm_eval.{did_you_mean(member.model, known)}"
            )
    if faults:
        raise ConfigError("\n".join(faults))
    return kinds


def build_lm(kind: Any, member: MemberConfig, host: dict[str, Any]) -> Any:
    """The LM of a member.

    :param host: batch_size, max_batch_size and device as lm_eval gave them; the member's own come first.
    """
    ours = {"name": member.name} if member.model in (DIFFUSION, SCORED) else {}
    shared = {k: v for k, v in host.items() if v is not None and k not in member.args}
    return kind.create_from_arg_obj({**ours, **member.args}, shared)


class ForeignMember:
    """An LM that is not ours: it is given the task's prompt text and answers with plain text."""

    wants_partner = False
    offers = 1

    def __init__(self, name: str, lm: Any) -> None:
        self.name, self.lm = name, lm

    def propose(self, requests: Sequence[InfillRequest]) -> list[Candidate]:
        """One filled gap per request, through the LM's ``generate_until``."""
        instances = [
            Instance("generate_until", {}, (r.context, dict(r.options)), 0, metadata=(r.task, r.doc_id, 1), task_name=r.task)
            for r in requests
        ]
        answers = self.lm.generate_until(instances)
        return [self._candidate(r, a) for r, a in zip(requests, answers, strict=True)]

    def _candidate(self, request: InfillRequest, answer: str) -> Candidate:
        if isinstance(answer, Completion) and answer.trace is not None:
            if len(answer.runs) > 1:
                raise HostError(
                    f"Member {self.name!r} answers with several runs (length=fixed-mean), whose scores are averaged; inside "
                    "another ensemble there is nothing to average. Use another length policy there."
                )
            own = answer.trace.chosen
            return Candidate(self.name, normalise(own.raw, request.cut), own.raw, logprobs=own.logprobs, info=own.info)
        raw = str(answer)
        return Candidate(self.name, normalise(raw, request.cut), raw)
