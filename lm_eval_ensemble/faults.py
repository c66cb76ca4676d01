"""What is wrong with settings, as sentences: one line per fault, with the path as it was typed."""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from lm_eval_ensemble.errors import did_you_mean

__all__ = ["faults_of", "step"]


def faults_of(
    kind: type[BaseModel], values: Mapping[str, Any], where: str, renamed: Mapping[str, str] | None = None
) -> Iterator[str]:
    """One line per fault. ``renamed`` gives the path of settings that were typed elsewhere."""
    try:
        kind.model_validate(dict(values))
    except ValidationError as error:
        for fault in error.errors():
            if fault["type"] == "too_short" and fault["input"]:
                continue  # the rows it misses are those with faults of their own
            first, *rest = fault["loc"]
            start = (renamed or {}).get(str(first)) or where + step(first)
            path = start + "".join(map(step, rest))
            yield _fault(kind, path, fault)


def step(part: int | str) -> str:
    """A part of a path; names that would be misread are quoted."""
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if re.fullmatch(r"[\w.\[\]-]+", part) else f"[{json.dumps(part)}]"


def _fault(kind: type[BaseModel], path: str, fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        owner, name = _innermost(kind, fault["loc"][:-1]), str(fault["loc"][-1])
        if name in (elsewhere := getattr(owner, "elsewhere", {})):
            return f"{path}: not a setting here: {elsewhere[name]}"
        return f"{path}: not a setting here.{did_you_mean(name, owner.model_fields)}"
    if fault["type"] == "missing":
        return f"{path}: missing, expected a value."
    found = repr(fault["input"])
    found = found if len(found) <= 80 else f"{found[:77]}..."
    return f"{path}: got {found}, expected {_expected(fault)}"


#: what a value of another type should have been, by the first word of pydantic's name for the fault.
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "bool": "true or false",
    "string": "text",
    "dict": "a mapping of names to values",
    "model": "a mapping of names to values",
    "tuple": "a list",
}
_LIMITS = {"greater_than_equal": ">= {ge}", "greater_than": "> {gt}", "less_than_equal": "<= {le}", "less_than": "< {lt}"}


def _expected(fault: Any) -> str:
    kind, context = fault["type"], fault.get("ctx") or {}
    if kind in _LIMITS:
        return _LIMITS[kind].format(**{name: f"{value:g}" for name, value in context.items()})
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        return f"text that matches {context['pattern']}"
    if kind == "too_short":
        return f"at least {context['min_length']}"
    return _TYPES.get(kind.partition("_")[0]) or str(fault["msg"])


def _innermost(kind: type[BaseModel], path: Iterable[int | str]) -> type[BaseModel]:
    """The model that the value at ``path`` should be."""
    for part in path:
        if isinstance(part, str) and part in kind.model_fields:
            kind = next(_models(kind.model_fields[part].annotation), kind)
    return kind


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models(inner)
