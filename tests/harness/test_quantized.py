"""Quantised checkpoints through hf-scored: what is recorded, what it may be compared with, and what is refused."""

from __future__ import annotations

import gc
import importlib.util
import json
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, RobertaConfig, RobertaForCausalLM

from lm_eval_ensemble.errors import ConfigError, EnsembleError, HostError, ModelError
from lm_eval_ensemble.harness.diffusion_lm import DiffusionInfill
from lm_eval_ensemble.harness.ensemble_lm import EnsemblePPL
from lm_eval_ensemble.harness.quantized import footprint_mib, read_quantized
from lm_eval_ensemble.harness.scored_lm import ScoredHF
from lm_eval_ensemble.scoring.base import Span
from lm_eval_ensemble.types import InfillRequest
from lm_eval_ensemble.values import QUANTIZATIONS
from tests.standins import save_standin

Model = Callable[..., ScoredHF]

# How far two readings of one text by one model may lie apart (nats per token, float32), and why. Measured on these models:
# 5e-6, 0.01, 0.01, 0.013 and 0.07. Where activations are rounded too, a difference in the last digit may cross an edge.
SAME = {
    "torchao-int8": 1e-4,  # weights only
    "bnb-nf4": 0.05,  # CPUs with bfloat16 products use them
    "bnb-fp4": 0.05,
    "bnb-int8": 0.1,  # activations to 8 bits, outliers found over the whole batch
    "torchao-int8-dynamic": 0.2,  # activations to 8 bits
}
TEXTS = [
    "def add(a, b):\n    return a + b\n",
    "The capital of Norway is Oslo, and that of Chile is Santiago.",
    "for i in range(10):\n    print(i)\n",
    "Question: who wrote it?\nAnswer: nobody knows, but many have guessed.",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The stand-in of an architecture, saved once."""
    root, saved = tmp_path_factory.mktemp("standins"), dict[str, str]()
    return lambda name: saved.get(name) or saved.setdefault(name, save_standin(root / name, name))


@pytest.fixture(scope="module")
def load(folder: Callable[[str], str]) -> Model:
    def build(architecture: str = "llama", **settings: Any) -> ScoredHF:
        return ScoredHF(pretrained=folder(architecture), device="cpu", batch_size=settings.pop("batch_size", 4), **settings)

    return build


@pytest.fixture
def questions(tmp_path: Path) -> str:
    rows = [
        {
            "id": f"n{i}",
            "question": f"What is {i} plus {i}?",
            "context": f"Twice {i} is {2 * i}.",
            "answers": {"text": [str(2 * i)]},
        }
        for i in range(9)
    ]
    path = tmp_path / "sums.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def ask(evaluate: Callable[..., Any], file: str, arguments: dict[str, Any], **options: Any) -> tuple[dict[str, Any], list[Any]]:
    """The results file's config, and the records of three questions."""
    own = {"limit": 3, "num_fewshot": 0, "device": "cpu", "batch_size": 4, "gen_kwargs": {"max_gen_toks": 8}, **options}
    found = evaluate("hf-scored", ["squad_uncertainty"], {"file": file}, model_args=arguments, **own)
    return found["config"], [sample["uncertainty"] for sample in found["samples"]["squad_uncertainty"]]


def spans(lm: ScoredHF, texts: Sequence[str] = TEXTS) -> list[Span]:
    return [Span(ids, 2) for ids in (lm.tok_encode(text) for text in texts)]


def flat(rows: Sequence[Sequence[float]]) -> torch.Tensor:
    return torch.tensor([value for row in rows for value in row])


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral"])
def test_a_question_task_in_every_precision(
    architecture: str, evaluate: Callable[..., Any], folder: Callable[[str], str], questions: str
) -> None:
    path = folder(architecture)
    tokenizer = AutoTokenizer.from_pretrained(path)
    footprints, answers = {}, {}
    for name in ("none", "bnb-int8", "bnb-nf4", "torchao-int8"):
        config, records = ask(evaluate, questions, {"pretrained": path, "quantization": name})
        footprints[name] = config["model_footprint_mib"]
        answers[name] = [record["logprobs"] for record in records]
        told = json.loads(json.dumps(config["quantization"], allow_nan=False))
        if name == "none":
            assert told is None
        else:
            # Seven linear layers in each of two; the LM head stays as it is.
            assert (told["name"], told["layers"], told["other_layers"], told["share"]) == (name, 14, 1, 1.0)
            assert told["versions"]["torchao"]
        for record in records:
            assert "".join(record["tokens"]) == record["raw"]
            assert len(record["logprobs"]) == len(record["token_ids"]) > 0
            assert tokenizer.decode(record["token_ids"]).strip() == record["answer"]
            assert max(record["logprobs"]) <= 0
        assert config["peak_memory_mib"]["hf-scored"] > footprints[name]
    assert footprints["none"] > footprints["bnb-int8"] > footprints["bnb-nf4"]
    # An eighth of a million weights, from 4 bytes to 1, and a scale of 4 bytes for each row.
    assert footprints["none"] - footprints["torchao-int8"] == pytest.approx(73728 * 3 / 2**20, abs=0.11)
    assert all(answers[name] != answers["none"] for name in QUANTIZATIONS if name in answers)


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_numbers_are_near_those_of_the_full_model_and_those_of_the_model_itself(name: str, load: Model) -> None:
    full, one, four = load(), load(quantization=name, batch_size=1), load(quantization=name)
    expected, found = flat(full.token_logprobs(spans(full))), flat(four.token_logprobs(spans(four)))
    assert (found != expected).any()
    bits = 8 if "int8" in name else 4
    assert (found - expected).abs().mean() < (0.1 if bits == 8 else 1.0)
    assert (found - flat(one.token_logprobs(spans(one)))).abs().max() <= SAME[name]
    with torch.no_grad():
        for span, read in zip(spans(four), four.token_logprobs(spans(four)), strict=True):
            logits = four.model(torch.tensor([span.ids])).logits[0].float().log_softmax(-1)
            plain = logits[span.start - 1 : -1].gather(-1, torch.tensor(span.ids[span.start :])[:, None])[:, 0]
            assert (plain - torch.tensor(read)).abs().max() <= SAME[name]


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_what_is_recorded_while_generating_is_what_the_model_says(name: str, load: Model) -> None:
    lm = load(quantization=name, max_new_tokens=12)
    requests = [InfillRequest(text, "\n", task="t", doc_id=i) for i, text in enumerate(TEXTS)]
    seen = 0
    for request, answer in zip(requests, lm.propose(requests), strict=True):
        assert lm.layout is not None
        prompt = lm.layout.encode(lm.encoder, request.prefix, request.suffix, 512).ids
        ids, recorded = answer.info["token_ids"], torch.tensor(answer.logprobs)
        [read] = lm.token_logprobs([Span([*prompt, *ids], len(prompt))])
        assert (recorded - torch.tensor(read)).abs().max() <= SAME[name]
        assert "fim_pass" not in answer.info
        seen += len(ids)
    assert seen > 12


def test_eight_bits_lie_nearer_than_four(load: Model) -> None:
    full = load("qwen2")
    expected = flat(full.token_logprobs(spans(full)))
    off = {}
    for name in QUANTIZATIONS:
        lm = load("qwen2", quantization=name)
        off[name] = float((flat(lm.token_logprobs(spans(lm))) - expected).abs().mean())
    assert max(v for k, v in off.items() if "int8" in k) < min(v for k, v in off.items() if "4" in k)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("flag", "name"), [("load_in_8bit", "bnb-int8"), ("load_in_4bit", "bnb-fp4")])
