"""Published families: each loads from its layout of files, and computes what its forward pass written by hand does."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertTokenizer, RobertaConfig, RobertaForMaskedLM

from lm_eval_ensemble.diffusion.model import MaskedDiffusionModel, pad_right
from lm_eval_ensemble.errors import ConfigError, ModelError
from lm_eval_ensemble.families import FAMILIES, find_family
from lm_eval_ensemble.harness.diffusion_lm import DiffusionInfill
from lm_eval_ensemble.types import InfillRequest
from tests.diffusion import standins
from tests.diffusion.standins import MASK, STAND_INS, StandIn


def load(path: str | Path, **options: Any) -> MaskedDiffusionModel:
    return MaskedDiffusionModel.load(str(path), dtype=torch.float32, device="cpu", **options)


@pytest.fixture(scope="module", params=STAND_INS)
def stand_in(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, assets: Path) -> StandIn:
    return STAND_INS[request.param](tmp_path_factory.mktemp(request.param), assets)


def test_logits_are_those_of_the_forward_pass_by_hand(stand_in: StandIn) -> None:
    network = load(stand_in.folder, trust_remote_code=stand_in.trust_remote_code)
    assert network.facts["class"] == stand_in.class_name
    assert (network.mask_id, network.shift, network.fast) == (MASK, stand_in.shift, not stand_in.own_forward)
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(6, 4000, (size,), generator=generator).tolist() for size in (60, 7, 23)]
    asked = [(0, 0), (0, 31), (0, 59), (1, 2), (1, 6), (2, 11), (2, 12)]
    for row, column in asked:
        rows[row][column] = MASK
    ids, lengths = pad_right(rows, MASK, network.device)
    found = network.logits_at(ids, lengths, *torch.tensor(asked).T)
    for logits, (row, column) in zip(found, asked, strict=True):
        usable = torch.isfinite(logits)
        assert usable.sum() > 4000
        expected = stand_in.predicted(rows[row], column)
        assert torch.allclose(logits[usable], expected[usable], atol=1e-4, rtol=1e-4)


def test_the_toy_gaps_are_filled(stand_in: StandIn, toy: list[dict[str, Any]]) -> None:
    model = DiffusionInfill(
        pretrained=str(stand_in.folder),
        trust_remote_code=stand_in.trust_remote_code,
        dtype="float32",
        steps=2,
        batch_size=16,
    )
    asked = [InfillRequest(d["prefix"], d["suffix"], "toy", i, reference=d["middle"]) for i, d in enumerate(toy)]
    found = model.propose(asked)
    assert len(found) == 45
    for request, candidate in zip(asked, found, strict=True):
        assert len(candidate.logprobs or ()) == len(model.encoder.encode(str(request.reference)))
        assert candidate.info["family"] == model.network.family.name
    one = model.propose([asked[7]])[0]
    assert one.raw == found[7].raw


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_scaled_by_little_are_the_models_own(dtype: torch.dtype, tmp_path: Path, assets: Path) -> None:
    """By less than what 16 bits round: the fast path would be 5 % off wherever the probe does not look."""
    standins.granite(tmp_path, assets)
    path = tmp_path / "config.json"
    for scale, fast in ((1.05, False), (1.0, True)):
        path.write_text(json.dumps({**json.loads(path.read_text()), "logits_scaling": scale}))
        assert MaskedDiffusionModel.load(str(tmp_path), dtype=dtype, device="cpu").fast is fast


@pytest.mark.parametrize("mask", [0, "<|endoftext|>"])
def test_a_mask_against_the_tokenizers_is_taken_and_told(
    mask: int | str, assets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By its text, too, where that is what the tokenizer gives for words it does not know."""
    with caplog.at_level(logging.WARNING, "lm_eval_ensemble"):
        assert load(assets / "mdm", mask_token=mask).mask_id == 0
    assert "masked with token 0, as mask_token= says; its tokenizer has another mask, '<|mask|>' (5)" in caplog.text


