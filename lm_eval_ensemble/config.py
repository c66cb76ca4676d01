"""Settings, parsed once and strictly: unknown names are errors, and all faults come in one message.

``--model_args`` gives flat names; they are spread over the members here (``steps`` goes to the diffusion members,
``temperature`` to all). After this module there are no dictionaries of settings, only frozen models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lm_eval_ensemble.errors import ConfigError, did_you_mean

__all__ = [
    "DIFFUSION",
    "SCORED",
    "Decoding",
    "DiffusionConfig",
    "EnsembleConfig",
    "MemberConfig",
    "asset_path",
    "parse_settings",
    "preset_names",
    "preset_settings",
]

#: registered names of our two kinds of member.
DIFFUSION, SCORED = "diffusion-infill", "hf-scored"

_FOLDER = Path(__file__).parent
Settings = TypeVar("Settings", bound=BaseModel)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Decoding(Strict):
    """How a member draws tokens. None leaves it to ``--gen_kwargs``, then to the task."""

    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    greedy: bool = False
    seed: int | None = None


class DiffusionConfig(Decoding):
    """Arguments of ``diffusion-infill``."""

    pretrained: str
    length: str | None = None
    steps: Annotated[int, Field(ge=1, le=4096)] = 64
    max_length: Annotated[int, Field(ge=8)] | None = None
    dtype: str | None = None
    device: str | None = None
    revision: str = "main"
    trust_remote_code: bool = False
    attn_implementation: str | None = None
    mask_token: str | None = None
    shift: bool = True
    batch_size: int | str | None = 1
    max_batch_size: int | None = None

    @field_validator("length")
    @classmethod
    def _known_length(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"oracle|ar|fixed:[1-9]\d*", value):
            hint = did_you_mean(value, ["oracle", "ar", "fixed:N"])
            raise ValueError(f"length={value!r} is not a length policy.{hint} N is at least 1.")
        return value


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
    samples: Annotated[int, Field(ge=1)] = 1
    seed: int | None = None
    batch_size: int | str | None = 1
    max_batch_size: int | None = None
    device: str | None = None
    preset: str | None = None
    pretrained: str | None = None

    @model_validator(mode="after")
    def _names(self) -> EnsembleConfig:
        names = [member.name for member in self.members]
        if len(set(names)) != len(names):
            raise ValueError(f"member names must differ, got {', '.join(names)}")
        reserved = {"oracle", "floor"} & set(names)
        if reserved:
            raise ValueError(f"{', '.join(sorted(reserved))} is the name of a table row; choose another member name")
        if self.prefer is not None and self.prefer not in names:
            raise ValueError(f"prefer={self.prefer!r} is not a member.{did_you_mean(self.prefer, names)}")
        return self

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> EnsembleConfig:
        """From flat ``--model_args``: the preset first, then what was said explicitly.

        :raises ConfigError: names every fault.
        """
        given = dict(arguments)
        spread = {name: given.pop(name) for name in _SPREAD if name in given}
        known = [*cls.model_fields, *_SPREAD]
        unknown = [
            f"$.{name}: not a setting of ensemble-ppl.{did_you_mean(name, known)}" for name in given if name not in known
        ]
        if unknown:
            raise ConfigError("\n".join(unknown))
        if given.get("members") and given.get("preset"):
            raise ConfigError("$.preset and $.members: both were given; give one.")
        if not given.get("members"):
            base = preset_settings(given.get("preset") or "paper")
            given = {**base, **given, "members": base["members"]}
        members = [_spread_over(member, spread) for member in _as_list(given["members"])]
        return parse_settings(cls, {**given, "members": members})


#: flat setting -> (the members it goes to, its name there). None: all of our members.
_SPREAD: dict[str, tuple[str | None, str]] = {
    "dllm": (DIFFUSION, "pretrained"),
    "fim": (SCORED, "pretrained"),
    "length": (DIFFUSION, "length"),
    "steps": (DIFFUSION, "steps"),
    "temperature": (None, "temperature"),
    "top_p": (None, "top_p"),
    "max_new_tokens": (None, "max_new_tokens"),
    "greedy": (None, "greedy"),
    "dtype": (None, "dtype"),
    "max_length": (None, "max_length"),
    "trust_remote_code": (None, "trust_remote_code"),
}


def _spread_over(member: Any, spread: Mapping[str, Any]) -> Any:
    """The member with the flat settings that concern it; anything that is no mapping is left for validation."""
    if not isinstance(member, Mapping):
        return member
    args = dict(member.get("args") or {})
    for name, value in spread.items():
        kind, target = _SPREAD[name]
        if member.get("model") in ((kind,) if kind else (DIFFUSION, SCORED)):
            args[target] = value
    return {**member, "args": args}


def _as_list(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"$.members: got {type(value).__name__}, expected a list of {{name, model, args}}.")
    return list(value)


def parse_settings(kind: type[Settings], values: Mapping[str, Any], where: str = "$") -> Settings:
    """Validate ``values``; every fault stands in one ``ConfigError``, with its path."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        lines = [_fault(kind, where, fault) for fault in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def _fault(kind: type[BaseModel], where: str, fault: Any) -> str:
    path = where + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{path}: not a setting here.{did_you_mean(str(fault['loc'][-1]), kind.model_fields)}"
    if fault["type"] == "missing":
        return f"{path}: missing, expected a value."
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if fault["type"] == "value_error":
        return f"{path}: {message}"
    return f"{path}: got {fault['input']!r}, expected {message}"


def preset_names() -> list[str]:
    return sorted(path.stem for path in (_FOLDER / "presets").glob("*.yaml"))


def preset_settings(name: str, model: str | None = None) -> dict[str, Any]:
    """Settings of a preset, or the arguments of its first member of kind ``model``.

    :raises ConfigError: unknown preset.
    """
    if name not in preset_names():
        raise ConfigError(f"$.preset: {name!r} is not a preset.{did_you_mean(name, preset_names())}")
    settings: dict[str, Any] = yaml.safe_load((_FOLDER / "presets" / f"{name}.yaml").read_text(encoding="utf-8"))
    if model is None:
        return {**settings, "preset": name}
    for member in settings["members"]:
        if member["model"] == model:
            args: dict[str, Any] = member["args"]
            return args
    raise ConfigError(f"$.preset: preset {name!r} has no member of kind {model!r}.")


def asset_path(pretrained: str) -> str:
    """``asset:tiny/fim`` as a folder of this package; anything else unchanged."""
    return str(_FOLDER / "assets" / pretrained.removeprefix("asset:")) if pretrained.startswith("asset:") else pretrained
