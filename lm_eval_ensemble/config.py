"""Settings, parsed once and strictly: unknown names are errors, and all faults come in one message.

``--model_args`` gives flat names; they are spread over the members here (``steps`` goes to the diffusion members,
``temperature`` to all). After this module there are no dictionaries of settings, only frozen models.
"""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lm_eval_ensemble.errors import ConfigError, did_you_mean

__all__ = [
    "DIFFUSION",
    "SCORED",
    "Decoding",
    "DiffusionConfig",
    "EnsembleConfig",
    "HostDecoding",
    "MemberConfig",
    "ScoredConfig",
    "asset_path",
    "parse_settings",
    "preset_names",
    "preset_settings",
]

#: registered names of our two kinds of member.
DIFFUSION, SCORED = "diffusion-infill", "hf-scored"

_FOLDER = Path(__file__).parent
_DTYPES = ("auto", "bfloat16", "float16", "float32", "float64")
Settings = TypeVar("Settings", bound=BaseModel)


def _batch_size(value: Any) -> Any:
    if value is None or re.fullmatch(r"auto(:[0-9]+)?|0*[1-9][0-9]*", str(value)):
        return value
    raise ValueError("a whole number >= 1, or auto")


_LENGTHS = ("oracle", "ar", "ar:K", "fixed:N", "fixed-mean", "search", "grid", "grid:A+B+C")
_N = "0*[1-9][0-9]*"


def _length(value: Any) -> Any:
    if value is None or re.fullmatch(
        rf"oracle|ar(:[0-9]+)?|fixed:{_N}|fixed-mean|search|grid(:(ar|{_N})([,+](ar|{_N}))+)?", str(value)
    ):
        return value
    raise ValueError(f"a length policy, its numbers >= 1 (K >= 0).{did_you_mean(str(value), _LENGTHS)}")


def _likelihood(value: Any) -> Any:
    if re.fullmatch(r"chain|elbo:0*([2-9]|[1-9][0-9]+)", str(value)):
        return value
    raise ValueError(f"chain, or elbo:K with K >= 2 samples.{did_you_mean(str(value), ['chain', 'elbo:K'])}")


def _dtype(value: Any) -> Any:
    name = str(value).removeprefix("torch.")
    if value is None or name in _DTYPES:
        return None if value is None else name
    raise ValueError(f"a torch dtype.{did_you_mean(name, _DTYPES)}")


BatchSize = Annotated[int | str | None, BeforeValidator(_batch_size)]
Dtype = Annotated[str | None, BeforeValidator(_dtype)]
Positive = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Decoding(Strict):
    """How a member draws tokens. None leaves it to ``--gen_kwargs``, then to the task."""

    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_new_tokens: Positive | None = None
    greedy: bool = False
    seed: int | None = None


class HostDecoding(BaseModel):
    """What of ``--gen_kwargs`` and the task's ``generation_kwargs`` concerns us; stock models know more names."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    do_sample: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_gen_toks: Positive | None = None
    max_new_tokens: Positive | None = None
    until: Annotated[tuple[str, ...] | None, BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)] = None


class DiffusionConfig(Decoding):
    """Arguments of ``diffusion-infill``."""

    pretrained: str
    length: Annotated[str | None, BeforeValidator(_length)] = None
    length_bias: str | None = None
    likelihood: Annotated[str, BeforeValidator(_likelihood)] = "chain"
    steps: Annotated[int, Field(ge=1, le=4096)] = 64
    max_length: Annotated[int, Field(ge=8)] | None = None
    dtype: Dtype = None
    device: str | None = None
    revision: str = "main"
    trust_remote_code: bool = False
    attn_implementation: str | None = None
    mask_token: str | None = None
    shift: bool = True
    batch_size: BatchSize = 1
    max_batch_size: Positive | None = None


class ScoredConfig(Decoding):
    """The arguments of ``hf-scored`` that are checked here; the others are those of ``hf``."""

    pretrained: str
    max_length: Annotated[int, Field(ge=8)] | None = None
    dtype: Dtype = None
    device: str | None = None
    trust_remote_code: bool = False
    batch_size: BatchSize = 1
    max_batch_size: Positive | None = None


class MemberConfig(Strict):
    """One member: ``model`` is a registered lm_eval model, ``args`` are its arguments."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    model: str
    args: dict[str, Any] = Field(default_factory=dict)


