"""An autoregressive checkpoint continued as a diffusion infiller fills gaps, and an ended run goes on exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lm_eval_ensemble.config import asset_path
from lm_eval_ensemble.harness.diffusion_lm import DiffusionInfill
from lm_eval_ensemble.types import InfillRequest
from scripts import adapt_diffusion
from scripts.tiny_corpus import select_files, write_file_list

FILES = ("bisect.py", "heapq.py", "shlex.py", "textwrap.py", "calendar.py")
FIM = asset_path("asset:tiny/fim")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = [file for file in select_files(["stdlib"]) if file.path in FILES or file.split == "held_out"]
    path = tmp_path_factory.mktemp("corpus") / "corpus.json"
    write_file_list(path, files)
    return path


def run(corpus: Path, out: Path, *more: str) -> list[str]:
    given = [FIM, "--corpus", str(corpus), "--out", str(out), "--threads", "1", "--device", "cpu"]
    return [*given, "--batch-tokens", "512", "--window", "128", *more]


def test_an_adapted_checkpoint_fills_gaps_as_a_diffusion_model(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "adapted"
    assert adapt_diffusion.main(run(corpus, out, "--steps", "30", "--save-every", "10", "--lora", "8", "--rate", "1e-3")) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert lines[-1]["middle"] < lines[0]["middle"]  # nats per masked token of held-out files
    assert json.loads((out / "training.json").read_text())["licences"] == {"stdlib": "PSF-2.0"}
    assert not (out / "state.pt").exists()
    model = DiffusionInfill(pretrained=str(out), length="fixed:4", steps=4, max_new_tokens=8, device="cpu")
    (found,) = model.propose([InfillRequest("def f(x):\n", "    return y\n")])
    assert len(found.logprobs or ()) == 4


def test_a_run_that_was_ended_goes_on_with_the_same_batches(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert adapt_diffusion.main(run(corpus, tmp_path / "whole", "--steps", "4", "--save-every", "2", "--lora", "0")) == 0
    save = adapt_diffusion._save_state
    with monkeypatch.context() as patch:

        def ended(path: Path, how: object, step: int, *rest: object) -> None:
            save(path, how, step, *rest)  # type: ignore[arg-type]
            raise KeyboardInterrupt

        patch.setattr(adapt_diffusion, "_save_state", ended)
        with pytest.raises(KeyboardInterrupt):
            adapt_diffusion.main(run(corpus, tmp_path / "parts", "--steps", "4", "--save-every", "2", "--lora", "0"))
    assert adapt_diffusion.main(run(corpus, tmp_path / "parts", "--steps", "5", "--save-every", "2", "--lora", "0")) == 1
    assert adapt_diffusion.main(run(corpus, tmp_path / "parts", "--steps", "4", "--save-every", "2", "--lora", "0")) == 0
    whole, parts = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts


def test_the_row_of_a_new_mask_is_the_mean_of_the_others() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FIM)
    tokenizer.mask_token = None
    model = AutoModelForCausalLM.from_pretrained(FIM)
    before = model.get_input_embeddings().weight.detach().clone()
    mask = adapt_diffusion.add_mask(model, tokenizer)
    table = model.get_input_embeddings().weight
    assert tokenizer.convert_ids_to_tokens(mask) == adapt_diffusion.MASK_NAME
    assert torch.allclose(table[mask], table[:mask].mean(0), atol=1e-6)
    assert torch.equal(table[:mask][:5], before[:5])
