"""Hand-damaged files: whatever stands in them, the commands tell it and go on."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble.cli import main
from tests.report.helpers import FIXTURES

ODD: list[Any] = [None, [], {}, "", "text", -1, 10**400, 1e300, True, [None], {"a": 1}, [[1]], "Infinity"]
COMMANDS = [["compare", "--members"], ["report"], ["report", "--format", "json"], ["report", "--export", "jsonl"], ["select"]]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value, but not the texts of documents."""
    found = [path] if path else []
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        if key not in ("arguments", "logprobs"):
            found += places(child, (*path, key))
    return found


def put(value: Any, path: tuple[Any, ...], odd: Any) -> None:
    for key in path[:-1]:
        value = value[key]
    if odd == "gone":
        del value[path[-1]]
    else:
        value[path[-1]] = odd


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["samples", "results"])
def test_no_damage_is_a_traceback(tmp_path: Path, kind: str, seed: int) -> None:
    draw = random.Random(seed)
    folder = tmp_path / "run"
    shutil.copytree(FIXTURES / "ensemble", folder)
    (path,) = folder.rglob(f"{kind}_*")
    text = path.read_text()
    values = [json.loads(line) for line in text.splitlines()] if kind == "samples" else [json.loads(text)]
    for value in values:
        for _ in range(draw.randrange(3)):
            put(value, draw.choice(places(value)), draw.choice([*ODD, "gone"]))
    lines = [json.dumps(value) for value in values]
    if kind == "samples" and draw.random() < 0.5:
        lines[-1] = lines[-1][: draw.randrange(len(lines[-1]))]
    path.write_text("\n".join(lines))
    for command in COMMANDS:
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            status = main([*command, str(folder)])
        assert status in (0, 1, 2)
        assert (status == 0) == (not err.getvalue())
        assert re.search(r"\bnan\b", out.getvalue(), re.IGNORECASE) is None
