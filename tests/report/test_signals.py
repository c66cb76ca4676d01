"""What scores know, against scikit-learn and scipy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import pointbiserialr
from sklearn.metrics import roc_auc_score

from lm_eval_ensemble.report.records import Choice, Option
from lm_eval_ensemble.report.signals import curves, diversity, margin, risk_coverage, scorers


def option(member: str, text: str, right: bool, **scores: float) -> Option:
    return Option(member, text, right, scores, "pass" if right else "fail", "", None)


def choices(n: int = 200, seed: int = 0) -> list[Choice]:
    random = np.random.default_rng(seed)
    found = []
    for i in range(n):
        right = random.random(2) < (0.4, 0.6)
        # one decimal: there are ties
        scores = np.round(random.normal(2 - right, 1, size=(2, 2)), 1)
        options = tuple(
            option(m, f"{m}{i}", bool(r), fim=float(s[0]), onepass=float(s[1]))
            for m, r, s in zip("ab", right, scores, strict=True)
        )
        found.append(Choice(options, int(scores[1, 0] < scores[0, 0]), "score", "fim"))
    return found


def test_auroc_and_correlation_are_those_of_the_libraries() -> None:
    data = choices()
    found = scorers(data, ["a", "b"])
    for scorer in ("fim", "onepass"):
        for place, member in enumerate("ab"):
            score = [c.options[place].scores[scorer] for c in data]
            right = [c.options[place].right for c in data]
            entry = found[scorer]["members"][member]
            assert entry["mean"] == pytest.approx(np.mean(score))
            assert entry["auroc"] == pytest.approx(roc_auc_score(right, [-s for s in score]))
            assert entry["auroc_low"] < entry["auroc"] < entry["auroc_high"]
            assert entry["point_biserial"] == pytest.approx(pointbiserialr(right, score).statistic)


def test_a_scorer_as_selector_by_hand() -> None:
    data = [
        Choice((option("a", "x", True, fim=1.0), option("b", "y", False, fim=2.0)), 0, "score", "fim"),
        Choice((option("a", "x", True, fim=3.0), option("b", "y", False, fim=2.0)), 1, "score", "fim"),
        Choice((option("a", "x", False, fim=2.0), option("b", "y", True, fim=2.0)), 0, "tie", "fim"),
        Choice((option("a", "x", True, fim=2.0), option("b", "x", True, fim=2.0)), 0, "agreement", "fim"),
    ]
    entry = scorers(data, ["a", "b"])["fim"]
    assert entry["prefers"] == {"a": pytest.approx(0.5), "b": pytest.approx(0.5)}
    # The tie goes to the smaller text, which is wrong, and to b, which is right, where that is preferred.
    assert (entry["accuracy"], entry["decisive"]) == (pytest.approx(1 / 3), 3)
    preferred = scorers([replace(choice, prefer="b") for choice in data], ["a", "b"])["fim"]
    assert (preferred["accuracy"], preferred["prefers"]) == (pytest.approx(2 / 3), entry["prefers"])


def test_margins() -> None:
    ahead = Choice((option("a", "x", True, fim=1.0), option("b", "y", False, fim=2.5)), 0, "score", "fim")
    assert margin(ahead) == pytest.approx(1.5)
    assert margin(Choice(ahead.options, 1, "veto", "fim")) == pytest.approx(-1.5)
    assert margin(Choice((option("a", "x", True, fim=1.0),) * 2, 0, "agreement", "fim")) is None
    mixed = (option("a", "x", True, fim=1.0, onepass=3.0), option("b", "y", True, fim=2.0, onepass=1.0))
    assert margin(Choice(mixed, 1, "score", "fim+onepass")) == pytest.approx(0.5)
    assert margin(Choice((option("a", "x", True), mixed[1]), 1, "score", "fim")) is None


def test_risk_coverage_by_hand() -> None:
    # Surest first: right, wrong, right, wrong. Risks 0, 1/2, 1/3, 1/2; the best order has 0, 0, 1/3, 1/2.
    found = curves([1.0, 2.0, 3.0, 4.0], [False, True, False, True])
    assert found is not None
    assert found["aurc"] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert found["eaurc"] == pytest.approx(1 / 2 / 4)
    assert {p["coverage"]: p["risk"] for p in found["points"]}[0.5] == pytest.approx(0.5)
    assert curves([None], [True]) is None


def test_risk_of_real_margins_and_of_one_model() -> None:
    found = risk_coverage(choices())
    assert found is not None
    assert (found["by"], found["n"], found["points"][-1]["risk"]) == ("margin", 200, pytest.approx(found["risk"]))
    bins: list[dict[str, Any]] = found["selection_accuracy_by_margin"]
    assert sum(b["n"] for b in bins) == sum(c.decisive for c in choices())
    assert all(b["low"] <= b["high"] for b in bins)
    single = [Choice((option("", "x", bool(i % 2), own=float(i)),), 0, "single", "none") for i in range(6)]
    alone = risk_coverage(single)
    assert alone is not None
    assert alone["by"].startswith("own")


def test_three_members_are_three_pairs() -> None:
    three = Choice(tuple(option(m, m, m == "a") for m in "abc"), 0, "score", "fim")
    assert [entry["pair"] for entry in diversity([three], list("abc"))] == [["a", "b"], ["a", "c"], ["b", "c"]]