def test_a_window_in_the_files_of_full_attention_is_none(tmp_path: Path, assets: Path) -> None:
    """The classes of Dream and of dllm's models attend to everything, whatever their configuration inherited from Qwen's."""
    stand_in = standins.a2d(tmp_path, assets, "qwen3")
    path = tmp_path / "config.json"
    window = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}
    path.write_text(json.dumps({**json.loads(path.read_text()), **window}))
    ids = torch.randint(6, 4000, (1, 60), generator=torch.Generator().manual_seed(1))
    found = load(tmp_path).logits_at(ids, torch.tensor([60]), torch.tensor([0]), torch.tensor([31]))[0]
    usable = torch.isfinite(found)
    assert torch.allclose(found[usable], stand_in.predicted(ids[0].tolist(), 31)[usable], atol=1e-4, rtol=1e-4)


def test_tokens_that_the_model_has_no_row_for_are_not_given_to_it(
    tmp_path: Path, assets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A pad that was added to the tokenizer alone, a frame that it lacks."""
    standins.dream(tmp_path, assets)
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    assert load(tmp_path).facts["frame"] == (1, 0)
    settings["added_tokens_decoder"] |= {"4096": {"content": "[PAD]", "special": True}}
    path.write_text(json.dumps({**settings, "pad_token": "[PAD]", "bos_token": "[PAD]"}))
    with caplog.at_level(logging.WARNING, "lm_eval_ensemble"):
        network = load(tmp_path)
    assert (network.pad_id, network.frame) == (standins.END, None)
    assert "the family dream stand between two tokens, one of which" in caplog.text


def test_a_token_behind_a_hole_in_the_ids_can_be_drawn(tmp_path: Path, assets: Path) -> None:
    """The number of tokens is not the highest id; the rows in the hole are nobody's."""
    standins.a2d(tmp_path, assets, "qwen2")
    config, files = tmp_path / "config.json", tmp_path / "tokenizer.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "vocab_size": 4160}))
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.embed_tokens.weight"] = standins.draw({"rows": (4160, standins.HIDDEN)})["rows"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    content = json.loads(files.read_text())
    content["model"]["vocab"] = {text: 4150 if i == 4095 else i for text, i in content["model"]["vocab"].items()}
    files.write_text(json.dumps(content))
    found = load(tmp_path).logits_at(torch.tensor([[10, MASK]]), torch.tensor([2]), torch.tensor([0]), torch.tensor([1]))[0]
    assert torch.isfinite(found).nonzero()[:, 0].tolist()[-2:] == [4094, 4150]


@pytest.mark.parametrize("architectures", [None, ["BertForPreTraining"]])
def test_a_masked_model_of_another_class_name_is_framed_too(architectures: Any, tmp_path: Path, assets: Path) -> None:
    """Read as what transformers calls its class for running text it would lose its frame."""
    standins.bert(tmp_path, assets)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": architectures}))
    with pytest.raises(ModelError, match=r"is a masked language model, .* Say family=masked-lm"):
        load(tmp_path)
    assert load(tmp_path, family="masked-lm").frame == (1, 3)


def test_a_row_is_framed_where_its_family_has_frames(tmp_path: Path, assets: Path) -> None:
    stand_in = standins.dream(tmp_path, assets)
    network = load(tmp_path)
    assert network.max_positions == 2048 - 2  # its configuration says 131072, its authors 2048
    ids = [10, MASK, 12]
    found = network.logits_at(torch.tensor([ids]), torch.tensor([3]), torch.tensor([0]), torch.tensor([1]))[0]
    unframed = stand_in.reference(torch.tensor(ids))[0]
    usable = torch.isfinite(found)
    assert not torch.allclose(found[usable], unframed[usable], atol=1e-2)


def test_a_tokenizer_that_loses_line_breaks_is_told(tmp_path: Path, assets: Path, caplog: pytest.LogCaptureFixture) -> None:
    standins.bert(tmp_path, assets)
    with caplog.at_level(logging.WARNING, "lm_eval_ensemble"):
        load(tmp_path)
        assert "give a program back" not in caplog.text
        for path in tmp_path.glob("*token*"):
            path.unlink()
        pieces = list(map(chr, range(33, 127)))
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces, *(f"##{c}" for c in pieces)]
        BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(tmp_path)
        load(tmp_path, mask_token="[MASK]")
    assert "does not give a program back as it was" in caplog.text


