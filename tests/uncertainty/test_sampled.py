"""Entropy, clusters and SAR of sampled answers, worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_ensemble.errors import ConfigError, ModelError
from lm_eval_ensemble.runs.answer import answer_record
from lm_eval_ensemble.types import Candidate, Completion, Scored, Selection
from lm_eval_ensemble.uncertainty.clusters import MatchClusters, NLIClusters
from lm_eval_ensemble.uncertainty.command import clusters_from
from lm_eval_ensemble.uncertainty.sampled import SAMPLED_SCORES, entropy_of, lexical_dissimilarity, sampled_scores, sentence_sar
from lm_eval_ensemble.uncertainty.similarity import Constant, NGram, Pair


def sample(text: str, logprobs: list[float] | None) -> dict[str, Any]:
    size = len(logprobs or [])
    tokens = [text, *[""] * (size - 1)] if size else []
    return {"text": text, "logprobs": logprobs, "tokens": tokens, "token_ids": list(range(size)), "f1": 0.0}


def record(*samples: dict[str, Any]) -> dict[str, Any]:
    return {"question": "Q?", "samples": list(samples)}


def test_entropies_by_hand() -> None:
    # p of the samples by mean log-probability: 1/2, 1/4, 1/4; the first and the third mean the same
    half, quarter = math.log(0.5), math.log(0.25)
    given_record = record(
        sample(" Paris", [half, half]), sample(" Rome", [quarter]), sample("the paris!", [quarter, quarter, quarter])
    )
    (found,) = sampled_scores([given_record], MatchClusters(), None)
    ln2 = math.log(2)
    assert tuple(found) == SAMPLED_SCORES
    assert found["pe"] == pytest.approx((2 + 2 + 6) * ln2 / 3)
    assert found["ln_pe"] == pytest.approx((1 + 2 + 2) * ln2 / 3)
    assert found["se_discrete"] == pytest.approx(-(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)))
    assert found["se"] == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert found["num_sets"] == 2.0
    # ROUGE-L: Paris/Rome 0, Paris/"the paris!" 2/3, Rome/"the paris!" 0
    assert found["lexical"] == pytest.approx(1 - 2 / 9)
    assert (found["sent_sar"], found["sar"]) == (None, None)


def test_all_the_same_is_no_uncertainty() -> None:
    (found,) = sampled_scores([record(*[sample("Paris", [-1.0])] * 4)], MatchClusters(), None)
    assert (found["se"], found["se_discrete"], found["num_sets"], found["lexical"]) == (0.0, 0.0, 1.0, 0.0)
    assert math.copysign(1, found["se"] or 0.0) == 1.0


def test_records_without_samples_or_probabilities() -> None:
    none, texts = sampled_scores(
        [{"question": "Q?", "samples": []}, record(sample("a", None), sample("b", None))], MatchClusters(), NGram()
    )
    assert set(none.values()) == {None}
    assert texts["se_discrete"] == pytest.approx(math.log(2))
    assert (texts["se"], texts["pe"], texts["sar"]) == (None, None, None)


@given(st.lists(st.tuples(st.floats(0.01, 1), st.integers(0, 4)), min_size=1, max_size=10))
def test_laws_of_the_entropy(parts: list[tuple[float, int]]) -> None:
    weights, labels = [w for w, _ in parts], [c for _, c in parts]
    value = entropy_of(weights, labels)
    assert 0 <= value <= math.log(len(set(labels))) + 1e-9
    assert value == pytest.approx(entropy_of([7 * w for w in weights], [9 - c for c in labels]))


def test_sentence_sar_by_hand() -> None:
    # p = 0.5, 0.25; g = 0.001 both ways, t = 0.001: -(ln(0.5 + 0.25) + ln(0.25 + 0.5)) / 2 = -ln 0.75
    logs = [math.log(0.5), math.log(0.25)]
    assert sentence_sar(logs, [[1.0, 0.001], [0.001, 1.0]]) == pytest.approx(-math.log(0.75))
    # nothing underflows where p does
    assert sentence_sar([-2000.0, -2000.0], [[1.0, 0.0], [0.0, 1.0]]) == pytest.approx(2000.0)


def test_sar_with_nothing_alike_is_predictive_entropy() -> None:
    given_record = record(sample("a", [-1.0, -3.0]), sample("b", [-2.0]))
    (found,) = sampled_scores([given_record], MatchClusters(), Constant())
    assert found["sent_sar"] == pytest.approx(found["pe"])
    assert found["sar"] == pytest.approx(found["ln_pe"])


def test_sar_rewards_agreement() -> None:
    alike, apart = sampled_scores(
        [record(sample("Paris", [-1.0]), sample("Paris.", [-1.0])), record(sample("Paris", [-1.0]), sample("Oslo", [-1.0]))],
        MatchClusters(),
        NGram(),
    )
    for name in ("sent_sar", "sar"):
        low, high = alike[name], apart[name]
        assert low is not None
        assert high is not None
        assert low < high


def test_lexical() -> None:
    assert lexical_dissimilarity(["a"]) is None
    assert lexical_dissimilarity(["東京", "東京"]) == 0.0  # no letters for ROUGE, the same text all the same


def test_match_clusters() -> None:
    found = MatchClusters()(["q", "q"], [["The Beatles", "beatles", "Abba", "!", "?", "!"], []])
    assert found == [[0, 0, 1, 2, 3, 2], []]


def test_entailment_must_hold_both_ways_and_is_greedy() -> None:
    """a and b both ways, c and a one way, c and d both ways; others are compared with the first of a cluster."""
    both = {("a", "b"), ("b", "a"), ("c", "a"), ("c", "d"), ("d", "c"), ("b", "d"), ("d", "b")}
    calls: list[list[Pair]] = []

    def entails(pairs: Sequence[Pair]) -> Any:
        calls.append(list(pairs))
        return np.array([(x.removeprefix("Q? "), y.removeprefix("Q? ")) in both for x, y in pairs], bool)

    clusters = NLIClusters(entails, "nli:test")
    assert clusters(["Q?", "Q?"], [["a", "b", "c", "d", "a"], ["c", "d"]]) == [[0, 0, 1, 1, 0], [0, 0]]
    # one call per round for both documents; equal texts are never asked
    assert len(calls) == 2
    assert all(x != y for call in calls for x, y in call)
    assert all(x.startswith("Q? ") for call in calls for x, _ in call)


def test_an_nli_model_from_a_folder(nli: Path, cross_encoder: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    clusters = clusters_from(f"nli:{nli}", device="cpu")
    texts = ["Paris", "Rome", "ab", "Paris", "zz z"]
    (found,) = clusters(["Q?"], [texts])
    tokenizer, model = AutoTokenizer.from_pretrained(nli), AutoModelForSequenceClassification.from_pretrained(nli).eval()

    def entails(a: str, b: str) -> bool:
        return int(model(**tokenizer(f"Q? {a}", f"Q? {b}", return_tensors="pt")).logits.argmax()) == 2

    for j, text in enumerate(texts):
        same = text == "Paris" or (entails("Paris", text) and entails(text, "Paris"))
        assert (found[j] == 0) == same
    with pytest.raises(ModelError, match="expected one named 'entailment'"):
        clusters_from(f"nli:{cross_encoder}")
    with pytest.raises(ConfigError, match="Known: match, nli:ID_OR_FOLDER"):
        clusters_from("exact")


def test_an_empty_sample_counts_with_its_stop_token() -> None:
    """As an empty greedy answer does; left out, the samples that remain would look surer than the model was."""
    texts = [("Paris", (-1.0,), -0.1), ("", (), -3.0)]
    drawn = [
        Candidate("m", text, text, sample=i, logprobs=logprobs, info={"stop_logprob": stop})
        for i, (text, logprobs, stop) in enumerate([texts[0], *texts])
    ]
    answer = Completion("Paris", Selection(tuple(Scored(c, {}) for c in drawn), 0, "single", "none"))
    made = answer_record({"question": "Q?", "references": ["Paris"], "answerable": True}, answer)
    (found,) = sampled_scores([made], MatchClusters(), None)
    assert found["pe"] == found["ln_pe"] == pytest.approx(2.0)
    assert found["se"] == pytest.approx(entropy_of([math.exp(-1), math.exp(-3)], [0, 1]))
