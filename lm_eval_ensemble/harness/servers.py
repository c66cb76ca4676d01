"""What a server's failures look like to people, for all members that are servers."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lm_eval_ensemble.errors import HostError

__all__ = ["ADVICE", "as_lists", "echo_checked", "server_faults"]

#: the HTTP libraries of lm_eval's API models, known by name: lm_eval may be installed without them.
_LIBRARIES = ("requests", "aiohttp")
#: who sends log-probabilities of what it generates; more in docs/troubleshooting.md.
ADVICE = (
    "vLLM and SGLang send them by themselves, llama.cpp since December 2024, Ollama since 0.12.11; the completions of TGI have "
    "none (docs/troubleshooting.md, servers)."
)


@contextlib.contextmanager
def server_faults(name: str, url: str) -> Iterator[None]:
    """What is left of a server's failures when lm_eval has asked again often enough, as one message.

    :raises HostError: instead of the errors of the HTTP libraries.
    """
    try:
        yield
    except Exception as error:
        kind = type(error)
        if kind.__module__.partition(".")[0] not in _LIBRARIES and not isinstance(error, TimeoutError | json.JSONDecodeError):
            raise
        raise HostError(
            f"{name}: the server at {url} gave no usable response ({kind.__name__}: {str(error)[:200]}). Is it running, and is "
            "base_url that of its completions? max_retries= and timeout= make lm_eval more patient."
        ) from error


def as_lists(listed: Mapping[str, Any]) -> Mapping[str, Any]:
    """The ``logprobs`` of a choice as the lists of the completions API: ``tokens``, ``token_logprobs``, ``top_logprobs``.
    llama.cpp sends the form of the chat API instead, ``{"content": [{"token", "logprob", "top_logprobs"}]}``."""
    content = listed.get("content")
    if not isinstance(content, list) or "tokens" in listed:
        return listed
    entries = [entry for entry in content if isinstance(entry, dict) and "token" in entry]
    tops = [{str(top["token"]): top["logprob"] for top in entry.get("top_logprobs") or ()} for entry in entries]
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry.get("logprob") for entry in entries],
        "top_logprobs": tops if any(tops) else None,
    }


def echo_checked(parse: Callable[..., Any], url: str) -> Callable[..., Any]:
    """lm_eval's ``parse_logprobs`` of a completions server, refused where the server did not score the prompt: the sum over
    nothing would be a log-probability of 0.0 for every text.

    :raises HostError: by what it returns, if a response has no log-probability of a token of the text.
    """

    @functools.wraps(parse)
    def method(outputs: Any, tokens: Any = None, ctxlens: Any = None, **named: Any) -> Any:
        for output in outputs if isinstance(outputs, list) else [outputs]:
            for choice, context in zip(output.get("choices") or (), ctxlens or (), strict=False):
                values = (choice.get("logprobs") or {}).get("token_logprobs")
                if not isinstance(values, list) or len(values) <= context:
                    found = f"{len(values)} log-probabilities" if isinstance(values, list) else "no token_logprobs"
                    raise HostError(
                        f"{url}: {found} for a prompt of {context} tokens and the text behind it; expected one for each. This "
                        "server ignores echo, so it cannot say how likely a given text is. Serve the model with one that can "
                        "(vLLM, SGLang), load it by --model hf-scored, or keep the log-probabilities of what it generates: "
                        "--model local-completions-scored."
                    )
        return parse(outputs=outputs, tokens=tokens, ctxlens=ctxlens, **named)

    return method
