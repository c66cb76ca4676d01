"""The ensemble end to end, on the embedded pair and the toy set."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from lm_eval_ensemble.errors import ConfigError, HostError
from lm_eval_ensemble.harness.ensemble_lm import EnsemblePPL

Run = Callable[..., Any]
TINY = {"preset": "tiny", "pretrained": "tiny"}
#: Gaps of the run that several tests look at.
LIMIT = 24


@pytest.fixture(scope="module")
def results() -> Any:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    return simple_evaluate(
        model="ensemble-ppl",
        model_args=TINY,
        batch_size=16,
        tasks=["infill_toy"],
        task_manager=TaskManager(include_defaults=False, metadata=TINY),
        confirm_run_unsafe_code=True,
        bootstrap_iters=0,
        limit=LIMIT,
    )


def test_every_row_of_the_design_is_there(results: Any) -> None:
    names = {name.split(",")[0] for name in results["results"]["infill_toy"]}
    endings = ["", "_dllm", "_fim", "_oracle", "_floor"]
    expected = {f"{m}{e}" for m in ("pass@1", "exact_match", "exact_match_first_line") for e in endings}
    expected |= {f"{row}_{m}" for row in ("pick_rate", "log_ppl") for m in ("dllm", "fim")}
    expected |= {
        "agreement_rate",
        "tie_rate",
        "timeout_rate",
        "judge_error_rate",
        "cut_rate",
        "trimmed_rate",
        "selection",
        "length_mode",
    }
    assert expected <= names


def test_floor_ensemble_oracle(results: Any) -> None:
    rows = results["results"]["infill_toy"]
    for measure in ("pass@1", "exact_match", "exact_match_first_line"):
        floor, own, oracle = (rows[f"{measure}{e},none"] for e in ("_floor", "", "_oracle"))
        assert floor <= own <= oracle
        for sample in results["samples"]["infill_toy"]:
            assert sample[f"{measure}_floor"] <= sample[measure] <= sample[f"{measure}_oracle"]
    assert rows["pass@1_oracle,none"] > 0
    total = sum(rows[f"{name},none"] for name in ("pick_rate_dllm", "pick_rate_fim", "agreement_rate"))
    assert total == pytest.approx(1.0)
    assert rows["length_mode,none"] == "oracle"


def test_every_sample_has_its_record(results: Any) -> None:
    for sample in results["samples"]["infill_toy"]:
        entry = json.loads(json.dumps(sample["selection"], allow_nan=False))
        assert [c["member"] for c in entry["candidates"]] == ["dllm", "fim"]
        chosen = entry["candidates"][entry["winner_index"]]
        assert chosen["text"] == sample["filtered_resps"][0]
        assert (chosen["verdict"] == "pass") == bool(sample["pass@1"])
        for candidate in entry["candidates"]:
            # Those of the passes that the rule needs, and no others.
            per_token = {"fim", "onepass"}
            free = {f"{name}{ending}" for name in per_token for ending in ("", "_byte", "_worst")}
            assert set(candidate["scores"]) == {*free, "fim+onepass"}
            assert candidate["bytes"] == len(candidate["text"].encode())
            assert set(candidate["score_tokens"]) == per_token
            assert candidate["verdict"] in ("pass", "fail", "timeout")
            assert all(p is None or p <= 0 for p in candidate["logprobs"])
        lowest = min(c["scores"]["fim+onepass"] for c in entry["candidates"] if c["text"].strip())
        if entry["reason"] == "score":
            assert chosen["scores"]["fim+onepass"] == lowest
    known = results["config"]["diffusion_family"]
    assert {name: (facts["family"], facts["mask_id"]) for name, facts in known.items()} == {"dllm": ("open-dcoder", 5)}


def test_lm_eval_keeps_text_beside_the_record(results: Any) -> None:
    # A trace beside every record would hold all candidates twice, to the end of the run.
    for sample in results["samples"]["infill_toy"]:
        kept = [*sample["resps"][0], *sample["filtered_resps"]]
        assert {type(text) for text in kept} == {str}
        chosen = sample["selection"]["candidates"][sample["selection"]["winner_index"]]
        assert kept == [chosen["text"]] * 2


def test_members_alone_give_their_rows_of_the_ensemble(results: Any, evaluate: Run) -> None:
    rows = results["results"]["infill_toy"]
    for model, member in (("diffusion-infill", "dllm"), ("hf-scored", "fim")):
        alone = evaluate(model, model_args=TINY, batch_size=8, limit=LIMIT)
        assert alone["results"]["infill_toy"]["pass@1,none"] == rows[f"pass@1_{member},none"]
        texts = [s["selection"]["candidates"][0]["text"] for s in alone["samples"]["infill_toy"]]
        own = [
            next(c["text"] for c in s["selection"]["candidates"] if c["member"] == member)
            for s in results["samples"]["infill_toy"]
        ]
        assert texts == own


def test_length_ar_takes_the_partners_length(evaluate: Run) -> None:
    found = evaluate("ensemble-ppl", model_args={**TINY, "length": "ar"}, limit=6, batch_size=8)
    causal = EnsemblePPL(**TINY).scorers.causal
    assert causal is not None
    encode = causal.encoder.encode
    for sample in found["samples"]["infill_toy"]:
        dllm, fim = sample["selection"]["candidates"]
        assert dllm["length_mode"] == "ar"
        assert dllm["length"] == min(max(len(encode(fim["text"])), 1), 64)


def test_sampled_runs_repeat_and_seeds_differ(evaluate: Run) -> None:
    def texts(seed: int, limit: int = 4) -> list[str]:
        arguments = {**TINY, "temperature": 1.0, "samples": 2, "seed": seed}
        found = evaluate("ensemble-ppl", model_args=arguments, limit=limit, batch_size=8)
        return [c["text"] for s in found["samples"]["infill_toy"] for c in s["selection"]["candidates"]]

    first = texts(1)
    assert len(first) == 4 * 4
    assert first == texts(1)
    assert first != texts(2)
    # A document's candidates do not depend on how many others there are.
    assert first[:8] == texts(1, limit=2)


def test_samples_give_pass_at_k_for_members(evaluate: Run) -> None:
    arguments = {**TINY, "temperature": 0.8, "samples": 3}
    found = evaluate("ensemble-ppl", model_args=arguments, limit=3, batch_size=8)
    assert 0 <= found["results"]["infill_toy"]["pass@3_fim,none"] <= 1


def test_samples_may_differ_by_the_order_of_positions_alone(evaluate: Run) -> None:
    """`alg=origin` draws which positions are filled next; each token is the most probable one."""
    members = [{"name": "dllm", "model": "diffusion-infill", "args": {"preset": "tiny", "alg": "origin"}}]
    arguments = {"members": members, "samples": 4, "store": "off"}
    found = evaluate("ensemble-ppl", model_args=arguments, limit=6, batch_size=8)
    texts = [{c["text"] for c in sample["selection"]["candidates"]} for sample in found["samples"]["infill_toy"]]
    assert max(map(len, texts)) > 1


def test_a_temperature_of_the_members_preset_counts() -> None:
    """`preset=paper` draws. Its checkpoints are not here, so only the check is asked."""
    for args, fault in (({"preset": "paper"}, False), ({"preset": "paper", "greedy": True}, True), ({"preset": "tiny"}, True)):
        members = [{"name": "qwen", "model": "hf-scored", "args": args}]
        with pytest.raises(ConfigError, match="decodes greedily") if fault else contextlib.nullcontext():
            EnsemblePPL.check({"members": members, "samples": 2})


def test_a_third_party_model_can_be_a_member(assets: Any, evaluate: Run) -> None:
    members = [
        {"name": "dllm", "model": "diffusion-infill", "args": {"preset": "tiny"}},
        {"name": "fim", "model": "hf-scored", "args": {"preset": "tiny"}},
        {"name": "stock", "model": "hf", "args": {"pretrained": str(assets / "fim"), "dtype": "float32"}},
    ]
    found = evaluate("ensemble-ppl", model_args={"members": members, "pretrained": "three"}, limit=3)
    for sample in found["samples"]["infill_toy"]:
        by_name = {c["member"]: c for c in sample["selection"]["candidates"]}
        assert set(by_name) == {"dllm", "fim", "stock"}
        assert all(math.isfinite(c["scores"]["fim"]) for c in by_name.values() if c["text"].strip())


def test_an_ensemble_can_be_a_member(evaluate: Run) -> None:
    members = [
        {"name": "pair", "model": "ensemble-ppl", "args": {"preset": "tiny"}},
        {"name": "fim", "model": "hf-scored", "args": {"preset": "tiny"}},
    ]
    found = evaluate("ensemble-ppl", model_args={"members": members, "pretrained": "nested"}, limit=2)
    for sample in found["samples"]["infill_toy"]:
        assert [c["member"] for c in sample["selection"]["candidates"]] == ["pair", "fim"]


def test_scores_under_named_models_and_a_third_one(assets: Any, evaluate: Run) -> None:
    arguments = {
        **TINY,
        "score": "fim@fim+onepass@dllm+causal@judge",
        "scorers": [{"name": "judge", "model": "hf-scored", "args": {"preset": "tiny", "max_length": 200}}],
        "extra_scores": "chain+elbo+pmi",
        "record": "token_scores",
    }
    found = evaluate("ensemble-ppl", model_args=arguments, limit=3, batch_size=8)
    for sample in found["samples"]["infill_toy"]:
        for candidate in sample["selection"]["candidates"]:
            scores = candidate["scores"]
            parts = [scores[name] for name in ("fim", "onepass", "causal@judge")]
            assert scores[arguments["score"]] == pytest.approx(sum(parts) / 3, abs=2e-5)
            assert {"chain", "elbo", "pmi", "chain_byte"} <= set(scores)
            # Few tokens have few sets of masks: all are taken, and the value is exact.
            assert (candidate["stderr"]["elbo"] > 0) == (candidate["score_tokens"]["elbo"] > 5)
            tokens = candidate["token_scores"]
            assert set(tokens) == {"fim", "prior", "onepass", "chain", "sequence@judge"}
            assert -sum(tokens["chain"]["middle"]) / len(tokens["chain"]["middle"]) == pytest.approx(scores["chain"], abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": "fim@dllm"}, "needs a hf-scored model, and 'dllm' is diffusion-infill"),
        ({"score": "fim@fmi"}, "Did you mean 'fim'"),
        ({"extra_scores": "chian"}, "Did you mean 'chain'"),
        ({"record": "tokens"}, r"\$\.record: got 'tokens', expected text that matches"),
        ({"scorers": [{"name": "fim", "model": "hf-scored"}]}, r"\$\.scorers\[0\]\.name: 'fim' is the name of another"),
        ({"scorers": [{"name": "j", "model": "hf"}]}, r"\$\.scorers\[0\]\.model: got 'hf', expected"),
        ({"score": "casual"}, "Did you mean 'causal'"),
        ({"selector": "argmax"}, "Did you mean 'argmin'"),
        ({"samples": 3}, r"'dllm' decodes greedily.*Set temperature= above 0. Or draw the order of positions: alg=origin"),
        ({"samples": 3, "alg": "origin"}, "'fim' decodes greedily"),
        ({"length": "oracel"}, "Did you mean 'oracle'"),
        ({"steps": 0}, r"\$\.steps: got 0, expected >= 1"),
    ],
)
def test_bad_settings_fail_before_anything_is_generated(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EnsemblePPL(**TINY, **arguments)


def test_a_member_that_cannot_be_asked_is_refused_before_another_answers(tmp_path: Any) -> None:
    layout = tmp_path / "other.yaml"
    layout.write_text('parts: ["<PRE>", PREFIX, "<SUF>", SUFFIX, "<MID>"]')
    members = [
        {"name": "dllm", "model": "diffusion-infill", "args": {"preset": "tiny"}},
        {"name": "fim", "model": "hf-scored", "args": {"preset": "tiny", "layout": str(layout)}},
    ]
    with pytest.raises(ConfigError, match="has no token '<PRE>'"):
        EnsemblePPL(members=members, store="off")


def test_a_route_to_a_member_that_needs_another_is_refused() -> None:
    hybrid = {"name": "hybrid", "model": "refine", "args": {"of": "dllm"}}
    rows = [
        {"name": name, "model": model, "args": {"preset": "tiny", **more}}
        for name, model, more in (("dllm", "diffusion-infill", {"length": "grid:ar+4"}), ("fim", "hf-scored", {}))
    ]
    with pytest.raises(ConfigError) as error:
        EnsemblePPL(members=[*rows, hybrid], route="suffix_lines>3:hybrid;suffix_empty:dllm;*:fim")
    first, second = str(error.value).splitlines()
    assert first.startswith("$.route: 'hybrid' corrects another member's answer")
    assert second.startswith("$.route: 'dllm' has length=grid:ar+4, but no partner is asked")


def test_members_must_be_known_and_able_to_score() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'hf-scored'"):
        EnsemblePPL(
            members=[{"name": "a", "model": "hf-scord"}, {"name": "b", "model": "hf-scored", "args": {"preset": "tiny"}}]
        )
    with pytest.raises(ConfigError, match="none of them can score"):
        EnsemblePPL(members=[{"name": "a", "model": "hf", "args": {"pretrained": "x"}}])


def test_the_hosts_answer_cache_is_refused(evaluate: Run, tmp_path: Any) -> None:
    with pytest.raises(HostError, match=r"--use_cache.* store=PATH"):
        evaluate("ensemble-ppl", model_args=TINY, limit=1, use_cache=str(tmp_path / "cache"))


def test_chat_templates_are_refused(evaluate: Run) -> None:
    with pytest.raises(HostError, match="apply_chat_template"):
        evaluate("ensemble-ppl", model_args=TINY, limit=1, apply_chat_template=True)
