"""What our three LM classes share: filling gaps, devices, and clear refusals."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, CacheHook

from lm_eval_ensemble.errors import HostError
from lm_eval_ensemble.harness.memory import peak_memory
from lm_eval_ensemble.harness.ranks import OneOfSeveral, own_gpu
from lm_eval_ensemble.harness.requests import to_requests
from lm_eval_ensemble.members.base import Followed, Member
from lm_eval_ensemble.types import Candidate, Completion, InfillRequest, Scored, Selection

__all__ = [
    "NO_CHAT",
    "InfillLM",
    "Kept",
    "alone",
    "cached_answers",
    "default_device",
    "default_dtype",
    "kept_answers",
    "own_cache",
    "refuse_cached_repeats",
]

logger = logging.getLogger(__name__)
#: entry of an answer cache that says whose it is; lm_eval's own keys are digests.
_OWNER = "lm_eval_ensemble: given by"
#: so many answers may be lost where they can only be kept together.
_PART = 64

NO_CHAT = (
    "--apply_chat_template cannot be used for infilling: prefix and suffix would be wrapped in a conversation the "
    "models were not trained to fill. Run without it; layout=chat asks an instruction-tuned member in words."
)


def default_device(device: str | None) -> str:
    """The device asked for, else a GPU if there is one; in a run of several processes each has its own. Without a GPU, ``cuda``
    means the CPU, as it does for stock ``hf``.

    :raises HostError: no such device.
    """
    if device is None:
        return own_gpu() if torch.cuda.is_available() else "cpu"
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise HostError(f"--device {device!r} is not a torch device; expected cpu, cuda, cuda:N or mps.") from None
    if wanted.type == "cuda" and not torch.cuda.is_available():
        # No warning: lm_eval's command asks for cuda:0 by itself, on any machine.
        logger.info("--device %s: torch finds no GPU here; running on the CPU.", device)
        return "cpu"
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise HostError(f"--device {device!r}: expected a GPU below {torch.cuda.device_count()}, the number torch finds here.")
    own = own_gpu() if wanted.type == "cuda" else ""
    if own not in ("", "cuda"):
        if wanted.index and str(wanted) != own:
            logger.warning("device=%s: with several processes each has a GPU of its own, this one %s.", device, own)
        return own
    return str(device)


def default_dtype(dtype: str | None, device: str) -> torch.dtype:
    """bfloat16 on an accelerator, float32 on a CPU, unless a dtype was named.

    :raises HostError: no such dtype.
    """
    if dtype in (None, "auto"):
        return torch.float32 if device == "cpu" else torch.bfloat16
    found = getattr(torch, str(dtype).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise HostError(f"dtype={dtype!r} is not a torch dtype; expected float32, bfloat16 or float16.")
    if device == "cpu" and found.itemsize == 2:
        _warn_of_emulation(str(dtype), torch.backends.cpu.get_cpu_capability())
    return found


@functools.cache
def _warn_of_emulation(dtype: str, capability: str) -> None:
    """Once in a process."""
    if platform.machine() in ("x86_64", "AMD64") and not capability.startswith("AVX512"):
        logger.warning(
            "dtype=%s: this processor (%s) only emulates products of such matrices; float32 is several times faster here.",
            dtype,
            capability,
        )


def alone(candidate: Candidate, samples: Sequence[Candidate] = ()) -> Completion:
    """A member's answer as a completion of its own; ``samples`` drawn beside it are kept in its trace."""
    found = tuple(Scored(c, {}) for c in (candidate, *samples))
    return Completion(candidate.text, Selection(found, 0, "single", "none"))


def cached_answers(cache_hook: CacheHook) -> Any:
    """The answers that ``--use_cache`` keeps, a mapping; None without it.

    :raises HostError: this lm_eval keeps them elsewhere, so that nobody could say whose they are.
    """
    try:
        return cache_hook.dbdict
    except AttributeError:
        raise HostError(
            f"lm_eval's {type(cache_hook).__name__} has no 'dbdict': this release keeps cached answers in a way that "
            "lm_eval_ensemble does not know. Install one that it was tested with (pip install 'lm-eval>=0.4.13,<0.5')."
        ) from None


def refuse_cached_repeats(cache_hook: CacheHook, requests: Sequence[InfillRequest]) -> None:
    """:raises HostError: lm_eval's cache holds one answer per prompt, so that all repeats would become the same one."""
    if cached_answers(cache_hook) is not None and any(request.sample for request in requests):
        raise HostError(
            "--use_cache keeps one answer per prompt and would serve it for every repeat of a document. Run repeats without it."
        )


