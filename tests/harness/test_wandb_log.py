"""Weights & Biases with the real package, offline: what stands in the run afterwards, read back from its file."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble.harness.wandb_log import extend, flat, sample_table
from lm_eval_ensemble.report.figures import figures
from tests.report.helpers import candidate, ensemble_sample, read_lines, record

ANSWERS = Path(__file__).resolve().parent.parent / "fixtures" / "answers" / "qa_float32"

# One process, several runs: importing lm_eval is what takes the time.
PROGRAM = """
import functools, json, logging, sys
import lm_eval.tasks
lm_eval.tasks.TaskManager = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
from lm_eval.__main__ import cli_evaluate
import wandb

def run(name, *more, model="ensemble-ppl", arguments="preset=tiny,pretrained=tiny"):
    flags = "--tasks infill_toy --confirm_run_unsafe_code --limit 3 --gen_kwargs max_gen_toks=8 --log_samples"
    sys.argv = ["lm_eval", "--model", model, "--model_args", arguments, *flags.split(), "--output_path", "out/" + name, *more]
    cli_evaluate()

run("stock", "--wandb_args", "project=p,name=stock", model="hf", arguments="pretrained=" + CHECKPOINT)
run("logged", "--wandb_args", "project=p,name=logged")
run("plain")
assert wandb.run is None

# A failure of ours: the results are there all the same.
from lm_eval_ensemble.harness import wandb_log
make, wandb_log.sample_table = wandb_log.sample_table, lambda *_: 1 / 0
run("broken", "--wandb_args", "project=p,name=broken")
wandb_log.sample_table = make

# Answers to questions; a task with a slash in its name, a metric that one sample does not have, a group without a mean.
from lm_eval.loggers import WandbLogger
results, samples = json.load(open(ANSWERS_RESULTS)), [json.loads(line) for line in open(ANSWERS_SAMPLES)]
for sample in samples:
    sample |= {"target": "t", "arguments": [["p", {}]], "resps": [["r"]], "filtered_resps": ["r"], "doc": {}}
task = next(iter(results["configs"]))
name = "odd/" + task
for part in ("results", "configs", "n-samples", "versions", "n-shot", "higher_is_better"):
    results[part] = {name: results[part][task]}
results["results"]["a_group"] = {"alias": "a_group"}
results["configs"][name]["metric_list"] = [{"metric": "f1"}, {"metric": "seldom"}]
results["configs"][name]["output_type"] = "generate_until"
samples[0]["seldom"] = 1.0
logger = WandbLogger({"project": "p", "name": "questions"})
logger.post_init(results)
logger.log_eval_result()
logger.log_eval_samples({name: samples})
logger.run.finish()
"""


def records(file: Path) -> Iterator[Any]:
    """The protobuf records of a ``.wandb`` file: LevelDB's log format after a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts = file.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the end of one
            found = Record()
            found.ParseFromString(parts)
            parts = b""
            yield found


