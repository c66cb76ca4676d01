from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from lm_eval_ensemble import ensemble
from lm_eval_ensemble.config import DiffusionConfig, parse_settings
from lm_eval_ensemble.diffusion.confidence import Bias, LengthBias, Probe, Signals, fingerprint, newline_ids, read_signals
from lm_eval_ensemble.diffusion.length import FIXED_MEAN
from lm_eval_ensemble.errors import ConfigError, HostError
from lm_eval_ensemble.harness.diffusion_lm import DiffusionInfill
from lm_eval_ensemble.harness.ensemble_lm import EnsemblePPL
from lm_eval_ensemble.scoring import Scorers
from lm_eval_ensemble.types import Completion, InfillRequest


def requests(documents: list[dict[str, Any]], **changes: Any) -> list[InfillRequest]:
    return [InfillRequest(d["prefix"], d["suffix"], "toy", i, cut=d["cut"], **changes) for i, d in enumerate(documents)]


def hinted(documents: list[dict[str, Any]]) -> list[InfillRequest]:
    hints = [d["middle"] for d in documents[1:]] + [""]
    return [replace(r, hint=h) for r, h in zip(requests(documents), hints, strict=True)]


@pytest.mark.parametrize("policy", ["search", "ar:3"])
def test_the_length_does_not_depend_on_batch_or_order(toy: list[dict[str, Any]], policy: str) -> None:
    asked = hinted(toy[:5])
    found = []
    for size, order in ((1, 1), (3, 1), (8, -1)):
        model = DiffusionInfill(preset="tiny", length=policy, batch_size=size)
        found.append(model.lengths.find(asked[::order], [20] * len(asked))[::order])
    assert found[0] == found[1] == found[2]
    assert {length.mode for length in found[0]} == {policy}
    assert all(1 <= length.tokens <= 20 and length.forwards > 0 for length in found[0])


def test_no_neighbours_is_the_partners_answer(toy: list[dict[str, Any]]) -> None:
    asked = hinted(toy[:3])
    plain, none = (DiffusionInfill(preset="tiny", length=p, batch_size=4).propose(asked) for p in ("ar", "ar:0"))
    assert plain == none
    assert [c.info["length_forwards"] for c in plain] == [0, 0, 0]


def test_the_cost_stands_in_the_record(toy: list[dict[str, Any]]) -> None:
    model = DiffusionInfill(preset="tiny", length="ar:2", batch_size=4)
    found = model.propose([InfillRequest("x = ", "\n", hint="1 + 2 + 3\n")])[0]
    count = len(model.encoder.encode("1 + 2 + 3\n"))
    assert found.info["length_mode"] == "ar:2"
    assert abs(found.info["length"] - count) <= 2
    assert found.info["length_forwards"] == 5
    assert found.info["row_forwards"] >= found.info["length"] - 1


def test_signals_are_read_off_the_masks(diffusion: DiffusionInfill) -> None:
    encode, network = diffusion.encoder.encode, diffusion.network
    newlines = newline_ids(network)
    assert set(encode("x\n    y\n")) & set(newlines.tolist())
    assert not set(encode("x = 1")) & set(newlines.tolist())
    prefix, suffix = encode("def f(x):\n"), encode("print(1)\n")
    one, four, long = read_signals(network, [Probe(prefix, suffix, n) for n in (1, 4, 40)], newlines)
    assert one.one_line == 0
    assert 0 < long.confidence < four.confidence <= 1
    assert long.one_line < four.one_line <= 0


def test_a_table_is_linear_in_the_logarithm() -> None:
    table = LengthBias((2, 8), (1.0, 3.0), confidence=2.0, one_line=0.5)
    signals = Signals(0.5, -2.0)
    assert [table.score(signals, n) for n in (1, 2, 4, 8, 99)] == pytest.approx([1, 1, 2, 3, 3])


def test_the_embedded_bias_belongs_to_the_embedded_model(assets: Path, diffusion: DiffusionInfill) -> None:
    bias = Bias.load(assets / "mdm" / "length_bias.json", fingerprint(diffusion.network.model))
    assert bias.origin["texts"] >= 20
    half = AutoModelForCausalLM.from_pretrained(assets / "mdm", dtype="bfloat16")
    assert fingerprint(half) == bias.model
    line = bias.tables["line"]
    assert line.one_line > 0
    assert line.confidence > 0


def test_a_bias_of_another_model_is_refused(assets: Path, tmp_path: Path) -> None:
    path = tmp_path / "bias.json"
    content = json.loads((assets / "mdm" / "length_bias.json").read_text())
    path.write_text(json.dumps({**content, "model": "0123456789abcdef"}))
    with pytest.raises(ConfigError, match=r"fitted with model 0123456789abcdef, but this model is .*fit-length"):
        DiffusionInfill(preset="tiny", length="search", length_bias=str(path))


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"model": 1, "format": 1, "origin": {}, "tables": {}}', '{"tables": {"line": 3}}']
)
def test_a_broken_bias_is_one_message(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bias.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"length_bias=.*bias.json: not a .*file of fit-length"):
        Bias.load(path, "m")
    with pytest.raises(ConfigError, match="No such file"):
        Bias.load(tmp_path / "none.json", "m")


