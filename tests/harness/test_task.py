"""The tasks with plain strings, as stock models give them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from lm_eval_ensemble.data import load_documents
from lm_eval_ensemble.errors import ConfigError, DataError, SandboxError
from lm_eval_ensemble.harness import ranks, task
from lm_eval_ensemble.harness.ensemble_lm import EnsemblePPL
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


def test_documents_whose_reference_fails_do_not_count(evaluate: Run, scripted: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three documents one has a broken test, one a test that needs the program beside it."""

    def spoilt(*arguments: Any) -> list[dict[str, Any]]:
        broken, needy, *rest = load_documents(*arguments)
        entry = needy["entry_point"]
        needy = {**needy, "test": needy["test"] + f"\n\nassert {entry}.__code__.co_filename == '<program>'\n"}
        return [{**broken, "test": "def check(c):\n    assert False\n"}, needy, *rest]

    monkeypatch.setattr(task, "load_documents", spoilt)
    found = evaluate(scripted(lambda doc: doc["middle"]), limit=3, metadata={"judge": "auto"})
    assert (row(found, "pass@1"), row(found, "judge")) == (1.0, "split+together+unjudgeable")
    assert row(found, "unjudgeable_rate") == pytest.approx(1 / 3)
    assert "can forge" in found["configs"]["infill_toy"]["metadata"]["executed_in"]
    found = evaluate(scripted(lambda doc: "nonsense("), limit=3, metadata={"judge": "auto"})
    assert (row(found, "pass@1"), row(found, "unjudgeable_rate")) == (0.0, pytest.approx(1 / 3))
    found = evaluate(scripted(lambda doc: doc["middle"]), limit=3)
    assert (row(found, "pass@1"), row(found, "judge_error_rate")) == (pytest.approx(1 / 3), pytest.approx(2 / 3))


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


def test_repeats_that_repeat_themselves_are_told(evaluate: Run, scripted: Run, caplog: pytest.LogCaptureFixture) -> None:
    evaluate(scripted(lambda doc: doc["middle"]), limit=2, metadata={"repeats": 3})
    assert "the 3 repeats of every document are the same text" in caplog.text
    caplog.clear()
    answers = iter(range(100))
    evaluate(scripted(lambda doc: f"    return {next(answers)}\n"), limit=2, metadata={"repeats": 3})
    assert "are the same text" not in caplog.text


def test_predict_only_executes_nothing(evaluate: Run, scripted: Run) -> None:
    found = evaluate(scripted(lambda doc: doc["middle"]), limit=2, predict_only=True)
    assert found["results"]["infill_toy"]["bypass,none"] == 999
    assert "executed_in" not in found["configs"]["infill_toy"]["metadata"]


def test_unsafe_code_needs_the_confirmation(evaluate: Run, scripted: Run) -> None:
    with pytest.raises(ValueError, match="unsafe"):
        evaluate(scripted(lambda doc: ""), limit=1, confirm_run_unsafe_code=False)


def test_an_unknown_family_is_not_guessed_in_silence(
    evaluate: Run, scripted: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks.HOST_RUN, "_lm", None)
    with caplog.at_level(logging.WARNING, "lm_eval_ensemble"):
        found = evaluate(scripted(lambda doc: ""), limit=1, metadata={"pretrained": "some/model"})
        assert "'some/model'" in caplog.text
        assert '--metadata \'{"layout"' in caplog.text
        assert found["samples"]["infill_toy"][0]["arguments"][0][0].startswith("<|fim_prefix|>")
        caplog.clear()
        found = evaluate(scripted(lambda doc: ""), limit=1, metadata={"pretrained": "bigcode/starcoderbase-1b"})
        assert caplog.text == ""
        assert found["samples"]["infill_toy"][0]["arguments"][0][0].startswith("<fim_prefix>")
    with pytest.raises(ConfigError, match="Did you mean 'starcoder'"):
        evaluate(scripted(lambda doc: ""), limit=1, metadata={"layout": "starcodr"})