def put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def read_back(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(last value of every key of the history, summary) of an offline run."""
    (file,) = folder.glob("run-*.wandb")
    history: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    for found in records(file):
        for item in found.history.item if found.HasField("history") else ():
            put(history, [item.key] if item.key else list(item.nested_key), json.loads(item.value_json))
        for item in found.summary.update if found.HasField("summary") else ():
            put(summary, [item.key] if item.key else list(item.nested_key), json.loads(item.value_json))
    return history, summary


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory, assets: Path) -> tuple[Path, str]:
    """Runs the program once; every way out leads to a listener of ours, which nobody may call."""
    folder = tmp_path_factory.mktemp("wandb")
    (results,) = ANSWERS.rglob("results_*.json")
    (samples,) = ANSWERS.rglob("samples_*.jsonl")
    given = f"ANSWERS_RESULTS, ANSWERS_SAMPLES, CHECKPOINT = {str(results)!r}, {str(samples)!r}, {str(assets / 'fim')!r}\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), address)
        environment = {
            **{name: value for name, value in os.environ.items() if name.lower() != "no_proxy"},
            **proxies,
            "WANDB_BASE_URL": address,
            "WANDB_MODE": "offline",
            "WANDB_DIR": str(folder),
            "WANDB_SILENT": "true",
        }
        program = folder / "wandb_run.py"
        program.write_text(given + PROGRAM, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(program)], capture_output=True, text=True, cwd=folder, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    return folder, done.stderr


def runs(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_ctime)


def named(folder: Path, name: str) -> Path:
    for run in runs(folder):
        (file,) = run.glob("run-*.wandb")
        if any(found.HasField("run") and found.run.display_name == name for found in records(file)):
            return run
    raise AssertionError(f"no run {name}")


def test_table_figures_and_plots_are_in_the_run(offline: tuple[Path, str]) -> None:
    folder, _ = offline
    run = named(folder, "logged")
    history, summary = read_back(run)
    (samples,) = (folder / "out" / "logged").rglob("samples_*.jsonl")
    (results,) = (folder / "out" / "logged").rglob("results_*.json")
    stated = json.loads(results.read_text())["results"]["infill_toy"]["pass@1,none"]
    own = {key.removeprefix("lm_eval_ensemble/infill_toy/"): value for key, value in {**history, **summary}.items()}
    table = json.loads((run / "files" / own["samples"]["path"]).read_text())
    written = [json.loads(line) for line in samples.read_text().splitlines()]
    column = {name: [line[i] for line in table["data"]] for i, name in enumerate(table["columns"])}
    assert column["value"] == [sample["pass@1"] for sample in written]
    assert column["winner"] == [sample["selection"]["winner"] for sample in written]
    for member in ("dllm", "fim"):
        texts = [next(c["text"] for c in s["selection"]["candidates"] if c["member"] == member) for s in written]
        assert column[f"{member} text"] == texts
    assert own["score/value"] == pytest.approx(stated)
    assert own["members/fim/value"] <= own["oracle/value"]
    images = [value for value in own.values() if isinstance(value, dict) and value.get("_type") == "image-file"]
    assert {"accuracy", "scatter", "lengths"} <= {name for name in own if own[name] in images}
    for image in images:
        assert (run / "files" / image["path"]).read_bytes().startswith(b"\x89PNG")
    # What lm_eval logs is still there.
    assert "infill_toy_eval_results" in history
    assert "infill_toy/pass@1" in history


def test_without_the_flag_there_is_no_run(offline: tuple[Path, str]) -> None:
    folder, _ = offline
    assert list((folder / "out" / "plain").rglob("results_*.json"))
    assert len(runs(folder)) == 4


@pytest.mark.parametrize("name", ["logged", "stock"])
def test_results_and_lm_evals_own_table_of_samples_are_there(offline: tuple[Path, str], name: str) -> None:
    folder, said = offline
    assert said.count("Logging to W&B failed") == 0
    # The table of samples is logged after the results: what fails first when a metric of the list has no value.
    assert list(named(folder, name).rglob("infill_toy_eval_results*.table.json"))


def test_a_failure_costs_a_warning_and_no_results(offline: tuple[Path, str]) -> None:
    folder, said = offline
    assert list((folder / "out" / "broken").rglob("results_*.json"))
    assert list((folder / "out" / "broken").rglob("samples_*.jsonl"))
    assert said.count("tables, figures and plots could not be logged (ZeroDivisionError") == 1
    assert said.count("could not be logged") == 1


def test_questions_and_odd_names(offline: tuple[Path, str]) -> None:
    folder, _ = offline
    run = named(folder, "questions")
    history, summary = read_back(run)
    place = "lm_eval_ensemble/odd_triviaqa_uncertainty"
    assert summary[f"{place}/answers/right/f1>=0.5"] == 0.5
    table = json.loads((run / "files" / history[f"{place}/samples"]["path"]).read_text())
    assert len(table["data"]) == 60
    assert {"question", "answer", "references", "g_nll"} <= set(table["columns"])
    theirs = json.loads((run / "files" / history["odd/triviaqa_uncertainty_eval_results"]["path"]).read_text())
    seldom = [line[theirs["columns"].index("seldom")] for line in theirs["data"]]
    assert [value for value in seldom if isinstance(value, float) and value == value] == [1.0]
    assert history["odd/triviaqa_uncertainty/f1"] == pytest.approx(0.5)
    assert history[f"{place}/roc"]["_type"] == "image-file"


def test_extending_twice_is_once() -> None:
    class Logger:
        def post_init(self, results: dict[str, Any]) -> None:
            self.task_names, self.group_names = list(results["results"]), list(results.get("groups", {}))

    extend(Logger)
    first = Logger.post_init
    extend(Logger)
    assert Logger.post_init is first
    logger = Logger()
    logger.post_init({"results": {"task": {}, "group": {}}, "configs": {"task": {}}})
    assert logger.group_names == ["group"]


def test_only_numbers_are_figures() -> None:
    nested = {"a": {"b": 1, "c": [1, 2], "d": "text", "e": None, "f": True}, "x/y": 0.5}
    assert dict(flat(nested, "p")) == {"p/a/b": 1, "p/x_y": 0.5}


def test_the_table_has_a_line_per_completion() -> None:
    own = record([candidate("a", "one", True, 1.0), candidate("b", "two", False, 3.0)], 0)
    samples = [ensemble_sample(0, own, "P/0"), ensemble_sample(1, {**own, "completions": [own, own]}, "P/1")]
    rows, _ = read_lines(samples)
    columns, lines = sample_table(rows)
    assert [len(line) for line in lines] == [len(columns)] * 3
    assert dict(zip(columns, lines[0], strict=True)) == {
        "doc_id": "0",
        "problem": "P/0",
        "value": 1.0,
        "length": 1,
        "winner": "a",
        "reason": "score",
        "rule": "fim",
        "right": True,
        "margin": 2.0,
        "a text": "one",
        "a right": True,
        "a score": 1.0,
        "a verdict": "pass",
        "b text": "two",
        "b right": False,
        "b score": 3.0,
        "b verdict": "fail",
    }
    assert figures(rows)["n"] == 2
