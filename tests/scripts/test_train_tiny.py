"""Training the tiny pair: repeatable, in both kinds of attention, on a model of a few thousand weights."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from lm_eval_ensemble.errors import ModelError
from lm_eval_ensemble.harness.diffusion_lm import DiffusionInfill
from lm_eval_ensemble.types import InfillRequest
from scripts import train_tiny
from scripts.tiny_corpus import Corpus, Gap, load_corpus, select_files, write_file_list
from scripts.tiny_samples import (
    END,
    EXPAND,
    IGNORED,
    MASK,
    MIDDLE,
    PAD,
    PREFIX,
    SPECIAL_TOKENS,
    SUFFIX,
    Kind,
    batches,
    fim_sample,
    grow_sample,
    mdm_sample,
)
from scripts.train_tiny import Recipe, Shape, _orthogonalised, build_tokenizer, forward, new_model, probe_attention, save, train

SHAPE = Shape(hidden=32, layers=2, heads=2, intermediate=48)
FILES = ("bisect.py", "heapq.py", "shlex.py", "textwrap.py")
GAP = Gap("def f(x):\n", "    y = x + 1\n", "    return y\n")
KINDS: tuple[Kind, ...] = ("fim", "mdm")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus([file for file in select_files(["stdlib"]) if file.path in FILES], "train")


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus) -> Any:
    return build_tokenizer(corpus, vocabulary=600)


def trained(kind: Kind, seed: int, corpus: Corpus, tokenizer: Any) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Weights after ten steps, and the average loss after each."""
    recipe = Recipe(kind, steps=10, seed=seed, window=96, batch_tokens=256)
    model = new_model(len(tokenizer), SHAPE, seed)
    data = batches(corpus, tokenizer, kind, window=96, batch_tokens=256, seed=seed)
    losses = [step.loss for step in train(model, data, recipe)]
    return model.state_dict(), losses


def test_a_gradient_is_made_orthogonal_in_float32_as_in_bfloat16() -> None:
    """By the singular values alone: directions stay, and all become about 1."""
    wide = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    for matrix in (wide, wide.T):
        found = _orthogonalised(matrix, (3.4445, -4.775, 2.0315), 5, 1e-7)
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        inner = left.T @ found @ right.T
        assert torch.allclose(inner, torch.diag(inner.diag()), atol=1e-4)
        assert 0.6 < inner.diag().min() < inner.diag().max() < 1.3


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_and_steps_give_the_same_weights(kind: Kind, corpus: Corpus, tokenizer: Any) -> None:
    first, losses = trained(kind, 0, corpus, tokenizer)
    second, _ = trained(kind, 0, corpus, tokenizer)
    other, _ = trained(kind, 1, corpus, tokenizer)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert losses[-1] < losses[0]


def test_tokenizer_is_repeatable_and_special_ids_come_first(corpus: Corpus, tokenizer: Any) -> None:
    again = build_tokenizer(corpus, vocabulary=600)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [END, PREFIX, MIDDLE, SUFFIX, PAD, MASK]
    text = "def f(x):\n        return 'é ½'\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_fim_sample_layout(tokenizer: Any) -> None:
    prefix, middle, suffix = tokenizer([GAP.prefix, GAP.middle, GAP.suffix])["input_ids"]
    sample = fim_sample(tokenizer, GAP, window=96)
    assert sample is not None
    assert sample.inputs == [PREFIX, *prefix, SUFFIX, *suffix, MIDDLE, *middle, END]
    ignored = [token for token, target in zip(sample.inputs, sample.targets, strict=True) if target == IGNORED]
    assert ignored == [PREFIX, SUFFIX, MIDDLE]
    assert sample.weights.count(3.0) == len(middle) + 1


