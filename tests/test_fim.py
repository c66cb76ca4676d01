from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.fim import LAYOUTS, find_layout, layout_in_vocabulary, layout_named, parse_prompt
from lm_eval_ensemble.tokens import PlainEncoder


def test_prompt_ids_are_the_published_layout(tokenizer: Any) -> None:
    encoder = PlainEncoder(tokenizer)
    prompt = LAYOUTS["qwen"].encode(encoder, "a = 1\n", "c = 3\n", 100)
    rendered = LAYOUTS["qwen"].render("a = 1\n", "c = 3\n")
    assert rendered == "<|fim_prefix|>a = 1\n<|fim_suffix|>c = 3\n<|fim_middle|>"
    assert prompt.ids == tokenizer(rendered)["input_ids"]


def test_a_sentinel_in_the_prefix_does_not_open_a_second_gap(tokenizer: Any) -> None:
    encoder = PlainEncoder(tokenizer)
    ids = LAYOUTS["qwen"].encode(encoder, "'<|fim_suffix|>'", "", 100).ids
    assert [ids.count(i) for i in (1, 2, 3)] == [1, 1, 1]


def test_trimmed_prompt_fits(tokenizer: Any) -> None:
    prompt = LAYOUTS["qwen"].encode(PlainEncoder(tokenizer), "x = 1\n" * 200, "y = 2\n" * 200, 60)
    assert len(prompt.ids) == 60
    assert prompt.window.trimmed_prefix > 0
    assert prompt.window.trimmed_suffix > 0


@pytest.mark.parametrize(
    ("model", "layout"),
    [
        ("Qwen/Qwen2.5-Coder-0.5B", "qwen"),
        ("bigcode/starcoderbase-1b", "starcoder"),
        ("bigcode/starcoder2-3b", "starcoder"),
        ("gpt2", None),
    ],
)
def test_layout_by_name(model: str, layout: str | None) -> None:
    found = find_layout(model)
    assert (found.name if found else None) == layout


def test_layout_by_the_tokenizer_of_a_local_folder(tmp_path: Path, assets: Path) -> None:
    assert find_layout(str(assets / "fim")) is LAYOUTS["qwen"]
    (tmp_path / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"content": "<s>"}]}))
    assert find_layout(str(tmp_path)) is None


def test_layout_in_vocabulary(tokenizer: Any) -> None:
    assert layout_in_vocabulary(PlainEncoder(tokenizer)) is LAYOUTS["qwen"]


def test_unknown_layout_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'starcoder'"):
        layout_named("starcodr")


def test_layout_of_another_family_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"no token '<fim_prefix>'.*fim="):
        LAYOUTS["starcoder"].encode(PlainEncoder(tokenizer), "a", "b", 50)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_prompts_parse_back(layout: Any) -> None:
    assert parse_prompt(layout.render("def f():\n", "\nreturn")) == ("def f():\n", "\nreturn")
    assert parse_prompt("no sentinels") is None
