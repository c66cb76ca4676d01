"""What scores know, against scikit-learn and scipy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import pointbiserialr
from sklearn.metrics import roc_auc_score

from lm_eval_ensemble.report.candidates import Candidates
from lm_eval_ensemble.report.signals import curves, diversity, margin, risk_coverage, scorers
from lm_eval_ensemble.runs.samples import Choice
from lm_eval_ensemble.types import Candidate, Scored
from tests.report.helpers import chosen


def option(member: str, text: str, right: bool, **scores: float) -> tuple[Scored, bool]:
    return Scored(Candidate(member, text, text), scores, "pass" if right else "fail"), right


def choices(n: int = 200, seed: int = 0) -> list[Choice]:
    random = np.random.default_rng(seed)
    found = []
    for i in range(n):
        right = random.random(2) < (0.4, 0.6)
        # one decimal: there are ties
        scores = np.round(random.normal(2 - right, 1, size=(2, 2)), 1)
        options = [
            option(m, f"{m}{i}", bool(r), fim=float(s[0]), onepass=float(s[1]))
            for m, r, s in zip("ab", right, scores, strict=True)
        ]
        found.append(chosen(options, int(scores[1, 0] < scores[0, 0])))
    return found


def test_auroc_and_correlation_are_those_of_the_libraries() -> None:
    data = choices()
    found = scorers(Candidates(data, ["a", "b"]), np.arange(len(data)), np.arange(len(data)))
    for scorer in ("fim", "onepass"):
        for place, member in enumerate("ab"):
            score = [c.selection.candidates[place].scores[scorer] or 0.0 for c in data]
            right = [c.right[place] for c in data]
            entry = found[scorer]["members"][member]
            assert entry["mean"] == pytest.approx(np.mean(score))
            assert entry["auroc"] == pytest.approx(roc_auc_score(right, [-s for s in score]))
            assert entry["auroc_low"] < entry["auroc"] < entry["auroc_high"]
            assert entry["point_biserial"] == pytest.approx(pointbiserialr(right, score).statistic)


def test_a_scorer_as_selector_by_hand() -> None:
    data = [
        chosen([option("a", "x", True, fim=1.0), option("b", "y", False, fim=2.0)], 0),
        chosen([option("a", "x", True, fim=3.0), option("b", "y", False, fim=2.0)], 1),
        chosen([option("a", "x", False, fim=2.0), option("b", "y", True, fim=2.0)], 0, "tie"),
        chosen([option("a", "x", True, fim=2.0), option("b", "x", True, fim=2.0)], 0, "agreement"),
    ]
    entry = scorers(Candidates(data, ["a", "b"]), np.arange(len(data)), np.arange(len(data)))["fim"]
    assert entry["prefers"] == {"a": pytest.approx(0.5), "b": pytest.approx(0.5)}
    # The tie goes to the smaller text, which is wrong, and to b, which is right, where that is preferred.
    assert (entry["accuracy"], entry["decisive"]) == (pytest.approx(1 / 3), 3)
    for choice in data:
        choice.selection = replace(choice.selection, settings={"prefer": "b"})
    preferred = scorers(Candidates(data, ["a", "b"]), np.arange(len(data)), np.arange(len(data)))["fim"]
    assert (preferred["accuracy"], preferred["prefers"]) == (pytest.approx(2 / 3), entry["prefers"])


def test_margins() -> None:
    ahead = [option("a", "x", True, fim=1.0), option("b", "y", False, fim=2.5)]
    assert margin(chosen(ahead, 0)) == pytest.approx(1.5)
    assert margin(chosen(ahead, 1, "veto")) == pytest.approx(-1.5)
    assert margin(chosen([option("a", "x", True, fim=1.0)] * 2, 0, "agreement")) is None
    mixed = [option("a", "x", True, fim=1.0, onepass=3.0), option("b", "y", True, fim=2.0, onepass=1.0)]
    assert margin(chosen(mixed, 1, rule="fim+onepass")) == pytest.approx(0.5)
    assert margin(chosen([option("a", "x", True), mixed[1]], 1)) is None


def test_risk_coverage_by_hand() -> None:
    # Surest first: right, wrong, right, wrong. Risks 0, 1/2, 1/3, 1/2; the best order has 0, 0, 1/3, 1/2.
    found = curves([1.0, 2.0, 3.0, 4.0], [False, True, False, True])
    assert found is not None
    assert found["aurc"] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert found["eaurc"] == pytest.approx(1 / 2 / 4)
    assert {p["coverage"]: p["risk"] for p in found["points"]}[0.5] == pytest.approx(0.5)
    assert curves([None], [True]) is None


def test_risk_of_real_margins_and_of_one_model() -> None:
    found = risk_coverage(choices(), np.arange(200) // 4)
    assert found is not None
    assert (found["by"], found["n"], found["points"][-1]["risk"]) == ("margin", 200, pytest.approx(found["risk"]))
    bins: list[dict[str, Any]] = found["selection_accuracy_by_margin"]
    assert sum(b["n"] for b in bins) == sum(c.decisive for c in choices())
    assert all(b["margin_from"] <= b["margin_to"] for b in bins)
    assert all(b["accuracy_low"] <= b["accuracy"] <= b["accuracy_high"] for b in bins)
    single = []
    for i in range(6):
        own = Scored(Candidate("", "x", "x", logprobs=(-float(i),)), {})
        single.append(chosen([(own, bool(i % 2))], 0, "single", "none"))
    alone = risk_coverage(single, np.arange(6))
    assert alone is not None
    assert alone["by"].startswith("own")


def test_three_members_are_three_pairs() -> None:
    three = chosen([option(m, m, m == "a") for m in "abc"], 0)
    assert [entry["pair"] for entry in diversity(Candidates([three], list("abc")))] == [["a", "b"], ["a", "c"], ["b", "c"]]
