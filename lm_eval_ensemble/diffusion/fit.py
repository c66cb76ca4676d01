"""Fits how a model's signals depend on the length of a gap (``diffusion.confidence``), on unlabelled code.

Gaps are cut at random: whole lines for tasks that ask for one line (``cut=line``), several lines or parts of lines for
the others. The true length of such a gap is known, so no label is needed.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lm_eval_ensemble.diffusion.confidence import LengthBias, Probe, Signals
from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.types import Cut

__all__ = ["GRID", "CodeGap", "digest", "fit_table", "make_gaps", "read_code"]

#: lengths of the table.
GRID = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64, 96, 128)
_COLUMNS = ("content", "text", "code")
_ANSWERS = ("middle", "canonical_solution", "test", "entry_point")
_MAX_LINES = 8
#: characters kept on each side of a gap; far more than the default context, so that the tokenizer's trim decides.
_SIDE = 4000
_FEWEST = 8
_RIDGE = 3e-3


@dataclass(frozen=True)
class CodeGap:
    """``prefix + middle + suffix`` is a piece of one file."""

    prefix: str
    middle: str
    suffix: str


def read_code(paths: Sequence[Path]) -> list[str]:
    """Texts of ``.py`` files, of all such files under folders, and of JSONL rows with a column content, text or code.

    :raises DataError: nothing there, another shape, or a set of an evaluation.
    """
    texts: list[str] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"--code {path}: no such file or folder.")
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in files:
            content = file.read_text(encoding="utf-8", errors="ignore")
            texts += list(_rows(file, content)) if file.suffix == ".jsonl" else [content]
    usable = [text for text in dict.fromkeys(texts) if text.count("\n") >= 2 * _MAX_LINES]
    if not usable:
        raise DataError(
            f"--code {' '.join(map(str, paths))}: found {len(texts)} texts, none of at least {2 * _MAX_LINES} lines; expected "
            ".py files, folders of them, or JSONL with a column content, text or code."
        )
    return usable


def _rows(file: Path, content: str) -> Iterator[str]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"--code {file}, line {number}: not JSON ({error}).") from error
        answers = [name for name in _ANSWERS if isinstance(row, dict) and name in row]
        if answers:
            raise DataError(
                f"--code {file}, line {number}: has {', '.join(answers)}, as a set of an evaluation has; a bias fitted on it "
                "would not be honest. Give plain code."
            )
        found = next((row[c] for c in _COLUMNS if isinstance(row, dict) and isinstance(row.get(c), str)), None)
        if found is None:
            raise DataError(f"--code {file}, line {number}: expected an object with a column {', '.join(_COLUMNS)}.")
        yield found


def digest(texts: Sequence[str]) -> str:
    """Names the code by its content, whatever the order: 16 hex digits."""
    each = sorted(hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() for text in texts)
    return hashlib.sha256("\n".join(each).encode()).hexdigest()[:16]


def make_gaps(texts: Sequence[str], cut: Cut, count: int, seed: int) -> list[CodeGap]:
    """``count`` random gaps; every text is as likely as any other.

    ``line``: one whole line that is neither blank nor a comment, with its newline. ``none``: half of them 2 to 8 whole
    lines, half from a place in one line to a place in a line at most two below.
    """
    drawn = random.Random(f"{seed} {cut}")
    gaps: list[CodeGap] = []
    while len(gaps) < count:
        lines = drawn.choice(texts).expandtabs(4).splitlines(keepends=True)
        if cut == "line":
            start = drawn.randrange(1, len(lines) - 1)
            first, last = (start, 0), (start + 1, 0)
            if not lines[start].strip() or lines[start].lstrip().startswith("#"):
                continue
        elif len(gaps) % 2:
            start, height = drawn.randrange(1, len(lines) - _MAX_LINES), drawn.randint(2, _MAX_LINES)
            first, last = (start, 0), (start + height, 0)
        else:
            start, height = drawn.randrange(1, len(lines) - 3), drawn.randint(0, 2)
            a, b = drawn.randint(0, len(lines[start])), drawn.randint(0, len(lines[start + height]))
            first, last = (start, a), (start + height, b)
        gap = _cut(lines, first, last)
        if gap.middle.strip():
            gaps.append(gap)
    return gaps


def _cut(lines: Sequence[str], first: tuple[int, int], last: tuple[int, int]) -> CodeGap:
    """Places are (line, column)."""

    def place(line: int, column: int) -> int:
        return sum(map(len, lines[:line])) + column

    text, start, end = "".join(lines), place(*first), place(*last)
    return CodeGap(text[max(start - _SIDE, 0) : start], text[start:end], text[end : end + _SIDE])


def fit_table(
    gaps: Sequence[tuple[Sequence[int], int, Sequence[int]]],
    cut: Cut,
    limit: int,
    read: Callable[[Sequence[Probe]], Sequence[Signals]],
) -> LengthBias:
    """The weights and the bias that make the true lengths most likely: a conditional logit over the lengths of ``GRID``, a
    true length counting for the nearest (in its logarithm), by maximum likelihood with a small ridge and a smooth bias.

    :param gaps: (prefix ids, true length, suffix ids).
    :param limit: the longest length; longer gaps are left out.
    :param read: the signals of every probe.
    :raises DataError: too few gaps.
    """
    lengths = [length for length in GRID if length <= limit]
    kept = [gap for gap in gaps if gap[1] <= limit]
    if len(kept) < _FEWEST or len(lengths) < 2:
        raise DataError(f"--code: {len(kept)} gaps of at most {limit} tokens are too few; expected at least {_FEWEST}.")
    found = read([Probe(prefix, suffix, length) for prefix, _, suffix in kept for length in lengths])
    signals = np.array(found, dtype=float).reshape(len(kept), len(lengths), 2)[:, :, : 2 if cut == "line" else 1]
    logs = np.log(lengths)
    right = np.array([int(np.abs(logs - math.log(true)).argmin()) for _, true, _ in kept])
    scale = signals.std((0, 1))
    scale[scale < 1e-6] = np.inf  # a constant says nothing
    weights, cells = _conditional_logit(signals / scale, right)
    # A cell of the grid stands for several lengths: its bias is that of one of them.
    edges = np.array([*lengths, lengths[-1] ** 2 // lengths[-2]], dtype=float)
    bias = cells - np.log((edges[1:] - np.array([0, *lengths[:-1]])) / 2)
    weights = weights / scale
    return LengthBias(
        tuple(lengths),
        tuple(round(float(b), 4) for b in bias - bias.max()),
        round(float(weights[0]), 4),
        round(float(weights[1]), 4) if cut == "line" else 0.0,
    )


def _conditional_logit(signals: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the signals ``(F,)`` and a bias per alternative ``(C,)``, from signals ``(N, C, F)`` and the right
    alternative of each ``(N,)``."""
    from scipy.optimize import minimize

    count, cells, features = signals.shape
    chosen = np.zeros((count, cells))
    chosen[np.arange(count), right] = 1

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = theta[:features], theta[features:]
        scores = signals @ weights + bias
        scores = scores - scores.max(1, keepdims=True)
        probs = np.exp(scores)
        probs /= probs.sum(1, keepdims=True)
        steps = np.diff(bias)
        value = -np.log(probs[np.arange(count), right]).mean() + _RIDGE * (weights @ weights + steps @ steps)
        error = (probs - chosen) / count
        smooth = np.concatenate([-steps, [0]]) + np.concatenate([[0], steps])
        return value, np.concatenate(
            [np.einsum("ncf,nc->f", signals, error) + 2 * _RIDGE * weights, error.sum(0) + 2 * _RIDGE * smooth]
        )

    # A signal may count for nothing, never against itself: with few gaps a negative weight is noise.
    bounds = [(0, None)] * features + [(None, None)] * cells
    found = minimize(loss, np.zeros(features + cells), jac=True, method="L-BFGS-B", bounds=bounds).x
    return found[:features], found[features:]
