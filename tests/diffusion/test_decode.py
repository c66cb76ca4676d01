"""Decoding against the plain implementations of ``reference.py``, with a model whose output is known."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from scipy.stats import chi2_contingency, chisquare
from torch import Tensor

from lm_eval_ensemble.diffusion.algorithms import ALGORITHMS
from lm_eval_ensemble.diffusion.decode import Canvas, Filled, fill
from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.sampling import row_uniforms
from tests.diffusion.reference import plain_fill

MASK, END, V = 9, 8, 10


class TableModel:
    """Logits from a fixed random table of (token before, token after): a toy bidirectional model of 9 usable tokens."""

    mask_id, vocabulary_rows = MASK, V

    def __init__(self, seed: int = 0, sharpness: float = 2.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.left = torch.randn(V, V, generator=generator) * sharpness
        self.right = torch.randn(V, V, generator=generator) * sharpness
        self.calls: list[int] = []
        self.positions = 0

    def states_at(self, ids: Tensor, lengths: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        self.calls.append(len(ids))
        self.positions += len(rows)
        after = torch.where(columns + 1 < lengths[rows], ids[rows, (columns + 1).clamp_max(ids.shape[1] - 1)], 0)
        return torch.stack([ids[rows, columns - 1], after], 1)

    def logits_of(self, states: Tensor, ending: Tensor | None = None) -> Tensor:
        logits = self.left[states[:, 0]] + self.right[states[:, 1]]
        logits[:, MASK] = float("-inf")
        return logits

    def full(self, ids: Tensor) -> Tensor:
        """As the published code: every position, pads (0) visible."""
        after = torch.cat([ids[:, 1:], torch.zeros_like(ids[:, :1])], 1)
        logits = self.left[ids.roll(1, 1)] + self.right[after]
        logits[..., MASK] = float("-inf")
        return logits


def canvas(rows: Sequence[Sequence[int]], sizes: Sequence[int], starts: Sequence[int], fixed: Tensor | None = None) -> Canvas:
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    return Canvas(ids, torch.tensor([len(r) for r in rows]), torch.tensor(starts), torch.tensor(sizes), fixed)


def middle_of(state: Canvas) -> Tensor:
    """``(B, L)``: the places of the middle."""
    places = torch.arange(state.ids.shape[1])[None]
    return (places >= state.starts[:, None]) & (places < (state.starts + state.sizes)[:, None])


def spread(order: Tensor, state: Canvas) -> Tensor:
    """Numbers of the middle ``(B, S, N)`` at their places in the row ``(B, S, L)``."""
    out = torch.zeros(len(order), order.shape[1], state.ids.shape[1])
    for row, (start, size) in enumerate(zip(state.starts.tolist(), state.sizes.tolist(), strict=True)):
        out[row, :, start : start + size] = order[row, :, :size]
    return out


def cut_out(ids: Tensor, state: Canvas) -> list[list[int]]:
    return [
        ids[r, a : a + n].tolist() for r, (a, n) in enumerate(zip(state.starts.tolist(), state.sizes.tolist(), strict=True))
    ]


ROWS, SIZES, STARTS = [[1, *[MASK] * 6, 2, 3], [4, 5, *[MASK] * 3], [6, MASK, 7, 1, 2, 3]], [6, 3, 1], [1, 2, 1]
NAMES = [("a",), ("b",), ("c",)]


@pytest.mark.parametrize("protocol", [None, "open-dllm"])
@pytest.mark.parametrize("top_p", [0.9, 1.0])
@pytest.mark.parametrize("steps", [1, 3, 8, 20])
@pytest.mark.parametrize("alg", ALGORITHMS)
def test_greedy_equals_the_plain_algorithm(alg: str, steps: int, top_p: float, protocol: str | None) -> None:
    for seed in range(6):
        model, state = TableModel(seed), canvas(ROWS, SIZES, STARTS)
        order = row_uniforms(seed, NAMES, steps, SIZES)
        found = fill(model, state, alg=alg, steps=steps, top_p=top_p, order=order, protocol=protocol)
        expected = plain_fill(
            model.full,
            state.ids,
            middle_of(state),
            MASK,
            alg=alg,
            steps=steps,
            top_p=top_p,
            ties="published" if protocol else "stable",
            coins=spread(order, state),
        )
        assert found.tokens == cut_out(expected, state)


def chains(model: TableModel, count: int, size: int, **options: object) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """The middles of ``count`` rows filled by the package and by the plain algorithm, with random numbers of their own."""
    steps, alg = 4, str(options.get("alg", "p2"))
    state = canvas([[1, *[MASK] * size, 2]] * count, [size] * count, [1] * count)
    names = [(i,) for i in range(count)]
    uniforms, order = (row_uniforms(seed, names, steps, [size] * count) for seed in (0, 1))
    found = fill(model, state, steps=steps, uniforms=uniforms, order=order, **options)  # type: ignore[arg-type]
    torch.manual_seed(5)
    settings = {name: options[name] for name in ("temperature", "top_p", "alg_temp") if name in options}
    expected = plain_fill(model.full, state.ids, middle_of(state), MASK, alg=alg, steps=steps, ties="stable", **settings)  # type: ignore[arg-type]
    return [tuple(row) for row in found.tokens], [tuple(row) for row in cut_out(expected, state)]


def same_law(first: list[tuple[int, ...]], second: list[tuple[int, ...]]) -> float:
    """p-value of the hypothesis that both samples are of one law; rare outcomes are one cell."""
    one, two = Counter(first), Counter(second)
    common = [outcome for outcome in one | two if one[outcome] + two[outcome] >= 20]
    table = [[c[o] for o in common] for c in (one, two)]
    for cells, counts, total in zip(table, (one, two), (len(first), len(second)), strict=True):
        cells.append(total - sum(counts[o] for o in common))
    if not any(cells[-1] for cells in table):
        table = [cells[:-1] for cells in table]
    return float(chi2_contingency(table).pvalue)


@pytest.mark.parametrize("top_p", [0.9, 1.0])
@pytest.mark.parametrize(
    ("alg", "alg_temp"), [*((name, None) for name in ALGORITHMS), ("maskgit_plus", 0.3), ("topk_margin", 0.5), ("entropy", 1.0)]
)
def test_sampled_has_the_law_of_the_plain_algorithm(alg: str, alg_temp: float | None, top_p: float) -> None:
    options = {"alg": alg, "temperature": 0.8, "top_p": top_p, **({"alg_temp": alg_temp} if alg_temp else {})}
    first, second = chains(TableModel(3, 0.8), 3000, 3, **options)
    assert len(set(first)) > 20
    assert same_law(first, second) > 1e-4


def test_the_law_test_sees_a_difference() -> None:
    model = TableModel(3, 0.8)
    first, _ = chains(model, 3000, 3, alg="p2", temperature=0.8)
    for other in ({"alg": "origin", "temperature": 0.8}, {"alg": "p2", "temperature": 1.1}):
        assert same_law(first, chains(model, 3000, 3, **other)[1]) < 1e-4


def test_law_of_one_step_is_the_product_of_the_marginals() -> None:
    # With one step every position is drawn once from the fully masked row, independently.
    model, count = TableModel(3, 0.5), 6000
    state = canvas([[1, MASK, MASK, 2]] * count, [2] * count, [1] * count)
    uniforms = row_uniforms(0, [(i,) for i in range(count)], 1, [2] * count)
    found = fill(model, state, steps=1, temperature=1.0, uniforms=uniforms)
    probs = model.full(torch.tensor([[1, MASK, MASK, 2]]))[0, 1:3].softmax(-1)
    pairs = list(itertools.product(range(9), repeat=2))
    counts = Counter(map(tuple, found.tokens))
    kept = [(counts[a, b], float(probs[0, a] * probs[1, b])) for a, b in pairs if probs[0, a] * probs[1, b] * count >= 5]
    observed, theory = [*zip(*kept, strict=True)]
    assert chisquare(observed, [t * sum(observed) / sum(theory) for t in theory]).pvalue > 1e-4


@pytest.mark.parametrize("top_p", [0.9, 1.0])
@pytest.mark.parametrize("alg", ALGORITHMS)
def test_rows_do_not_depend_on_their_batch(alg: str, top_p: float) -> None:
    model, steps = TableModel(1), [6, 3, 1]  # every row its own number of steps
    options = {"alg": alg, "temperature": 0.8, "top_p": top_p}

    def run(chosen: list[int]) -> Filled:
        names, sizes = [NAMES[i] for i in chosen], [SIZES[i] for i in chosen]
        counts = [steps[i] for i in chosen]
        uniforms = row_uniforms(0, names, counts, sizes)
        order = row_uniforms(1, names, counts, sizes)
        state = canvas([ROWS[i] for i in chosen], sizes, [STARTS[i] for i in chosen])
        return fill(model, state, steps=counts, uniforms=uniforms, order=order, **options)  # type: ignore[arg-type]

    together, turned = run([0, 1, 2]), run([2, 0, 1])
    assert [together.tokens[i] for i in (2, 0, 1)] == turned.tokens
    for i in range(3):
        alone = run([i])
        assert (alone.tokens[0], alone.row_forwards[0]) == (together.tokens[i], together.row_forwards[i])


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_the_mask_in_user_code_is_left_alone(alg: str) -> None:
    row = [MASK, 1, MASK, MASK, 2, MASK]
    state = canvas([row], [2], [2])
    found = fill(TableModel(2), state, alg=alg, steps=4, order=row_uniforms(0, NAMES[:1], 4, [2]))
    assert MASK not in found.tokens[0]
    assert state.ids[0].tolist() == row  # the caller's tensor is not written to


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_fixed_positions_keep_their_tokens_and_the_rest_is_filled_in_their_sight(alg: str) -> None:
    # Positions 1 and 3 of the middle are given; the plain algorithm sees them as context.
    model, row, steps = TableModel(7), [1, 4, 5, 6, 7, 2], 5
    fixed = torch.tensor([[False, True, False, True], [False, False, False, False]])
    state = canvas([row, [3, MASK, 2]], [4, 1], [1, 1], fixed)
    order = row_uniforms(0, NAMES[:2], steps, [4, 1])
    found = fill(model, state, alg=alg, steps=steps, order=order)
    free = middle_of(state)
    free[0, [2, 4]] = False
    coins = spread(order, state)
    expected = plain_fill(model.full, state.ids, free, MASK, alg=alg, steps=steps, ties="stable", coins=coins)
    assert found.tokens == cut_out(expected, state)
    assert [found.tokens[0][i] for i in (1, 3)] == [5, 7]
    assert [found.logprobs[0][i] for i in (1, 3)] == [0.0, 0.0]


def test_a_middle_with_nothing_to_fill_comes_back() -> None:
    model = TableModel(0)
    found = fill(model, canvas([[1, 4, 5, 2], [3, 2]], [2, 0], [1, 1], torch.ones(2, 2, dtype=torch.bool)), steps=4)
    assert (found.tokens, found.row_forwards, model.calls) == ([[4, 5], []], [0, 0], [])


def test_unchanged_rows_are_not_computed_again_and_finished_rows_leave() -> None:
    model = TableModel(4)
    found = fill(model, canvas([[1, MASK, 2], [1, *[MASK] * 4, 2]], [1, 4], [1, 1]), steps=64)
    assert sum(found.row_forwards) == sum(model.calls)
    # One masked token is settled by the first step; four change the row at most a few times. The schedule leaves none
    # masked from step 49 on: floor(4 * (1 - 49/64)) = 0.
    assert found.row_forwards[0] == 1
    assert 4 <= found.row_forwards[1] < 64 / 2
    assert found.steps == [1, 49]


@pytest.mark.parametrize("alg", ["maskgit_plus", "topk_margin", "entropy", "origin"])
def test_steps_that_fill_nothing_cost_nothing(alg: str) -> None:
    # 4 tokens in 64 steps: a step without a transfer needs no forward pass, and filled positions no LM head.
    model, size = TableModel(4), 4
    order = row_uniforms(0, NAMES[:1], 64, [size])
    found = fill(model, canvas([[1, *[MASK] * size, 2]], [size], [1]), alg=alg, steps=64, order=order)
    assert found.row_forwards[0] == len(model.calls) <= size
    assert model.positions <= 4 + 3 + 2 + 1


def test_logprobs_are_those_of_the_committing_step() -> None:
    model = TableModel(5)
    found = fill(model, canvas([[1, MASK, 2]], [1], [1]), steps=1, top_p=0.5)
    logits = model.full(torch.tensor([[1, MASK, 2]]))[0, 1]
    assert found.logprobs[0][0] == pytest.approx(float(logits.log_softmax(-1).max()), abs=1e-6)


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_history_ends_with_the_answer_and_follows_the_schedule(alg: str) -> None:
    state, steps = canvas(ROWS, SIZES, STARTS), 8
    found = fill(TableModel(3), state, alg=alg, steps=steps, order=row_uniforms(0, NAMES, steps, SIZES), history=True)
    assert found.history is not None
    assert [states[-1] for states in found.history] == found.tokens
    assert [len(states) for states in found.history] == found.steps
    if alg == "p2":
        assert [s.count(None) for s in found.history[0]] == [6 * (7 - i) // 8 for i in range(found.steps[0])]
    assert fill(TableModel(3), state, steps=steps).history is None


def test_early_commit_ends_a_row_of_certain_positions() -> None:
    # So sharp that every nucleus of top_p=0.9 has one token: the first step fills all.
    model, state = TableModel(3, 50.0), canvas([[1, *[MASK] * 5, 2]], [5], [1])
    for alg in ("p2", "entropy"):
        early = fill(model, state, alg=alg, steps=16, top_p=0.9, early_commit=1.0)
        assert (early.steps, early.row_forwards) == ([1], [1])
    # With the whole vocabulary no nucleus has one token, and a flat model is never certain.
    flat, plain = (fill(TableModel(3, 0.1), state, steps=16, early_commit=e) for e in (0.5, None))
    assert flat == plain


def test_unequal_confidences_decide_before_ties_do() -> None:
    from lm_eval_ensemble.diffusion.algorithms import StableTies

    confidence = torch.tensor([[1.0, 0.2, 1.0, 1.0]])
    logprobs = torch.tensor([[-0.1, -2.0, -0.3, -0.3]])
    everything = torch.ones(1, 4, dtype=torch.bool)
    ties = StableTies()
    # Lowest two: 0.2 first, then of the three certain ones the lower log-probability, of equals the right one.
    assert ties.lowest(confidence, logprobs, everything, torch.tensor([2])).tolist() == [[False, True, False, True]]
    assert ties.highest(confidence, logprobs, everything, torch.tensor([2])).tolist() == [[True, False, True, False]]
    some = torch.tensor([[False, True, True, True]])
    assert ties.highest(confidence, logprobs, some, torch.tensor([1])).tolist() == [[False, False, True, False]]
    assert ties.lowest(confidence, logprobs, some, torch.tensor([3])).tolist() == some.tolist()


def test_settings_without_a_meaning_are_refused() -> None:
    state = canvas([[1, MASK, 2]], [1], [1])
    with pytest.raises(ConfigError, match="Did you mean 'entropy'"):
        fill(TableModel(), state, alg="entropie", steps=2)
    for alg in ("p2", "origin"):
        with pytest.raises(ConfigError, match=f"alg={alg}"):
            fill(TableModel(), state, alg=alg, steps=2, alg_temp=0.5)
    with pytest.raises(ConfigError, match="Did you mean 'open-dllm'"):
        fill(TableModel(), state, steps=2, protocol="open-dlm")
    with pytest.raises(ValueError, match="uniforms"):
        fill(TableModel(), state, steps=2, temperature=0.5)
    with pytest.raises(ValueError, match="order"):
        fill(TableModel(), state, steps=2, alg="origin")


def test_many_positions_go_through_the_head_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    state = canvas(ROWS, SIZES, STARTS)
    whole = fill(TableModel(1), state, steps=8, top_p=0.9)
    monkeypatch.setattr("lm_eval_ensemble.diffusion.decode._CHUNK", 3 * V)
    sizes: list[int] = []
    model = TableModel(1)
    real = model.logits_of

    def counted(states: Tensor, ending: Tensor | None = None) -> Tensor:
        sizes.append(len(states))
        return real(states, ending)

    monkeypatch.setattr(model, "logits_of", counted)
    assert fill(model, state, steps=8, top_p=0.9) == whole
    assert max(sizes) == 3
