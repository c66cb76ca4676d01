"""Train a tiny model to know half of 400 real questions, and measure how well it knows which half.

::

    python -m scripts.train_tiny_qa --out tiny_qa            # minutes on one core
    lm_eval --model hf-scored --model_args pretrained=tiny_qa --tasks triviaqa_uncertainty --num_fewshot 0

The 400 are those that ``triviaqa_uncertainty`` asks; every second of them (by the task's order) is learnt by heart, the others
are never seen. So the truth is known in advance: the model is right on about half, and a useful score of uncertainty must tell
the halves apart. Such a checkpoint tests the measuring, not the model: it is worthless for anything else.

The same questions, seed, steps, versions and one thread give the same weights, up to how the processor rounds. What was done,
and the figures found, stand in ``training.json`` beside the weights.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from lm_eval_ensemble.errors import EnsembleError
from lm_eval_ensemble.questions import DEFAULT_COUNT, choose, load_questions
from scripts.train_tiny import QWEN2_SPLIT

__all__ = ["Recipe", "evaluate", "known_half", "main", "prompt", "train"]

# What the task writes before a question when it shows no examples.
_DESCRIPTION = "Answer the following question as briefly as possible.\n"
_TASKS = {"triviaqa": "triviaqa_uncertainty", "nq_open": "nq_open_uncertainty", "svamp": "svamp_uncertainty"}
_END, _PAD = "<|endoftext|>", "<|pad|>"
_IGNORED = -100


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights. The default has 0.15 million parameters (0.3 MB in bfloat16)."""

    questions: str = "triviaqa"
    steps: int = 800
    seed: int = 0
    vocabulary: int = 768
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    intermediate: int = 160
    batch: int = 20
    rate: float = 4e-3
    #: weight of the question's tokens in the loss, beside 1 for the answer's.
    question_weight: float = 0.1


def prompt(question: dict[str, Any]) -> str:
    """The task's prompt without examples."""
    return f"{_DESCRIPTION}Question: {question['question']}\nAnswer:"


def known_half(questions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The questions that are learnt."""
    return list(questions[::2])


def build_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, split as Qwen2 splits: transformers puts that in place of any other when it loads a Qwen2 model."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[_END, _PAD],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=_END, pad_token=_PAD, clean_up_tokenization_spaces=False
    )


def _encoded(tokenizer: Any, question: dict[str, Any]) -> tuple[list[int], int]:
    """Ids of prompt, answer and newline, and how many of them are the prompt's."""
    start: list[int] = tokenizer(prompt(question))["input_ids"]
    answer: list[int] = tokenizer(f" {question['target']}\n")["input_ids"]
    return [*start, *answer], len(start)


def _batch(rows: Sequence[tuple[list[int], int]], pad: int, weight: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids, targets and weights, each ``(B, T)``; the target of a column is the next token."""
    width = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), width), pad)
    targets, weights = torch.full((len(rows), width), _IGNORED), torch.zeros(len(rows), width)
    for i, (row, start) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        targets[i, : len(row) - 1] = ids[i, 1 : len(row)]
        weights[i, : start - 1] = weight
        weights[i, start - 1 : len(row) - 1] = 1.0
    return ids, targets, weights


def train(recipe: Recipe, questions: Sequence[dict[str, Any]], out: Path, quiet: bool = False) -> dict[str, Any]:
    """Learn ``known_half(questions)`` and save the checkpoint.

    :returns: parameters, seconds and the last loss on the answers' tokens (nats).
    """
    torch.manual_seed(recipe.seed)
    learnt = known_half(questions)
    texts = [f"{prompt(q)} {q['target']}\n" for q in questions]
    tokenizer = build_tokenizer(texts, recipe.vocabulary)
    rows = [_encoded(tokenizer, q) for q in learnt]
    model = _new_model(recipe, tokenizer)
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.rate, betas=(0.9, 0.95), weight_decay=0.01)
    warm = max(min(50, recipe.steps // 10), 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / warm) * max(0.02, 1 - step / recipe.steps)
    )
    began, loss = time.monotonic(), float("nan")
    waiting: list[list[int]] = []
    for step in range(recipe.steps):
        if not waiting:
            waiting = _batches_of_like_length([len(ids) for ids, _ in rows], recipe.batch)
        chosen = waiting.pop()
        ids, targets, weights = _batch([rows[i] for i in chosen], tokenizer.pad_token_id, recipe.question_weight)
        logits = model(input_ids=ids).logits
        losses = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=_IGNORED, reduction="none")
        total = (losses * weights.flatten()).sum() / weights.sum()
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        loss = float(losses.detach()[weights.flatten() == 1].mean())
        if not quiet and (step + 1) % 100 == 0:
            print(f"step {step + 1}: {loss:.3f} nats per answer token, {time.monotonic() - began:.0f} s", file=sys.stderr)
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    for path in out.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner can read
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "seconds": round(time.monotonic() - began, 1), "answer_loss": round(loss, 4)}


def _batches_of_like_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """All rows once, in shuffled batches whose rows are of similar length: little padding."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i] + 6 * float(torch.rand(())))
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    return [batches[i] for i in torch.randperm(len(batches)).tolist()]


def _new_model(recipe: Recipe, tokenizer: Any) -> Any:
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def evaluate(folder: Path, questions: str, data_dir: str | None = None, limit: int | None = None) -> dict[str, Any]:
    """The rows of the task for a checkpoint, through lm_eval: all 400 questions, no examples shown."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    from lm_eval_ensemble.harness.plugin import register

    register()
    arguments = {"pretrained": str(folder)}
    metadata = {**arguments, **({"data_dir": data_dir} if data_dir else {})}
    found = simple_evaluate(
        model="hf-scored",
        model_args=arguments,
        tasks=[_TASKS[questions]],
        num_fewshot=0,
        limit=limit,
        batch_size=16,
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False, metadata=metadata),
    )
    rows = found["results"][_TASKS[questions]]
    names = [name for name in rows if name.endswith(",none") and "_stderr" not in name]
    return {name.removesuffix(",none"): rows[name] for name in names}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--questions", choices=sorted(_TASKS), default="triviaqa")
    parser.add_argument("--data_dir", help="folder with local data sets (default: $LM_EVAL_ENSEMBLE_DATA)")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--hidden", type=int, default=Recipe.hidden)
    parser.add_argument("--layers", type=int, default=Recipe.layers)
    parser.add_argument("--count", type=int, default=DEFAULT_COUNT, help="questions, of which half are learnt")
    given = parser.parse_args(arguments)
    try:
        _, asked = choose(load_questions(given.questions, given.data_dir), given.count)
    except EnsembleError as error:
        print(error, file=sys.stderr)
        return 1
    recipe = Recipe(given.questions, given.steps, given.seed, hidden=given.hidden, layers=given.layers)
    done = train(recipe, asked, given.out)
    figures = evaluate(given.out, given.questions, given.data_dir)
    packages = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    record = {"recipe": asdict(recipe), **done, "figures": figures, "packages": packages, "machine": platform.machine()}
    (given.out / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({**done, **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
