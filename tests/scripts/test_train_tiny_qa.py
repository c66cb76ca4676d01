"""The tiny question-answering model: what it is taught, and that what it does not know shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lm_eval_ensemble.questions import choose, load_questions
from scripts.train_tiny_qa import Recipe, evaluate, known_half, prompt, train

SAVED = Path(__file__).parent.parent / "assets" / "tiny_qa"
QUESTIONS: list[dict[str, Any]] = [
    {"question": f"Who is number {i}, \"the {word}\"?", "target": f"{word.title()} {i}"}
    for i, word in enumerate(("red", "blue", "green", "old", "young", "wise", "tall", "late"))
]  # fmt: skip


def greedy_is_the_target(folder: Path, question: dict[str, Any]) -> bool:
    """As loaded from disk: transformers may put another tokenizer in place of the one that was saved."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer(prompt(question), return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = model.generate(ids, max_new_tokens=16, do_sample=False)[0, ids.shape[1] :]
    return bool(tokenizer.decode(out).split("\n")[0] == f" {question['target']}")


def test_half_is_learnt_by_heart(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    recipe = Recipe(steps=150, vocabulary=320, hidden=32, batch=4, rate=1e-2)
    done = train(recipe, QUESTIONS, tmp_path, quiet=True)
    assert done["answer_loss"] < 0.5
    assert done["parameters"] < 60_000
    known = known_half(QUESTIONS)
    assert [q["target"] for q in known] == ["Red 0", "Green 2", "Young 4", "Tall 6"]
    assert all(greedy_is_the_target(tmp_path, q) for q in known)
    assert not any(greedy_is_the_target(tmp_path, q) for q in QUESTIONS if q not in known)


@pytest.mark.data
def test_the_saved_model_knows_half_and_g_nll_shows_which() -> None:
    figures = evaluate(SAVED, "triviaqa")
    assert figures["uncertainty"] == 400
    assert 0.45 <= figures["accuracy"] <= 0.55
    assert figures["auroc_g_nll_low"] > 0.6
    assert figures["auroc_g_nll"] > figures["auroc_length_tokens"]


@pytest.mark.data
def test_the_task_writes_the_prompt_it_was_taught() -> None:
    from lm_eval.tasks import TaskManager

    from lm_eval_ensemble.harness.plugin import register

    register()
    loaded = TaskManager(include_defaults=False).load(["triviaqa_uncertainty"])
    task = loaded["tasks"]["triviaqa_uncertainty"]
    _, asked = choose(load_questions("triviaqa"), 400)
    assert task.fewshot_context(next(iter(task.test_docs())), num_fewshot=0) == prompt(asked[0])
