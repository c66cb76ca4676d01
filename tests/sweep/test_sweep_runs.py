"""Real cells, from the grid file to the table: three architectures answer questions."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer, LlamaConfig, MistralConfig, PretrainedConfig, Qwen2Config

from lm_eval_ensemble.config import asset_path
from tests.sweep.stub import ROOT

Save = Callable[[type[PretrainedConfig], str], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """A random checkpoint of an architecture, with the embedded tokenizer."""

    def make(kind: type[PretrainedConfig], name: str) -> Path:
        import torch
        from transformers import AutoModelForCausalLM

        tokenizer = AutoTokenizer.from_pretrained(asset_path("asset:tiny/fim"))
        torch.manual_seed(0)
        config = kind(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        folder = tmp_path / name
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.mark.data
def test_three_families_answer_questions(save: Save, tmp_path: Path) -> None:
    kinds = {"Llama": LlamaConfig, "Qwen2": Qwen2Config, "Mistral": MistralConfig}
    grid: dict[str, Any] = {
        "defaults": {"model": "hf-scored", "batch_size": 2, "device": "cpu", "use_cache": True},
        "tasks": ["triviaqa_uncertainty"],
        "models": [
            {"name": name, "model_args": {"pretrained": str(save(kind, name)), "max_new_tokens": 4}}
            for name, kind in kinds.items()
        ],
    }
    path, output = tmp_path / "families.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(grid), encoding="utf-8")
    command = [sys.executable, "-m", "lm_eval_ensemble", "sweep", str(path), "--limit", "2", "--output", str(output)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = list(csv.DictReader((output / "uncertainty.csv").read_text(encoding="utf-8").splitlines()))
    assert [(row["cell"], row["model_family"], row["Num_examples"]) for row in rows] == [
        ("Llama", "llama", "2"),
        ("Qwen2", "qwen2", "2"),
        ("Mistral", "mistral", "2"),
    ]
    assert {row["experiment_lot"] for row in rows} == {"families"}
    for name in kinds:
        assert f"| {name} " in done.stdout
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    for row in manifest["cells"]:
        assert row["state"] == "done"
        assert row["member_memory_mib"]["hf-scored"] > 0
        config = yaml.safe_load((output / row["config"]).read_text(encoding="utf-8"))
        assert config["limit"] == 2
        # Every cell has a cache of its own.
        assert list(Path(config["use_cache"]).parent.glob("answers*"))
