"""Reading given tokens with an autoregressive model: their log-probabilities, batched, nothing computed twice.

Rows are padded on the left, so that the tokens to score are the last columns of all of them and only those columns pass
the LM head. Candidates of one gap share their prompt, which is then read once and its keys and values lent to all of them.

Letters: B = rows, T = tokens, V = vocabulary.
"""

from __future__ import annotations

import inspect
import logging
from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lm_eval_ensemble.batching import Batcher
from lm_eval_ensemble.scoring.base import Span
from lm_eval_ensemble.tokens import pack

__all__ = ["SpanReader", "cache_name", "pad_left"]

logger = logging.getLogger(__name__)
#: What the argument for keys and values is called: from transformers 5.24 on, and before it (taken until 5.40).
_CACHE_NAMES = ("cache", "past_key_values")


@dataclass(frozen=True)
class _Group:
    """Spans that share a prompt, and their numbers."""

    numbers: list[int]
    spans: list[Span]

    @property
    def prompt(self) -> Sequence[int]:
        return self.spans[0].ids[: self.spans[0].start]

    @property
    def rests(self) -> list[Sequence[int]]:
        """What follows the prompt in each."""
        return [span.ids[span.start :] for span in self.spans]

    @property
    def length(self) -> int:
        return max(len(span.ids) for span in self.spans)


class SpanReader:
    """Reads spans with one model.

    ``obstacle`` says why a prompt that several spans have in common cannot be read once for all of them; None: it can. The
    first call of ``read`` that would have gained by it says so in the log: the numbers are the same, the time is not.

    :param share: False: read every span by itself all the same.
    """

    def __init__(self, model: Any, pad_id: int, device: Any, share: bool = True) -> None:
        self.model, self.pad_id, self.device = model, pad_id, device
        self._selects = "logits_to_keep" in _parameters(model)
        self._cache_name = cache_name(model)
        self.obstacle = _obstacle(model, self._cache_name)
        self.share = share and self.obstacle is None
        self._told = not share

    @torch.no_grad()
    def read(self, spans: Sequence[Span], batcher: Batcher, *, title: str = "", quiet: bool = False) -> list[array[float]]:
        """Log-probability (nats, untempered, float32) of each token ``ids[start:]`` given all before it."""
        shared = [group for group in _grouped(spans) if len(group.numbers) > 1]
        if shared and not self.share:
            self._tell(len(shared))
            shared = []
        grouped = {number for group in shared for number in group.numbers}
        apart = [number for number in range(len(spans)) if number not in grouped]
        single = batcher.run([spans[i] for i in apart], lambda s: len(s.ids), self._read, title=title, quiet=quiet)
        found = dict(zip(apart, single, strict=True))
        lists = batcher.run(
            shared,
            lambda group: group.length,
            lambda batch: self._read_groups(batch, batcher.size),
            title=title,
            quiet=quiet,
        )
        for group, rows in zip(shared, lists, strict=True):
            found.update(zip(group.numbers, rows, strict=True))
        return [found[i] for i in range(len(spans))]

    def _tell(self, prompts: int) -> None:
        if not self._told:
            self._told = True
            logger.warning(
                "%s: %s. A prompt that candidates have in common is read once for each of them (%d such prompts here): scoring "
                "takes longer, its numbers are the same.",
                _inner(self.model).__class__.__name__,
                self.obstacle,
                prompts,
            )

    def _read(self, spans: Sequence[Span]) -> list[array[float]]:
        sizes = [len(span.ids) - span.start for span in spans]
        count = max(sizes)
        ids, mask = pad_left([span.ids for span in spans], self.pad_id, self.device)
        # Token i is predicted by the logits of column i-1.
        logits = self._forward(ids, mask, count + 1)[:, :-1]
        return [_pick(row[count - n :], span.ids[-n:]) for row, span, n in zip(logits, spans, sizes, strict=True)]

    def _read_groups(self, groups: Sequence[_Group], size: int) -> list[list[array[float]]]:
        """Prompts first; then what follows them, ``size`` rows at a time (the LM head is what fills the memory)."""
        ids, mask = pad_left([group.prompt for group in groups], self.pad_id, self.device)
        cache = DynamicCache(config=self.model.config)
        first = self._forward(ids, mask, 1, cache)[:, -1]
        owners = [g for g, group in enumerate(groups) for _ in group.spans]
        rests = [rest for group in groups for rest in group.rests]
        order = sorted(range(len(rests)), key=lambda i: (-len(rests[i]), i))
        found: dict[int, array[float]] = {}
        for at in range(0, len(order), size):
            chosen = order[at : at + size]
            rows = torch.tensor([owners[i] for i in chosen], device=ids.device)
            logits = self._continue([rests[i] for i in chosen], cache, mask, rows)
            for row, i in enumerate(chosen):
                n = len(rests[i])
                # The first token is predicted by the prompt's last column, which every row of the gap shares.
                found[i] = _pick(first[owners[i]][None], rests[i][:1])
                if n > 1:
                    found[i] += _pick(logits[row, : n - 1], rests[i][1:])
        flat = iter(found[i] for i in range(len(rests)))
        return [[next(flat) for _ in group.spans] for group in groups]

    def _continue(self, rests: Sequence[Sequence[int]], cache: Any, mask: Tensor, rows: Tensor) -> Tensor:
        """Logits ``(B, T, V)`` after each token of the rests but their last, padded on the right."""
        width = max(len(rest) for rest in rests) - 1
        if not width:
            return torch.empty(len(rests), 0, 0)
        ids = torch.full((len(rests), width), self.pad_id)
        fresh = torch.zeros_like(ids)
        for row, rest in enumerate(rests):
            ids[row, : len(rest) - 1] = torch.tensor(list(rest[:-1]))
            fresh[row, : len(rest) - 1] = 1
        lent = _lend(cache, rows)
        whole = torch.cat([mask[rows], fresh.to(self.device)], 1)
        return self._forward(ids.to(self.device), whole, width, lent)

    def _forward(self, ids: Tensor, mask: Tensor, keep: int, cache: Any = None) -> Tensor:
        """Logits of the last ``keep`` columns."""
        positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        extra: dict[str, Any] = {"logits_to_keep": keep} if self._selects else {}
        if cache is not None and self._cache_name is not None:
            extra[self._cache_name] = cache
        output = self.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=cache is not None, **extra)
        logits: Tensor = output.logits[:, -keep:]
        return logits


