"""The question tasks inside lm_eval: what is asked, what is recorded, what the table says, and to whom it says less."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationMixin

from lm_eval_ensemble.errors import ConfigError, DataError, HostError
from lm_eval_ensemble.harness import base
from lm_eval_ensemble.harness.scored_lm import ScoredHF
from lm_eval_ensemble.metrics.uncertainty import auroc
from lm_eval_ensemble.types import Candidate, Completion, Scored, Selection

NUMBER, NUMBERS = (float, type(None)), (list, type(None))
RECORD: dict[str, Any] = {
    **dict.fromkeys(("question", "answer", "raw", "stop_kind", "source"), str),
    **dict.fromkeys(("tokens", "token_ids", "logprobs", "references", "samples"), list),
    **dict.fromkeys(("truncated", "straddle", "answerable"), bool),
    **dict.fromkeys(("stop_logprob", "p_true"), NUMBER),
    **dict.fromkeys(("entropy", "margin"), NUMBERS),
    **dict.fromkeys(("f1", "rougeL"), float),
    "em": int,
    "entropy_kind": (str, type(None)),
}
ALWAYS = {"accuracy", "f1", "em", "rougeL", "empty_rate", "uncertainty"}


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Forty questions of our own; a third has no answer, all are answered from a text."""
    rows = [
        {
            "id": f"n{i}",
            "question": f"What is {i} plus {i}?",
            "context": f"The double of {i} is {2 * i}.",
            "answers": {"text": [] if i % 3 == 0 else [str(2 * i)]},
        }
        for i in range(40)
    ]
    path = tmp_path / "sums.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def rows(result: Any, task: str) -> dict[str, Any]:
    return {
        k.removesuffix(",none"): v for k, v in result["results"][task].items() if k.endswith(",none") and "_stderr" not in k
    }


def told(answer: str, logprob: float) -> Completion:
    own = Candidate("m", answer, answer, logprobs=(logprob,), tokens=(answer,), info={"stop": "stop_string", "token_ids": (1,)})
    return Completion(answer, Selection((Scored(own, {}),), 0, "single", "none"))


