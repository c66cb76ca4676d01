"""Text to token ids and back, for text that must stay text.

User code may hold a literal ``<M>`` (``List<M>``) or ``<|fim_prefix|>``. A tokenizer turns those characters
into control tokens, and a diffusion sampler would then overwrite the user's code. ``PlainEncoder`` never does.

Letters: P, S = number of prefix and suffix tokens.
"""

from __future__ import annotations

import itertools
import re
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval_ensemble.types import unbroken

__all__ = ["PlainEncoder", "Window", "count_within", "fit_window", "pack"]

# Added tokens of this shape are control tokens even where a tokenizer does not flag them as special
# (Qwen2.5-Coder's FIM tokens are not). Others, such as runs of spaces, are ordinary vocabulary.
_CONTROL = re.compile(r"▁?<.+>|\[[A-Z_]+\]|<｜.+｜>", re.DOTALL)
_ANCHOR = "\n"
#: what ends a text in published vocabularies; where `eos_token` is none of them, it was changed to the end of a turn.
_ENDS_OF_TEXT = (
    *("<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "<[end▁of▁sentence]>", "<EOS_TOKEN>", "[EOS]"),
    *("<eos>", "</s>"),  # Gemma has both, the second for HTML
)


class PlainEncoder:
    """Encodes text without ever producing a control token, whatever the text says.

    Sentencepiece tokenizers open every text with a space of their own, and drop one when they decode. Here text is a piece
    of a program, so both happen behind an anchor: ``decode(encode(text)) == text``, indentation and all.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.items()
        control = {i: t.content for i, t in added if t.special or _CONTROL.fullmatch(t.content)}
        self._control: dict[str, int] = {text: i for i, text in control.items()}
        #: ids that are never text: end of text, padding, FIM sentinels, masks.
        self.control_ids: frozenset[int] = frozenset(control)
        #: number of usable ids; a checkpoint's embedding may have more rows (padding of the vocabulary).
        self.vocabulary = len(tokenizer)
        # Longest first, inside a lookahead: overlapping occurrences are all found.
        names = sorted((re.escape(t) for t in control.values() if len(t) > 1), key=len, reverse=True)
        self._sentinel = re.compile(f"(?=(?:{'|'.join(names)}))") if names else None
        self._lead = self._find_lead()

    def token_id(self, token: str) -> int | None:
        """The id of a control token by its text, or None if the vocabulary lacks it."""
        if token in self._control:  # it may be the unknown token as well, as the end of text is in SmolLM2
            return self._control[token]
        found = self.tokenizer.convert_tokens_to_ids(token)
        if found is None or found == self.tokenizer.unk_token_id:
            return None
        return int(found)

    def text_end_id(self, eos_id: int) -> int:
        """The id that ends a text: ``eos_id``, unless that ends a turn of a chat and the vocabulary has the end of a text, too.
        The end of a turn has never followed a plain text: Qwen2.5-Coder-Instruct gives it 1e-9 behind a middle, its end of
        text 1e-3."""
        ends = [self._control[name] for name in _ENDS_OF_TEXT if name in self._control]
        return eos_id if eos_id in ends or not ends else ends[0]

    def encode(self, text: str, opening: bool = False) -> list[int]:
        """Ids of ``text``, no token added. A sentinel spelt in the text is cut after its first character,
        so that the tokenizer sees two harmless pieces; decoding gives the same text back (halves of surrogate pairs, which
        have no ids, as U+FFFD).

        :param opening: the text opens a document: keep the space that the tokenizer puts before it, if it does.
        """
        ids: list[int] = []
        for i, piece in enumerate(self._pieces(text)):
            ids += self._ids(piece) if opening and i == 0 else self._inner(piece)
        return ids

    def encode_template(self, text: str, opening: bool = False) -> list[int]:
        """Ids of text of ours or of the tokenizer's chat template, whose control tokens are meant as such."""
        return self._ids(text) if opening else self._inner(text)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(unbroken(text), add_special_tokens=False)["input_ids"]
        return ids

    def _inner(self, piece: str) -> list[int]:
        """Ids of a piece that stands inside a text."""
        if self._lead:
            ids = self._ids(_ANCHOR + piece)
            if ids[: len(self._lead)] == self._lead:
                return ids[len(self._lead) :]
        return self._ids(piece)

    def _find_lead(self) -> list[int]:
        """Ids of the anchor, if the tokenizer treats the beginning of a text unlike its inside; else nothing."""
        alone, lead, inside = (self._ids(text) for text in ("x", _ANCHOR, _ANCHOR + "x"))
        return lead if inside[: len(lead)] == lead and inside[len(lead) :] != alone else []

    def _pieces(self, text: str) -> list[str]:
        if not text:
            return []
        cuts = [m.start() + 1 for m in self._sentinel.finditer(text)] if self._sentinel else []
        return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True) if a < b]

    def decode(self, ids: Sequence[int], opening: bool = False) -> str:
        """Text of ``ids``, control tokens left out.

        :param opening: decode as the tokenizer does, which may drop a space at the beginning.
        """
        if opening or not self._lead:
            return self._text(list(ids))
        return self._text([*self._lead, *ids])[len(self._text(self._lead)) :]

    def _text(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def pieces(self, ids: Sequence[int], opening: bool = False) -> list[str]:
        """The text that each token adds; joined they are ``decode(ids, opening)``.

        A character of several tokens (bytes of an emoji) belongs to the last of them; control tokens add nothing. The counts of
        everything generated come from here, never from tokenising its text again, which may give other tokens.
        """
        pieces: list[str] = []
        start = read = 0  # the text of ids[start:read] is settled, and is what the next token is read behind
        for end in range(1, len(ids) + 1):
            settled, text = (self.decode(ids[start:stop], opening and start == 0) for stop in (read, end))
            if len(text) > len(settled) and not text.endswith("\ufffd"):
                pieces.append(sys.intern(text[len(settled) :]))  # the same few thousand again and again, all kept
                start, read = read, end
            else:
                pieces.append("")
        whole, joined = self.decode(ids, opening), "".join(pieces)
        if not whole.startswith(joined):
            return self._pieces_one_by_one(ids, whole, opening)
        if pieces:
            pieces[-1] += whole[len(joined) :]  # bytes that never became a character
        return pieces

    def _pieces_one_by_one(self, ids: Sequence[int], whole: str, opening: bool) -> list[str]:
        """For tokenizers whose text of a few tokens is not a part of the text of all: what the beginnings have in common."""
        ends = [0]
        for n in range(1, len(ids)):
            pairs = zip(self.decode(ids[:n], opening), whole, strict=False)
            ends.append(max(ends[-1], sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))))
        return [whole[a:b] for a, b in zip(ends, [*ends[1:], len(whole)], strict=True)]


