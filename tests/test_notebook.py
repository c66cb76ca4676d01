"""docs/analysis.ipynb runs in a fresh kernel without an error, and shows what is stored in it."""

from __future__ import annotations

from typing import Any

import nbformat
import pytest

from scripts.notebook import NOTEBOOK, execute, texts


@pytest.fixture(scope="module")
def stored() -> Any:
    return nbformat.read(NOTEBOOK, 4)


def test_the_notebook_runs_and_its_outputs_are_fresh(stored: Any) -> None:
    assert texts(execute(stored)) == texts(stored)


def test_readers_see_outputs_and_no_paths(stored: Any) -> None:
    nbformat.validate(stored)
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert sum(bool(cell.outputs) for cell in code) >= len(code) - 1
    assert sum("image/png" in output.get("data", {}) for cell in code for output in cell.outputs) == 3
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert str(NOTEBOOK.parent.parent) not in text
    assert len(text) < 400_000
