from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_ensemble.metrics.clustered import (
    cluster_bootstrap,
    clustered_mean,
    clustered_se,
    design_effect,
    wilson,
)


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (3, 10), (790, 1033), (677, 1043), (1, 1)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_is_scipys(right: int, n: int, level: float) -> None:
    from scipy.stats import binomtest

    expected = binomtest(right, n).proportion_ci(level, method="wilson")
    assert wilson(right, n, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_refuses_what_is_no_share() -> None:
    for right, n in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="needs"):
            wilson(right, n)


def test_the_clustered_error_by_hand() -> None:
    # Mean 1/2. Sums of deviations per cluster: a 1/2 + 1/2 = 1, b -1/2 - 1/2 = -1, c 0. C = 3, n = 6:
    # sqrt(3/2 * (1 + 1 + 0)) / 6 = sqrt(3) / 6.
    values, clusters = [1, 1, 0, 0, 1, 0], list("aabbcc")
    assert clustered_se(values, clusters) == pytest.approx(math.sqrt(3) / 6)
    # Independent documents: variance 0.3, over n: 0.05. Clustered: 3/36 = 1/12.
    assert design_effect(values, clusters) == pytest.approx((1 / 12) / 0.05)
    found = clustered_mean(values, clusters)
    # t with 2 degrees of freedom: 4.302653.
    assert (found.mean, found.n, found.clusters) == (0.5, 6, 3)
    assert found.high == pytest.approx(0.5 + 4.302653 * math.sqrt(3) / 6, abs=1e-5)


def test_clusters_of_one_give_the_usual_error() -> None:
    from scipy.stats import sem, ttest_1samp

    values = np.random.default_rng(0).normal(size=50)
    assert clustered_se(values, range(50)) == pytest.approx(sem(values))
    assert design_effect(values, range(50)) == pytest.approx(1)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    found = clustered_mean(values, range(50))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), min_size=2, max_size=40), st.integers(2, 4))
def test_copies_of_a_cluster_add_no_information(rows: list[tuple[int, int]], copies: int) -> None:
    clusters, values = [c for c, _ in rows], [v for _, v in rows]
    first, second = clustered_se(values, clusters), clustered_se(values * copies, clusters * copies)
    assert (first is None and second is None) or first == pytest.approx(second)


def test_one_cluster_has_no_error_and_no_cluster_no_document() -> None:
    found = clustered_mean([1, 0, 1], "aaa")
    assert (found.se, found.low, found.high, found.deff) == (None, None, None, None)
    with pytest.raises(ValueError, match="document 1 has no cluster"):
        clustered_se([1, 0], ["a", None])
    with pytest.raises(ValueError, match="expected one of each"):
        clustered_se([1, 0, 1], "ab")


def test_the_bootstrap_of_a_ratio_agrees_with_scipy() -> None:
    from scipy.stats import bootstrap

    random = np.random.default_rng(3)
    sizes = random.integers(1, 8, size=60)
    clusters = np.repeat(np.arange(60), sizes).tolist()
    decisive = random.random(len(clusters)) < 0.5
    right = decisive & (random.random(len(clusters)) < np.repeat(random.random(60), sizes))
    top, bottom = np.bincount(clusters, right), np.bincount(clusters, decisive)
    expected = bootstrap(
        (top, bottom),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=10_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    (found, twice) = cluster_bootstrap([(right, decisive), (2 * right, decisive)], clusters)
    assert found == pytest.approx((expected.low, expected.high), abs=0.01)
    assert cluster_bootstrap([(right, decisive)], clusters) == [found]  # seeded
    assert twice == pytest.approx((2 * found[0], 2 * found[1]) if found else None)  # the same resamples


def test_a_ratio_over_nothing_has_no_interval() -> None:
    assert cluster_bootstrap([([0, 0], [0, 0])], "ab") == [None]
    # One decisive cluster of three: 30 % of the resamples miss it.
    assert cluster_bootstrap([([1, 0, 0], [1, 0, 0])], "abc") == [None]
