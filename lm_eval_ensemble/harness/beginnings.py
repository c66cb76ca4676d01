"""Prompts that begin alike are read once, and what the model remembers of the beginning is lent to all of them.

The gaps of one program, questions behind the same examples and samples of one prompt have most of their tokens in common. One
row of each such group is the *trunk*: its common part is read by itself, which depends on the whole set of prompts and on no
batch, so that a resumed run reads the same. Rows of a batch are padded on the left as ever; the trunk's keys and values then
stand where the first columns of the batch would have been computed, so masks and positions are those of a batch without it.

Letters: B = rows, H = heads, C = lent columns, D = size of a head.
"""

from __future__ import annotations

import inspect
from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lm_eval_ensemble.tokens import pack

__all__ = ["APART", "Beginning", "Lender", "cache_name", "find_beginnings", "learns_prompts"]

#: What the argument for keys and values is called: from transformers 5.24 on, and before it (taken until 5.40).
_CACHE_NAMES = ("cache", "past_key_values")
#: fewer common tokens than this are not worth a forward of their own.
_LEAST = 16
#: kinds of rotary positions whose angles depend on the length of what is read at once.
_BY_LENGTH = ("dynamic", "longrope")


@dataclass(frozen=True, slots=True)
class Beginning:
    """``length`` tokens at the beginning of a row are those of ``trunk``; ``rank`` orders rows so that those with a trunk in
    common stand together (the highest first)."""

    trunk: array[int]
    length: int
    rank: int = 0


#: of a row that has nothing in common with another.
APART = Beginning(array("i"), 0)


