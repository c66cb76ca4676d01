"""Records from a completions server, and from a second pass: compared with what hf-scored records for the same checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lm_eval_ensemble.errors import ConfigError, HostError
from lm_eval_ensemble.harness.recorder import Detail
from lm_eval_ensemble.harness.rescored_lm import Rescored
from lm_eval_ensemble.harness.scored_lm import ScoredHF
from lm_eval_ensemble.harness.server_lm import ScoredCompletions, read_choice
from lm_eval_ensemble.types import Candidate
from tests.harness.test_recorder import PROMPTS, questions, traces
from tests.servers import CompletionsServer


@pytest.fixture(scope="module")
def checkpoint(assets: Path) -> str:
    return str(assets / "fim")


@pytest.fixture(scope="module")
def own(checkpoint: str) -> ScoredHF:
    return ScoredHF(pretrained=checkpoint, record="topk:4")


def ask(server: CompletionsServer, checkpoint: str, **arguments: Any) -> ScoredCompletions:
    settings = {"tokenizer_backend": "huggingface", "tokenizer": checkpoint, "max_retries": 1, **arguments}
    return ScoredCompletions(base_url=server.url, model="tiny", **settings)


def check_alike(found: Sequence[Candidate], expected: Sequence[Candidate], *, stops: bool) -> None:
    for theirs, ours in zip(found, expected, strict=True):
        assert (theirs.raw, theirs.tokens) == (ours.raw, ours.tokens)
        assert theirs.logprobs == pytest.approx(ours.logprobs, abs=1e-4)
        assert theirs.info["source"] == "server"
        assert theirs.info["entropy"] == pytest.approx(ours.info["entropy"], abs=1e-4)
        assert theirs.info["margin"] == pytest.approx(ours.info["margin"], abs=1e-4)
        if stops:
            assert (theirs.info["stop"], theirs.info["straddle"]) == (ours.info["stop"], ours.info["straddle"])
            assert theirs.info.get("stop_logprob") == pytest.approx(ours.info.get("stop_logprob"), abs=1e-4)


@pytest.mark.parametrize(("style", "options"), [("vllm", {"batch_size": 3}), ("openai", {"num_concurrent": 2})])
def test_a_server_gives_the_same_record(checkpoint: str, own: ScoredHF, style: str, options: dict[str, Any]) -> None:
    with CompletionsServer(checkpoint, style=style) as server:
        lm = ask(server, checkpoint, record="topk:4", **options)
        for until in (["\n"], ["e", "):"]):
            requests = questions(PROMPTS[:5], until=until)
            check_alike(traces(lm.generate_until(requests)), traces(own.generate_until(requests)), stops=style == "vllm")
        assert all(p["logprobs"] == 4 for p in server.payloads)


def test_an_answer_cache_of_another_record_is_refused(checkpoint: str) -> None:
    hook = SimpleNamespace(dbdict={})
    with CompletionsServer(checkpoint) as server:
        for _ in range(2):
            ask(server, checkpoint, record="topk:4").set_cache_hook(hook)
        with pytest.raises(HostError, match="other settings"):
            ask(server, checkpoint).set_cache_hook(hook)


def test_likelihoods_still_work(checkpoint: str, own: ScoredHF) -> None:
    from lm_eval.api.instance import Instance

    asked = [Instance("loglikelihood", {}, ("def add(a, b):\n", "    return a + b"), 0)]
    with CompletionsServer(checkpoint) as server:
        [(total, _)] = ask(server, checkpoint).loglikelihood(asked)
    assert total == pytest.approx(own.loglikelihood(asked)[0][0], abs=1e-3)


def test_a_server_without_logprobs_is_told_once(caplog: pytest.LogCaptureFixture, checkpoint: str) -> None:
    with CompletionsServer(checkpoint) as server:
        lm = ask(server, checkpoint)
        with caplog.at_level("WARNING"):
            lm.parse_generations([{"choices": [{"index": i, "text": "x", "logprobs": None} for i in (0, 1)]}])
    assert caplog.text.count("sends no logprobs") == 1


@pytest.mark.parametrize("options", [{}, {"num_concurrent": 2}], ids=["one by one", "concurrent"])
@pytest.mark.parametrize("fault", ["500", "torn", "error", "fewer", "more", "text"])
def test_a_failing_server_is_one_clear_error(checkpoint: str, fault: str, options: dict[str, Any]) -> None:
    bodies: dict[str, Any] = {
        "error": {"error": {"message": "model overloaded"}},
        "fewer": {"choices": []},
        "more": {"choices": [{"index": i, "text": "x", "logprobs": None} for i in (0, 1)]},
        "text": {"choices": [{"index": 0, "text": ["x"], "logprobs": None}]},
    }
    with CompletionsServer(checkpoint) as server:
        if fault in bodies:
            server.answer = lambda payload: bodies[fault]  # type: ignore[method-assign]
        server.failures, server.torn = 100 * (fault == "500"), 40 * (fault == "torn")
        lm = ask(server, checkpoint, **options)
        with pytest.raises(HostError) as error:
            lm.generate_until(questions(PROMPTS[:1]))
    assert server.url in str(error.value)
    counts = {"fewer": "0 answers to 1 prompts", "more": "2 answers to 1 prompts"}
    expected = {"error": "model overloaded", "text": "'text'", **counts}
    assert expected.get(fault, "gave no usable response") in str(error.value)


def test_a_server_that_recovers_is_asked_again(checkpoint: str, own: ScoredHF) -> None:
    requests = questions(PROMPTS[:1])
    with CompletionsServer(checkpoint, failures=1) as server:
        lm = ask(server, checkpoint, record="topk:4", max_retries=2)
        check_alike(traces(lm.generate_until(requests)), traces(own.generate_until(requests)), stops=True)


@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        # parts of characters: each counts one in the sums that servers call offsets
        ("日本 x", ["\ufffd", "\ufffd", "\ufffd", "本", " x", "\n"], (["", "", "日", "本", " x"], [-6.0])),
        ("a 日", ["a", " ", "\ufffd", "\ufffd", "\ufffd", "\n"], (["a", " ", "", "", "日"], [-6.0])),
        # the tokens of something else
        ("日x", ["bytes:\\xe6", "bytes:\\x97\\xa5", "x"], None),
        ("one", ["two", "\n"], None),
    ],
)
@pytest.mark.parametrize("told", [False, True])
def test_tokens_that_are_parts_of_characters(text: str, tokens: list[str], expected: Any, told: bool) -> None:
    offsets = [sum(map(len, tokens[:i])) for i in range(len(tokens))] if told else None
    values = [-float(i + 1) for i in range(len(tokens))]
    listed = {"tokens": tokens, "token_logprobs": values, "text_offset": offsets}
    found = read_choice("s", {"index": 0, "text": text, "finish_reason": "stop", "logprobs": listed}, {"\n", "y"})
    if expected is None:
        assert (found.raw, found.logprobs, found.tokens) == (text, None, None)
        return
    pieces, stop = expected
    assert (list(found.tokens or ()), found.logprobs) == (pieces, tuple(values[: len(pieces)]))
    assert found.info.get("stop_logprob") == sum(stop)


def test_half_an_emoji_of_a_server_can_be_written() -> None:
    listed = {"tokens": ["a", "\ud83d"], "token_logprobs": [-1.0, -2.0]}
    found = read_choice("s", {"index": 0, "text": "a\ud83d", "finish_reason": "length", "logprobs": listed}, set())
    assert (found.text, found.raw, found.tokens) == ("a\ufffd", "a\ufffd", ("a", "\ufffd"))


@pytest.mark.parametrize("odd", [None, -math.inf, math.nan])
def test_log_probabilities_that_are_none_leave_the_answer_without(odd: float | None) -> None:
    def read(values: list[float | None]) -> Candidate:
        listed = {"tokens": ["a", "b", "\n"], "token_logprobs": values}
        return read_choice("s", {"index": 0, "text": "ab", "finish_reason": "stop", "logprobs": listed}, {"\n"})

    assert read([-1.0, odd, -1.0]).logprobs is None
    found = read([-1.0, -2.0, odd])
    assert (found.logprobs, found.info["stop"]) == ((-1.0, -2.0), "stop_string")
    assert "stop_logprob" not in found.info


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        # vLLM: end of text listed; a stop string named; a token that holds the end of the answer and the stop
        ({"text": " Paris", "finish_reason": "stop", "stop_reason": None}, (" Paris", 2, "stop_token", -0.25, False)),
        ({"text": " Paris", "finish_reason": "stop", "stop_reason": "\n"}, (" Paris", 2, "stop_string", -0.25, False)),
        ({"text": " Par", "finish_reason": "stop", "stop_reason": "is"}, (" Par", 1, "stop_string", -0.75, False)),
        ({"text": " Pa", "finish_reason": "stop", "stop_reason": "r"}, (" Pa", 1, "stop_string", None, True)),
        ({"text": " Paris.", "finish_reason": "length", "stop_reason": None}, (" Paris.", 3, "length", None, False)),
        ({"text": "", "finish_reason": "stop", "stop_reason": "\n"}, ("", 0, "stop_string", -1.75, False)),
        # OpenAI: nothing is named; the tokens after the text tell a stop string from the end of text
        ({"text": " Par", "finish_reason": "stop"}, (" Par", 1, "stop_string", -0.75, False)),
        ({"text": " Paris", "finish_reason": "stop"}, (" Paris", 2, "stop_token", -0.25, False)),
    ],
)
def test_choices_of_servers(choice: dict[str, Any], expected: tuple[Any, ...]) -> None:
    logprobs = {"tokens": [" Par", "is", "."], "token_logprobs": [-1.0, -0.5, -0.25], "text_offset": [40, 44, 46]}
    for offsets in (logprobs["text_offset"], None):
        found = read_choice("s", {"index": 0, **choice, "logprobs": {**logprobs, "text_offset": offsets}}, {"\n", "is", "r"})
        assert found.logprobs is not None
        seen = (found.raw, len(found.logprobs), found.info["stop"], found.info.get("stop_logprob"), found.info["straddle"])
        assert seen == expected
        assert "".join(found.tokens or ()) == found.raw


def test_log_probabilities_in_the_form_of_the_chat_api_are_read() -> None:
    """llama.cpp answers completions so."""
    content = [
        {"id": 1, "token": " Pa", "bytes": [32], "logprob": -0.5, "top_logprobs": [{"token": " Pa", "logprob": -0.5}]},
        {"id": 2, "token": "ris", "bytes": [114], "logprob": -0.25, "top_logprobs": []},
    ]
    choice = {"index": 0, "text": " Paris", "logprobs": {"content": content}, "finish_reason": "stop"}
    found = read_choice("s", choice, set())
    assert (found.logprobs, found.tokens) == ((-0.5, -0.25), (" Pa", "ris"))


def reply(values: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": "", "logprobs": values}]}


@pytest.mark.parametrize(
    ("logprobs", "found"),
    [
        ({"tokens": ["x"], "token_logprobs": [-0.1], "top_logprobs": [{"x": -0.1}]}, "1 log-probabilities"),
        ({"content": [{"token": "x", "logprob": -0.1}]}, "no token_logprobs"),
        (None, "no token_logprobs"),
    ],
)
def test_a_server_that_ignores_echo_is_refused(logprobs: Any, found: str) -> None:
    """Nothing of the text was scored; the sum over nothing is 0.0."""
    for lm in (
        ScoredCompletions(base_url="http://x/v1/completions", model="m", tokenizer_backend=None),
        Rescored(inner="local-completions", base_url="http://x/v1/completions", model="m", tokenizer_backend=None).inner,
    ):
        with pytest.raises(HostError, match=f"{found} for a prompt of 3 tokens.*ignores echo"):
            lm.parse_logprobs(outputs=reply(logprobs), tokens=[[1, 2, 3, 4]], ctxlens=[3])
        echoed = {"token_logprobs": [None, -1.0, -2.0, -0.5, -9.0], "top_logprobs": [{"a": -0.5}] * 5}
        assert lm.parse_logprobs(outputs=reply(echoed), tokens=[[1, 2, 3, 4]], ctxlens=[3]) == [(-0.5, True)]


def test_entropy_of_the_best_tokens() -> None:
    tops = [{"a": math.log(0.5), "b": math.log(0.25), "c": math.log(0.125)}]
    logprobs = {"tokens": ["a"], "token_logprobs": [math.log(0.5)], "top_logprobs": tops}
    found = read_choice("s", {"index": 0, "text": "a", "finish_reason": "length", "logprobs": logprobs}, set(), Detail(2))
    assert found.info["entropy"] == pytest.approx([0.5 * math.log(2) + 0.25 * math.log(4)])
    assert (found.info["margin"], found.info["entropy_kind"]) == (pytest.approx([0.25]), "topk:2")


def test_only_the_best_tokens_can_be_asked_of_a_server() -> None:
    with pytest.raises(ConfigError, match="expected topk:K"):
        ScoredCompletions(base_url="http://127.0.0.1:1/v1/completions", model="m", record="entropy")


def test_a_second_pass_sums_the_same_tokens(checkpoint: str, own: ScoredHF) -> None:
    """With stock hf inside. Sums agree wherever tokenising the answer again gives the tokens that were generated."""
    lm = Rescored(inner="hf", pretrained=checkpoint, dtype="float32", device="cpu", batch_size=4)
    requests = questions()
    alike = 0
    for theirs, ours in zip(traces(lm.generate_until(requests)), traces(own.generate_until(requests)), strict=True):
        assert theirs.raw == ours.raw
        assert (theirs.tokens is None) == bool(theirs.raw)
        assert theirs.info["source"] == "loglikelihood"
        assert len(theirs.logprobs or ()) == bool(theirs.raw)
        if theirs.raw and theirs.info["token_ids"] == ours.info["token_ids"]:
            alike += 1
            assert sum(theirs.logprobs or ()) == pytest.approx(sum(ours.logprobs or ()), abs=1e-3)
    assert alike > 1
    assert lm.world_size == 1
    assert lm.tokenizer_name == lm.inner.tokenizer_name


def test_wrong_inner_models_are_named() -> None:
    with pytest.raises(ConfigError, match="inner: missing"):
        Rescored()
    with pytest.raises(ConfigError, match="'hff' is not registered"):
        Rescored(inner="hff")
