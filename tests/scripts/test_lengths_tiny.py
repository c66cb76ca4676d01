from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import lengths_tiny


def test_every_policy_gets_a_line_per_document_and_a_row_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths_tiny, "SETS", {"infill_toy": "infill_toy"})
    monkeypatch.setattr(lengths_tiny, "POLICIES", {"oracle": True, "fixed-mean": False, "ar": False})
    output = tmp_path / "lengths.jsonl"
    lengths_tiny.run(output, 0, 2, None)
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["policy"] for row in rows[::2]] == ["oracle", "fixed-mean", "ar"]
    assert len({row["doc"] for row in rows}) == 2
    lengths_tiny.run(output, 0, 2, None)
    assert len(output.read_text(encoding="utf-8").splitlines()) == len(rows)  # all there already
    table = lengths_tiny.table(output)
    assert "`infill_toy`, n = 2; autoregressive member alone: pass@1" in table
    assert "| `ar` | no |" in table
    assert "Best without a reference: `ar`" in table