class EnsembleConfig(Strict):
    """Arguments of ``ensemble-ppl``, members spread out."""

    members: Annotated[tuple[MemberConfig, ...], Field(min_length=1)]
    score: str | None = None
    selector: str = "argmin"
    prefer: str | None = None
    samples: Positive = 1
    seed: int | None = None
    batch_size: BatchSize = 1
    max_batch_size: Positive | None = None
    device: str | None = None
    preset: str | None = None
    pretrained: str | None = None

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any], faults: Iterable[str] = ()) -> EnsembleConfig:
        """From flat ``--model_args``: the preset first, then what was said explicitly.

        :param faults: what the caller has found wrong already; it is reported with the rest.
        :raises ConfigError: names every fault, one a line, before any model is loaded.
        """
        given = {name: value for name, value in arguments.items() if name not in _SPREAD}
        flat = {name: value for name, value in arguments.items() if name in _SPREAD}
        found = [*faults]
        known = {*cls.model_fields, *_SPREAD}
        for name in [name for name in given if name not in known]:
            del given[name]
            found.append(f"${_step(name)}: not a setting of ensemble-ppl.{did_you_mean(name, known)}")
        given = _with_preset(given, found)
        members = given["members"]
        if isinstance(members, list | tuple):
            given["members"] = [_spread_over(member, flat) for member in members]
            for index, member in enumerate(given["members"]):
                found.extend(_argument_faults(index, member, flat))
            found.extend(_name_faults(given["members"], given.get("prefer")))
        found.extend(_faults(cls, given, "$"))
        if found:
            raise ConfigError("\n".join(dict.fromkeys(found)))
        return cls.model_validate(given)


#: flat setting -> (the members it goes to, its name there). None: all of our members.
_SPREAD: dict[str, tuple[str | None, str]] = {
    "dllm": (DIFFUSION, "pretrained"),
    "fim": (SCORED, "pretrained"),
    "length": (DIFFUSION, "length"),
    "length_bias": (DIFFUSION, "length_bias"),
    "steps": (DIFFUSION, "steps"),
    "temperature": (None, "temperature"),
    "top_p": (None, "top_p"),
    "max_new_tokens": (None, "max_new_tokens"),
    "greedy": (None, "greedy"),
    "dtype": (None, "dtype"),
    "max_length": (None, "max_length"),
    "trust_remote_code": (None, "trust_remote_code"),
}


def _with_preset(given: dict[str, Any], found: list[str]) -> dict[str, Any]:
    """The settings with the members of the preset where none were given; what is wrong is added to ``found``."""
    if given.get("members"):
        if given.get("preset"):
            found.append("$.preset and $.members: both were given; give one.")
        return given
    try:
        base = preset_settings(given.get("preset") or "paper")
    except ConfigError as error:
        # Whom prefer= could name is unknown then; the other settings are still checked.
        found.append(str(error))
        base = preset_settings("paper")
        given = {name: value for name, value in given.items() if name not in ("preset", "prefer")}
    return {**base, **given, "members": base["members"]}


def _spread_over(member: Any, flat: Mapping[str, Any]) -> Any:
    """The member with the flat settings that concern it; a member of another shape is left for validation."""
    if not isinstance(member, Mapping) or not isinstance(member.get("args") or {}, Mapping):
        return member
    return {**member, "args": {**(member.get("args") or {}), **{_SPREAD[n][1]: flat[n] for n in _concerning(member, flat)}}}


def _concerning(member: Mapping[str, Any], flat: Mapping[str, Any]) -> list[str]:
    kind = member.get("model")
    return [name for name in flat if kind in ((_SPREAD[name][0],) if _SPREAD[name][0] else (DIFFUSION, SCORED))]


