"""Small checkpoints in the layout of files that each family publishes, with random weights, and their forward passes written
by hand: plain tensors, no class of transformers.

Names of weights and keys of config.json are those of the published files; sizes are not.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers import AutoTokenizer

Weights = dict[str, Tensor]
Reference = Callable[[Tensor], Tensor]

VOCABULARY, HIDDEN, LAYERS, HEADS, INNER, EXPERTS = 4096, 32, 2, 4, 48, 4
MASK, END = 5, 0  # of the embedded tokenizer


@dataclass(frozen=True)
class StandIn:
    """``reference``: ids ``(L,)`` as the model gets them, frame and all -> its logits ``(L, V)``."""

    folder: Path
    reference: Reference
    shift: bool
    frame: tuple[int, int] | None = None
    class_name: str = ""
    own_forward: bool = False
    trust_remote_code: bool = False

    def predicted(self, ids: list[int], column: int) -> Tensor:
        """Logits ``(V,)`` that predict ``ids[column]``."""
        framed = [self.frame[0], *ids, self.frame[1]] if self.frame else ids
        source = column + bool(self.frame) - self.shift
        return self.reference(torch.tensor(framed))[max(source, 0)]


# Decoders: Llama, Qwen2 (biases), Qwen3 (norms of queries and keys), Granite (multipliers), all with full attention.


def decoder_weights(*, kv_heads: int = 2, biases: bool = False, qk_norm: bool = False, tied: bool = False) -> Weights:
    size = HIDDEN // HEADS
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        for part, rows in (("q", HEADS * size), ("k", kv_heads * size), ("v", kv_heads * size)):
            shapes[f"{at}.self_attn.{part}_proj.weight"] = (rows, HIDDEN)
            if biases:
                shapes[f"{at}.self_attn.{part}_proj.bias"] = (rows,)
            if qk_norm and part != "v":
                shapes[f"{at}.self_attn.{part}_norm.weight"] = (size,)
        shapes[f"{at}.self_attn.o_proj.weight"] = (HIDDEN, HEADS * size)
        shapes |= {f"{at}.mlp.{part}_proj.weight": (INNER, HIDDEN) for part in ("gate", "up")}
        shapes[f"{at}.mlp.down_proj.weight"] = (HIDDEN, INNER)
        shapes |= {f"{at}.{part}_layernorm.weight": (HIDDEN,) for part in ("input", "post_attention")}
    if not tied:
        shapes["lm_head.weight"] = (VOCABULARY, HIDDEN)
    return draw(shapes)


def draw(shapes: dict[str, tuple[int, ...]]) -> Weights:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) * 0.3 + (len(shape) == 1) for name, shape in shapes.items()}


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


#: how Llama 3 stretches its rotary positions; each of three frequencies of a head of 8 is treated in another way.
LLAMA3 = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 64}


def rotate(x: Tensor, theta: float, stretched: bool = False) -> Tensor:
    """Rotary positions of ``(L, heads, size)``, halves apart as in Llama."""
    length, _, size = x.shape
    rates = theta ** -(torch.arange(0, size, 2) / size)
    if stretched:
        turns = LLAMA3["original_max_position_embeddings"] * rates / (2 * math.pi)  # within the original context
        kept = (turns - LLAMA3["low_freq_factor"]) / (LLAMA3["high_freq_factor"] - LLAMA3["low_freq_factor"])
        kept = kept.clamp(0, 1)
        rates = kept * rates + (1 - kept) * rates / LLAMA3["factor"]
    angles = torch.arange(length)[:, None] * rates
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, seen: Tensor | None = None) -> Tensor:
    """Full attention of ``(L, heads, size)``; ``seen`` ``(L, L)`` where it is local. Returns ``(L, heads * size)``."""
    k, v = (part.repeat_interleave(q.shape[1] // part.shape[1], 1) for part in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    scores = scores if seen is None else scores.masked_fill(~seen, float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1)


def gated(x: Tensor, weights: Weights, at: str) -> Tensor:
    gate, up, down = (weights[f"{at}.{part}_proj.weight"].T for part in ("gate", "up", "down"))
    return (F.silu(x @ gate) * (x @ up)) @ down


def experts(x: Tensor, weights: Weights, at: str) -> Tensor:
    """The two most probable experts of each token, weighted by their probabilities, which do not sum to 1."""
    chances, chosen = (x @ weights[f"{at}.mlp.gate.weight"].T).softmax(-1).topk(2)
    every = torch.stack([gated(x, weights, f"{at}.mlp.experts.{i}") for i in range(EXPERTS)], 1)  # (L, E, H)
    return (every.gather(1, chosen[..., None].expand(-1, -1, x.shape[-1])) * chances[..., None]).sum(1)


def decoder(
    weights: Weights,
    *,
    theta: float = 1e6,
    stretched: bool = False,
    eps: float = 1e-6,
    kv_heads: int = 2,
    embedding_multiplier: float = 1.0,
    attention_multiplier: float | None = None,
    residual_multiplier: float = 1.0,
    logits_scaling: float = 1.0,
) -> Reference:
    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def logits(ids: Tensor) -> Tensor:
        x = weights["model.embed_tokens.weight"][ids] * embedding_multiplier
        for layer in range(LAYERS):
            at = f"model.layers.{layer}"
            h = rms_norm(x, weights[f"{at}.input_layernorm.weight"], eps)
            q = linear(h, f"{at}.self_attn.q_proj").view(len(ids), HEADS, -1)
            k, v = (linear(h, f"{at}.self_attn.{part}_proj").view(len(ids), kv_heads, -1) for part in "kv")
            if f"{at}.self_attn.q_norm.weight" in weights:
                q, k = (rms_norm(y, weights[f"{at}.self_attn.{n}_norm.weight"], eps) for y, n in ((q, "q"), (k, "k")))
            scale = attention_multiplier or 1 / math.sqrt(q.shape[-1])
            mixed = attend(rotate(q, theta, stretched), rotate(k, theta, stretched), v, scale)
            x = x + linear(mixed, f"{at}.self_attn.o_proj") * residual_multiplier
            h = rms_norm(x, weights[f"{at}.post_attention_layernorm.weight"], eps)
            mixture = f"{at}.mlp.gate.weight" in weights
            x = x + (experts(h, weights, at) if mixture else gated(h, weights, f"{at}.mlp")) * residual_multiplier
        head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
        return rms_norm(x, weights["model.norm.weight"], eps) @ head.T / logits_scaling

    return logits


_DECODER_CONFIG = {
    "attention_dropout": 0.0,
    "bos_token_id": None,
    "eos_token_id": END,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": INNER,
    "max_position_embeddings": 512,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.2",
    "use_cache": False,
    "vocab_size": VOCABULARY,
}


def dream(folder: Path, assets: Path) -> StandIn:
    """Dream, Dream-Coder, DiffuCoder: a Qwen2 under other names, whose tokenizer is a class of the checkpoint's own."""
    weights = decoder_weights(biases=True)
    own = {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"}
    windows = {"sliding_window": None, "max_window_layers": 28, "use_mrope": False, "use_sliding_window": False}
    kind = {"architectures": ["DreamModel"], "auto_map": own, "model_type": "Dream", "mask_token_id": MASK, "pad_token_id": END}
    write(folder, weights, {**_DECODER_CONFIG, **windows, **kind, "max_position_embeddings": 131072})
    write_dream_tokenizer(folder, assets)
    return StandIn(folder, decoder(weights), True, (1, END), "Qwen2ForCausalLM")


def write_dream_tokenizer(folder: Path, assets: Path) -> None:
    """Vocabulary, merges and added tokens in files of their own, and a class that transformers does not have."""
    content = json.loads((assets / "mdm" / "tokenizer.json").read_text())
    added = {token["content"]: token["id"] for token in content["added_tokens"]}
    vocabulary = {text: i for text, i in content["model"]["vocab"].items() if text not in added}
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["model"]["merges"]]
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    roles = {
        "bos_token": "<|fim_prefix|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "mask_token": "<|mask|>",
    }
    settings = {
        **roles,
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(i): {"content": text, **flags} for text, i in added.items()},
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": 131072,
        "tokenizer_class": "DreamTokenizer",
        "unk_token": None,
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    (folder / "added_tokens.json").write_text(json.dumps(added))
    (folder / "special_tokens_map.json").write_text(json.dumps(roles))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def a2d(folder: Path, assets: Path, kind: str) -> StandIn:
    """dllm's adapted models: stock classes under other names."""
    tied = kind == "qwen2"
    weights = decoder_weights(biases=kind == "qwen2", qk_norm=kind == "qwen3", tied=tied)
    sizes: dict[str, Any] = {"tie_word_embeddings": tied, "head_dim": HIDDEN // HEADS}
    if llama3 := kind == "llama":
        sizes |= {"rope_scaling": {**LLAMA3, "rope_type": "llama3"}, "rope_theta": 100.0}
    architecture = f"A2D{kind.capitalize()}LMHeadModel"
    write(folder, weights, {**_DECODER_CONFIG, **sizes, "architectures": [architecture], "model_type": f"a2d-{kind}"})
    write_tokenizer(folder, assets)
    reference = decoder(weights, theta=100.0 if llama3 else 1e6, stretched=llama3)
    return StandIn(folder, reference, False, None, f"{kind.capitalize()}ForCausalLM")


#: published name of a weight of LLaDA -> the one it has in ``decoder``.
_LLADA = {
    "transformer.wte.weight": "embed_tokens.weight",
    "transformer.ln_f.weight": "norm.weight",
    "transformer.blocks.{}.attn_norm.weight": "layers.{}.input_layernorm.weight",
    "transformer.blocks.{}.ff_norm.weight": "layers.{}.post_attention_layernorm.weight",
    "transformer.blocks.{}.q_proj.weight": "layers.{}.self_attn.q_proj.weight",
    "transformer.blocks.{}.k_proj.weight": "layers.{}.self_attn.k_proj.weight",
    "transformer.blocks.{}.v_proj.weight": "layers.{}.self_attn.v_proj.weight",
    "transformer.blocks.{}.attn_out.weight": "layers.{}.self_attn.o_proj.weight",
    "transformer.blocks.{}.ff_proj.weight": "layers.{}.mlp.gate_proj.weight",
    "transformer.blocks.{}.up_proj.weight": "layers.{}.mlp.up_proj.weight",
    "transformer.blocks.{}.ff_out.weight": "layers.{}.mlp.down_proj.weight",
}
LLADA_CONFIG = {
    "activation_type": "silu",
    "alibi": False,
    "alibi_bias_max": 8.0,
    "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM"},
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": HIDDEN,
    "embedding_dropout": 0.0,
    "embedding_size": VOCABULARY,
    "eos_token_id": END,
    "flash_attention": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "init_device": "meta",
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": MASK,
    "max_sequence_length": 512,
    "mlp_hidden_size": INNER,
    "mlp_ratio": 4,
    "model_type": "llada",
    "multi_query_attention": None,
    "n_heads": HEADS,
    "n_kv_heads": HEADS,
    "n_layers": LAYERS,
    "pad_token_id": END,
    "precision": "amp_bf16",
    "residual_dropout": 0.0,
    "rms_norm_eps": 1e-5,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 500000.0,
    "scale_logits": False,
    "transformers_version": "4.46.3",
    "use_cache": False,
    "vocab_size": VOCABULARY,
    "weight_tying": False,
}


