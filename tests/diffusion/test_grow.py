"""DreamOn's rules for a canvas that grows and shrinks, on models whose every answer is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lm_eval_ensemble.diffusion.grow import GROWING, GrowingMiddle, grow, most_steps
from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.harness.diffusion_lm import DiffusionInfill
from lm_eval_ensemble.sampling import row_uniforms
from lm_eval_ensemble.types import InfillRequest
from tests.diffusion import standins

END, EXPAND, MASK, FIRST = 0, 1, 2, 3
VOCABULARY = 12
#: what the middle looks like (masks are -1) -> the token wanted at each of its masks, and how much
Rule = Callable[[list[int]], dict[int, tuple[int, float]]]


class Scripted:
    """Answers by a rule; between ``P`` (10) and ``S`` (11) stands the middle."""

    mask_id, end_ids, device = MASK, [END], torch.device("cpu")
    expand_id: int | None = EXPAND

    def __init__(self, rule: Rule) -> None:
        self.rule, self.seen = rule, list[list[int]]()

    def states_at(self, ids: Tensor, lengths: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        out = torch.zeros(len(rows), VOCABULARY)
        out[:, END] = -5.0
        for i, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
            text = ids[row, : lengths[row]].tolist()
            start, stop = text.index(10) + 1, text.index(11)
            middle = [-1 if t == MASK else t for t in text[start:stop]]
            token, logit = self.rule(middle)[column - start]
            out[i, token] = logit
            if column - start == middle.index(-1):
                self.seen.append(middle)
        return out

    def logits_of(self, states: Tensor, ending: Tensor | None = None, expanding: Tensor | None = None) -> Tensor:
        logits = states.clone()
        logits[:, MASK] = float("-inf")
        for token, where in ((END, ending), (EXPAND, expanding)):
            if where is None or not bool(where.all()):
                allowed = torch.zeros(len(states), dtype=torch.bool) if where is None else where
                logits[~allowed, token] = float("-inf")
        return logits


def fill(rule: Rule, first: int = 2, limit: int = 6, **options: Any) -> tuple[GrowingMiddle, Scripted]:
    model = Scripted(rule)
    (span,) = grow(model, [([10], [11])], first=first, limits=[limit], **options)
    return span, model


def counting(target: int) -> Rule:
    """Wants ``target`` tokens, 3, 4, 5 ...: too few places are expanded at the first mask, too many deleted at the last."""

    def rule(middle: list[int]) -> dict[int, tuple[int, float]]:
        masks = [i for i, token in enumerate(middle) if token == -1]
        wanted = {i: (FIRST + i, 5.0) for i in masks}
        if len(middle) < target:
            wanted[masks[0]] = (EXPAND, 9.0)
        elif len(middle) > target:
            wanted[masks[-1]] = (END, 9.0)
        return wanted

    return rule


@pytest.mark.parametrize("alg", GROWING)
@pytest.mark.parametrize("target", [1, 2, 5])
def test_the_canvas_takes_the_length_that_the_model_wants(target: int, alg: str) -> None:
    span, _ = fill(counting(target), alg=alg)
    assert span.tokens == [FIRST + i for i in range(target)]
    # One forward for each expansion or deletion, and one for each token.
    assert span.forwards == abs(target - 2) + target == len(span.states)
    assert len(span.logprobs) == target
    assert all(value < 0 for value in span.logprobs)


def test_a_deletion_takes_the_masks_after_it_and_no_token() -> None:
    def rule(middle: list[int]) -> dict[int, tuple[int, float]]:
        order = {3: (7, 9.0), 0: (5, 8.0), 1: (END, 7.0)} if -1 in middle else {}
        return {i: order.get(i, (6, 1.0)) for i, token in enumerate(middle) if token == -1}

    span, _ = fill(rule, first=5)
    # By hand: 7 at place 3, then 5 at place 0, then the mask at 1 is deleted, with those at 2 and 4.
    assert span.states == [[None, None, None, 7, None], [5, None, None, 7, None], [5, 7]]
    assert span.tokens == [5, 7]


def test_a_span_at_its_limit_or_without_budget_is_not_expanded() -> None:
    greedy_for_more: Rule = lambda middle: {i: (EXPAND, 9.0) for i, token in enumerate(middle) if token == -1}  # noqa: E731
    span, model = fill(greedy_for_more, first=2, limit=4)
    assert len(span.tokens) == 4
    assert max(map(len, model.seen)) == 4
    assert span.forwards == 2 + 4 <= most_steps(4)

    def churn(middle: list[int]) -> dict[int, tuple[int, float]]:
        """Expands one mask, deletes the other, for ever."""
        masks = [i for i, token in enumerate(middle) if token == -1]
        return {i: (EXPAND, 9.0) if i == masks[0] and len(masks) < 2 else (END, 8.0) for i in masks}

    span, _ = fill(churn, first=1, limit=3)
    assert span.tokens == []
    assert span.forwards <= most_steps(3)


def test_rows_do_not_depend_on_their_batch() -> None:
    alone = [fill(counting(n))[0].tokens for n in (1, 3, 6)]
    model = Scripted(lambda middle: {})
    rules = {20: counting(1), 21: counting(3), 22: counting(6)}
    real = model.states_at

    def chosen(ids: Tensor, lengths: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        parts = []
        for row in sorted(set(rows.tolist())):
            model.rule = rules[int(ids[row, 0])]
            own = rows == row
            parts.append(real(ids, lengths, rows[own], columns[own]))
        return torch.cat(parts)

    model.states_at = chosen  # type: ignore[method-assign]
    together = grow(model, [([tag, 10], [11, 9][: 1 + tag % 2]) for tag in rules], first=2, limits=[6] * 3)
    assert [span.tokens for span in together] == alone


def test_wrong_models_and_algorithms_are_named(assets: Path) -> None:
    with pytest.raises(ConfigError, match=r"length=expand: the diffusion model has no expand token.*DreamOn"):
        DiffusionInfill(pretrained=str(assets / "mdm"), length="expand", alg="entropy")
    with pytest.raises(ConfigError, match=r"alg=p2 does not say which mask is the most certain. Give alg=entropy"):
        grow(Scripted(counting(1)), [([10], [11])], first=2, limits=[4], alg="p2")


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> Path:
    """DreamOn's layout: Dream's, with one more token."""
    folder = tmp_path_factory.mktemp("dreamon")
    standins.dream(folder, assets)
    for name in ("added_tokens.json", "tokenizer_config.json"):
        path = folder / name
        path.write_text(path.read_text().replace("<|fim_middle|>", "<|expand|>"))
    return folder


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_answers_of_a_checkpoint(growing: Path, toy: list[dict[str, Any]], temperature: float) -> None:
    found = []
    asked = [InfillRequest(d["prefix"], d["suffix"], "toy", i, max_new_tokens=5 + i) for i, d in enumerate(toy[:6])]
    for size in (1, 4):
        model = DiffusionInfill(
            pretrained=str(growing),
            length="expand:3",
            alg="entropy",
            dtype="float32",
            temperature=temperature,
            seed=1,
            batch_size=size,
            history=True,
        )
        assert model.network.expand_id == 2
        found.append(model.propose(asked))
    assert [c.raw for c in found[0]] == [c.raw for c in found[1]]
    for i, candidate in enumerate(found[0]):
        info = candidate.info
        assert info["length_mode"] == "expand:3"
        assert info["length"] == len(candidate.logprobs or ()) <= 5 + i
        assert info["history"][-1] == [token for token in info["history"][-1] if token is not None]
        assert info["steps"] == info["row_forwards"] == len(info["history"])
        assert "<|" not in candidate.raw


def test_streams_are_wide_enough() -> None:
    """Every step and every place of a row has a number of its own."""
    uniforms = row_uniforms(0, [("a",)], most_steps(4), [4])
    assert uniforms.shape == (1, 12, 4)
