"""Adapters of autoregressive members; those of diffusion models: tests/diffusion/test_published_families.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lm_eval_ensemble.harness.ensemble_lm import EnsemblePPL
from lm_eval_ensemble.harness.scored_lm import ScoredHF
from lm_eval_ensemble.scoring.base import Span
from lm_eval_ensemble.types import InfillRequest
from tests.standins import save_standin

peft = pytest.importorskip("peft")
DECODING: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 8, "max_length": 384}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> tuple[str, str]:
    """An adapter of the embedded model, as peft saves it, and the model with its changes added to the weights."""
    folder = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(assets / "fim", dtype=torch.float32)
    settings = peft.LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=8, target_modules=["q_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(base, settings)
    adapted.save_pretrained(folder / "adapter")
    adapted.merge_and_unload().save_pretrained(folder / "merged")
    AutoTokenizer.from_pretrained(assets / "fim").save_pretrained(folder / "merged")
    return str(folder / "adapter"), str(folder / "merged")


def test_a_member_reads_and_writes_with_its_adapter(folders: tuple[str, str], assets: Path, scored: Any) -> None:
    adapter, merged = folders
    ensemble = EnsemblePPL(
        store="off",
        seed=1,
        members=[
            {"name": "plain", "model": "hf-scored", "args": {"pretrained": str(assets / "fim"), **DECODING}},
            {"name": "tuned", "model": "hf-scored", "args": {"pretrained": str(assets / "fim"), "peft": adapter, **DECODING}},
        ],
    )
    plain, tuned = ensemble.members
    expected = ScoredHF(pretrained=merged, seed=1, **DECODING)
    spans = [Span([5, 6, 7, 8, 9, 10], 1)]
    assert isinstance(tuned, ScoredHF)
    assert tuned.token_logprobs(spans)[0] == pytest.approx(expected.token_logprobs(spans)[0], abs=1e-4)
    assert tuned.token_logprobs(spans)[0] != pytest.approx(scored.token_logprobs(spans)[0], abs=1e-2)
    request = InfillRequest("def add(a, b):\n", "", reference="    return a + b\n")
    assert tuned.propose([request])[0].raw == expected.propose([request])[0].raw
    assert plain.fingerprint() != tuned.fingerprint()  # a store must not mix their answers up


@pytest.mark.filterwarnings("ignore:Position ids are not supported")
@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_tokens_of_an_adapter_stand_before_every_row_of_a_batch(kind: str, tmp_path: Path) -> None:
    base = save_standin(tmp_path / "base", "qwen2")
    torch.manual_seed(0)
    settings = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=5)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(tmp_path / "adapter")
    lm = ScoredHF(pretrained=base, peft=str(tmp_path / "adapter"), batch_size=4, dtype="float32", **DECODING)
    # Two of one prompt, and rows of other lengths.
    spans = [Span([*range(5, 5 + size), *rest], size) for size, rest in ((30, (9, 8)), (30, (7,)), (12, (9,)), (3, (4, 4)))]
    for span, found in zip(spans, lm.token_logprobs(spans), strict=True):
        logprobs = lm.model(input_ids=torch.tensor([list(span.ids)])).logits[0].log_softmax(-1)[-len(span.ids) :]
        expected = [float(logprobs[i - 1, span.ids[i]]) for i in range(span.start, len(span.ids))]
        assert list(found) == pytest.approx(expected, abs=1e-4)