def test_the_flags_of_old_as_the_command_line_gives_them(flag: str, name: str, dtype: str, load: Model) -> None:
    lm = load(**{flag: "True"}, dtype=dtype, parallelize=True, max_length=128)
    assert lm.quantization is not None
    assert lm.quantization["name"] == name
    assert str(lm.model.dtype) == f"torch.{dtype}"
    assert load(**{flag: "false"}).quantization is None
    assert all(value <= 0 for row in lm.token_logprobs(spans(lm)) for value in row)


def test_model_args_as_text(folder: Callable[[str], str]) -> None:
    text = f"pretrained={folder('llama')},load_in_8bit=True,dtype=float32"
    lm = ScoredHF.create_from_arg_string(text, {"device": "cpu", "batch_size": 4, "max_batch_size": None})
    assert lm.quantization is not None
    assert lm.quantization["name"] == "bnb-int8"
    assert lm.get_model_info()["quantization"] == lm.quantization


def test_a_mapping_goes_to_the_config_it_names(load: Model) -> None:
    chosen = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    found = load(quantization={**chosen, "bnb_4bit_use_double_quant": True}).quantization
    assert found is not None
    assert (found["name"], found["settings"]["bnb_4bit_use_double_quant"]) == ("bnb-nf4", True)
    kept = load(quantization={**chosen, "llm_int8_skip_modules": ["q_proj", "lm_head"]}).quantization
    assert kept is not None
    assert (kept["layers"], kept["other_layers"], kept["share"]) == (12, 3, round(1 - 64 * 64 / 36864, 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"load_in_8bit": True, "load_in_4bit": True}, "load_in_4bit: got True, expected nothing: load_in_8bit is set too"),
        ({"load_in_4bit": True, "quantization": "bnb-nf4"}, "quantization: got 'bnb-nf4', expected nothing: load_in_4bit is"),
        ({"quantization": "nf4"}, "Did you mean 'bnb-nf4'"),
        ({"quantization": "int8", "temperature": -1}, r"(?s)temperature: got -1.*|quantization: got 'int8'"),
        ({"quantization": {"bits": 8}}, "a mapping that names its quant_method"),
        ({"quantization": {"quant_method": "bnb"}}, "quant_method: got 'bnb', expected a known method"),
        ({"quantization": {"quant_method": "bitsandbytes"}}, "load_in_8bit: true or load_in_4bit: true beside it"),
        ({"quantization": {"load_in_8bit": True, "threshold": 6.0}}, r"quantization\.threshold: not a setting of BitsAndBytes"),
        ({"quantization": {"load_in_8bit": True, "llm_int8_threshold": "x"}}, "refuses it: llm_int8_threshold must be a float"),
        ({"load_in_8bit": True, "gguf_file": "q4.gguf"}, "gguf_file: got 'q4.gguf', expected nothing beside bnb-int8"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bnb_4bit_quant_type: not taken; say it as quantization="),
        ({"quantization_config": {}}, "quantization_config: not taken"),
        ({"load_in_8bit": True, "dtype": "float64"}, "dtype: got float64, expected float32, bfloat16 or float16"),
        ({"load_in_8bit": "maybe"}, "load_in_8bit: got 'maybe', expected true or false"),
    ],
)
def test_faults_are_named(settings: dict[str, Any], message: str, load: Model) -> None:
    with pytest.raises(ConfigError, match=message):
        load(**settings)


