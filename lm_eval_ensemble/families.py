"""Published families of masked-diffusion models: how each is recognised, loaded and read, and where that stands.

A family is one entry of ``FAMILIES``; ``config.json`` chooses it, ``family=`` overrides the choice, and ``shift=`` and
``mask_token=`` override what it says. Nothing here is trusted blindly: what a family claims is checked when its weights are
loaded (``diffusion.probe``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lm_eval_ensemble.errors import ModelError

__all__ = ["FAMILIES", "Family", "find_family"]


@dataclass(frozen=True)
class Family:
    """One family.

    name, of: what it is called here; the checkpoints, in words. source: where all of this was read.

    Recognised by config.json, in the order of the table, by what is given of: types (``model_type`` -> the model type of
    transformers whose class computes the same; None: only the checkpoint's own code does; beginnings of it where the family is
    refused, as there are offshoots), architectures (parts of its class names), keys (settings it must have) and names (parts of
    the checkpoint's name); upper and lower case are the same.

    shift: the state before a position predicts it; None: the probe at load decides. masks: the mask token by its text or id,
    where the files do not tell. blocks: why it is refused, if it is: a token sees its block and those before, but not what
    follows. framed: texts stand between the tokens that open and close one. masked_head: the class is one ``ForMaskedLM``.
    tokenizer: the class of transformers that reads its tokenizer files. context: tokens it was trained on, where its
    configuration promises more. settings: config.json's names -> those of the class; needs: settings without which the class
    does not compute the same; weights: patterns of weight names -> those of the class, applied in this order.
    """

    name: str
    of: str
    source: str
    types: Mapping[str, str | None] = field(default_factory=dict)
    architectures: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    shift: bool | None = None
    masks: tuple[str | int, ...] = ()
    blocks: str = ""
    framed: bool = False
    masked_head: bool = False
    tokenizer: str | None = None
    context: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    needs: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)

    def fits(self, pretrained: str, config: Mapping[str, Any]) -> bool:
        """Whether this is the family of a checkpoint, by its name and its config.json."""
        kind, types = str(config.get("model_type", "")).lower(), tuple(map(str.lower, self.types))
        classes = " ".join(config.get("architectures") or ()).lower()
        return (
            (not self.types or kind in types or (bool(self.blocks) and kind.startswith(types)))
            and (not self.architectures or any(part.lower() in classes for part in self.architectures))
            and all(config.get(key) is not None for key in self.keys)
            and (not self.names or any(part in pretrained.lower() for part in self.names))
        )

    @property
    def told(self) -> str:
        """Shift and mask in a line."""
        shift = {
            True: "the state before a position predicts it",
            False: "the state at it predicts it",
            None: "shift by a probe",
        }
        masks = f", else {' or '.join(map(str, self.masks))}" if self.masks else ""
        return f"{shift[self.shift]}; mask as its files say{masks}"

    def stock_type(self, config: Mapping[str, Any]) -> str | None:
        """The model type of transformers that computes the same, or None."""
        kind = str(config.get("model_type", ""))
        found = {name.lower(): stock for name, stock in self.types.items()}
        # A type that the family does not list, where family= was given: there is only one choice, or the type itself.
        (other,) = set(found.values()) if len(set(found.values())) == 1 else (kind,)
        return found.get(kind.lower(), other)


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_A2D = {"a2d-qwen2": "qwen2", "a2d-qwen3": "qwen3", "a2d-llama": "llama"}

#: the first that fits wins; the last one fits everything.
_TABLE = (
    Family(
        "stable-diffcoder",
        "Stable-DiffCoder 8B",
        "modeling_stable_diffcoder.py of ByteDance-Seed/Stable-DiffCoder-8B-Base; its README: block diffusion",
        {"llama": None},
        ("diffcoder",),
        blocks="its attention is block-causal",
    ),
    Family(
        "llada2",
        "LLaDA 2.0, 2.1",
        "ZHZisZZ/dllm, pipelines/llada2/models/modeling_llada2_moe.py, generate()",
        dict.fromkeys(("llada2", "llada21")),
        blocks="its attention is block-causal",
    ),
    Family(
        "sdar",
        "SDAR, TraDo",
        "SDAR, arXiv 2510.06303; its configuration_sdar.py",
        {"sdar": None},
        blocks="its attention is block-causal",
    ),
    Family(
        "fast-dllm-v2",
        "Fast-dLLM v2",
        "Fast-dLLM v2, arXiv 2509.26328; its configuration.py",
        {"Fast_dLLM": None},
        blocks="its attention is block-causal",
    ),
    Family(
        "bd3lm-owt",
        "BD3-LMs of their authors",
        "BD3-LM, arXiv 2503.09573",
        {"bd3lm": None},
        blocks="its attention is block-causal",
    ),
    Family(
        "bd3lm",
        "dllm's models with bd3lm in their name, whose config.json is that of a2d",
        "BD3-LM, arXiv 2503.09573; ZHZisZZ/dllm, examples/a2d/README.md",
        dict.fromkeys(_A2D),
        names=("bd3lm",),
        blocks="it was trained with block-causal attention",
    ),
    Family(
        "diffusion-gemma",
        "DiffusionGemma",
        "transformers, models/diffusion_gemma",
        {"diffusion_gemma": None},
        blocks="it denoises one block after a causal prefix",
    ),
    Family(
        "dream-blocks",
        "Dream's later models with a block_size in their configuration",
        "zhijie-group/Diffulex, configuration of dream_reasoner",
        {"Dream": None},
        keys=("block_size",),
        blocks="its attention is block-causal",
    ),
    Family(
        "dream",
        "Dream 7B, Dream-Coder 7B, DiffuCoder 7B, DreamOn 7B",
        "ZHZisZZ/dllm, pipelines/dream/models/; DreamLM/DreamOn, eval/generator.py (shift, frame) and readme.md (2048 tokens)",
        {"Dream": "qwen2"},
        shift=True,
        masks=("<|mask|>", 151666),
        framed=True,
        tokenizer="Qwen2Tokenizer",
        context=2048,
    ),
    Family(
        "llada-moe",
        "LLaDA-MoE 7B-A1B",
        "ZHZisZZ/dllm, pipelines/llada/models/modeling_lladamoe.py (full attention; weights of experts are not normalised)",
        {"llada": "qwen3_moe", "lladamoe": "qwen3_moe"},
        ("LLaDAMoE",),
        shift=False,
        masks=("<|mask|>",),
        settings={
            "expert_intermediate_size": "moe_intermediate_size",
            **_same("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_act"),
            **_same("num_experts", "num_experts_per_tok", "vocab_size", "max_position_embeddings", "rms_norm_eps"),
            **_same("rope_theta", "attention_bias", "tie_word_embeddings", "eos_token_id", "pad_token_id"),
        },
        needs={"qk_layernorm": True, "clip_qkv": None, "partial_rotary_factor": 1, "rope_scaling": None},
    ),
    Family(
        "llada",
        "LLaDA 8B, LLaDA 1.5",
        "ML-GSAI/LLaDA, generate.py; ZHZisZZ/dllm, pipelines/llada/models/modeling_llada.py",
        {"llada": "llama"},
        shift=False,
        masks=("<|mdm_mask|>", 126336),
        settings={
            "d_model": "hidden_size",
            "n_layers": "num_hidden_layers",
            "n_heads": "num_attention_heads",
            "n_kv_heads": "num_key_value_heads",
            "mlp_hidden_size": "intermediate_size",
            "embedding_size": "vocab_size",
            "max_sequence_length": "max_position_embeddings",
            "weight_tying": "tie_word_embeddings",
            **_same("rms_norm_eps", "rope_theta", "eos_token_id", "pad_token_id", "mask_token_id"),
        },
        needs={
            "block_type": "llama",
            "activation_type": "silu",
            "layer_norm_type": "rms",
            "rope": True,
            "alibi": False,
            "attention_layer_norm": False,
            "bias_for_layer_norm": False,
            "block_group_size": 1,
            "include_bias": False,
            "include_qkv_bias": False,
            "input_emb_norm": False,
            "layer_norm_with_affine": True,
            "scale_logits": False,
        },
        weights={
            "model.transformer.ff_out.": "lm_head.",
            "model.transformer.wte.": "model.embed_tokens.",
            "model.transformer.ln_f.": "model.norm.",
            "model.transformer.blocks.": "model.layers.",
            ".attn_norm.": ".input_layernorm.",
            ".ff_norm.": ".post_attention_layernorm.",
            ".q_proj.": ".self_attn.q_proj.",
            ".k_proj.": ".self_attn.k_proj.",
            ".v_proj.": ".self_attn.v_proj.",
            ".attn_out.": ".self_attn.o_proj.",
            ".ff_proj.": ".mlp.gate_proj.",
            ".up_proj.": ".mlp.up_proj.",
            ".ff_out.": ".mlp.down_proj.",
        },
    ),
    Family(
        "a2d",
        "dllm's adapted models (mdlm), as Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm and Qwen3-0.6B-diffusion-mdlm",
        "ZHZisZZ/dllm, pipelines/a2d/models/ and core/samplers/mdlm.py",
        _A2D,
        shift=False,
        masks=("<|mask|>",),
    ),
    Family(
        "masked-lm",
        "BERT, RoBERTa, ModernBERT and other masked language models",
        "transformers, ForMaskedLM classes; ZHZisZZ/dllm, pipelines/bert",
        architectures=("ForMaskedLM",),
        shift=False,
        masks=("[MASK]", "<mask>"),
        framed=True,
        masked_head=True,
    ),
    Family(
        "open-dcoder",
        "Open-dCoder 0.5B and other Qwen2 checkpoints",
        "pengzhangzhi/Open-dLLM, veomni/models/transformers/qwen2/generation_utils.py and tasks/train_torch.py",
        {"qwen2": "qwen2"},
        ("Qwen2ForCausalLM",),
        shift=True,
        masks=("<M>",),
    ),
    Family(
        "other",
        "any other model that transformers knows, or that brings its own code",
        "the checkpoint itself: shift by the probe at load",
    ),
)
FAMILIES: Mapping[str, Family] = {family.name: family for family in _TABLE}


def find_family(pretrained: str, config: Mapping[str, Any], name: str | None = None) -> Family:
    """The family of a checkpoint: the one named, else the first that fits.

    :param config: its config.json.
    :raises ModelError: it can't fill gaps here.
    """
    fitting = [family for family in FAMILIES.values() if family.fits(pretrained, config)]
    family = FAMILIES[name] if name else fitting[0]
    if family.blocks:
        full = [known.name for known in FAMILIES.values() if not known.blocks]
        another = next(known.name for known in fitting if not known.blocks)
        advice = f", or say family={another} if it only has that name" if family.names else ""
        raise ModelError(
            f"{pretrained!r} is of the family {family.name} ({family.of}), and {family.blocks}: a gap in its middle would not "
            f"see the text after its block. Take a model with full attention{advice}; known families: {', '.join(full)}."
        )
    return family
