"""Gaps asked in words: the prompt of ``layout=chat``, what is taken from its answers, and what is said of others."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest

from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.fim import LAYOUTS, leftovers
from lm_eval_ensemble.harness.recorder import Step
from lm_eval_ensemble.tokens import PlainEncoder
from lm_eval_ensemble.types import InfillRequest

CHAT = LAYOUTS["chat"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def encoder(tokenizer: Any) -> PlainEncoder:
    """That of the embedded pair, as an instruction-tuned model has it."""
    own = copy.deepcopy(tokenizer)
    own.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    own.chat_template = TEMPLATE
    return PlainEncoder(own)


def test_the_prompt_is_the_conversation_with_the_code_as_plain_text(encoder: PlainEncoder) -> None:
    prefix, suffix = "def f(a):\n    '<|im_end|>'\n", "    return b\n"
    ids = CHAT.encode(encoder, prefix, suffix, 400).ids
    text = encoder.tokenizer.decode(ids, skip_special_tokens=False)
    conversation = encoder.tokenizer.apply_chat_template(
        [{"role": "user", "content": CHAT.render(prefix, suffix)}], tokenize=False, add_generation_prompt=True
    )
    assert text == conversation + "```\n"
    control = [encoder.tokenizer.decode([i]) for i in ids if i in encoder.control_ids]
    assert control == ["<|im_start|>", "<|im_end|>", "<|im_start|>"]  # the one spelt in the program is text


def test_long_code_is_trimmed_around_the_gap_and_the_words_stay(encoder: PlainEncoder) -> None:
    prompt = CHAT.encode(encoder, "x = 1\n" * 300, "y = 2\n" * 300, 200)
    text = encoder.tokenizer.decode(prompt.ids, skip_special_tokens=False)
    assert len(prompt.ids) == 200
    assert min(prompt.window.trims.values()) > 0
    assert all(part in text for part in CHAT.parts if part not in ("PREFIX", "SUFFIX"))


def test_a_model_without_a_chat_template_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"layout=chat: the tokenizer has no chat template"):
        CHAT.encode(PlainEncoder(tokenizer), "a", "b", 200)


@pytest.mark.parametrize(
    ("answer", "prefix", "suffix", "code"),
    [
        ("```python\n    return x\n```", "def f(x):\n", "", "    return x\n"),
        ("Here it is:\n\n```\n    return x\n```\nIt returns x.", "def f(x):\n", "", "    return x\n"),
        ("```python\nx + 1\n```", "def f(x):\n    return ", "\n", "x + 1"),  # within a line
        ("```python\n    return x\n```", "def f(x):\n", "\n\ndef g(): ...\n", "    return x"),  # the suffix has the newline
        ("    return x\n```\nDone.", "def f(x):\n", "", "    return x\n"),  # only closed
        ("x + 1<|im_end|>\n<|im_start|>user", "y = ", "\n", "x + 1"),
        ("    return x\n", "def f(x):\n", "", "    return x\n"),
    ],
)
def test_code_is_taken_out_of_an_answer(answer: str, prefix: str, suffix: str, code: str) -> None:
    text, found = CHAT.clean(answer, prefix, suffix)
    assert text == code
    assert found == leftovers(answer)
    assert LAYOUTS["qwen"].clean(answer, prefix, suffix) == (answer, ())


def test_code_is_never_called_left_over(toy: list[dict[str, Any]]) -> None:
    assert {leftovers(doc["prefix"] + doc["middle"] + doc["suffix"]) for doc in toy} == {()}
    assert leftovers("a <b> c | d < s > [x] <T>") == ()


def test_a_scored_model_writes_into_the_fence_and_stops_where_it_closes(
    scored: Any, encoder: PlainEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ids that the model is given end with the opened fence; what it generates is cut at the closing one."""
    monkeypatch.setattr(scored, "layout", CHAT)
    monkeypatch.setattr(scored, "encoder", encoder)
    asked = []

    def generate(batch: Any) -> Any:
        ((row, _),) = batch
        asked.append(row)
        _, strings = scored._stops(row)
        ids = encoder.encode("    return x\n```\nDone.")
        return [scored._read_answer(ids, [Step(-0.1)] * len(ids), set(), strings, False, row.request.cut)]

    monkeypatch.setattr(scored, "_generate", generate)
    (candidate,) = scored.propose([InfillRequest("def f(x):\n", "\ny = 1\n", max_new_tokens=16)])
    assert candidate.text == "    return x"
    assert candidate.info["layout"] == "chat"
    assert encoder.tokenizer.decode(list(asked[0].ids), skip_special_tokens=False).endswith("<|im_start|>assistant\n```\n")


def test_stock_models_are_asked_in_words_and_their_answers_cleaned(
    evaluate: Callable[..., Any], scripted: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    lm = scripted(lambda doc: f"Sure!\n```python\n{doc['middle']}```<|im_end|>")
    with caplog.at_level(logging.INFO, "lm_eval_ensemble"):
        found = evaluate(lm, limit=2, metadata={"layout": "chat"})
    sample = found["samples"]["infill_toy"][0]
    assert sample["arguments"][0][0] == CHAT.render(sample["doc"]["prefix"], sample["doc"]["suffix"])
    assert found["results"]["infill_toy"]["exact_match,none"] == found["results"]["infill_toy"]["pass@1,none"] == 1
    assert found["results"]["infill_toy"]["cleaned_rate,none"] == 1
    assert sample["resps"][0][0].startswith("Sure!")  # the answer as it came
    assert "of 2 of 2 answers a Markdown fence or control tokens were taken away" in caplog.text


def test_fences_in_other_answers_are_told(
    evaluate: Callable[..., Any], scripted: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    lm = scripted(lambda doc: f"```python\n{doc['middle']}```" if doc["task_id"].endswith("0") else doc["middle"])
    found = evaluate(lm, limit=3, metadata={"layout": "qwen", "cut": "none"})
    told = [record.getMessage() for record in caplog.records if "no code" in record.getMessage()]
    count = sum(sample["doc"]["task_id"].endswith("0") for sample in found["samples"]["infill_toy"])
    assert count
    assert told == [
        f"infill_toy: {count} of 3 answers hold what is no code (Markdown fence {count}). An instruction-tuned model is asked "
        "in words, and its answers are cleaned, by layout=chat."
    ]
