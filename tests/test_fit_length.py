from __future__ import annotations

import json
from pathlib import Path

import pytest

from lm_eval_ensemble.cli import main
from lm_eval_ensemble.diffusion.confidence import Bias
from lm_eval_ensemble.harness.diffusion_lm import DiffusionInfill
from lm_eval_ensemble.types import InfillRequest


def test_a_bias_is_fitted_and_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "bias.json"
    command = ["fit-length", "tiny", "--code", json.__file__, "--output", str(output), "--gaps", "30", "--context", "48"]
    command += ["--model_args", "dtype=float32"]
    assert main(command) == 0
    assert "30 gaps of each kind from 1 texts" in capsys.readouterr().out
    content = json.loads(output.read_text())
    assert content["origin"]["gaps"] == 30
    assert set(content["tables"]) == {"line", "none"}
    model = DiffusionInfill(preset="tiny", length="search", length_bias=str(output))
    assert model.lengths.bias == Bias.load(output, content["model"])
    assert 1 <= model.propose([InfillRequest("x = ", "\n")])[0].info["length"] <= 64


def test_settings_out_of_range_are_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit-length", "tiny", "--code", str(tmp_path), "--gaps", "3"]) == 2
    assert "at least 20 gaps" in capsys.readouterr().err
    assert main(["fit-length", "tiny", "--code", str(tmp_path)]) == 2
    assert "found 0 texts" in capsys.readouterr().err
