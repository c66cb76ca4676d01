"""The page of real models is what the commands print, from the folders of runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.runs.load import load_runs
from scripts.real_models import made, page, printed

RUNS = Path(__file__).parents[1] / "fixtures" / "runs"


def test_the_page_holds_what_the_commands_print() -> None:
    text = page([str(RUNS / "ensemble"), str(RUNS / "questions")])
    assert printed("compare", str(RUNS / "ensemble"), "--members") in text
    told = printed("uncertainty", str(RUNS / "questions"))
    assert next(line for line in told.splitlines() if "g_nll " in line) in text
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


def test_runs_of_one_task_stand_side_by_side() -> None:
    runs = [str(RUNS / "ensemble"), str(RUNS / "repeats")]
    assert printed("compare", *runs, "--members", "--common", "--task", "infill_toy") in page(runs)
    assert "all runs" not in page(runs[:1])


def test_folders_without_such_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no run of ensemble-ppl"):
        page([str(RUNS / "stock")])
    with pytest.raises(DataError):
        page([str(tmp_path)])
