"""What a model read of its prompts while it wrote answers to them, kept for scoring the answers of others.

An autoregressive member has read the prompt of every gap by the time the texts of the other members are scored by it. Its keys
and values are kept as far as memory allows. A prompt that is not kept, or that was not read in this run because its answer came
from a store, is read again in the batch that it had: floats move by about 1e-6 with the shape of a batch, so only then does a
run that was killed and goes on give the same numbers.

Letters: B = rows, H = heads, D = size of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import DynamicCache

from lm_eval_ensemble.harness.beginnings import Beginning, Lender
from lm_eval_ensemble.tokens import pack

__all__ = ["PromptMemory", "Read"]

#: bytes that are kept at most: in 16 bits about 700,000 tokens of a model of 0.5 billion parameters, 140,000 of one of 7.
_MOST = 8 * 2**30
#: and not more than this part of what is free on the device.
_SHARE = 4

#: a prompt's ids, and what it has in common with others.
Read = tuple[Sequence[int], Beginning]


@dataclass(frozen=True, slots=True)
class _Row:
    """A prompt without its last token: ``lent`` tokens from the trunk, then ``layers`` of keys and values ``(H, T, D)``."""

    trunk: Any
    lent: int
    layers: Sequence[tuple[Tensor, Tensor]]

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        own = self.layers[index]
        if not self.lent:
            return own
        common = self.trunk.layers[index]
        return (
            torch.cat([common.keys[0, :, : self.lent], own[0]], 1),
            torch.cat([common.values[0, :, : self.lent], own[1]], 1),
        )


class PromptMemory:
    """The prompts of one round of answers.

    ``wanted`` turns it on: what nobody will score need not be kept.

    :param read: reads a batch of prompts from the first column on that its cache, which may be empty, does not hold.
    """

    wanted = False

    def __init__(self, lender: Lender, read: Callable[[Sequence[Sequence[int]], Any], None]) -> None:
        self._lender, self._read = lender, read
        self._batches: list[Sequence[Read]] = []
        self._places: dict[bytes, tuple[int, int, int]] = {}
        self._kept: dict[bytes, _Row] = {}
        self._trunks: dict[int, Any] = {}
        self._again: tuple[int, list[_Row]] = (-1, [])
        self._bytes = 0

    def __contains__(self, prompt: Sequence[int]) -> bool:
        return bool(self._places) and _name(prompt) in self._places

    def clear(self) -> None:
        """Free it all."""
        for held in (self._batches, self._places, self._kept, self._trunks):
            held.clear()
        self._again, self._bytes = (-1, []), 0

    def copy(self, batch: Sequence[Read], cache: Any, lent: int) -> dict[bytes, _Row]:
        """The prompts of a batch that no earlier batch had, as far as they fit; nothing where they do not.

        :param cache: keys and values of the batch's left-padded columns, at least all but the last.
        :param lent: how many of the columns came from trunks.
        """
        new = self._new(batch) if self.wanted else {}
        width = max(len(ids) for ids, _ in batch)
        columns = sum(width - 1 - max(width - len(batch[number][0]), lent) for number in new.values())
        needed = columns * sum(_size(part[0, :, 0]) for layer in cache.layers for part in (layer.keys, layer.values))
        if self._bytes + needed > min(_MOST, (_free(cache) + self._bytes) // _SHARE):
            return {}
        return {name: self._row_of(batch, number, cache, lent) for name, number in new.items()}

    def note(self, batch: Sequence[Read], copied: Mapping[bytes, _Row] | None = None) -> None:
        """A batch of prompts was answered.

        A prompt of several batches (samples, documents that repeat) belongs to the first, also where that one was not read: a
        run that goes on would otherwise score behind the reading of another batch.

        :param copied: what was copied of them.
        """
        if not self.wanted:
            return
        for name, number in self._new(batch).items():
            self._places[name] = (len(self._places), len(self._batches), number)
        self._batches.append(batch)
        for name, row in (copied or {}).items():
            self._kept[name] = row
            self._bytes += sum(_size(keys) + _size(values) for keys, values in row.layers)
            if row.lent and id(row.trunk) not in self._trunks:
                self._trunks[id(row.trunk)] = row.trunk
                self._bytes += sum(_size(layer.keys) + _size(layer.values) for layer in row.trunk.layers)

    def _new(self, batch: Sequence[Read]) -> dict[bytes, int]:
        """Prompts that no batch had yet, and the first row of each."""
        found: dict[bytes, int] = {}
        for number, (ids, _) in enumerate(batch):
            if (name := _name(ids)) not in self._places:
                found.setdefault(name, number)
        return found

    def place(self, prompt: Sequence[int]) -> int:
        """Where a prompt stands in the order of the batches."""
        return self._places[_name(prompt)][0]

    def gather(self, prompts: Sequence[Sequence[int]]) -> Any:
        """A cache of the prompts, padded on the left, all but their last tokens."""
        rows = [self._row(prompt) for prompt in prompts]
        width = max(len(prompt) for prompt in prompts) - 1
        gathered = DynamicCache()
        for index, (keys, values) in enumerate(rows[0].layers):
            blocks = [part.new_zeros(len(rows), part.shape[0], width, part.shape[2]) for part in (keys, values)]
            for number, row in enumerate(rows):
                for block, part in zip(blocks, row.layer(index), strict=True):
                    block[number, :, width - part.shape[1] :] = part
            gathered.update(*blocks, index)
        return gathered

    def _row(self, prompt: Sequence[int]) -> _Row:
        name = _name(prompt)
        if name in self._kept:
            return self._kept[name]
        _, number, row = self._places[name]
        if self._again[0] != number:
            self._again = (number, self._read_again(self._batches[number]))
        return self._again[1][row]

    def _read_again(self, batch: Sequence[Read]) -> list[_Row]:
        prompts = [ids for ids, _ in batch]
        cache = self._lender.lend([own for _, own in batch], list(map(len, prompts))) or self._lender.fresh()
        lent = cache.get_seq_length()
        self._read(prompts, cache)
        return [self._row_of(batch, number, cache, lent) for number in range(len(batch))]

    def _row_of(self, batch: Sequence[Read], number: int, cache: Any, lent: int) -> _Row:
        ids, own = batch[number]
        width = max(len(other) for other, _ in batch)
        pad = width - len(ids)
        part = slice(max(pad, lent), width - 1)
        layers = [(layer.keys[number, :, part].clone(), layer.values[number, :, part].clone()) for layer in cache.layers]
        shared = max(lent - pad, 0)
        return _Row(self._lender.trunk(own) if shared else None, shared, layers)


def _name(ids: Sequence[int]) -> bytes:
    return pack(ids).tobytes()


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _free(cache: Any) -> int:
    """Free bytes where the cache is."""
    device = cache.layers[0].keys.device
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
