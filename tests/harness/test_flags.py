"""Every flag of lm_eval with our models and tasks: the right behaviour, or one clear error.

``cli`` runs lm_eval's own command in this process, on an index of our tasks only. Elsewhere tested: --use_cache and
--apply_chat_template with the ensemble (test_ensemble_lm), --cache_requests and --predict_only with plain strings (test_task).
"""

from __future__ import annotations

import functools
import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from lm_eval_ensemble.batching import Batcher
from lm_eval_ensemble.cli import main
from lm_eval_ensemble.errors import ConfigError, HostError
from lm_eval_ensemble.harness import base
from lm_eval_ensemble.harness.complete import complete
from lm_eval_ensemble.harness.ensemble_lm import EnsemblePPL

Run = Callable[..., Any]
TINY = {"preset": "tiny", "pretrained": "tiny"}
TASK = ["--tasks", "infill_toy", "--confirm_run_unsafe_code"]
ENSEMBLE = ["--model", "ensemble-ppl", "--model_args", "preset=tiny,pretrained=tiny", *TASK]


@pytest.fixture(scope="module")
def ensemble_lm() -> EnsemblePPL:
    return EnsemblePPL(**TINY, batch_size=8)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Runs ``lm_eval ARGUMENTS``; gives the results file and the samples."""
    import lm_eval.tasks
    from lm_eval.__main__ import cli_evaluate

    # Its own handler would stay for all tests that follow, and caplog would see nothing.
    monkeypatch.setattr("lm_eval.__main__.setup_logging", lambda: None)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", functools.partial(TaskManager, include_defaults=False))

    def run(*arguments: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        command = ["lm_eval", *arguments, "--output_path", str(tmp_path), "--log_samples"]
        monkeypatch.setattr(sys, "argv", command)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lm_eval's own
            cli_evaluate()
        results = max(tmp_path.rglob("results_*.json"), key=lambda path: path.stat().st_mtime)
        samples = max(tmp_path.rglob("samples_*.jsonl"), key=lambda path: path.stat().st_mtime)
        return json.loads(results.read_text()), [json.loads(line) for line in samples.read_text().splitlines()]

    return run


def texts(found: Any) -> list[str]:
    samples = found["samples"]["infill_toy"] if isinstance(found, dict) else found
    return [c["text"] for sample in samples for c in sample["selection"]["candidates"]]


@pytest.mark.parametrize("limit", [0, -1])
def test_limit_0_is_one_clear_error(evaluate: Run, scripted: Run, limit: int) -> None:
    with pytest.raises(HostError, match=rf"--limit for infill_toy: got {limit * 45}, which leaves no document; expected 1"):
        evaluate(scripted(lambda doc: ""), limit=limit)


def test_more_processes_than_documents_is_one_clear_error(evaluate: Run, scripted: Run) -> None:
    task = TaskManager(include_defaults=False).load(["infill_toy"])["tasks"]["infill_toy"]
    with pytest.raises(HostError, match="2 documents for 4 processes"):
        task.build_all_requests(limit=2, world_size=4)
    with pytest.raises(HostError, match="1 documents for 4 processes"):
        task.build_all_requests(samples=[7], world_size=4)


def test_num_fewshot_is_ignored(evaluate: Run, scripted: Run) -> None:
    plain, shots = (evaluate(scripted(lambda doc: ""), limit=1, num_fewshot=n) for n in (None, 3))
    assert shots["n-shot"] == {"infill_toy": 0}
    for name in ("arguments", "pass@1"):
        assert plain["samples"]["infill_toy"][0][name] == shots["samples"]["infill_toy"][0][name]


@pytest.mark.parametrize("model", ["ensemble_lm", "diffusion", "scored"])
def test_chat_templates_are_refused_by_all_our_models(
    evaluate: Run, request: pytest.FixtureRequest, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = request.getfixturevalue(model)
    if model == "scored":
        monkeypatch.setattr(lm.tokenizer, "chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}", raising=False)
    with pytest.raises(HostError, match="--apply_chat_template cannot be used for infilling"):
        evaluate(lm, limit=1, apply_chat_template=True)


@pytest.mark.parametrize("how", ["true", "refresh"])
def test_cache_requests_is_ignored_with_a_warning(cli: Run, how: str, caplog: pytest.LogCaptureFixture) -> None:
    from lm_eval.caching.cache import PATH

    before = sorted(Path(PATH).glob("*infill_toy*"))
    cli(*ENSEMBLE, "--limit", "1", "--cache_requests", how)
    assert "--cache_requests is ignored" in caplog.text
    assert sorted(Path(PATH).glob("*infill_toy*")) == before


def test_use_cache_gives_a_members_answers_and_records_again(
    evaluate: Run, diffusion: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"limit": 2, "use_cache": str(tmp_path / "cache")}
    first = evaluate(diffusion, **options)
    monkeypatch.setattr(type(diffusion), "propose", None)  # the second run must not ask
    second = evaluate(diffusion, **options)
    rows = [[s["selection"] for s in found["samples"]["infill_toy"]] for found in (first, second)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("model", "settings", "stop_after", "kept"),
    [
        ("diffusion-infill", {"preset": "tiny"}, 1, 1),
        ("diffusion-infill", {"preset": "tiny", "length": "grid:3+4"}, 5, 2),  # two fills to a gap, parts of two gaps
        ("hf-scored", {"preset": "tiny"}, 1, 1),
    ],
)
def test_what_was_answered_before_a_run_ended_is_not_asked_again(
    evaluate: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    settings: dict[str, Any],
    stop_after: int,
    kept: int,
) -> None:
    """``stop_after``: so many batches of one row are answered before the run ends."""
    monkeypatch.setattr(base, "_PART", 2)
    options: dict[str, Any] = {"model_args": settings, "limit": 3, "batch_size": 1}
    whole = evaluate(model, **options)["samples"]["infill_toy"]
    batches: list[int] = []
    run = Batcher._attempt

    def counted(self: Any, batch: Any, work: Any) -> Any:
        batches.append(len(batch))
        if len(batches) > stop_after:
            raise KeyboardInterrupt
        return run(self, batch, work)

    monkeypatch.setattr(Batcher, "_attempt", counted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, **options, use_cache=str(tmp_path / "cache"))
    stop_after, batches[:] = 100, []
    again = evaluate(model, **options, use_cache=str(tmp_path / "cache"))["samples"]["infill_toy"]
    assert len(batches) == (3 - kept) * len(whole[0]["selection"]["candidates"])
    assert [sample["filtered_resps"] for sample in again] == [sample["filtered_resps"] for sample in whole]


def test_a_diffusion_model_refuses_a_cache_of_other_settings(evaluate: Run, tmp_path: Path) -> None:
    options: dict[str, Any] = {"limit": 1, "use_cache": str(tmp_path / "cache")}
    for length in ("fixed:3", "fixed:3"):
        evaluate("diffusion-infill", model_args={"preset": "tiny", "length": length}, **options)
    with pytest.raises(HostError, match="given by another model or under other settings"):
        evaluate("diffusion-infill", model_args={"preset": "tiny", "length": "fixed:4"}, **options)


@pytest.mark.parametrize("model", ["diffusion", "scored"])
def test_use_cache_with_repeats_is_refused(evaluate: Run, request: Any, model: str, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="one answer per prompt"):
        evaluate(request.getfixturevalue(model), limit=1, use_cache=str(tmp_path / "c"), metadata={"repeats": 2})


def test_predict_only_writes_answers_and_judges_nothing(cli: Run) -> None:
    results, samples = cli(*ENSEMBLE, "--limit", "2", "--predict_only")
    assert results["results"]["infill_toy"]["bypass,none"] == 999
    assert "executed_in" not in results["configs"]["infill_toy"]["metadata"]
    assert all(isinstance(sample["resps"][0][0], str) for sample in samples)


def test_what_was_predicted_is_judged_later(cli: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows, records and table are those of a run that judged at once."""
    metadata = ["--metadata", '{"repeats": 2}', "--limit", "3"]
    at_once, expected = cli(*ENSEMBLE, *metadata)
    for file in [*tmp_path.rglob("*.json*")]:
        file.unlink()
    cli(*ENSEMBLE, *metadata, "--predict_only")
    assert f"lm-eval-ensemble judge {tmp_path}/tiny" in capsys.readouterr().out
    assert main(["judge", str(tmp_path), "--workers", "1"]) == 0
    assert f"{'pass@2_fim':36}" in capsys.readouterr().out
    results = json.loads(max(tmp_path.rglob("results_*.json")).read_text())
    later = [json.loads(line) for line in max(tmp_path.rglob("samples_*.jsonl")).read_text().splitlines()]
    for one, other in zip(later, expected, strict=True):
        differ = {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}
        assert differ <= {"log_ppl_dllm", "log_ppl_fim"}  # records have five decimals
        assert [one[name] for name in differ] == pytest.approx([other[name] for name in differ], abs=1e-5)
    rows = {name: value for name, value in at_once["results"]["infill_toy"].items() if isinstance(value, int | float)}
    assert {name: results["results"]["infill_toy"][name] for name in rows} == pytest.approx(rows, abs=1e-5)
    assert "split judge" in results["configs"]["infill_toy"]["metadata"]["executed_in"]
    assert main(["judge", str(tmp_path)]) == 2
    assert "no run made with --predict_only" in capsys.readouterr().err


