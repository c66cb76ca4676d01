"""Models that compare texts: sequence-pair classifiers (a cross-encoder for similarity, an NLI model for entailment), and a
sentence encoder. Loaded only when asked for.

Plain ``transformers``: a cross-encoder of sentence-transformers is a sequence classifier with one label and a sigmoid.
The extra ``lm_eval_ensemble[rw]`` brings what the tokenizers of some of them need.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_ensemble.errors import ModelError, missing_weights
from lm_eval_ensemble.uncertainty.similarity import Pair

__all__ = ["CrossEncoder", "Entailment", "PairClassifier", "SentenceEncoder"]

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


class SentenceEncoder:
    """Similarity = cosine of the embeddings of two texts, 0 where it is negative (Sentence-BERT, arXiv:1908.10084).

    Each distinct text is read once, in float32. Pooling is what the checkpoint says (``1_Pooling/config.json``: the mean of the
    tokens, or the first one), else the mean. A text that is too long loses its beginning, as the answer stands at the end.
    """

    def __init__(self, source: str, device: str | None = None) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        self.name = f"sentence:{source}"
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source, truncation_side="left", padding_side="right")
            model: Any = AutoModel.from_pretrained(source, dtype=torch.float32)
            pooling = _settings(source, "1_Pooling/config.json")
        except ImportError as error:
            raise ModelError(
                f"The tokenizer of {source!r} needs a package: {error} Try: pip install 'lm_eval_ensemble[rw]'"
            ) from None
        except (OSError, ValueError) as error:
            raise missing_weights(source, error) from None
        kinds = getattr(model.config, "architectures", None) or []
        if any("ForSequenceClassification" in str(kind) for kind in kinds):
            raise ModelError(f"{source}: found a classifier of pairs, expected a sentence encoder. Use cross-encoder:{source}.")
        self._first = bool(pooling.get("pooling_mode_cls_token"))
        asked = [name for name, on in pooling.items() if name.startswith("pooling_mode_") and on is True]
        if asked and not {"pooling_mode_cls_token", "pooling_mode_mean_tokens"} >= set(asked):
            raise ModelError(f"{source}: pools by {', '.join(asked)}; expected the mean of the tokens or the first one.")
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.to(self._device).eval()
        positions = getattr(model.config, "max_position_embeddings", None) or 512
        own = _settings(source, "sentence_bert_config.json").get("max_seq_length") or positions
        self._limit = int(min(own, positions, self._tokenizer.model_max_length))

    def __call__(self, pairs: Sequence[Pair]) -> NDArray[np.float64]:
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        places = {text: i for i, text in enumerate(texts)}
        vectors = self._embed(texts)
        found = [float(vectors[places[first]] @ vectors[places[second]]) for first, second in pairs]
        values: NDArray[np.float64] = np.clip(np.array(found), 0.0, 1.0)
        return values

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(n, width), of length 1."""
        import torch

        rows = []
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                own = list(texts[start : start + BATCH])
                cut = {"truncation": True, "max_length": self._limit}
                batch = self._tokenizer(own, padding=True, return_tensors="pt", **cut).to(self._device)
                hidden = self._model(**batch).last_hidden_state
                weights = batch["attention_mask"][..., None].to(hidden.dtype)
                pooled = hidden[:, 0] if self._first else (hidden * weights).sum(1) / weights.sum(1).clamp_min(1)
                rows.append(torch.nn.functional.normalize(pooled, dim=-1).double().cpu().numpy())
        return np.concatenate(rows) if rows else np.zeros((0, 0))


def _settings(source: str, name: str) -> Mapping[str, Any]:
    """A settings file of a checkpoint; nothing where it has none."""
    from transformers.utils import cached_file

    path = cached_file(source, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False)
    found = json.loads(Path(path).read_text(encoding="utf-8")) if path is not None else {}
    return found if isinstance(found, dict) else {}


def _entailment_label(source: str, labels: Mapping[Any, str]) -> int:
    found = [int(index) for index, label in labels.items() if str(label).lower().startswith("entail")]
    if len(found) != 1:
        raise ModelError(
            f"{source}: found the labels {', '.join(map(str, labels.values()))}, expected one named 'entailment'. Give an NLI "
            "model such as microsoft/deberta-v2-xlarge-mnli."
        )
    return found[0]