def test_fim_sample_keeps_the_middle_in_a_small_window(tokenizer: Any) -> None:
    gap = Gap(GAP.prefix * 30, GAP.middle, GAP.suffix * 30)
    sample = fim_sample(tokenizer, gap, window=64)
    assert sample is not None
    assert len(sample.inputs) == 64
    assert tokenizer.decode(sample.inputs[sample.inputs.index(MIDDLE) + 1 : -1]) == GAP.middle


def test_mdm_loss_is_on_masked_tokens_only(tokenizer: Any) -> None:
    for seed in range(50):
        sample = mdm_sample(tokenizer, GAP, 96, random.Random(seed))
        assert sample is not None
        masked = [token == MASK for token in sample.inputs]
        assert masked == [target != IGNORED for target in sample.targets]
        assert any(masked)
        assert not masked[0]
        restored = [t if m else i for i, t, m in zip(sample.inputs, sample.targets, masked, strict=True)]
        assert tokenizer.decode(restored) == GAP.prefix + GAP.middle + GAP.suffix


def test_grow_sample_merges_and_adds_masks(tokenizer: Any) -> None:
    """Put back together, the samples' middles are the gap's: a merged mask stands for tokens that nobody sees."""
    prefix, middle, suffix = tokenizer([GAP.prefix, GAP.middle, GAP.suffix])["input_ids"]
    merged = deleted = 0
    for seed in range(200):
        sample = grow_sample(tokenizer, GAP, 96, random.Random(seed))
        if sample is None:
            continue  # nothing was masked
        assert sample.inputs[: len(prefix)] == prefix
        assert sample.inputs[len(sample.inputs) - len(suffix) :] == suffix
        inside = slice(len(prefix), len(sample.inputs) - len(suffix))
        inputs, targets = sample.inputs[inside], sample.targets[inside]
        assert [token == MASK for token in inputs] == [target != IGNORED for target in targets]
        assert all(target == IGNORED for target in sample.targets[: len(prefix)] + sample.targets[inside.stop :])
        shown = [token if target == IGNORED else target for token, target in zip(inputs, targets, strict=True)]
        ends = shown.count(END)
        assert END not in shown[: len(shown) - ends]
        kept = iter(middle)
        # What is shown beside the merged ones is the middle in its order, and whole where nothing was merged.
        assert all(token in kept for token in shown if token not in (END, EXPAND))
        assert (EXPAND in shown) or shown[: len(shown) - ends] == middle
        merged, deleted = merged + (EXPAND in shown), deleted + (ends > 0)
    assert 20 < merged < 180
    assert 20 < deleted < 180


def test_deletions_of_a_batch_count_as_one_token(corpus: Corpus, tokenizer: Any) -> None:
    for batch in itertools.islice(batches(corpus, tokenizer, "grow", window=96, batch_tokens=512, seed=3), 10):
        ends = batch.targets == END
        assert float(batch.weights[ends].sum()) == pytest.approx(float(bool(ends.any())))
        assert bool((batch.weights[~ends] == 1).all())