def test_roberta_counts_its_places_from_the_one_after_padding(tmp_path: Path, assets: Path) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 4096}
    RobertaForMaskedLM(RobertaConfig(**shape, max_position_embeddings=130, pad_token_id=1)).save_pretrained(tmp_path)
    standins.write_masked_tokenizer(tmp_path, assets)
    model = DiffusionInfill(pretrained=str(tmp_path), dtype="float32", steps=2)
    assert model.window == 130 - 2 - 2  # two places are never used, two hold the frame
    with pytest.raises(ConfigError, match=r"max_length=2048, but the model has places for 126 tokens. Give max_length=126"):
        DiffusionInfill(pretrained=str(tmp_path), protocol="open-dllm")
    (found,) = model.propose([InfillRequest("x = 1\n" * 200, "y = 2\n" * 100, reference="z\n")])
    assert found.info["length"] > 0


BLOCKS: dict[str, dict[str, Any]] = {
    "stable-diffcoder": {"model_type": "llama", "architectures": ["StableDiffcoderForCausalLM"]},
    "llada2": {"model_type": "llada2_moe", "architectures": ["LLaDA2MoeModelLM"]},
    "sdar": {"model_type": "sdar", "architectures": ["SDARForCausalLM"]},
    "fast-dllm-v2": {"model_type": "Fast_dLLM_Qwen"},
    "bd3lm-owt": {"model_type": "bd3lm"},
    "bd3lm": {"model_type": "a2d-qwen3"},
    "diffusion-gemma": {"model_type": "diffusion_gemma"},
    "dream-blocks": {"model_type": "Dream", "block_size": 32},
}


@pytest.mark.parametrize("kind", ["llada2_moe_veomni", "sdar_moe", "Fast_dLLM_QwenVL", "bd3lm"])
def test_offshoots_of_refused_families_are_refused(kind: str) -> None:
    """Their own code attends to everything unless it is given a mask, so that no probe could tell."""
    with pytest.raises(ModelError, match="would not see the text after its block"):
        find_family("checkpoints/mine", {"model_type": kind})


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.blocks])
def test_block_causal_families_are_refused_by_name(name: str, tmp_path: Path, assets: Path) -> None:
    folder = tmp_path / f"Qwen3-0.6B-diffusion-{name}-v0.1"
    standins.tiny_as(folder, assets, **{"architectures": None, **BLOCKS[name]})
    with pytest.raises(ModelError, match=f"of the family {name} .*would not see the text after its block") as caught:
        load(folder, trust_remote_code=True)
    assert len(str(caught.value).split(". ")) == 2


CHOSEN: dict[str, dict[str, Any]] = {
    "dream": {"model_type": "Dream", "architectures": ["DreamModel"]},
    "llada-moe": {"model_type": "llada", "architectures": ["LLaDAMoEModelLM"]},
    "llada": {"model_type": "llada", "architectures": ["LLaDAModelLM"]},
    "a2d": {"model_type": "a2d-qwen2"},
    "masked-lm": {"model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"]},
    "open-dcoder": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
    "other": {"model_type": "granite", "architectures": ["GraniteForCausalLM"]},
}


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if not family.blocks])
def test_config_json_chooses_the_family(name: str) -> None:
    assert find_family("x", CHOSEN[name]).name == name
    assert find_family("x", {"model_type": "qwen2"}, name).name == name
    assert FAMILIES[name].source
    assert FAMILIES[name].of


def test_the_settings_override_the_family(tmp_path: Path, assets: Path) -> None:
    standins.tiny_as(tmp_path, assets, model_type="a2d-qwen2")
    assert load(tmp_path, family="open-dcoder").facts["family"] == "open-dcoder"
    network = load(tmp_path, shift=True)
    assert (network.facts["family"], network.facts["shift_by"]) == ("a2d", "settings")


