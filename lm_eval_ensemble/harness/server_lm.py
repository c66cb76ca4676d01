"""``--model local-completions-scored``: stock ``local-completions`` that also keeps the log-probabilities its server sends.

It asks an OpenAI-compatible server (vLLM, SGLang, llama.cpp, TGI, OpenAI) for ``logprobs`` with every generation. What they
are is the server's decision: vLLM's are raw, before penalties and temperature, unless it was started with another
``logprobs_mode``.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.models.openai_completions import LocalCompletionsAPI

from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.harness.base import alone, own_cache
from lm_eval_ensemble.harness.ranks import Ranked
from lm_eval_ensemble.harness.recorder import Detail
from lm_eval_ensemble.types import Candidate

__all__ = ["ScoredCompletions", "read_choice"]

logger = logging.getLogger(__name__)


class ScoredCompletions(Ranked, LocalCompletionsAPI):  # type: ignore[misc]
    """Takes all arguments of ``local-completions``, and ``record=topk:K``: entropy of the K best tokens, and the margin."""

    def __init__(self, name: str = "local-completions-scored", record: str | None = None, **arguments: Any) -> None:
        self.name = name
        self.detail = Detail.parse(record)
        if record is not None and (self.detail is None or self.detail.top is None):
            raise ConfigError(f"$.{name}.record: got {record!r}, expected topk:K (a server sends its best tokens, not all).")
        self._stops: set[str] = set()
        self._told = False
        super().__init__(**arguments)
        self.join("cpu")  # the server computes; each process asks it for its share of the documents

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The answers as ``Completion``."""
        found: list[str] = super().generate_until(requests, disable_tqdm=disable_tqdm or self._rank > 0)
        return found

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        own_cache(
            cache_hook, {"model": "local-completions-scored", "at": self.base_url, "asked": self.model, "record": self.detail}
        )
        super().set_cache_hook(cache_hook)

    def _create_payload(self, *arguments: Any, generate: bool = False, **options: Any) -> dict[str, Any]:
        payload: dict[str, Any] = super()._create_payload(*arguments, generate=generate, **options)
        if generate:
            payload["logprobs"] = max(self.detail.top or 1, 2) if self.detail else 1
            self._stops.update(payload.get("stop") or ())
        return payload

    def parse_generations(self, outputs: Any, **options: Any) -> list[str | None]:
        """The answers as ``Completion``, in the order of the prompts."""
        answers: list[str | None] = []
        for output in outputs if isinstance(outputs, list) else [outputs]:
            for choice in sorted(output["choices"], key=lambda choice: int(choice["index"])):
                if choice["text"] is None:
                    answers.append(None)
                    continue
                candidate = read_choice(self.name, choice, self._stops - {self.eos_string}, self.detail)
                if candidate.logprobs is None and not self._told:
                    self._told = True
                    logger.warning(
                        "%s: the server at %s sends no logprobs; there will be accuracy only.", self.name, self.base_url
                    )
                answers.append(alone(candidate))
        return answers


def read_choice(name: str, choice: Mapping[str, Any], stops: set[str], detail: Detail | None = None) -> Candidate:
    """One choice of a completions response as a candidate.

    Servers list the tokens up to the end of the text (OpenAI) or also those of the stop (vLLM); they say what stopped the
    answer (vLLM) or only that something did. Where neither the reason nor the tokens of the stop are sent, a stop string is
    assumed if one was asked for.

    :param stops: the stop strings that were asked for.
    """
    text, listed = str(choice["text"]), choice.get("logprobs") or {}
    tokens, values = list(listed.get("tokens") or ()), list(listed.get("token_logprobs") or ())
    if not tokens or len(tokens) != len(values):
        known = {"stop": "length"} if choice.get("finish_reason") == "length" else {}
        empty = () if listed and not text else None
        return Candidate(name, text, text, logprobs=empty, info={"source": "server", **known})
    starts = _starts(tokens, listed.get("text_offset"))
    ended = choice.get("finish_reason") == "length"
    kept = len(tokens) if ended else sum(start < len(text) for start in starts)
    pieces = [text[a:b] for a, b in zip(starts[:kept], [*starts[1:kept], len(text)], strict=True)] if kept else []
    joined, rest = "".join(tokens[:kept]), "".join(tokens[kept:])
    straddle = not ended and joined.startswith(text) and len(joined) > len(text)
    stop = "length" if ended else _stop_kind(choice, joined[len(text) :] + rest if straddle else rest, stops)
    info: dict[str, Any] = {"stop": stop, "straddle": straddle, "source": "server"}
    if values[kept:] and not straddle and not ended:
        info["stop_logprob"] = math.fsum(values[kept:])
    if detail is not None and listed.get("top_logprobs"):
        info |= _detail(listed["top_logprobs"][:kept], detail)
    return Candidate(name, text, text, logprobs=tuple(values[:kept]), tokens=tuple(pieces), info=info)


def _starts(tokens: Sequence[str], offsets: Sequence[int] | None) -> list[int]:
    """Where each token begins in the text. Some servers count from the beginning of the prompt."""
    if offsets and len(offsets) == len(tokens):
        return [int(offset) - int(offsets[0]) for offset in offsets]
    return list(itertools.accumulate(map(len, tokens[:-1]), initial=0))


def _stop_kind(choice: Mapping[str, Any], rest: str, stops: set[str]) -> str:
    if "stop_reason" in choice:
        return "stop_string" if choice["stop_reason"] in stops else "stop_token"
    if rest:
        return "stop_string" if any(stop in rest or rest in stop for stop in stops) else "stop_token"
    return "stop_string" if stops else "stop_token"


def _detail(tops: Sequence[Mapping[str, float] | None], detail: Detail) -> dict[str, Any]:
    """Entropy of the K best tokens (a lower bound: not renormalised) and margin, per token of the answer."""
    entropy, margin = [], []
    for top in tops:
        best = sorted((top or {}).values(), reverse=True)
        entropy.append(-math.fsum(math.exp(p) * p for p in best[: detail.top]))
        margin.append(math.exp(best[0]) - (math.exp(best[1]) if len(best) > 1 else 0.0) if best else None)
    return {"entropy": entropy, "margin": margin, "entropy_kind": detail.kind}
