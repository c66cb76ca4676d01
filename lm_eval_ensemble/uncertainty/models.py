"""Sequence-pair classifiers: a cross-encoder for similarity, an NLI model for entailment. Loaded only when asked for.

Plain ``transformers``: a cross-encoder of sentence-transformers is a sequence classifier with one label and a sigmoid.
The extra ``lm_eval_ensemble[rw]`` brings what the tokenizers of some of them need.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_ensemble.errors import ModelError, missing_weights
from lm_eval_ensemble.uncertainty.similarity import Pair

__all__ = ["CrossEncoder", "Entailment", "PairClassifier"]

BATCH = 64


class PairClassifier:
    """Logits of a sequence classifier for pairs of texts, in float32.

    A pair that is too long loses the *beginning* of its texts: the answer stands at the end, and cutting there would
    make all answers to a long question alike. How many were cut is told once.
    """

    def __init__(self, source: str, device: str | None = None) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source, truncation_side="left")
            model: Any = AutoModelForSequenceClassification.from_pretrained(source, dtype=torch.float32)
        except ImportError as error:
            raise ModelError(
                f"The tokenizer of {source!r} needs a package: {error} Try: pip install 'lm_eval_ensemble[rw]'"
            ) from None
        except (OSError, ValueError) as error:
            raise missing_weights(source, error) from None
        self.source = source
        self.config: Any = model.config
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.to(self._device).eval()
        self.cut = 0

    def logits(self, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """(n, labels), in the order given; batches of similar length cost least."""
        import torch

        if not pairs:
            return np.zeros((0, int(self.config.num_labels)), np.float32)
        limit = self._limit()
        rows, before = [], self.cut
        with torch.inference_mode():
            for start in range(0, len(pairs), BATCH):
                first, second = zip(*pairs[start : start + BATCH], strict=True)
                whole = self._tokenizer(list(first), list(second), verbose=False)["input_ids"]
                self.cut += sum(len(ids) > limit for ids in whole)
                batch = self._tokenizer(
                    list(first), list(second), padding=True, truncation="longest_first", max_length=limit, return_tensors="pt"
                )
                rows.append(self._model(**batch.to(self._device)).logits.float().cpu().numpy())
        if self.cut > before:
            count = f"{self.cut - before} of {len(pairs)} pairs"
            print(f"{self.source}: {count} have more than {limit} tokens; their beginning was cut", file=sys.stderr)
        return np.concatenate(rows)

    def _limit(self) -> int:
        """Tokens the model can take; RoBERTa's positions start after its padding id."""
        positions = getattr(self.config, "max_position_embeddings", None) or 512
        if "roberta" in str(getattr(self.config, "model_type", "")):
            positions -= int(self.config.pad_token_id or 0) + 1
        return int(min(positions, self._tokenizer.model_max_length))


class CrossEncoder:
    """Similarity = sigmoid of a one-label classifier, which is already in [0, 1]: nothing is divided."""

    def __init__(self, source: str, device: str | None = None) -> None:
        self.name = f"cross-encoder:{source}"
        self._classifier = PairClassifier(source, device)
        if (labels := int(self._classifier.config.num_labels)) != 1:
            raise ModelError(
                f"{source}: found a classifier with {labels} labels, expected a similarity with one, such as "
                "cross-encoder/stsb-roberta-large. For entailment use --clusters nli:..."
            )

    def __call__(self, pairs: Sequence[Pair]) -> NDArray[np.float64]:
        same = np.array([first == second for first, second in pairs], bool)
        asked = [pair for pair, alike in zip(pairs, same, strict=True) if not alike]
        values = np.ones(len(pairs))
        logits = self._classifier.logits(asked)[:, 0].astype(np.float64)
        values[~same] = np.exp(-np.logaddexp(0.0, -logits))
        return values


class Entailment:
    """Whether the first text of a pair entails the second, by an NLI model: its most likely label."""

    def __init__(self, source: str, device: str | None = None) -> None:
        self.name = f"nli:{source}"
        self._classifier = PairClassifier(source, device)
        self._label = _entailment_label(source, self._classifier.config.id2label)

    def __call__(self, pairs: Sequence[Pair]) -> NDArray[np.bool_]:
        return np.asarray(self._classifier.logits(pairs).argmax(axis=1) == self._label)


def _entailment_label(source: str, labels: Mapping[Any, str]) -> int:
    found = [int(index) for index, label in labels.items() if str(label).lower().startswith("entail")]
    if len(found) != 1:
        raise ModelError(
            f"{source}: found the labels {', '.join(map(str, labels.values()))}, expected one named 'entailment'. Give an NLI "
            "model such as microsoft/deberta-v2-xlarge-mnli."
        )
    return found[0]
