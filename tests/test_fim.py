from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.fim import LAYOUTS, FimLayout, find_layout, layout_for, layout_named, parse_prompt
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
        ("Qwen/CodeQwen1.5-7B", "starcoder"),
        ("bigcode/starcoderbase-1b", "starcoder"),
        ("bigcode/starcoder2-3b", "starcoder"),
        ("deepseek-ai/deepseek-coder-1.3b-base", "deepseek-coder"),
        ("deepseek-ai/DeepSeek-Coder-V2-Lite-Base", "deepseek-coder"),
        ("codellama/CodeLlama-7b-hf", "codellama"),
        ("google/codegemma-2b", "codegemma"),
        ("ibm-granite/granite-3b-code-base-2k", "granite"),
        ("ibm-granite/granite-3.0-8b-base", None),
        ("mistralai/Codestral-22B-v0.1", "codestral"),
        ("stabilityai/stable-code-3b", "stable-code"),
        ("ByteDance-Seed/Seed-Coder-8B-Base", "seed-coder"),
        ("gpt2", None),
    ],
)
def test_layout_by_name(model: str, layout: str | None) -> None:
    found = find_layout(model)
    assert (found.name if found else None) == layout


def folder_with(path: Path, tokens: Iterable[str]) -> str:
    path.mkdir()
    (path / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"content": token} for token in tokens]}))
    return str(path)


def test_layout_by_the_tokenizer_of_a_local_folder(tmp_path: Path, assets: Path) -> None:
    assert find_layout(str(assets / "fim")) is LAYOUTS["qwen"]
    assert find_layout(folder_with(tmp_path / "m0", ["<s>"])) is None
    # Qwen and CodeGemma share their sentinels; what else the tokenizer knows decides.
    for name in ("qwen", "codegemma", "starcoder", "codellama", "codestral", "seed-coder"):
        layout = LAYOUTS[name]
        assert find_layout(folder_with(tmp_path / f"m-{name[::-1]}", {*layout.tokens, *layout.stops})) is layout


def test_a_name_that_its_tokenizer_does_not_bear_out_is_not_believed(tmp_path: Path, tokenizer: Any) -> None:
    assert find_layout(folder_with(tmp_path / "starcoder-to-qwen", LAYOUTS["qwen"].tokens)) is LAYOUTS["qwen"]
    assert layout_for("bigcode/starcoder2-3b", PlainEncoder(tokenizer)) is LAYOUTS["qwen"]


def test_layout_in_vocabulary(tokenizer: Any) -> None:
    assert layout_for("my-checkpoint", PlainEncoder(tokenizer)) is LAYOUTS["qwen"]


def test_unknown_layout_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'starcoder'"):
        layout_named("starcodr")


def test_layout_of_another_family_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"no token '<fim_prefix>'.*layout="):
        LAYOUTS["starcoder"].encode(PlainEncoder(tokenizer), "a", "b", 50)


def test_a_layout_that_needs_a_missing_first_token_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="beginning-of-text token"):
        LAYOUTS["codegemma"].encode(PlainEncoder(tokenizer), "a", "b", 50)


text = st.text(st.characters(codec="utf-8"), max_size=30)


@given(prefix=text, suffix=text)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_prompts_parse_back(layout: FimLayout, prefix: str, suffix: str) -> None:
    assert layout.parse(layout.render(prefix, suffix)) == (prefix, suffix)
    assert parse_prompt(layout.render(prefix, suffix)) == (prefix, suffix)


def test_other_text_is_no_prompt() -> None:
    for context in ("no sentinels", "", "<|fim_prefix|>", "<|fim_prefix|>a<|fim_suffix|>b"):
        assert parse_prompt(context) is None


def test_every_layout_has_a_source() -> None:
    assert all(len(layout.source) > 20 for layout in LAYOUTS.values())


def test_the_end_of_a_middle_is_the_familys(tokenizer: Any) -> None:
    encoder = PlainEncoder(tokenizer)
    assert LAYOUTS["qwen"].end_id(encoder, 7) == 7
    assert FimLayout(name="x", parts=LAYOUTS["qwen"].parts, end="<|fim_pad|>").end_id(encoder, 7) == 4


def test_a_layout_of_ones_own(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text('parts: ["<|fim_suffix|>", SUFFIX, "<|fim_prefix|>", PREFIX]\nstops: ["<|fim_pad|>"]\n')
    for asked in (str(path), f"@{path}"):
        layout = layout_named(asked)
        assert (layout.name, layout.stops) == ("mine", ("<|fim_pad|>",))
        assert layout.encode(PlainEncoder(tokenizer), "a", "b", 50).ids == [
            3,
            *tokenizer("b")["input_ids"],
            1,
            *tokenizer("a")["input_ids"],
        ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n", "holds list"),
        ("parts: [", "cannot be read"),
        ("stop: []\nparts: [a, PREFIX, b, SUFFIX]\n", r"mine.yaml: \$.stop: not a setting here. Did you mean 'stops'"),
        ("parts: [a, PREFIX, b]\n", r"\$.parts: .*once each PREFIX and SUFFIX"),
        ("parts: [a, PREFIX, SUFFIX, b]\n", "one between them"),
        ("parts: [PREFIX, a, SUFFIX]\n", "before the first"),
        ("bos: perhaps\n", r"(?s)\$.parts: missing.*\$.bos: got 'perhaps'"),
    ],
)
def test_faults_in_a_layout_file_are_named_with_their_place(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        layout_named(str(path))


def test_a_missing_layout_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml cannot be read"):
        layout_named(f"@{tmp_path}/none.yaml")