def _grouped(spans: Sequence[Span]) -> list[_Group]:
    groups: dict[bytes, _Group] = {}
    for number, span in enumerate(spans):
        group = groups.setdefault(pack(span.ids[: span.start]).tobytes(), _Group([], []))
        group.numbers.append(number)
        group.spans.append(span)
    return list(groups.values())


def _pick(logits: Tensor, ids: Sequence[int]) -> array[float]:
    """Log-probabilities of ``ids`` ``(T,)`` under ``logits`` ``(T, V)``; no softmax over the vocabulary is stored."""
    rows = logits.float().contiguous()
    target = torch.tensor(list(ids), device=rows.device)
    chosen = rows.gather(-1, target[:, None])[:, 0] - rows.logsumexp(-1)
    return array("f", chosen.tolist())


def _lend(cache: Any, rows: Tensor) -> Any:
    """A copy of the cache with these rows of it, in this order."""
    lent = DynamicCache()
    for index, layer in enumerate(cache.layers):
        lent.update(layer.keys[rows], layer.values[rows], index)
    return lent


def _inner(model: Any) -> Any:
    """The model under an adapter, whose own ``forward`` names no arguments."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _parameters(model: Any) -> Collection[str]:
    return inspect.signature(_inner(model).forward).parameters.keys()


def cache_name(model: Any) -> str | None:
    """The argument of ``forward`` that takes keys and values; None if the model takes none."""
    taken = _parameters(model)
    return next((name for name in _CACHE_NAMES if name in taken), None)


def _obstacle(model: Any, argument: str | None) -> str | None:
    """Why keys and values of a prompt cannot be lent; None where they are all that the model remembers, for every token."""
    if getattr(model, "_is_stateful", False):
        return "it keeps a recurrent state"
    if argument is None:
        return f"its forward takes no cache (looked for {' and '.join(_CACHE_NAMES)})"
    others = {type(layer).__name__ for layer in DynamicCache(config=model.config).layers if type(layer) is not DynamicLayer}
    return f"its cache has layers that forget ({', '.join(sorted(others))})" if others else None


def pad_left(rows: Sequence[Sequence[int]], pad_id: int, device: Any) -> tuple[Tensor, Tensor]:
    """Rows of ids as one left-padded ``(B, T)`` tensor, and the mask ``(B, T)`` of what is no padding."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        if row:
            ids[i, width - len(row) :] = torch.tensor(list(row), dtype=torch.long)
            mask[i, width - len(row) :] = 1
    return ids.to(device), mask.to(device)
