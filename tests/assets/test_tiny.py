"""The embedded pair: both checkpoints load in stock transformers, are small, and have the ids we rely on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, Qwen2ForCausalLM

import lm_eval_ensemble

TINY = Path(lm_eval_ensemble.__file__).parent / "assets" / "tiny"
SPECIAL_TOKENS = ["<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|mask|>"]
CODE = 'def f(x):\n    """Doc."""\n        return x + 1  # é, ½\n'

both = pytest.mark.parametrize("kind", ["fim", "mdm"])


@both
def test_folder_is_small_and_readable(kind: str) -> None:
    files = list((TINY / kind).iterdir())
    assert sum(file.stat().st_size for file in files) < 9_000_000
    assert {file.name for file in files} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        *(["length_bias.json"] if kind == "mdm" else []),
    }
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in files)


@both
def test_tokenizer(kind: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TINY / kind)
    assert tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS) == [0, 1, 2, 3, 4, 5]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id) == (0, 4, 5)
    assert len(tokenizer) == 4096
    ids = tokenizer(CODE, add_special_tokens=False)["input_ids"]
    assert min(ids) > 5
    assert tokenizer.decode(ids) == CODE


def test_the_pair_shares_one_tokenizer() -> None:
    fim, mdm = ((TINY / kind / "tokenizer.json").read_bytes() for kind in ("fim", "mdm"))
    assert fim == mdm


@both
def test_model_loads_and_knows_some_python(kind: str) -> None:
    model, report = Qwen2ForCausalLM.from_pretrained(TINY / kind, dtype=torch.float32, output_loading_info=True)
    assert not any(report.values())
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_068_608
    tokenizer = AutoTokenizer.from_pretrained(TINY / kind)
    ids = tokenizer("def area(width, height):\n    return width * height\n", return_tensors="pt")["input_ids"]
    logits = model(ids).logits[0, :-1]
    # Read causally, which is not how the mdm half was trained; uniform guessing costs ln 4096 = 8.3 nats.
    assert torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item() < (5 if kind == "fim" else 8.3)