def llada(folder: Path, assets: Path) -> StandIn:
    weights = decoder_weights(kv_heads=HEADS)
    names = {own.format(i): name.format(i) for own, name in _LLADA.items() for i in range(LAYERS)}
    published = {f"model.{own}": weights[f"model.{name}"] for own, name in names.items()}
    published["model.transformer.ff_out.weight"] = weights["lm_head.weight"]
    write(folder, published, LLADA_CONFIG)
    write_tokenizer(folder, assets, {"<|mask|>": "<|mdm_mask|>"}, mask_token=None)
    return StandIn(folder, decoder(weights, theta=5e5, eps=1e-5, kv_heads=HEADS), False, None, "LlamaForCausalLM")


def llada_moe(folder: Path, assets: Path) -> StandIn:
    """A mixture of experts under the names of Qwen3's, its settings under others."""
    weights = decoder_weights(kv_heads=HEADS, qk_norm=True)
    kept = {name: value for name, value in weights.items() if ".mlp." not in name}
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}.mlp"
        shapes[f"{at}.gate.weight"] = (EXPERTS, HIDDEN)
        for i in range(EXPERTS):
            shapes |= {f"{at}.experts.{i}.{part}_proj.weight": (16, HIDDEN) for part in ("gate", "up")}
            shapes[f"{at}.experts.{i}.down_proj.weight"] = (HIDDEN, 16)
    weights = kept | draw(shapes)
    own = dict.fromkeys(("AutoModel", "AutoModelForCausalLM"), "modeling_lladamoe.LLaDAMoEModelLM")
    config: dict[str, Any] = {**_DECODER_CONFIG}
    del config["intermediate_size"], config["bos_token_id"]
    config |= {
        "architectures": ["LLaDAMoEModelLM"],
        "model_type": "lladamoe",
        "num_key_value_heads": HEADS,
        "rms_norm_eps": 1e-5,
    }
    config |= {"auto_map": {"AutoConfig": "configuration_lladamoe.LLaDAMoEConfig", **own}, "attention_bias": False}
    config |= {"clip_qkv": None, "dense_intermediate_size": INNER, "expert_intermediate_size": 16, "moe_layer_freq": [1, 1]}
    config |= {"moe_router_enable_expert_bias": None, "moe_router_score_function": "softmax", "norm_topk_prob": None}
    config |= {"num_experts": EXPERTS, "num_experts_per_tok": 2, "partial_rotary_factor": 1, "qk_layernorm": True}
    config |= {"routed_scaling_factor": 1, "rope_theta": 5e4, "shared_expert_intermediate_size": None, "pad_token_id": 0}
    write(folder, weights, config)
    write_tokenizer(folder, assets, mask_token=None)
    reference = decoder(weights, theta=5e4, eps=1e-5, kv_heads=HEADS)
    return StandIn(folder, reference, False, None, "Qwen3MoeForCausalLM")


