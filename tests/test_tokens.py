from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_ensemble.tokens import PlainEncoder, Window, fit_window


@pytest.fixture(scope="module")
def encoder(tokenizer: Any) -> PlainEncoder:
    return PlainEncoder(tokenizer)


@pytest.mark.parametrize(
    "text",
    [
        "x: List<M> = []",
        "s = '<|fim_prefix|>'",
        "<|mask|>",
        "<<|mask|>|mask|>",
        "<|endoftext|><|fim_pad|>\n",
        "a<|fim_suffix|><|fim_middle|>b",
        "",
    ],
)
def test_sentinels_in_user_code_stay_text(encoder: PlainEncoder, text: str) -> None:
    ids = encoder.encode(text)
    assert not encoder.control_ids.intersection(ids)
    assert encoder.decode(ids) == text


def test_text_without_sentinels_is_tokenised_as_always(encoder: PlainEncoder, tokenizer: Any) -> None:
    text = "def f(x):\n    return x + 1\n"
    assert encoder.encode(text) == tokenizer(text)["input_ids"]


@given(text=st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40))
def test_any_text_comes_back_normalised(tokenizer: Any, text: str) -> None:
    import unicodedata

    encoder = PlainEncoder(tokenizer)
    # The Qwen2 tokenizer class normalises to NFC; that is the model's view, never what is executed.
    assert encoder.decode(encoder.encode(text)) == unicodedata.normalize("NFC", text)


def test_control_tokens_by_name(encoder: PlainEncoder) -> None:
    assert [encoder.token_id(t) for t in ("<|fim_prefix|>", "<|mask|>", "<no_such_token>")] == [1, 5, None]


@pytest.mark.parametrize(
    ("control", "eos", "expected"),
    [
        (["<|endoftext|>"], "<|endoftext|>", "<|endoftext|>"),
        (["<|endoftext|>", "<|im_end|>"], "<|im_end|>", "<|endoftext|>"),  # Qwen2.5-Instruct
        (["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], "<|eot_id|>", "<|end_of_text|>"),  # Llama 3
        (["<eos>", "</s>", "<end_of_turn>"], "<end_of_turn>", "<eos>"),  # Gemma: </s> is HTML
        (["</s>", "<|endoftext|>"], "</s>", "</s>"),  # what the checkpoint says, where it can be
        (["<|im_end|>"], "<|im_end|>", "<|im_end|>"),  # nothing better in the vocabulary
    ],
)
def test_the_end_of_a_text_is_not_the_end_of_a_turn(control: list[str], eos: str, expected: str) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    # The end of text is the unknown token, too, as in SmolLM2. What is no control token (`</s>` in HTML) ends nothing.
    words = WordLevel({control[0]: 0, **({} if "</s>" in control else {"</s>": 1})}, unk_token=control[0])
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), unk_token=control[0], eos_token=eos)
    made.add_special_tokens({"additional_special_tokens": control})
    encoder = PlainEncoder(made)
    assert made.convert_ids_to_tokens(encoder.text_end_id(made.eos_token_id)) == expected
    assert encoder.token_id(control[0]) == made.convert_tokens_to_ids(control[0])


def test_window_keeps_the_text_next_to_the_gap() -> None:
    assert fit_window([1, 2, 3, 4], [5, 6, 7, 8], 8) == Window([1, 2, 3, 4], [5, 6, 7, 8])
    # Room for 6, suffix wants 4: the prefix gets two thirds and its right end, the suffix its left end.
    assert fit_window([1, 2, 3, 4, 5], [6, 7, 8, 9], 6) == Window([2, 3, 4, 5], [6, 7], 1, 2)
    assert fit_window([1, 2, 3], [4], 3) == Window([2, 3], [4], 1, 0)
    assert fit_window([1, 2], [3], 0) == Window([], [], 2, 1)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(-5, 70))
def test_window_fits_and_counts(prefix: int, suffix: int, room: int) -> None:
    left, right = list(range(prefix)), list(range(100, 100 + suffix))
    window = fit_window(left, right, room)
    assert len(window.prefix) + len(window.suffix) <= max(room, 0) or not window.trims
    assert left[window.trimmed_prefix :] == window.prefix
    assert right[: suffix - window.trimmed_suffix] == window.suffix
    assert bool(window.trims) == (prefix + suffix > max(room, 0))
