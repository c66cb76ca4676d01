"""Fill-in-the-middle layouts: how a family of models wants prefix and suffix arranged. The table is ``layouts.yaml``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, field_validator

from lm_eval_ensemble.config import Strict, parse_settings
from lm_eval_ensemble.errors import ConfigError, did_you_mean
from lm_eval_ensemble.tokens import PlainEncoder, Window, fit_window
from lm_eval_ensemble.types import Cut

__all__ = [
    "LAYOUTS",
    "MOVED",
    "PREFIX",
    "SUFFIX",
    "FimLayout",
    "FimPrompt",
    "find_layout",
    "layout_for",
    "layout_named",
    "leftovers",
    "parse_prompt",
]

#: what is said to a layout given under its old name.
MOVED = "fim= names a model (of ensemble-ppl); a prompt layout is layout=."

_FENCE = re.compile(r"^[ \t]*```([^\n`]*)(?:\n|\Z)", re.MULTILINE)
#: control tokens of known models that were written as text, or that nobody took out.
_CONTROL = re.compile(
    r"<\|[a-z_▁]+\|>|<｜[^｜\n]+｜>|</s>|<(?:bos|eos|pad|(?:start|end)_of_turn|fim_(?:prefix|middle|suffix|pad))>|\[/?INST\]",
    re.IGNORECASE,
)

#: the two slots of a layout.
PREFIX, SUFFIX = "PREFIX", "SUFFIX"


@dataclass(frozen=True)
class FimPrompt:
    """Prompt ids and the window that was used."""

    ids: list[int]
    window: Window


class FimLayout(Strict):
    """Control tokens and the two slots in the order of the prompt, e.g. ``("[SUFFIX]", SUFFIX, "[PREFIX]", PREFIX)``.

    What each field means stands at the top of ``layouts.yaml``.
    """

    name: str
    parts: tuple[str, ...]
    stops: tuple[str, ...] = ()
    end: str | None = None
    bos: bool = False
    chat: bool = False
    opening: str = ""
    prefix_space: bool = False
    families: tuple[str, ...] = ()
    source: str = Field(default="not given")

    @field_validator("parts")
    @classmethod
    def _two_slots(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        slots = [i for i, part in enumerate(value) if part in (PREFIX, SUFFIX)]
        named = sorted(value[i] for i in slots) == [PREFIX, SUFFIX]
        if not named or slots[0] == 0 or slots[1] - slots[0] < 2 or not all(value):
            raise ValueError(
                f"{list(value)} is no layout; expected control tokens and once each PREFIX and SUFFIX, with a token before the "
                "first of them and one between them."
            )
        return value

    @property
    def tokens(self) -> tuple[str, ...]:
        """The control tokens of the prompt. A chat has none of its own."""
        return () if self.chat else tuple(part for part in self.parts if part not in (PREFIX, SUFFIX))

    def render(self, prefix: str, suffix: str) -> str:
        """The prompt as text, for models that are given text. Their tokenizer adds the beginning-of-text token; of a chat it
        is the message, and lm_eval's ``--apply_chat_template`` makes the conversation."""
        filled = {PREFIX: prefix, SUFFIX: suffix}
        return "".join(filled.get(part, part) for part in self.parts)

    def parse(self, context: str) -> tuple[str, str] | None:
        """Prefix and suffix out of ``render``'s text; None if it is not of this layout."""
        one, two = (i for i, part in enumerate(self.parts) if part in (PREFIX, SUFFIX))
        head, between, tail = ("".join(part) for part in (self.parts[:one], self.parts[one + 1 : two], self.parts[two + 1 :]))
        inside = context[len(head) : len(context) - len(tail)]
        first, found, second = inside.partition(between)
        if not (context.startswith(head) and context.endswith(tail) and found and len(context) >= len(head) + len(tail)):
            return None
        return (first, second) if self.parts[one] == PREFIX else (second, first)

    def encode(self, encoder: PlainEncoder, prefix: str, suffix: str, room: int) -> FimPrompt:
        """The prompt as ids; prefix and suffix are tokenised apart and trimmed to ``room`` tokens in all."""
        if self.chat:
            return self._encode_chat(encoder, prefix, suffix, room)
        control = {token: self._id(encoder, token) for token in self.tokens}
        opening = [self._bos_id(encoder)] if self.bos else []
        taken = len(self.tokens) + len(opening)
        window = fit_window(encoder.encode(prefix, opening=self.prefix_space), encoder.encode(suffix), room - taken)
        filled = {PREFIX: window.prefix, SUFFIX: window.suffix, **{token: [i] for token, i in control.items()}}
        return FimPrompt([*opening, *(i for part in self.parts for i in filled[part])], window)

    def _encode_chat(self, encoder: PlainEncoder, prefix: str, suffix: str, room: int) -> FimPrompt:
        """The message in the tokenizer's chat template, and the fence that the answer is written into."""
        if not getattr(encoder.tokenizer, "chat_template", None):
            raise ConfigError(
                f"layout={self.name}: the tokenizer has no chat template, so this model was not trained to answer messages. "
                f"Use an instruction-tuned model, or a fill-in-the-middle layout.{did_you_mean('', LAYOUTS)}"
            )
        marks = {PREFIX: "\ue000PREFIX\ue000", SUFFIX: "\ue000SUFFIX\ue000"}
        message = {"role": "user", "content": "".join(marks.get(part, part) for part in self.parts)}
        # Models that may think first are told not to: a template that knows no such switch does not look at it.
        text: str = encoder.tokenizer.apply_chat_template(
            [message], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        pieces = re.split("\ue000(PREFIX|SUFFIX)\ue000", text + self.opening)
        fixed = {i: encoder.encode_template(piece, opening=i == 0) for i, piece in enumerate(pieces) if i % 2 == 0}
        window = fit_window(encoder.encode(prefix), encoder.encode(suffix), room - sum(map(len, fixed.values())))
        code = {PREFIX: window.prefix, SUFFIX: window.suffix}
        return FimPrompt([i for k, piece in enumerate(pieces) for i in fixed.get(k, code.get(piece, ()))], window)

    def clean(
        self, text: str, prefix: str, suffix: str, cut: Cut = "none", opened: bool = False
    ) -> tuple[str, tuple[str, ...]]:
        """An answer to a chat as code: what stands in its first fence, up to the first control token; the newline before
        the closing fence stays only where the gap is whole lines (by ``cut``, or by the text around
        it). Other layouts' answers stay as they are.

        :param opened: the fence was opened by the prompt, and the answer ends where it is closed.
        :returns: the code, and what was taken away (``fence``, or the control token).
        """
        if not self.chat:
            return text, ()
        found = leftovers(text)
        if token := next((name for name in found if name != "fence"), None):
            text = text[: text.index(token)]
        if fenced := "```" in text:
            text = _inside(text)
        begins = not prefix or prefix.endswith("\n")
        if (fenced or opened) and cut != "line" and not (begins and not suffix.startswith("\n")):
            text = text.removesuffix("\n")
        return text, found

    def stop_ids(self, encoder: PlainEncoder) -> list[int]:
        """Ids that end an answer, as far as the vocabulary has them."""
        found = (encoder.token_id(token) for token in self.stops)
        return [i for i in found if i is not None]

    def end_id(self, encoder: PlainEncoder, default: int) -> int:
        """The id that follows the middle in training: ``end``, else ``default`` (the model's end of text)."""
        found = encoder.token_id(self.end) if self.end else None
        return default if found is None else found

    def _id(self, encoder: PlainEncoder, token: str) -> int:
        found = encoder.token_id(token)
        if found is None:
            raise ConfigError(
                f"FIM layout {self.name!r}: the tokenizer has no token {token!r}, so this model was not trained with "
                f"it. Choose the layout with layout=.{did_you_mean('', LAYOUTS)}"
            )
        return found

    def _bos_id(self, encoder: PlainEncoder) -> int:
        found = encoder.tokenizer.bos_token_id
        if found is None:
            raise ConfigError(
                f"FIM layout {self.name!r} opens with a beginning-of-text token (bos: true), but the tokenizer has none. "
                f"Choose another layout with layout=.{did_you_mean('', LAYOUTS)}"
            )
        return int(found)


def _table() -> dict[str, FimLayout]:
    path = Path(__file__).parent / "layouts.yaml"
    rows: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: FimLayout(name=name, **row) for name, row in rows.items()}


