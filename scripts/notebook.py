"""Executes docs/analysis.ipynb and stores it with its outputs.

    python scripts/notebook.py            after a change of the notebook, of the fixtures or of what they show
    python scripts/notebook.py --check    only compares the text of the stored outputs with a fresh execution

Pictures are stored and not compared: their bytes depend on the version of matplotlib.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "docs" / "analysis.ipynb"
_VOLATILE = ("image/png", "image/svg+xml")


def execute(notebook: Any) -> Any:
    """A copy of the notebook with the outputs of a fresh kernel of this interpreter; an error in a cell is one here."""
    import copy

    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec
    from nbclient import NotebookClient

    class Here(AsyncKernelManager):  # type: ignore[misc]
        """No kernel needs to be installed by name."""

        @property
        def kernel_spec(self) -> KernelSpec:
            command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=command, display_name="Python 3", language="python")

    fresh = copy.deepcopy(notebook)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}
    environment["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm's word on an absent widget, with a path of this machine
    client = NotebookClient(fresh, timeout=120, km=Here(), resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    client.execute(env=environment)
    for number, cell in enumerate(fresh.cells):
        if "outputs" in cell:
            cell.outputs = _joined(cell.outputs)
        cell.metadata = {}
        cell.id = f"cell-{number:02d}"
    return fresh


def _joined(outputs: list[Any]) -> list[Any]:
    """What a cell prints arrives in pieces that depend on timing: one output per stream."""
    found: list[Any] = []
    for output in outputs:
        if found and output["output_type"] == "stream" and found[-1].get("name") == output["name"]:
            found[-1]["text"] += output["text"]
        else:
            found.append(output)
    return found


def texts(notebook: Any) -> list[list[Any]]:
    """The outputs of every cell without pictures and without counters."""
    found = []
    for cell in notebook.cells:
        own: list[Any] = []
        for output in cell.get("outputs", ()):
            if "text" in output:
                own.append((output["name"], output["text"]))
            else:
                data = {kind: value for kind, value in output.get("data", {}).items() if kind not in _VOLATILE}
                own.append((output["output_type"], data))
        found.append(own)
    return found


def main() -> int:
    import nbformat

    stored = nbformat.read(NOTEBOOK, 4)
    fresh = execute(stored)
    if "--check" in sys.argv[1:]:
        if texts(stored) == texts(fresh):
            return 0
        print(f"{NOTEBOOK}: the stored outputs are old. Run: python scripts/notebook.py", file=sys.stderr)
        return 1
    nbformat.write(fresh, NOTEBOOK)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