def _argument_faults(index: int, member: Any, flat: Mapping[str, Any]) -> list[str]:
    """What is wrong with the arguments of a member of our kinds, by the name under which the user gave them."""
    if not isinstance(member, Mapping) or not isinstance(member.get("args") or {}, Mapping):
        return []
    model = member.get("model")
    if model not in (DIFFUSION, SCORED):
        return []
    where, args = f"$.members[{index}].args", dict(member.get("args") or {})
    kind: type[BaseModel] = DiffusionConfig if model == DIFFUSION else ScoredConfig
    found = []
    if preset := args.pop("preset", None):
        try:
            args = {**preset_settings(preset, model, where), **args}
        except ConfigError as error:
            found.append(str(error))
            args = {"pretrained": "", **args}
    if kind is ScoredConfig:  # the others are for `hf` to check
        args = {name: value for name, value in args.items() if name in kind.model_fields}
    renamed = {_SPREAD[name][1]: f"$.{name}" for name in _concerning(member, flat)}
    return [*found, *_faults(kind, args, where, renamed)]


def _name_faults(members: Iterable[Any], prefer: Any) -> Iterator[str]:
    found = {
        index: str(member["name"]) for index, member in enumerate(members) if isinstance(member, Mapping) and "name" in member
    }
    names = list(found.values())
    if len(set(names)) != len(names):
        yield f"$.members: member names must differ, got {', '.join(names)}."
    for index, name in found.items():
        # exact_match_<member> must not be another row: exact_match_oracle, exact_match_first_line, ..._first_line_<other>.
        if name in ("oracle", "floor") or name.startswith("first_line"):
            yield f"$.members[{index}].name: {name} is the name of a table row; choose another member name."
    if isinstance(prefer, str) and prefer not in names:
        yield f"$.prefer: {prefer!r} is not a member.{did_you_mean(prefer, names)}"


def parse_settings(kind: type[Settings], values: Mapping[str, Any], where: str = "$") -> Settings:
    """Validate ``values``; every fault stands in one ``ConfigError``, with its path."""
    if faults := list(_faults(kind, values, where)):
        raise ConfigError("\n".join(faults))
    return kind.model_validate(dict(values))


def _faults(
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
            start = (renamed or {}).get(str(first)) or where + _step(first)
            path = start + "".join(map(_step, rest))
            yield _fault(kind, path, fault)


def _step(part: int | str) -> str:
    """A part of a path; names that would be misread are quoted."""
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if re.fullmatch(r"[\w.\[\]-]+", part) else f"[{json.dumps(part)}]"


def _fault(kind: type[BaseModel], path: str, fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        known = _innermost(kind, fault["loc"][:-1]).model_fields
        return f"{path}: not a setting here.{did_you_mean(str(fault['loc'][-1]), known)}"
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


def preset_names() -> list[str]:
    return sorted(path.stem for path in (_FOLDER / "presets").glob("*.yaml"))


def preset_settings(name: str, model: str | None = None, where: str = "$") -> dict[str, Any]:
    """Settings of a preset, or the arguments of its first member of kind ``model``.

    :raises ConfigError: unknown preset.
    """
    if name not in preset_names():
        raise ConfigError(f"{where}.preset: {name!r} is not a preset.{did_you_mean(str(name), preset_names())}")
    settings: dict[str, Any] = yaml.safe_load((_FOLDER / "presets" / f"{name}.yaml").read_text(encoding="utf-8"))
    if model is None:
        return {**settings, "preset": name}
    for member in settings["members"]:
        if member["model"] == model:
            args: dict[str, Any] = member["args"]
            return args
    raise ConfigError(f"{where}.preset: preset {name!r} has no member of kind {model!r}.")


def asset_path(pretrained: str) -> str:
    """``asset:tiny/fim`` as a folder of this package; anything else unchanged."""
    return str(_FOLDER / "assets" / pretrained.removeprefix("asset:")) if pretrained.startswith("asset:") else pretrained
