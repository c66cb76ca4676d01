"""Similarities, relevance weights and RW-G-NLL; faults F2 to F6 of earlier code cannot happen."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_ensemble.errors import ConfigError, ModelError
from lm_eval_ensemble.metrics.answer_scores import free_scores
from lm_eval_ensemble.uncertainty.command import similarity_from
from lm_eval_ensemble.uncertainty.relevance import relevance_scores, relevances, token_pairs, weighted_nll
from lm_eval_ensemble.uncertainty.similarity import Constant, Memo, NGram, Pair


class Table:
    """Similarities by the second text of a pair; keeps what it was asked."""

    name = "table"

    def __init__(self, values: dict[str, float]) -> None:
        self.values, self.asked = values, list[Pair]()

    def __call__(self, pairs: Sequence[Pair]) -> Any:
        self.asked += pairs
        return np.array([self.values[second] for _, second in pairs])


def record(tokens: list[str], logprobs: list[float] | None, question: str = "Who?", **changes: Any) -> dict[str, Any]:
    text = "".join(tokens)
    made = {"question": question, "tokens": tokens, "logprobs": logprobs, "raw": text, "answer": text.strip()}
    return {**made, "stop_logprob": -0.5, "stop_kind": "eos", **changes}


def test_token_sar_by_hand() -> None:
    # g = 0.9, 0.5, 0.8: R = 0.1, 0.5, 0.2, sum 0.8; NLLs 4, 1, 2: (0.4 + 0.5 + 0.4) / 0.8 = 1.625; times 3 = 4.875
    table = Table({"Who? Mary I": 0.9, "Who? Queen I": 0.5, "Who? Queen Mary": 0.8})
    (found,) = relevance_scores([record([" Queen", " Mary", " I"], [-4.0, -1.0, -2.0])], table)
    assert found == pytest.approx({"rw_g_nll": 1.625, "rw_sum": 4.875})


@given(st.lists(st.floats(-30, 0), min_size=1, max_size=12))
def test_constant_similarity_is_exactly_the_mean(logprobs: list[float]) -> None:
    given_record = record(["x"] * len(logprobs), logprobs)
    (found,) = relevance_scores([given_record], Constant())
    assert found["rw_g_nll"] == free_scores(given_record)["ln_nll"]
    assert found["rw_sum"] == pytest.approx(free_scores(given_record)["g_nll"])


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-20, 0)), min_size=1, max_size=12), st.floats(0.01, 100))
def test_laws_of_the_weights(parts: list[tuple[float, float]], factor: float) -> None:
    weights, logprobs = relevances([g for g, _ in parts]), [p for _, p in parts]
    value = weighted_nll(weights, logprobs)
    assert min(-p for p in logprobs) - 1e-9 <= value <= max(-p for p in logprobs) + 1e-9
    # a common factor of the relevances changes nothing
    assert weighted_nll([weight * factor for weight in weights], logprobs) == pytest.approx(value)


def test_edges() -> None:
    assert relevances([1.0, 1.0, 1.0 - 1e-12]) == [1.0, 1.0, 1.0]
    assert relevances([1.2, 0.5]) == [0.0, 0.5]
    never = Table({})
    single, empty, stock, summed, unknown = relevance_scores(
        [
            record([" Paris"], [-3.0]),
            record([], []),
            record(["a", "b"], None),
            record(["a", "b"], [-3.0]),
            record(["a", "b"], [-3.0, math.nan]),
        ],
        never,
    )
    assert single == {"rw_g_nll": 3.0, "rw_sum": 3.0}
    assert empty == {"rw_g_nll": 0.5, "rw_sum": 0.5}
    nothing = {"rw_g_nll": None, "rw_sum": None}
    assert [stock, summed, unknown] == [nothing] * 3
    assert never.asked == []
    # an impossible token counts only where it is relevant
    table = Table({"Who? b": 1.0, "Who? a": 0.0})
    assert relevance_scores([record(["a", "b"], [-math.inf, -2.0])], table)[0]["rw_g_nll"] == 2.0


def test_f2_weights_use_the_whole_range() -> None:
    """F2: similarities divided by 5 put every weight into [0.8, 1], and RW-G-NLL became the mean token NLL."""
    table = Table({"Who? b": 0.0, "Who? a": 1.0})
    assert relevance_scores([record(["a", "b"], [-4.0, -1.0])], table)[0]["rw_g_nll"] == 4.0


def test_f3_no_token_is_lost_by_tokenizing_again() -> None:
    """F3: " Paris" and "Paris" had different token counts, and the example was skipped or given another scale."""
    tokens = ["", " Par", "is", "\u00a0", "é"]
    pairs = token_pairs("Where?", tokens)
    assert len(pairs) == len(tokens)
    assert pairs[1] == ("Where? Paris\u00a0é", "Where? is\u00a0é")
    found = relevance_scores([record(tokens, [-1.0] * 5), record(tokens[1:3], [-1.0] * 2)], NGram())
    assert [scores["rw_g_nll"] for scores in found] == [pytest.approx(1.0)] * 2


def test_f3_only_the_token_of_that_place_is_dropped() -> None:
    pairs = token_pairs("Q", [" a", " b", " a"])
    assert [second for _, second in pairs] == ["Q b a", "Q a a", "Q a b"]


def test_f4_the_same_answer_to_another_question_is_asked_anew() -> None:
    """F4: weights were cached by answer alone."""
    table = Table({"A? b": 0.0, "A? a": 1.0, "B? b": 1.0, "B? a": 0.0})
    memo = Memo(table)
    first, second = relevance_scores([record(["a", "b"], [-4.0, -1.0], q) for q in ("A?", "B?")], memo)
    assert (first["rw_g_nll"], second["rw_g_nll"]) == (4.0, 1.0)
    relevance_scores([record(["a", "b"], [-9.0, -1.0], "A?")], memo)
    assert len(table.asked) == 4  # nothing is asked twice


def test_f5_a_similarity_is_on_or_an_error_never_silently_off() -> None:
    """F5: for 10 of 12 models RW-G-NLL was silently not computed. Nothing here depends on the model that answered."""
    for spec in ("ngramm", "cross-encoder", "cross-encoder:"):
        with pytest.raises(ConfigError, match="Known: constant, cross-encoder:ID_OR_FOLDER, ngram, sentence:ID_OR_FOLDER"):
            similarity_from(spec)
    with pytest.raises(ModelError, match="no/such-encoder"):
        similarity_from("cross-encoder:no/such-encoder")


def test_f6_the_context_stays_out_of_the_pair() -> None:
    """F6: with the context inside, cutting to the model's window removed the answer."""
    table = Table({"Who? b": 0.5, "Who? a": 0.5})
    relevance_scores([record(["a", "b"], [-1.0, -1.0], context="word " * 400)], table)
    assert {first for first, _ in table.asked} == {"Who? ab"}