def own_cache(cache_hook: CacheHook, identity: Mapping[str, Any]) -> None:
    """Keeps lm_eval's answer cache to the model that began it: its keys hold the prompt alone, so it would serve plain text, or
    records without what this run asks for.

    :param identity: the model and all settings that decide an answer and its record.
    :raises HostError: the cache holds answers given by something else.
    """
    answers = cached_answers(cache_hook)
    if answers is None:
        return
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()
    if len(answers) and answers.get(_OWNER) != digest:
        raise HostError(
            f"--use_cache: the answers in {getattr(answers, 'filename', 'the cache')} were given by another model or under "
            "other settings (its keys do not tell). Name another file, or delete this one."
        )
    answers[_OWNER] = digest


def kept_answers(lm: Any) -> tuple[int, str] | None:
    """How many answers ``--use_cache`` holds of an LM, and where; None without it."""
    answers = getattr(getattr(lm, "cache_hook", None), "dbdict", None)
    return None if answers is None else (sum(key != _OWNER for key in answers), str(getattr(answers, "filename", "the cache")))


class Kept:
    """Gives answers to ``--use_cache`` as soon as they are finished, so that a run which is ended goes on from them.

    ``part``: so many requests are answered at a time where their answers can only be kept together; all without a cache.
    """

    def __init__(self, cache_hook: CacheHook, requests: Sequence[Instance]) -> None:
        self._hook, self._requests, self._given = cache_hook, requests, set[int]()
        self.part = max(len(requests), 1) if cached_answers(cache_hook) is None else _PART

    def give(self, start: int, number: int, completion: Completion) -> None:
        """Each answer once; numbers are counted from ``start`` on."""
        number += start
        if number not in self._given:
            self._given.add(number)
            self._hook.add_partial("generate_until", self._requests[number].args, completion)

    def finish(self, start: int, completions: Sequence[Completion]) -> Sequence[Completion]:
        """What was not given yet of the completions from number ``start`` on; returns them."""
        for number, completion in enumerate(completions):
            self.give(start, number, completion)
        return completions


class InfillLM(OneOfSeveral, LM, Member):  # type: ignore[misc]
    """An LM that fills gaps; it may be a member of an ensemble. Subclasses implement ``propose``."""

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self.join(device)
        self._peaks: dict[str, float] = {}

    def to_requests(self, instances: Sequence[Instance]) -> list[InfillRequest]:
        """What lm_eval asks, as gaps."""
        return to_requests(instances)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Fill the gaps of lm_eval's requests."""
        asked = self.to_requests(requests)
        refuse_cached_repeats(self.cache_hook, asked)
        kept, found = Kept(self.cache_hook, requests), list[str]()
        # Batches go by length, so that of several fills of a gap the last comes at the very end.
        size = kept.part if self.offers > 1 else max(len(asked), 1)
        with peak_memory(self.name, self.device, self._peaks):
            for start in range(0, len(asked), size):
                part = self.answer_alone(asked[start : start + size], functools.partial(kept.give, start))
                found += kept.finish(start, part)
        return found

    def answer_alone(
        self, requests: Sequence[InfillRequest], done: Callable[[int, Completion], None] = lambda *_: None
    ) -> list[Completion]:
        """One completion per gap, of a model that is no member of an ensemble.

        :param done: is told the number and the completion of a gap as soon as it is there.
        """
        each = self.offers
        ledger = Followed(lambda number, found: done(number, self.complete(found)), each)
        variants = [replace(request, variant=v) for request in requests for v in range(each)]
        found = self.propose(variants, ledger) if self.resumes else self.propose(variants)
        return [self.complete(found[i : i + each]) for i in range(0, len(found), each)]

    def complete(self, candidates: Sequence[Candidate]) -> Completion:
        """The answer to a gap of a model that is no member: of its ``offers`` candidates the one it would choose itself."""
        return alone(candidates[0])

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise HostError(
            f"{type(self).__name__} fills gaps; it does not answer loglikelihood requests. Use a generate_until task, or "
            "--model hf-scored for this one."
        )

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise HostError(
            f"{type(self).__name__} has no likelihood of running text. Use --model hf-scored for loglikelihood_rolling."
        )

    @property
    def tokenizer_name(self) -> str:
        # The first thing lm_eval asks for with --apply_chat_template.
        return self.apply_chat_template([])

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        raise HostError(NO_CHAT)
