"""Train the embedded tiny pair on CPU: a FIM infiller and a masked-diffusion infiller, both Qwen2.

::

    python -m scripts.train_tiny corpus    --out corpus.json
    python -m scripts.train_tiny tokenizer --corpus corpus.json --out tok
    python -m scripts.train_tiny train --kind fim --corpus corpus.json --tokenizer tok --out trunk --steps 1000 \\
                                       --schedule constant
    python -m scripts.train_tiny train --kind fim --corpus corpus.json --init trunk --out fim --steps 2500
    python -m scripts.train_tiny train --kind mdm --corpus corpus.json --init trunk --out mdm --steps 2500 \\
                                       --batch-tokens 3840

The same file list, seed, steps, versions and one thread give the same weights, up to how the processor
rounds. ``training.json`` beside the weights records them. Needs torch 2.9 (Muon). One thread of a processor with
bfloat16 matrix products sees 4000 (fim) to 5800 (mdm) tokens a second; where they would be emulated all is float32.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from lm_eval_ensemble.errors import EnsembleError, ModelError
from scripts.tiny_corpus import Corpus, list_digest, load_corpus, read_file_list, select_files, write_file_list
from scripts.tiny_samples import (
    END,
    EXPAND,
    EXPAND_NAME,
    IGNORED,
    MASK,
    PAD,
    SPECIAL_TOKENS,
    Batch,
    Kind,
    batches,
    validation,
)

__all__ = [
    "QWEN2_SPLIT",
    "Recipe",
    "Shape",
    "Step",
    "build_tokenizer",
    "forward",
    "main",
    "new_model",
    "rename_token",
    "save",
    "train",
]

# How Qwen2 splits text before its byte-pair merges.
QWEN2_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
HAS_BFLOAT16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # products of such matrices, not emulated
_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors")


@dataclass(frozen=True)
class Shape:
    """Of the Qwen2 model; the default has 4.07 million parameters."""

    hidden: int = 256
    layers: int = 4
    heads: int = 4
    intermediate: int = 640


@dataclass(frozen=True)
class Recipe:
    """Everything but the corpus and the initial weights that decides what a training run gives.

    ``schedule`` is ``constant``, or ``decay``: constant for 40 % of the steps, then linear to almost nothing.
    """

    kind: Kind
    steps: int
    seed: int = 0
    schedule: Literal["constant", "decay"] = "decay"
    window: int = 384
    batch_tokens: int = 2560
    muon_rate: float = 0.015
    adam_rate: float = 3e-3
    warmup_steps: int = 10

    @property
    def is_causal(self) -> bool:
        return self.kind == "fim"

    def rate_factor(self, step: int) -> float:
        """What both learning rates are multiplied by at ``step`` (from 0)."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        if self.schedule == "constant":
            return warm
        return warm * min(1.0, (1 - step / self.steps) / 0.6 + 0.01)


@dataclass(frozen=True)
class Step:
    """After a step: how many are done, tokens seen, and the loss averaged over about 30 steps (nats per token)."""

    done: int
    tokens: int
    loss: float


# ----------------------------------------------------------------- tokenizer


def build_tokenizer(corpus: Corpus, vocabulary: int = 4096) -> PreTrainedTokenizerFast:
    """Byte-level BPE; the special tokens have the ids 0 to 5. Pad is not the stop token: attention skips pads."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(corpus.texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=SPECIAL_TOKENS[END],
        pad_token=SPECIAL_TOKENS[PAD],
        mask_token=SPECIAL_TOKENS[MASK],
        additional_special_tokens=list(SPECIAL_TOKENS[1:4]),
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


# --------------------------------------------------------------------- model


def new_model(vocabulary: int, shape: Shape, seed: int) -> Qwen2ForCausalLM:
    """Qwen2 with tied embeddings; what is added to the residual stream starts smaller, by the number of layers."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        intermediate_size=shape.intermediate,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        use_sliding_window=False,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.mul_(1 / math.sqrt(2 * shape.layers))
    return model


def forward(model: Any, inputs: torch.Tensor, *, causal: bool, pad: int = PAD) -> torch.Tensor:
    """Hidden states (B, T, H). Attention is causal or goes both ways; pads, on the right, are never seen.

    In transformers 5 the argument alone decides about mask and kernel; ``probe_attention`` checks that it does.
    """
    mask = None if causal else (inputs != pad).long()
    hidden: torch.Tensor = model.model(
        input_ids=inputs, attention_mask=mask, use_cache=False, is_causal=causal
    ).last_hidden_state
    return hidden


