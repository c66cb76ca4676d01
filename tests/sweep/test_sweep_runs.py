"""Real cells, from a grid that ships to its table: stand-ins of two architectures, one of them quantised, answer questions."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lm_eval_ensemble.sweep.grid import shipped_grids
from tests.standins import save_standin

NAMES = {"Llama-3.2-1B": "llama", "Mistral-7B-v0.3-8bit": "mistral"}


@pytest.mark.data
def test_the_families_grid_runs_on_stand_ins_of_its_architectures(tmp_path: Path) -> None:
    grid = yaml.safe_load(shipped_grids()["uncertainty_families"].read_text(encoding="utf-8"))
    for seed, model in enumerate(grid["models"]):
        kind = next(k for k in ("llama", "qwen2", "mistral") if k.rstrip("2") in model["model_args"]["pretrained"].lower())
        model["model_args"]["pretrained"] = save_standin(tmp_path / model["name"], kind, seed)
    path, output = tmp_path / "families.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(grid, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "lm_eval_ensemble", "sweep", str(path), "--limit", "2", "--output", str(output)]
    command += ["--only", *(f"{name}__triviaqa_uncertainty" for name in NAMES)]
    overrides = {"DEVICE": "cpu", "BATCH_SIZE": "2", "MODEL_ARGS__MAX_NEW_TOKENS": "4"}
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    environment.update({f"LM_EVAL_ENSEMBLE_SWEEP_{name}": value for name, value in overrides.items()})
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    rows = list(csv.DictReader((output / "uncertainty.csv").read_text(encoding="utf-8").splitlines()))
    # What was overridden stands in the label, so that a quick look is not taken for the run.
    overridden = "batch_size=2 device=cpu max_new_tokens=4 limit=2"
    assert [(row["cell"], row["model_family"], row["Num_examples"]) for row in rows] == [
        (f"{name} {overridden}", kind, "2") for name, kind in NAMES.items()
    ]
    assert [row["quantization"] for row in rows] == ["float32", "int8"]
    assert {row["experiment_lot"] for row in rows} == {"families"}
    for name in NAMES:
        # Long labels are shortened in the table that is printed, and whole in the file.
        assert f"| triviaqa_uncertainty | {name[:18]}" in done.stdout
        assert f"triviaqa_uncertainty, {name} {overridden} (hf-scored)" in (output / "uncertainty.md").read_text("utf-8")
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    for row in manifest["cells"]:
        assert row["state"] == ("done" if row["name"].removesuffix("__triviaqa_uncertainty") in NAMES else "todo")
        if row["state"] == "done":
            assert row["member_memory_mib"]["hf-scored"] > 0
            config = yaml.safe_load((output / row["config"]).read_text(encoding="utf-8"))
            assert (config["limit"], config["model_args"]["max_new_tokens"]) == (2, 4)
            # Every cell has a cache of its own.
            assert list(Path(config["use_cache"]).parent.glob("answers*"))
