"""Risk-coverage numbers: by hand, against scikit-learn, and against brute force over expanded resamples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from lm_eval_ensemble.metrics import rejection
from lm_eval_ensemble.metrics.bootstrap import percentile, resamples
from lm_eval_ensemble.metrics.rejection import (
    CURVES,
    accuracy_at,
    auprc,
    aurac_quantiles,
    aurc,
    grouped,
    oracle_aurc,
    prr,
    risks,
    roc,
)


def only(values: np.ndarray) -> float:
    (value,) = values
    return float(value)


def test_by_hand() -> None:
    # certain to uncertain: right, wrong, right, wrong. Risks 0, 1/2, 1/3, 1/2: AURC = (4/3)/4 = 1/3.
    # Oracle: 0, 0, 1/3, 1/2: 5/24. Chance 1/2. PRR = (1/2 - 1/3) / (1/2 - 5/24) = (1/6)/(7/24) = 4/7.
    counts = grouped(np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, True, False, True]))
    assert only(aurc(*counts)) == pytest.approx(1 / 3)
    assert only(oracle_aurc(*counts)) == pytest.approx(5 / 24)
    assert only(CURVES["eaurc"](*counts)) == pytest.approx(1 / 8)
    assert only(CURVES["aurac"](*counts)) == pytest.approx(2 / 3)
    assert only(prr(*counts)) == pytest.approx(4 / 7)
    # at most half rejected: k = 3, 4. AURC (1/3 + 1/2)/2 = 5/12, as good as the oracle: PRR 1
    assert only(aurc(*counts, 0.5)) == pytest.approx(5 / 12)
    assert only(prr(*counts, 0.5)) == pytest.approx(1.0)
    # 80 % of 4 documents are 4 (rounded up), 75 % are 3
    assert only(accuracy_at(*counts, 0.8)) == pytest.approx(1 / 2)
    assert only(accuracy_at(*counts, 0.75)) == pytest.approx(2 / 3)


def test_roc_by_hand() -> None:
    # As above: the highest score is wrong, the next right. No right one flagged: half of the wrong ones found; one of two: all.
    counts = grouped(np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, True, False, True]))
    assert roc(*counts, np.array([0, 0.49, 0.5, 1])).tolist() == [[0.5, 0.5, 1.0, 1.0]]
    assert risks(*counts, (0.25, 0.5, 0.75, 1)).tolist() == [[0, 0.5, pytest.approx(1 / 3), 0.5]]
    # all scores equal: the diagonal
    tied = grouped(np.zeros(4), np.array([False, True, False, True]))
    assert roc(*tied, np.array([0, 0.3, 1])).tolist() == [[0, pytest.approx(0.3), 1]]
    assert np.isnan(roc(*grouped(np.arange(3.0), np.ones(3, bool)), np.array([0.5]))).all()


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=30))
def test_the_area_under_the_roc_is_the_auroc(drawn: list[tuple[int, bool]]) -> None:
    score, wrong = np.array([float(s) for s, _ in drawn]), np.array([w for _, w in drawn])
    if wrong.all() or not wrong.any():
        return
    # Steps at multiples of 1 / n0: on either side of them, and in the middle, straight pieces are met exactly.
    n0 = int((~wrong).sum())
    rates = np.sort(np.concatenate([k / n0 + np.array([0.0, 1 - 1e-9]) / n0 for k in range(n0)]))
    curve = roc(*grouped(score, wrong), rates)[0]
    assert np.trapezoid(curve, rates) == pytest.approx(roc_auc_score(wrong, score), abs=1e-6)
    assert (np.diff(curve) >= 0).all()


def test_a_perfect_model_by_both_definitions_of_aurac() -> None:
    counts = grouped(np.arange(400.0), np.zeros(400, bool))
    assert only(CURVES["aurac"](*counts)) == 1.0
    assert only(aurac_quantiles(*counts)) == pytest.approx(18 / 19)


def nature_aurac(score: np.ndarray, right: np.ndarray) -> float:
    """The published definition, in our words: accuracy up to each of 20 quantiles, times the step."""
    grid = np.linspace(0.1, 1, 20)
    return float(sum(right[score <= np.quantile(score, q)].mean() for q in grid) * (grid[1] - grid[0]))


def polygraph_prr(score: np.ndarray, right: np.ndarray, rejected: float) -> float:
    """lm-polygraph's formula for scores without ties: mean accuracy of what is kept, scaled between chance and oracle."""

    def area(order: np.ndarray) -> float:
        n = len(right)
        count = int(rejected * n)
        kept = np.cumsum(right[order])[-count:] / np.arange(n - count + 1, n + 1)
        return float(kept.sum() / count)

    chance = float(right.mean())
    return (area(np.argsort(score)) - chance) / (area(np.argsort(~right)) - chance)