def granite(folder: Path, assets: Path) -> StandIn:
    """A class whose logits are more than its output layer's."""
    weights = decoder_weights()
    factors: dict[str, Any] = {
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.3,
        "residual_multiplier": 0.5,
        "logits_scaling": 4.0,
    }
    kind = {"architectures": ["GraniteForCausalLM"], "model_type": "granite", "attention_bias": False, "mlp_bias": False}
    write(folder, weights, {**_DECODER_CONFIG, **kind, **factors})
    write_tokenizer(folder, assets)
    return StandIn(folder, decoder(weights, **factors), True, None, "GraniteForCausalLM", own_forward=True)


# Encoders with a head of several layers.


def bert(folder: Path, assets: Path) -> StandIn:
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        shapes.update({f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)})

    def norm(name: str) -> None:
        shapes.update({f"{name}.weight": (HIDDEN,), f"{name}.bias": (HIDDEN,)})

    for table, rows in (("word", VOCABULARY), ("position", 512), ("token_type", 2)):
        shapes[f"bert.embeddings.{table}_embeddings.weight"] = (rows, HIDDEN)
    norm("bert.embeddings.LayerNorm")
    for layer in range(LAYERS):
        at = f"bert.encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            linear(f"{at}.attention.self.{part}", HIDDEN, HIDDEN)
        linear(f"{at}.attention.output.dense", HIDDEN, HIDDEN)
        norm(f"{at}.attention.output.LayerNorm")
        linear(f"{at}.intermediate.dense", INNER, HIDDEN)
        linear(f"{at}.output.dense", HIDDEN, INNER)
        norm(f"{at}.output.LayerNorm")
    linear("cls.predictions.transform.dense", HIDDEN, HIDDEN)
    norm("cls.predictions.transform.LayerNorm")
    shapes["cls.predictions.bias"] = (VOCABULARY,)
    w = draw(shapes)

    def dense(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def normed(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (HIDDEN,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)

    def logits(ids: Tensor) -> Tensor:
        words, places, types = (w[f"bert.embeddings.{t}_embeddings.weight"] for t in ("word", "position", "token_type"))
        x = normed(words[ids] + places[: len(ids)] + types[0], "bert.embeddings.LayerNorm")
        for layer in range(LAYERS):
            at = f"bert.encoder.layer.{layer}"
            q, k, v = (dense(x, f"{at}.attention.self.{n}").view(len(ids), HEADS, -1) for n in ("query", "key", "value"))
            mixed = dense(attend(q, k, v, 1 / math.sqrt(q.shape[-1])), f"{at}.attention.output.dense")
            x = normed(x + mixed, f"{at}.attention.output.LayerNorm")
            inner = dense(F.gelu(dense(x, f"{at}.intermediate.dense")), f"{at}.output.dense")
            x = normed(x + inner, f"{at}.output.LayerNorm")
        h = normed(F.gelu(dense(x, "cls.predictions.transform.dense")), "cls.predictions.transform.LayerNorm")
        return h @ words.T + w["cls.predictions.bias"]

    config = {
        "architectures": ["BertForMaskedLM"],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "model_type": "bert",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "pad_token_id": 4,
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "vocab_size": VOCABULARY,
    }
    # Published files hold the head of another task as well.
    extra = {"cls.seq_relationship.weight": torch.zeros(2, HIDDEN), "cls.seq_relationship.bias": torch.zeros(2)}
    write(folder, {**w, **extra}, config)
    write_masked_tokenizer(folder, assets)
    return StandIn(folder, logits, False, (1, 3), "BertForMaskedLM", own_forward=True)


def modernbert(folder: Path, assets: Path) -> StandIn:
    """Every third layer attends to everything, the others to four places on either side; gated units, no biases."""
    layers, window = 4, 8
    shapes: dict[str, tuple[int, ...]] = {"model.embeddings.tok_embeddings.weight": (VOCABULARY, HIDDEN)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.attn.Wqkv.weight": (3 * HIDDEN, HIDDEN), f"{at}.attn.Wo.weight": (HIDDEN, HIDDEN)}
        shapes |= {f"{at}.mlp.Wi.weight": (2 * INNER, HIDDEN), f"{at}.mlp.Wo.weight": (HIDDEN, INNER)}
        shapes |= {f"{at}.mlp_norm.weight": (HIDDEN,)} | ({f"{at}.attn_norm.weight": (HIDDEN,)} if layer else {})
    shapes |= {"model.embeddings.norm.weight": (HIDDEN,), "model.final_norm.weight": (HIDDEN,), "head.norm.weight": (HIDDEN,)}
    shapes |= {"head.dense.weight": (HIDDEN, HIDDEN), "decoder.bias": (VOCABULARY,)}
    w = draw(shapes)

    def normed(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (HIDDEN,), w[f"{name}.weight"], None, 1e-5) if f"{name}.weight" in w else x

    def logits(ids: Tensor) -> Tensor:
        places = torch.arange(len(ids))
        near = (places[:, None] - places).abs() <= window // 2
        x = normed(w["model.embeddings.tok_embeddings.weight"][ids], "model.embeddings.norm")
        for layer in range(layers):
            at, whole = f"model.layers.{layer}", layer % 3 == 0
            joint = normed(x, f"{at}.attn_norm") @ w[f"{at}.attn.Wqkv.weight"].T
            q, k, v = joint.view(len(ids), 3, HEADS, -1).unbind(1)
            theta = 160000.0 if whole else 10000.0
            mixed = attend(rotate(q, theta), rotate(k, theta), v, 1 / math.sqrt(q.shape[-1]), None if whole else near)
            x = x + mixed @ w[f"{at}.attn.Wo.weight"].T
            value, gate = (normed(x, f"{at}.mlp_norm") @ w[f"{at}.mlp.Wi.weight"].T).chunk(2, -1)
            x = x + (F.gelu(value) * gate) @ w[f"{at}.mlp.Wo.weight"].T
        h = F.gelu(normed(x, "model.final_norm") @ w["head.dense.weight"].T)
        return normed(h, "head.norm") @ w["model.embeddings.tok_embeddings.weight"].T + w["decoder.bias"]

    config = {
        "architectures": ["ModernBertForMaskedLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "classifier_activation": "gelu",
        "classifier_bias": False,
        "cls_token_id": 1,
        "decoder_bias": True,
        "embedding_dropout": 0.0,
        "eos_token_id": 3,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "hidden_activation": "gelu",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "layer_norm_eps": 1e-5,
        "local_attention": window,
        "local_rope_theta": 10000.0,
        "max_position_embeddings": 512,
        "mlp_bias": False,
        "mlp_dropout": 0.0,
        "model_type": "modernbert",
        "norm_bias": False,
        "norm_eps": 1e-5,
        "num_attention_heads": HEADS,
        "num_hidden_layers": layers,
        "pad_token_id": 4,
        "sep_token_id": 3,
        "transformers_version": "4.47.0.dev0",
        "vocab_size": VOCABULARY,
    }
    write(folder, w, config)
    write_masked_tokenizer(folder, assets)
    return StandIn(folder, logits, False, (1, 3), "ModernBertForMaskedLM", own_forward=True)


# A model that comes with its own code, has its output layer inside, and does not look at an attention mask.

OWN_CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast


class OwnConfig(PretrainedConfig):
    model_type = "own"


class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.words = torch.nn.Embedding(config.vocab_size, config.width)
        self.places = torch.nn.Parameter(torch.zeros(512, config.vocab_size))
        self.post_init()

    def get_input_embeddings(self):
        return self.words

    def forward(self, input_ids, attention_mask=None):
        x = self.words(input_ids)
        context = torch.cumsum(x, 1) if self.config.causal else x.sum(1, keepdim=True).expand_as(x)
        logits = torch.tanh(context) @ self.words.weight.T + self.places[: input_ids.shape[1]]
        return CausalLMOutputWithPast(logits=logits)
"""


def own_code(folder: Path, assets: Path, *, causal: bool = False, places: Tensor | None = None) -> StandIn:
    """``places`` ``(512, V)`` is added to the logits of each place, whatever the text."""
    weights = draw({"words.weight": (VOCABULARY, HIDDEN)})
    weights["places"] = torch.zeros(512, VOCABULARY) if places is None else places
    own = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}
    kind = {"architectures": ["OwnModel"], "auto_map": own, "model_type": "own", "causal": causal, "width": HIDDEN}
    write(folder, weights, {**kind, "vocab_size": VOCABULARY, "eos_token_id": END})
    (folder / "modeling_own.py").write_text(OWN_CODE)
    write_tokenizer(folder, assets)

    def logits(ids: Tensor) -> Tensor:
        words = weights["words.weight"]
        return torch.tanh(words[ids].sum(0)) @ words.T + weights["places"][: len(ids)]

    return StandIn(folder, logits, True, None, "OwnModel", own_forward=True, trust_remote_code=True)


# Files.


def write(folder: Path, weights: Weights, config: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))


def write_tokenizer(folder: Path, assets: Path, renamed: dict[str, str] | None = None, **roles: str | None) -> None:
    """The embedded tokenizer, control tokens renamed."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (assets / "mdm" / name).read_text()
        for old, new in (renamed or {}).items():
            text = text.replace(old, new)
        (folder / name).write_text(text)
    path = folder / "tokenizer_config.json"
    settings = {**json.loads(path.read_text()), **roles}
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not None or name not in roles}))


def write_masked_tokenizer(folder: Path, assets: Path) -> None:
    """That of a masked language model: texts stand between [CLS] and [SEP]."""
    renamed = {"<|mask|>": "[MASK]", "<|fim_prefix|>": "[CLS]", "<|fim_suffix|>": "[SEP]", "<|fim_pad|>": "[PAD]"}
    roles = {"mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "eos_token": None}
    write_tokenizer(folder, assets, renamed, **roles, bos_token=None)


def tiny_as(folder: Path, assets: Path, **config: Any) -> None:
    """The embedded diffusion model, trained with a shift, under another config.json."""
    shutil.copytree(assets / "mdm", folder, dirs_exist_ok=True)
    path = folder / "config.json"
    settings = {**json.loads(path.read_text()), **config}
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))
    AutoTokenizer.from_pretrained(assets / "mdm").save_pretrained(folder)


STAND_INS: dict[str, Callable[[Path, Path], StandIn]] = {
    "dream": dream,
    "a2d-qwen2": lambda folder, assets: a2d(folder, assets, "qwen2"),
    "a2d-qwen3": lambda folder, assets: a2d(folder, assets, "qwen3"),
    "a2d-llama": lambda folder, assets: a2d(folder, assets, "llama"),
    "llada": llada,
    "llada-moe": llada_moe,
    "granite": granite,
    "bert": bert,
    "modernbert": modernbert,
    "own-code": own_code,
}
