"""Members of all kinds: servers, stock models, vllm; what their samples are; when they are loaded."""

from __future__ import annotations

import gc
import importlib
import json
import logging
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lm_eval_ensemble import config
from lm_eval_ensemble.errors import ConfigError, HostError
from lm_eval_ensemble.harness.ensemble_lm import EnsemblePPL
from lm_eval_ensemble.harness.loading import LazyModel, Shelf
from lm_eval_ensemble.harness.member import ForeignMember
from lm_eval_ensemble.types import InfillRequest
from tests.servers import CompletionsServer

Run = Callable[..., Any]
TINY = {"preset": "tiny", "pretrained": "tiny"}
SHORT = {"max_new_tokens": 12}
OURS = [
    {"name": "dllm", "model": "diffusion-infill", "args": {"preset": "tiny", "steps": 4}},
    {"name": "fim", "model": "hf-scored", "args": {"preset": "tiny"}},
]


@pytest.fixture(scope="module")
def server(assets: Path) -> Iterator[CompletionsServer]:
    with CompletionsServer(assets / "fim") as running:
        yield running


@pytest.fixture
def remote(server: CompletionsServer, assets: Path) -> dict[str, Any]:
    """The server as a member."""
    arguments = {"base_url": server.url, "model": "tiny", "tokenizer": str(assets / "fim"), "tokenizer_backend": "huggingface"}
    return {"name": "server", "model": "local-completions", "args": {**arguments, "max_length": 1024}}


def records(found: Any) -> list[Any]:
    return [sample["selection"] for sample in found["samples"]["infill_toy"]]


def by_member(entry: Any, name: str) -> list[str]:
    return [c["text"] for c in entry["candidates"] if c["member"] == name]


def test_three_members_one_a_server_and_the_store(
    evaluate: Run, server: CompletionsServer, remote: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    arguments = {"members": [*OURS, remote], "samples": 3, "temperature": 0.9, **SHORT, "store": str(tmp_path / "s.sqlite")}
    options: dict[str, Any] = {"limit": 2, "batch_size": 2}
    server.payloads.clear()
    first = evaluate("ensemble-ppl", model_args=arguments, **options)
    for entry in records(first):
        for name in ("dllm", "fim", "server"):
            assert [c["sample"] for c in entry["candidates"] if c["member"] == name] == [0, 1, 2]
    assert {f"pass@3_{name},none" for name in ("dllm", "fim", "server")} <= set(first["results"]["infill_toy"])
    # A seed for each sample, the same for all gaps; the decoding settings reach the server.
    assert len({payload["seed"] for payload in server.payloads}) == 3
    assert {(p["temperature"], p["max_tokens"]) for p in server.payloads} == {(0.9, 12)}
    assert any(len(set(by_member(entry, "server"))) > 1 for entry in records(first))
    # The second run asks nobody.
    asked = len(server.payloads)
    again = evaluate("ensemble-ppl", model_args=arguments, **options)
    assert len(server.payloads) == asked
    assert records(again) == records(first)
    assert "server: 6 of 6 candidates come from" in caplog.text
    assert "What runs behind a server cannot be seen" in caplog.text
    # Another temperature is another member.
    evaluate("ensemble-ppl", model_args={**arguments, "temperature": 1.1}, **options)
    assert len(server.payloads) > asked


def test_a_server_that_fails_is_one_clear_error(evaluate: Run, server: CompletionsServer, remote: dict[str, Any]) -> None:
    remote["args"]["max_retries"] = 1
    server.failures = 100
    try:
        with pytest.raises(HostError, match=rf"server: the server at {server.url} gave no usable response .HTTPError"):
            evaluate("ensemble-ppl", model_args={"members": [*OURS, remote], **SHORT, "store": "off"}, limit=1)
    finally:
        server.failures = 0


def test_samples_of_a_greedy_server_are_refused_before_anything_is_generated(
    evaluate: Run, server: CompletionsServer, remote: dict[str, Any]
) -> None:
    sampled = [{**row, "args": {**row["args"], "temperature": 0.6}} for row in OURS]  # type: ignore[dict-item]
    server.payloads.clear()
    with pytest.raises(ConfigError, match="member 'server' decodes greedily"):
        evaluate("ensemble-ppl", model_args={"members": [*sampled, remote], "samples": 2}, limit=1)
    assert server.payloads == []


def test_gen_kwargs_of_a_member_come_after_those_of_lm_eval(remote: dict[str, Any]) -> None:
    rows = [*OURS, {**remote, "gen_kwargs": {"temperature": 0.3}}]
    found = config.EnsembleConfig.from_arguments({"members": rows, "top_p": 0.9, "max_new_tokens": 5, "greedy": False})
    assert found.members[2].gen_kwargs == {"temperature": 0.3, "top_p": 0.9, "max_gen_toks": 5}
    assert found.members[1].gen_kwargs == {}
    member = ForeignMember(found.members[2], object())
    request = InfillRequest("p", "s", options={"do_sample": False, "temperature": 0.0, "until": ["x"]})
    assert member._settings(request) == {
        "do_sample": True,
        "temperature": 0.3,
        "top_p": 0.9,
        "max_gen_toks": 5,
        "until": ["x"],
    }
    with pytest.raises(ConfigError, match="hf-scored takes these as args"):
        config.EnsembleConfig.from_arguments({"members": [{**OURS[1], "gen_kwargs": {"temperature": 1}}]})
    with pytest.raises(ConfigError, match=r"temperature: got -1, expected >= 0"):
        ForeignMember(config.MemberConfig(name="m", model="hf", gen_kwargs={"temperature": -1}), object())


def test_samples_of_a_stock_model_do_not_depend_on_their_batch(assets: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=str(assets / "fim"), dtype="float32", device="cpu", batch_size=4)
    row = config.MemberConfig(name="stock", model="hf", gen_kwargs={"temperature": 1.0, "max_gen_toks": 8})
    member = ForeignMember(row, lm, seed=3)
    asked = [InfillRequest("", "", "t", i, k, context="def add(a, b):\n") for i in range(2) for k in range(2)]
    torch.manual_seed(5)
    together = [c.text for c in member.propose(asked)]
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(5)))
    assert [member.propose([request])[0].text for request in reversed(asked)] == together[::-1]
    assert len(set(together)) == 4
    assert [c.text for c in ForeignMember(row, lm, seed=4).propose(asked)] != together


