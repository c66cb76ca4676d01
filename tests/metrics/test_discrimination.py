"""All metrics of a score together."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from lm_eval_ensemble.metrics.discrimination import discriminate, spearman


def test_both_intervals_of_the_area_agree() -> None:
    generator = np.random.default_rng(0)
    wrong = generator.random(400) < 0.5
    found = discriminate(generator.normal(size=400) + wrong, wrong)
    delong, boot = found.metrics["auroc"], found.metrics["auroc_bootstrap"]
    assert delong.value == pytest.approx(boot.value)
    assert delong.low == pytest.approx(boot.low, abs=0.01)
    assert delong.high == pytest.approx(boot.high, abs=0.01)
    assert found.warnings == ()
    for name, estimate in found.metrics.items():
        assert estimate.low is not None, name
        assert estimate.value is not None, name
        assert estimate.high is not None, name
        assert estimate.low <= estimate.value <= estimate.high, name


def test_f7_an_area_surely_below_one_half_is_a_warning() -> None:
    """F7: a published AUROC of 0.248 at accuracy 0.73 was a turned sign or misplaced labels, and nobody was told."""
    generator = np.random.default_rng(0)
    wrong = generator.random(400) < 0.27
    found = discriminate(generator.normal(size=400) - wrong, wrong, draws=0)
    assert found.metrics["auroc"].value == pytest.approx(0.25, abs=0.05)
    assert any("lies under 0.5" in warning for warning in found.warnings)


def test_few_answers_of_a_class_are_a_warning() -> None:
    found = discriminate(range(30), [1] * 5 + [0] * 25, draws=50)
    assert any("25 right and 5 wrong" in warning for warning in found.warnings)


def test_one_class_keeps_its_row() -> None:
    found = discriminate([1.0, 2.0, 3.0], [0, 0, 0], draws=50)
    assert found.metrics["auroc"].reason == "all answers are right"
    assert found.metrics["prr"].value is None
    assert found.metrics["prr"].reason == "all answers are right"
    assert found.metrics["aurc"].value == 0.0
    assert found.mean == 2.0
    assert found.std == pytest.approx(math.sqrt(2 / 3))
    empty = discriminate([None], [1])
    assert {estimate.reason for estimate in empty.metrics.values()} == {"no document has this score"}


def test_rank_correlations_against_scipy() -> None:
    generator = np.random.default_rng(3)
    a = generator.normal(size=30)
    b = a + generator.normal(size=30)
    holed = [None if i == 4 else float(v) for i, v in enumerate(b)]
    found = spearman({"a": list(a), "b": list(b), "holed": holed, "flat": [1.0] * 30})
    assert found["a"]["b"] == pytest.approx(spearmanr(a, b).statistic)
    keep = np.arange(30) != 4
    assert found["holed"]["a"] == pytest.approx(spearmanr(b[keep], a[keep]).statistic)
    assert found["a"]["a"] == pytest.approx(1.0)
    assert found["flat"]["a"] is None
