"""SQuAD's measures, against the official figures; ROUGE-L, worked out by hand."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from lm_eval_ensemble.metrics.answers import normalise, rouge_l, squad_em, squad_f1


def test_the_normaliser_keeps_the_official_order() -> None:
    assert normalise("The  Eiffel-Tower!") == "eiffeltower"
    # punctuation goes before articles, so "a." is one, "theatre" is none
    assert normalise("A. Theatre, an apple") == "theatre apple"
    assert normalise("the") == ""


def test_f1_by_hand() -> None:
    # shared: "new", "york" of 3 and 2 words: precision 2/3, recall 1, F1 4/5
    assert squad_f1("in New York", ["New York"]) == pytest.approx(0.8)
    assert squad_f1("York, York", ["New York"]) == pytest.approx(0.5)
    assert squad_f1("in New York", ["Boston", "New York", "York"]) == pytest.approx(0.8)
    assert squad_em("new york!", ["Boston", "the New York"]) == 1.0


def test_questions_without_an_answer() -> None:
    assert (squad_f1("", []), squad_em("", [])) == (1.0, 1.0)
    assert (squad_f1("Paris", []), squad_em("Paris", [])) == (0.0, 0.0)
    assert squad_f1("", ["Paris"]) == 0.0
    # the official script drops references that are empty after normalisation
    assert squad_f1("", ["The", "Paris"]) == 0.0
    assert (rouge_l("", []), rouge_l("Paris", [])) == (1.0, 0.0)


def test_rouge_l_by_hand() -> None:
    # longest common subsequence "new york" of 3 and 2 words: F = 0.8; stemming makes cities = city
    assert rouge_l("in New York", ["New York"]) == pytest.approx(0.8)
    assert rouge_l("cities", ["Boston", "city"]) == 1.0
    assert rouge_l("", ["Paris"]) == 0.0


@pytest.mark.data("replays/squad_v2_predictions.jsonl.gz", "squad_v2/validation.jsonl.gz")
def test_published_predictions_get_their_published_figures() -> None:
    folder = Path(os.environ["LM_EVAL_ENSEMBLE_DATA"])
    with gzip.open(folder / "squad_v2" / "validation.jsonl.gz", "rt", encoding="utf-8") as lines:
        gold = {row["id"]: row["answers"]["text"] for row in map(json.loads, lines)}
    with gzip.open(folder / "replays" / "squad_v2_predictions.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = list(map(json.loads, lines))
    assert len(rows) == 11873
    published = {"bert": (78.7417, 81.7753), "nlnet": (75.8275, 78.7778), "bidaf_sa_elmo": (65.7037, 67.8765)}
    for model, expected in published.items():
        em = 100 * sum(squad_em(row[model], gold[row["id"]]) for row in rows) / len(rows)
        f1 = 100 * sum(squad_f1(row[model], gold[row["id"]]) for row in rows) / len(rows)
        assert (round(em, 4), round(f1, 4)) == expected


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("Москва", "Москва", 1.0),
        ("Москва 2", "Санкт 2", 0.5),  # beside a digit the word counts too
        ("北京市", "北京", 0.8),  # of three characters two: 2 * 2 / (3 + 2)
        ("हिन्दी भाषा", "हिन्दी", 2 / 3),  # of two words one: vowel signs are part of a word
        ("cafe", "café", 0.0),
        ("€", "€", 1.0),
    ],
)
def test_rouge_l_in_every_script(answer: str, reference: str, value: float) -> None:
    assert rouge_l(answer, [reference]) == pytest.approx(value)
