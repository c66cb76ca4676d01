"""docs/analysis.ipynb runs in a fresh kernel without an error, and shows what is stored in it."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import nbformat
import pytest

from scripts.notebook import NOTEBOOK, ROOT, texts


@pytest.fixture(scope="module")
def stored() -> Any:
    return nbformat.read(NOTEBOOK, 4)


def test_the_notebook_runs_and_its_outputs_are_fresh() -> None:
    # A process of its own: what the kernel's client leaves to the garbage collector is no business of other tests.
    done = subprocess.run(
        [sys.executable, "-m", "scripts.notebook", "--check"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_another_output_would_be_noticed(stored: Any) -> None:
    changed = copy.deepcopy(stored)
    assert texts(changed) == texts(stored)
    (printed, *_) = [output for cell in changed.cells for output in cell.get("outputs", ()) if "text" in output]
    printed["text"] += "more"
    assert texts(changed) != texts(stored)


def test_readers_see_outputs_and_no_paths(stored: Any) -> None:
    nbformat.validate(stored)
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert sum(bool(cell.outputs) for cell in code) >= len(code) - 1
    assert sum("image/png" in output.get("data", {}) for cell in code for output in cell.outputs) == 12
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert str(NOTEBOOK.parent.parent) not in text
    assert len(text) < 800_000
