from __future__ import annotations

import copy
import math
from itertools import combinations
from typing import Any

import pytest
import torch

from lm_eval_ensemble.diffusion.likelihood import (
    LikelihoodBound,
    chain_logprobs,
    elbo,
    onepass_logprobs,
    pseudo_logprobs,
)

Row = tuple[list[int], list[int], list[int]]


def row(diffusion: Any, prefix: str, middle: str, suffix: str) -> Row:
    encode = diffusion.encoder.encode
    return encode(prefix), encode(middle), encode(suffix)


@pytest.fixture
def return_x(diffusion: Any) -> Row:
    found = row(diffusion, "def f(x, y):\n", "    return x + y\n", "\nprint(f(1, 2))\n")
    return found[0], found[1][:6], found[2]


def conditional(diffusion: Any, gap: Row, hidden: tuple[int, ...], place: int) -> float:
    """log p(middle[place] | prefix, the middle without ``hidden``, suffix), one unbatched forward."""
    prefix, middle, suffix = gap
    mask = diffusion.network.mask_id
    ids = torch.tensor([[*prefix, *[mask if i in hidden else t for i, t in enumerate(middle)], *suffix]])
    column = torch.tensor([len(prefix) + place])
    logits = diffusion.network.logits_at(ids, torch.tensor([ids.shape[1]]), torch.tensor([0]), column)
    return float(logits.log_softmax(-1)[0, middle[place]])


def exact_elbo(diffusion: Any, gap: Row) -> float:
    """By its definition, over all masked sets."""
    n, total = len(gap[1]), 0.0
    for k in range(1, n + 1):
        sets = list(combinations(range(n), k))
        total += sum(conditional(diffusion, gap, m, i) for m in sets for i in m) / len(sets) / k
    return total


def test_onepass_is_the_masked_prediction_of_every_token(diffusion: Any, return_x: Row) -> None:
    everything = tuple(range(6))
    expected = [conditional(diffusion, return_x, everything, i) for i in everything]
    assert diffusion.onepass_logprobs([return_x])[0] == pytest.approx(expected, abs=1e-4)


def test_chain_is_the_product_from_left_to_right(diffusion: Any, return_x: Row) -> None:
    expected = [conditional(diffusion, return_x, tuple(range(i, 6)), i) for i in range(6)]
    assert chain_logprobs(diffusion.network, [return_x])[0] == pytest.approx(expected, abs=1e-4)


def test_pseudo_masks_one_at_a_time(diffusion: Any, return_x: Row) -> None:
    expected = [conditional(diffusion, return_x, (i,), i) for i in range(6)]
    assert pseudo_logprobs(diffusion.network, [return_x])[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("prefix", "middle", "suffix"),
    [
        ("def f(x, y):\n", "    return x + y\n", "\nprint(f(1, 2))\n"),
        ("import os\n", "path = os.getcwd()\n", ""),
        ("", "for i in range(3):\n", "    print(i)\n"),
        ("x = 1\n", "zebra ! 7 import\n", "y = 2\n"),
    ],
)
def test_sampled_bound_is_within_its_error_of_the_enumerated_one(diffusion: Any, prefix: str, middle: str, suffix: str) -> None:
    gap = row(diffusion, prefix, middle, suffix)
    gap = (gap[0], gap[1][:6], gap[2])
    exact = exact_elbo(diffusion, gap)
    for samples in (12, 48):
        found = diffusion.elbo([gap], samples=samples, names=[("case", middle)])[0]
        assert found.samples == samples
        assert found.stderr > 0
        assert abs(found.value - exact) < 4 * found.stderr
    whole = elbo(diffusion.network, [gap], samples=63, seed=0, names=[()])[0]
    assert whole.value == pytest.approx(exact, abs=1e-3)
    assert whole[1:] == (0.0, 63)


def test_bound_of_one_token_is_its_masked_prediction(diffusion: Any, return_x: Row) -> None:
    prefix, middle, suffix = return_x
    gap = (prefix, middle[:1], suffix)
    found = diffusion.elbo([gap], samples=2, names=[()])[0]
    assert found.value == pytest.approx(conditional(diffusion, gap, (0,), 0), abs=1e-4)
    assert found[1:] == (0.0, 1)


def test_candidates_of_one_name_and_length_share_their_masked_sets(diffusion: Any, return_x: Row) -> None:
    seen: list[list[tuple[int, ...]]] = []

    def spy(rows: Any) -> Any:
        seen.append([r.columns for r in rows])
        return diffusion._read_masked(rows)

    other = (return_x[0], return_x[1][::-1], return_x[2])
    for gap, name in ((return_x, "a"), (other, "a"), (return_x, "b")):
        elbo(diffusion.network, [gap], samples=8, seed=1, names=[(name,)], forward=spy)
    assert seen[0] == seen[1] != seen[2]


def test_batches_and_order_change_nothing(diffusion: Any) -> None:
    rows = [row(diffusion, f"x{i} = {i}\n" * (i + 1), f"y = {i}\n", "z = 3\n" * i) for i in range(5)]
    names = [("row", i) for i in range(5)]
    for found in (diffusion.onepass_logprobs, diffusion.chain_logprobs, diffusion.pseudo_logprobs):
        together, backwards = found(rows), found(rows[::-1])[::-1]
        for i, alone in enumerate(rows):
            assert together[i] == pytest.approx(found([alone])[0], abs=1e-4)
            assert together[i] == pytest.approx(backwards[i], abs=1e-4)
    together = diffusion.elbo(rows, samples=6, names=names)
    for i, alone in enumerate(rows):
        assert together[i] == pytest.approx(diffusion.elbo([alone], samples=6, names=[names[i]])[0], abs=1e-3)


def test_uniform_logits_give_log_vocabulary(diffusion: Any, return_x: Row) -> None:
    network = copy.copy(diffusion.network)
    network.model = copy.deepcopy(network.model)
    with torch.no_grad():
        network.model.get_output_embeddings().weight.zero_()
    rows = int(network.model.get_input_embeddings().weight.shape[0])
    allowed = rows - len(network._forbidden)
    each = pytest.approx([-math.log(allowed)] * 6, abs=1e-4)
    for function in (onepass_logprobs, chain_logprobs, pseudo_logprobs):
        assert function(network, [return_x])[0] == each
    found = elbo(network, [return_x], samples=8, seed=0, names=[()])[0]
    assert found.value == pytest.approx(-6 * math.log(allowed), abs=1e-3)
    assert found.stderr == pytest.approx(0, abs=1e-4)


def test_an_empty_middle_is_certain(diffusion: Any) -> None:
    gap = row(diffusion, "x = 1\n", "", "y = 2\n")
    assert diffusion.chain_logprobs([gap]) == diffusion.pseudo_logprobs([gap]) == diffusion.onepass_logprobs([gap]) == [[]]
    assert diffusion.elbo([gap], names=[()]) == [LikelihoodBound(0.0, 0.0, 0)]


def test_one_sample_is_refused(diffusion: Any, return_x: Row) -> None:
    with pytest.raises(ValueError, match="at least 2 samples"):
        diffusion.elbo([return_x], samples=1, names=[()])
