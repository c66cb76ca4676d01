"""Values of settings that a plain type cannot describe, and the names they may take."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, ValidationInfo, field_validator

from lm_eval_ensemble.errors import ConfigError, did_you_mean

__all__ = [
    "DECODERS",
    "PROTOCOLS",
    "QUANTIZATIONS",
    "BatchSize",
    "Detail",
    "Dtype",
    "Length",
    "Likelihood",
    "Positive",
    "Quantizable",
    "Steps",
    "StorePlace",
    "function_of",
    "one_of",
    "takes_alg_temp",
]

#: names of the decoding algorithms of a diffusion member -> whether ``alg_temp`` has a meaning there.
DECODERS = {"p2": False, "origin": False, "maskgit_plus": True, "topk_margin": True, "entropy": True}
#: published programs -> the settings of theirs that a diffusion member takes by their name; what is said explicitly comes
#: before them. Their lengths, padding and order of equal confidences go by the name itself.
PROTOCOLS: dict[str, dict[str, Any]] = {
    # pengzhangzhi/Open-dLLM, eval/eval_infill/eval_infill.py and run_eval.sh
    "open-dllm": {
        "length": "oracle",
        "alg": "p2",
        "steps": 64,
        "temperature": 0.6,
        "top_p": 0.95,
        "max_length": 2048,
        "dtype": "bfloat16",
    }
}
#: what a checkpoint may be quantised to while it is loaded -> the library that does it.
QUANTIZATIONS = {
    "bnb-int8": "bitsandbytes",
    "bnb-fp4": "bitsandbytes",
    "bnb-nf4": "bitsandbytes",
    "torchao-int8": "torchao",
    "torchao-int8-dynamic": "torchao",
}
#: the older way to ask for two of them.
_FLAGS = {"load_in_8bit": "bnb-int8", "load_in_4bit": "bnb-fp4"}

_DTYPES = ("auto", "bfloat16", "float16", "float32", "float64")


def _batch_size(value: Any) -> Any:
    if value is None or re.fullmatch(r"auto(:[0-9]+)?|0*[1-9][0-9]*", str(value)):
        return value
    raise ValueError("a whole number >= 1, or auto")


def _dtype(value: Any) -> Any:
    name = str(value).removeprefix("torch.")
    if value is None or name in _DTYPES:
        return None if value is None else name
    raise ValueError(f"a torch dtype.{did_you_mean(name, _DTYPES)}")


def _quantization(value: Any) -> Any:
    if isinstance(value, Mapping):
        if value.get("quant_method") or any(value.get(flag) is True for flag in _FLAGS):
            return dict(value)
        raise ValueError("a mapping that names its quant_method (bitsandbytes, torchao, ...)")
    name = None if value is None else str(value)
    if name is None or name.lower() == "none" or name in QUANTIZATIONS:
        return name if name in QUANTIZATIONS else None
    raise ValueError(f"a name, or a mapping with quant_method.{did_you_mean(name, QUANTIZATIONS)}")


def one_of(known: Iterable[str]) -> BeforeValidator:
    """A validator of names; None passes."""
    names = sorted(known)

    def check(value: Any) -> Any:
        if value is None or value in names:
            return value
        raise ValueError(f"a known name.{did_you_mean(str(value), names)}")

    return BeforeValidator(check)


def _steps(value: Any) -> Any:
    if value == "auto" or (re.fullmatch(r"[0-9]+", str(value)) and 1 <= int(value) <= 4096):
        return value if value == "auto" else int(value)
    if re.fullmatch(r"-?[0-9]+", str(value)):
        raise ValueError(">= 1" if int(value) < 1 else "<= 4096")
    raise ValueError(f"a whole number from 1 to 4096, or auto.{did_you_mean(str(value), ['auto'])}")


def takes_alg_temp(name: str) -> str:
    """Why ``alg_temp`` has no meaning for a decoding algorithm; empty where it has one."""
    if DECODERS.get(name, True):
        return ""
    known = ", ".join(found for found, takes in DECODERS.items() if takes)
    return f"nothing: with alg={name} it would change nothing. It has a meaning for {known}."


_LENGTHS = ("oracle", "ar", "ar:K", "fixed:N", "fixed-mean", "search", "grid", "grid:A+B+C", "expand", "expand:N")
_N = "0*[1-9][0-9]*"


def _length(value: Any) -> Any:
    if value is None or re.fullmatch(
        rf"oracle|ar(:[0-9]+)?|fixed:{_N}|fixed-mean|search|expand(:{_N})?|grid(:(ar|{_N})([,+](ar|{_N}))+)?", str(value)
    ):
        return value
    raise ValueError(f"a length policy, its numbers >= 1 (K >= 0).{did_you_mean(str(value), _LENGTHS)}")


def _store(value: Any) -> Any:
    # YAML reads off and on as false and true.
    return {False: "off", True: None}[value] if isinstance(value, bool) else value


def _record(value: Any) -> Any:
    if value is None or re.fullmatch(r"entropy|topk:0*[1-9][0-9]*", str(value)):
        return value
    raise ValueError(f"entropy, or topk:K with K >= 1.{did_you_mean(str(value), ['entropy', 'topk:20'])}")


def _likelihood(value: Any) -> Any:
    if re.fullmatch(r"chain|elbo:0*([2-9]|[1-9][0-9]+)", str(value)):
        return value
    raise ValueError(f"chain, or elbo:K with K >= 2 samples.{did_you_mean(str(value), ['chain', 'elbo:K'])}")


BatchSize = Annotated[int | str | None, BeforeValidator(_batch_size)]
Detail = Annotated[str | None, BeforeValidator(_record)]
Dtype = Annotated[str | None, BeforeValidator(_dtype)]
Length = Annotated[str | None, BeforeValidator(_length)]
Likelihood = Annotated[str, BeforeValidator(_likelihood)]
Positive = Annotated[int, Field(ge=1)]
Steps = Annotated[int | str, BeforeValidator(_steps)]
StorePlace = Annotated[str | None, BeforeValidator(_store)]


class Quantizable(BaseModel):
    """Three ways to ask for quantised weights, of which one may be taken: two flags of transformers, or a name of
    ``QUANTIZATIONS`` or a mapping for the quantisation config of transformers that its ``quant_method`` names."""

    load_in_8bit: bool = False
    load_in_4bit: bool = False
    quantization: Annotated[str | dict[str, Any] | None, BeforeValidator(_quantization)] = None

    @field_validator("load_in_4bit", "quantization")
    @classmethod
    def _is_alone(cls, value: Any, info: ValidationInfo) -> Any:
        rival = next((flag for flag in _FLAGS if flag != info.field_name and info.data.get(flag)), None)
        if value and rival:
            raise ValueError(f"nothing: {rival} is set too. Give one of them.")
        return value

    @property
    def quantized_to(self) -> str | dict[str, Any] | None:
        """The name or the mapping, whichever way it was asked for; None: as the checkpoint is."""
        return self.quantization or next((name for flag, name in _FLAGS.items() if getattr(self, flag)), None)


def function_of(spec: str, setting: str) -> Callable[..., Any]:
    """The function that ``module:function`` names; modules of the working directory are found too.

    :param setting: the option, for what is said if it cannot be had.
    :raises ConfigError: another form, no such module or function.
    """
    module, _, name = spec.partition(":")
    if not module or not name.isidentifier():
        raise ConfigError(f"{setting} {spec}: expected module:function, such as mine:score for the function score of mine.py.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # somebody else's code fails in every way there is
        raise ConfigError(f"{setting} {spec}: {module} cannot be imported ({type(error).__name__}: {error}).") from error
    if not callable(found):
        raise ConfigError(f"{setting} {spec}: {module} has no function {name}.")
    function: Callable[..., Any] = found
    return function
