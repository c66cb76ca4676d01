"""One rule for the mean of a metric and its intervals."""

from __future__ import annotations

import numpy as np
import pytest

from lm_eval_ensemble.metrics.clustered import clustered_mean, wilson
from lm_eval_ensemble.metrics.standing import standing


def test_the_interval_stays_within_the_range_of_the_metric() -> None:
    # One right of four, each its own problem: 0.25 +- 3.18 * 0.25 leaves [0, 1] on one side.
    free = clustered_mean([1.0, 0.0, 0.0, 0.0], "abcd")
    assert free.low is not None
    assert free.low < 0
    found = standing([1.0, 0.0, 0.0, 0.0], "abcd")
    assert (found.clustered.low, found.clustered.high) == (0.0, min(1.0, free.high or 0.0))
    assert found.wilson == wilson(1, 4)


def test_other_metrics_are_not_cut_and_have_no_wilson() -> None:
    values = [-1.0, 0.5, 3.0]
    found, free = standing(values, "abc"), clustered_mean(values, "abc")
    assert (found.clustered.low, found.clustered.high, found.wilson) == (free.low, free.high, None)


@pytest.mark.parametrize("clusters", ["abc", "aaa"])
def test_without_variation_there_is_no_interval(clusters: str) -> None:
    found = standing(np.ones(3), clusters)
    assert (found.clustered.mean, found.clustered.low, found.clustered.high) == (1.0, None, None)
    assert found.wilson == wilson(3, 3)


def test_numbers_for_clusters_are_clusters() -> None:
    values = [1.0, 0.0, 1.0, 1.0]
    codes = np.array([4, 4, 9, 7])
    assert standing(values, codes).clustered == standing(values, list("aabc")).clustered