def test_f6_a_long_question_is_cut_at_its_beginning(cross_encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = similarity_from(f"cross-encoder:{cross_encoder}")
    question = "w " * 100
    texts = [f"{question} {answer}" for answer in ("Paris", "Rome", "Oslo")]
    values = encoder([(texts[0], text) for text in texts[1:]])
    assert len(set(values.tolist())) == 2
    # all 34 positions but RoBERTa's two minus padding: 32 tokens, of which the answers are the last
    assert "2 of 2 pairs have more than 32 tokens; their beginning was cut" in capsys.readouterr().err


def test_a_cross_encoder_from_a_folder(cross_encoder: Path, nli: Path) -> None:
    """Sigmoid of the logit, padded batches like single pairs, identical texts 1."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    encoder = similarity_from(f"cross-encoder:{cross_encoder}", device="cpu")
    pairs = [("Who? Paris", "Who? Par"), ("Who? a", "Who? b"), ("x", "x"), ("Who? abc", "W")]
    found = encoder(pairs)
    tokenizer = AutoTokenizer.from_pretrained(cross_encoder)
    model = AutoModelForSequenceClassification.from_pretrained(cross_encoder).eval()
    with torch.inference_mode():
        logits = [model(**tokenizer(a, b, return_tensors="pt")).logits.item() for a, b in pairs]
    expected = [1.0 if a == b else 1 / (1 + math.exp(-value)) for (a, b), value in zip(pairs, logits, strict=True)]
    assert found == pytest.approx(expected, abs=1e-6)
    assert len({round(value, 4) for value in expected}) == 4
    (scores,) = relevance_scores([record([" Par", "is"], [-4.0, -1.0])], encoder)
    assert scores["rw_g_nll"] is not None
    assert 1.0 < scores["rw_g_nll"] < 4.0
    with pytest.raises(ModelError, match="3 labels, expected a similarity with one"):
        similarity_from(f"cross-encoder:{nli}")


@pytest.fixture
def sentence_encoder(cross_encoder: Path, tmp_path: Path) -> Path:
    """The encoder of the pair model, by itself."""
    from transformers import AutoModel

    shutil.copytree(cross_encoder, tmp_path / "own")
    AutoModel.from_pretrained(cross_encoder).save_pretrained(tmp_path / "own")
    (tmp_path / "own" / "1_Pooling").mkdir()
    return tmp_path / "own"


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_sentence_encoder_from_a_folder(sentence_encoder: Path, pooling: str) -> None:
    """Cosine of the pooled embeddings, padded batches like single texts; what is opposite counts as unlike."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    if pooling == "cls":
        (sentence_encoder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    texts = ["Who? Paris", "Who? Par", "x", "Where is it? abc"]
    tokenizer, model = AutoTokenizer.from_pretrained(sentence_encoder), AutoModel.from_pretrained(sentence_encoder).eval()
    with torch.inference_mode():
        hidden = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].double() for text in texts]
    vectors = [rows[0] if pooling == "cls" else rows.mean(0) for rows in hidden]
    pairs = [(texts[0], texts[1]), (texts[1], texts[3]), (texts[2], texts[0]), (texts[2], texts[2])]
    places = [(texts.index(a), texts.index(b)) for a, b in pairs]
    expected = [max(0.0, float(torch.cosine_similarity(vectors[a], vectors[b], dim=0))) for a, b in places]
    assert similarity_from(f"sentence:{sentence_encoder}", device="cpu")(pairs) == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 4) for value in expected}) > 2


