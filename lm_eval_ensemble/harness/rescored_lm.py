"""``--model rescored``: any registered LM, and after each generation a second pass for the log-likelihood of the answer.

For models that do not tell what they thought of the tokens they generated. It needs nothing but the LM's own
``loglikelihood``, and costs one more prompt per answer. What it gives is less than ``hf-scored`` does: one sum for the whole
answer, and the number of tokens the answer has *when it is tokenised again*, which may not be those that were generated.
Records say so (``source: loglikelihood``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, CacheHook
from lm_eval.api.registry import get_model
from lm_eval.models.openai_completions import LocalCompletionsAPI

from lm_eval_ensemble.errors import ConfigError, did_you_mean
from lm_eval_ensemble.harness.base import Kept, alone, own_cache
from lm_eval_ensemble.harness.ranks import OneOfSeveral, detach
from lm_eval_ensemble.harness.servers import echo_checked
from lm_eval_ensemble.types import Candidate, Completion

__all__ = ["Rescored"]


class Rescored(OneOfSeveral, LM):  # type: ignore[misc]
    """``inner`` names the LM; all other arguments are its own: ``inner=hf,pretrained=CHECKPOINT``."""

    def __init__(self, inner: str = "", name: str = "rescored", **arguments: Any) -> None:
        super().__init__()
        self.name = name
        if not inner:
            raise ConfigError(f"$.{name}.inner: missing, expected the name of a registered model (inner=hf,pretrained=...).")
        try:
            kind = get_model(inner)
        except (ValueError, KeyError):
            known = ["hf", "vllm", "local-completions"]
            raise ConfigError(f"$.{name}.inner: {inner!r} is not registered in lm_eval.{did_you_mean(inner, known)}") from None
        host = {key: arguments.pop(key) for key in ("batch_size", "max_batch_size", "device") if key in arguments}
        self._identity = {"model": "rescored", "inner": inner, **arguments}
        self.join(host.get("device"))
        self.inner = kind.create_from_arg_obj(arguments, host)
        detach(self.inner)
        if isinstance(self.inner, LocalCompletionsAPI):
            self.inner.parse_logprobs = echo_checked(self.inner.parse_logprobs, self.inner.base_url)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The inner answers as ``Completion`` with the sum of their log-probabilities."""
        # The inner model tells nothing before it has answered everything.
        kept, found = Kept(self.cache_hook, requests), list[str]()
        for start in range(0, len(requests), kept.part):
            found += kept.finish(start, self._completed(requests[start : start + kept.part]))
        return found

    def _completed(self, requests: list[Instance]) -> list[Completion]:
        answers = self.inner.generate_until(requests)
        asked = [i for i, a in enumerate(answers) if a and not (isinstance(a, Completion) and a.trace)]
        found = iter(self._sums([(requests[i], str(answers[i])) for i in asked]))
        sums = {i: next(found) for i in asked}
        return [
            answer
            if isinstance(answer, Completion) and answer.trace
            else self._completion(requests[i], str(answer), sums.get(i))
            for i, answer in enumerate(answers)
        ]

    def _sums(self, pairs: Sequence[tuple[Instance, str]]) -> list[float]:
        asked = [
            Instance("loglikelihood", r.doc, (r.args[0], text), 0, metadata=r.metadata, task_name=r.task_name, doc_id=r.doc_id)
            for r, text in pairs
        ]
        return [float(total) for total, _ in self.inner.loglikelihood(asked)] if asked else []

    def _completion(self, request: Instance, text: str, total: float | None) -> Completion:
        """An empty answer has no token and no log-probability; its list is empty, not null."""
        info: dict[str, Any] = {"source": "loglikelihood"}
        if total is None:
            return alone(Candidate(self.name, text, text, logprobs=(), tokens=(), info=info))
        ids = self.inner._encode_pair(request.args[0], text)[1] if hasattr(self.inner, "_encode_pair") else ()
        return alone(Candidate(self.name, text, text, logprobs=(total,), info={**info, "token_ids": tuple(ids)}))

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        found: list[tuple[float, bool]] = self.inner.loglikelihood(requests)
        return found

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        found: list[float] = self.inner.loglikelihood_rolling(requests)
        return found

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        own_cache(cache_hook, self._identity)
        # The inner LM would store its plain text under the same key.
        super().set_cache_hook(cache_hook)

    def get_model_info(self) -> dict[str, Any]:
        inner = self.inner.get_model_info() if hasattr(self.inner, "get_model_info") else {}
        return {**inner, "processes": self.world_size, "logprobs_of": "a second pass over the answer tokenised again"}

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        rendered: str = self.inner.apply_chat_template(chat_history, add_generation_prompt)
        return rendered

    @property
    def tokenizer_name(self) -> str:
        return str(self.inner.tokenizer_name)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        rendered: str | None = self.inner.chat_template(chat_template)
        return rendered

    @property
    def device(self) -> Any:
        return getattr(self.inner, "device", None)

    def __getattr__(self, name: str) -> Any:
        # What else lm_eval asks of an LM it knows: batch_sizes, the tokenizer, the length of its context.
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)
