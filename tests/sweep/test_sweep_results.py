"""When results count as finished: cut at any point, made with other settings, or damaged, they do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble.sweep.results import fault, finished, set_aside
from tests.sweep.stub import write_results

CONFIG: dict[str, Any] = {"model": "diffusion-infill", "model_args": {"pretrained": "a", "steps": 4}, "limit": 15}


def samples_of(path: Path) -> Path:
    return next(path.parent.glob("samples_*.jsonl"))


def test_whole_results_are_finished(tmp_path: Path) -> None:
    path = write_results(tmp_path, CONFIG)
    assert fault(path, CONFIG) == ""
    assert finished(tmp_path, CONFIG) == path
    assert finished(tmp_path / "nowhere", CONFIG) is None


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.999])
def test_samples_cut_anywhere_are_not(tmp_path: Path, kept: float) -> None:
    samples = samples_of(write_results(tmp_path, CONFIG))
    content = samples.read_bytes()
    samples.write_bytes(content[: int(len(content) * kept)])
    assert finished(tmp_path, CONFIG) is None


def test_cut_between_two_samples_is_not(tmp_path: Path) -> None:
    samples = samples_of(write_results(tmp_path, CONFIG))
    samples.write_text("".join(samples.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    assert finished(tmp_path, CONFIG) is None


def test_results_cut_or_without_samples_are_not(tmp_path: Path) -> None:
    path = write_results(tmp_path, CONFIG, samples=False)
    assert "no samples" in fault(path, CONFIG)
    path = write_results(tmp_path, CONFIG)
    path.write_text(path.read_text(encoding="utf-8")[:-200], encoding="utf-8")
    assert "unreadable" in fault(path, CONFIG)


@pytest.mark.parametrize(
    "change",
    [{"limit": None}, {"model": "hf"}, {"model_args": {"pretrained": "a", "steps": 8}}, {"model_args": {"pretrained": "b"}}],
)
def test_results_of_other_settings_are_not(tmp_path: Path, change: dict[str, Any]) -> None:
    write_results(tmp_path, CONFIG)
    assert finished(tmp_path, {**CONFIG, **change}) is None


def test_an_older_whole_run_counts_where_the_newest_is_not(tmp_path: Path) -> None:
    older = write_results(tmp_path, CONFIG, date="2026-01-01T00-00-00.000001")
    newer = write_results(tmp_path, CONFIG, samples=False, date="2026-01-02T00-00-00.000001")
    assert finished(tmp_path, CONFIG) == older
    assert set_aside(tmp_path, CONFIG) == [newer.with_name(newer.name + ".incomplete")]
    assert not newer.exists()
    assert older.exists()


def test_each_filter_has_its_samples(tmp_path: Path) -> None:
    path = write_results(tmp_path, CONFIG)
    content = json.loads(path.read_text(encoding="utf-8"))
    content["results"]["infill_toy"]["exact_match,strict"] = 0.1
    path.write_text(json.dumps(content), encoding="utf-8")
    assert "expected 30" in fault(path, CONFIG)
    samples = samples_of(path)
    samples.write_bytes(samples.read_bytes() * 2)
    assert fault(path, CONFIG) == ""
