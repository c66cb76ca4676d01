from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_ensemble.metrics.clustered import (
    clustered_mean,
    clustered_share,
    few_clusters,
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
    # Mean 1/2. Sums of residuals per cluster: a 1/2 + 1/2 = 1, b -1/2 - 1/2 = -1, c 0, each over 1 - h = 1 - 2/6:
    # V = ((3/2)^2 + (3/2)^2) / 6^2 = 1/8.
    values, clusters = [1, 1, 0, 0, 1, 0], list("aabbcc")
    assert clustered_mean(values, clusters).se == pytest.approx(math.sqrt(1 / 8))
    # Every document a cluster: 6 residuals of 1/2 over 1 - 1/6: 6 (3/5)^2 / 36 = 0.06.
    assert clustered_mean(values, clusters).deff == pytest.approx(1 / 8 / 0.06)
    found = clustered_mean(values, clusters)
    assert (found.mean, found.n, found.clusters) == (0.5, 6, 3)
    # Equal clusters: C - 1 = 2 degrees of freedom, t = 4.302653.
    assert found.df == pytest.approx(2)
    assert found.high == pytest.approx(0.5 + 4.302653 * math.sqrt(1 / 8), abs=1e-5)


def test_degrees_of_freedom_are_bell_and_mccaffreys() -> None:
    """Written out with matrices: A_c = (1 - h_c)^(-1/2) on the vector of ones, G = P' Omega P, df = tr(G)^2 / tr(G^2)."""
    from lm_eval_ensemble.metrics.clustered import _satterthwaite

    sizes = np.array([1, 2, 3, 7, 29])
    codes, n = np.repeat(np.arange(5), sizes), int(sizes.sum())
    residual_maker = np.eye(n) - np.ones((n, n)) / n
    columns = np.stack([residual_maker @ (codes == c) / math.sqrt(1 - sizes[c] / n) for c in range(5)], axis=1)
    for rho in (0.0, 0.3, 1.0):
        omega = (1 - rho) * np.eye(n) + rho * (codes[:, None] == codes[None, :])
        middle = columns.T @ omega @ columns
        expected = np.trace(middle) ** 2 / (middle**2).sum()
        assert _satterthwaite(sizes / n, np.asarray(float(n)), np.asarray(rho)) == pytest.approx(expected)


def test_a_mean_is_that_of_clubsandwich() -> None:
    """R's clubSandwich (Pustejovsky and Tipton 2018) has no data for a mean in its examples. Its tests state the closed forms
    of a model with an intercept only: the variance CR3, and the degrees of freedom of independent documents, CR2's."""
    from lm_eval_ensemble.metrics.clustered import _satterthwaite

    random = np.random.default_rng(2)
    size = random.integers(1, 12, size=14)
    values, n = random.normal(size=int(size.sum())), float(size.sum())
    codes = np.repeat(np.arange(14), size)
    means = np.array([values[codes == c].mean() for c in range(14)])
    variance = float((size**2 * (means - values.mean()) ** 2 / (1 - size / n) ** 2).sum()) / n**2
    alone = float((((values - values.mean()) / (1 - 1 / n)) ** 2).sum()) / n**2
    assert clustered_mean(values, codes).se == pytest.approx(math.sqrt(max(variance, alone)))
    rest = n - size
    df = n**2 / (n**2 * (size**2 / rest**2).sum() - 2 * n * (size**3 / rest**2).sum() + (size**2 / rest).sum() ** 2)
    assert _satterthwaite(size / n, np.asarray(n), np.asarray(0.0)) == pytest.approx(df)


def test_the_variance_is_that_of_leaving_clusters_out() -> None:
    """CR3 of a mean is sum over c of (mean without c - mean)^2, the jackknife around the estimate and without (C - 1) / C."""
    random = np.random.default_rng(1)
    codes = np.repeat(np.arange(12), random.integers(1, 9, size=12))
    values = random.normal(size=12)[codes] + random.normal(size=len(codes))
    left = np.array([values[codes != c].mean() for c in range(12)])
    assert clustered_mean(values, codes).se == pytest.approx(math.sqrt(((left - values.mean()) ** 2).sum()))


def test_clusters_of_one_give_the_usual_error() -> None:
    from scipy.stats import sem

    values = np.random.default_rng(0).normal(size=50)
    # The residuals are divided by 1 - 1/n instead of the variance by 1 - 1/n.
    assert clustered_mean(values, range(50)).se == pytest.approx(sem(values) * math.sqrt(50 / 49))
    assert clustered_mean(values, range(50)).deff == pytest.approx(1)


def test_the_design_effect_is_never_below_one() -> None:
    # One right and one wrong in each cluster: the clusters do not vary at all, which is chance and no promise.
    found = clustered_share([1, 0] * 6, np.repeat(np.arange(6), 2))
    assert found is not None
    assert found.deff == 1
    alone = clustered_share([1, 0] * 6, range(12))
    assert alone is not None
    assert found.se == alone.se


def test_a_share_has_wilsons_interval_on_the_effective_sample_size() -> None:
    from scipy.special import stdtrit

    values, clusters = [1, 1, 1, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2, 3, 3]
    found = clustered_share(values, clusters)
    assert found is not None
    assert found.se is not None
    assert found.df is not None
    n = 0.75 * 0.25 / found.se**2
    t = float(stdtrit(found.df, 0.975))
    for end in (found.low, found.high):
        assert end is not None
        # An end of Wilson's interval is where the share is t standard errors away, with the variance it has there.
        assert abs(0.75 - end) == pytest.approx(t * math.sqrt(end * (1 - end) / n))


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_where_all_are_right_a_cluster_counts_as_one(right: float) -> None:
    """5 clusters of 4: nothing tells that their documents are independent, so 20 of 20 say as much as 5 of 5, with t_4."""
    from scipy.special import stdtrit

    found = clustered_share([right] * 20, np.repeat(np.arange(5), 4))
    assert found is not None
    bound = float(stdtrit(4, 0.975)) ** 2 / 5
    assert (found.low, found.high) == pytest.approx((0, bound / (1 + bound)) if not right else (1 / (1 + bound), 1))
    assert found.df == pytest.approx(4)
    assert found.deff is None


def test_one_error_more_never_narrows_an_interval_to_what_all_right_do_not_allow() -> None:
    codes = np.repeat(np.arange(10), 6)
    whole = clustered_share(np.ones(60), codes)
    for errors in (1, 2, 4, 6):
        found = clustered_share(np.r_[np.zeros(errors), np.ones(60 - errors)], codes)
        assert found is not None
        assert whole is not None
        assert found.low is not None
        assert found.low >= 0.5
        assert found.high is not None
        assert found.high < 1


def test_weights_are_documents_of_more_choices() -> None:
    # 3 of 4 decisive choices right, in documents of 1, 2, 1, and one without a decisive choice, which does not count.
    found = clustered_share([1, 1, 1, 0], "abcd", [1, 2, 1, 0])
    assert found is not None
    assert (found.mean, found.n, found.clusters) == (0.75, 3, 3)
    assert clustered_share([0, 0], "ab", [0, 0]) is None
    with pytest.raises(ValueError, match="between 0 and the weight"):
        clustered_share([2, 0], "ab")


def test_few_clusters_are_told() -> None:
    assert "39 problems are few" in few_clusters(39)
    assert "there is no interval" in few_clusters(1)  # and so none that is wide
    assert (few_clusters(40), few_clusters(None), few_clusters(153, df=10.5)) == ("", "", "")
    assert "A few of the 153 problems carry most of the variance (3.2 effective" in few_clusters(153, df=3.21)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), min_size=2, max_size=40), st.integers(2, 4))
def test_copies_of_a_cluster_add_no_information(rows: list[tuple[int, int]], copies: int) -> None:
    clusters, values = [c for c, _ in rows], [v for _, v in rows]
    first, second = clustered_mean(values, clusters).se, clustered_mean(values * copies, clusters * copies).se
    # The floor, every document a cluster of its own, falls with the number of documents; above it nothing changes.
    if first is None or second is None:
        assert first is second
    elif min(clustered_mean(values * n, clusters * n).deff or 1 for n in (1, copies)) > 1:
        assert second == pytest.approx(first)
    else:
        assert second <= first * (1 + 1e-9)


def test_one_cluster_has_no_error_and_no_cluster_no_document() -> None:
    found = clustered_mean([1, 0, 1], "aaa")
    assert (found.se, found.low, found.high, found.deff) == (None, None, None, None)
    with pytest.raises(ValueError, match="document 1 has no cluster"):
        clustered_mean([1, 0], ["a", None])
    with pytest.raises(ValueError, match="expected one of each"):
        clustered_mean([1, 0, 1], "ab")
