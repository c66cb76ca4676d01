from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.harness.diffusion_lm import DiffusionInfill
from lm_eval_ensemble.types import InfillRequest


def requests(documents: list[dict[str, Any]], **changes: Any) -> list[InfillRequest]:
    return [
        InfillRequest(d["prefix"], d["suffix"], "toy", i, reference=d["middle"], cut=d["cut"], **changes)
        for i, d in enumerate(documents)
    ]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_answers_do_not_depend_on_batch_or_order(assets: Path, toy: list[dict[str, Any]], temperature: float) -> None:
    asked = requests(toy[:8])
    found = []
    for size, order in ((1, 1), (3, 1), (8, -1)):
        model = DiffusionInfill(
            pretrained=str(assets / "mdm"), batch_size=size, temperature=temperature, top_p=0.95, steps=8, seed=3
        )
        found.append([c.raw for c in model.propose(asked[::order])[::order]])
    assert found[0] == found[1] == found[2]


def test_the_middle_has_the_length_asked_for(diffusion: DiffusionInfill, toy: list[dict[str, Any]]) -> None:
    for request, candidate in zip(requests(toy[:6]), diffusion.propose(requests(toy[:6])), strict=True):
        assert request.reference is not None
        expected = len(diffusion.encoder.encode(request.reference))
        assert (candidate.info["length"], candidate.info["length_mode"]) == (expected, "oracle")
        assert len(candidate.logprobs or ()) == expected


def test_the_hosts_limits_shorten_text_and_logprobs(assets: Path) -> None:
    model = DiffusionInfill(pretrained=str(assets / "mdm"), steps=4)
    short = model.propose([InfillRequest("x = ", "\n", reference="1 + 2 + 3", max_new_tokens=2)])[0]
    assert short.info["length"] == len(short.logprobs or ()) == 2
    whole = model.propose([InfillRequest("def f(x):\n", "\n", reference="    return x\n")])[0]
    stop = whole.raw.strip()[0]
    cut = model.propose([InfillRequest("def f(x):\n", "\n", reference="    return x\n", until=(stop,))])[0]
    assert cut.raw == whole.raw[: whole.raw.index(stop)]
    assert len(cut.logprobs or ()) < len(whole.logprobs or ())


def test_oracle_length_warns_once(assets: Path, toy: list[dict[str, Any]], caplog: pytest.LogCaptureFixture) -> None:
    model = DiffusionInfill(pretrained=str(assets / "mdm"), steps=2)
    with caplog.at_level(logging.WARNING, "lm_eval_ensemble"):
        model.propose(requests(toy[:3]))
        model.propose(requests(toy[:3]))
    assert sum("true length" in record.message for record in caplog.records) == 1


def test_without_a_reference_the_default_is_the_partners_length(diffusion: DiffusionInfill) -> None:
    hinted = InfillRequest("x = ", "\n", hint="1 + 2")
    assert diffusion.propose([hinted])[0].info["length_mode"] == "ar"
    assert diffusion.propose([InfillRequest("x = ", "\n")])[0].info["length_mode"] == "fixed:16"


def test_explicit_oracle_without_a_reference_is_refused(assets: Path) -> None:
    model = DiffusionInfill(pretrained=str(assets / "mdm"), length="oracle")
    with pytest.raises(ConfigError, match="no reference"):
        model.propose([InfillRequest("x = ", "\n")])


@pytest.mark.parametrize("text", ["List<M>", "<|mask|>", "'<|fim_prefix|>'", "日本語 é", ""])
def test_odd_text_around_the_gap_survives(diffusion: DiffusionInfill, text: str) -> None:
    candidate = diffusion.propose([InfillRequest(f"a = {text}\n", text, reference="x = 1\n")])[0]
    assert candidate.info["length"] == len(diffusion.encoder.encode("x = 1\n"))
    assert "<|" not in candidate.raw


def test_long_context_is_trimmed_around_the_gap(diffusion: DiffusionInfill) -> None:
    candidate = diffusion.propose([InfillRequest("x = 1\n" * 400, "y = 2\n" * 400, reference="z = 3\n")])[0]
    assert candidate.info["trimmed_prefix"] > 0
    assert candidate.info["trimmed_suffix"] > 0


def test_out_of_memory_halves_the_batch(assets: Path, toy: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    model = DiffusionInfill(pretrained=str(assets / "mdm"), steps=2, batch_size=8)
    expected = [c.raw for c in model.propose(requests(toy[:8]))]
    real = model.network.states_at

    def small(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        if len(ids) > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return real(ids, *rest)

    monkeypatch.setattr(model.network, "states_at", small)
    model._batcher.size = 8
    assert [c.raw for c in model.propose(requests(toy[:8]))] == expected
    assert model._batcher.size == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, r"\$\.diffusion-infill\.steps: got 0"),
        ({"length": "oracel"}, "Did you mean 'oracle'"),
        ({"stepz": 3}, "Did you mean 'steps'"),
        ({"preset": "tinny"}, "Did you mean 'tiny'"),
    ],
)
def test_bad_settings_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DiffusionInfill(pretrained="x", **arguments)
