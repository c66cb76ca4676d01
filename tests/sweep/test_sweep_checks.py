"""Configurations checked as lm_eval would: every shipped grid, and each kind of fault by the place it was written at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble.harness import run_config
from lm_eval_ensemble.harness.run_config import check_runs
from lm_eval_ensemble.sweep.cells import Override, make_cells
from lm_eval_ensemble.sweep.command import check_cells
from lm_eval_ensemble.sweep.grid import load_grid, shipped_grids

Write = Callable[..., Path]


@pytest.mark.parametrize("name", sorted(shipped_grids()))
def test_every_shipped_grid_is_valid(name: str) -> None:
    grid = load_grid(shipped_grids()[name])
    cells = make_cells(grid)
    assert check_cells(grid, cells, own_process=False) == []
    assert grid.file.description
    text = grid.path.read_text(encoding="utf-8")
    assert "# Needs" in text
    assert "ource" in text


def faults(write_grid: Write, overrides: tuple[Override, ...] = (), **changes: Any) -> list[str]:
    grid = load_grid(write_grid(**changes))
    return [line.removeprefix(f"{grid.path}: ") for line in check_cells(grid, make_cells(grid, overrides), own_process=False)]


@pytest.fixture(autouse=True)
def _our_tasks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm_eval's own index takes ten seconds to build."""
    build = run_config._Tasks._manager
    monkeypatch.setattr(run_config._Tasks, "_manager", lambda self, path, defaults: build(self, path, False))


def a_model(kind: str, **arguments: Any) -> list[dict[str, Any]]:
    return [{"name": "m", "model": kind, "model_args": arguments}]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"defaults": {"batchsize": 8}},
            "$.defaults.batchsize: not a key of lm_eval's configuration. Did you mean 'batch_size'?",
        ),
        ({"defaults": {"gen_kwargs": "temperature=1"}}, "$.defaults.gen_kwargs: got 'temperature=1', expected a mapping"),
        ({"defaults": {"log_samples": False}}, "$.defaults.log_samples: got False, expected true"),
        ({"defaults": {"batch_size": 0}}, "$.defaults.batch_size: got 0"),
        ({"defaults": {"limit": 2.5}}, "$.defaults.limit: got 2.5"),
        ({"defaults": {"use_cache": "answers"}}, "cells would share answers"),
        ({"defaults": {"predict_only": True}}, "$.defaults.predict_only: nothing would be scored"),
        ({"defaults": {"include_path": "/no/such"}}, "$.defaults.include_path: no folder"),
        ({"tasks": ["infil_toy"]}, "$.tasks: 'infil_toy' is not a task of lm_eval. Did you mean 'infill_toy'?"),
        ({"models": a_model("hf-scoredd", pretrained="x")}, "$.models[0].model: 'hf-scoredd' is not registered"),
        (
            {"models": a_model("hf-scored", pretrained="x", quantization={"load_in_4bit": True, "bnb_4bit_quant_typ": "nf4"})},
            "$.models[0].model_args.quantization.bnb_4bit_quant_typ: not a setting of BitsAndBytesConfig. Did you mean",
        ),
        ({"models": a_model("hf", pretrained="x", dtpye="auto")}, "$.models[0].model_args.dtpye: not an argument of HFLM. Did"),
        ({"models": a_model("hf", pretrained="x", attn_implementation="eager")}, None),
        ({"models": a_model("hf", dtype="auto")}, "$.models[0].model_args.pretrained: missing"),
        ({"models": a_model("local-completions", model="x", base_url="u")}, None),
        (
            {"models": a_model("hf-scored", pretrained="x", record="all")},
            "$.models[0].model_args.record: got 'all', expected entropy",
        ),
        (
            {"models": a_model("hf-scored", preset="tiny", temprature=1)},
            "$.models[0].model_args.temprature: not an argument of Sc",
        ),
        ({"models": a_model("hf-scored", preset="tinny")}, "$.models[0].model_args.preset: 'tinny' is not a preset"),
        ({"models": a_model("hf-scored", preset="tiny", layout="kwen")}, "$.models[0].model_args.layout"),
        ({"models": a_model("diffusion-infill", preset="tiny", steps=0)}, "$.models[0].model_args.steps: got 0, expected >= 1"),
        # Without a preset its label is taken for a checkpoint, which only loading can tell.
        ({"models": a_model("diffusion-infill")}, None),
        ({"models": a_model("local-completions", base_url="u")}, "$.models[0].model_args: none of peft, delta, pretrained"),
        (
            {"models": a_model("ensemble-ppl", preset="tiny", stepz=1)},
            "$.models[0].model_args.stepz: not a setting of ensemble-ppl",
        ),
        ({"models": a_model("ensemble-ppl", preset="tiny", selector="argmim")}, "$.models[0].model_args"),
        ({"grid": {"model_args.steps": [4, 0]}}, "$.grid.model_args.steps: got 0, expected >= 1"),
    ],
)
def test_each_fault_by_its_place(write_grid: Write, changes: dict[str, Any], told: str | None) -> None:
    base = {"model": "diffusion-infill", "confirm_run_unsafe_code": True}
    changes = {"grid": {}, **changes, "defaults": {**base, **changes.get("defaults", {})}}
    found = faults(write_grid, **changes)
    assert len(found) == (told is not None)
    assert told is None or told in found[0]