def test_what_is_no_sentence_encoder_is_refused(sentence_encoder: Path, cross_encoder: Path) -> None:
    (sentence_encoder / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ModelError, match="pools by pooling_mode_max_tokens; expected the mean"):
        similarity_from(f"sentence:{sentence_encoder}")
    with pytest.raises(ModelError, match="found a classifier of pairs, expected a sentence encoder"):
        similarity_from(f"sentence:{cross_encoder}")


def test_trigrams() -> None:
    # " ab " and " b ": trigrams {" ab", "ab "} and {" b "}: nothing shared; " ab " and " abc ": one of 2 and 3
    found = NGram()([("ab", "b"), ("ab", "abc"), ("ab", "AB"), ("", ""), ("a", "")])
    assert found == pytest.approx([0.0, 1 / 6**0.5, 1.0, 1.0, 0.0])


def test_the_memo_sorts_and_refuses_what_is_no_number() -> None:
    table = Table({"b": 2.0, "longer": 0.5})
    memo = Memo(table)
    assert memo([("x", "longer"), ("x", "b"), ("x", "b")]).tolist() == [0.5, 1.0, 1.0]
    assert table.asked == [("x", "b"), ("x", "longer")]
    assert memo([]).tolist() == []
    with pytest.raises(ModelError, match="1 that are no number"):
        Memo(Table({"b": math.nan}))([("a", "b")])
