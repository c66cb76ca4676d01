"""Reading given tokens with an autoregressive model: their log-probabilities, batched, nothing computed twice.

Rows are padded on the left, so that the tokens to score are the last columns of all of them and only those columns pass
the LM head. Candidates of one gap share their prompt, which is then read once and its keys and values lent to all of them; a
prompt that the model answered itself is not read again (``prompts``).

Letters: B = rows, T = tokens, V = vocabulary.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from lm_eval_ensemble.batching import Batcher
from lm_eval_ensemble.harness.beginnings import APART, Beginning, Lender, find_beginnings
from lm_eval_ensemble.harness.prompts import PromptMemory
from lm_eval_ensemble.scoring.base import Span
from lm_eval_ensemble.tokens import pack

__all__ = ["SpanReader", "pad_left"]

logger = logging.getLogger(__name__)


@dataclass
class _Group:
    """Spans that share a prompt, their numbers, and what the prompt has in common with other prompts."""

    numbers: list[int]
    spans: list[Span]
    beginning: Beginning = APART

    @property
    def prompt(self) -> Sequence[int]:
        return self.spans[0].ids[: self.spans[0].start]

    @property
    def rests(self) -> list[Sequence[int]]:
        """What follows the prompt in each."""
        return [span.ids[span.start :] for span in self.spans]


class SpanReader:
    """Reads spans with one model.

    ``obstacle`` says why a prompt that several spans have in common cannot be read once for all of them; None: it can. The
    first call of ``read`` that would have gained by it says so in the log: the numbers are the same, the time is not.

    :param share: False: read every span by itself all the same.
    """

    def __init__(self, model: Any, pad_id: int, device: Any, share: bool = True) -> None:
        self.model, self.pad_id, self.device = model, pad_id, device
        self.lender = Lender(model, device)
        self.memory = PromptMemory(self.lender, self._read_prompts)
        self.share = share and self.obstacle is None
        self._told = not share

    @property
    def obstacle(self) -> str | None:
        return self.lender.obstacle

    @torch.no_grad()
    def read(self, spans: Sequence[Span], batcher: Batcher, *, title: str = "", quiet: bool = False) -> list[array[float]]:
        """Log-probability (nats, untempered, float32) of each token ``ids[start:]`` given all before it."""
        groups = _grouped(spans)
        for group, beginning in zip(groups, find_beginnings([group.prompt for group in groups]), strict=True):
            group.beginning = beginning
        if not self.share:
            if several := sum(len(group.numbers) > 1 or group.beginning.length > 0 for group in groups):
                self._tell(several)
            groups = [_Group([n], [span]) for g in groups for n, span in zip(g.numbers, g.spans, strict=True)]
        found: dict[int, array[float]] = {}
        known = [group for group in groups if group.prompt in self.memory]
        others = [group for group in groups if group.prompt not in self.memory]
        alone, shared = ([group for group in others if (len(group.numbers) > 1) == many] for many in (False, True))

        def together(batch: Sequence[_Group]) -> list[list[array[float]]]:
            return self._read_groups(batch, batcher.size)

        def met(group: _Group) -> int:
            return -self.memory.place(group.prompt)

        for part, place, work in ((known, met, together), (alone, _place, self._read), (shared, _place, together)):
            rows = batcher.run(part, place, work, title=title, quiet=quiet)
            for group, logprobs in zip(part, rows, strict=True):
                found.update(zip(group.numbers, logprobs, strict=True))
        return [found[i] for i in range(len(spans))]

    def _tell(self, prompts: int) -> None:
        if not self._told:
            self._told = True
            logger.warning(
                "%s: %s. What prompts have in common is read again for each of them (%d such prompts here): scoring takes "
                "longer, its numbers are the same.",
                self.lender.kind,
                self.obstacle,
                prompts,
            )

    def _read(self, groups: Sequence[_Group]) -> list[list[array[float]]]:
        """Groups of one span each."""
        spans = [group.spans[0] for group in groups]
        sizes = [len(span.ids) - span.start for span in spans]
        count = max(sizes)
        ids, mask = pad_left([span.ids for span in spans], self.pad_id, self.device)
        lent = self._begin(groups, [len(span.ids) for span in spans], count + 1)
        # Token i is predicted by the logits of column i-1.
        logits = self._forward(ids, mask, count + 1, lent)[:, :-1]
        return [[_pick(row[count - n :], span.ids[-n:])] for row, span, n in zip(logits, spans, sizes, strict=True)]

    def _read_groups(self, groups: Sequence[_Group], size: int) -> list[list[array[float]]]:
        """Prompts first; then what follows them, ``size`` rows at a time (the LM head is what fills the memory)."""
        prompts = [group.prompt for group in groups]
        if prompts[0] in self.memory:
            cache = self.memory.gather(prompts)
        else:
            cache = self._begin(groups, [len(prompt) for prompt in prompts]) or self.lender.fresh()
            self._read_prompts(prompts, cache)
        _, mask = pad_left(prompts, self.pad_id, self.device)
        owners = [g for g, group in enumerate(groups) for _ in group.spans]
        rests = [[group.prompt[-1], *rest] for group in groups for rest in group.rests]
        order = sorted(range(len(rests)), key=lambda i: (-len(rests[i]), i))
        found: dict[int, array[float]] = {}
        for at in range(0, len(order), size):
            chosen = order[at : at + size]
            rows = torch.tensor([owners[i] for i in chosen], device=mask.device)
            logits = self._continue([rests[i] for i in chosen], cache, mask, rows)
            for row, i in enumerate(chosen):
                found[i] = _pick(logits[row, : len(rests[i]) - 1], rests[i][1:])
        flat = iter(found[i] for i in range(len(rests)))
        return [[next(flat) for _ in group.spans] for group in groups]

    def _read_prompts(self, prompts: Sequence[Sequence[int]], cache: Any) -> None:
        ids, mask = pad_left(prompts, self.pad_id, self.device)
        self._forward(ids, mask, 1, cache)

    def _begin(self, groups: Sequence[_Group], lengths: Sequence[int], least: int = 1) -> Any:
        return self.lender.lend([group.beginning for group in groups], lengths, least)

    def _continue(self, rests: Sequence[Sequence[int]], cache: Any, mask: Tensor, rows: Tensor) -> Tensor:
        """Logits ``(B, T, V)`` after each token of the rests but their last, padded on the right. A rest begins with the last
        token of its prompt, whose column of the cache, if it is there, is left out."""
        width, columns = max(len(rest) for rest in rests) - 1, mask.shape[1] - 1
        ids = torch.full((len(rests), width), self.pad_id)
        fresh = torch.zeros_like(ids)
        for row, rest in enumerate(rests):
            ids[row, : len(rest) - 1] = torch.tensor(list(rest[:-1]))
            fresh[row, : len(rest) - 1] = 1
        lent = DynamicCache()
        for index, layer in enumerate(cache.layers):
            lent.update(layer.keys[rows, :, :columns], layer.values[rows, :, :columns], index)
        whole = torch.cat([mask[rows, :columns], fresh.to(self.device)], 1)
        return self._forward(ids.to(self.device), whole, width, lent)

    def _forward(self, ids: Tensor, mask: Tensor, keep: int, cache: Any = None) -> Tensor:
        """Logits of the last ``keep`` columns; those that the cache holds already are not computed again."""
        new = ids[:, cache.get_seq_length() :] if cache is not None and mask.shape[1] == ids.shape[1] else ids
        positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, -new.shape[1] :]
        output = self.model(
            input_ids=new,
            attention_mask=mask,
            position_ids=positions,
            use_cache=cache is not None,
            **self.lender.keep(keep),
            **self.lender.named(cache),
        )
        logits: Tensor = output.logits[:, -keep:]
        return logits


def _place(group: _Group) -> int:
    """Where a group stands among the batches: beside those it has a beginning in common with, the others by length."""
    return group.beginning.rank or max(len(span.ids) for span in group.spans)


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
