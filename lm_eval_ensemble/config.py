"""Settings, parsed once and strictly: unknown names are errors, and all faults come in one message.

``--model_args`` gives flat names; they are spread over the members here (``steps`` goes to the diffusion members,
``temperature`` to all). After this module settings are frozen models; only the arguments of a member stay as they were given
(``MemberConfig.args``), checked: they are those of a constructor of lm_eval, which takes more names than are known here and
other values where none was given.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from lm_eval_ensemble.errors import ConfigError, did_you_mean
from lm_eval_ensemble.families import FAMILIES
from lm_eval_ensemble.faults import faults_of, step
from lm_eval_ensemble.values import (
    DECODERS,
    PROTOCOLS,
    BatchSize,
    Detail,
    Dtype,
    Length,
    Likelihood,
    Positive,
    Quantizable,
    Steps,
    StorePlace,
    one_of,
    takes_alg_temp,
)

__all__ = [
    "DIFFUSION",
    "ENSEMBLE",
    "REFINE",
    "SCORED",
    "Decoding",
    "DiffusionConfig",
    "EnsembleConfig",
    "HostDecoding",
    "MemberConfig",
    "RefineConfig",
    "ScoredConfig",
    "asset_path",
    "parse_settings",
    "preset_names",
    "preset_settings",
    "run_name",
    "with_preset",
]

#: registered names of our two kinds of member.
DIFFUSION, SCORED = "diffusion-infill", "hf-scored"
#: an ensemble may be a member of another; its members take their settings from its own arguments.
ENSEMBLE = "ensemble-ppl"
#: a member that corrects another's completion with a diffusion model of the same ensemble.
REFINE = "refine"

_FOLDER = Path(__file__).parent
Settings = TypeVar("Settings", bound=BaseModel)


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

    #: what only members of another kind take.
    elsewhere: ClassVar[Mapping[str, str]] = dict.fromkeys(
        Quantizable.model_fields, f"only {SCORED} members are quantised; take dtype=bfloat16 for a smaller model."
    )
    pretrained: str
    length: Length = None
    length_bias: str | None = None
    likelihood: Likelihood = "chain"
    steps: Steps = 64
    alg: Annotated[str, one_of(DECODERS)] = "p2"
    alg_temp: Annotated[float, Field(gt=0)] | None = None
    early_commit: Annotated[float, Field(gt=0, le=1)] | None = None
    protocol: Annotated[str | None, one_of(PROTOCOLS)] = None
    history: bool = False
    max_length: Annotated[int, Field(ge=8)] | None = None
    dtype: Dtype = None
    device: str | None = None
    device_map: str | dict[str, Any] | None = None
    revision: str = "main"
    trust_remote_code: bool = False
    attn_implementation: str | None = None
    family: Annotated[str | None, one_of(name for name, known in FAMILIES.items() if not known.blocks)] = None
    peft: str | None = None
    mask_token: str | int | None = None
    shift: bool | None = None
    batch_size: BatchSize = 1
    max_batch_size: Positive | None = None

    @field_validator("alg_temp")
    @classmethod
    def _has_a_meaning(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and (fault := takes_alg_temp(info.data.get("alg", ""))):
            raise ValueError(fault)
        return value


class ScoredConfig(Decoding, Quantizable):
    """The arguments of ``hf-scored`` that are checked here; the others are those of ``hf``."""

    pretrained: str
    layout: str | None = None
    max_length: Annotated[int, Field(ge=8)] | None = None
    dtype: Dtype = None
    device: str | None = None
    trust_remote_code: bool = False
    batch_size: BatchSize = 1
    max_batch_size: Positive | None = None
    record: Detail = None
    n_samples: Annotated[int, Field(ge=0)] = 0
    sample_temperature: Annotated[float, Field(gt=0, le=100)] = 1.0
    p_true: bool = False


class RefineConfig(Strict):
    """Arguments of a ``refine`` member. ``of`` names a diffusion-infill member (or scorer), whose weights it shares;
    ``fraction`` and ``threshold`` (nats) say which tokens are written anew, ``by`` how their likelihood is found: ``pseudo``
    (each given all others, n forwards) or ``onepass`` (all masked, one forward). ``steps``: None takes those of ``of``."""

    of: str
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.3
    threshold: Annotated[float, Field(ge=0)] = 1.0
    by: Literal["pseudo", "onepass"] = "pseudo"
    steps: Steps | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0


class MemberConfig(Strict):
    """One member: ``model`` is a registered lm_eval model, ``args`` are its arguments. ``gen_kwargs`` are generation
    settings of its own, over those of lm_eval; for members that are not of our kinds, which take theirs as ``args``."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    model: str
    args: dict[str, Any] = Field(default_factory=dict)
    gen_kwargs: dict[str, Any] = Field(default_factory=dict)


