"""Which tokens are written anew."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lm_eval_ensemble.members.refine import weakest

LOGPROBS = st.lists(st.floats(-30, 0), max_size=30)


def test_by_hand() -> None:
    logprobs = [-0.1, -3.0, -0.2, -2.0, -2.5]
    assert weakest(logprobs, 1.0, 1.0) == [1, 3, 4]  # all that cost more than 1 nat
    assert weakest(logprobs, 0.4, 1.0) == [1, 4]  # two of five tokens, the least likely
    assert weakest(logprobs, 0.41, 1.0) == [1, 3, 4]  # a share is rounded up
    assert weakest(logprobs, 0.1, 5.0) == []
    assert weakest([-1.0, -1.0], 0.5, 0.0) == [0]  # the leftmost of equals
    assert weakest([], 0.5, 0.0) == []


@given(LOGPROBS, st.floats(0.01, 1), st.floats(0, 5))
def test_nothing_that_is_kept_is_less_likely_than_what_is_not(logprobs: list[float], fraction: float, threshold: float) -> None:
    chosen = weakest(logprobs, fraction, threshold)
    assert chosen == sorted(set(chosen))
    assert all(-logprobs[i] > threshold for i in chosen)
    kept = [logprobs[i] for i in range(len(logprobs)) if i not in chosen and -logprobs[i] > threshold]
    assert not kept or not chosen or max(logprobs[i] for i in chosen) <= min(kept)
