"""The grid file and its cells: laws of the product, identities, and every fault by its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_ensemble.errors import ConfigError, DataError
from lm_eval_ensemble.sweep.cells import Override, chosen, make_cells
from lm_eval_ensemble.sweep.grid import Grid, GridFile, find_grid, load_grid, merged, shipped_grids
from lm_eval_ensemble.sweep.overrides import from_environment, limit_of

Write = Callable[..., Path]


def a_grid(**content: Any) -> Grid:
    file = GridFile.model_validate(content)
    return Grid("g", Path("g.yaml"), "", file, tuple(("g.yaml", f"$.models[{i}]") for i in range(len(file.models))))


def test_mappings_on_an_axis_or_from_outside_join_too() -> None:
    values = [{"temperature": 0}, {"temperature": 1, "do_sample": True}]
    grid = a_grid(
        defaults={"model": "hf-scored", "gen_kwargs": {"max_gen_toks": 5}},
        models=[{"name": name, "model_args": {"pretrained": name}} for name in "ab"],
        tasks=["t"],
        grid={"gen_kwargs": values},
    )
    cells = make_cells(grid, [Override(("model_args",), {"dtype": "float16"}, "V")])
    assert [cell.config["gen_kwargs"] for cell in cells] == [{"max_gen_toks": 5, **value} for value in values] * 2
    assert [cell.config["model_args"] for cell in cells] == [{"pretrained": n, "dtype": "float16"} for n in "aabb"]


def test_cells_share_nothing_that_one_of_them_could_change() -> None:
    grid = a_grid(
        defaults={"model": "ensemble-ppl", "metadata": {}},
        models=[{"name": "a", "metadata": {"x": 1}}, {"name": "b", "metadata": {"y": 2}}, {"name": "c"}],
        tasks=["t"],
        grid={"model_args": [{"preset": "tiny"}]},
    )
    cells = make_cells(grid)
    assert [cell.config["metadata"] for cell in cells] == [{"x": 1}, {"y": 2}, {}]
    assert [cell.config["model_args"] for cell in cells] == [{"preset": "tiny", "pretrained": name} for name in "abc"]
    assert grid.file.defaults["metadata"] == {}
    assert grid.file.grid["model_args"] == ({"preset": "tiny"},)


@given(st.integers(1, 3), st.integers(1, 3), st.lists(st.integers(1, 4), max_size=3))
def test_cells_are_the_product_and_all_differ(models: int, tasks: int, axes: list[int]) -> None:
    grid = a_grid(
        defaults={"model": "hf"},
        models=[{"name": f"m{i}", "model_args": {"pretrained": f"p{i}"}} for i in range(models)],
        tasks=[f"t{i}" for i in range(tasks)],
        grid={f"model_args.x{i}": list(range(size)) for i, size in enumerate(axes)},
    )
    cells = make_cells(grid)
    expected = models * tasks
    for size in axes:
        expected *= size
    assert len(cells) == len({cell.digest for cell in cells}) == len({cell.folder_name for cell in cells}) == expected
    assert all(cell.config["log_samples"] is True and cell.config["tasks"] == [cell.task] for cell in cells)


def test_later_words_win_and_mappings_join() -> None:
    grid = a_grid(
        defaults={"model": "hf", "batch_size": 1, "model_args": {"dtype": "float32", "revision": "main"}},
        models=[{"name": "m", "model_args": {"pretrained": "p", "dtype": "bfloat16"}, "batch_size": 2}],
        tasks=["t"],
        grid={"model_args.revision": ["v1"], "gen_kwargs.top_p": [0.5]},
    )
    overrides = [Override(("batch_size",), 3, "VARIABLE"), Override(("model_args", "revision"), "v2", "VARIABLE")]
    (cell,) = make_cells(grid, overrides)
    assert cell.config["model_args"] == {"dtype": "bfloat16", "revision": "v2", "pretrained": "p"}
    assert (cell.config["batch_size"], cell.config["gen_kwargs"]) == (3, {"top_p": 0.5})
    assert cell.places["model_args.dtype"] == "g.yaml: $.models[0].model_args.dtype"
    assert cell.places["model_args.revision"] == "VARIABLE"
    assert cell.places["gen_kwargs.top_p"] == "g.yaml: $.grid.gen_kwargs.top_p"


@given(st.recursive(st.integers() | st.text(max_size=2), lambda v: st.dictionaries(st.sampled_from("abc"), v, max_size=3)))
def test_merging_nothing_changes_nothing_and_the_same_twice_is_once(value: Any) -> None:
    content = {"x": value}
    assert merged(content, {}) == merged({}, content) == merged(content, content) == content


def test_every_setting_is_part_of_the_identity(tmp_path: Path) -> None:
    base: dict[str, Any] = {
        "defaults": {"model": "hf", "seed": 1},
        "models": [{"name": "m", "model_args": {"pretrained": "p"}}],
        "tasks": ["t"],
    }
    (first,) = make_cells(a_grid(**base))
    (again,) = make_cells(a_grid(**{**base, "description": "other words"}))
    assert first.digest == again.digest
    changes: list[dict[str, Any]] = [{"defaults": {"model": "hf", "seed": 2}}, {"tasks": ["u"]}]
    changes += [{"models": [{"name": "m", "model_args": {"pretrained": "q"}}]}]
    assert all(make_cells(a_grid(**{**base, **change}))[0].digest != first.digest for change in changes)
    (quick,) = make_cells(a_grid(**base), [Override(("limit",), 10, "--limit")])
    assert quick.digest != first.digest
    # The folder it writes to is no setting: a moved output folder keeps its cells.
    assert first.resolved(tmp_path / "a")["output_path"] != first.resolved(tmp_path / "b")["output_path"]
    written = yaml.safe_load(first.write(tmp_path).read_text(encoding="utf-8"))
    assert written["output_path"] == str(first.folder(tmp_path).resolve())


def test_names_labels_and_what_ours_and_theirs_get(tmp_path: Path) -> None:
    grid = a_grid(
        defaults={"use_cache": True},
        models=[
            {
                "name": "pair",
                "model": "ensemble-ppl",
                "model_args": {"preset": "tiny"},
                "grid": {"model_args.length": ["ar:2"]},
            },
            {"name": "hf", "model": "hf", "model_args": {"pretrained": "asset:tiny/fim"}},
        ],
        tasks=["infill_toy"],
    )
    pair, stock = make_cells(grid)
    assert (pair.name, pair.label) == ("pair__length=ar-2__infill_toy", "pair length=ar:2")
    assert pair.config["model_args"]["pretrained"] == "pair"  # else lm_eval invents the name of a folder
    assert stock.config["model_args"]["pretrained"] == "asset:tiny/fim"  # portable, and so is the digest
    resolved = stock.resolved(tmp_path)
    assert Path(resolved["model_args"]["pretrained"], "config.json").is_file()
    assert resolved["use_cache"] == str(stock.folder(tmp_path).resolve() / "answers")


def test_a_quick_look_is_labelled_as_one() -> None:
    grid = a_grid(models=[{"name": "a", "model": "hf", "model_args": {"pretrained": "p"}}], tasks=["t"])
    (full,), (quick,) = make_cells(grid), make_cells(grid, [Override(("limit",), 10, "--limit")])
    assert (full.label, quick.label, full.name == quick.name) == ("a", "a limit=10", True)


def test_axes_that_end_alike_keep_their_whole_name() -> None:
    grid = a_grid(
        models=[{"name": "m", "model": "hf", "model_args": {"pretrained": "p"}}],
        tasks=["t"],
        grid={"model_args.temperature": [0.1], "gen_kwargs.temperature": [0.2]},
    )
    assert make_cells(grid)[0].label == "m model_args.temperature=0.1 gen_kwargs.temperature=0.2"


def test_combinations_can_be_left_out() -> None:
    content: dict[str, Any] = {
        "models": [{"name": n, "model": "hf", "model_args": {"pretrained": n}} for n in ("a", "b")],
        "tasks": ["t", "u"],
        "grid": {"model_args.x": [1, 2, 3]},
    }
    grid = a_grid(**content, exclude=[{"model": "b", "model_args.x": [2, 3]}, {"task": "u", "model_args.x": 1}])
    left = [(cell.model, cell.task, cell.choices[0][1]) for cell in make_cells(grid)]
    assert left == [("a", "t", 1), ("a", "t", 2), ("a", "u", 2), ("a", "t", 3), ("a", "u", 3), ("b", "t", 1)]
    for rule, told in (({"model_args.y": 1}, "not an axis"), ({"model": "c"}, "leaves nothing out"), ({}, "everything")):
        with pytest.raises(ConfigError, match=told):
            make_cells(a_grid(**content, exclude=[rule]))


def test_two_cells_must_not_be_one_run() -> None:
    grid = a_grid(
        models=[{"name": "m", "model": "hf", "model_args": {"pretrained": "p"}}], tasks=["t"], grid={"model_args.x": [1, 2]}
    )
    with pytest.raises(ConfigError, match=r"m__x=1__t and m__x=2__t are the same run \(VARIABLE"):
        make_cells(grid, [Override(("model_args", "x"), 3, "VARIABLE")])


def test_only_takes_patterns_and_parts_of_names() -> None:
    grid = a_grid(
        models=[{"name": n, "model": "hf", "model_args": {"pretrained": n}} for n in ("alpha", "beta")], tasks=["t", "u"]
    )
    cells = make_cells(grid)
    assert [cell.name for cell in chosen(cells, ["alpha"])] == ["alpha__t", "alpha__u"]
    assert [cell.name for cell in chosen(cells, ["*__u", cells[0].digest])] == ["alpha__t", "alpha__u", "beta__u"]
    with pytest.raises(ConfigError, match="--only gamma: no cell"):
        chosen(cells, ["gamma"])


def test_all_faults_come_at_once_with_their_places(write_grid: Write) -> None:
    path = write_grid(
        models=[{"nam": "a"}, {"name": "b c", "model_args": 3}], grid={"model_args.x": [], "y.": [1]}, tasks="t", tabel="auto"
    )
    with pytest.raises(ConfigError) as caught:
        load_grid(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: $.") for line in lines)
    for part in (
        "$.models[0].name: missing",
        "$.models[1].name: got 'b c'",
        "$.models[1].model_args: got 3, expected a mapping",
        "$.grid.model_args.x: got",
        "$.tasks: got 't', expected a list",
        "$.tabel: not a setting here. Did you mean 'table'?",
    ):
        assert any(part in line for line in lines), part


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"models": []}, "$.models: missing"),
        ({"tasks": ["t", "t"]}, "'t' stands there twice"),
        ({"models": [{"name": "a"}, {"name": "a"}]}, "'a' stands there twice"),
        ({"defaults": {"tasks": ["t"]}}, "$.defaults.tasks: not a setting of a grid"),
        ({"grid": {"x": [1, 1]}}, "x has one twice"),
        ({"select": {"models": ["a"]}}, "nothing to select from"),
        ({"include": "nowhere.yaml"}, "no file"),
        ({"include": "grid.yaml"}, "includes this file"),
    ],
)
def test_faults_of_the_whole(write_grid: Write, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_grid(write_grid(**changes))
    assert told in str(caught.value)


def test_a_key_that_stands_twice_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text("tasks: [t]\nmodels:\n  - name: a\n    model: hf\n    model: hf-scored\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="'model' stands there twice"):
        load_grid(path)
    path.write_text("tasks: [t]\n? [a, b]\n: 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"a key that is a list or a mapping.*line 2"):
        load_grid(path)
    path.write_text("tasks: [t\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="not YAML"):
        load_grid(path)
    with pytest.raises(DataError, match="Did you mean 'tiny'"):
        find_grid("tinny")


def test_a_grid_that_ships_is_included_by_its_name(write_grid: Write) -> None:
    name, path = next(iter(shipped_grids().items()))
    shipped = load_grid(path)
    found = load_grid(write_grid(include=name, models=[], tasks=[]))
    assert [entry.name for entry in found.models] == [entry.name for entry in shipped.models]
    with pytest.raises(ConfigError, match="no grid of that name ships"):
        load_grid(write_grid(include=name + "x"))


def test_an_included_grid_is_cut_and_added_to(write_grid: Write) -> None:
    write_grid("base.yaml")
    path = write_grid(
        "part.yaml",
        base={},
        include="base.yaml",
        select={"models": ["a"]},
        models=[{"name": "c", "model": "hf", "model_args": {"pretrained": "p"}}],
        defaults={"seed": 7},
    )
    grid = load_grid(path)
    assert [entry.name for entry in grid.models] == ["a", "c"]
    cells = make_cells(grid)
    assert len(cells) == 4
    assert {cell.config["seed"] for cell in cells} == {7}
    assert cells[0].places["model_args.preset"].endswith("base.yaml: $.models[0].model_args.preset")
    assert cells[-1].places["model"].endswith("part.yaml: $.models[0].model")
    with pytest.raises(ConfigError, match=r"\$.select.models: 'z' is none"):
        load_grid(write_grid("part.yaml", base={}, include="base.yaml", select={"models": ["z"]}))


def test_the_halves_of_the_families_are_the_whole() -> None:
    ships = shipped_grids()
    whole, small, large = (
        [cell.digest for cell in make_cells(load_grid(ships[f"uncertainty_families{part}"]))]
        for part in ("", "_small", "_large")
    )
    assert (len(whole), len(small), len(large)) == (12, 6, 6)
    assert sorted(small + large) == sorted(whole)


def test_variables_are_settings() -> None:
    prefix = "LM_EVAL_ENSEMBLE_SWEEP_"
    given = {
        "LIMIT": "10",
        "MODEL_ARGS__DTYPE": "bfloat16",
        "GEN_KWARGS__TOP_P": "0.5",
        "JOBS": "2",
        "SEED": "[1, 2, 3, 4]",
    } | {"OUTPUT": "2026"}
    overrides, options = from_environment({"HOME": "/", **{prefix + name: value for name, value in given.items()}})
    assert options == {"jobs": 2, "output": "2026"}
    assert {override.path: override.value for override in overrides} == {
        ("limit",): 10,
        ("model_args", "dtype"): "bfloat16",
        ("gen_kwargs", "top_p"): 0.5,
        ("seed",): [1, 2, 3, 4],
    }
    with pytest.raises(ConfigError) as caught:
        from_environment({prefix + "TASKS": "t", prefix + "LIMIT": "[", prefix + "A____B": "1"})
    assert [line.split(":")[0].removeprefix(prefix) for line in str(caught.value).splitlines()] == ["A____B", "LIMIT", "TASKS"]


def test_limits() -> None:
    assert (limit_of("10"), limit_of("0.5")) == (10, 0.5)
    for wrong in ("0", "-1", "2.5", "ten", "nan"):
        with pytest.raises(ConfigError, match="--limit"):
            limit_of(wrong)