def test_a_bias_that_is_no_number_is_refused(assets: Path, tmp_path: Path) -> None:
    path = tmp_path / "bias.json"
    content = json.loads((assets / "mdm" / "length_bias.json").read_text())
    content["tables"]["line"]["bias"][0] = float("nan")
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="a number is not finite"):
        Bias.load(path, content["model"])


def test_a_model_without_a_bias_is_told_so(assets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for file in (assets / "mdm").iterdir():
        if file.name != "length_bias.json":
            (tmp_path / file.name).symlink_to(file)
    model = DiffusionInfill(pretrained=str(tmp_path), length="search", max_new_tokens=16)
    assert "no length bias" in caplog.text
    assert 1 <= model.lengths.find([InfillRequest("x = ", "\n")], [16])[0].tokens <= 16


@pytest.mark.parametrize("policy", ["ar:-1", "fixed:0", "grid:4", "grid:", "grid:4+0", "fixed-mean:3", "search:2", "ar:x"])
def test_bad_policies_are_named(policy: str) -> None:
    with pytest.raises(
        ConfigError, match=r"length: got .*expected a length policy.*Known: ar, ar:K, expand, expand:N, fixed-mean"
    ):
        parse_settings(DiffusionConfig, {"pretrained": "x", "length": policy})


def test_a_grid_is_offered_to_the_selector(toy: list[dict[str, Any]], scored: Any) -> None:
    model = DiffusionInfill(name="dllm", preset="tiny", length="grid:2+4+ar", batch_size=8, steps=4)
    found = ensemble.run(requests(toy[:2]), [model, scored], Scorers(scored, model), ensemble.Settings())
    for completion in found:
        assert completion.trace is not None
        own = [s.candidate for s in completion.trace.candidates if s.candidate.member == "dllm"]
        partner = next(s.candidate for s in completion.trace.candidates if s.candidate.member != "dllm")
        lengths = [2, 4, min(len(model.encoder.encode(partner.text)), 64)]
        assert [c.info["length"] for c in own] == lengths
        assert {c.info["length_mode"] for c in own} == {"grid"}
        assert completion.runs == (completion.trace,)


def test_alone_a_grid_keeps_its_likeliest_fill(toy: list[dict[str, Any]]) -> None:
    model = DiffusionInfill(preset="tiny", length="grid:2+4+8", batch_size=9, steps=4)
    for completion in model.answer_alone(requests(toy[:3])):
        assert completion.trace is not None
        totals = {s.candidate.text: -sum(s.candidate.logprobs or ()) for s in completion.trace.candidates}
        assert len(completion.trace.candidates) == 3
        assert totals[str(completion)] == pytest.approx(min(totals.values()), abs=1e-3)


def test_fixed_mean_is_the_mean_of_the_five_fixed_rows(evaluate: Callable[..., Any], toy: list[dict[str, Any]]) -> None:
    def results(length: str) -> Any:
        arguments = {"preset": "tiny", "length": length, "batch_size": 16, "max_length": 128, "steps": 4}
        found = evaluate("diffusion-infill", model_args=arguments, samples={"infill_toy": [0, 20, 40]})
        return found["results"]["infill_toy"], found["samples"]["infill_toy"]

    averaged, samples = results("fixed-mean")
    each = [results(f"fixed:{length}")[0] for length in FIXED_MEAN]
    for name in ("pass@1,none", "exact_match,none", "cut_rate,none"):
        assert averaged[name] == pytest.approx(sum(found[name] for found in each) / 5)
    assert averaged["length_mode,none"] == "fixed-mean"
    first = samples[0]["selection"]["completions"]
    assert [run["candidates"][0]["length"] for run in first] == list(FIXED_MEAN)
    assert [run["candidates"][0]["run"] for run in first] == [0, 1, 2, 3, 4]


def test_an_ensemble_is_averaged_over_the_runs_too(toy: list[dict[str, Any]], scored: Any) -> None:
    averaged, *fixed = (
        DiffusionInfill(name="dllm", preset="tiny", length=p, batch_size=8, steps=4)
        for p in ("fixed-mean", "fixed:4", "fixed:16")
    )

    def texts(model: DiffusionInfill) -> list[Completion]:
        return ensemble.run(requests(toy[:2]), [model, scored], Scorers(scored, model), ensemble.Settings())

    found, four, sixteen = texts(averaged), texts(fixed[0]), texts(fixed[1])
    for i, completion in enumerate(found):
        assert len(completion.runs) == 5
        assert all(len(run.candidates) == 2 for run in completion.runs)
        assert completion.runs[0].chosen.text == str(four[i]) == str(completion)
        assert completion.runs[2].chosen.text == str(sixteen[i])


def test_an_average_cannot_be_inside_another_ensemble(toy: list[dict[str, Any]]) -> None:
    inner = EnsemblePPL(preset="tiny", length="fixed-mean", batch_size=8, steps=2)
    with pytest.raises(HostError, match="fixed-mean"):
        inner.propose([InfillRequest("def f(x):\n", "\n")])
