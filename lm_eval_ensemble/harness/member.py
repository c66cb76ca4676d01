"""Any registered LM as a member of the ensemble."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.api_models import TemplateAPI

from lm_eval_ensemble.config import DIFFUSION, ENSEMBLE, REFINE, SCORED, HostDecoding, MemberConfig, parse_settings
from lm_eval_ensemble.errors import ConfigError, did_you_mean
from lm_eval_ensemble.harness.ranks import detach
from lm_eval_ensemble.harness.refine_member import RefineMember
from lm_eval_ensemble.harness.servers import server_faults
from lm_eval_ensemble.members.base import Ledger, Member
from lm_eval_ensemble.members.identity import checkpoint_identity, identified, versions
from lm_eval_ensemble.types import Candidate, Completion, InfillRequest, normalise, unbroken

__all__ = ["ForeignMember", "build_member", "find_kinds"]

#: arguments that do not change an answer.
_INDIFFERENT = ("batch_size", "max_batch_size", "device", "num_concurrent", "max_retries", "timeout", "parallelize")
#: torch's random stream is one for the whole process.
_STREAM = threading.Lock()


def find_kinds(members: Sequence[MemberConfig]) -> dict[str, Any]:
    """The LM class of every member, by name; nothing is loaded.

    :raises ConfigError: names every model that is not registered.
    """
    kinds, faults = {}, []
    for index, member in enumerate(members):
        if member.model == REFINE:  # no LM: it cannot answer alone
            kinds[member.name] = RefineMember
            continue
        try:
            kinds[member.name] = get_model(member.model)
        except (ValueError, KeyError):
            known = [DIFFUSION, SCORED, REFINE, "hf", "local-completions", "vllm"]
            faults.append(
                f"$.members[{index}].model: {member.model!r} is not registered in lm_eval.{did_you_mean(member.model, known)}"
            )
    if faults:
        raise ConfigError("\n".join(faults))
    return kinds


def build_member(kind: Any, member: MemberConfig, host: Mapping[str, Any], seed: int, store: str | None = None) -> Member:
    """A member with its LM: the LM itself if it is one.

    :param host: batch_size, max_batch_size and device as lm_eval gave them; the member's own come first.
    :param seed: of the random streams of our own kinds.
    """
    ours: dict[str, Any] = {}
    if member.model in (DIFFUSION, SCORED):
        ours = {"name": member.name, "seed": seed}
    elif member.model == ENSEMBLE:
        ours = {"seed": seed, "store": store}
    shared = {k: v for k, v in host.items() if v is not None and k not in member.args}
    lm = kind.create_from_arg_obj({**ours, **member.args}, shared)
    detach(lm)
    if not isinstance(lm, Member):
        return ForeignMember(member, lm, seed)
    lm.name = member.name
    return lm


class ForeignMember(Member):
    """An LM that is not ours: it is given the task's prompt text and answers with plain text.

    Where it samples, every sample has a seed of its own. LMs that take one (servers, vllm) get ``seed`` among the generation
    settings, the same for sample k of all gaps, so that batches stay whole. For the others torch's stream is seeded for each
    gap, and gaps are asked one at a time: an answer must not depend on its batch.
    """

    def __init__(self, config: MemberConfig, lm: Any, seed: int = 0) -> None:
        self.name, self.config, self.lm, self.seed = config.name, config, lm, seed
        parse_settings(HostDecoding, config.gen_kwargs, f"$.{config.name}.gen_kwargs")
        self.server = isinstance(lm, TemplateAPI)
        self._takes_seed = self.server or type(lm).__module__ == "lm_eval.models.vllm_causallms"
        # A server works beside everything else; other LMs say where they are.
        self.device = self.name if self.server else str(getattr(lm, "device", None))
        size = str(getattr(lm, "batch_size", 1) or 1)
        rows = int(size) if size.isdigit() else 64
        self.chunk = max(16, rows) * max(1, int(getattr(lm, "_concurrent", 1)))

    def fingerprint(self) -> dict[str, Any] | None:
        """What decides its answers, as far as can be known: a server's weights cannot. None, which means not stored, for an LM
        whose code or weights cannot be found."""
        kind, args = type(self.lm), self.config.args
        code = "lm_eval" if kind.__module__.startswith("lm_eval.") else _source(kind)
        weights: Any = "unseen"
        if "pretrained" in args and not self.server:
            place = (str(args.get("revision", "main")), str(args.get("subfolder") or ""))
            weights = checkpoint_identity(str(args["pretrained"]), *place)
        if code is None or weights is None:
            return None
        network = getattr(self.lm, "model", None)
        return {
            "model": self.config.model,
            "code": [kind.__module__, kind.__qualname__, code],
            "weights": weights,
            "args": identified({k: v for k, v in args.items() if k not in _INDIFFERENT}),
            "gen_kwargs": self.config.gen_kwargs,
            "stream": [self.name, self.seed],
            "computed": [self.device.partition(":")[0], str(getattr(network, "dtype", None))],
            "versions": versions("lm_eval", "torch", "transformers", "vllm"),
            "server": self.server,
        }

    def relevant(self, request: InfillRequest) -> InfillRequest:
        """Without the reference and the hint, which a prompt does not hold."""
        return replace(request, reference=None, hint=None)

    def draws(self, request: InfillRequest) -> bool:
        return bool(self._settings(request).get("do_sample"))

    def propose(self, requests: Sequence[InfillRequest], ledger: Ledger | None = None) -> list[Candidate]:
        """One filled gap per request, through the LM's ``generate_until``."""
        if self._takes_seed or not any(map(self.draws, requests)):
            with server_faults(self.name, self.lm.base_url) if self.server else contextlib.nullcontext():
                answers = self.lm.generate_until([self._instance(request) for request in requests])
        else:
            answers = [self._drawn(request) for request in requests]
        return [self._candidate(r, a) for r, a in zip(requests, answers, strict=True)]

    def _settings(self, request: InfillRequest) -> dict[str, Any]:
        """lm_eval's generation settings, then the member's own."""
        settings = {**request.options, **self.config.gen_kwargs}
        own = self.config.gen_kwargs
        if "temperature" in own and "do_sample" not in own:
            settings["do_sample"] = own["temperature"] > 0
        elif "do_sample" not in settings and settings.get("temperature"):
            settings["do_sample"] = True
        return settings

    def _instance(self, request: InfillRequest) -> Instance:
        settings = self._settings(request)
        if self._takes_seed and settings.get("do_sample"):
            settings["seed"] = self._stream(request.sample)
        metadata = (request.task, request.doc_id, 1)
        return Instance("generate_until", {}, (request.context, settings), 0, metadata=metadata, task_name=request.task)

    def _drawn(self, request: InfillRequest) -> str:
        device = torch.device(self.lm.device) if getattr(self.lm, "device", None) is not None else torch.device("cpu")
        quiet = {"disable_tqdm": True} if "disable_tqdm" in inspect.signature(self.lm.generate_until).parameters else {}
        forked = [device] if device.type == "cuda" else []
        with _STREAM, torch.random.fork_rng(devices=forked):
            torch.manual_seed(self._stream(*request.key))
            answer: str = self.lm.generate_until([self._instance(request)], **quiet)[0]
        return answer

    def _stream(self, *key: object) -> int:
        digest = hashlib.sha256(repr((self.seed, self.name, *key)).encode()).digest()
        return int.from_bytes(digest[:4], "little") >> 1

    def _candidate(self, request: InfillRequest, answer: str) -> Candidate:
        if isinstance(answer, Completion) and answer.trace is not None:
            own = answer.trace.chosen
            return Candidate(
                self.name, normalise(own.raw, request.cut), own.raw, logprobs=own.logprobs, tokens=own.tokens, info=own.info
            )
        raw = unbroken(str(answer))  # a server may cut an emoji in two, and lm_eval could not write that
        return Candidate(self.name, normalise(raw, request.cut), raw)


def _source(kind: type) -> str | None:
    """sha256 of the file a class is written in; None if there is none."""
    try:
        return hashlib.sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest()
    except (TypeError, OSError):
        return None
