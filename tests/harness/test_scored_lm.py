"""hf-scored against stock hf, against float64, and against itself in other batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from lm_eval_ensemble.errors import ConfigError, ModelError
from lm_eval_ensemble.fim import LAYOUTS
from lm_eval_ensemble.harness.recorder import Step, read_answer
from lm_eval_ensemble.harness.requests import to_requests
from lm_eval_ensemble.harness.scored_lm import ScoredHF
from lm_eval_ensemble.scoring import Span
from lm_eval_ensemble.types import Candidate, Completion, InfillRequest

STOPS = list(LAYOUTS["qwen"].stops)


def gaps(documents: Sequence[dict[str, Any]], **options: Any) -> list[Instance]:
    settings = {"until": STOPS, "do_sample": False, "temperature": 0.0, "max_gen_toks": 48, **options}
    return [
        Instance(
            "generate_until",
            d,
            (LAYOUTS["qwen"].render(d["prefix"], d["suffix"]), settings),
            0,
            metadata=("toy", i, 1),
            task_name="toy",
            doc_id=i,
            repeats=1,
        )
        for i, d in enumerate(documents)
    ]


def trace(answer: str) -> Candidate:
    assert isinstance(answer, Completion)
    assert answer.trace is not None
    return answer.trace.chosen


@pytest.fixture(scope="module")
def plain(assets: Path) -> ScoredHF:
    """Without limits of its own: everything comes from the task."""
    return ScoredHF(pretrained=str(assets / "fim"), batch_size=1)


def test_greedy_answers_equal_stock_hf(plain: ScoredHF, assets: Path, toy: list[dict[str, Any]]) -> None:
    stock = HFLM(pretrained=str(assets / "fim"), dtype="float32", device="cpu", batch_size=1)
    requests = gaps([{**d, "cut": "none"} for d in toy[:15]])
    assert plain.generate_until(requests) == stock.generate_until(requests)


def test_plain_prompts_equal_stock_hf(plain: ScoredHF, assets: Path) -> None:
    stock = HFLM(pretrained=str(assets / "fim"), dtype="float32", device="cpu", batch_size=1)
    options = {"until": ["\n\n", "return"], "do_sample": False, "max_gen_toks": 40}
    prompts = ["def add(a, b):\n", "class Point:\n    def __init__(self", "import os\n"]
    requests = [
        Instance("generate_until", {}, (p, options), 0, metadata=("t", i, 1), task_name="t", doc_id=i, repeats=1)
        for i, p in enumerate(prompts)
    ]
    ours = plain.generate_until(requests)
    assert ours == stock.generate_until(requests)
    for answer in ours:
        logprobs = trace(answer).logprobs
        assert logprobs is not None
        # The kept tokens are just those that write the kept text.
        assert len(logprobs) <= 40


def test_logprobs_equal_a_float64_forward(plain: ScoredHF, toy: list[dict[str, Any]]) -> None:
    requests = to_requests(gaps(toy[:6]))
    for request, candidate in zip(requests, plain.propose(requests), strict=True):
        ids = LAYOUTS["qwen"].encode(plain.encoder, request.prefix, request.suffix, plain.window - 48).ids
        logprobs = candidate.logprobs
        assert logprobs is not None
        total, context = [], torch.tensor([ids])
        for _ in range(len(logprobs)):
            with torch.no_grad():
                last = plain.model(input_ids=context, use_cache=False).logits[0, -1].double().log_softmax(-1)
            total.append(float(last.max()))
            context = torch.cat([context, last.argmax().reshape(1, 1)], 1)
        assert list(logprobs) == pytest.approx(total, abs=2e-5)
        if candidate.info["stop"] == "stop_token":
            with torch.no_grad():
                last = plain.model(input_ids=context, use_cache=False).logits[0, -1].double().log_softmax(-1)
            assert candidate.info["stop_logprob"] == pytest.approx(float(last.max()), abs=2e-5)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_answers_do_not_depend_on_batch_or_order(assets: Path, toy: list[dict[str, Any]], temperature: float) -> None:
    requests = to_requests(gaps(toy[:9]))
    settings: dict[str, Any] = {"temperature": temperature, "top_p": 0.95, "max_new_tokens": 24, "seed": 5}
    found = []
    for size, order in ((1, 1), (4, 1), (9, -1)):
        model = ScoredHF(pretrained=str(assets / "fim"), batch_size=size, **settings)
        answers = model.propose(requests[::order])[::order]
        found.append([(a.raw, a.info["stop"]) for a in answers])
        assert all(p <= 0 for a in answers for p in a.logprobs or ())
    assert found[0] == found[1] == found[2]


def test_seeds_and_samples_give_other_answers(assets: Path, toy: list[dict[str, Any]]) -> None:
    request = to_requests(gaps(toy[:1]))[0]
    model = ScoredHF(pretrained=str(assets / "fim"), temperature=2.0, max_new_tokens=24, seed=1)
    repeats = [InfillRequest(request.prefix, request.suffix, "toy", 0, sample=k) for k in range(4)]
    assert len({a.raw for a in model.propose(repeats)}) == 4


def test_nothing_after_a_sentinel_leaks(plain: ScoredHF) -> None:
    fim_suffix = plain.encoder.token_id("<|fim_suffix|>")
    assert fim_suffix is not None
    text = plain.encoder.encode("x = 1\n")
    stops, _ = plain._stops(plain._gap_row(InfillRequest("a", "b", until=tuple(STOPS))))
    answer = read_answer(plain.encoder, [*text, fim_suffix, *text], [Step(-0.5)] * (2 * len(text) + 1), stops, ())
    assert (answer.text, answer.stop, answer.stop_logprob) == ("x = 1\n", "stop_token", -0.5)
    assert len(answer.logprobs) == len(text)


def test_a_stop_string_cuts_inside_a_token(plain: ScoredHF) -> None:
    ids = plain.encoder.encode("value = 1\nreturn value\n")
    answer = read_answer(plain.encoder, ids, [Step(-0.1)] * len(ids), {0}, ("urn",))
    assert (answer.text, answer.stop, answer.straddle) == ("value = 1\nret", "stop_string", True)
    assert "".join(answer.pieces) == answer.text
    # A part of the stop lies in the kept token: there is no log-probability of stopping alone.
    assert answer.stop_logprob is None
    assert plain.encoder.decode(ids[: len(answer.logprobs)]).startswith(answer.text)
    assert not plain.encoder.decode(ids[: len(answer.logprobs) - 1]).startswith(answer.text)


def test_scored_spans_equal_one_row_at_a_time(plain: ScoredHF, scored: ScoredHF) -> None:
    texts = ["def f(x):\n    return x\n", "a = 1\n", "for i in range(10):\n    print(i)\n    total += i\n"]
    spans = [Span([0, *plain.encoder.encode(t)], 1) for t in texts] + [Span(plain.encoder.encode(texts[2]), 7)]
    together = scored.token_logprobs(spans)
    for span, found in zip(spans, together, strict=True):
        with torch.no_grad():
            logits = plain.model(input_ids=torch.tensor([span.ids]), use_cache=False).logits[0].double().log_softmax(-1)
        # Token i is predicted by the logits at i-1.
        expected = [float(logits[i - 1, span.ids[i]]) for i in range(span.start, len(span.ids))]
        assert found == pytest.approx(expected, abs=1e-4)


def test_prompts_longer_than_the_context_keep_the_middle(assets: Path) -> None:
    model = ScoredHF(pretrained=str(assets / "fim"), max_length=128, max_new_tokens=16)
    candidate = model.propose([InfillRequest("x = 1\n" * 300, "y = 2\n" * 300)])[0]
    assert candidate.info["trimmed_prefix"] > 0
    assert candidate.info["trimmed_suffix"] > 0


def test_no_room_for_the_prompt_is_one_clear_error(assets: Path) -> None:
    model = ScoredHF(pretrained=str(assets / "fim"), max_length=128, max_new_tokens=128)
    with pytest.raises(ConfigError, match="max_new_tokens=128 leaves 0 of 128"):
        model.propose([InfillRequest("a", "b")])


@pytest.mark.parametrize("suffix", ["", "\n", "é = '☃'\n", "<|fim_middle|>"])
def test_odd_suffixes_are_answered(scored: ScoredHF, suffix: str) -> None:
    candidate = scored.propose([InfillRequest("naïve = '日本'\n", suffix, cut="line")])[0]
    assert candidate.text.endswith("\n")
    assert all(math.isfinite(p) for p in candidate.logprobs or ())


def test_missing_weights_name_the_tiny_preset() -> None:
    with pytest.raises(ModelError, match="preset=tiny"):
        ScoredHF(pretrained="nobody/no-such-model")


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match=r"temperature: got -1"):
        ScoredHF(preset="tiny", temperature=-1)
    with pytest.raises(ConfigError, match="pretrained: missing"):
        ScoredHF()