def test_all_faults_come_in_one_message_under_the_names_that_were_typed() -> None:
    fim = {"name": "fim", "model": "hf-scored", "args": {"preset": "tiny", "quantization": "nf4", "load_in_8bit": True}}
    dllm = {"name": "dllm", "model": "diffusion-infill", "args": {"preset": "tiny", "load_in_8bit": True}}
    with pytest.raises(ConfigError) as error:
        EnsemblePPL(members=[fim, dllm], store="off")
    first, second = str(error.value).splitlines()
    assert first.startswith("$.members[0].args.quantization: got 'nf4', expected a name")
    assert second.startswith("$.members[1].args.load_in_8bit: not a setting here: only hf-scored members are quantised")
    with pytest.raises(ConfigError, match=r"\$\.load_in_8bit: got True, but no member is hf-scored"):
        EnsemblePPL(members=[{**dllm, "args": {"preset": "tiny"}}], load_in_8bit=True, store="off")


def test_nothing_quantised_is_an_error_and_so_is_too_little(load: Model) -> None:
    layers = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
    with pytest.raises(ModelError, match="no layer of this LlamaForCausalLM was quantised"):
        load(quantization={"load_in_8bit": True, "llm_int8_skip_modules": [*layers, "lm_head"]})
    for name in ("bnb-int8", "torchao-int8"):
        with pytest.raises(ModelError, match=r"only 11\.\d% of the weights of this MixtralForCausalLM.*bnb-nf4 quantises"):
            load("mixtral", quantization=name)