def test_what_was_predicted_is_scored_later(cli: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli(*ENSEMBLE, "--limit", "2", "--predict_only")
    command = ["score", str(tmp_path), "--model_args", "preset=tiny,extra_scores=chain", "--output", str(tmp_path / "scored")]
    assert main([*command, "--confirm_run_unsafe_code"]) == 0
    (file,) = (tmp_path / "scored").rglob("samples_*.jsonl")
    for sample in map(json.loads, file.read_text().splitlines()):
        assert [candidate["member"] for candidate in sample["selection"]["candidates"]] == ["dllm", "fim"]
        assert all({"fim", "chain"} <= set(candidate["scores"]) for candidate in sample["selection"]["candidates"])
        assert sample["pass@1"] in (0.0, 1.0)


def test_text_of_a_stock_model_is_judged_later(evaluate: Run, scripted: Run, tmp_path: Path) -> None:
    """Its lines hold nothing but text."""
    found = evaluate(scripted(lambda doc: doc["middle"] if doc["cut"] == "line" else ""), limit=5, predict_only=True)
    lines = [json.dumps({**s, "arguments": {}}) + "\n" for s in found["samples"]["infill_toy"]]
    (tmp_path / "samples_infill_toy_2026-01-01T00-00-00.000001.jsonl").write_text("".join(lines))
    content = {name: found[name] for name in ("results", "n-samples")} | {"configs": {"infill_toy": {}}, "config": {}}
    (tmp_path / "results_2026-01-01T00-00-00.000001.json").write_text(json.dumps(content, default=str))
    (results,) = complete(tmp_path, {"judge_workers": 1})
    rows = json.loads(results.read_text())["results"]["infill_toy"]
    right = sum(sample["doc"]["cut"] == "line" for sample in found["samples"]["infill_toy"])
    assert 0 < right < 5
    assert rows["pass@1,none"] == right / 5


def test_samples_are_the_rows_of_the_whole_run(evaluate: Run) -> None:
    arguments = {**TINY, "temperature": 1.0, "seed": 3}
    whole = evaluate("ensemble-ppl", model_args=arguments, limit=3, batch_size=8)
    chosen = evaluate("ensemble-ppl", model_args=arguments, samples={"infill_toy": [0, 2]}, batch_size=8)
    rows = {s["doc_id"]: s for s in whole["samples"]["infill_toy"]}
    assert [s["doc_id"] for s in chosen["samples"]["infill_toy"]] == [0, 2]
    for sample in chosen["samples"]["infill_toy"]:
        assert sample["doc"] == rows[sample["doc_id"]]["doc"]
        assert texts([sample]) == texts([rows[sample["doc_id"]]])


@pytest.mark.parametrize("chosen", [[3, 0], [1, 1], [45], [-1], [], ["0"]])
def test_samples_that_lm_eval_would_misnumber_are_refused(evaluate: Run, scripted: Run, chosen: list[Any]) -> None:
    with pytest.raises(HostError, match=r"--samples for infill_toy: got .*, expected document numbers from 0 to 44"):
        evaluate(scripted(lambda doc: ""), samples={"infill_toy": chosen})


def test_seed_drives_all_members(cli: Run) -> None:
    sampled = [*ENSEMBLE[:3], "preset=tiny,pretrained=tiny,temperature=1.0", *TASK, "--limit", "2", "--batch_size", "8"]
    first, again, other = (texts(cli(*sampled, "--seed", seed)[1]) for seed in ("7", "0,0,7,0", "8"))
    assert first == again
    assert first != other


@pytest.mark.parametrize("size", ["auto", "auto:4", "3"])
def test_batch_size_changes_no_answer(cli: Run, evaluate: Run, ensemble_lm: EnsemblePPL, size: str) -> None:
    results, samples = cli(*ENSEMBLE, "--limit", "3", "--batch_size", size)
    assert results["config"]["batch_size"] == size
    assert texts(samples) == texts(evaluate(ensemble_lm, limit=3))


@pytest.mark.parametrize("model", ["ensemble-ppl", "diffusion-infill", "hf-scored"])
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"batch_size": "many"}, ConfigError, "batch_size: got 'many', expected a whole number >= 1, or auto"),
        ({"device": "gpu"}, HostError, "--device 'gpu' is not a torch device"),
    ],
)
def test_a_bad_batch_size_or_device_is_one_clear_error(
    evaluate: Run, model: str, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        evaluate(model, model_args=TINY, limit=1, **options)


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_device(cli: Run, device: str, caplog: pytest.LogCaptureFixture) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    caplog.set_level(logging.INFO, "lm_eval")
    results, _ = cli(*ENSEMBLE, "--limit", "1", "--device", device)
    assert results["config"]["device"] == device
    assert ("torch finds no GPU here; running on the CPU" in caplog.text) == (device == "cuda:0")


def test_gen_kwargs_reach_members_that_have_no_setting_of_their_own(evaluate: Run, assets: Path) -> None:
    own = {"pretrained": str(assets / "fim"), "max_length": 384}
    found = evaluate("hf-scored", model_args=own, limit=2, gen_kwargs="max_gen_toks=1")
    assert {len(s["selection"]["candidates"][0]["logprobs"]) for s in found["samples"]["infill_toy"]} == {1}


def test_gen_kwargs_come_after_the_members_own_settings(
    evaluate: Run, ensemble_lm: EnsemblePPL, caplog: pytest.LogCaptureFixture
) -> None:
    from lm_eval_ensemble.harness import requests

    requests._warned.clear()
    found = evaluate(ensemble_lm, limit=2, gen_kwargs={"temperature": 0.9, "do_sample": True})
    assert "the member's own setting (0) comes first" in caplog.text
    assert texts(found) == texts(evaluate(ensemble_lm, limit=2))


@pytest.mark.parametrize("wrong", ["temperature=hot", "max_gen_toks=0", "top_p=7", "until=3"])
def test_bad_gen_kwargs_are_one_clear_error(evaluate: Run, ensemble_lm: EnsemblePPL, wrong: str) -> None:
    name, value = wrong.split("=")
    with pytest.raises(ConfigError, match=rf"--gen_kwargs\.{name}: got '?{value}'?, expected"):
        evaluate(ensemble_lm, limit=1, gen_kwargs=wrong)


MEMBERS = [
    {"name": "dllm", "model": "diffusion-infill", "args": {"preset": "tiny", "length": "fixed:4", "steps": 2}},
    {"name": "fim", "model": "hf-scored", "args": {"preset": "tiny"}},
]


def test_config_with_nested_members(cli: Run, tmp_path: Path) -> None:
    config = {
        "model": "ensemble-ppl",
        "model_args": {"members": MEMBERS, "prefer": "dllm", "pretrained": "nested"},
        "tasks": ["infill_toy"],
        "limit": 1,
        "confirm_run_unsafe_code": True,
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    results, _ = cli("run", "--config", str(path))
    assert results["results"]["infill_toy"]["length_mode,none"] == "fixed:4"
    assert results["config"]["ensemble"]["members"][0]["args"]["steps"] == 2
    assert results["config"]["ensemble"]["prefer"] == "dllm"
    assert list((tmp_path / "nested").glob("results_*.json"))


def test_faults_in_a_config_come_together_and_without_a_traceback(cli: Run, tmp_path: Path) -> None:
    wrong = [{**MEMBERS[0], "args": {"preset": "tiny", "steps": 0}}, {**MEMBERS[1], "modle": "x"}]
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"model": "ensemble-ppl", "model_args": {"members": wrong, "scroe": "fim"}}))
    with pytest.raises(ConfigError) as error:
        cli("--config", str(path), *TASK)
    assert [line.partition(":")[0] for line in str(error.value).splitlines()] == [
        "$.scroe",
        "$.members[0].args.steps",
        "$.members[1].modle",
    ]


