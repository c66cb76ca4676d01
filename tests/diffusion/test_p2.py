"""P2 against a plain implementation written for clarity, with a model whose output is known."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from lm_eval_ensemble.diffusion.p2 import Canvas, p2, p2_update
from lm_eval_ensemble.diffusion.schedules import remaining_masks
from lm_eval_ensemble.sampling import row_uniforms

MASK = 9


class TableModel:
    """Logits from a fixed random table of (previous token, own token): a toy bidirectional model of 9 usable tokens."""

    def __init__(self, seed: int = 0, sharpness: float = 2.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.mask_id = MASK
        self.left = torch.randn(10, 10, generator=generator) * sharpness
        self.right = torch.randn(10, 10, generator=generator) * sharpness
        self.calls: list[int] = []

    def logits_at(self, ids: Tensor, lengths: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        self.calls.append(len(ids))
        before = ids[rows, columns - 1]
        after = torch.where(columns + 1 < lengths[rows], ids[rows, (columns + 1).clamp_max(ids.shape[1] - 1)], 0)
        logits = self.left[before] + self.right[after]
        logits[:, MASK] = float("-inf")
        return logits


def canvas(rows: list[list[int]], sizes: list[int], starts: list[int]) -> Canvas:
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return Canvas(ids, torch.tensor([len(r) for r in rows]), torch.tensor(starts), torch.tensor(sizes))


def plain_p2(model: TableModel, row: list[int], start: int, size: int, steps: int, uniforms: Tensor | None) -> list[int]:
    """The published algorithm, one row, every step computed, the whole vocabulary sorted."""
    row = list(row)
    places = range(start, start + size)
    for step in range(steps):
        ids = torch.tensor([row])
        columns = torch.tensor(list(places))
        logprobs = model.logits_at(ids, torch.tensor([len(row)]), torch.zeros_like(columns), columns).log_softmax(-1)
        drawn, confidence = [], []
        for place in range(size):
            order = sorted(range(10), key=lambda t: -float(logprobs[place, t]))
            chosen = order[0]
            if uniforms is not None:
                mass = 0.0
                for token in order:
                    mass += float(logprobs[place, token].exp())
                    if mass > float(uniforms[step, place]):
                        chosen = token
                        break
            drawn.append(chosen)
            confidence.append(float(logprobs[place, chosen]))
        keep = size * (steps - step - 1) // steps
        # Least confident first; of equals, the rightmost is masked first.
        masked = sorted(range(size), key=lambda i: (confidence[i], -i))[:keep]
        for i, place in enumerate(places):
            if i in masked:
                row[place] = MASK
            elif row[place] == MASK:
                row[place] = drawn[i]
    return row[start : start + size]


@pytest.mark.parametrize("steps", [1, 3, 8, 20])
@pytest.mark.parametrize("seed", range(5))
def test_greedy_equals_the_plain_algorithm_on_ragged_batches(seed: int, steps: int) -> None:
    model = TableModel(seed)
    rows = [[1, *[MASK] * 6, 2, 3], [4, 5, *[MASK] * 3], [6, MASK, 7, 1, 2, 3]]
    sizes, starts = [6, 3, 1], [1, 2, 1]
    found = p2(model, canvas(rows, sizes, starts), steps=steps)
    assert found.tokens == [plain_p2(model, *case, steps, None) for case in zip(rows, starts, sizes, strict=True)]


@pytest.mark.parametrize("seed", range(5))
def test_sampled_equals_the_plain_algorithm_given_the_same_uniforms(seed: int) -> None:
    model = TableModel(seed, 0.7)
    row, size, steps = [1, *[MASK] * 5, 2], 5, 7
    uniforms = row_uniforms(seed, [("x",)], steps, [size])
    found = p2(model, canvas([row], [size], [1]), steps=steps, temperature=1.0, uniforms=uniforms)
    assert found.tokens == [plain_p2(model, row, 1, size, steps, uniforms[0])]


def test_law_of_one_step_is_the_product_of_the_marginals() -> None:
    # With one step every position is drawn once from the fully masked row, independently.
    model = TableModel(3, 0.5)
    chains, size = 6000, 2
    rows = [[1, MASK, MASK, 2]] * chains
    uniforms = row_uniforms(0, [(i,) for i in range(chains)], 1, [size] * chains)
    found = p2(model, canvas(rows, [size] * chains, [1] * chains), steps=1, temperature=1.0, uniforms=uniforms)
    columns = torch.tensor([1, 2])
    probs = model.logits_at(torch.tensor(rows[:1]), torch.tensor([4]), torch.zeros_like(columns), columns).softmax(-1)
    pairs = list(itertools.product(range(9), repeat=2))
    expected = [float(probs[0, a] * probs[1, b]) * chains for a, b in pairs]
    counts = Counter(map(tuple, found.tokens))
    kept = [(counts[pair], e) for pair, e in zip(pairs, expected, strict=True) if e >= 5]
    observed, theory = [*zip(*kept, strict=True)]
    scale = sum(observed) / sum(theory)
    assert chisquare(observed, [t * scale for t in theory]).pvalue > 1e-4


def test_rows_do_not_depend_on_their_batch() -> None:
    model = TableModel(1)
    rows = [[1, *[MASK] * 4, 2], [3, MASK, MASK, 4, 5, 6, 7]]
    sizes, starts = [4, 2], [1, 1]
    uniforms = row_uniforms(0, [("a",), ("b",)], 6, sizes)
    together = p2(model, canvas(rows, sizes, starts), steps=6, temperature=0.8, top_p=0.9, uniforms=uniforms)
    for i in range(2):
        own = row_uniforms(0, [("ab"[i],)], 6, [sizes[i]])
        alone = p2(model, canvas([rows[i]], [sizes[i]], [starts[i]]), steps=6, temperature=0.8, top_p=0.9, uniforms=own)
        assert alone.tokens[0] == together.tokens[i]


def test_the_mask_in_user_code_is_left_alone() -> None:
    model = TableModel(2)
    row = [MASK, 1, MASK, MASK, 2, MASK]
    state = canvas([row], [2], [2])
    found = p2(model, state, steps=4)
    assert MASK not in found.tokens[0]
    assert state.ids[0].tolist() == row  # the caller's tensor is not written to


def test_unchanged_rows_are_not_computed_again_and_finished_rows_leave() -> None:
    model = TableModel(4)
    found = p2(model, canvas([[1, MASK, 2], [1, *[MASK] * 4, 2]], [1, 4], [1, 1]), steps=64)
    assert sum(found.row_forwards) == sum(model.calls)
    # One masked token is settled by the first step; four change the row at most a few times.
    assert found.row_forwards[0] == 1
    assert 4 <= found.row_forwards[1] < 64 / 2


def test_logprobs_are_those_of_the_committing_step() -> None:
    model = TableModel(5)
    found = p2(model, canvas([[1, MASK, 2]], [1], [1]), steps=1)
    columns = torch.tensor([1])
    logits = model.logits_at(torch.tensor([[1, MASK, 2]]), torch.tensor([3]), torch.tensor([0]), columns)
    assert found.logprobs[0][0] == pytest.approx(float(logits.log_softmax(-1).max()), abs=1e-6)


def test_update_masks_the_least_confident_and_breaks_ties_to_the_right() -> None:
    current = torch.tensor([[MASK, 5, MASK, MASK]])
    drawn = torch.tensor([[1, 2, 3, 4]])
    confidence = torch.tensor([[1.0, 0.2, 1.0, 1.0]])
    logprobs = torch.tensor([[-0.1, -2.0, -0.3, -0.3]])
    valid = torch.tensor([[True, True, True, True]])
    # Two stay masked: 0.2 first, then of the three certain ones the lower log-probability, of equals the right one.
    new = p2_update(current, drawn, confidence, logprobs, valid, torch.tensor([2]), MASK)
    assert new.tolist() == [[1, MASK, 3, MASK]]


def test_a_filled_position_keeps_its_token() -> None:
    new = p2_update(
        torch.tensor([[5, MASK]]),
        torch.tensor([[2, 3]]),
        torch.tensor([[0.9, 0.8]]),
        torch.zeros(1, 2),
        torch.tensor([[True, True]]),
        torch.tensor([0]),
        MASK,
    )
    assert new.tolist() == [[5, 3]]


@pytest.mark.parametrize("length", range(1, 12))
def test_schedule_falls_to_zero_and_never_rises(length: int) -> None:
    left = [int(remaining_masks(torch.tensor([length]), step, 16)) for step in range(16)]
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0
    assert left == [length * (15 - step) // 16 for step in range(16)]
