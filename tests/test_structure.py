"""The house stays in order: import direction, public names, cheap imports, lengths."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lm_eval_ensemble

PACKAGE = Path(lm_eval_ensemble.__file__).parent
ROOT = Path(__file__).resolve().parent.parent
NAME = "lm_eval_ensemble"

# Each room may import from its own level and those before it, never from a later one.
LEVELS = [
    {"types", "errors", "startup", "_autoload"},
    {"values", "faults"},
    {"config", "data", "tokens", "fim", "sampling", "batching"},
    {"diffusion", "metrics", "execution", "selection"},
    {"report"},
    {"scoring", "members", "uncertainty", "questions"},
    {"store", "plots"},
    {"ensemble", "replay"},
    {"harness"},
    {"doctor", "fit_length", "sweep"},
    {"cli"},
    {"__main__"},
]
# Rooms of one level that may know each other; all others on the same level may not.
NEIGHBOURS = {
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


def test_files_and_functions_are_short() -> None:
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
    assert long == []


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