def test_write_out_and_show_config(cli: Run, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.INFO, "lm_eval"):
        results, _ = cli(*ENSEMBLE, "--limit", "1", "--write_out", "--show_config")
    assert "context prompt (starting on next line):" in caplog.text
    assert "<|fim_prefix|>" in caplog.text
    shown = capsys.readouterr().out
    assert "'infill_toy'" in shown or '"infill_toy"' in shown
    assert results["configs"]["infill_toy"]["metadata"]["preset"] == "tiny"


def test_trust_remote_code_reaches_our_members(cli: Run) -> None:
    results, _ = cli(*ENSEMBLE, "--limit", "1", "--trust_remote_code")
    members = results["config"]["ensemble"]["members"]
    assert [member["args"]["trust_remote_code"] for member in members] == [True, True]


def test_the_python_api_with_a_name_and_with_an_object(ensemble_lm: EnsemblePPL) -> None:
    manager = TaskManager(include_defaults=False)
    common: dict[str, Any] = {"tasks": ["infill_toy"], "limit": 2, "confirm_run_unsafe_code": True, "task_manager": manager}
    by_name = simple_evaluate("ensemble-ppl", "preset=tiny,pretrained=tiny", batch_size=8, **common)
    by_object = simple_evaluate(ensemble_lm, **common)
    assert texts(by_name) == texts(by_object)
    assert by_name["config"]["model"] == "ensemble-ppl"
    assert by_object["config"]["model"] == "EnsemblePPL"
    assert by_name["results"] == by_object["results"]
