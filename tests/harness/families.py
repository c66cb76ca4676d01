"""Tiny random checkpoints with the control tokens of each fill-in-the-middle family, saved as their makers save them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import CodeLlamaTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["FAMILIES", "Family", "save_checkpoint"]


@dataclass(frozen=True)
class Family:
    """``prompt`` is the published prompt of "def f(" and "return a + b", token by token, without spaces between."""

    control: tuple[str, ...]
    prompt: str
    eos: str
    bos: str | None = None
    kind: str = "bytes"


FAMILIES = {
    "qwen": Family(
        ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
        "<|fim_prefix|>defĠf(<|fim_suffix|>returnĠaĠ+Ġb<|fim_middle|>",
        "<|endoftext|>",
    ),
    "starcoder": Family(
        ("<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<repo_name>", "<file_sep>"),
        "<fim_prefix>defĠf(<fim_suffix>returnĠaĠ+Ġb<fim_middle>",
        "<|endoftext|>",
    ),
    "granite": Family(
        ("<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<filename>", "<reponame>"),
        "<fim_prefix>defĠf(<fim_suffix>returnĠaĠ+Ġb<fim_middle>",
        "<|endoftext|>",
    ),
    "stable-code": Family(
        ("<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<file_sep>"),
        "<fim_prefix>defĠf(<fim_suffix>returnĠaĠ+Ġb<fim_middle>",
        "<|endoftext|>",
    ),
    "deepseek-coder": Family(
        ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", "<|EOT|>"),
        "<｜begin▁of▁sentence｜><｜fim▁begin｜>defĠf(<｜fim▁hole｜>returnĠaĠ+Ġb<｜fim▁end｜>",
        "<｜end▁of▁sentence｜>",
        "<｜begin▁of▁sentence｜>",
    ),
    "seed-coder": Family(
        ("<[fim-prefix]>", "<[fim-middle]>", "<[fim-suffix]>", "<[SEP▁TOKEN]>", "<[PAD▁TOKEN]>"),
        "<[fim-suffix]>returnĠaĠ+Ġb<[fim-prefix]>defĠf(<[fim-middle]>",
        "<[end▁of▁sentence]>",
        "<[begin▁of▁sentence]>",
    ),
    "codellama": Family(
        ("▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"),
        "<s>▁<PRE>▁def▁f(▁<SUF>return▁a▁+▁b▁<MID>",
        "</s>",
        "<s>",
        "codellama",
    ),
    "codellama-spm": Family(
        ("▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>"),
        "<s>▁<PRE>▁<SUF>return▁a▁+▁b▁<MID>▁def▁f(",
        "</s>",
        "<s>",
        "codellama",
    ),
    # Word for word the expectation of mistral-common's own test.
    "codestral": Family(
        ("[PREFIX]", "[MIDDLE]", "[SUFFIX]"), "<s>[SUFFIX]return▁a▁+▁b[PREFIX]▁def▁f(", "</s>", "<s>", "sentencepiece"
    ),
    "codegemma": Family(
        ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|file_separator|>"),
        "<bos><|fim_prefix|>def▁f(<|fim_suffix|>return▁a▁+▁b<|fim_middle|>",
        "<eos>",
        "<bos>",
        "gemma",
    ),
}


def save_checkpoint(family: Family, folder: Path, assets: Path, stops: Sequence[str]) -> str:
    """Save tokenizer and model; each token of the answer is one of ``stops`` with probability 1/5.

    :returns: the folder's path.
    """
    tokenizer = _TOKENIZERS[family.kind](family, assets)
    tokenizer.save_pretrained(folder)
    model = _random_model(tokenizer, [tokenizer.convert_tokens_to_ids(stop) for stop in stops])
    model.save_pretrained(folder)
    return str(folder)


def _bytes(family: Family, assets: Path) -> Any:
    """The embedded byte-level tokenizer, its own control tokens out of sight."""
    content = json.loads((assets / "fim" / "tokenizer.json").read_text(encoding="utf-8"))
    for token in content["added_tokens"]:
        del content["model"]["vocab"][token["content"]]
        content["model"]["vocab"][f"unused{token['id']}"] = token["id"]
    content["added_tokens"] = []
    return _special(PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content))), family)


def _special(tokenizer: Any, family: Family) -> Any:
    named = {"eos_token": family.eos, "pad_token": family.eos, **({"bos_token": family.bos} if family.bos else {})}
    tokenizer.add_special_tokens({**named, "additional_special_tokens": list(family.control)})
    return tokenizer


def _pieces(*first: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A sentencepiece-like vocabulary: bytes, characters, and a few words with and without the space before them."""
    vocabulary = [*first, *(f"<0x{i:02X}>" for i in range(256)), "▁", *(chr(i) for i in range(33, 127))]
    merges: list[tuple[str, str]] = [("▁", "▁"), ("▁▁", "▁▁")]
    for word in ("def", "return", "f", "a", "b"):
        for start in (word, f"▁{word}"):
            merges += [(start[:i], start[i]) for i in range(1, len(start))]
    vocabulary += dict.fromkeys(a + b for a, b in merges)
    return {piece: i for i, piece in enumerate(vocabulary)}, list(dict.fromkeys(merges))


def _codellama(family: Family, assets: Path) -> Any:
    vocabulary, merges = _pieces("<unk>", "<s>", "</s>")
    return CodeLlamaTokenizer(vocab=vocabulary, merges=merges, pad_token="</s>")


def _sentencepiece(family: Family, assets: Path) -> Any:
    """As Llama's and Mistral's: a space is put before every text, and one is dropped when decoding."""
    vocabulary, merges = _pieces("<unk>", "<s>", "</s>")
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    strip = decoders.Strip(content=" ", left=1)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    return _special(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"), family)


def _gemma(family: Family, assets: Path) -> Any:
    """As Gemma's: no space before a text."""
    vocabulary, merges = _pieces("<pad>", "<eos>", "<bos>", "<unk>")
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _special(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"), family)


_TOKENIZERS = {"bytes": _bytes, "codellama": _codellama, "sentencepiece": _sentencepiece, "gemma": _gemma}


def _random_model(tokenizer: Any, stops: Sequence[int]) -> LlamaForCausalLM:
    torch.manual_seed(0)
    size = len(tokenizer)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    control = [i for i, token in tokenizer.added_tokens_decoder.items() if token.special and i not in stops]
    with torch.no_grad():
        # The first hidden value is a large constant that no layer touches, so its weight in the head is a bias.
        model.model.embed_tokens.weight[:, 0] = 5.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        unit = 5.0 / math.sqrt(25.0 / 32)  # after the norm, the other values being small
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[control, 0] = -20.0 / unit
        # Of `size` even tokens, the stops together have a fifth of the probability.
        model.lm_head.weight[list(stops), 0] = math.log(size / 4 / len(stops)) / unit
    return model
