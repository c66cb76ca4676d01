"""The experts of a mixture in 4 bits.

transformers 5 keeps the experts of a layer as one tensor of three dimensions, and its bitsandbytes quantiser replaces linear
layers only: a mixture "in 4 bits" would keep nine tenths of its weights as they are. Here the experts are quantised too, tensor
by tensor as they are loaded, by bitsandbytes' own parametrisation: in memory in 4 bits, given back in full for a forward pass.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

__all__ = ["experts_config", "has_experts"]

#: transformers knows quantisers by such names; this one is registered with it.
_METHOD = "bitsandbytes_experts_4bit"


def has_experts(config: Any) -> bool:
    """Whether a checkpoint is a mixture of experts, by its config (``num_local_experts``, ``n_routed_experts``, ...)."""
    text = config.get_text_config()
    counts = [getattr(text, name, 0) for name in ("num_local_experts", "num_experts", "n_routed_experts")]
    return any(isinstance(count, int) and count > 1 for count in counts)


def experts_config(**settings: Any) -> Any:
    """A ``BitsAndBytesConfig`` with these settings, for linear layers and experts alike."""
    return _register()(**settings)


@functools.cache
def _register() -> Any:
    from bitsandbytes.nn.parametrize import replace_parameter_4bit
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import Bnb4bitQuantize
    from transformers.quantizers import register_quantization_config, register_quantizer
    from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
    from transformers.quantizers.quantizers_utils import get_module_from_name

    class Quantize(Bnb4bitQuantize):  # type: ignore[misc]
        """One tensor, as soon as it is complete."""

        def convert(self, input_dict: dict[str, Any], full_layer_name: str, model: Any, **options: Any) -> dict[str, Any]:
            module, name = get_module_from_name(model, full_layer_name)
            if not _is_experts(module, name):
                found: dict[str, Any] = super().convert(input_dict, full_layer_name=full_layer_name, model=model, **options)
                return found
            value = next(iter(input_dict.values()))
            tensor = value[0] if isinstance(value, list) else value
            module._parameters[name] = torch.nn.Parameter(tensor, requires_grad=False)
            settings = self.hf_quantizer.quantization_config
            replace_parameter_4bit(
                module,
                name,
                compress_statistics=settings.bnb_4bit_use_double_quant,
                quant_type=settings.bnb_4bit_quant_type,
            )
            # It is in its place: nothing is left to be set, and nothing to be initialised.
            module._is_hf_initialized = True
            options["missing_keys"].discard(full_layer_name)
            return {}

    @register_quantizer(_METHOD)
    class Quantizer(Bnb4BitHfQuantizer):  # type: ignore[misc]
        def param_needs_quantization(self, model: Any, param_name: str, **options: Any) -> bool:
            if super().param_needs_quantization(model, param_name, **options):
                return True
            return _is_experts(*get_module_from_name(model, param_name))

        def get_quantize_ops(self) -> Any:
            return Quantize(self)

    @register_quantization_config(_METHOD)
    class Config(BitsAndBytesConfig):  # type: ignore[misc]
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.quant_method = _METHOD

    return Config


def _is_experts(module: Any, name: str) -> bool:
    """Whether a parameter holds one matrix for each expert."""
    tensor = module._parameters.get(name)
    return tensor is not None and tensor.ndim == 3 and "Experts" in type(module).__name__
