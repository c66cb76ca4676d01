"""Prompts that were answered are not read again for scoring: the same numbers, and the same bits whatever is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lm_eval_ensemble.harness import prompts
from lm_eval_ensemble.harness.ensemble_lm import EnsemblePPL
from lm_eval_ensemble.harness.requests import to_requests
from lm_eval_ensemble.harness.scored_lm import ScoredHF
from lm_eval_ensemble.members.base import Ledger
from lm_eval_ensemble.scoring.base import Span
from lm_eval_ensemble.tokens import pack
from lm_eval_ensemble.types import Candidate, InfillRequest
from tests.harness.test_scored_lm import gaps

OTHERS = ("    return 0\n", "x", "    for v in values:\n        result += v\n")


@pytest.fixture(scope="module")
def model(assets: Path) -> ScoredHF:
    return ScoredHF(pretrained=str(assets / "fim"), batch_size=4, max_new_tokens=24, seed=3)


@pytest.fixture
def keeping(model: ScoredHF) -> Iterator[ScoredHF]:
    model.keep_prompts()
    yield model
    model.forget_prompts()
    model._reader.memory.wanted = False


@pytest.fixture(scope="module")
def lines(toy: Sequence[dict[str, Any]]) -> list[InfillRequest]:
    return to_requests(gaps(toy[:21]))


@pytest.fixture(scope="module")
def spans(model: ScoredHF, lines: Sequence[InfillRequest]) -> list[Span]:
    """One answer of somebody else for most gaps, three for every fourth; nothing for the last."""
    found = []
    for number, request in enumerate(lines[:-1]):
        ids = model._gap_row(request).ids
        for text in OTHERS if number % 4 == 0 else OTHERS[:1]:
            found.append(Span(pack(ids, model.encoder.encode(text), [model.end_id]), len(ids)))
    return found


def test_scores_are_those_of_reading_the_prompts_again(
    keeping: ScoredHF, lines: Sequence[InfillRequest], spans: Sequence[Span], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = keeping.token_logprobs(spans)
    keeping.propose(lines)
    read = 0
    forward = keeping._reader._forward

    def counting(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        nonlocal read
        read += ids.shape[1]
        return forward(ids, *rest)

    monkeypatch.setattr(keeping._reader, "_forward", counting)
    found = keeping.token_logprobs(spans)
    longest = max(len(span.ids) - span.start for span in spans)
    assert read <= longest * len(spans)  # answers alone, where a prompt has hundreds of tokens
    assert min(span.start for span in spans) > 2 * longest
    for one, other in zip(expected, found, strict=True):
        assert list(one) == pytest.approx(list(other), abs=1e-4)


@pytest.mark.parametrize("kind", ["nothing fits", "half fits", "answers from a store"])
def test_what_is_not_kept_is_read_again_with_the_same_bits(
    keeping: ScoredHF,
    lines: Sequence[InfillRequest],
    spans: Sequence[Span],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    answers = keeping.propose(lines)
    kept = [list(row) for row in keeping.token_logprobs(spans)]
    half = keeping._reader.memory._bytes // 2
    assert half
    if kind == "answers from a store":
        ledger = Ledger()
        ledger.add(dict(enumerate(answers)))
        keeping.propose(lines, ledger)
        assert not keeping._reader.memory._bytes
    else:
        monkeypatch.setattr(prompts, "_MOST", 0 if kind == "nothing fits" else half)
        keeping.propose(lines)
        assert keeping._reader.memory._bytes <= half
    assert [list(row) for row in keeping.token_logprobs(spans)] == kept


class KilledError(Exception):
    pass


class Dying(Ledger):
    """Keeps what it is told, and ends the run after a number of batches."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.batches = batches

    def add(self, found: Mapping[int, Candidate]) -> None:
        super().add(found)
        self.batches -= 1
        if not self.batches:
            raise KilledError


@pytest.mark.parametrize("room", [0, 2**31])
def test_samples_of_a_prompt_in_two_batches_change_no_bit_after_a_kill(
    keeping: ScoredHF,
    lines: Sequence[InfillRequest],
    spans: Sequence[Span],
    monkeypatch: pytest.MonkeyPatch,
    room: int,
) -> None:
    monkeypatch.setattr(prompts, "_MOST", room)
    # Three of each in batches of four, and some again under another cut rule, as tasks have: another group, other batches.
    drawn = [replace(line, sample=k) for line in lines for k in range(3)]
    drawn += [replace(line, cut="none", sample=k) for line in lines[::3] for k in range(2)]
    keeping.propose(drawn)
    expected = [list(row) for row in keeping.token_logprobs(spans)]
    for batches in (1, 2, 5, 16):
        ledger = Dying(batches)
        with pytest.raises(KilledError):
            keeping.propose(drawn, ledger)
        keeping.propose(drawn, ledger)
        assert [list(row) for row in keeping.token_logprobs(spans)] == expected, batches


def test_a_batch_that_memory_runs_out_in_is_not_remembered(
    assets: Path, lines: Sequence[InfillRequest], spans: Sequence[Span], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "_MOST", 0)
    model = ScoredHF(pretrained=str(assets / "fim"), batch_size=4, max_new_tokens=24, seed=3)
    expected = model.token_logprobs(spans)
    model.keep_prompts()
    generate, read, largest, ended = model.model.generate, model._reader._read_prompts, 0, False

    def short(**arguments: Any) -> Any:
        nonlocal ended
        if arguments["max_new_tokens"] < 24 and not ended:  # a batch goes on without the rows that have ended
            ended = True
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return generate(**arguments)

    def noting(prompts: Sequence[Sequence[int]], cache: Any) -> None:
        nonlocal largest
        largest = max(largest, len(prompts))
        read(prompts, cache)

    monkeypatch.setattr(model.model, "generate", short)
    model._reader.memory._read = noting
    model.propose(lines)
    for one, other in zip(expected, model.token_logprobs(spans), strict=True):
        assert list(one) == pytest.approx(list(other), abs=1e-4)
    assert ended
    assert largest == 2  # batches that were answered, not those that did not fit


def test_an_ensemble_keeps_prompts_while_it_scores_and_no_longer(assets: Path, toy: Sequence[dict[str, Any]]) -> None:
    settings: dict[str, Any] = {"preset": "tiny", "steps": 4, "max_new_tokens": 16, "store": "off", "batch_size": 4}
    lm = EnsemblePPL(**settings)
    memory = lm.members[1]._reader.memory  # type: ignore[attr-defined]
    held, gather = [], memory.gather

    def noting(prompts: Sequence[Sequence[int]]) -> Any:
        held.append(memory._bytes)
        return gather(prompts)

    memory.gather = noting
    lm.generate_until(gaps(toy[:8]))
    assert held
    assert min(held) > 0
    assert memory._bytes == 0
    assert not memory._kept
    # A model that judges nobody by its own prompt, or is not in memory when it would score, keeps nothing.
    for other in ({"score": "causal"}, {"load": "one-at-a-time"}):
        assert not EnsemblePPL(**settings, **other)._keep, other
