from __future__ import annotations

from typing import Any

import pytest

from lm_eval_ensemble.config import DIFFUSION, SCORED, DiffusionConfig, EnsembleConfig, parse_settings, preset_settings
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


def test_flat_settings_leave_foreign_members_alone() -> None:
    own = [{"name": "a", "model": "hf", "args": {"pretrained": "x"}}, {"name": "b", "model": SCORED}]
    assert members(members=own, temperature=1.0) == {"a": {"pretrained": "x"}, "b": {"temperature": 1.0}}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "tinny"}, r"\$\.preset.*Did you mean 'tiny'"),
        ({"stepz": 3}, r"\$\.stepz.*Did you mean 'steps'"),
        ({"preset": "tiny", "prefer": "fmi"}, "Did you mean 'fim'"),
        ({"preset": "tiny", "samples": 0}, r"\$\.samples: got 0, expected"),
        ({"members": "dllm"}, r"\$\.members: got str, expected a list"),
        ({"members": [3]}, r"\$\.members\[0\]"),
        ({"members": [{"name": "a b", "model": "hf"}]}, r"\$\.members\[0\]\.name"),
        ({"members": [{"name": "oracle", "model": "hf"}]}, "name of a table row"),
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
    text = str(error.value)
    for part in ("$.dllm.steps: got 0", "$.dllm.top_p: got 2", "Did you mean 'oracle'", "$.dllm.nonsense"):
        assert part in text


def test_preset_of_one_member() -> None:
    assert preset_settings("tiny", DIFFUSION)["pretrained"] == "asset:tiny/mdm"
    assert preset_settings("tiny", SCORED)["pretrained"] == "asset:tiny/fim"
    with pytest.raises(ConfigError, match="no member of kind"):
        preset_settings("tiny", "hf")
