"""What stands around the command: faults before anything is loaded, interrupts, and the last lines."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.model import CacheHook
from lm_eval.config.evaluate_config import EvaluatorConfig

from lm_eval_ensemble.errors import ConfigError, EnsembleError, HostError
from lm_eval_ensemble.harness import command, ranks
from lm_eval_ensemble.harness.command import SAVED, around, check_output, is_missing_path

TINY = {"preset": "tiny"}


@pytest.fixture(autouse=True)
def _nothing_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "SAVED", command.Saved())


def typed(**changes: Any) -> Any:
    given = {"model": "ensemble-ppl", "model_args": TINY, "tasks": ["infill_toy"], "confirm_run_unsafe_code": True, **changes}
    return EvaluatorConfig.from_cli(Namespace(**given))


def test_a_sound_command_is_taken_as_it_is(tmp_path: Path) -> None:
    config = typed(output_path=str(tmp_path / "new" / "out"))
    assert (config.model, config.tasks) == ("ensemble-ppl", ["infill_toy"])
    assert list(tmp_path.iterdir()) == []  # what the check made is gone


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"model_args": {**TINY, "stepz": 4}}, ConfigError, r"\$\.stepz: .*Did you mean 'steps'"),
        ({"model_args": {**TINY, "selector": "argmn"}}, ConfigError, "Did you mean 'argmin'"),
        ({"model_args": {"dllm": "/nope/a", "fim": "org/b"}}, ConfigError, r"dllm: '/nope/a': no such folder"),
        ({"model": "hf-scored", "model_args": {"pretrained": "./nope"}}, ConfigError, r"'./nope': no such folder"),
        ({"model": "hf-scored", "model_args": {**TINY, "top_p": 2}}, ConfigError, r"\$.hf-scored.top_p"),
        ({"model": "diffusion-infill", "model_args": {**TINY, "steps": 0}}, ConfigError, r"\$.diffusion-infill.steps"),
        ({"confirm_run_unsafe_code": False}, HostError, "infill_toy: executes code.*--confirm_run_unsafe_code"),
        ({"confirm_run_unsafe_code": False, "tasks": ["humaneval_infill_all"]}, HostError, "--confirm_run_unsafe_code"),
        ({"confirm_run_unsafe_code": False, "model": "hf", "model_args": {"pretrained": "x"}}, HostError, "infill_toy"),
        ({"metadata": {"file": "gaps.jsonl"}}, ConfigError, "--metadata file: only infill_file and question tasks read it"),
        ({"metadata": {"judge_timout": 5}}, ConfigError, "--metadata judge_timout: .*Did you mean 'judge_timeout'"),
        ({"metadata": {"fil": "gaps.jsonl"}}, ConfigError, "--metadata fil: .*Did you mean 'file'"),
        ({"metadata": {"cut": "none"}, "tasks": ["squad_uncertainty_all"]}, ConfigError, "cut: only infilling tasks read it"),
        ({"output_path": "/proc/nope"}, HostError, "--output_path /proc/nope: nothing can be written"),
    ],
)
def test_faults_are_told_before_anything_is_loaded(changes: dict[str, Any], kind: type[EnsembleError], message: str) -> None:
    with pytest.raises(kind, match=message):
        typed(**changes)


def test_tasks_that_execute_nothing_need_no_leave() -> None:
    typed(confirm_run_unsafe_code=False, tasks=["santacoder_fim_java", "squad_uncertainty"])


def test_runs_without_a_model_or_task_of_ours_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    taken = str(tmp_path / "file" / "out")
    config = typed(model="hf", model_args={"pretrained": "/nope"}, tasks=["hellaswag"], output_path=taken)
    assert config.model == "hf"


def test_metadata_that_may_be_meant_for_another_task_or_a_model_are_left_to_them() -> None:
    typed(metadata={"file": "gaps.jsonl"}, tasks=["infill_toy", "gsm8k"])
    typed(metadata={"note": "of mine", "judge_timeout": 5, "pretrained": "x"})
    typed(metadata={"file": "gaps.jsonl"}, tasks=["infill_toy", "infill_file"])


def test_output_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="nothing can be written there"):
        check_output(tmp_path / "file" / "out")
    check_output(tmp_path / "results.json")


def test_names_on_the_hub_are_no_paths(tmp_path: Path) -> None:
    assert [is_missing_path(name) for name in ("gpt2", "org/model", "/nope", "./nope", "~/nope/x", "a/b/c", str(tmp_path))] == [
        *(False, False),
        *(True,) * 4,
        False,
    ]


def lm_eval(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LM_EVAL_ENSEMBLE_TRACEBACK": ""},
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--model_args", '{"preset": "tiny",}', "--tasks", "x"], 'lm_eval: Invalid JSON: {"preset": "tiny",}.'),
        (["--config", "BAD"], "lm_eval: Invalid YAML in "),
        (["--tasks", "infill_toy", "--log_samples"], "lm_eval: Specify --output_path if providing --log_samples"),
    ],
)
def test_foreseen_errors_of_lm_eval_are_one_line(tmp_path: Path, arguments: list[str], line: str) -> None:
    (tmp_path / "bad.yaml").write_text("tasks: [\n")
    status, told = lm_eval(*(str(tmp_path / "bad.yaml") if word == "BAD" else word for word in arguments))
    assert status == 1
    assert told.splitlines()[-1].startswith(line)
    assert "Traceback" not in told


def test_unknown_names_have_suggestions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "KNOWN_TASKS", ["infill_toy", "humaneval_infill"])
    told = command.foreseen(ValueError("Tasks not found: humaneval_infil, qqq"))
    assert told == ("humaneval_infil: no such task. Did you mean humaneval_infill? qqq: no such task. All: lm_eval ls tasks")
    found = command.foreseen(ValueError("Attempted to load model 'ensembl-ppl', but no model for this name found!"))
    assert found is not None
    assert "Did you mean 'ensemble-ppl'?" in found
    assert command.foreseen(ValueError("something else")) is None
    assert command.foreseen(RuntimeError("Tasks not found: x")) is None


def interrupt(_: Any) -> None:
    raise KeyboardInterrupt


def test_an_interrupt_says_what_is_kept_and_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Store:
        path, added, reused = Path("/x/candidates.sqlite"), 3, 2

    class Model:
        store = Store()

    class Alone:
        cache_hook = CacheHook(None)

    Alone.cache_hook.dbdict = {"lm_eval_ensemble: given by": "x", "abc": ("a",), "def": ("b",)}

    command.SAVED.ours = True
    for lm, words in (
        (None, "interrupted before anything was generated."),
        (object(), "interrupted. Nothing is kept"),
        (Alone(), "interrupted. 2 answers are kept in the cache: the same command goes on"),
        (Model(), "interrupted. 5 answers are kept in /x/candidates.sqlite: the same command goes on"),
    ):
        monkeypatch.setattr(ranks.HostRun, "lm", lm)
        with pytest.raises(SystemExit) as ended:
            around(interrupt)(None)
        assert ended.value.code == 130
        assert words in capsys.readouterr().err
    command.SAVED.ours = False
    with pytest.raises(KeyboardInterrupt):
        around(interrupt)(None)


def test_results_that_lm_eval_could_not_save_end_with_an_error() -> None:
    command.SAVED.ours, command.SAVED.results, command.SAVED.lost = True, {}, "out"
    with pytest.raises(HostError, match="could not save the results"):
        around(lambda _: None)(None)


def test_the_last_lines_say_what_the_table_means(
    evaluate: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = evaluate("ensemble-ppl", model_args={**TINY, "store": "off"}, limit=6)
    command.SAVED.ours, command.SAVED.folder = True, tmp_path / "a b"
    command.SAVED.results, command.SAVED.samples = found, found["samples"]
    around(lambda _: None)(None)
    lines = capsys.readouterr().out.strip().splitlines()
    rows = found["results"]["infill_toy"]
    assert lines[0].startswith(f"infill_toy: pass@1 {100 * rows['pass@1,none']:.1f} % (")
    assert lines[0].endswith(", 6 documents of 2 problems.")
    best = max(("dllm", "fim"), key=lambda name: rows[f"pass@1_{name},none"])
    assert lines[1].startswith(f"  best member: {best} {100 * rows[f'pass@1_{best},none']:.1f} %")
    assert lines[2].startswith(f"  oracle, the best possible choice: {100 * rows['pass@1_oracle,none']:.1f} %")
    assert lines[3].startswith("  The ensemble is ")
    assert lines[4:] == [f"More: lm-eval-ensemble report '{tmp_path}/a b'"]


def test_without_samples_the_last_line_says_how_to_get_more(capsys: pytest.CaptureFixture[str]) -> None:
    command.SAVED.ours, command.SAVED.results = True, {"results": {}, "configs": {}}
    around(lambda _: None)(None)
    assert "--output_path FOLDER --log_samples" in capsys.readouterr().out
    assert SAVED is not command.SAVED
