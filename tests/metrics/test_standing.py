"""One rule for the mean of a metric and its interval."""

from __future__ import annotations

import numpy as np
import pytest

from lm_eval_ensemble.metrics.clustered import clustered_mean, clustered_share, wilson
from lm_eval_ensemble.metrics.standing import repeated, standing


def test_shares_have_the_interval_of_a_share() -> None:
    found = standing([1.0, 0.0, 0.0, 0.5], "abcd")
    assert found.clustered == clustered_share([1.0, 0.0, 0.0, 0.5], "abcd")
    assert found.wilson is None
    assert standing([1.0, 0.0, 0.0, 0.0], "abcd").wilson == wilson(1, 4)


def test_other_metrics_have_students() -> None:
    values = [-1.0, 0.5, 3.0]
    found, free = standing(values, "abc"), clustered_mean(values, "abc")
    assert (found.clustered, found.wilson) == (free, None)
    assert standing([3.0, 3.0], "ab").clustered.low is None


def test_all_right_has_an_interval_and_one_problem_has_none() -> None:
    found = standing(np.ones(3), "abc").clustered
    assert (found.mean, found.high) == (1.0, 1.0)
    assert found.low is not None
    assert found.low < wilson(3, 3)[0]
    assert standing(np.ones(3), "aaa").clustered.low is None


def test_repeats_are_told_apart() -> None:
    """Two documents answered four times, right in 4 and in 2: means 1 and 1/2. Within: s^2 = 0 and (4 / 4) / 3 = 1/3, so
    (0 + 1/3 / 4) / 2^2 = 1/48. In all: residuals 1/4 doubled by 1 - h, 2 (1/2)^2 / 4 = 1/8."""
    found = repeated([1, 1, 1, 1, 1, 0, 1, 0], [0] * 4 + [1] * 4, "ab")
    assert found is not None
    assert found.within**2 == pytest.approx(1 / 48)
    assert found.se**2 == pytest.approx(1 / 8)
    assert found.between**2 == pytest.approx(1 / 8 - 1 / 48)
    # a document answered once has the variance of the others
    more = repeated([1, 1, 0, 0], [0, 0, 0, 1], "ab")
    assert more is not None
    assert more.within**2 == pytest.approx((1 / 3 / 3 + 1 / 3) / 4)
    assert repeated([1, 0], [0, 1], "ab") is None


def test_within_documents_is_what_drawing_again_does() -> None:
    """A hundred documents of known chances, three answers each: the mean moves by ``within`` from draw to draw."""
    random = np.random.default_rng(0)
    chance, codes = random.random(100), np.repeat(np.arange(100), 3)
    scores, told = [], []
    for _ in range(300):
        right = random.random(300) < chance[codes]
        found = repeated(right, codes, np.arange(100))
        assert found is not None
        scores.append(right.mean())
        told.append(found.within)
    assert np.mean(told) == pytest.approx(np.std(scores), rel=0.12)


def test_numbers_for_clusters_are_clusters() -> None:
    values = [1.0, 0.0, 1.0, 1.0]
    codes = np.array([4, 4, 9, 7])
    assert standing(values, codes).clustered == standing(values, list("aabc")).clustered


@pytest.mark.parametrize("count", [10, 30])
@pytest.mark.parametrize("accuracy", [0.5, 0.9])
def test_the_interval_covers(count: int, accuracy: float) -> None:
    """Correlation 0.3 in clusters of 1 to 15: what ``benchmarks/coverage.py`` measures on many more sets."""
    random = np.random.default_rng(count)
    codes = np.repeat(np.arange(count), random.integers(1, 16, size=count))
    k = 1 / 0.3 - 1
    hits = 0
    for _ in range(400):
        chance = random.beta(accuracy * k, (1 - accuracy) * k, size=count)[codes]
        found = standing(random.random(len(codes)) < chance, codes).clustered
        hits += found.low is not None and found.high is not None and found.low <= accuracy <= found.high
    assert hits / 400 >= 0.915