class EnsembleConfig(Strict):
    """Arguments of ``ensemble-ppl``, members spread out."""

    members: Annotated[tuple[MemberConfig, ...], Field(min_length=1)]
    score: str | None = None
    selector: str = "argmin"
    selector_file: str | None = None
    route: str | None = None
    prefer: str | None = None
    samples: Positive = 1
    store: StorePlace = None
    load: Literal["together", "one-at-a-time"] = "together"
    seed: int | None = None
    scorers: tuple[MemberConfig, ...] = ()
    extra_scores: str = ""
    record: Annotated[str | None, Field(pattern=r"^token_scores$")] = None
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
            found.append(f"${step(name)}: not a setting of ensemble-ppl.{did_you_mean(name, known)}")
        given = _with_preset(given, flat, found)
        members = given["members"]
        if isinstance(members, list | tuple):
            given["members"] = [_spread_over(member, flat) for member in members]
            for index, member in enumerate(given["members"]):
                found.extend(_argument_faults(index, member, flat))
            found.extend(_unquantised_faults(given["members"], flat))
            found.extend(_name_faults(given["members"], given.get("prefer")))
            found.extend(_scorer_faults(given["members"], given.get("scorers")))
            found.extend(_refine_faults(given["members"], given.get("scorers")))
        found.extend(faults_of(cls, given, "$"))
        if found:
            raise ConfigError("\n".join(dict.fromkeys(found)))
        return cls.model_validate(given)


#: flat setting -> (the members it goes to, its name there). None: all of our members.
_SPREAD: dict[str, tuple[str | None, str]] = {
    "dllm": (DIFFUSION, "pretrained"),
    "fim": (SCORED, "pretrained"),
    "layout": (SCORED, "layout"),
    "length": (DIFFUSION, "length"),
    "length_bias": (DIFFUSION, "length_bias"),
    "steps": (DIFFUSION, "steps"),
    "alg": (DIFFUSION, "alg"),
    "alg_temp": (DIFFUSION, "alg_temp"),
    "early_commit": (DIFFUSION, "early_commit"),
    "protocol": (DIFFUSION, "protocol"),
    "family": (DIFFUSION, "family"),
    "shift": (DIFFUSION, "shift"),
    "mask_token": (DIFFUSION, "mask_token"),
    "temperature": (None, "temperature"),
    "top_p": (None, "top_p"),
    "max_new_tokens": (None, "max_new_tokens"),
    "greedy": (None, "greedy"),
    "dtype": (None, "dtype"),
    "max_length": (None, "max_length"),
    "trust_remote_code": (None, "trust_remote_code"),
    **{name: (SCORED, name) for name in Quantizable.model_fields},
}


def _with_preset(given: dict[str, Any], flat: Mapping[str, Any], found: list[str]) -> dict[str, Any]:
    """The settings with the members of the preset where none were given; what is wrong is added to ``found``. ``dllm=`` and
    ``fim=`` without a preset are members of these names, with no settings but their own."""
    if given.get("members"):
        if given.get("preset"):
            found.append("$.preset and $.members: both were given; give one.")
        return given
    own = [name for name in ("dllm", "fim") if name in flat]
    if own and not given.get("preset"):
        if len(own) == 1:
            other = "fim" if own == ["dllm"] else "dllm"
            found.append(
                f"$.{other}: missing beside {own[0]}=; expected the other model too (or a preset, whose partner is taken)."
            )
        members = [{"name": name, "model": _SPREAD[name][0], "args": {"pretrained": ""}} for name in ("dllm", "fim")]
        return {"prefer": "fim", **given, "members": members}
    try:
        base = preset_settings(given.get("preset") or "paper")
    except ConfigError as error:
        # Whom prefer= could name is unknown then; the other settings are still checked.
        found.append(str(error))
        base = preset_settings("paper")
        given = {name: value for name, value in given.items() if name not in ("preset", "prefer")}
    # The window is that of the preset's checkpoint: 384 tokens of the tiny pair would cut the prompts of any other.
    for name in own:
        for member in base["members"]:
            if member["model"] == _SPREAD[name][0]:
                member["args"].pop("max_length", None)
    if "fim" in flat:  # a member that is another model than the preset's does not bear its name
        renamed = {member["name"]: "fim" for member in base["members"] if member["model"] == SCORED}
        members = [{**member, "name": renamed.get(member["name"], member["name"])} for member in base["members"]]
        base = {**base, "members": members, "prefer": renamed.get(base["prefer"], base["prefer"])}
    return {**base, **given, "members": base["members"]}