FAKE = {
    "vllm/__init__.py": """
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        class SamplingParams:
            calls = []
            def __init__(self, max_tokens=16, stop=(), temperature=1.0, seed=None, top_p=1.0, **other):
                assert not set(other) - {"skip_special_tokens", "spaces_between_special_tokens", "prompt_logprobs"}, other
                self.max_tokens, self.stop, self.temperature, self.seed = max_tokens, stop, temperature, seed
                SamplingParams.calls.append(self)

        def TokensPrompt(prompt_token_ids):
            return {"prompt_token_ids": prompt_token_ids}

        class LLM:
            def __init__(self, model, **settings):
                self.tokenizer = AutoTokenizer.from_pretrained(model)
                self.network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
                self.llm_engine = type("Engine", (), {"model_config": type("Config", (), {"max_model_len": 1024})})

            def generate(self, prompts, sampling_params, use_tqdm=True, lora_request=None):
                return [self.answer(p["prompt_token_ids"], s) for p, s in zip(prompts, sampling_params)]

            def answer(self, ids, params):
                torch.manual_seed(params.seed or 0)
                more = {"do_sample": True, "temperature": params.temperature} if params.temperature else {"do_sample": False}
                out = self.network.generate(torch.tensor([ids]), max_new_tokens=params.max_tokens, pad_token_id=0, **more)
                text = self.tokenizer.decode(out[0, len(ids):], skip_special_tokens=True)
                return type("Output", (), {"outputs": [type("Text", (), {"text": text})]})
        """,
    "vllm/lora/__init__.py": "",
    "vllm/lora/request.py": "class LoRARequest: pass",
    "vllm/renderers/__init__.py": "",
    "vllm/renderers/hf.py": "def resolve_chat_template(**settings): return None",
    "vllm/tokenizers.py": """
        from transformers import AutoTokenizer

        def get_tokenizer(name, **settings):
            return AutoTokenizer.from_pretrained(name)
        """,
    "vllm-0.99.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: vllm\nVersion: 0.99.0\n",
}


@pytest.fixture
def fake_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A package with the surface that lm_eval's vllm model uses, around transformers."""
    for name, text in FAKE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(tmp_path))
    # Before the test: what transformers finds installed. After it: no trace of the package.
    before = set(sys.modules)
    yield importlib.import_module("vllm")
    for name in set(sys.modules) - before:
        if name.split(".")[0] == "vllm" or name == "lm_eval.models.vllm_causallms":
            del sys.modules[name]


def test_vllm_answers_through_lm_evals_own_class(evaluate: Run, fake_vllm: Any, assets: Path) -> None:
    engine = {"name": "engine", "model": "vllm", "args": {"pretrained": str(assets / "fim"), "dtype": "float32"}}
    arguments = {"members": [OURS[1], engine], "samples": 2, "temperature": 0.9, **SHORT}
    found = evaluate("ensemble-ppl", model_args=arguments, limit=2, batch_size=2)
    for entry in records(found):
        assert len(by_member(entry, "engine")) == 2
    assert len({params.seed for params in fake_vllm.SamplingParams.calls}) == 2
    assert {(params.temperature, params.max_tokens) for params in fake_vllm.SamplingParams.calls} == {(0.9, 12)}


def test_k_samples_of_one_model_are_an_ensemble(evaluate: Run) -> None:
    """The baseline that costs the same as two members: one line."""
    arguments = {"members": [OURS[1]], "samples": 2, "temperature": 0.8, "pretrained": "twice"}
    found = evaluate("ensemble-ppl", model_args=arguments, limit=2, batch_size=4)
    for entry in records(found):
        assert [c["member"] for c in entry["candidates"]] == ["fim", "fim"]
    assert {"pass@1_oracle,none", "pass@1_floor,none"} <= set(found["results"]["infill_toy"])


