"""Cross-fitted probabilities, Platt's fit, ECE and Brier; thresholds with a guarantee; Holm."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from lm_eval_ensemble.metrics.abstention import GRID, abstain
from lm_eval_ensemble.metrics.calibration import METHODS, brier, calibrate, equal_mass_ece, expected_ece, folds_of, platt
from lm_eval_ensemble.metrics.clustered import clustered_share
from lm_eval_ensemble.metrics.multiple import holm


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose probability of being right is known: P(right) = 1 / (1 + exp(score))."""
    generator = np.random.default_rng(seed)
    score = generator.normal(size=n) * 2
    return score, generator.random(n) > expit(-score)


def test_ece_and_brier_by_hand() -> None:
    probability = np.array([0.1, 0.3, 0.6, 1.0])
    right = np.array([False, True, False, True])
    # two bins of two: |0.2 - 0.5| and |0.8 - 0.5|
    ece, bins = equal_mass_ece(probability, right, bins=2)
    assert ece == pytest.approx(0.3)
    assert [found[:3] for found in bins] == [(pytest.approx(0.2), 0.5, 2), (0.8, 0.5, 2)]
    # If the probabilities were true, E|X/2 - 0.2| = 0.64 * 0.2 + 0.32 * 0.3 + 0.04 * 0.8 = 0.256, and the same for 0.8.
    assert expected_ece(bins) == pytest.approx(0.256)
    assert brier(probability, right) == pytest.approx((0.01 + 0.49 + 0.36 + 0) / 4)
    assert brier(probability, right) == pytest.approx(brier_score_loss(right, probability))