def test_batches_respect_the_token_limit_and_pad_on_the_right(corpus: Corpus, tokenizer: Any) -> None:
    data = batches(corpus, tokenizer, "fim", window=96, batch_tokens=256, seed=3)
    for batch in itertools.islice(data, 30):
        assert batch.inputs.shape == batch.targets.shape == batch.weights.shape
        assert batch.inputs.numel() <= 256
        assert bool((batch.targets[batch.inputs == PAD] == IGNORED).all())


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind: Kind, tokenizer: Any) -> None:
    model = new_model(len(tokenizer), SHAPE, seed=0).eval()
    plain = torch.arange(10, 30)[None]
    padded = torch.cat([plain, torch.full((1, 12), PAD)], 1)
    with torch.no_grad():
        short, long = (forward(model, tokens, causal=kind == "fim") for tokens in (plain, padded))
    torch.testing.assert_close(long[:, :20], short, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_attention_of_the_wrong_kind_is_refused(causal: bool, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_model(len(tokenizer), SHAPE, seed=0)
    probe_attention(model, causal=causal)
    monkeypatch.setattr(
        train_tiny, "forward", lambda model, inputs, causal, pad: forward(model, inputs, causal=not causal, pad=pad)
    )
    with pytest.raises(ModelError, match="Attention of Qwen2ForCausalLM"):
        probe_attention(model, causal=causal)


def test_attention_is_seen_past_tokens_of_equal_rows(tokenizer: Any) -> None:
    model = new_model(len(tokenizer), SHAPE, seed=0)
    with torch.no_grad():  # as the reserved tokens of a published checkpoint are, of which many were never trained
        model.get_input_embeddings().weight[10:30] = 0.5
    probe_attention(model, causal=False)


def test_learning_rate_rises_holds_and_falls() -> None:
    recipe = Recipe("fim", steps=100)
    factors = [recipe.rate_factor(step) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:40] == [1.0] * 31
    assert factors[70] == pytest.approx(0.51)  # (1 - 0.7) / 0.6 + 0.01
    assert factors[99] == pytest.approx(0.01 / 0.6 + 0.01)
    assert Recipe("fim", steps=100, schedule="constant").rate_factor(99) == 1.0


def test_saved_checkpoint_loads_in_stock_transformers(tokenizer: Any, tmp_path: Path) -> None:
    model = new_model(len(tokenizer), SHAPE, seed=0)
    probe_attention(model, causal=False)
    save(model, tokenizer, tmp_path)
    assert "is_causal" not in json.loads((tmp_path / "config.json").read_text())
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644
    loaded = Qwen2ForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    for name, weights in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weights.bfloat16().float()), name
    reloaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert reloaded.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_train_command_records_what_it_was_made_from(
    corpus: Corpus, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [file for file in select_files(["stdlib"]) if file.path in FILES or file.split == "held_out"][:8]
    write_file_list(tmp_path / "corpus.json", files)
    tokenizer.save_pretrained(tmp_path / "tok")
    monkeypatch.setattr(train_tiny, "Shape", lambda: SHAPE)
    arguments = ["train", "--kind", "fim", "--corpus", str(tmp_path / "corpus.json"), "--out", str(tmp_path / "fim")]
    start = ["--tokenizer", str(tmp_path / "tok"), "--steps", "2", "--batch-tokens", "512"]
    assert train_tiny.main(arguments + start) == 0
    found = json.loads((tmp_path / "fim" / "training.json").read_text())
    assert found["recipe"]["steps"] == 2
    assert found["corpus_sha256"] == json.loads((tmp_path / "corpus.json").read_text())["sha256"]
    assert found["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert found["history"][-1]["step"] == 2
    assert str(tmp_path) not in json.dumps(found)


def test_a_growing_model_is_made_of_a_diffusion_model(
    corpus: Corpus, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [file for file in select_files(["stdlib"]) if file.path in FILES or file.split == "held_out"][:8]
    write_file_list(tmp_path / "corpus.json", files)
    save(new_model(len(tokenizer), SHAPE, seed=0), tokenizer, tmp_path / "mdm")
    arguments = ["train", "--kind", "grow", "--corpus", str(tmp_path / "corpus.json"), "--out", str(tmp_path / "grow")]
    assert train_tiny.main([*arguments, "--init", str(tmp_path / "mdm"), "--steps", "2", "--batch-tokens", "512"]) == 0
    model = DiffusionInfill(pretrained=str(tmp_path / "grow"), length="expand:2", alg="entropy", max_new_tokens=6)
    assert (model.network.expand_id, model.network.end_ids) == (EXPAND, [END])
    found = model.propose([InfillRequest(GAP.prefix, GAP.suffix)])[0]
    assert found.info["length"] == len(found.logprobs or ()) <= 6


def test_errors_are_printed_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "corpus.json"
    path.write_text(json.dumps({"sha256": "0", "files": []}))
    assert train_tiny.main(["tokenizer", "--corpus", str(path), "--out", str(tmp_path)]) == 1
    assert "the list states 0" in capsys.readouterr().err
