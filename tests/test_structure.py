"""The house stays in order: import direction, public names, cheap imports, lengths."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import lm_eval_ensemble

PACKAGE = Path(lm_eval_ensemble.__file__).parent
ROOT = Path(__file__).resolve().parent.parent
NAME = "lm_eval_ensemble"

# Each room may import from its own level and those before it, never from a later one.
LEVELS = [
    {"types", "errors", "startup", "progress", "_autoload"},
    {"values", "faults", "families"},
    {"config", "data", "problems", "tokens", "fim", "sampling", "batching"},
    {"diffusion", "metrics", "execution", "selection"},
    {"runs"},
    {"report"},
    {"scoring", "members", "uncertainty", "questions"},
    {"store", "plots"},
    {"ensemble", "replay"},
    {"harness"},
    {"doctor", "fit_length", "gaps", "sweep"},
    {"cli"},
    {"__main__"},
]
# Rooms of one level that may know each other; all others on the same level may not.
NEIGHBOURS = {
    ("problems", "data"),  # files of a user in the shape of the sets
    ("fim", "tokens"),
    ("fim", "config"),  # layouts are settings: same strictness, same messages
    ("execution", "metrics"),  # the judge command prints pass@k
}


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "tasks" not in path.relative_to(PACKAGE).parts)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == NAME)


def modules(path: Path) -> Iterator[str]:
    """Of ``from room import name`` both, as the name may be a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
    yield from imports(path)


def level(name: str) -> int:
    return next(i for i, rooms in enumerate(LEVELS) if name in rooms)


def test_imports_run_one_way() -> None:
    wrong = []
    for path in sources():
        here = room(path)
        if here in ("__init__", "_autoload"):
            continue
        for module in imports(path):
            parts = module.split(".")
            if parts[0] != NAME or len(parts) < 2 or parts[1] == here or parts[1].startswith("__"):
                continue
            there = parts[1]
            allowed = level(there) < level(here) or (here, there) in NEIGHBOURS
            allowed = allowed or (level(there) == level(here) and {here, there} <= {"types", "errors"})
            if not allowed:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {module}")
    assert wrong == []


def test_metrics_import_no_other_room() -> None:
    """Numbers in, numbers out."""
    others = {m for p in sources() if room(p) == "metrics" for m in imports(p) if m.startswith(f"{NAME}.")}
    assert {module for module in others if module.split(".")[1] != "metrics"} == set()


def test_only_runs_names_the_fields_of_a_record() -> None:
    """A new field of the record, or another shape of it, touches one room."""
    wrong = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in ("winner_index", "completions") and room(path) != "runs":
                wrong.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {node.value}")
    assert wrong == []


def test_no_two_modules_import_each_other() -> None:
    """Not even inside functions: who needs whom has one answer."""
    known = {".".join([NAME, *p.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): p for p in sources()}
    needs = {name: set(modules(path)) & known.keys() - {name} for name, path in known.items()}
    circles = []
    for name in needs:
        seen, todo = set[str](), [name]
        while todo:
            for other in needs[todo.pop()] - seen:
                seen.add(other)
                todo.append(other)
        if name in seen:
            circles.append(name)
    assert circles == []


def test_a_class_name_means_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for path in sources():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_only_the_harness_imports_lm_eval() -> None:
    found = {room(p) for p in sources() for m in imports(p) if m.split(".")[0] == "lm_eval"}
    assert found <= {"harness", "cli"}, found  # cli: `run` starts lm_eval's own command


def test_every_room_has_its_level() -> None:
    rooms = {room(path) for path in sources()} - {"__init__"}
    assert rooms <= set().union(*LEVELS)


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_names_are_listed(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    listed = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
    ]
    if not listed:
        return
    names = ast.literal_eval(listed[0])
    assert len(names) == len(set(names))
    module = ".".join([NAME, *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
    found = importlib.import_module(module)
    assert [name for name in names if not hasattr(found, name)] == []


@pytest.mark.parametrize("module", [NAME, f"{NAME}._autoload", f"{NAME}.types", f"{NAME}.execution", f"{NAME}.cli"])
def test_importing_us_loads_neither_torch_nor_lm_eval(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'lm_eval', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.filterwarnings("default")
def test_files_and_functions_are_short() -> None:
    """A warning, no law: no file exists because of a limit, but a long one deserves a second look."""
    long = []
    for path in sources():
        text = path.read_text(encoding="utf-8")
        if (lines := text.count("\n")) > 400:
            long.append(f"{path.name}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                if size > 80:
                    long.append(f"{path.name}:{node.lineno} {node.name}: {size} lines")
    for place in long:
        warnings.warn(place, stacklevel=1)


def test_the_pipeline_is_one_short_function() -> None:
    tree = ast.parse((PACKAGE / "ensemble.py").read_text(encoding="utf-8"))
    run = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "run")
    assert (run.end_lineno or 0) - run.lineno < 60


def test_doctests_hold() -> None:
    import doctest

    for name in ("types", "tokens", "diffusion.schedules"):
        module = importlib.import_module(f"{NAME}.{name}")
        result = doctest.testmod(module, extraglobs={"torch": importlib.import_module("torch")})
        assert (result.failed, result.attempted > 0) == (0, True)


def test_no_named_tuple_has_another_base() -> None:
    """Python 3.10 cannot import one."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            bases = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
            assert "NamedTuple" not in bases or len(bases) == 1, f"{path}: {bases}"
