from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from lm_eval_ensemble.diffusion.model import MaskedDiffusionModel, pad_right, resolve_mask_id
from lm_eval_ensemble.errors import ModelError


def load(path: str | Path, **options: Any) -> MaskedDiffusionModel:
    return MaskedDiffusionModel.load(str(path), dtype=torch.float32, device="cpu", **options)


@pytest.fixture(scope="module")
def network(assets: Path) -> MaskedDiffusionModel:
    return load(assets / "mdm")


def test_attention_is_bidirectional(network: MaskedDiffusionModel) -> None:
    ids = torch.tensor([[10, 11, 12, 13]])
    other = torch.tensor([[10, 11, 12, 99]])
    lengths, row, column = torch.tensor([4]), torch.tensor([0]), torch.tensor([1])
    assert not torch.equal(network.logits_at(ids, lengths, row, column), network.logits_at(other, lengths, row, column))


def test_padding_is_clean(network: MaskedDiffusionModel) -> None:
    rows = [[10, 5, 12, 13, 14, 15, 16], [20, 5, 22]]
    ids, lengths = pad_right(rows, network.mask_id, network.device)
    together = network.logits_at(ids, lengths, torch.tensor([0, 1]), torch.tensor([1, 1]))
    for i, row in enumerate(rows):
        alone = network.logits_at(torch.tensor([row]), torch.tensor([len(row)]), torch.tensor([0]), torch.tensor([1]))
        assert torch.allclose(together[i], alone[0], atol=1e-4)


def test_control_ids_are_never_predicted(network: MaskedDiffusionModel) -> None:
    ids = torch.tensor([[10, network.mask_id, 12]])
    logits = network.logits_at(ids, torch.tensor([3]), torch.tensor([0]), torch.tensor([1]))
    assert torch.isinf(logits[0, [0, 1, 2, 3, 4, 5]]).all()
    assert torch.isfinite(logits[0, 6:]).all()


def test_shift_takes_the_state_before(network: MaskedDiffusionModel) -> None:
    ids, lengths = torch.tensor([[10, 5, 12, 13]]), torch.tensor([4])
    shifted = network.logits_at(ids, lengths, torch.tensor([0]), torch.tensor([2]))
    try:
        network.shift = False
        plain = network.logits_at(ids, lengths, torch.tensor([0]), torch.tensor([1]))
    finally:
        network.shift = True
    assert torch.equal(shifted, plain)


def test_a_causal_checkpoint_is_refused(assets: Path) -> None:
    with pytest.raises(ModelError, match="autoregressive model"):
        load(assets / "fim")


def test_random_weights_are_accepted(tmp_path: Path, assets: Path) -> None:
    save_random(tmp_path, assets)
    assert load(tmp_path).mask_id == 5


def test_no_mask_token_is_one_clear_error(tmp_path: Path, assets: Path) -> None:
    save_random(tmp_path, assets)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = tmp_path / name
        path.write_text(path.read_text().replace("<|mask|>", "<|other|>"))
    text = (tmp_path / "tokenizer_config.json").read_text()
    (tmp_path / "tokenizer_config.json").write_text(text.replace('"mask_token": "<|other|>",', ""))
    with pytest.raises(ModelError, match="no mask token"):
        load(tmp_path)
    assert load(tmp_path, mask_token="<|other|>").mask_id == 5


def test_the_mask_is_never_added(tokenizer: Any) -> None:
    before = len(tokenizer)
    with pytest.raises(ModelError):
        resolve_mask_id(tokenizer, "<new>")
    assert len(tokenizer) == before


def test_missing_weights_name_the_tiny_preset() -> None:
    with pytest.raises(ModelError, match="preset=tiny"):
        load("nobody/no-such-model")


def save_random(folder: Path, assets: Path) -> None:
    torch.manual_seed(0)
    config = Qwen2Config.from_pretrained(assets / "mdm", hidden_size=32, intermediate_size=48)
    Qwen2ForCausalLM(config).float().save_pretrained(folder)
    AutoTokenizer.from_pretrained(assets / "mdm").save_pretrained(folder)
