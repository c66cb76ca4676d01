"""The commands read files only: neither torch nor lm_eval is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.helpers import FIXTURES

CODE = """
import contextlib, io, sys
from lm_eval_ensemble.cli import main
with contextlib.redirect_stdout(io.StringIO()) as printed:
    status = [main({arguments!r} + more) for more in {more!r}]
print(status, len(printed.getvalue()) > 500, [m for m in ("torch", "lm_eval", "transformers", "datasets") if m in sys.modules])
"""


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (
            ["compare", str(FIXTURES / "ensemble"), str(FIXTURES / "fim"), "--members"],
            [["--format", f] for f in ("md", "html", "csv")],
        ),
        (
            ["report", str(FIXTURES / "ensemble")],
            [["--html", "PAGE"], ["--no_html"], ["--format", "json"], ["--export", "jsonl"], ["--export", "stats"]],
        ),
    ],
)
def test_no_model_library_is_loaded(tmp_path: Path, arguments: list[str], more: list[list[str]]) -> None:
    more = [[str(tmp_path / "page.html") if word == "PAGE" else word for word in words] for words in more]
    code = CODE.format(arguments=arguments, more=more)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{[0] * len(more)} True []", done.stderr
