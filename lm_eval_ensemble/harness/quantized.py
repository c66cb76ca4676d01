"""Quantised weights for ``hf-scored``: the request as a config of transformers, and what the loaded model really has.

lm_eval 0.4.13 hands ``load_in_8bit`` and its kin on to the class of the model, where transformers 5 no longer takes them. It
does pass a ``quantization_config`` on, that of the checkpoint; a request goes the same way. What is reported is read from the
model that was loaded, never from the request: a layer that a library leaves alone (the LM head, the experts of a mixture,
whatever the settings skip) keeps its precision without a word.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate.utils import get_max_memory
from lm_eval.models.huggingface import HFLM
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from lm_eval_ensemble.errors import ConfigError, ModelError, did_you_mean
from lm_eval_ensemble.harness.experts import experts_config, has_experts
from lm_eval_ensemble.members.identity import versions
from lm_eval_ensemble.values import QUANTIZATIONS

__all__ = ["Quantized", "QuantizedHF", "footprint_mib", "make_config", "read_quantized"]

logger = logging.getLogger(__name__)
#: where other loaders of ``hf``, and older names of settings, would have the last word or none.
_LOADERS = ("gptqmodel", "autogptq", "gguf_file", "delta")
_OLD = ("bnb_", "llm_int8_", "quantization_config")
#: below this part of the weights, "quantised" is not what a reader takes it for.
_HALF = 0.5


@dataclass(frozen=True)
class Quantized:
    """What of a loaded model is quantised.

    ``name`` is one of ``QUANTIZATIONS`` or made from the settings alike; ``settings`` those of transformers. ``layers`` are the
    linear layers that are quantised (and the tensors of experts), ``other_layers`` those that are not. ``share``: quantised
    part of the weights in matrices, embeddings and LM head aside; None where weights are packed in ways that cannot be counted.
    """

    name: str
    settings: dict[str, Any]
    layers: int
    other_layers: int
    share: float | None

    def record(self) -> dict[str, Any]:
        """As JSON, with the versions of the libraries that may have done it."""
        return {**asdict(self), "versions": versions("bitsandbytes", "torchao")}


class QuantizedHF(HFLM):  # type: ignore[misc]
    """``hf`` whose weights may be quantised while they are loaded; the loading itself is that of ``hf``.

    ``quantization`` is the record of what is quantised, None for an ordinary model; ``footprint_mib`` the size of the weights.
    """

    name: str

    def ask_for(self, wanted: str | dict[str, Any] | None, arguments: Mapping[str, Any]) -> None:
        """Says before the loading what the weights are to be quantised to.

        :param arguments: those of ``hf`` beside it.
        :raises ConfigError: names every argument that contradicts the request, or that no longer works.
        """
        where, self._wanted = f"$.{self.name}", wanted
        faults = [
            f"{where}.{name}: not taken; say it as quantization={{'quant_method': 'bitsandbytes', ...}}, a mapping with the "
            "names of transformers' own quantisation configs."
            for name in arguments
            if name.startswith(_OLD)
        ]
        faults += [
            f"{where}.{name}: got {arguments[name]!r}, expected nothing beside {_told(wanted)}: it has a loader of its own."
            for name in _LOADERS
            if wanted and arguments.get(name) not in (None, False, "")
        ]
        if faults:
            raise ConfigError("\n".join(faults))

    def _create_model(self, pretrained: str, *, quantization_config: Any = None, **arguments: Any) -> None:
        """``quantization_config`` is the checkpoint's own (without it transformers would load such a checkpoint as an ordinary
        one); a request takes its place."""
        wanted, own = self._wanted, getattr(self.config, "quantization_config", None)
        if wanted and own:
            raise ConfigError(
                f"$.{self.name}: {_told(wanted)} was asked for, but {pretrained!r} is quantised already "
                f"({_name_of_checkpoint(own)}, by its config.json). Leave the request out, or take another checkpoint."
            )
        config = make_config(wanted, arguments["dtype"], f"$.{self.name}", self.config) if wanted else quantization_config
        if arguments.get("parallelize") and set(get_max_memory()) <= {"cpu"}:
            # hf would leave the weights on the disk where there is no GPU to spread them over.
            arguments["parallelize"] = False
        with _told_in_one_line(_told(wanted), pretrained) if wanted or own else contextlib.nullcontext():
            super()._create_model(pretrained, quantization_config=config, **arguments)
        found = read_quantized(self.model, wanted)
        if own and not found:
            logger.warning(
                "%s: %s, by its config.json, but no layer of the loaded model is: it runs in full precision here.",
                pretrained,
                _name_of_checkpoint(own),
            )
        self.quantization: dict[str, Any] | None = found.record() if found else None
        self.footprint_mib = footprint_mib(self.model)

    def get_model_info(self) -> dict[str, Any]:
        """That of ``hf``, the size of the weights, and what of them is quantised."""
        found: dict[str, Any] = super().get_model_info()
        return {**found, "model_footprint_mib": self.footprint_mib, "quantization": self.quantization}


def make_config(wanted: str | dict[str, Any], dtype: torch.dtype, where: str, checkpoint: Any = None) -> Any:
    """The request as transformers has it.

    :param dtype: of what is not quantised, and of the products of 4-bit weights.
    :param checkpoint: its config, where there is one: a mixture has more to quantise than linear layers.
    :raises ConfigError: an unknown method or setting, a value it does not take, or a package that is not installed.
    """
    if dtype == torch.float64:
        raise ConfigError(f"{where}.dtype: got float64, expected float32, bfloat16 or float16 beside {_told(wanted)}.")
    if isinstance(wanted, str):
        _need(QUANTIZATIONS[wanted], wanted, where)
        return _named(wanted, dtype, checkpoint is not None and has_experts(checkpoint))
    method, kind = check_mapping(wanted, where)
    _need(method, method, where)
    try:
        return kind.from_dict(dict(wanted))
    except Exception as error:
        raise ConfigError(f"{where}.quantization: {kind.__name__} refuses it: {_first_line(error)}") from error


def check_mapping(wanted: Mapping[str, Any], where: str) -> tuple[str, Any]:
    """The method of a mapping and its class in transformers; nothing has to be installed for that.

    :raises ConfigError: an unknown method, or a setting that it does not have.
    """
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    bits = next((n for n in (8, 4) if wanted.get(f"load_in_{n}bit") is True), None)
    method = str(wanted.get("quant_method") or "bitsandbytes")
    kind = AUTO_QUANTIZATION_CONFIG_MAPPING.get(f"{method}_{bits}bit" if method == "bitsandbytes" else method)
    if kind is None:
        expected = "load_in_8bit: true or load_in_4bit: true beside it." if method == "bitsandbytes" else "a known method."
        known = "" if method == "bitsandbytes" else did_you_mean(method, AUTO_QUANTIZATION_CONFIG_MAPPING)
        raise ConfigError(f"{where}.quantization.quant_method: got {method!r}, expected {expected}{known}")
    taken = [name for name in inspect.signature(kind).parameters if name != "kwargs"]
    # They take any name and drop those they do not know.
    faults = [
        f"{where}.quantization.{name}: not a setting of {kind.__name__}.{did_you_mean(name, taken)}"
        for name in wanted
        if name not in ("quant_method", *taken)
    ]
    if faults:
        raise ConfigError("\n".join(faults))
    return method, kind


def read_quantized(model: Any, wanted: str | dict[str, Any] | None = None) -> Quantized | None:
    """What of the model is quantised; None for an ordinary one.

    :raises ModelError: quantised weights were asked for, and nothing, or by a name less than half, is.
    """
    kind = type(model).__name__
    states = [state for module in model.modules() if (state := _state(module)) is not None]
    layers = sum(states)
    share = _share(model)
    if not layers and not share:
        if wanted:
            raise ModelError(
                f"{_told(wanted)} was asked for, but no layer of this {kind} was quantised: it has none that the library "
                "replaces, or the settings skip them all. Ask for another, or for none."
            )
        return None
    config = getattr(getattr(model, "hf_quantizer", None), "quantization_config", None)
    found = Quantized(_name(config), _plain(config), layers, len(states) - layers, share and round(share, 4))
    if wanted and share is not None and share < _HALF:
        text = (
            f"{found.name}: only {share:.1%} of the weights of this {kind} were quantised, {layers} layers; what else it has "
            "(the experts of a mixture, whatever the settings skip) keeps its precision."
        )
        if isinstance(wanted, str):
            raise ModelError(f"{text} bnb-nf4 quantises experts too; or take a checkpoint that is quantised already.")
        logger.warning("%s", text)
    return found


def footprint_mib(model: Any) -> float:
    """MiB of the weights and buffers of a model: transformers' own count, corrected where it takes torchao's tensors for what
    they stand for, and leaves out the scales of bitsandbytes."""
    count = getattr(model, "get_memory_footprint", None)  # wrappers of other loaders have none
    size = float(count() if count else sum(map(_bytes, (*model.parameters(), *model.buffers()))))
    states = _quant_states(model)
    for tensor in model.parameters():
        if count and _wraps(tensor):
            size += _bytes(tensor) - tensor.nelement() * tensor.element_size()
        scales = (getattr(tensor, "SCB", None), getattr(states.get(id(tensor)), "absmax", None))
        size += sum(_bytes(scale) for scale in scales if scale is not None)
    return round(size / 2**20, 1)


@contextlib.contextmanager
def _told_in_one_line(label: str, path: str) -> Iterator[None]:
    """Around the loading: what a library cannot do here becomes one message.

    :param label: what was asked for; empty where the checkpoint says itself what it is.
    """
    _say_casts_once()
    try:
        with warnings.catch_warnings():
            # hf passes a checkpoint's own config on, as transformers needs it, and is told that it does.
            warnings.filterwarnings("ignore", message="You passed `quantization_config`")
            yield
    except (ImportError, RuntimeError, ValueError, AssertionError, NotImplementedError) as error:
        how = f" quantised to {label}" if label else " with the quantisation its config.json names"
        if isinstance(error, ImportError):
            advice = " pip install 'lm_eval_ensemble[quantization]' has bitsandbytes and torchao; install others by name."
        elif "dispatched on the CPU" in str(error):
            advice = " The model does not fit the GPU memory that was allowed: give more or other GPUs, or fewer bits."
        else:
            advice = f" If the library does not work on this machine, take another: {', '.join(QUANTIZATIONS)}."
        raise ModelError(f"Could not load {path!r}{how}: {_first_line(error)}{advice}") from error


def _named(name: str, dtype: torch.dtype, experts: bool) -> Any:
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if name == "bnb-int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if name.startswith("bnb"):
        kind = experts_config if experts else BitsAndBytesConfig
        return kind(load_in_4bit=True, bnb_4bit_quant_type=name.removeprefix("bnb-"), bnb_4bit_compute_dtype=dtype)
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig

    return TorchAoConfig(Int8DynamicActivationInt8WeightConfig() if name.endswith("dynamic") else Int8WeightOnlyConfig())


def _need(package: str, asked: str, where: str) -> None:
    if package in QUANTIZATIONS.values() and importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{where}.quantization: {asked} needs the package {package}, which is not installed: "
            "pip install 'lm_eval_ensemble[quantization]'"
        )


def _name(config: Any) -> str:
    """The name of a config, made as those of ``QUANTIZATIONS`` are."""
    method = getattr(config, "quant_method", None)
    method = str(getattr(method, "value", method) or "quantised")
    if method.startswith("bitsandbytes"):
        return "bnb-int8" if config.load_in_8bit else f"bnb-{config.bnb_4bit_quant_type}"
    if method == "torchao":
        kind = type(config.quant_type).__name__
        known = {"Int8WeightOnlyConfig": "int8", "Int8DynamicActivationInt8WeightConfig": "int8-dynamic"}
        return f"torchao-{known.get(kind, kind)}"
    bits = getattr(config, "bits", None)
    return f"{method}-{bits}bit" if bits else method


def _plain(config: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(config.to_dict() if config is not None else {}, default=str))
    return found


def _name_of_checkpoint(config: Any) -> str:
    plain = config if isinstance(config, dict) else config.to_dict()
    return str(plain.get("quant_method") or "quantised")


def _told(wanted: str | dict[str, Any] | None) -> str:
    return wanted if isinstance(wanted, str) else f"quantization={json.dumps(wanted, default=str)}" if wanted else ""


def _state(module: nn.Module) -> bool | None:
    """Whether a linear layer is quantised; None for other modules. Libraries bring classes of their own, named alike."""
    # Of the buffers only weights: many models keep tables of positions or masks as integers.
    tensors = [*module._parameters.values(), *(buffer for name, buffer in module._buffers.items() if "weight" in name)]
    if any(tensor is not None and _is_quantized(tensor) for tensor in tensors) and not isinstance(module, nn.Embedding):
        return True
    return False if isinstance(module, nn.Linear) else None


def _is_quantized(tensor: Tensor) -> bool:
    """Integers and 8-bit floats of two dimensions, and tensors that stand for others."""
    local = getattr(tensor, "_local_tensor", tensor)
    if _wraps(local) or getattr(local, "quant_state", None) is not None:
        return True
    return local.ndim >= 2 and local.dtype != torch.bool and (not local.dtype.is_floating_point or local.dtype.itemsize == 1)


def _wraps(tensor: Tensor) -> bool:
    # Parameters of torch itself have no such method; a distributed tensor has, and is no quantised one.
    return hasattr(tensor, "__tensor_flatten__") and not hasattr(tensor, "_local_tensor")


def _bytes(tensor: Any) -> int:
    if _wraps(tensor):
        return sum(_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return int(tensor.nelement() * tensor.element_size())


def _quant_states(model: nn.Module) -> dict[int, Any]:
    """What bitsandbytes keeps beside each 4-bit tensor (true shape, scales), by the tensor's ``id``."""
    found = {id(tensor): getattr(tensor, "quant_state", None) for tensor in model.parameters()}
    for module in model.modules():
        if isinstance(module, ParametrizationList):
            found[id(module.original)] = getattr(module[0], "quant_state", None)
    return {key: state for key, state in found.items() if state is not None}


def _share(model: Any) -> float | None:
    """Quantised part of the weights in matrices, embeddings and LM head aside."""
    ends = {
        id(p) for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None for p in m.parameters()
    }
    states, done, total = _quant_states(model), 0, 0
    for tensor in (p for p in model.parameters() if p.ndim >= 2 and id(p) not in ends):
        state = states.get(id(tensor))
        size = math.prod(state.shape) if state is not None else tensor.nelement()
        total += size
        done += size if _is_quantized(tensor) else 0
    packed = any(b.ndim >= 2 and b.dtype == torch.int32 for b in model.buffers())
    return None if packed or not total else done / total


def _first_line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return line if line.endswith((".", "!")) else f"{line}."


@functools.cache
def _say_casts_once() -> None:
    """bitsandbytes warns at every product that LLM.int8() works on float16 activations, which is what it is."""
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(lambda line: "inputs will be cast" not in str(line.msg))
