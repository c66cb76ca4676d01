from __future__ import annotations

import math

import numpy as np
import pytest

from lm_eval_ensemble.metrics.clustered import clustered_share
from lm_eval_ensemble.metrics.recovered import recovered_interval


def test_without_a_loss_below_it_is_the_interval_of_a_share() -> None:
    """Nothing lost: the upper end is that of won / gap, moved by nothing; the lower one pays for what might be lost."""
    gain, gap = [1.0, 0.0, 1.0, 1.0, 0.0], np.ones(5)
    won = clustered_share(gain, "abcde", gap)
    lost = clustered_share(np.zeros(5), "abcde", gap)
    found = recovered_interval(gain, gap, "abcde")
    assert won is not None
    assert lost is not None
    assert found is not None
    assert found[1] == pytest.approx(won.high)
    assert won.low is not None
    assert lost.high is not None
    odds = lost.high / (1 - lost.high)
    assert found[0] == pytest.approx(0.6 - math.hypot(0.6 - won.low, odds))


def test_no_gap_and_one_cluster_have_none() -> None:
    assert recovered_interval([0.0, -1.0], [0.0, 0.0], "ab") is None
    assert recovered_interval([1.0, -1.0], [1.0, 0.0], "aa") is None


def test_all_recovered_is_no_point() -> None:
    found = recovered_interval(np.ones(6), np.ones(6), "abcdef")
    assert found is not None
    assert found[0] < found[1] == 1
