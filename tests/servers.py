"""A small OpenAI-compatible completions server around a checkpoint, on loopback: what tests of API models talk to.

::

    with CompletionsServer(folder) as server:
        lm = LocalCompletionsAPI(base_url=server.url, ...)

``POST /v1/completions`` reads ``prompt`` (a text, a list of texts, token ids, or a list of lists of them), ``max_tokens``,
``temperature``, ``stop``, ``logprobs``, ``echo``, ``seed`` and ``n``. ``GET /v1/models`` names the model.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from lm_eval_ensemble.harness.beginnings import cache_name

__all__ = ["CompletionsServer"]


@dataclass
class _Generated:
    """Tokens with their log-probabilities (nats, untempered), the alternatives, and why it ended."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    tops: list[dict[str, float] | None] = field(default_factory=list)
    text: str = ""
    finish: str = "length"
    stopped_by: str | None = None


class CompletionsServer:
    """Serves one checkpoint until the ``with`` block is left.

    :param style: ``vllm`` lists the tokens of the stop (or end of text) among the log-probabilities and names what stopped the
        answer (``stop_reason``); ``openai`` does neither.
    :param failures: the first so many requests are answered with status 500.
    :param port: 0 takes a free one.
    """

    def __init__(self, folder: str | Path, *, style: str = "vllm", failures: int = 0, port: int = 0) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.style, self.failures = style, failures
        #: so many bytes are missing at the end of every body.
        self.torn = 0
        #: the bodies of all requests, in the order they came.
        self.payloads: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        server = self

        class Handler(_Handler):
            owner = server

        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def url(self) -> str:
        """What ``base_url`` of ``local-completions`` takes."""
        return f"{self.root}/v1/completions"

    def __enter__(self) -> CompletionsServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, payload: dict[str, Any]) -> dict[str, Any]:
        """The body of the response to one request."""
        with self._lock:
            self.payloads.append(payload)
            choices: list[dict[str, Any]] = []
            for number, ids in enumerate(self._prompts(payload["prompt"])):
                for sample in range(int(payload.get("n") or 1)):
                    choices.append(self._choice(ids, payload, len(choices), (number, sample)))
            return {"id": "cmpl-0", "object": "text_completion", "model": payload.get("model"), "choices": choices}

    def _prompts(self, prompt: Any) -> list[list[int]]:
        if isinstance(prompt, str):
            prompt = [prompt]
        if prompt and isinstance(prompt[0], int):
            prompt = [prompt]
        return [p if isinstance(p, list) else self.tokenizer(p)["input_ids"] for p in prompt]

    def _choice(self, prompt: list[int], payload: dict[str, Any], index: int, stream: tuple[int, int]) -> dict[str, Any]:
        found = self._generate(prompt, payload, stream)
        wanted, echo = payload.get("logprobs"), bool(payload.get("echo"))
        known = found if self.style == "vllm" else self._within_text(found)
        logprobs = None
        if wanted is not None:
            head = self._scored_prompt(prompt, int(wanted)) if echo else _Generated()
            ids = [*head.ids, *known.ids]
            tokens = [self.tokenizer.decode([i]) for i in ids]
            starts = [sum(map(len, tokens[:i])) for i in range(len(tokens))]
            logprobs = {
                "tokens": tokens,
                "token_logprobs": [*head.logprobs, *known.logprobs],
                "top_logprobs": [*head.tops, *known.tops] if int(wanted) else None,
                "text_offset": starts,
            }
        text = (self.tokenizer.decode(prompt) if echo else "") + found.text
        reason = {"stop_reason": found.stopped_by} if self.style == "vllm" else {}
        return {"index": index, "text": text, "finish_reason": found.finish, "logprobs": logprobs, **reason}

    def _within_text(self, found: _Generated) -> _Generated:
        """Only the tokens that begin inside the text, as OpenAI lists them."""
        count = next(
            (n for n in range(len(found.ids)) if len(self.tokenizer.decode(found.ids[:n])) >= len(found.text)), len(found.ids)
        )
        return _Generated(found.ids[:count], found.logprobs[:count], found.tops[:count])

    @torch.no_grad()
    def _generate(self, prompt: list[int], payload: dict[str, Any], stream: tuple[int, int]) -> _Generated:
        stops = payload.get("stop") or []
        stops = [stops] if isinstance(stops, str) else stops
        temperature = float(payload.get("temperature", 1.0))
        seed = hash((payload.get("seed") or 0, *stream)) % 2**31
        generator = torch.Generator().manual_seed(seed)
        found, ids = _Generated(), torch.tensor([prompt])
        lent = {str(cache_name(self.model)): DynamicCache(config=self.model.config)}
        for _ in range(int(payload.get("max_tokens", 16))):
            logits = self.model(input_ids=ids, use_cache=True, **lent).logits[0, -1].double()
            if temperature > 0:
                token = int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))
            else:
                token = int(logits.argmax())
            self._note(found, token, logits.log_softmax(-1), int(payload.get("logprobs") or 0))
            if token == self.tokenizer.eos_token_id:
                found.finish = "stop"
                return found
            found.text = self.tokenizer.decode(found.ids)
            ends = [(found.text.find(stop), stop) for stop in stops if stop in found.text]
            if ends:
                end, found.stopped_by = min(ends)
                found.text, found.finish = found.text[:end], "stop"
                return found
            ids = torch.tensor([[token]])
        return found

    @torch.no_grad()
    def _scored_prompt(self, prompt: list[int], wanted: int) -> _Generated:
        found = _Generated([prompt[0]], [None], [None])
        rows = self.model(input_ids=torch.tensor([prompt])).logits[0].double().log_softmax(-1)
        for i, token in enumerate(prompt[1:]):
            self._note(found, token, rows[i], wanted)
        return found

    def _note(self, found: _Generated, token: int, logprobs: torch.Tensor, wanted: int) -> None:
        found.ids.append(token)
        found.logprobs.append(float(logprobs[token]))
        best, ids = logprobs.topk(min(wanted, len(logprobs)))
        alternatives = {self.tokenizer.decode([i]): p for i, p in zip(ids.tolist(), best.tolist(), strict=True)}
        found.tops.append({**alternatives, self.tokenizer.decode([token]): float(logprobs[token])})


class _Handler(BaseHTTPRequestHandler):
    owner: CompletionsServer

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._send(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})
        else:
            self._send(404, {"error": {"message": f"no such page: {self.path}"}})

    def do_POST(self) -> None:
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/completions":
            self._send(404, {"error": {"message": f"no such page: {self.path}"}})
        elif self.owner.failures > 0:
            self.owner.failures -= 1
            self._send(500, {"error": {"message": "asked to fail"}})
        else:
            self._send(200, self.owner.answer(payload))

    def _send(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        content = content[: len(content) - self.owner.torn]
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Silence: the tests' output is not a server log."""
