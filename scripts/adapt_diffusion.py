"""Continue an autoregressive checkpoint as a masked-diffusion infiller of the same family, on CPU or GPU.

::

    python -m scripts.train_tiny corpus --out corpus.json
    python -m scripts.adapt_diffusion CHECKPOINT --corpus corpus.json --out adapted --steps 300 --lora 16

The published recipe in small (Dream, arXiv 2508.15487; DiffuLLaMA, arXiv 2410.17891; Open-dLLM): attention goes both ways,
spans of the text are masked, the state before a masked position predicts its token (shift), which is what an autoregressive
model does already, and the loss is on masked tokens alone. All weights are trained, or adapters of rank ``--lora`` (LoRA,
arXiv 2106.09685) that are merged at the end. A run that is ended goes on from its last saved step with the same batches.
``training.json`` beside the weights lists what was read and its licences. Needs peft with ``--lora``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lm_eval_ensemble.errors import DataError, EnsembleError, missing_weights
from scripts.tiny_corpus import STDLIB, CorpusFile, list_digest, load_corpus, read_file_list
from scripts.tiny_samples import Batch, batches, validation
from scripts.train_tiny import probe_attention, token_losses, validate

__all__ = ["Adaptation", "adapt", "add_mask", "main"]

MASK_NAME = "<|mask|>"
STATE = "state.pt"


@dataclass(frozen=True)
class Adaptation:
    """Everything but the checkpoint and the corpus that decides what comes out. ``lora``: rank of the adapters, 0 trains all
    weights; ``rate``: the highest learning rate, reached after a tenth of the steps and falling to 0 in a straight line."""

    steps: int
    lora: int = 16
    rate: float = 2e-4
    window: int = 384
    batch_tokens: int = 3072
    seed: int = 0

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied by at ``step`` (from 0)."""
        warm = max(1, self.steps // 10)
        return min((step + 1) / warm, (self.steps - step) / max(1, self.steps - warm))


def add_mask(model: Any, tokenizer: Any) -> int:
    """The id of the mask token: the tokenizer's, or a new one whose row is the mean of all others."""
    if tokenizer.mask_token_id is None:
        tokenizer.add_special_tokens({"mask_token": MASK_NAME})
        rows = model.get_input_embeddings().weight.shape[0]
        if len(tokenizer) > rows:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        with torch.no_grad():
            for table in {
                id(t.weight): t.weight for t in (model.get_input_embeddings(), model.get_output_embeddings())
            }.values():
                table[tokenizer.mask_token_id] = table[: tokenizer.mask_token_id].mean(0)
    return int(tokenizer.mask_token_id)


def adapt(model: Any, tokenizer: Any, files: Sequence[CorpusFile], how: Adaptation, out: Path, save_every: int = 100) -> Any:
    """Train, print a line of JSON per saved step, and return the model with its adapters merged.

    :param out: where ``state.pt`` of an ended run is looked for and saved steps are kept.
    :raises DataError: the state there is of other settings.
    """
    mask, pad = add_mask(model, tokenizer), _pad(tokenizer)
    probe_attention(model, causal=False, pad=pad)
    torch.manual_seed(how.seed)
    trained = _with_adapters(model, how.lora) if how.lora else model
    weights = {name: weight for name, weight in trained.named_parameters() if weight.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=how.rate, betas=(0.9, 0.95), weight_decay=0.01)
    done = _resume(out / STATE, how, weights, optimizer)
    sizes = {"window": how.window, "mask": mask, "pad": pad}
    data = batches(load_corpus(files, "train"), tokenizer, "mdm", batch_tokens=how.batch_tokens, seed=how.seed, **sizes)
    held_out = validation(load_corpus(files, "held_out"), tokenizer, "mdm", count=32, **sizes)
    device = next(model.parameters()).device
    held_out = [_on(batch, device) for batch in held_out]
    tokens, started = 0, time.monotonic()
    # The batches of the steps that were done are drawn again and passed over: the stream goes on where it was.
    for step, batch in enumerate(islice(data, done, how.steps), start=done):
        optimizer.param_groups[0]["lr"] = how.rate * how.factor(step)
        losses, _ = token_losses(model, _on(batch, device), causal=False)
        losses.mean().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += batch.tokens
        if (step + 1) % save_every == 0 or step + 1 == how.steps:
            _save_state(out / STATE, how, step + 1, weights, optimizer)
            speed = tokens / max(time.monotonic() - started, 1e-9)
            line = {"step": step + 1, "loss": round(losses.mean().item(), 3), "tokens_per_s": round(speed)}
            print(json.dumps({**line, **validate(model, held_out, causal=False)}), flush=True)
    return trained.merge_and_unload() if how.lora else model


def _with_adapters(model: Any, rank: int) -> Any:
    from peft import LoraConfig, get_peft_model

    # Put into the layers in place, so that the model itself computes with them.
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"))


def _pad(tokenizer: Any) -> int:
    """What fills rows; it is never attended to, so any token that does not stand in code will do."""
    found = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if found is None:
        raise DataError(f"{tokenizer.name_or_path}: its tokenizer has neither a pad nor an end token; one of them is needed.")
    return int(found)


def _on(batch: Batch, device: torch.device) -> Batch:
    return Batch(batch.inputs.to(device), batch.targets.to(device), batch.weights.to(device), batch.pad)


def _save_state(path: Path, how: Adaptation, step: int, weights: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    kept = {name: weight.detach() for name, weight in weights.items()}
    torch.save({"how": asdict(how), "step": step, "weights": kept, "optimizer": optimizer.state_dict()}, partial)
    partial.replace(path)


def _resume(path: Path, how: Adaptation, weights: dict[str, Any], optimizer: torch.optim.Optimizer) -> int:
    """Steps that are done already."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["how"] != asdict(how):
        raise DataError(f"{path}: found a run with {state['how']}, expected {asdict(how)}. Give another --out, or remove it.")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(state["weights"][name])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _licences(files: Sequence[CorpusFile]) -> dict[str, str]:
    """Of each package whose files are trained on, as it states itself."""
    found = {}
    for package in sorted({file.package for file in files}):
        if package == STDLIB:
            found[package] = "PSF-2.0"
            continue
        told = importlib.metadata.metadata(package)
        named = [line.rsplit(" :: ", 1)[-1] for line in told.get_all("Classifier") or [] if line.startswith("License ::")]
        stated = [told[field] for field in ("License-Expression", "License") if field in told]
        found[package] = (stated[:1] or [", ".join(named) or "not stated"])[0]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 1 after an error of ours."""
    about, _, _ = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(prog="python -m scripts.adapt_diffusion", description=about)
    parser.add_argument("checkpoint")
    parser.add_argument("--corpus", type=Path, required=True, help="file list of `python -m scripts.train_tiny corpus`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--lora", type=int, default=Adaptation.lora, metavar="RANK", help="0: all weights")
    parser.add_argument("--rate", type=float, default=Adaptation.rate)
    parser.add_argument("--window", type=int, default=Adaptation.window, help="tokens of a sample")
    parser.add_argument("--batch-tokens", type=int, default=Adaptation.batch_tokens)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save-every", type=int, default=100, metavar="STEPS", help="save, validate and print")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    how = Adaptation(options.steps, options.lora, options.rate, options.window, options.batch_tokens, options.seed)
    try:
        files = read_file_list(options.corpus)
        try:
            tokenizer = AutoTokenizer.from_pretrained(options.checkpoint)
            model = AutoModelForCausalLM.from_pretrained(options.checkpoint, dtype=torch.float32).to(options.device)
        except (OSError, ValueError) as error:
            raise missing_weights(options.checkpoint, error) from error
        adapted = adapt(model, tokenizer, files, how, options.out, options.save_every)
    except EnsembleError as error:
        print(error, file=sys.stderr)
        return 1
    adapted.to(torch.bfloat16).save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    document = {"recipe": asdict(how), "corpus_sha256": list_digest(files), "licences": _licences(files)}
    (options.out / "training.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (options.out / STATE).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
