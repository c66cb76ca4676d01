"""Whatever a document, a model or a configuration holds: the right rows, or an error of ours."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance

from lm_eval_ensemble import ensemble
from lm_eval_ensemble.config import (
    DIFFUSION,
    SCORED,
    Decoding,
    DiffusionConfig,
    EnsembleConfig,
    HostDecoding,
    ScoredConfig,
    parse_settings,
)
from lm_eval_ensemble.data import check_document
from lm_eval_ensemble.errors import DataError, EnsembleError
from lm_eval_ensemble.fim import LAYOUTS
from lm_eval_ensemble.harness.judging import JudgeSettings, judge_all
from lm_eval_ensemble.harness.requests import resolve, to_requests
from lm_eval_ensemble.harness.task import InfillTask
from lm_eval_ensemble.members.base import Ledger, Member
from lm_eval_ensemble.runs.rows import document_rows
from lm_eval_ensemble.scoring import Scorers, Span
from lm_eval_ensemble.scoring.base import Row
from lm_eval_ensemble.tokens import PlainEncoder
from lm_eval_ensemble.types import Candidate, InfillRequest, normalise


def quick(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


def attempt(call: Callable[[], Any]) -> tuple[Any, str]:
    """What it returns, or the message of our error; any other exception fails the test."""
    try:
        return call(), ""
    except EnsembleError as error:
        return None, str(error)


# Half surrogate pairs, line separators, sentinels, NUL: what real files and models have contained.
ODD = ["\ud800", "\u2028", "\x85", "\x00", "\r\n", "<|fim_middle|>", "<|endoftext|>", "\U0001f409", "e\u0301", " \n", "\t"]
TEXT = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(ODD), max_size=4).map("".join), st.just("x = 1\n" * 60))
JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)
TEXTS = ("prefix", "suffix", "middle")
COLUMNS = ["prefix", "suffix", "middle", "cut", "test", "entry_point", "problem", "task_id", "prompt", "canonical_solution"]
DOCUMENT = st.one_of(
    st.fixed_dictionaries(dict.fromkeys(("prefix", "suffix", "middle"), TEXT), optional={"cut": st.just("line")}),
    st.dictionaries(st.sampled_from(COLUMNS), st.one_of(TEXT, JSON)),
)
LOGPROB = st.one_of(st.floats(-1e6, 0), st.sampled_from([0.0, -math.inf, math.nan]))


class Says(Member):
    """A member that answers every request with the same text."""

    def __init__(self, name: str, text: str, logprobs: tuple[float, ...] | None) -> None:
        self.name, self.text, self.logprobs = name, text, logprobs

    def propose(self, requests: Sequence[InfillRequest], ledger: Ledger | None = None) -> list[Candidate]:
        return [Candidate(self.name, normalise(self.text, r.cut), self.text, logprobs=self.logprobs) for r in requests]


class Scorer:
    """Both kinds of scoring model, with the same log-probability for every token."""

    def __init__(self, tokenizer: Any) -> None:
        self.encoder, self.layout, self.end_id, self.window = PlainEncoder(tokenizer), LAYOUTS["qwen"], 0, 200
        self.value = 0.0

    def token_logprobs(self, spans: Sequence[Span]) -> list[list[float]]:
        return [[self.value] * (len(span.ids) - span.start) for span in spans]

    def onepass_logprobs(self, rows: Sequence[Row]) -> list[list[float]]:
        return [[self.value] * len(middle) for _, middle, _ in rows]


@pytest.fixture(scope="module")
def scorer(tokenizer: Any) -> Scorer:
    return Scorer(tokenizer)


def run(doc: Any, answers: Sequence[str], logprob: float, verdicts: Sequence[str], scorer: Scorer) -> dict[str, Any]:
    """A document from the task's prompt to its rows. Nothing is executed: the verdicts are given."""
    check_document(doc, "fuzz")
    context = LAYOUTS["qwen"].render(doc["prefix"], doc["suffix"])
    requests = to_requests([Instance("generate_until", doc, (context, {"until": ["x"]}), 0, metadata=("fuzz", 0, 1))])
    scorer.value = logprob
    members = [Says(name, text, (logprob,)) for name, text in zip(("a", "b"), answers, strict=True)]
    (completion,) = ensemble.run(requests, members, Scorers(scorer, scorer), ensemble.Settings(prefer="b"))
    assert completion.trace is not None
    judged, _ = judge_all([({**doc, "test": ""}, c) for c in completion.trace.candidates], JudgeSettings(), "fuzz")
    scored = tuple(replace(c, verdict=verdict) for c, verdict in zip(judged, verdicts, strict=True))
    return document_rows(doc, [replace(completion.trace, candidates=scored)], [1, 10])


