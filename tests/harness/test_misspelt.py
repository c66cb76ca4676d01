"""Names in ``--metadata`` that are none: told, unless an argument of the model can be meant."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.tasks import TaskManager

from lm_eval_ensemble import config
from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.harness import own_task
from lm_eval_ensemble.harness.question_task import UncertaintyTask
from lm_eval_ensemble.harness.task import InfillTask

KINDS = [InfillTask, UncertaintyTask]
KNOWN = [kind.known for kind in KINDS]


def arguments_of_models() -> set[str]:
    """lm_eval puts the arguments of the model among the metadata of the task: those of its models, and ours."""
    names = {field for kind in vars(config).values() for field in getattr(kind, "model_fields", ())}
    for file in (Path(lm_eval.__file__).parent / "models").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                names |= {argument.arg for argument in [*node.args.args, *node.args.kwonlyargs]}
    assert {"pretrained", "max_gen_toks", "timeout", "samples", "members"} <= names
    return names


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_task, "_told", set())


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == own_task.__name__]


@pytest.mark.parametrize("known", KNOWN, ids=["infill", "question"])
def test_one_slip_in_any_name_is_told_with_the_right_one(known: frozenset[str], caplog: pytest.LogCaptureFixture) -> None:
    for name in sorted(known - {"k"}):
        slips = {name[:-1] + name[-1] * 2, name[:2] + "x" + name[2:], name.replace("_", "-"), name.upper()} - known
        for slip in slips:
            caplog.clear()
            own_task.tell_misspelt([slip], known)
            (message,) = warned(caplog)
            assert message.startswith(f"--metadata {slip}: not a setting of the task")
    caplog.clear()
    own_task.tell_misspelt(known, known)
    assert warned(caplog) == []


@pytest.mark.parametrize("known", KNOWN, ids=["infill", "question"])
def test_no_argument_of_a_model_is_taken_for_a_misspelt_name(known: frozenset[str], caplog: pytest.LogCaptureFixture) -> None:
    own_task.tell_misspelt(arguments_of_models() | {"version", "config_source", "gpu_memory_utilization"}, known)
    assert warned(caplog) == []


@pytest.mark.parametrize(("name", "wrong"), [("infill_toy", "judge_timout"), ("svamp_uncertainty", "data-dri")])
def test_the_tasks_ask(name: str, wrong: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row = '{"ID": "%d", "Body": "One.", "Question": "How many are %d?", "Answer": "1"}\n'
    (tmp_path / "svamp.jsonl").write_text("".join(row % (i, i) for i in range(7)))
    metadata: dict[str, Any] = {wrong: 5, "pretrained": "x", "file": str(tmp_path / "svamp.jsonl")}
    load: Callable[..., Any] = TaskManager(include_defaults=False, metadata=metadata).load
    for _ in range(2):
        load([name])
    (message,) = warned(caplog)
    assert wrong in message
    assert "Did you mean" in message


def test_a_setting_that_no_task_of_the_run_reads_is_refused() -> None:
    """Own questions asked of an infilling task: it would run its own gaps."""
    with pytest.raises(
        ConfigError, match=r"--metadata file: only infill_file and question tasks read it, and this run has none"
    ):
        own_task.refuse_unread(["file", "pretrained"], [InfillTask])
    with pytest.raises(ConfigError, match=r"--metadata cut: only infilling tasks read it"):
        own_task.refuse_unread(["cut"], [UncertaintyTask])
    own_task.refuse_unread(["file", "cut", "judge_timeout"], [InfillTask, UncertaintyTask])


def test_arguments_of_models_are_never_refused() -> None:
    for kind in KINDS:
        own_task.refuse_unread(arguments_of_models(), [kind])


def test_a_run_of_the_toy_gaps_with_a_file_of_own_gaps_ends_at_once(tmp_path: Path) -> None:
    found = TaskManager(include_defaults=False, metadata={"file": str(tmp_path / "gaps.jsonl")}).load(["infill_toy"])
    with pytest.raises(ConfigError, match="--metadata file"):
        found["tasks"]["infill_toy"].build_all_requests(limit=1)