def _spread_over(member: Any, flat: Mapping[str, Any]) -> Any:
    """The member with the flat settings that concern it; a member of another shape is left for validation."""
    if not isinstance(member, Mapping) or not isinstance(member.get("args") or {}, Mapping):
        return member
    if member.get("model") not in (DIFFUSION, SCORED, ENSEMBLE, REFINE) and isinstance(member.get("gen_kwargs") or {}, Mapping):
        return {**member, "gen_kwargs": {**(member.get("gen_kwargs") or {}), **_as_gen_kwargs(flat)}}
    own, spread = dict(member.get("args") or {}), {_SPREAD[n][1]: flat[n] for n in _concerning(member, flat)}
    if member["model"] in (DIFFUSION, SCORED):
        with contextlib.suppress(ConfigError):  # what is wrong with its preset is told with its other faults
            own = with_preset(own, member["model"])
            if "pretrained" in spread and "max_length" not in (member.get("args") or {}):
                own.pop("max_length", None)  # as in _with_preset
    # A protocol comes before the preset, and what is said explicitly before both.
    own |= PROTOCOLS.get(str(spread.get("protocol")), {})
    return {**member, "args": {**own, **spread}}


def _as_gen_kwargs(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The decoding settings as other LMs know them."""
    found = {name: flat[name] for name in ("temperature", "top_p") if name in flat}
    if "max_new_tokens" in flat:
        found["max_gen_toks"] = flat["max_new_tokens"]
    if flat.get("greedy") is True:
        found["temperature"] = 0.0
    return found


def _concerning(member: Mapping[str, Any], flat: Mapping[str, Any]) -> list[str]:
    kind = member.get("model")
    return [name for name in flat if kind in ((_SPREAD[name][0],) if _SPREAD[name][0] else (DIFFUSION, SCORED))]


def _argument_faults(index: int, member: Any, flat: Mapping[str, Any], setting: str = "members") -> list[str]:
    """What is wrong with the arguments of a member of our kinds, by the name under which the user gave them."""
    if not isinstance(member, Mapping) or not isinstance(member.get("args") or {}, Mapping):
        return []
    model = member.get("model")
    if model not in (DIFFUSION, SCORED):
        return []
    where, args = f"$.{setting}[{index}].args", dict(member.get("args") or {})
    kind: type[BaseModel] = DiffusionConfig if model == DIFFUSION else ScoredConfig
    found = [f"$.{setting}[{index}].gen_kwargs: {model} takes these as args."] if member.get("gen_kwargs") else []
    try:
        args = with_preset(args, model, where)
    except ConfigError as error:
        found.append(str(error))
        del args["preset"]
        args = {"pretrained": "", **args}
    if kind is ScoredConfig:  # the others are for `hf` to check
        args = {name: value for name, value in args.items() if name in kind.model_fields}
    renamed = {_SPREAD[name][1]: f"$.{name}" for name in _concerning(member, flat)}
    return [*found, *faults_of(kind, args, where, renamed)]


def _unquantised_faults(members: Iterable[Any], flat: Mapping[str, Any]) -> Iterator[str]:
    """A wish for fewer bits that no member takes up must not pass in silence."""
    if SCORED not in [member.get("model") for member in members if isinstance(member, Mapping)]:
        for name in (name for name in Quantizable.model_fields if flat.get(name)):
            yield f"$.{name}: got {flat[name]!r}, but no member is {SCORED}, and only those are quantised."


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


def _scorer_faults(members: Iterable[Any], scorers: Any) -> Iterator[str]:
    """What is wrong with the models that only judge; their shape is checked with the other settings."""
    rows = [row for row in scorers or () if isinstance(row, Mapping)] if isinstance(scorers, list | tuple) else []
    taken = {str(member["name"]) for member in members if isinstance(member, Mapping) and "name" in member}
    for index, row in enumerate(rows):
        if (name := str(row.get("name"))) in taken:
            yield f"$.scorers[{index}].name: {name!r} is the name of another model; choose one that differs."
        taken.add(name)
        if "model" in row and row["model"] not in (DIFFUSION, SCORED):
            yield f"$.scorers[{index}].model: got {row['model']!r}, expected {DIFFUSION} or {SCORED}."
        else:
            yield from _argument_faults(index, row, {}, "scorers")


def _refine_faults(members: Iterable[Any], scorers: Any) -> Iterator[str]:
    """What is wrong with the arguments of refine members."""
    rows = [row for row in (*members, *(scorers if isinstance(scorers, list | tuple) else ())) if isinstance(row, Mapping)]
    able = [str(row.get("name")) for row in rows if row.get("model") == DIFFUSION]
    for index, member in enumerate(members):
        if not isinstance(member, Mapping) or member.get("model") != REFINE:
            continue
        args = member.get("args") or {}
        if not isinstance(args, Mapping):
            continue
        yield from faults_of(RefineConfig, args, f"$.members[{index}].args")
        if member.get("gen_kwargs"):
            yield f"$.members[{index}].gen_kwargs: {REFINE} takes these as args."
        if "of" in args and args["of"] not in able:
            known = did_you_mean(str(args["of"]), able) if able else " There is none; add one."
            yield f"$.members[{index}].args.of: {args['of']!r} is no {DIFFUSION} member or scorer.{known}"


def parse_settings(kind: type[Settings], values: Mapping[str, Any], where: str = "$") -> Settings:
    """Validate ``values``; every fault stands in one ``ConfigError``, with its path."""
    if faults := list(faults_of(kind, values, where)):
        raise ConfigError("\n".join(faults))
    return kind.model_validate(dict(values))


def preset_names() -> list[str]:
    return sorted(path.stem for path in (_FOLDER / "presets").glob("*.yaml"))


def preset_settings(name: str, where: str = "$") -> dict[str, Any]:
    """The settings of an ensemble that a preset stands for.

    :raises ConfigError: unknown preset.
    """
    if name not in preset_names():
        raise ConfigError(f"{where}.preset: {name!r} is not a preset.{did_you_mean(str(name), preset_names())}")
    settings: dict[str, Any] = yaml.safe_load((_FOLDER / "presets" / f"{name}.yaml").read_text(encoding="utf-8"))
    return {**settings, "preset": name}


def with_preset(arguments: Mapping[str, Any], model: str, where: str = "$") -> dict[str, Any]:
    """The arguments of a model, those of its ``protocol`` where nothing was said, then those of its ``preset`` (the first
    member of kind ``model``). Beside a preset, ``pretrained`` is only a label.

    :raises ConfigError: unknown preset, or one without such a member.
    """
    said = {name: value for name, value in arguments.items() if name != "preset"}
    given, preset = {**PROTOCOLS.get(str(said.get("protocol")), {}), **said}, arguments.get("preset")
    if not preset:
        return given
    members = preset_settings(preset, where)["members"]
    base = next((member["args"] for member in members if member["model"] == model), None)
    if base is None:
        raise ConfigError(f"{where}.preset: preset {preset!r} has no member of kind {model!r}.")
    return {**base, **given, "pretrained": base["pretrained"]}


def run_name(model: str, arguments: Mapping[str, Any]) -> str | None:
    """What a run of a model of ours is called that nobody named. An ensemble: after its checkpoints
    (``open-dcoder-0.5B+Qwen2.5-Coder-0.5B``), where they are all of a preset after that, where one has none after the members.
    A single model: after the checkpoint of its preset. None for other models."""
    if model in (DIFFUSION, SCORED):
        with contextlib.suppress(ConfigError):
            return Path(with_preset(arguments, model)["pretrained"]).name if arguments.get("preset") else None
    if model != ENSEMBLE:
        return None
    if arguments.get("preset") and not {"dllm", "fim"} & arguments.keys():
        return str(arguments["preset"])
    try:
        members = EnsembleConfig.from_arguments(arguments).members
    except ConfigError:
        return "ensemble"
    named = ("peft", "pretrained", "model")
    found = [next((str(m.args[key]) for key in named if m.args.get(key)), m.name) for m in members]
    return "+".join(dict.fromkeys(Path(name).name for name in found))


def asset_path(pretrained: str) -> str:
    """``asset:tiny/fim`` as a folder of this package; anything else unchanged."""
    return str(_FOLDER / "assets" / pretrained.removeprefix("asset:")) if pretrained.startswith("asset:") else pretrained