# One sentence that is true for every kind of wrongness.


def test_another_shift_that_predicts_far_better_is_an_error(tmp_path: Path, assets: Path) -> None:
    with pytest.raises(ModelError, match=r"The settings say shift=false .* nats per token; .*Give shift=true"):
        load(assets / "mdm", shift=False)
    standins.tiny_as(tmp_path, assets, model_type="a2d-qwen2")
    with pytest.raises(ModelError, match=r"Its family says shift=false .*Give shift=true"):
        load(tmp_path)


def test_the_probe_finds_a_shift_that_nobody_knows(tmp_path: Path, assets: Path, caplog: pytest.LogCaptureFixture) -> None:
    standins.tiny_as(tmp_path / "a", assets, architectures=None)
    network = load(tmp_path / "a")
    assert (network.facts["family"], network.shift, network.facts["shift_by"]) == ("other", True, "probe")
    # At each place the token of the probe that stands there is all but certain: the state at a place predicts it.
    ids = network.encoder.encode(probe_text())
    places = torch.zeros(512, standins.VOCABULARY)
    places[torch.arange(len(ids)), ids] = 30.0
    standins.own_code(tmp_path / "b", assets, places=places)
    with caplog.at_level(logging.WARNING, "lm_eval_ensemble"):
        found = load(tmp_path / "b", trust_remote_code=True)
        assert (found.shift, found.facts["shift_by"]) == (False, "probe")
        assert not caplog.records
        standins.own_code(tmp_path / "c", assets)
        undecided = load(tmp_path / "c", trust_remote_code=True)
    assert (undecided.shift, undecided.facts["shift_by"]) == (True, "default")
    assert "does not tell" in caplog.records[0].message


def probe_text() -> str:
    from lm_eval_ensemble.diffusion import probe

    return probe._TEXT


def test_a_causal_class_is_refused(tmp_path: Path, assets: Path) -> None:
    standins.own_code(tmp_path, assets, causal=True)
    with pytest.raises(ModelError, match=r"OwnModel, family other\) still attends causally"):
        load(tmp_path, trust_remote_code=True)


def test_weights_of_another_class_are_refused(tmp_path: Path, assets: Path) -> None:
    """Those of Qwen2 under the name of Llama: their biases have no place there. Loaded as Qwen3 two norms would be random."""
    for kind, what in (("llama", "has weights that have no place in the class Llama"), ("qwen3", "lacks weights of the class")):
        standins.tiny_as(tmp_path / kind, assets, model_type=kind, architectures=None)
        with pytest.raises(ModelError, match=what):
            load(tmp_path / kind)


def test_a_llada_of_another_shape_asks_for_its_own_code(tmp_path: Path, assets: Path) -> None:
    standins.llada(tmp_path, assets)
    for changed, why in (
        ({"block_type": "sequential"}, "block_type='sequential'"),
        ({"rms_norm_eps": None}, "no rms_norm_eps"),
        ({"rope_theta": ...}, "no rope_theta"),
    ):
        config = {name: value for name, value in {**standins.LLADA_CONFIG, **changed}.items() if value is not ...}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match=rf"{why}\) brings its own model class.*trust_remote_code=true"):
            load(tmp_path)


def test_unknown_code_is_never_replaced_by_a_class_of_the_same_type(tmp_path: Path, assets: Path) -> None:
    """A checkpoint that says it is a Llama and brings a class of its own may compute anything."""
    own = {"AutoModelForCausalLM": "modeling_own.OwnModel"}
    standins.tiny_as(tmp_path, assets, architectures=["OwnModel"], auto_map=own)
    with pytest.raises(ModelError, match="brings its own model class"):
        load(tmp_path)
    assert load(tmp_path, family="open-dcoder").shift


def no_config(folder: Path, assets: Path) -> None:
    (folder / "config.json").unlink()


def gguf(folder: Path, assets: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "model.gguf").write_bytes(b"GGUF")


