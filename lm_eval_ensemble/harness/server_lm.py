"""``--model local-completions-scored``: stock ``local-completions`` that also keeps the log-probabilities its server sends.

It asks an OpenAI-compatible server (vLLM, SGLang, llama.cpp, TGI, OpenAI) for ``logprobs`` with every generation. What they
are is the server's decision: vLLM's are raw, before penalties and temperature, unless it was started with another
``logprobs_mode``.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.models.openai_completions import LocalCompletionsAPI

from lm_eval_ensemble.errors import ConfigError, HostError
from lm_eval_ensemble.harness.base import alone, own_cache
from lm_eval_ensemble.harness.ranks import OneOfSeveral
from lm_eval_ensemble.harness.recorder import Detail
from lm_eval_ensemble.harness.servers import ADVICE, as_lists, echo_checked, server_faults
from lm_eval_ensemble.types import Candidate, unbroken

__all__ = ["ScoredCompletions", "read_choice"]

logger = logging.getLogger(__name__)


class ScoredCompletions(OneOfSeveral, LocalCompletionsAPI):  # type: ignore[misc]
    """Takes all arguments of ``local-completions``, and ``record=topk:K``: entropy of the K best tokens, and the margin."""

    def __init__(self, name: str = "local-completions-scored", record: str | None = None, **arguments: Any) -> None:
        self.name = name
        self.detail = Detail.parse(record)
        if record is not None and (self.detail is None or self.detail.top is None):
            raise ConfigError(f"$.{name}.record: got {record!r}, expected topk:K (a server sends its best tokens, not all).")
        self._stops: set[str] = set()
        self._told = False
        super().__init__(**arguments)
        self.parse_logprobs = echo_checked(LocalCompletionsAPI.parse_logprobs, self.base_url)
        self.join("cpu")  # the server computes; each process asks it for its share of the documents

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The answers as ``Completion``."""
        with server_faults(self.name, self.base_url):
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

    # lm_eval calls these two again, up to max_retries times, when they raise.

    def model_call(self, messages: Any, *, generate: bool = True, **options: Any) -> Any:
        found = super().model_call(messages, generate=generate, **options)
        if generate:
            self._check_count(sum(len(choices) for choices in self._choices(found)), messages)
        return found

    async def amodel_call(self, session: Any, sem: Any, messages: Any, *, generate: bool = True, **options: Any) -> Any:
        found = await super().amodel_call(session, sem, messages, generate=generate, **options)
        if generate:
            self._check_count(len(found), messages)
        return found

    def _check_count(self, count: int, messages: Sequence[Any]) -> None:
        if count != len(messages):
            # lm_eval would give answers to the wrong documents, or fail an assertion at the end.
            raise HostError(f"{self.base_url}: {count} answers to {len(messages)} prompts; expected one each.")

    def _choices(self, outputs: Any) -> Iterator[list[Mapping[str, Any]]]:
        """The choices of each response, in the order of the prompts.

        :raises HostError: it is no response of a completions server.
        """
        for output in outputs if isinstance(outputs, list) else [outputs]:
            try:
                found = sorted(output["choices"], key=lambda choice: int(choice["index"]))
                if not all(choice["text"] is None or isinstance(choice["text"], str) for choice in found):
                    raise TypeError("text")
            except (KeyError, TypeError, ValueError):
                shown = json.dumps(output, default=str)[:200]
                raise HostError(
                    f"{self.base_url}: found {shown}; expected the response of an OpenAI-compatible completions server "
                    "('choices' with 'index' and 'text')."
                ) from None
            yield found

    def parse_generations(self, outputs: Any, **options: Any) -> list[str | None]:
        """The answers as ``Completion``, in the order of the prompts."""
        answers: list[str | None] = []
        for choices in self._choices(outputs):
            for choice in choices:
                if choice["text"] is None:
                    answers.append(None)
                    continue
                candidate = read_choice(self.name, choice, self._stops - {self.eos_string}, self.detail)
                if candidate.logprobs is None and not self._told:
                    self._told = True
                    logger.warning(
                        "%s: the server at %s sends no logprobs (or none that belong to the text) with some answers; for "
                        "these there will be accuracy only. %s Else --model hf-scored loads the model itself.",
                        self.name,
                        self.base_url,
                        ADVICE,
                    )
                answers.append(alone(candidate))
        return answers


