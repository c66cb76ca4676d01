"""Fill-in-the-middle layouts: how a family of models wants prefix and suffix arranged. A table, no ladder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lm_eval_ensemble.errors import ConfigError, did_you_mean
from lm_eval_ensemble.tokens import PlainEncoder, Window, fit_window

__all__ = ["LAYOUTS", "FimLayout", "FimPrompt", "find_layout", "layout_in_vocabulary", "layout_named", "parse_prompt"]


@dataclass(frozen=True)
class FimLayout:
    """Sentinels in the order prefix, suffix, middle (PSM): ``<pre>P<suf>S<mid>``, the answer follows.

    ``stops`` are control tokens that end an answer, beside the model's own end-of-text token.
    ``families`` are substrings of checkpoint names. ``source`` says where the layout was published.
    """

    name: str
    prefix: str
    suffix: str
    middle: str
    stops: tuple[str, ...]
    families: tuple[str, ...]
    source: str

    @property
    def sentinels(self) -> tuple[str, str, str]:
        return (self.prefix, self.suffix, self.middle)

    def render(self, prefix: str, suffix: str) -> str:
        """The prompt as text, for models that are given text."""
        return f"{self.prefix}{prefix}{self.suffix}{suffix}{self.middle}"

    def encode(self, encoder: PlainEncoder, prefix: str, suffix: str, room: int) -> FimPrompt:
        """The prompt as ids; prefix and suffix are tokenised apart and trimmed to ``room`` tokens in all."""
        before, between, after = (self._id(encoder, token) for token in self.sentinels)
        window = fit_window(encoder.encode(prefix), encoder.encode(suffix), room - 3)
        return FimPrompt([before, *window.prefix, between, *window.suffix, after], window)

    def stop_ids(self, encoder: PlainEncoder) -> list[int]:
        """Ids that end an answer, as far as the vocabulary has them."""
        found = (encoder.token_id(token) for token in self.stops)
        return [i for i in found if i is not None]

    def _id(self, encoder: PlainEncoder, token: str) -> int:
        found = encoder.token_id(token)
        if found is None:
            raise ConfigError(
                f"FIM layout {self.name!r}: the tokenizer has no token {token!r}, so this model was not trained with "
                f"it. Choose the layout with fim=.{did_you_mean('', LAYOUTS)}"
            )
        return found


@dataclass(frozen=True)
class FimPrompt:
    """Prompt ids and the window that was used."""

    ids: list[int]
    window: Window


LAYOUTS: dict[str, FimLayout] = {
    layout.name: layout
    for layout in (
        FimLayout(
            "qwen",
            "<|fim_prefix|>",
            "<|fim_suffix|>",
            "<|fim_middle|>",
            (
                "<|endoftext|>",
                "<|fim_prefix|>",
                "<|fim_middle|>",
                "<|fim_suffix|>",
                "<|fim_pad|>",
                "<|repo_name|>",
                "<|file_sep|>",
            ),
            ("qwen",),
            "Qwen2.5-Coder technical report, arXiv 2409.12186",
        ),
        FimLayout(
            "starcoder",
            "<fim_prefix>",
            "<fim_suffix>",
            "<fim_middle>",
            (
                "<|endoftext|>",
                "<fim_prefix>",
                "<fim_middle>",
                "<fim_suffix>",
                "<fim_pad>",
                "<file_sep>",
                "<repo_name>",
                "<filename>",
            ),
            ("starcoder", "santacoder2", "starcoderbase"),
            "StarCoder, arXiv 2305.06161; StarCoder 2, arXiv 2402.19173",
        ),
    )
}


def layout_named(name: str) -> FimLayout:
    """The layout of that name.

    :raises ConfigError: unknown name.
    """
    if name not in LAYOUTS:
        raise ConfigError(f"fim={name!r} is not a known layout.{did_you_mean(name, LAYOUTS)}")
    return LAYOUTS[name]


def layout_in_vocabulary(encoder: PlainEncoder) -> FimLayout | None:
    """The first layout whose three sentinels the tokenizer knows."""
    for layout in LAYOUTS.values():
        if all(encoder.token_id(token) is not None for token in layout.sentinels):
            return layout
    return None


def find_layout(model: str) -> FimLayout | None:
    """The layout for a checkpoint: by its name, else by the sentinels in a local ``tokenizer.json``."""
    name = model.lower()
    for layout in LAYOUTS.values():
        if any(family in name for family in layout.families):
            return layout
    tokenizer = Path(model) / "tokenizer.json"
    if tokenizer.is_file():
        added = json.loads(tokenizer.read_text(encoding="utf-8")).get("added_tokens", [])
        known = {token.get("content") for token in added}
        for layout in LAYOUTS.values():
            if known.issuperset(layout.sentinels):
                return layout
    return None


def parse_prompt(context: str, layouts: Sequence[FimLayout] | None = None) -> tuple[str, str] | None:
    """Prefix and suffix out of a rendered prompt, for tasks that carry no such columns."""
    for layout in layouts or tuple(LAYOUTS.values()):
        head, found, rest = context.partition(layout.suffix)
        if found and head.startswith(layout.prefix) and rest.endswith(layout.middle):
            return head[len(layout.prefix) :], rest[: len(rest) - len(layout.middle)]
    return None
