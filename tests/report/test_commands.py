"""The commands read files only: neither torch nor lm_eval is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lm_eval_ensemble.cli import main
from tests.report.helpers import FIXTURES, candidate, ensemble_sample, record, write_run

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


def test_an_empty_file_of_samples_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", [], value=0.5)
    assert main(["report", str(folder), "--no_html"]) == 1
    assert "samples_t_" in (told := capsys.readouterr().err)
    assert "the file is empty or damaged" in told


def test_a_document_without_a_record_is_not_counted_as_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    selection = record([candidate("a", "x", True), candidate("b", "y", False)], 0)
    samples = [ensemble_sample(i, selection) for i in range(4)]
    del samples[1]["selection"]
    folder = write_run(tmp_path / "run", samples, metric="pass@1")
    assert main(["report", str(folder), "--format", "json"]) == 1
    out, told = capsys.readouterr()
    figures = json.loads(out)[0]["figures"]
    assert (figures["n"], figures["ensemble"]["value"], figures["members"]["a"]["value"]) == (3, 1.0, 1.0)
    assert "line 2: no record as in other lines" in told
