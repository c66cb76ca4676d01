from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from lm_eval_ensemble.diffusion.model import MaskedDiffusionModel, pad_right, resolve_mask_id
from lm_eval_ensemble.errors import ModelError
from lm_eval_ensemble.families import FAMILIES


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
    strip_mask_token(tmp_path)
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


SHAPES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("shape", "shift"), [("qwen2", True), ("qwen3", True), ("llama", False)])
def test_every_shape_sees_both_sides_and_no_padding(
    tmp_path: Path, assets: Path, shape: str, shift: bool, attention: str
) -> None:
    save_random(tmp_path, assets, shape)
    network = load(tmp_path, attn_implementation=attention, shift=shift)
    assert type(network.model) is SHAPES[shape][1]
    assert network.model.config._attn_implementation == attention
    rows = [[10, 5, 12, 13, 14, 15, 16, 5, 18], [20, 5, 22], [30, 31, 5, 5, 34]]
    where = [(r, c) for r, row in enumerate(rows) for c, token in enumerate(row) if token == 5]
    ids, lengths = pad_right(rows, network.mask_id, network.device)
    row_of, column_of = torch.tensor(where).T
    together = network.logits_at(ids, lengths, row_of, column_of)
    for i, (r, c) in enumerate(where):
        one = torch.tensor([rows[r]])
        alone = network.logits_at(one, torch.tensor([len(rows[r])]), torch.tensor([0]), torch.tensor([c]))
        assert torch.allclose(together[i], alone[0], atol=1e-4)
        # The whole forward pass of the stock class, read at the place the shift says.
        full = network.model(input_ids=one, is_causal=False).logits[0, c - 1 if shift else c]
        usable = torch.isfinite(alone[0])
        assert torch.allclose(alone[0][usable], full[usable], atol=1e-4)
        changed = one.clone()
        changed[0, -1] = 77
        assert not torch.allclose(alone[0], network.logits_at(changed, *(torch.tensor([n]) for n in (len(rows[r]), 0, c)))[0])


def test_code_of_a_checkpoint_does_not_run_unless_asked_for(tmp_path: Path, assets: Path) -> None:
    save_random(tmp_path, assets)
    flag = tmp_path / "ran"
    (tmp_path / "modeling_own.py").write_text(f"open({str(flag)!r}, 'w').close()\n")
    path = tmp_path / "config.json"
    own = {"model_type": "own", "auto_map": {"AutoConfig": "modeling_own.Own", "AutoModelForCausalLM": "modeling_own.Own"}}
    path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
    with pytest.raises(ModelError, match="Say trust_remote_code=true to run its code"):
        load(tmp_path)
    assert not flag.exists()


def test_the_mask_is_found_where_the_checkpoint_says(tokenizer: Any) -> None:
    class Bare:
        """A tokenizer without a mask token of its own."""

        mask_token = unk_token_id = None

        def __init__(self) -> None:
            self.known = {"<M>": 40}

        def convert_tokens_to_ids(self, name: str) -> int | None:
            return self.known.get(name)

    bare: Any = Bare()
    assert resolve_mask_id(bare, "<M>") == resolve_mask_id(bare) == 40
    assert resolve_mask_id(bare, 12) == 12
    assert resolve_mask_id(bare, None, SimpleNamespace(mask_token_id=30, model_type="x")) == 30
    bare.known = {}
    assert resolve_mask_id(bare, None, None, 152064, FAMILIES["dream"]) == 151666
    assert resolve_mask_id(bare, None, None, 126464, FAMILIES["llada"]) == 126336
    # An id beyond the embedding is no mask: it would be an untrained row, or none.
    with pytest.raises(ModelError, match="no mask token"):
        resolve_mask_id(bare, None, None, 1000, FAMILIES["llada"])
    with pytest.raises(ModelError, match="mask_token=2000 is no token"):
        resolve_mask_id(bare, 2000, None, 1000)


def test_loading_options_reach_transformers(tmp_path: Path, assets: Path) -> None:
    save_random(tmp_path, assets)
    # With a device_map the device is not used: there is no such one.
    network = MaskedDiffusionModel.load(str(tmp_path), dtype=torch.bfloat16, device="cuda:77", device_map={"": "cpu"})
    assert (network.model.dtype, network.device.type) == (torch.bfloat16, "cpu")


def test_end_of_text_is_allowed_only_in_rows_that_may_end(network: MaskedDiffusionModel) -> None:
    assert network.end_ids == [0]
    ids, lengths = torch.tensor([[10, 5, 5]]), torch.tensor([3])
    states = network.states_at(ids, lengths, torch.tensor([0, 0]), torch.tensor([1, 2]))
    logits = network.logits_of(states, torch.tensor([True, False]))
    assert torch.isfinite(logits[:, 0]).tolist() == [True, False]
    assert torch.equal(logits[1], network.logits_of(states)[1])
    assert torch.isinf(logits[:, 1:6]).all()


def save_random(folder: Path, assets: Path, shape: str = "qwen2") -> None:
    torch.manual_seed(0)
    kind, model = SHAPES[shape]
    tiny = {"vocab_size": 4096, "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "initializer_range": 0.2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512}
    tokens = {"eos_token_id": 0, "pad_token_id": 4, "bos_token_id": None, "tie_word_embeddings": shape != "llama"}
    model(kind(**tiny, **heads, **tokens)).float().save_pretrained(folder)
    AutoTokenizer.from_pretrained(assets / "mdm").save_pretrained(folder)


def strip_mask_token(folder: Path) -> None:
    """The tokenizer files forget the mask: neither its name nor its role is left."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        path.write_text(path.read_text().replace("<|mask|>", "<|other|>"))
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings.pop("mask_token")
    path.write_text(json.dumps(settings))