LAYOUTS: dict[str, FimLayout] = _table()


def layout_named(asked: str) -> FimLayout:
    """The layout of that name, or the one in a file: ``path/to/layout.yaml``, ``@any/file``.

    :raises ConfigError: unknown name; file missing, unreadable or with faults (all of them are named).
    """
    if asked in LAYOUTS:
        return LAYOUTS[asked]
    path = _as_file(asked)
    if path is None:
        raise ConfigError(f"layout={asked!r} is not a known layout.{did_you_mean(asked, LAYOUTS)} A file is given as @FILE.")
    try:
        row = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"layout={asked!r}: {path} cannot be read ({' '.join(str(error).split())}).") from None
    if not isinstance(row, dict):
        raise ConfigError(f"layout={asked!r}: {path} holds {type(row).__name__}, expected keys and values (parts, stops, ...).")
    return parse_settings(FimLayout, {"name": path.stem, **{str(key): value for key, value in row.items()}}, f"{path}: $")


def _as_file(asked: str) -> Path | None:
    if asked.startswith("@"):
        return Path(asked[1:]).expanduser()
    return Path(asked).expanduser() if asked.endswith((".yaml", ".yml")) else None


def layout_for(model: str, encoder: PlainEncoder) -> FimLayout | None:
    """The layout for a loaded model: by its name if the tokenizer bears it out, else by the tokens it has."""
    return _choose(model, lambda token: encoder.token_id(token) is not None)


