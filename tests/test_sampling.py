from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from lm_eval_ensemble.sampling import draw, draw_ahead, nucleus, row_uniforms


def reference_nucleus(logits: torch.Tensor, temperature: float, top_p: float) -> dict[int, float]:
    """Top-p by a full sort, one row, for clarity."""
    probs = (logits / temperature).softmax(-1)
    order = sorted(range(len(probs)), key=lambda i: -float(probs[i]))
    kept, mass = [], 0.0
    for i in order:
        kept.append(i)
        mass += float(probs[i])
        if mass >= top_p:
            break
    return {i: float(probs[i]) / mass for i in kept}


@given(st.integers(0, 10_000), st.sampled_from([0.3, 0.8, 1.5]), st.sampled_from([0.2, 0.9, 0.99]), st.sampled_from([2, 4, 64]))
@settings(max_examples=60, deadline=None)
def test_nucleus_equals_a_full_sort(seed: int, temperature: float, top_p: float, first: int) -> None:
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(seed)) * 3
    found = nucleus(logits, temperature, top_p, first)
    for row in range(5):
        kept = {int(i): float(p) for i, p in zip(found.ids[row], found.probs[row], strict=True) if p > 0}
        expected = reference_nucleus(logits[row], temperature, top_p)
        assert kept.keys() == expected.keys()
        assert kept == pytest.approx(expected, abs=1e-5)


def test_logprobs_are_untempered() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    found = nucleus(logits, 0.5, 1.0)
    assert torch.allclose(found.logprobs, logits.log_softmax(-1))
    assert torch.allclose(found.probs, (logits / 0.5).softmax(-1))


def test_greedy_takes_the_best_and_keeps_its_nucleus_probability() -> None:
    # Probabilities 0.5, 0.3, 0.2: the nucleus of 0.7 is the first two, so the best has 0.5 / 0.8.
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    ids, confidence, logprobs = draw(nucleus(logits, 0.0, 0.7), None)
    assert ids.tolist() == [0]
    assert confidence.item() == pytest.approx(0.625)
    assert logprobs.item() == pytest.approx(torch.tensor(0.5).log().item())


def test_draws_follow_the_nucleus() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().repeat(20_000, 1)
    uniforms = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    ids, _, _ = draw(nucleus(logits, 1.0, 0.85), uniforms)
    counts = torch.bincount(ids, minlength=4).tolist()
    assert counts[3] == 0
    # 0.4, 0.3, 0.2 renormalised.
    assert chisquare(counts[:3], [20_000 * p / 0.9 for p in (0.4, 0.3, 0.2)]).pvalue > 1e-4


@pytest.mark.parametrize("uniform", [0.0, 0.999999940395])
def test_extreme_uniforms_stay_inside_the_nucleus(uniform: float) -> None:
    choices = nucleus(torch.randn(64, 300, generator=torch.Generator().manual_seed(1)), 1.0, 0.9)
    _, confidence, _ = draw(choices, torch.full((64,), uniform))
    assert bool((confidence > 0).all())


def test_streams_belong_to_rows() -> None:
    names = [("dllm", "task", i, 0) for i in range(3)]
    together = row_uniforms(7, names, 4, [5, 2, 3])
    for i, width in enumerate([5, 2, 3]):
        alone = row_uniforms(7, names[i : i + 1], 4, [width])
        assert torch.equal(together[i, :, :width], alone[0])
    assert not torch.equal(together[0, :, :2], together[1, :, :2])
    assert not torch.equal(row_uniforms(8, names[:1], 4, [5]), row_uniforms(7, names[:1], 4, [5]))


@pytest.mark.parametrize("top_p", [0.3, 0.9])
def test_drawing_ahead_is_drawing_one_by_one(top_p: float) -> None:
    generator = torch.Generator().manual_seed(2)
    logits, uniforms = torch.randn(6, 500, generator=generator) * 2, torch.rand(6, 9, generator=generator)
    found = draw_ahead(logits, 0.7, top_p, uniforms)
    for step in range(9):
        ids, probs, logprobs = draw(nucleus(logits, 0.7, top_p), uniforms[:, step])
        assert torch.equal(found.ids[:, step], ids)
        assert torch.allclose(found.probs[:, step], probs)
        assert torch.allclose(found.logprobs[:, step], logprobs)


def test_the_whole_vocabulary_is_drawn_from_in_the_order_of_ids() -> None:
    # Cumulated: 0.1, 0.4, 0.4, 1.0; the third token cannot be drawn.
    logits = torch.tensor([[0.1, 0.3, 0.0, 0.6]]).log()
    uniforms = torch.tensor([[0.0, 0.05, 0.15, 0.39, 0.41, 0.999999940395]])
    found = draw_ahead(logits, 1.0, 1.0, uniforms)
    assert found.ids.tolist() == [[0, 0, 1, 1, 3, 3]]
    assert found.probs[0].tolist() == pytest.approx([0.1, 0.1, 0.3, 0.3, 0.6, 0.6])
    assert found.logprobs.exp()[0].tolist() == pytest.approx([0.1, 0.1, 0.3, 0.3, 0.6, 0.6])


def test_the_last_tokens_of_a_large_vocabulary_are_drawn_only_if_they_can_be() -> None:
    logits = torch.randn(64, 30_000, generator=torch.Generator().manual_seed(1))
    logits[:, -20_000:] = float("-inf")
    found = draw_ahead(logits, 1.0, 1.0, torch.tensor([0.0, 0.999999940395]).expand(64, 2))
    assert bool((found.probs > 0).all())
    assert int(found.ids.max()) < 10_000


def test_margin_and_certainty_are_of_the_nucleus() -> None:
    # The nucleus of 0.7 is 0.5 and 0.3, renormalised 0.625 and 0.375; of 0.4 it is one token.
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    two, one, whole = (draw_ahead(logits, 0.0, p, None, certainty=True) for p in (0.7, 0.4, 1.0))
    assert [two.margin.item(), one.margin.item(), whole.margin.item()] == pytest.approx([0.25, 1.0, 0.2])
    entropies = [-sum(p * math.log(p) for p in parts) for parts in ((0.625, 0.375), (1.0,), (0.5, 0.3, 0.2))]
    assert [-d.certainty.item() for d in (two, one, whole)] == pytest.approx(entropies, abs=1e-6)
    assert [d.ids.tolist() for d in (two, one, whole)] == [[[0]]] * 3


def test_of_equal_logits_the_lowest_id_is_taken() -> None:
    logits = torch.zeros(1, 300)
    logits[0, [70, 200, 299]] = 5.0
    assert [draw_ahead(logits, 0.0, p, None).ids.item() for p in (0.9, 1.0)] == [70, 70]


def test_rows_may_need_different_numbers_of_draws() -> None:
    names = [("a",), ("b",)]
    both = row_uniforms(1, names, [2, 5], [3, 1])
    assert torch.equal(both[:1, :2, :3], row_uniforms(1, names[:1], 2, [3]))
    assert torch.equal(both[1:, :, :1], row_uniforms(1, names[1:], 5, [1]))