def test_a_model_may_be_named_like_a_layout(
    evaluate: Run, scripted: Run, assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # lm_eval puts the model's arguments among the metadata.
    monkeypatch.chdir(tmp_path)
    Path("qwen").symlink_to(assets / "fim")
    lm = EnsemblePPL(preset="tiny", fim="qwen", store="off", steps=2, max_new_tokens=4)
    found = evaluate(lm, limit=1, metadata={"preset": "tiny", "fim": "qwen"})
    assert found["configs"]["infill_toy"]["metadata"]["fim"] == "qwen"
    monkeypatch.setattr(ranks.HOST_RUN, "_lm", None)
    with pytest.raises(ConfigError, match="a prompt layout is layout="):
        evaluate(scripted(lambda doc: ""), limit=1, metadata={"fim": "qwen"})


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
        ({"judge": "mine"}, "'auto' or 'reference'"),
    ],
)
def test_bad_metadata_is_one_clear_error(evaluate: Run, scripted: Run, metadata: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(scripted(lambda doc: ""), limit=1, metadata=metadata)


def test_a_judge_that_cannot_run_is_known_before_generation(evaluate: Run, scripted: Run) -> None:
    def never(doc: dict[str, Any]) -> str:
        raise AssertionError("generated")

    for metadata in ({"sandbox_command": "no-such-program"}, {"judge": "reference"}):
        with pytest.raises(SandboxError):
            evaluate(scripted(never), limit=1, metadata=metadata)


def test_missing_data_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LM_EVAL_ENSEMBLE_DATA", raising=False)
    config = {"task": "t", "dataset_name": "single-line", "output_type": "generate_until", "test_split": "test"}
    with pytest.raises(DataError, match="infill_toy"):
        InfillTask(config)


DOCUMENTS = {
    "humaneval_infill": 1033,
    "humaneval_infill_multi_line": 5815,
    "humaneval_infill_random_span": 1640,
    "humaneval_infill_random_span_light": 164,
    "santacoder_fim": 1043,
    "santacoder_fim_java": 1780,
    "santacoder_fim_js": 1969,
}
EXACT_ONLY = ("santacoder_fim_java", "santacoder_fim_js")


@pytest.mark.data
@pytest.mark.parametrize("task", DOCUMENTS)
def test_canonical_middles_pass_everywhere(evaluate: Run, scripted: Run, task: str) -> None:
    # Every fifth of the largest set: all of it takes a minute and gives the same.
    step = 5 if task == "humaneval_infill_multi_line" else 1
    chosen = list(range(0, DOCUMENTS[task], step))
    found = evaluate(scripted(lambda doc: doc["middle"]), tasks=[task], samples={task: chosen})
    assert found["n-samples"][task] == {"original": DOCUMENTS[task], "effective": len(chosen)}
    assert row(found, "exact_match", task) == 1.0
    assert row(found, "cut_rate", task) == 0.0
    assert row(found, "pass@1", task) == (None if task in EXACT_ONLY else 1.0)
    if found["samples"][task][0]["doc"]["cut"] == "line":
        assert row(found, "exact_match_first_line", task) == 1.0


@pytest.mark.data
def test_the_empty_answer_passes_27_single_lines(evaluate: Run, scripted: Run) -> None:
    # Without its line many a loop never ends; half a second is ample for the programs that pass.
    found = evaluate(scripted(lambda doc: ""), tasks=["humaneval_infill"], metadata={"judge_timeout": 0.5})
    assert sum(sample["pass@1"] for sample in found["samples"]["humaneval_infill"]) == 27


@pytest.mark.data
def test_the_empty_answer_passes_no_random_span_light(evaluate: Run, scripted: Run) -> None:
    found = evaluate(scripted(lambda doc: ""), tasks=["humaneval_infill_random_span_light"], metadata={"judge_timeout": 0.5})
    assert row(found, "pass@1", "humaneval_infill_random_span_light") == 0


def test_the_index_lists_tasks_and_groups_only() -> None:
    manager = TaskManager(include_defaults=False)
    assert set(manager.all_tasks) == {
        *(*DOCUMENTS, "infill_toy", "infill_file", *GROUPS),
        *(*QUESTIONS, "squad_uncertainty_all", "qa_file"),
    }
    assert set(manager.all_groups) == set(GROUPS)


QUESTIONS = [
    f"{name}_uncertainty{variant}" for name in ("triviaqa", "squad", "nq_open", "svamp", "bioasq") for variant in ("", "_brief")
]
GROUPS = {
    "humaneval_infill_all": ("pass@1", "exact_match"),
    "santacoder_fim_all": ("exact_match", "exact_match_first_line"),
}


@pytest.mark.data
@pytest.mark.parametrize("group", GROUPS)
def test_groups_average_over_documents(evaluate: Run, scripted: Run, group: str) -> None:
    found = evaluate(scripted(lambda doc: doc["middle"] if len(doc["middle"]) % 2 else "?"), tasks=[group], limit=3)
    tasks = found["group_subtasks"][group]
    assert set(tasks) == {t for t in DOCUMENTS if t.startswith(group.removesuffix("_all"))}
    for name in GROUPS[group]:
        values = [sample[name] for task in tasks for sample in found["samples"][task]]
        assert found["groups"][group][f"{name},none"] == pytest.approx(sum(values) / len(values))
    assert {found["versions"][task] for task in tasks} == {1.0}, found["versions"]


@pytest.mark.data
def test_groups_work_for_the_ensemble(evaluate: Run) -> None:
    found = evaluate("ensemble-ppl", model_args={"preset": "tiny"}, tasks=["humaneval_infill_all"], limit=1)
    assert set(found["groups"]["humaneval_infill_all"]) >= {"pass@1,none", "exact_match,none"}


def test_tasks_without_tests_do_not_ask_for_the_confirmation() -> None:
    manager = TaskManager(include_defaults=False)
    unsafe = {n for n in DOCUMENTS if load_yaml(manager.task_index[n].yaml_path, resolve_func=False).get("unsafe_code")}
    assert unsafe == set(DOCUMENTS) - set(EXACT_ONLY)


def test_answers_that_do_not_end_are_told(evaluate: Callable[..., Any], assets: Path, caplog: pytest.LogCaptureFixture) -> None:
    arguments = {"pretrained": str(assets / "fim"), "max_new_tokens": 2, "device": "cpu"}
    found = evaluate("hf-scored", model_args=arguments, limit=4, metadata={"cut": "none"})
    rates = [sample["truncated_rate"] for sample in found["samples"]["infill_toy"]]
    stops = [sample["selection"]["candidates"][0]["stop"] for sample in found["samples"]["infill_toy"]]
    assert rates == [float(stop == "length") for stop in stops]
    assert sum(rates) >= 1
    told = f"infill_toy, hf-scored: {sum(rates):.0f} of 4 answers ended at the limit of tokens"
    assert told in caplog.text
    caplog.clear()
    evaluate("hf-scored", model_args={**arguments, "max_new_tokens": 64}, limit=4)
    assert "ended at the limit" not in caplog.text