def find_layout(model: str) -> FimLayout | None:
    """The layout for a checkpoint that is not loaded: by its name and, in a local folder, by ``tokenizer.json``."""
    path = Path(model) / "tokenizer.json"
    if not path.is_file():
        return next(iter(_by_name(model)), None)
    content = json.loads(path.read_text(encoding="utf-8"))
    known = {token.get("content") for token in content.get("added_tokens", [])}
    vocabulary = content.get("model", {}).get("vocab", {})
    if isinstance(vocabulary, dict):
        known.update(vocabulary)
    return _choose(model, known.__contains__)


def _by_name(model: str) -> list[FimLayout]:
    """Layouts whose families fit the name, the most specific first."""
    name = model.lower()
    fits = [
        (max((len(family) for family in layout.families if fnmatch(name, f"*{family}*")), default=0), layout)
        for layout in LAYOUTS.values()
    ]
    return [layout for length, layout in sorted(fits, key=lambda fit: -fit[0]) if length]


def _choose(model: str, known: Callable[[str], bool]) -> FimLayout | None:
    def usable(layouts: Iterable[FimLayout]) -> list[FimLayout]:
        return [layout for layout in layouts if not layout.chat and all(map(known, layout.tokens))]

    if named := usable(_by_name(model)):
        return named[0]
    # max() keeps the first of equals.
    return max(usable(LAYOUTS.values()), key=lambda layout: sum(map(known, layout.stops)), default=None)


def parse_prompt(context: str) -> tuple[str, str] | None:
    """Prefix and suffix out of a rendered prompt, for tasks that carry no such columns."""
    return next((found for layout in LAYOUTS.values() if (found := layout.parse(context))), None)


def leftovers(text: str) -> tuple[str, ...]:
    """What in an answer is no code, as it were written by a model that was asked in another way than it was trained:
    ``fence`` (Markdown) and control tokens as text, in the order in which they stand there.

    >>> leftovers("```python\\nreturn 1\\n```<|im_end|>"), leftovers("return a < b")
    (('fence', '<|im_end|>'), ())
    """
    found = [(text.find("```"), "fence"), *((match.start(), match[0]) for match in _CONTROL.finditer(text))]
    return tuple(dict.fromkeys(name for place, name in sorted(found) if place >= 0))


def _inside(text: str) -> str:
    """The first fenced block of an answer; of one that only closes a fence, which the prompt had opened, what stands before."""
    fence = _FENCE.search(text)
    closes = fence is not None and not fence[1].strip() and text.count("```") == 1 and bool(text[: fence.start()].strip())
    if fence is None or closes:
        return text[: fence.start()] if fence else text.partition("```")[0]
    return text[fence.end() :].partition("```")[0]
