from __future__ import annotations

import collections

import numpy as np
import pytest
from scipy.stats import binom

from lm_eval_ensemble.metrics.paired import (
    compare_paired,
    mcnemar_unclustered,
    paired_difference,
    sign_flip,
    simultaneous,
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
        random_state=np.random.default_rng(0),  # scipy 1.15 also calls it rng
    ).pvalue
    assert sign_flip(gaps, clusters) == pytest.approx(expected, abs=0.01)
    assert sign_flip(gaps, clusters) == sign_flip(gaps, clusters)


def test_a_comparison_counts_wins_and_losses() -> None:
    found = compare_paired([1, 1, 0, 1], [0, 1, 1, 0], "aabb")
    assert (found.wins, found.losses, found.discordant) == (2, 1, 0.75)
    assert found.difference.mean == 0.25
    assert (found.p, found.p_unclustered) == (1, 1)  # sums 1, 0; 2 against 1
    with pytest.raises(ValueError, match="same documents"):
        compare_paired([1, 0], [1], "a")


def test_the_detectable_difference_comes_from_the_interval_of_the_difference() -> None:
    from scipy.special import stdtrit

    first, second = [1.0, 0.0] * 40, [0.0, 1.0] * 20 + [1.0, 0.0] * 20
    found = compare_paired(first, second, range(80))
    assert found.difference.se is not None
    assert found.difference.df is not None
    factor = float(stdtrit(found.difference.df, 0.975) + stdtrit(found.difference.df, 0.8))
    assert found.detectable == pytest.approx(factor * found.difference.se)
    assert found.detectable is not None
    assert found.detectable <= found.discordant


def test_what_the_differing_documents_do_not_allow_is_not_detectable() -> None:
    # 2 of 60 documents differ: even both on one side would be 3.3 points, and two signs have p = 1/2.
    one_side = compare_paired([1.0] * 60, [0.0] * 2 + [1.0] * 58, range(60))
    assert one_side.discordant == pytest.approx(1 / 30)
    assert one_side.detectable is None
    # Six on one side are p = 2/64, and a difference of that size.
    six = compare_paired([1.0] * 60, [0.0] * 6 + [1.0] * 54, range(60))
    assert six.p == 2 / 64
    assert six.detectable is None or six.detectable <= 0.1


def test_where_nothing_differs_the_interval_is_that_of_the_share_that_does() -> None:
    found = paired_difference(np.zeros(164), range(164), shares=True)
    assert found.low is not None
    assert found.high == -found.low
    assert 0.02 < found.high < 0.03  # Wilson of 0 in 164: 3.9 / 167.9
    always = paired_difference(np.ones(5), range(5), shares=True)
    assert (always.mean, always.high) == (1, 1)
    # Nothing bounds other metrics.
    assert paired_difference(np.zeros(5), range(5), shares=False).low is None


def test_differences_of_shares_stay_shares() -> None:
    found = paired_difference([1, 1, 0, 1], "abcd", shares=True)
    assert found.high == 1


def test_simultaneous_tests_by_hand() -> None:
    # One of one is the sign flip; twice the same costs nothing.
    gaps = [1.0, 1.0, 1.0, 1.0, 1.0, -1.0]
    (alone,) = simultaneous([gaps], range(6))
    assert alone.p == sign_flip(gaps, range(6)) == 14 / 64
    assert [one.p for one in simultaneous([gaps, gaps], range(6))] == [14 / 64] * 2
    # Opposite ones have the same size under every pattern.
    assert [one.p for one in simultaneous([gaps, [-gap for gap in gaps]], range(6))] == [14 / 64] * 2
    # A second difference can only raise the first one's p.
    other = [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    assert simultaneous([gaps, other], range(6))[0].p >= 14 / 64
    assert simultaneous([[0.0, 0.0]], "ab")[0].p == 1
    assert simultaneous([], "ab") == []
    # Of two programs the half width is 12.7 standard errors: a difference of two shares ends at 1.
    (wide,) = simultaneous([[0.5, 0.0]], "ab")
    assert wide.high is not None
    assert wide.high > 1
    assert [(one.low, one.high) for one in simultaneous([[0.5, 0.0]], "ab", shares=True)] == [(-1.0, 1.0)]


def test_simultaneous_tests_keep_their_level_and_intervals() -> None:
    """No true difference of any of 20 selectors that choose much alike: one or more of them is found in 5 % of sets."""
    random, hits, missed = np.random.default_rng(5), 0, 0
    codes = np.repeat(np.arange(40), 5)
    for _ in range(300):
        common = random.choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=200)
        own = [np.where(random.random(200) < 0.2, random.choice([-1.0, 0.0, 1.0], size=200), common) for _ in range(20)]
        found = simultaneous(own, codes, flips=499)
        hits += min(one.p for one in found) <= 0.05
        missed += any(one.low is not None and one.high is not None and not one.low <= 0 <= one.high for one in found)
    assert 0.01 <= hits / 300 <= 0.085
    assert missed / 300 <= 0.085


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
    flipped = np.mean([sign_flip(g, clusters, flips=499) <= 0.05 for g in gaps])
    assert naive > 0.08
    assert 0.035 <= flipped <= 0.065


def test_sign_flips_of_many_clusters_are_binomial() -> None:
    # 3,000 clusters of one document: the sum of signs is binomial, so the p is known.
    wins, losses = 1550, 1450
    gaps = [1.0] * wins + [-1.0] * losses
    exact = 2 * float(binom.cdf(losses, wins + losses, 0.5))
    assert sign_flip(gaps, list(range(len(gaps)))) == pytest.approx(exact, abs=0.012)
    scaled = [gap * (1 + i * 1e-9) for i, gap in enumerate(gaps)]  # all sizes differ: drawn in blocks
    assert sign_flip(scaled, list(range(len(gaps)))) == pytest.approx(exact, abs=0.012)


def test_a_hundred_thousand_different_values_take_seconds() -> None:
    import time

    gaps = np.random.default_rng(0).normal(size=100_000)
    begin = time.process_time()
    p = sign_flip(gaps, np.arange(100_000))
    assert time.process_time() - begin < 10
    # The normal limit, wrong by at most 0.56 sum |s|^3 / (sum s^2)^1.5 = 0.003 (Berry and Esseen); 9,999 draws err by 0.005.
    from scipy.special import ndtr

    assert p == pytest.approx(2 * ndtr(-abs(gaps.sum()) / np.sqrt((gaps**2).sum())), abs=0.02)