@quick(120)
@given(
    doc=DOCUMENT,
    answers=st.tuples(TEXT, TEXT).filter(lambda pair: "\ud800" not in "".join(pair)),  # decoders never give one
    logprob=LOGPROB,
    verdicts=st.tuples(*[st.sampled_from(["pass", "fail", "timeout"])] * 2),
)
@example({"prefix": "", "suffix": "", "middle": ""}, ("", ""), math.nan, ("pass", "fail"))
@example({"prefix": "a", "suffix": None, "middle": "c"}, ("", ""), -1.0, ("pass", "fail"))
def test_any_document_gives_rows_or_an_error_of_ours(
    scorer: Scorer, doc: Any, answers: tuple[str, str], logprob: float, verdicts: tuple[str, str]
) -> None:
    rows, fault = attempt(lambda: run(doc, answers, logprob, verdicts, scorer))
    if rows is None:
        assert "document" in fault.lower()
        assert any(not isinstance(doc.get(c), str) or "\ud800" in doc[c] for c in (*TEXTS, "test", "entry_point"))
        return
    record = json.loads(json.dumps(rows, allow_nan=False))["selection"]
    assert record["candidates"][record["winner_index"]]["member"] == record["winner"]
    assert rows["exact_match_floor"] <= rows["exact_match"] <= rows["exact_match_oracle"]
    blank = [not normalise(text, doc.get("cut", "none")).strip() for text in answers]
    if blank == [False, True] and math.isfinite(logprob):
        assert record["winner"] == "a"


def test_huge_fields_are_trimmed_around_the_gap(scorer: Scorer) -> None:
    doc = {"prefix": "a = 1\n" * 20_000, "suffix": "b = 2\n" * 20_000, "middle": "c\n", "cut": "line"}
    rows = run(doc, ("c\n" * 20_000, ""), -1.0, ("pass", "fail"), scorer)
    assert rows["selection"]["candidates"][0]["text"] == "c\n"
    assert rows["exact_match_first_line_a"] == 1.0


def test_a_missing_column_names_task_document_and_column() -> None:
    with pytest.raises(DataError, match=r"Task 't', document 'HumanEval/1': column 'middle' is missing\. Columns: prefix"):
        check_document({"task_id": "HumanEval/1", "prefix": "", "suffix": ""}, "t")
    with pytest.raises(DataError, match="column 'entry_point' is missing"):
        check_document({"prefix": "", "suffix": "", "middle": "", "test": "def check(c): ..."}, "t")
    with pytest.raises(DataError, match="column 'suffix' is NoneType, expected text; column 'middle' is not valid Unicode"):
        check_document({"prefix": "", "suffix": None, "middle": "\ud800"}, "t")


FLAT = ["preset", "pretrained", "dllm", "fim", "length", "steps", "temperature", "top_p", "max_new_tokens", "greedy", "score"]
FLAT += ["selector", "prefer", "samples", "seed", "batch_size", "dtype", "max_length", "members", "device"]
PLAUSIBLE = st.sampled_from(["tiny", "paper", "dllm", "auto", "oracle", "fixed:0", "fim+onepass", DIFFUSION, SCORED, 0, 1, "1"])
VALUE = st.one_of(JSON, PLAUSIBLE)
ARGUMENTS = st.dictionaries(st.sampled_from([*FLAT, "stepz", ""]), VALUE, max_size=5)
MEMBER = st.one_of(
    VALUE, st.dictionaries(st.sampled_from(["name", "model", "args", "x"]), st.one_of(VALUE, ARGUMENTS), max_size=4)
)


@quick(300)
@given(arguments=ARGUMENTS, members=st.one_of(st.none(), VALUE, st.lists(MEMBER, max_size=3)))
def test_any_arguments_are_settings_or_an_error_of_ours(arguments: dict[str, Any], members: Any) -> None:
    given = arguments if members is None else {**arguments, "members": members}
    found, fault = attempt(lambda: EnsembleConfig.from_arguments(given))
    lines = fault.split("\n") if found is None else []
    assert all(line.startswith("$") for line in lines), lines
    assert len(lines) == len(set(lines))
    if found is not None:
        json.dumps(found.model_dump(mode="json"))


@quick(100)
@given(kind=st.sampled_from([DiffusionConfig, ScoredConfig, HostDecoding]), values=ARGUMENTS)
def test_any_settings_of_one_model_are_settings_or_an_error_of_ours(kind: Any, values: dict[str, Any]) -> None:
    found, fault = attempt(lambda: parse_settings(kind, values))
    assert found is not None or "expected" in fault or "not a setting here" in fault


@quick(100)
@given(options=st.dictionaries(st.sampled_from([*HostDecoding.model_fields, "top_k"]), VALUE))
def test_any_generation_options_decode_or_are_an_error_of_ours(options: dict[str, Any]) -> None:
    doc = {"prefix": "a", "suffix": "b"}
    instance = Instance("generate_until", doc, ("", options), 0, metadata=("t", 0, 1))
    draw, fault = attempt(lambda: resolve(Decoding(), to_requests([instance])[0]))
    if draw is None:
        assert fault.startswith("--gen_kwargs.")
    else:
        assert draw.temperature >= 0
        assert 0 < draw.top_p <= 1
        assert draw.max_new_tokens >= 1


METADATA = st.dictionaries(
    st.sampled_from(
        ["cut", "fim", "repeats", "k", "samples", "data_dir", "judge", "judge_timeout", "judge_workers", "sandbox_command"]
    ),
    st.one_of(VALUE, st.sampled_from(["none", "qwen", "split", "strict", "off", "docker run 'x", 3, [1, 2]])),
    max_size=4,
)


@quick(60)
@given(meta=METADATA)
def test_any_metadata_makes_a_task_or_an_error_of_ours(meta: dict[str, Any]) -> None:
    config = {"task": "t", "dataset_name": "infill_toy", "output_type": "generate_until", "test_split": "test"}
    given = {**config, "doc_to_text": "prompt", "doc_to_target": "middle", "metadata": meta}
    ks, fault = attempt(lambda: InfillTask(given)._ks())
    assert ks is not None or "--metadata" in fault