def test_plain_text_gets_accuracy_and_is_told_the_rest(
    evaluate: Callable[..., Any], scripted: Any, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = scripted(lambda doc: f" {doc['target']}\n".rstrip() if "1" in doc["question"] else "")
    with caplog.at_level(logging.WARNING):
        result = evaluate(model, ["squad_uncertainty"], {"file": file})
    found, samples = rows(result, "squad_uncertainty"), result["samples"]["squad_uncertainty"]
    assert set(found) == ALWAYS
    right = sum("1" in s["doc"]["question"] for s in samples)
    assert found["accuracy"] == found["f1"] == found["em"] == found["rougeL"] == pytest.approx(right / len(samples))
    assert found["empty_rate"] == pytest.approx(1 - right / len(samples))
    assert found["uncertainty"] == 0
    assert all(s["uncertainty"]["logprobs"] is None for s in samples)
    assert [r.message for r in caplog.records if "--model hf-scored" in r.getMessage()] != []
    assert caplog.text.count("--model hf-scored") == 1


def test_the_record_is_complete_json(evaluate: Callable[..., Any], assets: Path, file: str) -> None:
    model = ScoredHF(pretrained=str(assets / "fim"), batch_size=8, n_samples=2, record="entropy", p_true=True, max_new_tokens=8)
    result = evaluate(model, ["squad_uncertainty_all"], {"file": file}, limit=4)
    for sample in result["samples"]["squad_uncertainty_all"]:
        record = json.loads(json.dumps(sample["uncertainty"], allow_nan=False))
        for key, kind in RECORD.items():
            assert isinstance(record[key], kind), key
        assert "".join(record["tokens"]) == record["raw"]
        assert record["answer"] == record["raw"].strip()
        sizes = {len(record[key]) for key in ("tokens", "token_ids", "logprobs", "entropy", "margin")}
        assert len(sizes) == 1
        assert all(p == round(p, 7) <= 0 for p in record["logprobs"])
        assert record["stop_kind"] in ("eos", "until", "length")
        assert record["truncated"] == (record["stop_kind"] == "length") == (record["stop_logprob"] is None)
        assert (record["source"], record["entropy_kind"], len(record["samples"])) == ("generation", "full", 2)
        for drawn in record["samples"]:
            assert len(drawn["logprobs"]) == len(drawn["tokens"]) == len(drawn["token_ids"])
            assert isinstance(drawn["f1"], float)


def test_an_answer_cache_of_other_settings_is_refused(
    evaluate: Callable[..., Any], assets: Path, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keys hold the prompt alone: it would serve records without entropy and samples, or text without log-probabilities."""

    def run(model: Any, cache: str = "own", **settings: Any) -> Any:
        arguments = {"pretrained": str(assets / "fim"), "max_length": 512, **settings}
        options = {
            "limit": 2,
            "num_fewshot": 0,
            "device": "cpu",
            "gen_kwargs": {"max_gen_toks": 4},
            "use_cache": str(tmp_path / cache),
        }
        found = evaluate(model, ["squad_uncertainty"], {"file": file}, model_args=arguments, **options)
        return [sample["uncertainty"] for sample in found["samples"]["squad_uncertainty"]]

    first = run("hf-scored", batch_size=1)
    with monkeypatch.context() as patched:
        patched.setattr(ScoredHF, "generate_until", None)  # the second run must not ask
        assert run("hf-scored", batch_size=2) == first
    for settings in ({"record": "entropy"}, {"n_samples": 1}, {"p_true": True}):
        with pytest.raises(HostError, match=r"own_rank0\.db were given by another model or under other settings"):
            run("hf-scored", **settings)
    run("hf", "stock")
    for model, settings in (("hf-scored", {}), ("rescored", {"inner": "hf"})):
        with pytest.raises(HostError, match="Name another file"):
            run(model, "stock", **settings)
    once = run("rescored", "second", inner="hf")
    assert run("rescored", "second", inner="hf") == once


@pytest.mark.parametrize(
    ("model", "settings", "stop_after", "kept"),
    [
        ("hf-scored", {}, 3, 3),
        ("hf-scored", {"n_samples": 2}, 7, 1),  # five answers, then two samples to each
        ("hf-scored", {"p_true": True}, 3, 2),  # parts of two: answered, then judged
        ("hf-scored", {"n_samples": 2, "p_true": True}, 3, 0),
        ("rescored", {"inner": "hf"}, 3, 2),
    ],
)
def test_answers_of_a_run_that_ended_are_kept(
    evaluate: Callable[..., Any],
    assets: Path,
    file: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    settings: dict[str, Any],
    stop_after: int,
    kept: int,
) -> None:
    """``stop_after``: so many batches of one row are generated before the run ends."""
    monkeypatch.setattr(base, "_PART", 2)
    generate, count = GenerationMixin.generate, 0

    def stopping(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if stop_after and count > stop_after:
            raise KeyboardInterrupt
        return generate(self, *args, **options)

    monkeypatch.setattr(GenerationMixin, "generate", stopping)
    arguments = {"pretrained": str(assets / "fim"), "max_length": 512, **settings}
    options: dict[str, Any] = {"limit": 5, "num_fewshot": 0, "device": "cpu", "gen_kwargs": {"max_gen_toks": 4}}
    cached = {**options, "batch_size": 1, "model_args": arguments, "use_cache": str(tmp_path / "cache")}
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, ["squad_uncertainty"], {"file": file}, **cached)
    with contextlib.closing(sqlite3.connect(tmp_path / "cache_rank0.db")) as database:
        assert database.execute("select count(*) from unnamed").fetchone() == (kept + 1,)  # and whose they are
    stop_after = 0
    found = evaluate(model, ["squad_uncertainty"], {"file": file}, **cached)
    assert len(found["samples"]["squad_uncertainty"]) == 5


def test_the_table_has_the_area_and_its_interval(evaluate: Callable[..., Any], scripted: Any, file: str) -> None:
    """Wrong answers are the uncertain ones but for some: the rows are auroc()'s own numbers."""

    def answer(doc: dict[str, Any]) -> Completion:
        number = int(doc["task_id"][1:])
        return told(doc["target"] if number % 2 else "wrong", -0.1 * number if number % 2 else -2.0)

    result = evaluate(scripted(answer), ["squad_uncertainty"], {"file": file})
    found, samples = rows(result, "squad_uncertainty"), result["samples"]["squad_uncertainty"]
    wrong = [s["uncertainty"]["f1"] < 0.5 for s in samples]
    expected = auroc([-s["uncertainty"]["logprobs"][0] for s in samples], wrong)
    assert expected.value is not None
    assert 0.5 < expected.value < 1
    assert (found["auroc_g_nll"], found["auroc_g_nll_low"], found["auroc_g_nll_high"]) == (
        expected.value,
        expected.low,
        expected.high,
    )
    assert found["auroc_max_token_nll"] == found["auroc_ln_nll"] == expected.value
    assert found["auroc_length_tokens"] == 0.5
    assert found["uncertainty"] == len(samples)
    assert {"truncated_rate", "straddle_rate", "trimmed_rate"} <= set(found)
    assert result["higher_is_better"]["squad_uncertainty"]["auroc_g_nll"] is True
    assert result["higher_is_better"]["squad_uncertainty"]["truncated_rate"] is False


@pytest.mark.parametrize(
    ("source", "expected"),
    [("generation", {"truncated", "straddle", "trimmed"}), ("server", {"truncated", "straddle"}), ("loglikelihood", set())],
)
def test_rates_that_a_model_does_not_tell_have_no_row(
    evaluate: Callable[..., Any], scripted: Any, file: str, source: str, expected: set[str]
) -> None:
    own = Candidate("m", "4", "4", logprobs=(-1.0,), tokens=("4",), info={"source": source, "token_ids": (1,)})
    answer = Completion("4", Selection((Scored(own, {}),), 0, "single", "none"))
    found = rows(evaluate(scripted(lambda doc: answer), ["squad_uncertainty"], {"file": file}), "squad_uncertainty")
    assert {name.removesuffix("_rate") for name in found if name.endswith("_rate")} == {"empty", *expected}


def test_one_class_only_gives_none_and_the_reason(
    evaluate: Callable[..., Any], scripted: Any, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        result = evaluate(scripted(lambda doc: told("wrong", -1.0)), ["squad_uncertainty"], {"file": file})
    found = rows(result, "squad_uncertainty")
    assert (found["accuracy"], found["auroc_g_nll"], found["auroc_g_nll_low"]) == (0.0, None, None)
    assert caplog.text.count("auroc_g_nll: all answers are wrong") == 1


def test_f7_an_interval_under_one_half_is_told(
    evaluate: Callable[..., Any], scripted: Any, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(doc: dict[str, Any]) -> Completion:
        right = int(doc["task_id"][1:]) % 2
        return told(doc["target"] if right else "wrong", -9.0 - right * int(doc["task_id"][1:]) if right else -1.0)

    with caplog.at_level(logging.WARNING):
        found = rows(evaluate(scripted(answer), ["squad_uncertainty"], {"file": file}), "squad_uncertainty")
    assert found["auroc_g_nll_high"] < 0.5
    assert "lies under 0.5" in caplog.text


def test_saying_that_there_is_no_answer_is_right(evaluate: Callable[..., Any], scripted: Any, file: str) -> None:
    answers = {"n0": "Unanswerable.", "n3": "", "n6": "12", "n9": "no answer"}

    def answer(doc: dict[str, Any]) -> Completion:
        return told(answers.get(doc["task_id"], "x"), -3.0 if doc["answerable"] else -1.0)

    result = evaluate(scripted(answer), ["squad_uncertainty_all"], {"file": file})
    found = {s["doc"]["task_id"]: s["uncertainty"]["f1"] for s in result["samples"]["squad_uncertainty_all"]}
    asked = [name for name in answers if name in found]
    assert len(asked) > 2
    assert all(found[name] == (name != "n6") for name in asked)
    # The certain answers are those to questions without one: the second area turns round.
    assert rows(result, "squad_uncertainty_all")["auroc_unanswerable_g_nll"] == 0.0


def test_which_questions_are_asked(evaluate: Callable[..., Any], scripted: Any, file: str) -> None:
    def asked(metadata: dict[str, Any] | None = None, **options: Any) -> list[str]:
        result = evaluate(scripted(lambda doc: "x"), ["squad_uncertainty"], {"file": file, **(metadata or {})}, **options)
        samples = result["samples"]["squad_uncertainty"]
        shots = samples[0]["arguments"][0][0]
        assert not any(s["doc"]["question"] in shots for s in samples[1:])
        return [s["doc"]["task_id"] for s in samples]

    everything = asked()
    assert len(everything) == 26 - 5  # the answerable ones less the examples
    assert asked({"n_docs": 7}) == everything[:7]
    assert asked(limit=3) == everything[:3]
    assert asked(samples={"squad_uncertainty": [2, 5]}) == [everything[2], everything[5]]
    assert asked({"full": True}) == everything


@pytest.mark.parametrize(
    ("metadata", "options", "error", "message"),
    [
        ({"n_docs": 0}, {}, ConfigError, "n_docs=0: expected a whole number"),
        ({"n_docs": 22}, {}, ConfigError, "n_docs=22: expected 1 to 21"),
        ({"n_docs": 3, "full": True}, {}, ConfigError, "not both"),
        ({}, {"num_fewshot": 6}, HostError, "5 questions are kept back as examples"),
        ({}, {"limit": 0}, HostError, "which leaves no document"),
        ({}, {"samples": {"squad_uncertainty": [3, 1]}}, HostError, "ascending"),
    ],
)
def test_faults_are_named(
    evaluate: Callable[..., Any], scripted: Any, file: str, metadata: Any, options: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        evaluate(scripted(lambda doc: "x"), ["squad_uncertainty"], {"file": file, **metadata}, **options)


def prompts(evaluate: Callable[..., Any], scripted: Any, task: str, **metadata: Any) -> tuple[str, dict[str, Any]]:
    seen: dict[int, tuple[str, dict[str, Any]]] = {}

    class Reader(type(scripted(str))):  # type: ignore[misc]
        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            seen.update(enumerate(r.args for r in requests))
            return [""] * len(requests)

    evaluate(Reader(str), [task], metadata, limit=1)
    return seen[0]


def test_the_published_prompt(evaluate: Callable[..., Any], scripted: Any, file: str) -> None:
    text, options = prompts(evaluate, scripted, "squad_uncertainty", file=file)
    head, *shots, last = text.split("\n\n")
    assert head.startswith("Answer the following question as briefly as possible.\nContext: The double of ")
    assert len(shots) == 4
    assert all("\nAnswer: " in shot for shot in (head, *shots))
    assert last.startswith("Context: The double of ")
    assert last.endswith("?\nAnswer:")
    assert options["until"] == ["\n", "Question:", "Context:"]
    assert (options["max_gen_toks"], options["do_sample"]) == (50, False)


def test_the_documents_prompt(evaluate: Callable[..., Any], scripted: Any, file: str) -> None:
    brief = "Answer the following question with a brief, concise answer. "
    brief += "Use only a few words or a short phrase, not a full sentence.\n"
    text, options = prompts(evaluate, scripted, "triviaqa_uncertainty_brief", file=file)
    parts = text.split("\n\n")
    assert len(parts) == 6
    assert all(part.startswith(f"{brief}Context: The double of ") for part in parts)
    assert text.endswith("?\nAnswer:")
    assert options["until"] == ["\n\n\n\n", "\n\n\n", "\n\n", "Question:", "Context:", "Answer:"]
    assert options["max_gen_toks"] == 150
    without, _ = prompts(evaluate, scripted, "triviaqa_uncertainty_brief", file=file, context=False)
    assert "Context: " not in without


@pytest.mark.data
def test_real_questions_end_to_end(evaluate: Callable[..., Any], assets: Path) -> None:
    model = ScoredHF(preset="tiny", batch_size=8, max_new_tokens=8)
    tasks = ["triviaqa_uncertainty", "squad_uncertainty", "nq_open_uncertainty", "svamp_uncertainty"]
    result = evaluate(model, tasks, limit=3)
    for task in tasks:
        assert rows(result, task)["uncertainty"] == 3
    assert rows(result, "squad_uncertainty")["trimmed_rate"] == 1.0


@pytest.mark.data
def test_contexts_that_are_not_there_are_asked_for(evaluate: Callable[..., Any], scripted: Any) -> None:
    with pytest.raises(DataError, match="TriviaQA-in-SQuAD-format"):
        evaluate(scripted(lambda doc: "x"), ["triviaqa_uncertainty_brief"])
    text, _ = prompts(evaluate, scripted, "triviaqa_uncertainty_brief", context=False)
    assert "Context: " not in text


def test_questions_of_the_users_own(
    evaluate: Callable[..., Any], scripted: Any, file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All are asked but five examples, which are named; without examples all of them."""
    model = scripted(lambda doc: doc["references"][0] if doc["references"] else "unanswerable")
    with caplog.at_level(logging.INFO, "lm_eval_ensemble"):
        found = evaluate(model, ["qa_file"], {"file": file})
    asked = {sample["doc"]["task_id"] for sample in found["samples"]["qa_file_sums"]}
    kept = [line for line in caplog.text.splitlines() if line.startswith("  n")]
    assert (len(asked), len(kept)) == (26 - 5, 5)  # 26 of the 40 have an answer
    assert not asked & {line.split(":")[0].strip() for line in kept}
    assert "--num_fewshot 0 asks them all" in caplog.text
    prompt = found["samples"]["qa_file_sums"][0]["arguments"][0][0]
    assert (prompt.count("Question:"), prompt.count("Context:")) == (6, 6)
    found = evaluate(model, ["qa_file"], {"file": file, "unanswerable": True}, num_fewshot=0)
    assert found["n-samples"]["qa_file_sums"]["effective"] == 40
    assert rows(found, "qa_file_sums")["accuracy"] == 1.0
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps({"question": f"q{i}?", "answers": ["x"]}) + "\n" for i in range(3)))
    with pytest.raises(HostError, match="2 questions are kept back as examples of 3; --num_fewshot 0 asks them all"):
        evaluate(model, ["qa_file"], {"file": str(few)})
    assert evaluate(model, ["qa_file"], {"file": str(few)}, num_fewshot=0)["n-samples"]["qa_file_few"]["effective"] == 3
    with pytest.raises(ConfigError, match="name their file"):
        evaluate(model, ["qa_file"])