@torch.no_grad()
def probe_attention(model: Any, *, causal: bool, pad: int = PAD) -> None:
    """Refuse a model whose first position sees the last one when it must not, or does not when it must."""
    model.eval()
    # Tokens that were never trained can have equal rows, so the changed token is the one that is least like the one before.
    table = model.get_input_embeddings().weight
    distances = (table - table[15]).norm(dim=1)
    distances[pad] = 0
    for padding in (0, 3):
        inputs = torch.tensor([[10, 11, 12, 13, 14, 15] + [pad] * padding, list(range(10, 16 + padding))], device=table.device)
        changed = inputs.clone()
        changed[0, 5] = distances.argmax()
        first = [forward(model, tokens, causal=causal, pad=pad)[0, 0] for tokens in (inputs, changed)]
        if torch.equal(*first) != causal:
            found, expected = ("bidirectional", "causal") if causal else ("causal", "bidirectional")
            raise ModelError(
                f"Attention of {type(model).__name__} with {padding} pads: found {found}, expected {expected}. "
                "Use the transformers version that training.json names."
            )
    model.train()


def token_losses(model: Any, batch: Batch, *, causal: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss in nats and weight of each token that has a target, both (N,)."""
    device = batch.inputs.device.type
    with torch.autocast(device, torch.bfloat16, enabled=device != "cpu" or HAS_BFLOAT16):
        hidden = forward(model, batch.inputs, causal=causal, pad=batch.pad)[:, :-1].flatten(0, 1)
        targets = batch.targets[:, 1:].flatten()
        kept = (targets != IGNORED).nonzero()[:, 0]
        logits = functional.linear(hidden[kept], model.lm_head.weight)
    losses = functional.cross_entropy(logits.float(), targets[kept], reduction="none")
    return losses, batch.weights[:, 1:].flatten()[kept]


@torch.no_grad()
def validate(model: Any, held_out: Sequence[Batch], *, causal: bool) -> dict[str, float]:
    """Nats per held-out token (lower is better): of all targets, and of the middles alone."""
    if not held_out:
        return {}
    model.eval()
    pairs = [token_losses(model, batch, causal=causal) for batch in held_out]
    model.train()
    losses, weights = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    middle = losses[weights > 1] if causal else losses
    return {"all": round(losses.mean().item(), 3), "middle": round(middle.mean().item(), 3)}


# ------------------------------------------------------------------ training


def optimizers(model: Any, recipe: Recipe) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer, list[torch.Tensor]]:
    """Muon for the layers' matrices, AdamW for the rest (embeddings, norms, biases), and that rest, to be clipped."""
    matrices: list[torch.Tensor] = []
    rest: list[torch.Tensor] = []
    for name, parameter in model.named_parameters():
        (matrices if parameter.dim() == 2 and "embed" not in name else rest).append(parameter)
    if not HAS_BFLOAT16:
        from torch.optim import _muon

        _muon._zeropower_via_newtonschulz = _orthogonalised  # type: ignore[assignment]
    muon = torch.optim.Muon(matrices, lr=recipe.muon_rate, weight_decay=0.01, momentum=0.95)
    adam = torch.optim.AdamW(rest, lr=recipe.adam_rate, betas=(0.9, 0.95), weight_decay=0.0)
    return muon, adam, rest


def _orthogonalised(matrix: torch.Tensor, coefficients: Sequence[float], steps: int, eps: float) -> torch.Tensor:
    """What Muon does to a gradient (the quintic Newton-Schulz iteration, kellerjordan.github.io/posts/muon), in float32."""
    is_tall = matrix.size(0) > matrix.size(1)
    x: torch.Tensor = matrix.T if is_tall else matrix
    x = x / x.norm().clamp(min=eps)
    first, third, fifth = coefficients
    for _ in range(steps):
        square = x @ x.T
        x = first * x + (third * square + fifth * square @ square) @ x
    return x.T if is_tall else x


def train(model: Any, data: Iterator[Batch], recipe: Recipe) -> Iterator[Step]:
    """Train in place, one ``Step`` after each optimiser step; stops after ``recipe.steps``."""
    probe_attention(model, causal=recipe.is_causal)
    muon, adam, clipped = optimizers(model, recipe)
    tokens, average = 0, math.nan
    for step in range(recipe.steps):
        # 1) the learning rates of this step
        factor = recipe.rate_factor(step)
        muon.param_groups[0]["lr"] = recipe.muon_rate * factor
        adam.param_groups[0]["lr"] = recipe.adam_rate * factor
        # 2) the weighted mean loss
        batch = next(data)
        losses, weights = token_losses(model, batch, causal=recipe.is_causal)
        loss = (losses * weights).sum() / weights.sum()
        # 3) the update; Muon's does not depend on the gradient's size, so only the rest is clipped
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(clipped, 1.0)
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        tokens += batch.tokens
        average = loss.item() if step == 0 else 0.97 * average + 0.03 * loss.item()
        yield Step(step + 1, tokens, average)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a checkpoint in bfloat16 that stock ``Qwen2ForCausalLM`` and ``AutoTokenizer`` load."""
    stored = copy.deepcopy(model).to(torch.bfloat16)
    stored.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # written 0600


def rename_token(folder: Path, old: str, new: str) -> None:
    """Give a control token of a saved tokenizer another text."""
    for path in folder.glob("*token*.json"):
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def record(recipe: Recipe, shape: Shape, corpus_digest: str, init: Path | None, tokenizer: Any) -> dict[str, Any]:
    """What a run was made from, for ``training.json``; no times and no absolute paths."""
    return {
        "recipe": asdict(recipe),
        "shape": asdict(shape) if init is None else None,
        "threads": torch.get_num_threads(),
        "corpus_sha256": corpus_digest,
        "tokenizer_sha256": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "init_sha256": _sha256(init / "model.safetensors") if init else None,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
    }


# -------------------------------------------------------------- command line


def _corpus_command(options: argparse.Namespace) -> None:
    files = select_files()
    write_file_list(options.out, files)
    print(f"{options.out}: {len(files)} files, sha256 {list_digest(files)}")


def _tokenizer_command(options: argparse.Namespace) -> None:
    corpus = load_corpus(read_file_list(options.corpus), "train")
    tokenizer = build_tokenizer(corpus, options.vocabulary)
    tokenizer.save_pretrained(options.out)
    print(f"{options.out}: {len(tokenizer)} tokens from {len(corpus.files)} files")


def _train_command(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    recipe = Recipe(options.kind, options.steps, options.seed, options.schedule, batch_tokens=options.batch_tokens)
    files = read_file_list(options.corpus)
    # Not AutoTokenizer: beside a Qwen2 config it adds Qwen2's Unicode normaliser, which would be saved.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(options.init or options.tokenizer)
    if options.init:
        model = Qwen2ForCausalLM.from_pretrained(options.init, dtype=torch.float32)
    else:
        model = new_model(len(tokenizer), Shape(), recipe.seed)
    document = record(recipe, Shape(), list_digest(files), options.init, tokenizer)
    data = batches(
        load_corpus(files, "train"),
        tokenizer,
        recipe.kind,
        window=recipe.window,
        batch_tokens=recipe.batch_tokens,
        seed=recipe.seed,
    )
    held_out = validation(load_corpus(files, "held_out"), tokenizer, recipe.kind, window=recipe.window)
    history = []
    for step in train(model, data, recipe):
        if step.done % options.report_every == 0 or step.done == recipe.steps:
            found = validate(model, held_out, causal=recipe.is_causal)
            history.append({"step": step.done, "tokens": step.tokens, "train": round(step.loss, 3), **found})
            print(json.dumps(history[-1]), flush=True)
    save(model, tokenizer, options.out)
    if recipe.kind == "grow":
        rename_token(options.out, SPECIAL_TOKENS[EXPAND], EXPAND_NAME)
    document["history"] = history
    (options.out / "training.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.train_tiny", description="Train the embedded tiny pair.")
    commands = parser.add_subparsers(required=True)
    corpus = commands.add_parser("corpus", help="list this Python's corpus files with their hashes")
    corpus.add_argument("--out", type=Path, required=True)
    corpus.set_defaults(run=_corpus_command)
    tokenizer = commands.add_parser("tokenizer", help="learn the vocabulary")
    tokenizer.add_argument("--corpus", type=Path, required=True, help="file list")
    tokenizer.add_argument("--out", type=Path, required=True)
    tokenizer.add_argument("--vocabulary", type=int, default=4096)
    tokenizer.set_defaults(run=_tokenizer_command)
    training = commands.add_parser("train", help="train one member")
    training.add_argument("--kind", choices=["fim", "mdm", "grow"], required=True)
    training.add_argument("--corpus", type=Path, required=True, help="file list")
    start = training.add_mutually_exclusive_group(required=True)
    start.add_argument("--tokenizer", type=Path, help="start from random weights with this tokenizer")
    start.add_argument("--init", type=Path, help="start from this checkpoint and its tokenizer")
    training.add_argument("--out", type=Path, required=True)
    training.add_argument("--steps", type=int, required=True)
    training.add_argument("--schedule", choices=["constant", "decay"], default="decay")
    training.add_argument("--batch-tokens", type=int, default=Recipe.batch_tokens)
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--threads", type=int, default=1)
    training.add_argument("--report-every", type=int, default=100, metavar="STEPS", help="print and validate")
    training.set_defaults(run=_train_command)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 1 after an error of ours."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except EnsembleError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
