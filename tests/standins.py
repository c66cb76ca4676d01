"""Tiny checkpoints with random weights that stand for families of models: their classes, and a tokenizer our tasks can use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer

import lm_eval_ensemble

__all__ = ["ARCHITECTURES", "save_standin"]

ARCHITECTURES = ("llama", "qwen2", "mistral", "mixtral")
_OWN: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": None},
    "mixtral": {"sliding_window": None, "num_local_experts": 4, "num_experts_per_tok": 2},
}


def save_standin(folder: Path | str, architecture: str, seed: int = 0) -> str:
    """Save a model of two layers (hidden 64, window 1024) with the embedded tokenizer, fill-in-the-middle tokens included.

    :param architecture: one of ``ARCHITECTURES``; the classes are those of transformers, the same as for the real checkpoints.
    :returns: the folder's path.
    """
    tokenizer = AutoTokenizer.from_pretrained(Path(lm_eval_ensemble.__file__).parent / "assets" / "tiny" / "fim")
    stem = architecture.capitalize()
    config = getattr(transformers, f"{stem}Config")(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.08,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **_OWN[architecture],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, f"{stem}ForCausalLM")(config)
    with torch.no_grad():
        # Some tokens are likelier than others by far, as in real models: greedy choices do not hang on the last digit.
        model.get_output_embeddings().weight.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
