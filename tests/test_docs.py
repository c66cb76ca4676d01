"""The documentation's code blocks run, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+) run\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", [p for p in PAGES if BLOCK.search(p.read_text(encoding="utf-8"))], ids=lambda p: p.name)
def test_blocks_marked_run_run(page: Path, tmp_path: Path) -> None:
    """All blocks of a page in order, in one folder, as a reader would."""
    folder = str(Path(sys.executable).parent)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PATH": folder + os.pathsep + os.environ["PATH"]}
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        (tmp_path / "block.py").write_text(text, encoding="utf-8")
        command = [sys.executable, "block.py"] if language == "python" else ["sh", "-e", "-c", text]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stderr[-3000:]}"


def test_worked_examples_are_short() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    sizes = [block.count("\n") for _, block in BLOCK.findall(text)]
    assert len(sizes) == 4
    assert max(sizes) < 40
