"""From a gap to tensors: what the two members of the tiny pair are trained on, and a diffusion model that finds the length.

::

    fim  <|fim_prefix|> prefix <|fim_suffix|> suffix <|fim_middle|> middle <|endoftext|>
    mdm  prefix middle suffix, some tokens replaced by <|mask|>
    grow prefix middle suffix, some tokens of the middle masked, some neighbouring masks merged into one to be expanded, some
         masks added to be deleted (DreamOn, arXiv 2602.01326; DreamLM/DreamOn, src/trainer/sft_expand_dataset.py)

In all, position i - 1 predicts token i. Letters: B samples, T tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from scripts.tiny_corpus import Corpus, Gap

__all__ = [
    "SPECIAL_TOKENS",
    "Batch",
    "Kind",
    "Sample",
    "batches",
    "collate",
    "fim_sample",
    "grow_sample",
    "mdm_sample",
    "validation",
]

Kind = Literal["fim", "mdm", "grow"]

SPECIAL_TOKENS = ("<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|mask|>")
END, PREFIX, MIDDLE, SUFFIX, PAD, MASK = range(6)
#: ``grow`` has no use for the markers of ``fim``: one of them becomes its expand token.
EXPAND, EXPAND_NAME = MIDDLE, "<|expand|>"
_MERGED, _MOST_DELETED = 0.5, 16
IGNORED = -100  # a target that carries no loss
MIDDLE_WEIGHT = 3.0  # of the middle and the stop token in the fim loss
_MIN_TOKENS = 16
_ROUNDING = 32  # widths are multiples of it, so that few shapes occur
_POOL = 1000  # samples that are sorted by length together


@dataclass(frozen=True)
class Sample:
    """Token ids, the ids to predict (or ``IGNORED``), and the weight of each in the loss."""

    inputs: list[int]
    targets: list[int]
    weights: list[float]


class Batch(NamedTuple):
    """Samples padded on the right with ``pad``: ``inputs``, ``targets`` (B, T) int64, ``weights`` (B, T) float32."""

    inputs: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    pad: int

    @property
    def tokens(self) -> int:
        return int((self.inputs != self.pad).sum())


def encode(tokenizer: Any, gap: Gap) -> tuple[list[int], list[int], list[int]]:
    """Prefix, middle and suffix, each tokenised by itself."""
    prefix, middle, suffix = tokenizer([gap.prefix, gap.middle, gap.suffix], add_special_tokens=False)["input_ids"]
    return prefix, middle, suffix


def fit(prefix: list[int], suffix: list[int], room: int) -> tuple[list[int], list[int]]:
    """Drop the start of the prefix and the end of the suffix; two thirds of a tight room go to the prefix."""
    if len(prefix) + len(suffix) > room:
        prefix = prefix[-max(room - len(suffix), room * 2 // 3) :]
        suffix = suffix[: room - len(prefix)]
    return prefix, suffix


def fim_sample(tokenizer: Any, gap: Gap, window: int) -> Sample | None:
    """Loss on everything but the three markers, the middle and the stop token counting thrice."""
    prefix, middle, suffix = encode(tokenizer, gap)
    room = window - 4 - len(middle)
    if room < _MIN_TOKENS or not middle:
        return None
    prefix, suffix = fit(prefix, suffix, room)
    inputs = [PREFIX, *prefix, SUFFIX, *suffix, MIDDLE, *middle, END]
    targets = [IGNORED if token in (PREFIX, SUFFIX, MIDDLE) else token for token in inputs]
    answer = len(middle) + 1
    weights = [1.0] * (len(inputs) - answer) + [MIDDLE_WEIGHT] * answer
    return Sample(inputs, targets, weights)


def mdm_sample(
    tokenizer: Any, gap: Gap, window: int, rng: random.Random, *, middle_only: bool = False, mask: int = MASK
) -> Sample | None:
    """Mask some tokens of the window; the loss is on these alone, each counting once."""
    prefix, middle, suffix = encode(tokenizer, gap)
    if not middle or not prefix or len(middle) > window // 2:
        return None
    prefix, suffix = fit(prefix, suffix, window - len(middle))
    tokens = prefix + middle + suffix
    span = (len(prefix), len(prefix) + len(middle))
    masked = _span_mask(len(tokens), [span], rng) if middle_only else _random_mask(len(tokens), span, rng)
    masked = masked or {len(prefix)}
    inputs = [mask if i in masked else token for i, token in enumerate(tokens)]
    targets = [token if i in masked else IGNORED for i, token in enumerate(tokens)]
    return Sample(inputs, targets, [1.0] * len(tokens))


def grow_sample(tokenizer: Any, gap: Gap, window: int, rng: random.Random) -> Sample | None:
    """Loss on the masks that are left: their token, ``EXPAND`` where more than one stood, ``END`` where none did."""
    prefix, middle, suffix = encode(tokenizer, gap)
    if not middle or not prefix or len(middle) > window // 4:
        return None
    tokens = middle + [END] * (rng.randrange(_MOST_DELETED) if rng.random() < 0.5 else 0)
    prefix, suffix = fit(prefix, suffix, window - len(tokens))
    ratio = rng.random()
    masked = [token == END or rng.random() < ratio for token in tokens]
    # Half of the samples merge less the more is masked.
    merged = _MERGED * (1 if rng.random() < 0.5 else 1 - sum(masked) / len(masked))
    inputs, targets, is_merged = [*prefix], [IGNORED] * len(prefix), False
    for i, token in enumerate(tokens):
        merges = token != END and all(masked[i : i + 2]) and i + 1 < len(tokens) and rng.random() < merged
        if not is_merged:
            inputs.append(MASK if masked[i] else token)
            targets.append(IGNORED if not masked[i] else EXPAND if merges else token)
        is_merged = merges
    inputs, targets = inputs + suffix, targets + [IGNORED] * len(suffix)
    return Sample(inputs, targets, [1.0] * len(inputs)) if any(target != IGNORED for target in targets) else None


def _random_mask(length: int, middle: tuple[int, int], rng: random.Random) -> set[int]:
    """Of the samples 30 % mask anywhere at one ratio, 55 % many spans and the middle, 15 % only the middle."""
    mode = rng.random()
    if mode < 0.30:
        ratio = rng.uniform(0.05, 1.0)
        return {i for i in range(1, length) if rng.random() < ratio}
    spans = [middle]
    if mode < 0.85:
        for _ in range(max(1, length // 25)):
            start = rng.randrange(1, length)
            spans.append((start, min(length, start + rng.randint(3, 16))))
    return _span_mask(length, spans, rng)


def _span_mask(length: int, spans: Sequence[tuple[int, int]], rng: random.Random) -> set[int]:
    """The spans, in half of the samples whole, else at one random ratio. Token 0 has no position before it."""
    ratio = 1.0 if rng.random() < 0.5 else rng.uniform(0.1, 1.0)
    return {i for start, end in spans for i in range(max(1, start), min(end, length)) if rng.random() < ratio}


def _make(kind: Kind, tokenizer: Any, gap: Gap, window: int, rng: random.Random, mask: int) -> Sample | None:
    if kind == "grow":
        sample = grow_sample(tokenizer, gap, window, rng)
    else:
        sample = fim_sample(tokenizer, gap, window) if kind == "fim" else mdm_sample(tokenizer, gap, window, rng, mask=mask)
    return sample if sample is not None and len(sample.inputs) >= _MIN_TOKENS else None


def _width(tokens: int) -> int:
    return -(-tokens // _ROUNDING) * _ROUNDING


def collate(samples: Sequence[Sample], pad: int = PAD) -> Batch:
    """Pad to the longest sample, rounded up."""
    shape = (len(samples), _width(max(len(sample.inputs) for sample in samples)))
    batch = Batch(torch.full(shape, pad), torch.full(shape, IGNORED), torch.ones(shape), pad)
    for row, sample in enumerate(samples):
        length = len(sample.inputs)
        batch.inputs[row, :length] = torch.tensor(sample.inputs)
        batch.targets[row, :length] = torch.tensor(sample.targets)
        batch.weights[row, :length] = torch.tensor(sample.weights)
    return batch


def batches(
    corpus: Corpus,
    tokenizer: Any,
    kind: Kind,
    *,
    window: int,
    batch_tokens: int,
    seed: int,
    mask: int = MASK,
    pad: int = PAD,
) -> Iterator[Batch]:
    """Endless batches of at most ``batch_tokens`` (padding included), of samples of similar length."""
    rng = random.Random(f"{kind}/{seed}")
    while True:
        pool: list[Sample] = []
        while len(pool) < _POOL:
            if (sample := _make(kind, tokenizer, corpus.gap(rng), window, rng, mask)) is not None:
                pool.append(sample)
        pool.sort(key=lambda sample: len(sample.inputs))
        groups: list[list[Sample]] = [[]]
        for sample in pool:
            if groups[-1] and (len(groups[-1]) + 1) * _width(len(sample.inputs)) > batch_tokens:
                groups.append([])
            groups[-1].append(sample)
        rng.shuffle(groups)
        for batch in (collate(group, pad) for group in groups):
            if kind == "grow":
                # All of a batch count as one token, as published: a model that learns each of them deletes everything.
                ends = batch.targets == END
                batch.weights[ends] /= max(int(ends.sum()), 1)
            yield batch


def validation(
    corpus: Corpus, tokenizer: Any, kind: Kind, *, window: int, count: int = 96, mask: int = MASK, pad: int = PAD
) -> list[Batch]:
    """A fixed set of held-out gaps, mostly single lines; for mdm only the middle is masked."""
    rng = random.Random(7)
    samples: list[Sample] = []
    while len(samples) < count:
        gap = corpus.gap(rng, single_line=0.85)
        if kind == "fim":
            sample = fim_sample(tokenizer, gap, window)
        else:
            rng_of_sample = random.Random(len(samples))
            sample = mdm_sample(tokenizer, gap, window, rng_of_sample, middle_only=True, mask=mask)
        if sample is not None and len(sample.inputs) >= _MIN_TOKENS:
            samples.append(sample)
    samples.sort(key=lambda sample: len(sample.inputs))
    return [collate(samples[start : start + 16], pad) for start in range(0, count, 16)]
