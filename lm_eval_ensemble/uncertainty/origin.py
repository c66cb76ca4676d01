"""What a run was made with: family, size and precision of the model, from configurations and never from guesses by name.

A name such as ``Llama-3-70B-8bit`` holds an ``8b`` that is no size. Where no configuration tells, the answer is
``unknown``. Only for the old pickle files, whose naming is the configuration, :func:`from_old_name` reads the name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["UNKNOWN", "Origin", "from_config", "from_old_name"]

UNKNOWN = "unknown"
# "8B" and "1.5b" as whole words; "8bit" is none.
_BILLIONS = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[bB](?![a-zA-Z0-9])")
_BITS = re.compile(r"-(4|8)bit$")


@dataclass(frozen=True, slots=True)
class Origin:
    """``name`` as the run has it; ``family`` the architecture's ``model_type``; ``parameters`` their number or None;
    ``precision`` such as ``bfloat16`` or ``int8``."""

    name: str
    family: str
    parameters: int | None
    precision: str

    @property
    def size(self) -> str:
        """Parameters for people: ``494M``, ``8.03B``."""
        if not self.parameters:
            return UNKNOWN
        billions = self.parameters / 1e9
        return f"{billions:.3g}B" if billions >= 1 else f"{self.parameters / 1e6:.3g}M"


def from_config(name: str, config: Mapping[str, Any]) -> Origin:
    """From the ``config`` of a results file of lm_eval (``model_args`` as a mapping) and the checkpoint's own config.json.

    The latter, which tells the family where the run does not, is looked for in the folder named, or in the local cache of the
    Hub; nothing is downloaded.
    """
    arguments = config.get("model_args") or {}
    source = str(arguments.get("pretrained") or name)
    checkpoint = _checkpoint_config(source, str(arguments.get("revision") or "main"))
    count = config.get("model_num_parameters")
    parameters = count if isinstance(count, int) and count > 0 else None
    family = str(config.get("model_type") or checkpoint.get("model_type") or UNKNOWN)
    return Origin(name, family, parameters, _precision(arguments, checkpoint, config))


def from_old_name(name: str) -> Origin:
    """From a name in the style of the old experiments: ``Llama-3-70B-8bit`` is 70 billion parameters in int8."""
    bits = _BITS.search(name)
    size = _BILLIONS.search(_BITS.sub("", name).replace("-", " ").replace("_", " "))
    parameters = int(float(size.group(1)) * 1e9) if size else None
    family = re.split(r"[-_/\d]", name.rsplit("/", 1)[-1].removeprefix("Meta-"), maxsplit=1)[0].lower() or UNKNOWN
    return Origin(name, family, parameters, f"int{bits.group(1)}" if bits else UNKNOWN)


def _precision(arguments: Mapping[str, Any], checkpoint: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    if isinstance(loaded := config.get("quantization"), Mapping) and isinstance(name := loaded.get("name"), str):
        # Read from the model that ran. bitsandbytes is what the other names below mean too.
        return name.removeprefix("bnb-")
    for bits in (8, 4):
        if _true(arguments.get(f"load_in_{bits}bit")):
            return f"int{bits}"
    for kind in ("gptqmodel", "autogptq"):
        if arguments.get(kind) not in (None, False, "False", "false"):
            return "gptq"
    if arguments.get("gguf_file"):
        return f"gguf ({arguments['gguf_file']})"
    quantised = arguments.get("quantization_config") or checkpoint.get("quantization_config")
    if isinstance(quantised, Mapping):
        method = str(quantised.get("quant_method") or "quantised")
        width = quantised.get("bits") or next((b for b in (8, 4) if _true(quantised.get(f"load_in_{b}bit"))), None)
        return f"{method}-{width}bit" if width else method
    if quantised:
        return str(quantised)
    return str(config.get("model_dtype") or arguments.get("dtype") or UNKNOWN).removeprefix("torch.")


def _true(value: Any) -> bool:
    return value is True or str(value).lower() == "true"


def _checkpoint_config(source: str, revision: str) -> dict[str, Any]:
    path: Path | None = Path(source) / "config.json"
    if path is not None and not path.is_file():
        path = _cached(source, revision)
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _cached(source: str, revision: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(source, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None