def test_members_are_checked_by_their_own_signature(write_grid: Write) -> None:
    members = [
        {"name": "a", "model": "hf-scored", "args": {"preset": "tiny", "atn_implementation": "eager"}},
        {"name": "b", "model": "hf", "args": {"pretrained": "x", "dtpye": "auto"}},
        {"name": "c", "model": "diffusion-infill", "args": {"preset": "tiny"}},
    ]
    found = faults(write_grid, models=a_model("ensemble-ppl", members=members), grid={})
    assert [line.split(": ")[0] for line in found] == [
        "$.models[0].model_args.members[0].args.atn_implementation",
        "$.models[0].model_args.members[1].args.dtpye",
    ]


def test_a_misspelt_variable_is_named(write_grid: Write) -> None:
    name = "LM_EVAL_ENSEMBLE_SWEEP_LIMITT"
    grid = load_grid(write_grid())
    found = check_cells(grid, make_cells(grid, [Override(("limitt",), 3, name)]), own_process=False)
    assert found == [f"{name}: not a key of lm_eval's configuration. Did you mean 'limit'? (every cell)"]


def test_what_is_not_known_here_can_be_let_through(write_grid: Write) -> None:
    models = a_model("hf", pretrained="x", rope_scaling={"factor": 2})
    assert len(faults(write_grid, models=models, grid={})) == 1
    assert faults(write_grid, models=models, grid={}, unchecked=["model_args.rope_scaling"]) == []


def test_code_is_not_executed_without_leave(write_grid: Write) -> None:
    (line,) = faults(write_grid, defaults={"model": "diffusion-infill"}, tasks=["humaneval_infill_all"], grid={})
    assert "confirm_run_unsafe_code" in line


def test_a_process_of_its_own_says_the_same(write_grid: Write) -> None:
    grid = load_grid(write_grid(defaults={"model": "diffusion-infill", "confirm_run_unsafe_code": True, "batchsize": 1}))
    cells = make_cells(grid)
    assert check_cells(grid, cells) == check_cells(grid, cells, own_process=False) != []


def test_an_own_task_file_is_a_task(tmp_path: Path) -> None:
    folder = Path(__file__).parent.parent / "fixtures" / "tasks"
    config = {"model": "hf", "model_args": {"pretrained": "x"}, "log_samples": True, "output_path": str(tmp_path)}
    assert check_runs([{**config, "tasks": [str(folder / "words_choice.yaml")]}]) == [[]]
    assert check_runs([{**config, "tasks": ["words_choice"], "include_path": str(folder)}]) == [[]]
    assert check_runs([{**config, "tasks": [str(folder / "none.yaml")]}]) != [[]]