def test_platt_is_the_logistic_fit_on_smoothed_targets() -> None:
    score, wrong = drawn(300)
    a, b = platt(score, ~wrong)
    n1, n0 = int((~wrong).sum()), int(wrong.sum())
    target = np.where(~wrong, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    fit = LogisticRegression(C=1e9, tol=1e-10).fit(
        np.r_[score, score][:, None], np.r_[np.ones(300), np.zeros(300)], sample_weight=np.r_[target, 1 - target]
    )
    assert -a == pytest.approx(fit.coef_[0, 0], rel=1e-3)
    assert -b == pytest.approx(fit.intercept_[0], abs=1e-3)
    # separated classes stay finite
    assert all(map(math.isfinite, platt(np.arange(10.0), np.arange(10) < 5)))


@pytest.mark.parametrize("method", METHODS)
def test_cross_fitting_finds_the_probabilities(method: str) -> None:
    score, wrong = drawn(3000)
    found = calibrate(score, wrong, method)
    assert found.brier.value is not None
    assert found.ece.value is not None
    best = brier(expit(-score), ~wrong)
    assert found.base is not None
    assert best - 0.01 < found.brier.value < best + 0.01 < found.base
    assert found.ece.value < 0.035
    assert sum(part.n for part in found.bins) == 3000
    # Nearly true probabilities: the ECE is what true ones would show, 0.4 sqrt(4 p (1 - p) / 300) at most.
    assert found.expected is not None
    assert found.ece.value < found.expected + 0.02
    assert 0.005 < found.expected < 0.4 / 300**0.5


@pytest.mark.parametrize("method", METHODS)
def test_noise_is_not_called_calibrated_knowledge(method: str) -> None:
    """A score of pure noise: a fit judged on its own answers would beat the base rate, a cross-fitted one may not."""
    generator = np.random.default_rng(1)
    found = calibrate(generator.normal(size=400), generator.random(400) < 0.5, method)
    assert found.brier.value is not None
    assert found.base is not None
    assert found.brier.value > found.base


def test_what_cannot_be_fitted_has_a_reason() -> None:
    assert calibrate([1.0, 2.0], [1, 1]).ece.reason == "all answers are wrong"
    assert "no cross-fitting" in str(calibrate([1.0, 2.0, 3.0], [1, 0, 0]).brier.reason)
    assert calibrate([1.0, math.inf, 3.0, 2.0, None], [0, 1, 1, 0, 0]).ece.n == 4
    with pytest.raises(ValueError, match="known: isotonic, platt"):
        calibrate([1, 2, 3, 4], [0, 1, 0, 1], "beta")


def test_folds_spread_each_class() -> None:
    right = np.arange(50) < 20
    assigned = folds_of(right, 5)
    assert [(int((assigned[right] == f).sum()), int((assigned[~right] == f).sum())) for f in range(5)] == [(4, 6)] * 5


def test_a_cluster_is_in_one_fold() -> None:
    """Ten texts of six answers, all of one text alike: as sixty of their own the Brier score seems known 2.4 times as well."""
    texts, right = np.repeat(np.arange(10), 6), np.repeat(np.arange(10) % 2 == 0, 6)
    assigned = folds_of(right, 5, codes=texts)
    assert all(len(np.unique(assigned[texts == text])) == 1 for text in range(10))
    assert [(int(right[assigned == f].sum()), int((~right)[assigned == f].sum())) for f in range(5)] == [(6, 6)] * 5
    generator = np.random.default_rng(0)
    score = (~right) + np.repeat(generator.normal(size=10), 6)
    alone, together = calibrate(score, ~right, "platt"), calibrate(score, ~right, "platt", clusters=texts)
    widths = [
        found.brier.high - found.brier.low for found in (alone, together) if found.brier.high and found.brier.low is not None
    ]
    assert widths[1] > 2 * widths[0]
    assert (together.brier.clusters, alone.brier.clusters) == (10, None)
    assert together.brier.df is not None
    assert together.brier.df < 10
    # A bin that is one text has no interval; of two texts it is theirs, not that of twelve answers.
    assert all((part.low is None) == (part.n == 6) for part in together.bins)
    for part in together.bins:
        if part.n == 12 and part.right == 0.5:
            two = clustered_share([1.0, 0.0], [0, 1])
            assert two is not None
            assert [part.low, part.high] == pytest.approx([two.low, two.high])
    one_side = calibrate(score, np.repeat(np.arange(10) == 0, 6), clusters=texts)
    assert "are in one cluster: no cross-fitting" in str(one_side.ece.reason)


def test_abstention_by_hand() -> None:
    # 400 answers, the last 100 wrong. Without an error it takes 36 (ln 0.025 / ln 0.9 = 35.01), so the sequence begins at the
    # first of the 20 coverages with 108 answers, 0.30. Each passes up to 0.80, with 20 errors in 320: P(Bin(320, 0.1) <= 20)
    # = 0.0126 <= 0.025. At 0.85 there are 40 in 340, P = 0.88: there it ends.
    found = abstain(np.arange(400.0), np.arange(400) >= 300)
    assert (found.threshold, found.coverage, found.error) == (320.0, 0.8, 20 / 320)
    assert found.bound == pytest.approx(float(beta.ppf(0.975, 21, 300)))
    # A sequence that fails at its start ends there, whatever comes after: 20 of the surest 120 wrong, then none for long.
    late = abstain(np.arange(400.0), (np.arange(400) < 20) | (np.arange(400) >= 330))
    assert late.threshold is None
    # all right: always answer
    assert abstain(np.arange(400.0), np.zeros(400)).threshold == math.inf
    assert "it takes 36 answers" in str(abstain(np.arange(30.0), np.zeros(30)).reason)
    assert abstain([], []).reason == "no document has this score"


def test_the_promise_is_kept() -> None:
    """1,000 draws of 500 documents: the true error behind the threshold exceeds alpha in at most delta of them.

    P(right) = 1 - min(1, u) for u uniform: the error below t is t/2, so alpha = 0.25 is broken where t > 0.5.
    """
    generator = np.random.default_rng(7)
    broken = answered = 0
    for _ in range(1000):
        score = generator.random(500)
        found = abstain(score, generator.random(500) < score, alpha=0.25, delta=0.1)
        answered += found.threshold is not None
        broken += found.threshold is not None and found.threshold > 0.5
    assert answered > 900
    assert broken <= 0.1 * 1000


def test_clusters_abstain_by_their_number() -> None:
    """Forty texts of ten questions each, five of them wholly wrong: as independent answers an error of 1/8 is shown to be below
    0.2; as forty texts it is not."""
    wrong, texts = np.repeat(np.arange(40) % 8 == 0, 10), np.repeat(np.arange(40), 10)
    score = np.tile(np.arange(10.0), 40)
    assert abstain(score, wrong, alpha=0.2).coverage == 1.0
    assert abstain(score, wrong, alpha=0.2, clusters=texts).threshold is None
    found = abstain(score, wrong, alpha=0.35, clusters=texts)
    assert (found.coverage, found.clusters) == (1.0, 40)
    assert found.bound is not None
    assert found.bound <= 0.35
    # Not one of 200 answers from 20 texts is wrong, and that is no promise: texts may be wrong as a whole.
    none = abstain(np.arange(200.0), np.zeros(200), clusters=np.repeat(np.arange(20), 10))
    worst = clustered_share(np.zeros(200), np.repeat(np.arange(20), 10))
    assert worst is not None
    assert worst.high is not None
    assert none.reason == (
        f"no coverage certified; even if none of all 200 answers were wrong the bound would be {100 * worst.high:.1f} %"
    )
    # Where the clusters could promise it, it is the errors that forbid it.
    lenient = abstain(np.arange(200.0), np.arange(200) % 2, 0.4, clusters=np.repeat(np.arange(20), 10))
    assert worst.high < 0.4
    assert lenient.reason == "no coverage certified: too many of the answers below the thresholds tried are wrong"
    few = abstain(score[:80], wrong[80:160], alpha=0.5, clusters=texts[:80])
    assert few.reason == "8 clusters are too few for a promise, which takes 10"


def test_equal_probabilities_share_a_bin() -> None:
    """All 0.5, half of them right: perfect, in whatever order the lines stand."""
    for right in ([True] * 50 + [False] * 50, [True, False] * 50):
        ece, (one,) = equal_mass_ece(np.full(100, 0.5), np.array(right))
        assert (ece, *one[:3]) == (0.0, 0.5, 0.5, 100)
    generator = np.random.default_rng(0)
    probability, outcome = generator.integers(0, 5, 101) / 4, generator.random(101) < 0.6
    other = generator.permutation(101)
    assert equal_mass_ece(probability, outcome) == equal_mass_ece(probability[other], outcome[other])
    # without ties: ten, ten, ...
    assert [found.n for found in equal_mass_ece(np.arange(95) / 95, np.ones(95, bool))[1]] == [10] * 5 + [9] * 5


def test_ties_abstain_together() -> None:
    found = abstain([0.0] * 200 + [1.0] * 200, [0] * 200 + [1] * 200)
    assert (found.threshold, found.coverage) == (1.0, 0.5)
    assert len(GRID) == 20


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
