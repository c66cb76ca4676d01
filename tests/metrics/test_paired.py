from __future__ import annotations

import collections

import numpy as np
import pytest
from scipy.stats import binom

from lm_eval_ensemble.metrics.paired import (
    cluster_t,
    compare_paired,
    mcnemar_unclustered,
    minimal_detectable_gain,
    sign_flip,
)

# Documents per program in HumanEval-Infilling, single line: size -> how many programs have it.
SIZES = {
    1: 37,
    2: 10,
    3: 10,
    4: 8,
    5: 17,
    6: 17,
    7: 10,
    8: 8,
    9: 12,
    10: 4,
    11: 9,
    12: 3,
    13: 4,
    14: 5,
    15: 3,
    16: 2,
    19: 1,
    20: 1,
    21: 1,
    22: 1,
    29: 1,
}


def programs() -> list[int]:
    sizes = [size for size, count in SIZES.items() for _ in range(count)]
    return [program for program, size in enumerate(sizes) for _ in range(size)]


@pytest.mark.data
def test_the_sizes_are_those_of_the_data_set() -> None:
    from lm_eval_ensemble.data import load_documents

    found = collections.Counter(doc["problem"] for doc in load_documents("single-line"))
    assert collections.Counter(found.values()) == SIZES
    assert (len(found), sum(found.values())) == (164, 1033)


@pytest.mark.parametrize(("wins", "losses"), [(8, 1), (1, 8), (5, 5), (0, 6), (40, 22), (0, 0)])
def test_mcnemar_is_the_binomial_test(wins: int, losses: int) -> None:
    from scipy.stats import binomtest

    expected = binomtest(min(wins, losses), wins + losses, 0.5).pvalue if wins + losses else 1.0
    assert mcnemar_unclustered(wins, losses) == pytest.approx(expected)


def test_sign_flips_by_hand() -> None:
    # Sums 2, 1, 1: of the 8 patterns two reach |4|.
    assert sign_flip([1, 1, 1, 1], "aabc") == 2 / 8
    # 2 - 1 - 1 = 0: every pattern does.
    assert sign_flip([1, 1, -1, -1], "aabc") == 1
    assert sign_flip([1, -1, 0], "aab") == 1
    # Documents that never differ add nothing.
    assert sign_flip([1, 1, 1, 1, 0, 0], "aabcde") == 2 / 8


@pytest.mark.parametrize("count", [12, 60])
def test_sign_flips_agree_with_scipy(count: int) -> None:
    from scipy.stats import permutation_test

    random = np.random.default_rng(count)
    gaps = random.choice([-1.0, 0.0, 1.0], p=[0.15, 0.6, 0.25], size=3 * count)
    clusters = np.repeat(np.arange(count), 3).tolist()
    sums = gaps.reshape(count, 3).sum(1)
    expected = permutation_test(
        (sums, np.zeros(count)),
        lambda a, b, axis: (a - b).sum(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=np.random.default_rng(0),
    ).pvalue
    assert sign_flip(gaps, clusters) == pytest.approx(expected, abs=0.01)
    assert sign_flip(gaps, clusters) == sign_flip(gaps, clusters)


def test_the_clustered_t_of_single_documents_is_the_t_test() -> None:
    from scipy.stats import ttest_1samp

    gaps = np.random.default_rng(5).normal(0.2, 1, size=40)
    assert cluster_t(gaps, range(40)) == pytest.approx(ttest_1samp(gaps, 0).pvalue)
    assert cluster_t([0.0, 0.0], "ab") == 1
    assert cluster_t([1.0, 1.0], "aa") == 1


def test_a_comparison_counts_wins_and_losses() -> None:
    found = compare_paired([1, 1, 0, 1], [0, 1, 1, 0], "aabb")
    assert (found.wins, found.losses, found.discordant) == (2, 1, 0.75)
    assert found.difference.mean == 0.25
    assert (found.p, found.p_unclustered) == (1, 1)  # sums 1, 0; 2 against 1
    with pytest.raises(ValueError, match="same documents"):
        compare_paired([1, 0], [1], "a")


@pytest.mark.parametrize(
    ("discordant", "deff", "points"),
    [(0.05, 1, 1.95), (0.05, 2, 2.8), (0.08, 1.5, 3.0), (0.10, 3, 4.8), (0.15, 1, 3.4), (0.15, 3, 5.8)],
)
def test_detectable_gain_at_1033_documents(discordant: float, deff: float, points: float) -> None:
    # Points computed apart, from (1.95996 + 0.84162) * sqrt(discordant * deff / 1033).
    assert 100 * minimal_detectable_gain(1033, discordant, deff) == pytest.approx(points, abs=0.06)


def test_clustered_tests_keep_their_level_where_mcnemar_does_not() -> None:
    """No true difference, intraclass correlation 0.1, real cluster sizes: how often does a test at 5 % reject?

    A document is discordant with chance D = 0.2; in which direction is drawn with a chance p of its program's own, from
    Beta(a, a). Then E[d] = 0, var d = D, and two documents of one program have covariance D^2 var(2p - 1) = D^2 / (2a + 1), so
    the correlation is D / (2a + 1), which is 0.1 for a = 1/2.
    """
    runs, clusters = 4000, programs()
    random = np.random.default_rng(11)
    leaning = random.beta(0.5, 0.5, size=(runs, max(clusters) + 1))[:, clusters]
    gaps = np.where(random.random(leaning.shape) < leaning, 1.0, -1.0) * (random.random(leaning.shape) < 0.2)
    naive = np.mean([mcnemar_unclustered(int((g > 0).sum()), int((g < 0).sum())) <= 0.05 for g in gaps])
    student = np.mean([cluster_t(g, clusters) <= 0.05 for g in gaps])
    flipped = np.mean([sign_flip(g, clusters, flips=499) <= 0.05 for g in gaps])
    assert naive > 0.08
    assert 0.035 <= student <= 0.065
    assert 0.035 <= flipped <= 0.065


def test_sign_flips_of_many_clusters_are_binomial() -> None:
    # 3,000 clusters of one document: the sum of signs is binomial, so the p is known.
    wins, losses = 1550, 1450
    gaps = [1.0] * wins + [-1.0] * losses
    exact = 2 * float(binom.cdf(losses, wins + losses, 0.5))
    assert sign_flip(gaps, list(range(len(gaps)))) == pytest.approx(exact, abs=0.012)
    scaled = [gap * (1 + i * 1e-9) for i, gap in enumerate(gaps)]  # all sizes differ: drawn in blocks
    assert sign_flip(scaled, list(range(len(gaps)))) == pytest.approx(exact, abs=0.012)