@pytest.mark.parametrize("name", ["bnb-nf4", "bnb-fp4"])
def test_the_experts_of_a_mixture_are_quantised_too(name: str, load: Model) -> None:
    full, lm = load("mixtral"), load("mixtral", quantization=name)
    assert lm.quantization is not None
    # Four linear layers and two tensors of experts in each of two layers; of the weights only the router is left.
    router, rest = 4 * 64, 12288 + 4 * 3 * 64 * 128
    assert (lm.quantization["name"], lm.quantization["layers"]) == (name, 12)
    assert lm.quantization["share"] == pytest.approx(rest / (rest + router), abs=1e-4)
    off = (flat(lm.token_logprobs(spans(lm))) - flat(full.token_logprobs(spans(full)))).abs()
    assert 0 < off.mean() < 1.5
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weights = full.model.model.layers[1].mlp.experts.down_proj.data
    rounded = dequantize_4bit(*quantize_4bit(weights, quant_type=name.removeprefix("bnb-")))
    assert torch.equal(lm.model.model.layers[1].mlp.experts.down_proj, rounded)


def test_an_ordinary_model_with_integers_among_its_buffers_is_not_quantised() -> None:
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = RobertaForCausalLM(RobertaConfig(**sizes, is_decoder=True))
    assert any(buffer.dtype == torch.int64 and buffer.ndim == 2 for buffer in model.buffers())
    assert read_quantized(model) is None
    assert footprint_mib(model) == round(model.get_memory_footprint() / 2**20, 1)


