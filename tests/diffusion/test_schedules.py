from __future__ import annotations

import pytest
import torch

from lm_eval_ensemble.diffusion.algorithms import ALGORITHMS
from lm_eval_ensemble.diffusion.schedules import auto_steps, published_remaining_masks, remaining_masks, transfer_fraction
from lm_eval_ensemble.values import DECODERS


@pytest.mark.parametrize("length", range(1, 12))
def test_remaining_masks_fall_to_zero_and_never_rise(length: int) -> None:
    left = [int(remaining_masks(torch.tensor([length]), step, 16)) for step in range(16)]
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0
    assert left == [length * (15 - step) // 16 for step in range(16)]


def test_steps_may_differ_by_row() -> None:
    lengths, steps = torch.tensor([8, 8, 8]), torch.tensor([2, 4, 8])
    # floor(8/2), floor(8 * 3/4), floor(8 * 7/8); after its last step a row has none.
    assert remaining_masks(lengths, 0, steps).tolist() == [4, 6, 7]
    assert remaining_masks(lengths, 5, steps).tolist() == [0, 0, 2]


def test_the_published_rounding_is_the_same_for_powers_of_two() -> None:
    lengths = torch.arange(1, 200)
    for count in (4, 64):
        steps = torch.full_like(lengths, count)
        for step in range(count):
            exact = remaining_masks(lengths, step, steps)
            assert torch.equal(exact, published_remaining_masks(lengths, step, steps))


def test_transfer_fraction_is_one_minus_s_over_t() -> None:
    # t = 1, s = 1 - 0.999 / 4 in the first of four steps; everything in the last.
    steps = torch.tensor([4, 1])
    assert transfer_fraction(0, steps).tolist() == pytest.approx([0.999 / 4, 1.0])
    # t = 1 - 2 * 0.24975, s = t - 0.24975.
    assert transfer_fraction(2, steps).tolist() == pytest.approx([0.24975 / (1 - 2 * 0.24975), 1.0])
    assert transfer_fraction(3, steps).tolist() == [1.0, 1.0]


def test_auto_is_a_step_per_token_up_to_the_published_number() -> None:
    assert [auto_steps(n) for n in (0, 1, 9, 64, 65, 500)] == [1, 1, 9, 64, 64, 64]


def test_settings_and_algorithms_have_the_same_names() -> None:
    assert list(DECODERS) == list(ALGORITHMS)
