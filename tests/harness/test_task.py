"""The tasks with plain strings, as stock models give them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from lm_eval_ensemble.errors import ConfigError, DataError
from lm_eval_ensemble.harness.task import InfillTask

Run = Callable[..., Any]


def row(results: Any, name: str, task: str = "infill_toy") -> Any:
    return results["results"][task].get(f"{name},none")


def test_a_perfect_answer_scores_one(evaluate: Run, scripted: Run) -> None:
    found = evaluate(scripted(lambda doc: doc["middle"]))
    for name in ("pass@1", "exact_match", "exact_match_first_line"):
        assert row(found, name) == (1.0 if name != "exact_match_first_line" else pytest.approx(1.0, abs=0.5))
    assert row(found, "timeout_rate") == row(found, "judge_error_rate") == row(found, "cut_rate") == 0
    assert row(found, "selection") is None


def test_the_empty_answer_scores_nothing_on_the_toy_set(evaluate: Run, scripted: Run) -> None:
    assert row(evaluate(scripted(lambda doc: "")), "pass@1") == 0


def test_lines_are_cut_and_the_cut_is_counted(evaluate: Run, scripted: Run) -> None:
    lines = lambda doc: doc["middle"].rstrip("\n") + ("\nprint(1)\n" if doc["cut"] == "line" else "")  # noqa: E731
    cut = evaluate(scripted(lines), limit=20)
    documents = [s["doc"]["cut"] for s in cut["samples"]["infill_toy"]]
    assert row(cut, "cut_rate") == documents.count("line") / len(documents)
    whole = evaluate(scripted(lines), limit=20, metadata={"cut": "none"})
    assert row(whole, "cut_rate") == 0
    assert row(whole, "pass@1") < row(cut, "pass@1")


def test_samples_are_json_and_carry_the_cluster(evaluate: Run, scripted: Run) -> None:
    found = evaluate(scripted(lambda doc: doc["middle"]), limit=2)
    for sample in found["samples"]["infill_toy"]:
        json.dumps(sample, allow_nan=False)
        assert sample["doc"]["problem"]
        assert sample["target"] == sample["doc"]["middle"]
    assert found["configs"]["infill_toy"]["metadata"]["executed_in"].startswith("sandbox: split judge")


def test_repeats_give_pass_at_k(evaluate: Run, scripted: Run) -> None:
    calls = {"n": 0}

    def every_second(doc: dict[str, Any]) -> str:
        calls["n"] += 1
        return doc["middle"] if calls["n"] % 2 else "nonsense("

    found = evaluate(scripted(every_second), limit=3, metadata={"repeats": 4, "k": [2, 4]})
    assert row(found, "pass@1") == 0.5
    # 4 completions, 2 right: 1 - C(2,2)/C(4,2).
    assert row(found, "pass@2") == pytest.approx(5 / 6)
    assert row(found, "pass@4") == 1.0


def test_predict_only_executes_nothing(evaluate: Run, scripted: Run) -> None:
    found = evaluate(scripted(lambda doc: doc["middle"]), limit=2, predict_only=True)
    assert found["results"]["infill_toy"]["bypass,none"] == 999
    assert "executed_in" not in found["configs"]["infill_toy"]["metadata"]


def test_unsafe_code_needs_the_confirmation(evaluate: Run, scripted: Run) -> None:
    with pytest.raises(ValueError, match="unsafe"):
        evaluate(scripted(lambda doc: ""), limit=1, confirm_run_unsafe_code=False)


def test_an_unknown_family_is_not_guessed_in_silence(evaluate: Run, scripted: Run, caplog: pytest.LogCaptureFixture) -> None:
    import gc

    gc.collect()
    from lm_eval_ensemble.harness.base import live_models

    kept = list(live_models)
    live_models.clear()
    try:
        with caplog.at_level(logging.WARNING, "lm_eval_ensemble"):
            found = evaluate(scripted(lambda doc: ""), limit=1, metadata={"pretrained": "some/model"})
            assert "'some/model'" in caplog.text
            assert '--metadata \'{"fim"' in caplog.text
            assert found["samples"]["infill_toy"][0]["arguments"][0][0].startswith("<|fim_prefix|>")
            caplog.clear()
            found = evaluate(scripted(lambda doc: ""), limit=1, metadata={"pretrained": "bigcode/starcoderbase-1b"})
            assert caplog.text == ""
            assert found["samples"]["infill_toy"][0]["arguments"][0][0].startswith("<fim_prefix>")
        with pytest.raises(ConfigError, match="Did you mean 'starcoder'"):
            evaluate(scripted(lambda doc: ""), limit=1, metadata={"fim": "starcodr"})
    finally:
        live_models.update(kept)


def test_prompts_are_never_served_from_the_request_cache(
    evaluate: Run, scripted: Run, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "lm_eval_ensemble"):
        evaluate(scripted(lambda doc: ""), limit=1, cache_requests=True)
    assert "--cache_requests is ignored" in caplog.text


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"cut": "lines"}, "cut='lines'"),
        ({"repeats": 0}, "repeats=0"),
        ({"k": ["a"]}, "k="),
        ({"sandbox": "on", "judge_timeout": 0}, "sandbox='on'.*judge_timeout=0"),
        ({"judge": "mine"}, "'split' or 'reference'"),
    ],
)
def test_bad_metadata_is_one_clear_error(evaluate: Run, scripted: Run, metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(scripted(lambda doc: ""), limit=1, metadata=metadata)


def test_missing_data_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LM_EVAL_ENSEMBLE_DATA", raising=False)
    config = {"task": "t", "dataset_name": "single-line", "output_type": "generate_until", "test_split": "test"}
    with pytest.raises(DataError, match="infill_toy"):
        InfillTask(config)


@pytest.mark.data
@pytest.mark.parametrize("task", ["humaneval_infill", "santacoder_fim"])
def test_canonical_middles_pass_everywhere(evaluate: Run, scripted: Run, task: str) -> None:
    found = evaluate(scripted(lambda doc: doc["middle"]), tasks=[task])
    count = found["n-samples"][task]["effective"]
    assert count == {"humaneval_infill": 1033, "santacoder_fim": 1043}[task]
    for name in ("pass@1", "exact_match", "exact_match_first_line"):
        assert row(found, name, task) == 1.0


@pytest.mark.data
def test_the_empty_answer_passes_27_single_lines(evaluate: Run, scripted: Run) -> None:
    found = evaluate(scripted(lambda doc: ""), tasks=["humaneval_infill"])
    assert sum(sample["pass@1"] for sample in found["samples"]["humaneval_infill"]) == 27