def test_the_record_of_a_quantised_diffusion_checkpoint_says_so(assets: Path, tmp_path: Path) -> None:
    config = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(assets / "mdm", quantization_config=config, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(assets / "mdm").save_pretrained(tmp_path)
    found = DiffusionInfill(pretrained=str(tmp_path)).get_model_info()["quantization"]
    assert (found["name"], found["layers"] > 0) == ("bnb-int8", True)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_checkpoint_loads_as_it_is_and_to_nothing_else(
    bits: int, folder: Callable[[str], str], tmp_path: Path
) -> None:
    config = BitsAndBytesConfig(**{f"load_in_{bits}bit": True})
    model = AutoModelForCausalLM.from_pretrained(folder("llama"), quantization_config=config, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder("llama")).save_pretrained(tmp_path)
    asked_for: dict[str, Any] = {f"load_in_{bits}bit": True}
    lm = ScoredHF(pretrained=str(tmp_path), device="cpu")
    asked = ScoredHF(pretrained=folder("llama"), device="cpu", **asked_for)
    assert lm.quantization is not None
    assert asked.quantization is not None
    assert (lm.quantization["name"], lm.quantization["layers"]) == (asked.quantization["name"], 14)
    assert flat(lm.token_logprobs(spans(lm))).tolist() == pytest.approx(
        flat(asked.token_logprobs(spans(asked))).tolist(), abs=0.05
    )
    with pytest.raises(ConfigError, match="is quantised already"):
        ScoredHF(pretrained=str(tmp_path), device="cpu", quantization="torchao-int8")


@pytest.mark.parametrize(("name", "package"), QUANTIZATIONS.items())
def test_a_missing_package_is_named_with_its_extra(
    name: str, package: str, load: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == package else found(n, *a))
    with pytest.raises(ConfigError, match=rf"package {package}, which is not installed.*lm_eval_ensemble\[quantization\]"):
        load(quantization=name)


def test_stored_answers_know_the_bits(load: Model) -> None:
    plain = load().fingerprint()
    assert plain is not None
    assert "quantization" not in plain
    assert not {"load_in_8bit", "load_in_4bit", "quantization"} & set(plain["settings"])
    prints = [load(quantization=name).fingerprint() for name in QUANTIZATIONS]
    keys = {json.dumps(found, sort_keys=True) for found in (plain, *prints)}
    assert len(keys) == 1 + len(QUANTIZATIONS)
    assert load(load_in_8bit=True).fingerprint() == load(quantization="bnb-int8").fingerprint()


def test_an_answer_cache_of_other_bits_is_refused(
    evaluate: Callable[..., Any], folder: Callable[[str], str], questions: str, tmp_path: Path
) -> None:
    cache = str(tmp_path / "cache")
    plain = {"pretrained": folder("llama")}
    ask(evaluate, questions, plain, use_cache=cache)
    with pytest.raises(HostError, match="--use_cache"):
        ask(evaluate, questions, {**plain, "load_in_8bit": True}, use_cache=cache)
    ask(evaluate, questions, {**plain, "load_in_8bit": True}, use_cache=f"{cache}8")


def test_a_quantised_member_proposes_and_judges_and_the_store_tells_it_from_the_other(
    evaluate: Callable[..., Any], folder: Callable[[str], str], tmp_path: Path
) -> None:
    def run(load: str = "together", **bits: Any) -> Any:
        fim = {"name": "fim", "model": "hf-scored", "args": {"pretrained": folder("qwen2"), "max_new_tokens": 8, **bits}}
        dllm = {"name": "dllm", "model": "diffusion-infill", "args": {"preset": "tiny", "steps": 2}}
        arguments = {"members": [fim, dllm], "load": load, "store": str(tmp_path / "store.sqlite")}
        found = evaluate("ensemble-ppl", model_args=arguments, limit=3, device="cpu")
        records = [sample["selection"] for sample in found["samples"]["infill_toy"]]
        scores = [c["scores"]["fim"] for record in records for c in record["candidates"]]
        texts = [c["text"] for record in records for c in record["candidates"]]
        return found["config"], scores, texts

    config, full, _ = run()
    assert config["ensemble"]["store"]["added"] == 6
    assert config["quantization"] == {}
    config, scores, texts = run(quantization="torchao-int8")
    # The diffusion member's candidates are those of the run before, the quantised member's are its own.
    assert (config["ensemble"]["store"]["reused"], config["ensemble"]["store"]["added"]) == (3, 3)
    assert config["quantization"]["fim"]["name"] == "torchao-int8"
    assert 0 < config["model_footprint_mib"]["fim"] < 1.3
    assert scores != full
    again, same, same_texts = run("one-at-a-time", quantization="torchao-int8")
    assert again["ensemble"]["store"]["added"] == 0
    assert same_texts == texts
    assert same == pytest.approx(scores, abs=1e-4)
    assert again["quantization"] == config["quantization"]


def test_a_flat_setting_reaches_the_members_it_concerns(folder: Callable[[str], str]) -> None:
    lm = EnsemblePPL(preset="tiny", load_in_8bit="True", store="off", steps=2)
    assert {name: found["name"] for name, found in lm.get_model_info()["quantization"].items()} == {"fim": "bnb-int8"}


@pytest.mark.parametrize("name", ["bnb-int8", "bnb-nf4", "torchao-int8"])
def test_one_at_a_time_frees_a_quantised_model(name: str, folder: Callable[[str], str]) -> None:
    rows = [
        {"name": which, "model": "hf-scored", "args": {"pretrained": folder(which), "quantization": name, "max_new_tokens": 4}}
        for which in ("llama", "mistral")
    ]
    lm = EnsemblePPL(members=rows, load="one-at-a-time", store="off", score="fim")
    first = lm._shelf.get("llama")
    weights = weakref.ref(first.model.model.layers[0].mlp.up_proj.weight)
    first.propose([InfillRequest("def f(", "\n", task="t", doc_id=0)])
    first.token_logprobs(spans(first))
    network = weakref.ref(first.model)
    del first
    lm._shelf.get("mistral")
    gc.collect()
    assert network() is None
    assert weights() is None


@pytest.mark.parametrize(
    "load_error", [ImportError("no module x"), RuntimeError("Some modules are dispatched on the CPU or the disk.")]
)
def test_what_a_library_cannot_do_is_one_message(load_error: Exception, load: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise load_error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(EnsembleError, match=r"Could not load .* quantised to bnb-int8: .*(quantization\]|more or other GPUs)"):
        load(load_in_8bit=True)