def find_beginnings(rows: Sequence[Sequence[int]]) -> list[Beginning]:
    """What each row has in common with others.

    Groups are found in lexicographic order, where rows that begin alike are neighbours. Of a group the trunk is the row that
    shares most with all others, among three: for the lines of one program that is the one with the longest prefix.
    """
    ids = [np.asarray(row, dtype=np.int32) for row in rows]
    # Big-endian bytes of numbers from 0 on stand in the order of the numbers, in four bytes a token where a list takes forty.
    order = sorted(range(len(rows)), key=lambda i: ids[i].astype(">i4").tobytes())
    groups: list[list[int]] = []
    for before, i in zip([-1, *order], order, strict=False):
        alike = before >= 0 and _common(ids[before], ids[i]) >= max(_LEAST, min(len(ids[before]), len(ids[i])) // 4)
        if alike:
            groups[-1].append(i)
        else:
            groups.append([i])
    found = [(APART.trunk, 0)] * len(rows)
    for group in groups:
        if len(group) > 1:
            _fill(found, group, ids)
    shared: dict[bytes, int] = {}
    for i, (trunk, _) in enumerate(found):
        shared[trunk.tobytes()] = max(shared.get(trunk.tobytes(), 0), len(ids[i]))
    first = sorted(
        range(len(rows)),
        key=lambda i: (not found[i][1], -shared[found[i][0].tobytes()], found[i][0].tobytes(), -len(ids[i]), i),
    )
    ranks = {i: len(rows) - place for place, i in enumerate(first)}
    return [Beginning(trunk, length, ranks[i]) for i, (trunk, length) in enumerate(found)]


def _fill(found: list[tuple[array[int], int]], group: Sequence[int], ids: Sequence[Any]) -> None:
    """The trunk of a group, and how much of it each of its rows has. At least one token of a row is left to be read."""

    def common(trunk: int) -> dict[int, int]:
        lengths = {i: min(_common(ids[trunk], ids[i]), len(ids[i]) - 1) for i in group if i != trunk}
        return {**lengths, trunk: min(max(lengths.values()), len(ids[trunk]) - 1)}

    tried = [(trunk, common(trunk)) for trunk in (group[0], group[len(group) // 2], group[-1])]
    trunk, lengths = max(tried, key=lambda pair: sum(pair[1].values()))
    tokens = pack(ids[trunk][: max(lengths.values())].tolist())
    for i, length in lengths.items():
        if length >= _LEAST:
            found[i] = (tokens, length)


def _common(one: Any, other: Any) -> int:
    size = min(len(one), len(other))
    differ = np.flatnonzero(one[:size] != other[:size])
    return int(differ[0]) if len(differ) else size


class Lender:
    """Reads trunks with one model and lends them.

    ``obstacle`` says why keys and values of a prompt cannot be lent; None where they are all that the model remembers, for
    every token.
    """

    def __init__(self, model: Any, device: Any) -> None:
        self.model, self.device = model, device
        self.cache_name = cache_name(model)
        self.obstacle = _obstacle(model, self.cache_name)
        self._selects = "logits_to_keep" in _parameters(model)
        self._trunks: dict[bytes, Any] = {}

    @property
    def kind(self) -> str:
        """The model's class, under an adapter that of the model itself."""
        return type(_inner(self.model)).__name__

    def lend(self, beginnings: Sequence[Beginning], lengths: Sequence[int], least: int = 1) -> Any:
        """A cache of the first columns of a left-padded batch, each row's part of it from its trunk; None for nothing to lend.

        :param lengths: number of tokens of each row.
        :param least: how many of the last columns are to be computed at least.
        """
        rest = max(least, *(n - own.length for n, own in zip(lengths, beginnings, strict=True)))
        columns = max(lengths) - rest
        if self.obstacle is not None or columns < _LEAST:
            return None
        named = {own.trunk.tobytes(): own.trunk for own in beginnings if own.length}
        # Only the trunks of this batch stay: neighbours in the order of ranks share them.
        self._trunks = {name: self._trunks.get(name) or self._read(trunk) for name, trunk in named.items()}
        lent = DynamicCache()
        sources = [self._trunks.get(own.trunk.tobytes()) for own in beginnings]
        for index, layer in enumerate(next(source for source in sources if source is not None).layers):
            pair = []
            for part in ("keys", "values"):
                like = getattr(layer, part)
                block = like.new_zeros(len(lengths), like.shape[1], columns, like.shape[3])
                for row, (source, n) in enumerate(zip(sources, lengths, strict=True)):
                    if source is not None and n > rest:
                        block[row, :, columns - (n - rest) :] = getattr(source.layers[index], part)[0, :, : n - rest]
                pair.append(block)
            lent.update(*pair, index)
        return lent

    def trunk(self, beginning: Beginning) -> Any:
        """Keys and values of a trunk that was lent in the last batch; None if it was not."""
        return self._trunks.get(beginning.trunk.tobytes()) if beginning.length else None

    def fresh(self) -> Any:
        """An empty cache for this model."""
        return DynamicCache(config=self.model.config)

    def named(self, cache: Any) -> dict[str, Any]:
        """The cache under the name that the model's ``forward`` gives it; nothing for None."""
        return {} if cache is None or self.cache_name is None else {self.cache_name: cache}

    def keep(self, columns: int) -> dict[str, int]:
        """Asks for the logits of the last columns alone, where the model can be asked."""
        return {"logits_to_keep": columns} if self._selects else {}

    def _read(self, trunk: Sequence[int]) -> Any:
        cache = self.fresh()
        ids = torch.tensor([list(trunk)], device=self.device)
        self.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, **self.named(cache), **self.keep(1))
        return cache


def learns_prompts(model: Any) -> bool:
    """Whether an adapter puts learned tokens before every row, and before its padding (prompt and prefix tuning)."""
    return bool(getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False))


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
    if learns_prompts(model):
        return "its adapter puts tokens of its own before every prompt"
    if getattr(model, "_is_stateful", False):
        return "it keeps a recurrent state"
    if argument is None:
        return f"its forward takes no cache (looked for {' and '.join(_CACHE_NAMES)})"
    if any(kind in _BY_LENGTH for kind in _rotations(model.config)):
        return "its positions depend on the length of the text"
    others = {type(layer).__name__ for layer in DynamicCache(config=model.config).layers if type(layer) is not DynamicLayer}
    return f"its cache has layers that forget ({', '.join(sorted(others))})" if others else None


def _rotations(config: Any) -> Iterator[str]:
    """Kinds of rotary positions; a model may have one for each kind of its layers."""
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    for part in [found, *(value for value in found.values() if isinstance(value, dict))]:
        yield str(part.get("rope_type", part.get("type", "default")))