def pack(*parts: Iterable[int]) -> array[int]:
    """Ids one after another in 4 bytes each, for rows that wait in their thousands: in a list an id takes about 36.

    >>> pack([1, 2], [3]).tolist()
    [1, 2, 3]
    """
    return array("i", itertools.chain(*parts))


def count_within(pieces: Sequence[str], characters: int) -> int:
    """How many of the pieces begin before ``characters``: a token belongs to an answer if its first character does.

    >>> count_within(["Par", "is", ".\\n"], 6), count_within(["Par", "is", ".\\n"], 5), count_within(["", "", "é"], 1)
    (3, 2, 3)
    """
    starts = itertools.accumulate(map(len, pieces), initial=0)
    return sum(start < characters for start in itertools.islice(starts, len(pieces)))


@dataclass(frozen=True)
class Window:
    """Prefix and suffix ids that fit beside the middle, and how many tokens were left out of each."""

    prefix: Sequence[int]
    suffix: Sequence[int]
    trimmed_prefix: int = 0
    trimmed_suffix: int = 0

    @property
    def trims(self) -> dict[str, int]:
        """The counts as a record; empty when nothing was left out."""
        counts = {"trimmed_prefix": self.trimmed_prefix, "trimmed_suffix": self.trimmed_suffix}
        return counts if any(counts.values()) else {}


def fit_window(prefix: list[int], suffix: list[int], room: int) -> Window:
    """Trim a prefix on its left and a suffix on its right so that both fit into ``room`` tokens.

    The text next to the gap stays. The prefix gets what the suffix leaves, and at least two thirds.

    >>> fit_window([1, 2, 3, 4], [5, 6, 7, 8], 6)
    Window(prefix=[1, 2, 3, 4], suffix=[5, 6], trimmed_prefix=0, trimmed_suffix=2)
    """
    room = max(room, 0)
    if len(prefix) + len(suffix) <= room:
        return Window(prefix, suffix)
    keep = min(len(prefix), max(room - len(suffix), room * 2 // 3))
    left = prefix[len(prefix) - keep :]
    right = suffix[: room - keep]
    return Window(left, right, len(prefix) - len(left), len(suffix) - len(right))