def read_choice(name: str, choice: Mapping[str, Any], stops: set[str], detail: Detail | None = None) -> Candidate:
    """One choice of a completions response as a candidate.

    Servers list the tokens up to the end of the text (OpenAI) or also those of the stop (vLLM); they say what stopped the
    answer (vLLM) or only that something did. Where neither the reason nor the tokens of the stop are sent, a stop string is
    assumed if one was asked for.

    Log-probabilities are left out where one of the answer's is missing or infinite, or where nobody can tell which tokens
    belong to the text.

    :param stops: the stop strings that were asked for.
    """
    text, listed = unbroken(choice["text"]), as_lists(choice.get("logprobs") or {})
    tokens, values = [unbroken(str(token)) for token in listed.get("tokens") or ()], list(listed.get("token_logprobs") or ())
    ended = choice.get("finish_reason") == "length"
    starts = _starts(tokens, listed.get("text_offset"), text)
    kept = len(tokens) if ended else sum(start < len(text) for start in starts or ())
    unknown = starts is None or not all(value is not None and math.isfinite(value) for value in values[:kept])
    if not tokens or len(tokens) != len(values) or unknown:
        known = {"stop": "length"} if choice.get("finish_reason") == "length" else {}
        empty = () if listed and not text else None
        return Candidate(name, text, text, logprobs=empty, info={"source": "server", **known})
    assert starts is not None
    pieces = [text[a:b] for a, b in zip(starts[:kept], [*starts[1:kept], len(text)], strict=True)] if kept else []
    rest = "".join(tokens[kept:])
    # What the last token holds beyond the text.
    over = tokens[kept - 1][len(pieces[-1]) :] if kept and tokens[kept - 1].startswith(pieces[-1]) else ""
    straddle = not ended and bool(over)
    stop = "length" if ended else _stop_kind(choice, over + rest if straddle else rest, stops)
    info: dict[str, Any] = {"stop": stop, "straddle": straddle, "source": "server"}
    told = all(value is not None and math.isfinite(value) for value in values[kept:])
    if values[kept:] and told and not straddle and not ended:
        info["stop_logprob"] = math.fsum(values[kept:])
    if detail is not None and listed.get("top_logprobs"):
        info |= _detail(listed["top_logprobs"][:kept], detail)
    return Candidate(name, text, text, logprobs=tuple(values[:kept]), tokens=tuple(pieces), info=info)


def _starts(tokens: Sequence[str], offsets: Sequence[int] | None, text: str) -> list[int] | None:
    """Where each token begins in the text; at its end where it comes after it. None if the tokens are not those of the text.

    Offsets (some servers count from the beginning of the prompt) are believed where they say more than the tokens do: many
    servers add up the lengths of tokens, of which a part of a character counts as a whole one (U+FFFD).
    """
    summed = list(itertools.accumulate(map(len, tokens[:-1]), initial=0))
    if offsets and len(offsets) == len(tokens):
        given = [int(offset) - int(offsets[0]) for offset in offsets]
        if given != summed:
            return given if given == sorted(given) else None
    joined = "".join(tokens)
    return summed if joined.startswith(text) or text.startswith(joined) else _aligned(tokens, text)


def _aligned(tokens: Sequence[str], text: str) -> list[int] | None:
    """The same for tokens that hold parts of characters: what lies between two whole tokens belongs to the parts."""
    starts, place, parts = [], 0, False
    for token in tokens:
        if "\ufffd" in token:
            starts.append(place)
            parts = True
            continue
        found = text.find(token, place) if parts else place
        rest = text[place:]
        if parts and found < 0:
            found = len(text)  # the parts reach to the end, this is the stop
        elif not text.startswith(token, found) and not (rest and token.startswith(rest)) and rest:
            return None
        starts.append(found)
        place, parts = min(found + len(token), len(text)), False
    return starts


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
