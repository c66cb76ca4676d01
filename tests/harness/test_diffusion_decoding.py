"""What decodes in ``diffusion-infill``: algorithms independent of their batch, plain tasks, the end of a text, a protocol."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lm_eval_ensemble.config import EnsembleConfig, with_preset
from lm_eval_ensemble.data import with_newline
from lm_eval_ensemble.diffusion.algorithms import ALGORITHMS
from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.harness.diffusion_lm import DiffusionInfill
from lm_eval_ensemble.types import InfillRequest
from lm_eval_ensemble.values import PROTOCOLS


def requests(documents: Sequence[dict[str, Any]]) -> list[InfillRequest]:
    return [InfillRequest(d["prefix"], d["suffix"], "toy", i, reference=d["middle"]) for i, d in enumerate(documents)]


def tiny(assets: Path, **settings: Any) -> DiffusionInfill:
    return DiffusionInfill(pretrained=str(assets / "mdm"), max_length=256, max_new_tokens=24, **settings)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("alg", ALGORITHMS)
def test_texts_do_not_depend_on_batch_order_or_resume(
    assets: Path, toy: list[dict[str, Any]], alg: str, temperature: float
) -> None:
    model = tiny(assets, alg=alg, temperature=temperature, top_p=0.95, steps=5, seed=3)
    asked = requests(toy[:5])

    def texts(size: int, chosen: Sequence[int]) -> dict[int, str]:
        model._batcher.size = size
        return dict(zip(chosen, [c.raw for c in model.propose([asked[i] for i in chosen])], strict=True))

    alone = texts(1, range(5))
    assert texts(3, [4, 0, 2, 1, 3]) == alone
    assert texts(8, range(5)) == alone
    resumed = texts(8, [4, 1])
    assert resumed == {i: alone[i] for i in (1, 4)}
    if temperature or alg == "origin":
        model.seed = 4
        assert texts(8, range(5)) != alone


def test_steps_auto_is_a_step_per_token(assets: Path, toy: list[dict[str, Any]]) -> None:
    for candidate in tiny(assets, steps="auto", batch_size=4).propose(requests(toy[:6])):
        assert candidate.info["steps"] == candidate.info["length"] >= candidate.info["row_forwards"]


def test_history_is_recorded_where_asked_for(assets: Path) -> None:
    asked = [InfillRequest("x = ", "\n", reference="1 + 2")]
    with_history, without = (tiny(assets, steps=4, history=h).propose(asked)[0] for h in (True, False))
    states = with_history.info["history"]
    assert "history" not in without.info
    assert with_history.raw == without.raw
    assert json.loads(json.dumps(states)) == states
    assert [state.count(None) for state in states] == sorted([state.count(None) for state in states], reverse=True)
    assert len(states[-1]) == with_history.info["length"]


def test_a_protocol_makes_pads_visible_and_stands_in_the_record(
    assets: Path, toy: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = requests(toy[:4])
    model = tiny(assets, protocol="open-dllm", batch_size=4, steps=4, temperature=0.0, dtype="float32")
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    real = model.network.states_at

    def spy(ids: torch.Tensor, lengths: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        seen.append((ids, lengths))
        return real(ids, lengths, *rest)

    monkeypatch.setattr(model.network, "states_at", spy)
    together = model.propose(asked)
    assert {c.info["protocol"] for c in together} == {"open-dllm"}
    # An answer that depends on its batch must not be served to a run with other documents.
    assert model.fingerprint() is None
    assert model.get_model_info()["diffusion_infill"]["protocol"] == "open-dllm"
    # All rows have the length of the longest; what is behind the shorter ones is the tokenizer's pad, not the mask.
    ids, lengths = seen[0]
    assert lengths.tolist() == [ids.shape[1]] * 4
    short = min(range(4), key=lambda i: len(model.encoder.encode(asked[i].prefix + asked[i].suffix)))
    assert ids[short, -1] == model.network.pad_id == 4
    # So the first step's states of a row depend on its batch, as in the published code; those of clean padding do not.
    row, column = torch.tensor([short]), torch.tensor([len(model.encoder.encode(asked[short].prefix))])
    wide, own = real(ids, lengths, row, column), real(ids, torch.full_like(lengths, ids.shape[1] - 5), row, column)
    assert not torch.allclose(wide, own, atol=1e-4)


def test_a_protocol_comes_before_the_preset_and_after_what_is_said(assets: Path) -> None:
    model = DiffusionInfill(preset="tiny", protocol="open-dllm", max_length=384)
    settings = model.config.model_dump()
    published = {"length": "oracle", "steps": 64, "temperature": 0.6, "top_p": 0.95, "dtype": "bfloat16", "max_length": 384}
    assert {name: settings[name] for name in published} == published
    said = {"protocol": "open-dllm", "steps": 8}
    args = EnsembleConfig.from_arguments({"preset": "tiny", **said}).members[0].args
    assert args == {**with_preset({"preset": "tiny"}, "diffusion-infill"), **PROTOCOLS["open-dllm"], **said}


def test_a_protocol_counts_and_keeps_what_the_published_program_does(assets: Path) -> None:
    """SantaCoder's data have no newline at the end of a middle, HumanEval-Infilling's do."""
    model = tiny(assets, protocol="open-dllm", steps=2)
    whole, bare = (len(model.encoder.encode(text)) for text in ("total = 0 + 1\n", "total = 0 + 1"))
    assert bare < whole
    found = {
        task: model.propose([InfillRequest("x = 1\n", "y = 2\n", task, reference="total = 0 + 1\n", cut="line")])[0]
        for task in ("santacoder_fim", "humaneval_infill")
    }
    assert {task: candidate.info["length"] for task, candidate in found.items()} == {
        "santacoder_fim": bare,
        "humaneval_infill": whole,
    }
    assert found["humaneval_infill"].text == found["humaneval_infill"].raw
    assert found["santacoder_fim"].text == with_newline(found["santacoder_fim"].raw)
    oracle = tiny(assets, length="oracle", steps=2)
    asked = InfillRequest("x = 1\n", "y = 2\n", "santacoder_fim", reference="total = 0 + 1\n")
    assert oracle.propose([asked])[0].info["length"] == whole


@pytest.fixture(scope="module")
def ending(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> str:
    """A random checkpoint that gives end-of-text a third of the probability, everywhere."""
    folder = tmp_path_factory.mktemp("ending")
    tokenizer = AutoTokenizer.from_pretrained(assets / "mdm")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=4096, max_position_embeddings=256, **shape, eos_token_id=0, pad_token_id=4))
    with torch.no_grad():
        # The first hidden value is a constant that no layer touches, so its weight in the head is a bias.
        model.model.embed_tokens.weight[:, 0] = 5.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[0, 0] = math.log(4096 / 2) / math.sqrt(32)
    model.save_pretrained(folder)
    return str(folder)


def test_end_of_text_ends_the_answer_where_nothing_follows(ending: str) -> None:
    model = DiffusionInfill(pretrained=ending, temperature=1.0, steps=8, max_new_tokens=12, seed=1, batch_size=8)
    found = model.propose([InfillRequest("x = ", "", "t", i) for i in range(16)])
    stopped = [c for c in found if c.info["stop"] == "stop_token"]
    assert len(stopped) > 8
    for candidate in found:
        assert candidate.info["length_mode"] == "limit"
        assert candidate.info["length"] == 12
        tokens = len(candidate.logprobs or ())
        assert (tokens < 12) == (candidate.info["stop"] == "stop_token") == ("stop_logprob" in candidate.info)
    assert len({len(c.logprobs or ()) for c in stopped}) > 2


def test_end_of_text_is_never_drawn_inside_a_gap(ending: str) -> None:
    model = DiffusionInfill(pretrained=ending, temperature=1.0, steps=8, seed=1, length="fixed:6")
    for candidate in model.propose([InfillRequest("x = ", "\n", "t", i) for i in range(8)]):
        assert (candidate.info["stop"], len(candidate.logprobs or ())) == ("length", 6)


def test_text_after_the_first_end_is_dropped(ending: str) -> None:
    model = DiffusionInfill(pretrained=ending, temperature=1.0, steps=8, max_new_tokens=12, seed=1, history=True)
    for candidate in model.propose([InfillRequest("x = ", "", "t", i) for i in range(8)]):
        last = candidate.info["history"][-1]
        kept = last[: last.index(0)] if 0 in last else last
        assert candidate.raw == model.encoder.decode(kept)
        assert len(candidate.logprobs or ()) == len(kept)


def test_a_length_that_was_asked_for_is_kept_for_texts_too(ending: str) -> None:
    model = DiffusionInfill(pretrained=ending, length="fixed:5", steps=2)
    assert model.propose([InfillRequest("x = ", "")])[0].info["length_mode"] == "fixed:5"
    oracle = DiffusionInfill(pretrained=ending, length="oracle", steps=2)
    doc = {"prompt": "x = ", "canonical_solution": "1"}
    instance = Instance("generate_until", doc, ("x = ", {"until": []}), 0, metadata=("t", 0, 1), task_name="t", doc_id=0)
    with pytest.raises(ConfigError, match="no reference"):
        oracle.generate_until([instance])


@pytest.fixture
def plain_task(tmp_path: Path) -> TaskManager:
    """A task of lm_eval without any gap."""
    rows = [{"prompt": f"def f{i}(x):\n    return", "answer": " x"} for i in range(5)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = {
        "task": "plain_text",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 10},
        "metric_list": [{"metric": "exact_match"}],
    }
    (tmp_path / "plain_text.yaml").write_text(yaml.safe_dump(task))
    return TaskManager(include_path=str(tmp_path), include_defaults=False)


def test_a_plain_task_runs(assets: Path, plain_task: TaskManager) -> None:
    model = DiffusionInfill(pretrained=str(assets / "mdm"), steps=8, batch_size=4)
    found = simple_evaluate(model=model, tasks=["plain_text"], task_manager=plain_task, bootstrap_iters=0, log_samples=True)
    samples = found["samples"]["plain_text"]
    assert len(samples) == 5
    for sample in samples:
        answer = sample["resps"][0][0]
        assert "\n" not in answer
        assert len(model.encoder.encode(answer)) <= 10
    traces = model.propose([InfillRequest("def f(x):\n    return", "", "t", until=("\n",), max_new_tokens=10)])
    assert (traces[0].info["length_mode"], traces[0].info["length"]) == ("limit", 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alg": "maskgit"}, r"\.alg: got 'maskgit', expected a known name. Did you mean 'maskgit_plus'"),
        ({"alg_temp": 0.5}, r"\.alg_temp: got 0.5, expected nothing: with alg=p2 .* entropy"),
        ({"alg": "origin", "alg_temp": 0.5}, "alg=origin"),
        ({"alg": "entropy", "alg_temp": 0}, r"\.alg_temp: got 0, expected > 0"),
        ({"steps": "autp"}, "Did you mean 'auto'"),
        ({"steps": 5000}, "expected <= 4096"),
        ({"protocol": "open-dlm"}, "Did you mean 'open-dllm'"),
        ({"early_commit": 2}, "expected <= 1"),
    ],
)
def test_bad_settings_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DiffusionInfill(pretrained="x", **arguments)
