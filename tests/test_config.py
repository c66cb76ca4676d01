from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from lm_eval_ensemble.config import (
    DIFFUSION,
    ENSEMBLE,
    SCORED,
    DiffusionConfig,
    EnsembleConfig,
    parse_settings,
    run_name,
    with_preset,
)
from lm_eval_ensemble.errors import ConfigError


def members(**arguments: Any) -> dict[str, dict[str, Any]]:
    return {member.name: member.args for member in EnsembleConfig.from_arguments(arguments).members}


def test_no_arguments_mean_the_documents_pair() -> None:
    config = EnsembleConfig.from_arguments({})
    assert [(m.name, m.args["pretrained"]) for m in config.members] == [
        ("dllm", "fredzzp/open-dcoder-0.5B"),
        ("qwen", "Qwen/Qwen2.5-Coder-0.5B"),
    ]
    assert config.prefer == "qwen"
    assert config.members[0].args["steps"] == 64


def test_flat_settings_reach_the_members_they_concern() -> None:
    found = members(preset="tiny", pretrained="label", length="ar", steps=4, temperature=0.5, fim="path/a", dllm="path/b")
    assert found["dllm"] | {"pretrained": "path/b", "length": "ar", "steps": 4, "temperature": 0.5} == found["dllm"]
    assert found["fim"] | {"pretrained": "path/a", "temperature": 0.5} == found["fim"]
    assert "length" not in found["fim"]


def test_two_models_of_ones_own_have_their_names_and_no_presets_settings() -> None:
    config = EnsembleConfig.from_arguments({"dllm": "path/a", "fim": "path/b", "steps": 8, "layout": "starcoder"})
    assert [(member.name, member.model, member.args) for member in config.members] == [
        ("dllm", DIFFUSION, {"pretrained": "path/a", "steps": 8}),
        ("fim", SCORED, {"pretrained": "path/b", "layout": "starcoder"}),
    ]
    assert (config.preset, config.prefer) == (None, "fim")


def test_a_presets_member_that_is_another_model_loses_its_name() -> None:
    config = EnsembleConfig.from_arguments({"preset": "paper", "fim": "path/b"})
    assert [member.name for member in config.members] == ["dllm", "fim"]
    assert config.prefer == "fim"
    assert config.members[1].args["temperature"] == 0.6  # asked for with the preset


def test_another_checkpoint_does_not_get_the_window_of_the_presets() -> None:
    found = members(preset="tiny", fim="path/b")
    assert found["dllm"]["max_length"] == 384
    assert "max_length" not in found["fim"]
    assert members(preset="tiny", fim="path/b", max_length=512)["fim"]["max_length"] == 512


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({}, "open-dcoder-0.5B+Qwen2.5-Coder-0.5B"),
        ({"preset": "tiny"}, "tiny"),
        ({"dllm": "/models/mdm/", "fim": "org/coder-1B"}, "mdm+coder-1B"),
        ({"preset": "tiny", "fim": "org/coder-1B"}, "mdm+coder-1B"),
        ({"members": [{"name": "a", "model": SCORED, "args": {"pretrained": "org/m", "peft": "/x/lora"}}]}, "lora"),
        ({"members": [{"name": "b", "model": "local-completions", "args": {"model": "org/m"}}]}, "m"),
    ],
)
def test_an_ensemble_that_nobody_named_is_called_after_its_models(arguments: dict[str, Any], name: str) -> None:
    assert run_name(ENSEMBLE, arguments) == name


def test_a_single_model_of_a_preset_is_called_after_its_checkpoint() -> None:
    assert run_name(SCORED, {"preset": "tiny"}) == "fim"
    assert run_name(DIFFUSION, {"preset": "paper"}) == "open-dcoder-0.5B"
    assert run_name(DIFFUSION, {"preset": "tinny"}) is run_name(SCORED, {}) is run_name("hf", {"preset": "tiny"}) is None


def test_another_checkpoint_comes_before_a_members_preset() -> None:
    own = [{"name": n, "model": m, "args": {"preset": "tiny", "top_p": 0.5}} for n, m in (("a", DIFFUSION), ("b", SCORED))]
    found = members(members=own, dllm="path/a")
    expected = {**with_preset({"preset": "tiny"}, DIFFUSION), "pretrained": "path/a", "top_p": 0.5}
    del expected["max_length"]  # the window of the preset's checkpoint
    assert found == {"a": expected, "b": {**with_preset({"preset": "tiny"}, SCORED), "top_p": 0.5}}


