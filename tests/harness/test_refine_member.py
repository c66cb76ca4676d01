"""The refine member: another member's completion, its weakest tokens written anew by the diffusion model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lm_eval_ensemble.config import EnsembleConfig, RefineConfig
from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.harness.ensemble_lm import EnsemblePPL
from lm_eval_ensemble.harness.refine_member import RefineMember
from lm_eval_ensemble.members.refine import weakest
from lm_eval_ensemble.types import InfillRequest

MEMBERS = [
    {"name": "dllm", "model": "diffusion-infill", "args": {"preset": "tiny"}},
    {"name": "fim", "model": "hf-scored", "args": {"preset": "tiny"}},
    {"name": "hybrid", "model": "refine", "args": {"of": "dllm", "threshold": 0.5}},
]


@pytest.fixture(scope="module")
def requests(toy: list[dict[str, Any]]) -> list[InfillRequest]:
    return [
        InfillRequest(d["prefix"], d["suffix"], "toy", i, hint=d["middle"].replace("return", "import"), cut=d["cut"])
        for i, d in enumerate(toy[:8])
    ]


def test_only_the_weakest_tokens_change(diffusion: Any, requests: list[InfillRequest]) -> None:
    config = RefineConfig(of="dllm", fraction=0.3, threshold=0.5)
    texts = [request.hint or "" for request in requests]
    encode = diffusion.encoder.encode
    rows = [(encode(r.prefix), encode(t), encode(r.suffix)) for r, t in zip(requests, texts, strict=True)]
    places = [weakest(found, 0.3, 0.5) for found in diffusion.pseudo_logprobs(rows)]
    found = diffusion.refill(requests, texts, config, seed=0)
    changed = 0
    for refilled, (_, before, _), weak in zip(found, rows, places, strict=True):
        assert refilled.remasked == len(weak)
        assert refilled.tokens == len(before)
        # Reading takes a row for each token; writing at least one where something is written.
        assert (refilled.row_forwards > len(before)) == bool(weak)
        after = encode(refilled.text)
        if len(after) == len(before):  # or the new text is cut into other tokens
            assert [i for i in range(len(before)) if after[i] != before[i]] == [i for i in weak if after[i] != before[i]]
        changed += refilled.text != diffusion.encoder.decode(before)
    assert changed


def test_nothing_weak_leaves_the_text_as_it_is(diffusion: Any, requests: list[InfillRequest]) -> None:
    config = RefineConfig(of="dllm", threshold=50.0)
    member = RefineMember("hybrid", config, diffusion, 0)
    for request, candidate in zip(requests, member.propose(requests), strict=True):
        assert candidate.raw == request.hint
        assert (candidate.info["remasked"], candidate.info["changed"]) == (0, False)
        assert candidate.info["row_forwards"] == candidate.info["refined_tokens"]  # what reading took
    assert member.propose([replace(requests[0], hint="")])[0].raw == ""


@pytest.mark.parametrize(("temperature", "by"), [(0.0, "pseudo"), (0.9, "onepass")])
def test_answers_do_not_depend_on_batch_or_order(
    diffusion: Any, requests: list[InfillRequest], temperature: float, by: Any
) -> None:
    config = RefineConfig(of="dllm", threshold=0.5, temperature=temperature, by=by)
    member = RefineMember("hybrid", config, diffusion, 3)
    together = [candidate.raw for candidate in member.propose(requests)]
    assert together == [candidate.raw for candidate in member.propose(requests[::-1])][::-1]
    assert together == [member.propose([request])[0].raw for request in requests]


def test_it_is_a_member_that_shares_weights(evaluate: Any) -> None:
    arguments = {"members": MEMBERS, "prefer": "fim", "pretrained": "hybrid", "store": "off"}
    found = evaluate("ensemble-ppl", model_args=arguments, limit=6, batch_size=8)
    rows = found["results"]["infill_toy"]
    assert {"pass@1_hybrid,none", "pick_rate_hybrid,none", "log_ppl_hybrid,none"} <= set(rows)
    for sample in found["samples"]["infill_toy"]:
        by_name = {c["member"]: c for c in sample["selection"]["candidates"]}
        hybrid, fim = by_name["hybrid"], by_name["fim"]
        # The first member that needs nobody else is corrected; unchanged text is agreement, never a win.
        assert hybrid["changed"] == (hybrid["raw"] != fim["text"])
        if not hybrid["changed"]:
            assert hybrid["text"] == fim["text"]
            assert sample["selection"]["winner"] != "hybrid"
    members: list[Any] = EnsemblePPL(**{**arguments, "batch_size": 8}).members
    assert members[2].model is members[0]


def test_faults_are_named() -> None:
    def check(args: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            EnsembleConfig.from_arguments({"members": [*MEMBERS[:2], {"name": "hybrid", "model": "refine", "args": args}]})

    check({"of": "dlm"}, r"\$\.members\[2\]\.args\.of: 'dlm' is no diffusion-infill member or scorer\. Did you mean 'dllm'")
    check({"of": "fim"}, "'fim' is no diffusion-infill member")
    check({}, r"\$\.members\[2\]\.args\.of: missing")
    check({"of": "dllm", "fraction": 0}, r"fraction: got 0, expected > 0")
    check({"of": "dllm", "fractoin": 1}, "Did you mean 'fraction'")
    with pytest.raises(ConfigError, match=r"\$\.members\[2\]\.gen_kwargs: refine takes these as args"):
        EnsembleConfig.from_arguments({"members": [*MEMBERS[:2], {**MEMBERS[2], "gen_kwargs": {"temperature": 1}}]})


def test_without_anybody_to_correct_it_says_so(diffusion: Any) -> None:
    member = RefineMember("hybrid", RefineConfig(of="dllm"), diffusion, 0)
    with pytest.raises(ConfigError, match="no other member has answered"):
        member.propose([InfillRequest("a", "b", "toy", 0)])
