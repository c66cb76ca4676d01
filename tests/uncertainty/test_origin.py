"""Family, size and precision come from configurations; F8 and the faults of reading names cannot happen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble.uncertainty.origin import UNKNOWN, from_config, from_old_name


def test_f8_eight_bits_are_no_eight_billions() -> None:
    """F8 and its kin: ``Llama-3-70B-8bit`` was sorted as an 8B model, and is no name of a checkpoint but a setting."""
    origin = from_config("Llama-3-70B-8bit", {"model_args": {"pretrained": "Llama-3-70B-8bit"}})
    assert (origin.size, origin.precision, origin.family) == (UNKNOWN, UNKNOWN, UNKNOWN)
    told = from_config(
        "meta-llama/Meta-Llama-3-8B",
        {
            "model_args": {"pretrained": "x", "load_in_8bit": "True"},
            "model_num_parameters": 8030261248,
            "model_dtype": "float16",
        },
    )
    assert (told.size, told.precision) == ("8.03B", "int8")


@pytest.mark.parametrize(
    ("name", "parameters", "precision", "family"),
    [
        ("Llama-3-70B-8bit", 70_000_000_000, "int8", "llama"),
        ("Llama-3-8B-8bit", 8_000_000_000, "int8", "llama"),
        ("Mistral-7B-v0.3-4bit", 7_000_000_000, "int4", "mistral"),
        ("Qwen2.5-1.5B", 1_500_000_000, UNKNOWN, "qwen"),
        ("Meta-Llama-3.1-8B-Instruct", 8_000_000_000, UNKNOWN, "llama"),
        ("opt-8bit", None, "int8", "opt"),
        ("gpt2", None, UNKNOWN, "gpt"),
    ],
)
def test_old_names(name: str, parameters: int | None, precision: str, family: str) -> None:
    origin = from_old_name(name)
    assert (origin.parameters, origin.precision, origin.family) == (parameters, precision, family)


@pytest.mark.parametrize(
    ("arguments", "config", "expected"),
    [
        ({"load_in_4bit": True}, {}, "int4"),
        ({"load_in_8bit": False, "dtype": "float16"}, {}, "float16"),
        ({"gptqmodel": True}, {}, "gptq"),
        ({"autogptq": False}, {"model_dtype": "torch.bfloat16"}, "bfloat16"),
        ({"gguf_file": "q4.gguf"}, {}, "gguf (q4.gguf)"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, {}, "awq-4bit"),
        # What the loaded model has comes before what was asked for.
        ({"load_in_8bit": True}, {"quantization": {"name": "bnb-int8", "layers": 14}}, "int8"),
        ({"load_in_4bit": True}, {"quantization": {"name": "bnb-nf4"}, "model_dtype": "torch.bfloat16"}, "nf4"),
        ({"quantization": "torchao-int8"}, {"quantization": {"name": "torchao-int8"}}, "torchao-int8"),
        ({}, {"quantization": None, "model_dtype": "torch.bfloat16"}, "bfloat16"),
        ({}, {"quantization": {"fim": {"name": "bnb-int8"}}, "model_dtype": "torch.bfloat16"}, "bfloat16"),
        ({}, {}, UNKNOWN),
    ],
)
def test_precision(arguments: dict[str, Any], config: dict[str, Any], expected: str) -> None:
    assert from_config("m", {"model_args": arguments, **config}).precision == expected


def test_the_checkpoint_tells_family_and_quantisation(tmp_path: Path) -> None:
    content = {"model_type": "qwen2", "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    origin = from_config(
        "m", {"model_args": {"pretrained": str(tmp_path)}, "model_num_parameters": -1, "model_dtype": "float16"}
    )
    assert (origin.family, origin.precision, origin.size) == ("qwen2", "bitsandbytes-8bit", UNKNOWN)
    (tmp_path / "config.json").write_text("{")
    assert from_config("m", {"model_args": {"pretrained": str(tmp_path)}}).family == UNKNOWN
    # A run of ours tells it itself: its folder is read where the checkpoint is not.
    assert from_config("m", {"model_args": {"pretrained": str(tmp_path)}, "model_type": "llama"}).family == "llama"


def test_sizes_for_people() -> None:
    counts = {"494M": 494_032_768, "1.24B": 1_235_814_400, "70.6B": 70_553_706_496}
    assert [from_config("m", {"model_num_parameters": n}).size for n in counts.values()] == list(counts)