def test_flat_settings_leave_foreign_members_alone() -> None:
    own = [{"name": n, "model": m, "args": {"pretrained": n}} for n, m in (("a", "hf"), ("b", SCORED))]
    assert members(members=own, temperature=1.0) == {"a": {"pretrained": "a"}, "b": {"pretrained": "b", "temperature": 1.0}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "tinny"}, r"\$\.preset.*Did you mean 'tiny'"),
        ({"stepz": 3}, r"\$\.stepz.*Did you mean 'steps'"),
        ({"dllm": "a"}, r"\$\.fim: missing beside dllm="),
        ({"fim": "a", "stepz": 3}, r"(?s)\$\.stepz.*\$\.dllm: missing beside fim="),
        ({"preset": "tiny", "prefer": "fmi"}, "Did you mean 'fim'"),
        ({"preset": "tiny", "samples": 0}, r"\$\.samples: got 0, expected"),
        ({"members": "dllm"}, r"\$\.members: got 'dllm', expected a list"),
        ({"members": [3]}, r"\$\.members\[0\]"),
        ({"members": [{"name": "a b", "model": "hf"}]}, r"\$\.members\[0\]\.name"),
        ({"members": [{"name": "oracle", "model": "hf"}]}, "name of a table row"),
        ({"members": [{"name": "first_line", "model": "hf"}]}, "name of a table row"),
        ({"members": [{"name": "a", "model": "hf"}] * 2}, "must differ"),
        ({"members": [{"name": "a", "model": "hf"}], "preset": "tiny"}, "both were given"),
    ],
)
def test_bad_settings_are_one_clear_error(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EnsembleConfig.from_arguments(arguments)


def test_all_faults_come_in_one_message() -> None:
    with pytest.raises(ConfigError) as error:
        parse_settings(
            DiffusionConfig, {"pretrained": "x", "steps": 0, "top_p": 2, "length": "oracel", "nonsense": 1}, "$.dllm"
        )
    lines = str(error.value).splitlines()
    assert lines[:2] == [
        "$.dllm.top_p: got 2, expected <= 1",
        "$.dllm.length: got 'oracel', expected a length policy, its numbers >= 1 (K >= 0). "
        + "Did you mean 'oracle'? Known: ar, ar:K, expand, expand:N, fixed-mean, fixed:N, grid, "
        + "grid:A+B+C, oracle, search.",
    ]
    assert "$.dllm.steps: got 0, expected >= 1" in lines
    assert lines[-1].startswith("$.dllm.nonsense: not a setting here.")


def test_the_members_arguments_are_checked_before_anything_is_loaded() -> None:
    given = {
        "stepz": 3,
        "batch_size": "many",
        "members": [
            {"name": "a", "modle": "hf"},
            {"name": "b b", "model": DIFFUSION, "args": {"steps": 0, "pretraned": "x"}},
            {"name": "c", "model": SCORED, "args": {"preset": "tny", "top_p": 2, "parallelize": True}},
            {"name": "oracle", "model": "hf", "args": {"steps": 0}},
            "dllm",
        ],
        "prefer": "d",
    }
    with pytest.raises(ConfigError) as error:
        EnsembleConfig.from_arguments(given, ["$.score: wrong"])
    faults = dict(line.split(": ", 1) for line in str(error.value).splitlines())
    assert faults == {
        "$.score": "wrong",
        "$.stepz": faults["$.stepz"],
        "$.batch_size": "got 'many', expected a whole number >= 1, or auto",
        "$.members[0].model": "missing, expected a value.",
        "$.members[0].modle": "not a setting here. Did you mean 'model'? Known: args, gen_kwargs, model, name.",
        "$.members[1].name": "got 'b b', expected text that matches ^[A-Za-z0-9_.-]+$",
        "$.members[1].args.pretrained": "missing, expected a value.",
        "$.members[1].args.steps": "got 0, expected >= 1",
        "$.members[1].args.pretraned": faults["$.members[1].args.pretraned"],
        "$.members[2].args.preset": "'tny' is not a preset. Did you mean 'tiny'? Known: paper, tiny.",
        "$.members[2].args.top_p": "got 2, expected <= 1",
        "$.members[3].name": "oracle is the name of a table row; choose another member name.",
        "$.members[4]": "got 'dllm', expected a mapping of names to values",
        "$.prefer": "'d' is not a member. Known: a, b b, c, oracle.",
    }
    assert "Did you mean 'steps'" in faults["$.stepz"]
    assert "Did you mean 'pretrained'" in faults["$.members[1].args.pretraned"]


def test_a_flat_setting_is_named_as_it_was_typed() -> None:
    with pytest.raises(ConfigError) as error:
        EnsembleConfig.from_arguments({"preset": "tiny", "steps": 0, "temperature": "hot"})
    assert str(error.value).splitlines() == [
        "$.temperature: got 'hot', expected a number",
        "$.steps: got 0, expected >= 1",
    ]


def test_nested_yaml_is_the_same_as_json() -> None:
    text = """
members:
  - name: dllm
    model: diffusion-infill
    args: {preset: tiny, length: "fixed:8", dtype: torch.float32}
  - {name: fim, model: hf-scored, args: {preset: tiny}}
prefer: fim
"""
    found = EnsembleConfig.from_arguments(yaml.safe_load(text))
    assert found == EnsembleConfig.from_arguments(json.loads(json.dumps(yaml.safe_load(text))))
    assert found.members[0].args["length"] == "fixed:8"


def test_preset_of_one_member() -> None:
    assert with_preset({"preset": "tiny"}, DIFFUSION)["pretrained"] == "asset:tiny/mdm"
    assert with_preset({"preset": "tiny"}, SCORED)["pretrained"] == "asset:tiny/fim"
    with pytest.raises(ConfigError, match="no member of kind"):
        with_preset({"preset": "tiny"}, "hf")