def test_one_at_a_time_gives_the_same(evaluate: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    arguments = {**TINY, "temperature": 0.6, "length": "ar"}
    both = [
        records(evaluate("ensemble-ppl", model_args={**arguments, "load": load}, limit=3, batch_size=2))
        for load in ("together", "one-at-a-time")
    ]
    assert both[0] == both[1]
    loads = [r.getMessage().rsplit(" ", 1)[1] for r in caplog.records if "one-at-a-time: loading" in r.getMessage()]
    # Looked at; proposing; scoring, which begins with the model that is loaded.
    assert loads == ["dllm.", "fim.", "dllm.", "fim."]


def test_a_shelf_for_one_frees_the_other() -> None:
    class Model:
        offers, window = 1, 7

        def propose(self) -> str:
            return "answer"

    alive: list[weakref.ref[Model]] = []

    def build() -> Model:
        model = Model()
        alive.append(weakref.ref(model))
        return model

    shelf = Shelf({"a": build, "b": build}, one=True)
    a, b = LazyModel("a", shelf), LazyModel("b", shelf)
    assert [ref() is None for ref in alive] == [True, False]
    assert (a.window, b.offers, hasattr(a, "propose"), hasattr(a, "absent")) == (7, 1, True, False)
    assert len(alive) == 2  # nothing was loaded to say so
    assert a.propose() == "answer"
    gc.collect()
    assert [ref() is None for ref in alive] == [True, True, False]
    shelf.clear()
    assert alive[-1]() is None


def test_a_route_asks_one_member_only(evaluate: Run) -> None:
    arguments = {**TINY, "route": "suffix_lines>0:dllm;*:fim"}
    found = evaluate("ensemble-ppl", model_args=arguments, limit=6, batch_size=4)
    for sample in found["samples"]["infill_toy"]:
        (candidate,) = sample["selection"]["candidates"]
        assert candidate["member"] == ("dllm" if sample["doc"]["suffix"].strip() else "fim")
        assert sample["selection"]["route"] == arguments["route"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"route": "suffix_empty:qwen;*:dllm"}, "'qwen' is not a member"),
        ({"selector": "always:qwen"}, "qwen"),
        ({"selector_file": "/nowhere.json"}, "cannot be read"),
        ({"load": "one"}, r"\$\.load: got 'one'"),
        ({"store": 3}, r"\$\.store: got 3, expected text"),
    ],
)
def test_faults_are_found_before_anything_is_loaded(
    arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lm_eval_ensemble.harness.ensemble_lm.build_member", None)
    with pytest.raises(ConfigError, match=message):
        EnsemblePPL(**TINY, **arguments)


def test_fingerprints_name_what_decides_an_answer(diffusion: Any, scored: Any, assets: Path) -> None:
    from lm_eval_ensemble.harness.diffusion_lm import DiffusionInfill

    for lm in (diffusion, scored):
        found = json.loads(json.dumps(lm.fingerprint()))
        assert "model.safetensors" in found["weights"]["files"]
        assert found["computed"][:2] == ["cpu", "torch.float32"]
    plain = diffusion.fingerprint()
    # Batch size, device number and the path do not count; everything else does.
    moved = DiffusionInfill(preset="tiny", batch_size=2, seed=diffusion.seed)
    assert moved.fingerprint() == plain
    for changed in (
        {"steps": 3},
        {"temperature": 0.5},
        {"length": "fixed:3"},
        {"seed": 99},
        {"name": "other"},
        {"dtype": "bfloat16"},
    ):
        settings = {"preset": "tiny", "seed": diffusion.seed, **changed}
        assert DiffusionInfill(**settings).fingerprint() != plain, changed


def test_what_of_a_request_counts(diffusion: Any, scored: Any) -> None:
    request = InfillRequest("p", "s", "t", reference="ref", hint="hint", context="prompt")
    blind = InfillRequest("p", "s", "t")
    assert scored.relevant(request) == blind
    kept = diffusion.relevant(request)  # length: auto, which takes the reference where there is one
    assert (kept.reference, kept.hint, kept.context) == ("ref", None, "")
    assert diffusion.relevant(InfillRequest("p", "s", "t", hint="hint")).hint == "hint"
    foreign = ForeignMember(config.MemberConfig(name="m", model="hf"), object())
    assert foreign.relevant(request) == InfillRequest("p", "s", "t", context="prompt")


def test_weights_nobody_can_name_are_not_stored() -> None:
    row = config.MemberConfig(name="m", model="vllm", args={"pretrained": "someone/not-on-this-disk"})
    assert ForeignMember(row, object()).fingerprint() is None
    assert ForeignMember(config.MemberConfig(name="m", model="own"), object()).fingerprint() is None
