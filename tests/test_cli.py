from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble.cli import main


def test_judging_a_file_of_completions(tmp_path: Path, toy: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "answers.jsonl.gz"
    rows = [{"task_id": d["task_id"], "completion": text} for d in toy[:4] for text in (d["middle"], "nonsense(")]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert main(["judge", str(path), "-k", "1,2"]) == 0
    printed = capsys.readouterr().out
    assert "pass@1" in printed
    assert "pass@2" in printed
    verdicts = [json.loads(line) for line in next(tmp_path.glob("*.verdicts.jsonl")).read_text().splitlines()]
    assert [v["status"] for v in verdicts] == ["pass", "fail"] * 4


def test_judging_a_samples_file_of_lm_eval(
    tmp_path: Path, toy: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    line = next(d for d in toy if d["cut"] == "line")
    rows = [{"doc_id": 0, "doc": line, "resps": [[line["middle"].rstrip() + "\nmore(", "nonsense("]], "filter": "none"}]
    path = tmp_path / "samples_infill_toy.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert main(["judge", str(path), "-k", "1,2"]) == 0
    verdicts = [json.loads(text) for text in next(tmp_path.glob("*.verdicts.jsonl")).read_text().splitlines()]
    # The first answer is cut after its line, as the task does.
    assert [v["status"] for v in verdicts] == ["pass", "fail"]
    assert "pass@2" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["-k", "0"], ["-k", "1,x"], ["--sandbox_command", 'bwrap "'], ["--timeout", "inf"]])
def test_settings_out_of_range_are_one_message(
    tmp_path: Path, toy: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps({"task_id": toy[0]["task_id"], "completion": ""}) + "\n")
    assert main(["judge", str(path), *arguments]) == 2
    assert "ConfigError" in capsys.readouterr().err


def test_errors_are_one_message_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"task_id": "no/such/task", "completion": ""}\n')
    assert main(["judge", str(path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("lm-eval-ensemble: DataError: ")
    assert "broken.jsonl" in message
    assert "Traceback" not in message


def test_help_and_version_need_no_model() -> None:
    for arguments, expected in ((["--help"], "judge"), (["--version"], "lm_eval_ensemble 0.")):
        done = subprocess.run(
            [sys.executable, "-m", "lm_eval_ensemble", *arguments], capture_output=True, text=True, check=True
        )
        assert expected in done.stdout


def test_a_reader_that_leaves_early_is_no_traceback() -> None:
    runs = Path(__file__).resolve().parent / "fixtures" / "runs" / "ensemble"
    command = [sys.executable, "-m", "lm_eval_ensemble", "report", str(runs), "--no_html"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 141