def an_adapter(folder: Path, assets: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def config_of(text: str) -> Callable[[Path, Path], None]:
    def make(folder: Path, assets: Path) -> None:
        (folder / "config.json").write_text(text)

    return make


def configured(**config: Any) -> Callable[[Path, Path], None]:
    return lambda folder, assets: standins.tiny_as(folder, assets, **config)


def half_the_weights(folder: Path, assets: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def a_pointer(folder: Path, assets: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n")


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor], **config: Any) -> Callable[[Path, Path], None]:
    def make(folder: Path, assets: Path) -> None:
        standins.tiny_as(folder, assets, **config)
        weights = load_file(folder / "model.safetensors")
        weights[name] = change(weights[name]).contiguous()
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return make


def another_head(folder: Path, assets: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def another_tokenizer(folder: Path, assets: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Nope"}}')


def no_tokenizer(folder: Path, assets: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


def own_code_with(old: str, new: str, *classes: str) -> Callable[[Path, Path], None]:
    def make(folder: Path, assets: Path) -> None:
        standins.own_code(folder, assets)
        path = folder / "modeling_own.py"
        path.write_text(path.read_text().replace(old, new))
        own = {"AutoConfig": "modeling_own.OwnConfig", **dict.fromkeys(classes, "modeling_own.OwnModel")}
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "auto_map": own}))

    return make


Wrong = tuple[Callable[[Path, Path], None], dict[str, Any], str]
WRONG: dict[str, Wrong] = {
    "no config": (no_config, {}, r"has no config.json. Give the folder"),
    "gguf": (gguf, {}, r"has no config.json. GGUF files are for other programs"),
    "an adapter": (an_adapter, {}, r"It is an adapter: give its base model, and the adapter as peft="),
    "config torn": (config_of("{"), {}, r"config.json is no JSON object"),
    "config a list": (config_of("[]"), {}, r"config.json is no JSON object"),
    "weights torn": (half_the_weights, {}, r"Could not load the folder .*header.*Give the folder of a whole checkpoint"),
    "weights a pointer": (a_pointer, {}, r"Could not load the folder .*header"),
    "weights not numbers": (
        changed("model.norm.weight", lambda w: w * float("nan")),
        {},
        r"float32\) gives logits",
    ),
    "too few rows": (
        changed("model.embed_tokens.weight", lambda w: w[:4000], vocab_size=4000),
        {},
        r"tokens up to 4095, its embedding 4000 rows",
    ),
    "other shapes": (changed("model.norm.weight", lambda w: w[:7]), {}, r"has weights of other shapes than the class Qwen2"),
    "no tokenizer": (no_tokenizer, {}, r"has no tokenizer: expected tokenizer.json"),
    "two masks": (configured(mask_token_id=2), {}, r"mask is '<\|mask\|>' \(5\), its config.json that it is 2. Say which"),
    "two output layers": (
        another_head,
        {},
        r"the output layer is the embedding \(tied\), and the weights hold another one",
    ),
    "a setting of another kind": (
        configured(tie_word_embeddings="no"),
        {},
        r"does not load with transformers 5.* \(StrictDataclass.*'tie_word_embeddings'.*: its files are damaged, or of another",
    ),
    "rotary positions of another release": (
        configured(rope_scaling={"rope_type": "nope", "factor": 2.0}, rope_parameters=None),
        {},
        r"does not load with transformers 5.* \(KeyError: 'nope'\)",
    ),
    "a tokenizer of another release": (
        another_tokenizer,
        {},
        r"does not load with transformers 5",
    ),
    "a mask that is none": (configured(), {"mask_token": "<nope>"}, r"mask_token='<nope>' is no token of the diffusion model"),
    "a mask beyond": (configured(), {"mask_token": 4096}, r"mask_token=4096 is no token of the diffusion model"),
    "another family": (configured(), {"family": "llada"}, r"no d_model.* is known to compute it as family llada"),
    "a family of masked heads": (configured(), {"family": "masked-lm"}, r"no AutoModelForMaskedLM .* as family masked-lm"),
    "a type without such a class": (
        configured(model_type="t5", architectures=None),
        {},
        r"no AutoModelForCausalLM that",
    ),
    "quantised": (
        configured(quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128}),
        {},
        r"requires optimum|gptqmodel",
    ),
    "code that needs a package": (
        own_code_with("import torch\n", "import torch\nimport no_such_package\n", "AutoModel"),
        {"trust_remote_code": True},
        r"does not load: .* not found in your environment: no_such_package",
    ),
    "code of another release": (
        own_code_with("x = self.words(input_ids)", "x = self.gone(input_ids)", "AutoModel"),
        {"trust_remote_code": True},
        r"OwnModel gives no logits: .* own code fails with transformers 5.*no attribute 'gone'\). Its authors",
    ),
    "code that does not load": (
        own_code_with("self.post_init()", "self.gone()", "AutoModel"),
        {"trust_remote_code": True},
        r"does not load: the checkpoint's own code fails .*no attribute 'gone'",
    ),
    "code without a head": (
        own_code_with("return CausalLMOutputWithPast(logits=logits)", "return dict(states=x)", "AutoModel"),
        {"trust_remote_code": True},
        r"OwnModel gives no logits: .* no attribute 'logits'",
    ),
    "code for something else": (
        own_code_with("", "", "AutoModelForSeq2SeqLM"),
        {"trust_remote_code": True},
        r"brings no such class of its own",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(name: str, tmp_path: Path, assets: Path) -> None:
    make, options, said = WRONG[name]
    standins.tiny_as(tmp_path, assets)
    make(tmp_path, assets)
    with pytest.raises(ModelError, match=said) as caught:
        load(tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_a_file_is_no_checkpoint(assets: Path) -> None:
    with pytest.raises(ModelError, match=r"model.safetensors' is a file. Give the folder"):
        load(assets / "mdm" / "model.safetensors")


def test_a_name_alone_makes_no_family(tmp_path: Path, assets: Path) -> None:
    """dllm's folders are named after how they were trained; a folder of another's may have that name too."""
    folder = tmp_path / "bd3lm-experiments" / "model"
    standins.tiny_as(folder, assets, model_type="a2d-qwen2")
    with pytest.raises(ModelError, match=r"of the family bd3lm .*or say family=a2d if it only has that name"):
        load(folder)
    assert load(folder, family="a2d", shift=True).facts["family"] == "a2d"


@pytest.mark.parametrize("written", ["roles as objects", "added tokens by their text"])
def test_older_tokenizer_files_of_dream(written: str, tmp_path: Path, assets: Path) -> None:
    standins.dream(tmp_path, assets)
    expected = load(tmp_path).encoder
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    if written == "roles as objects":
        settings |= {
            name: {"content": settings[name], "__type": "AddedToken"} for name in ("bos_token", "eos_token", "mask_token")
        }
    else:
        del settings["added_tokens_decoder"]
    path.write_text(json.dumps(settings))
    found = load(tmp_path).encoder
    text = "def f(x):\n    return x  # <|mask|>\n"
    assert found.encode(text) == expected.encode(text)
    assert (found.tokenizer.mask_token_id, found.control_ids) == (MASK, expected.control_ids)


def adapter(folder: Path, stem: str, rank: int = 2) -> dict[str, torch.Tensor]:
    """Files as peft saves them: low-rank changes of the queries; returns what they add to each weight, by layer."""
    folder.mkdir()
    pairs: dict[str, tuple[int, ...]] = {
        f"{stem.format(layer)}.lora_{part}.weight": shape
        for layer in range(standins.LAYERS)
        for part, shape in (("A", (rank, standins.HIDDEN)), ("B", (standins.HIDDEN, rank)))
    }
    weights = standins.draw(pairs)
    names = {f"base_model.model.{name}": value for name, value in weights.items()}
    save_file(names, folder / "adapter_model.safetensors", {"format": "pt"})
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 4 * rank, "bias": "none"}
    settings |= {"target_modules": ["q_proj"], "base_model_name_or_path": "x", "inference_mode": True, "lora_dropout": 0.0}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    layers = [stem.format(layer) for layer in range(standins.LAYERS)]
    return {at: 4 * weights[f"{at}.lora_B.weight"] @ weights[f"{at}.lora_A.weight"] for at in layers}


def test_an_adapter_changes_the_weights(tmp_path: Path, assets: Path) -> None:
    stand_in = standins.a2d(tmp_path / "model", assets, "qwen3")
    changes = adapter(tmp_path / "adapter", "model.layers.{}.self_attn.q_proj")
    weights = standins.decoder_weights(qk_norm=True)
    for at, change in changes.items():
        weights[f"{at}.weight"] += change
    network = load(stand_in.folder, peft=str(tmp_path / "adapter"))
    ids = [10, 11, MASK, 13]
    found = network.logits_at(torch.tensor([ids]), torch.tensor([4]), torch.tensor([0]), torch.tensor([2]))[0]
    expected = standins.decoder(weights)(torch.tensor(ids))[2]
    usable = torch.isfinite(found)
    assert torch.allclose(found[usable], expected[usable], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found[usable], stand_in.predicted(ids, 2)[usable], atol=1e-2)


def test_an_adapter_of_another_class_is_refused(tmp_path: Path, assets: Path) -> None:
    standins.llada(tmp_path / "model", assets)
    adapter(tmp_path / "adapter", "model.transformer.blocks.{}.q_proj")
    with pytest.raises(ModelError, match=r"does not fit LlamaForCausalLM \(family llada\).*Merge it"):
        load(tmp_path / "model", peft=str(tmp_path / "adapter"))
    with pytest.raises(ModelError, match=r"nowhere.*: no such folder"):
        load(tmp_path / "model", peft=str(tmp_path / "nowhere"))


def test_the_magnitudes_of_dora_are_read(tmp_path: Path, assets: Path) -> None:
    """Weight-decomposed adapters (arXiv 2402.09353): each row of the changed weight has the length that was learned."""
    stand_in = standins.a2d(tmp_path / "model", assets, "qwen3")
    changes = adapter(tmp_path / "adapter", "model.layers.{}.self_attn.q_proj")
    path, settings = tmp_path / "adapter" / "adapter_model.safetensors", tmp_path / "adapter" / "adapter_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "use_dora": True}))
    files, weights = load_file(path), standins.decoder_weights(qk_norm=True)
    for layer, (at, change) in enumerate(changes.items()):
        lengths = torch.linspace(1, 3 + layer, standins.HIDDEN)
        files[f"base_model.model.{at}.lora_magnitude_vector"] = lengths
        weights[f"{at}.weight"] = torch.nn.functional.normalize(weights[f"{at}.weight"] + change) * lengths[:, None]
    save_file(files, path, {"format": "pt"})
    ids = [10, 11, MASK, 13]
    network = load(stand_in.folder, peft=str(tmp_path / "adapter"))
    found = network.logits_at(torch.tensor([ids]), torch.tensor([4]), torch.tensor([0]), torch.tensor([2]))[0]
    expected = standins.decoder(weights)(torch.tensor(ids))[2]
    usable = torch.isfinite(found)
    assert torch.allclose(found[usable], expected[usable], atol=1e-4, rtol=1e-4)


def test_half_an_adapter_is_refused(tmp_path: Path, assets: Path) -> None:
    standins.a2d(tmp_path / "model", assets, "qwen3")
    adapter(tmp_path / "adapter", "model.layers.{}.self_attn.q_proj")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: value for name, value in load_file(path).items() if ".layers.0." in name}, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks weights that its adapter_config.json names \(2, as 'model.layers.1.*whole"):
        load(tmp_path / "model", peft=str(tmp_path / "adapter"))


def test_an_adapter_of_other_shapes_is_refused(tmp_path: Path, assets: Path) -> None:
    standins.a2d(tmp_path / "model", assets, "qwen3")
    adapter(tmp_path / "adapter", "model.layers.{}.self_attn.q_proj")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "r": 3}))
    with pytest.raises(ModelError, match=r"does not fit Qwen3ForCausalLM: its weights have other shapes"):
        load(tmp_path / "model", peft=str(tmp_path / "adapter"))