def test_against_the_published_formulas() -> None:
    generator = np.random.default_rng(1)
    for n in (37, 400):
        wrong = generator.random(n) < 0.4
        score = generator.normal(size=n) + wrong
        counts = grouped(score, wrong)
        assert only(aurac_quantiles(*counts)) == pytest.approx(nature_aurac(score, ~wrong))
        for rejected in (1.0, 0.5):
            assert only(prr(*counts, rejected)) == pytest.approx(polygraph_prr(score, ~wrong, rejected))
    tied = generator.integers(0, 8, 400).astype(float)
    assert only(aurac_quantiles(*grouped(tied, wrong))) == pytest.approx(nature_aurac(tied, ~wrong))


cases = st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=40).filter(
    lambda pairs: 0 < sum(wrong for _, wrong in pairs) < len(pairs)
)


@given(cases)
@settings(deadline=None)
def test_laws(pairs: list[tuple[int, bool]]) -> None:
    score, wrong = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs])
    counts = grouped(score, wrong)
    assert only(CURVES["auroc"](*counts)) == pytest.approx(float(roc_auc_score(wrong, score)))
    assert only(auprc(*counts)) == pytest.approx(float(average_precision_score(wrong, score)))
    for name, function in CURVES.items():
        # a monotone map of the score changes no metric
        assert only(function(*grouped(np.exp(score), wrong))) == pytest.approx(only(function(*counts)), nan_ok=True), name
    assert only(oracle_aurc(*counts)) - 1e-12 <= only(aurc(*counts))
    assert only(prr(*counts)) <= 1 + 1e-12
    # a constant score is worth chance
    flat = grouped(np.zeros(len(wrong)), wrong)
    assert only(aurc(*flat)) == pytest.approx(wrong.mean())
    assert only(prr(*flat)) == pytest.approx(0.0, abs=1e-9)
    assert only(accuracy_at(*flat, 0.8)) == pytest.approx(1 - wrong.mean())


@given(cases)
@settings(deadline=None, max_examples=25)
def test_ties_are_the_mean_over_random_orders(pairs: list[tuple[int, bool]]) -> None:
    score, wrong = np.array([p[0] for p in pairs], float) // 5, np.array([p[1] for p in pairs])
    generator = np.random.default_rng(0)
    n = len(wrong)
    risks = []
    for _ in range(600):
        order = np.lexsort((generator.random(n), score))
        risks.append(float(np.mean(np.cumsum(wrong[order]) / np.arange(1, n + 1))))
    spread = float(np.std(risks)) / 600**0.5
    assert abs(only(aurc(*grouped(score, wrong))) - np.mean(risks)) <= 5 * spread + 1e-9


def test_resamples_in_one_call_equal_resamples_one_by_one() -> None:
    generator = np.random.default_rng(2)
    wrong = generator.random(60) < 0.3
    score = np.round(generator.normal(size=60), 1)
    counts, _ = resamples(wrong, 20, seed=4)
    together = {name: function(*grouped(score, wrong, counts)) for name, function in CURVES.items()}
    for row, count in enumerate(counts):
        pick = np.repeat(np.arange(60), count)
        single = grouped(score[pick], wrong[pick])
        for name, function in CURVES.items():
            assert together[name][row] == pytest.approx(only(function(*single))), name


def test_one_class_resamples_are_stratified() -> None:
    wrong = np.array([True] + [False] * 9)
    counts, stratified = resamples(wrong, 500, seed=0)
    assert (counts.sum(1) == 10).all()
    # (9/10)^10 = 35 % of the resamples miss the wrong answer
    assert 120 < stratified < 230
    assert (counts[:, 0] > 0).all()
    assert resamples(np.zeros(4, bool), 10)[1] == 0


def test_percentiles() -> None:
    assert percentile(np.arange(101.0), 0.9) == pytest.approx((5.0, 95.0))
    assert percentile(np.array([1.0, np.nan, np.nan])) is None
    assert percentile(np.array([])) is None


def test_directions() -> None:
    assert [name for name in CURVES if not rejection.higher_is_better(name)] == ["aurc", "eaurc"]
