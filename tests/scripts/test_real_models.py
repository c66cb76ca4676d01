"""The page of real models is what the commands print, from the folders of runs."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.runs.load import TaskRun, load_runs
from scripts.real_models import made, otherwise, page, printed, unended
from tests.report.helpers import candidate, ensemble_sample, record, write_run

RUNS = Path(__file__).parents[1] / "fixtures" / "runs"


def test_the_page_holds_what_the_commands_print() -> None:
    text = page([str(RUNS / "ensemble"), str(RUNS / "questions")])
    assert printed("compare", str(RUNS / "ensemble"), "--members") in text
    told = printed("uncertainty", str(RUNS / "questions"))
    assert next(line for line in told.splitlines() if "g_nll " in line) in text
    # 3 of 15 gaps are right in the ensemble, 4 by its better member, and no other selector has a significant gain.
    (line,) = [line for line in text.splitlines() if line.startswith("| infill_toy | tiny | 15 | 20.0 [")]
    assert "| fim 26.7 | -6.7 [" in line
    assert line.endswith("| none |")
    # 12 answers, 6 right by both rules, every wrong one less certain than every right one.
    assert "| tiny_qa | triviaqa_uncertainty | 50.0 | 1.000 [0.541, 1.000] |" in text
    assert "15 of 45 documents; 63 s for the whole command, loading" in text
    # lm_eval executes no code without the last word.
    assert "--tasks infill_toy --batch_size 8 --limit 15 --confirm_run_unsafe_code --output_path out --log_samples" in text
    assert "--tasks triviaqa_uncertainty --batch_size 8 --limit 12 --output_path out --log_samples" in text
    assert str(RUNS) not in text


def test_tasks_of_one_run_have_its_command_and_time_together() -> None:
    runs, _ = load_runs([str(RUNS / "stock")])
    assert [run.task for run in runs] == ["words_choice", "words_generate"]
    for run in runs:
        assert "--tasks words_choice,words_generate " in made(run)
        assert "12 of 20 documents; 52 s for the whole command and its 24 documents, loading" in made(run)


def test_answers_that_two_runs_of_one_model_do_not_share_are_counted(tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(RUNS / "questions", tmp_path / name)
    (samples,) = (tmp_path / "two").rglob("samples_triviaqa_*")
    lines = list(map(json.loads, samples.read_text().splitlines()))
    lines[3]["uncertainty"]["answer"] += "!"
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines[:5]))
    runs, _ = load_runs([tmp_path / "one", tmp_path / "two"])
    assert "with other rows in their batches: 1 of 5 (tests/assets/tiny_qa, triviaqa_uncertainty)" in otherwise(runs)
    assert otherwise(runs[:1]) == ""


def test_texts_that_were_scored_again_have_both_commands(tmp_path: Path) -> None:
    folder = shutil.copytree(RUNS / "ensemble", tmp_path / "run")
    (results,) = folder.rglob("results_*")
    content = json.loads(results.read_text())
    content |= {"scored_config": content["config"], "model_source": "score"}
    content["config"] = {"model": "score", "model_args": {"preset": "tiny", "score": "fim"}, "batch_size": 4}
    del content["total_evaluation_time_seconds"]
    results.write_text(json.dumps(content))
    told = page([str(folder)])
    assert "\nlm_eval --model ensemble-ppl --model_args " in told
    assert "\nlm-eval-ensemble score out --model_args preset=tiny,score=fim --batch_size 4 --confirm_run_unsafe_code\n" in told


def test_commands_can_be_run_as_they_stand(tmp_path: Path) -> None:
    folder = shutil.copytree(RUNS / "stock", tmp_path / "run")
    (results,) = folder.rglob("results_*")
    content = json.loads(results.read_text())
    content["config"] |= {"limit": None, "model_args": {"members": [{"name": "fim", "model": "hf"}]}}
    content["n-samples"] = {"words_choice": {"original": 20, "effective": 3}}
    results.write_text(json.dumps(content))
    (samples,) = folder.rglob("samples_words_choice_*")
    lines = list(map(json.loads, samples.read_text().splitlines()))[:3]

    def asked(numbers: list[int]) -> TaskRun:
        samples.write_text("\n".join(json.dumps({**line, "doc_id": n}) for line, n in zip(lines, numbers, strict=True)))
        return load_runs([folder])[0][0]

    chosen = sorted(random.Random(0).sample(range(20), 3))  # in this order lm_eval takes them
    line = made(asked(chosen)).split("```")[1].removeprefix("sh\n")
    # In an environment that is active; elsewhere there may be a python3 alone.
    active = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    script = f"lm_eval() {{ printf '%s\\n' \"$@\"; }}; {line}"
    words = subprocess.run(["sh", "-c", script], capture_output=True, text=True, env=active)
    given = words.stdout.splitlines()
    assert json.loads(given[given.index("--model_args") + 1]) == content["config"]["model_args"]
    assert json.loads(given[given.index("--samples") + 1]) == {"words_choice": chosen}
    with pytest.raises(DataError, match="no known choice"):
        made(asked([1, 2, 3]))


def test_runs_of_one_task_stand_side_by_side() -> None:
    runs = [str(RUNS / "ensemble"), str(RUNS / "repeats")]
    assert printed("compare", *runs, "--members", "--common", "--task", "infill_toy") in page(runs)
    assert "all runs" not in page(runs[:1])


def test_folders_without_such_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no run of ensemble-ppl"):
        page([str(RUNS / "stock")])
    with pytest.raises(DataError):
        page([str(tmp_path)])


def test_answers_that_did_not_end_are_counted(tmp_path: Path) -> None:
    ends = ["length"] * 2 + ["stop_token"] * 3
    pairs = [[candidate("a", "x", False, 1.0), candidate("b", "y", False, 2.0)] for _ in ends]
    for (_, second), stop in zip(pairs, ends, strict=True):
        second["stop"] = stop
    folder = write_run(tmp_path, [ensemble_sample(i, record(pair, 0)) for i, pair in enumerate(pairs)], metric="pass@1")
    (run,), _ = load_runs([folder])
    assert unended(run) == "\nAnswers that ended at the limit of tokens, because the model did not stop: 2 of 5 of `b`.\n"
