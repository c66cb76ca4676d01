"""Which documents two runs have in common."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval_ensemble.report.columns import Columns

__all__ = ["Pairing", "pair", "shared"]

_NAMED = 10


@dataclass(frozen=True)
class Pairing:
    """``first[i]`` and ``second[i]`` are the places of the same document. The rest has no partner: ``only_first`` and
    ``only_second`` by number, ``changed`` where both runs have a document of that number, but not the same one."""

    first: list[int]
    second: list[int]
    only_first: list[Any]
    only_second: list[Any]
    changed: list[Any]

    @property
    def complete(self) -> bool:
        """Whether both runs answered the same documents."""
        return not (self.only_first or self.only_second or self.changed)

    def explain(self, first: str, second: str) -> str:
        """What differs, in words."""
        parts = [
            f"{len(ids)} {what} (doc_id {_named(ids)})"
            for ids, what in (
                (self.changed, "of the same number have another content"),
                (self.only_first, f"only in {first}"),
                (self.only_second, f"only in {second}"),
            )
            if ids
        ]
        return "; ".join(parts)


def pair(first: Columns, second: Columns) -> Pairing:
    """The documents of both, matched by content, whatever the order of the files and the numbers in them."""
    ours, theirs = _keys([first, second])
    if ours == theirs:
        return Pairing(list(range(len(ours))), list(range(len(ours))), [], [], [])
    there = {key: i for i, key in enumerate(theirs)}
    here = set(ours)
    matched = [(i, there[key]) for i, key in enumerate(ours) if key in there]
    left = [first.ids[i] for i, key in enumerate(ours) if key not in there]
    right = [second.ids[i] for i, key in enumerate(theirs) if key not in here]
    both = set(left) & set(right)
    return Pairing(
        [i for i, _ in matched],
        [j for _, j in matched],
        [number for number in left if number not in both],
        [number for number in right if number not in both],
        [number for number in left if number in both],
    )


def shared(runs: Sequence[Columns]) -> list[list[int]]:
    """Per run the places of the documents that all runs have, in the same order for all."""
    keys = _keys(runs)
    common = set(keys[0]).intersection(*keys[1:])
    order = [key for key in keys[0] if key in common]
    places = [{key: i for i, key in enumerate(own)} for own in keys]
    return [[own[key] for key in order] for own in places]


def _keys(runs: Sequence[Columns]) -> list[list[Hashable]]:
    """By content where every run tells it, else by number."""
    hashed = not any(None in run.hashes for run in runs)
    return [run.keys if hashed else run.numbers for run in runs]


def _named(ids: Sequence[Any]) -> str:
    return ", ".join(map(str, ids[:_NAMED])) + (", ..." if len(ids) > _NAMED else "")
