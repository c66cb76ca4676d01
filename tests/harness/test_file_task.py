"""``infill_file``: own gaps from a file to rows, their references judged before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager

from lm_eval_ensemble.errors import ConfigError, DataError, HostError
from lm_eval_ensemble.harness import references
from lm_eval_ensemble.harness.file_task import judged_first

RIGHT = {"prefix": "def mean(v):\n", "middle": "    return sum(v) / len(v)\n", "suffix": ""}
ROWS = [
    {**RIGHT, "test": "def test_mean():\n    assert mean([1, 2, 3]) == 2\n", "task_id": "pytest"},
    {**RIGHT, "test": "assert mean([1, 3]) == 2\n", "task_id": "asserts"},
    {
        "prefix": "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, x):\n",
        "middle": "        self.items.append(x)\n",
        "suffix": "",
        "test": "import unittest\n\nclass T(unittest.TestCase):\n    def test_push(self):\n        s = Stack()\n"
        "        s.push(1)\n        self.assertEqual(s.items, [1])\n",
        "task_id": "unittest of a class",
    },
    {**RIGHT, "test": "def check(candidate):\n    assert candidate([1, 1]) == 3\n", "task_id": "wrong"},
    {"prefix": "f(1, ", "middle": "2", "suffix": ", 3)\n", "task_id": "without a test"},
]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "_FOUND", {})


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def task_of(**metadata: Any) -> Any:
    (task,) = TaskManager(include_defaults=False, metadata=metadata).load(["infill_file"])["tasks"].values()
    return task


def test_every_style_of_test_is_judged_and_a_wrong_reference_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = task_of(file=write(tmp_path / "own.jsonl", *ROWS))
    assert task.task_name == "infill_file_own"
    assert task.UNSAFE_CODE
    task.build_all_requests(limit=None)
    assert "3 of 4 references pass their own tests" in caplog.text
    assert "\n  wrong: the reference itself fails its tests" in caplog.text
    assert [doc["task_id"] for doc in task.eval_docs] == [row["task_id"] for row in ROWS if row["task_id"] != "wrong"]
    for instance in task.instances:  # right everywhere, but for the class
        instance.resps = ["pass\n" if "class" in instance.doc["task_id"] else instance.doc["middle"]]
    task.apply_filters()
    rows = {}
    for instance in task.instances:
        rows[instance.doc["task_id"]] = task.process_results(instance.doc, [instance.filtered_resps["none"]])
    assert [rows[name]["pass@1"] for name in ("pytest", "asserts", "unittest of a class")] == [1.0, 1.0, 0.0]
    assert rows["without a test"]["pass@1"] is None
    assert [row["compiles"] for row in rows.values()] == [1.0, 1.0, 0.0, 1.0]
    assert rows["without a test"]["edit_similarity"] == rows["without a test"]["exact_match"] == 1.0
    assert task.aggregation()["pass@1"]([row["pass@1"] for row in rows.values()]) == pytest.approx(2 / 3)


def test_references_are_judged_before_a_model_is_loaded(tmp_path: Path) -> None:
    loaded: list[Any] = []
    evaluate = judged_first(lambda *given, **_: loaded.append(given))
    wrong = TaskManager(include_defaults=False, metadata={"file": write(tmp_path / "own.jsonl", *ROWS), "strict": True})
    with pytest.raises(HostError, match="--confirm_run_unsafe_code"):
        evaluate("m", None, ["infill_file"], task_manager=wrong)
    with pytest.raises(DataError, match="3 of 4 references pass their own tests; strict stops here"):
        evaluate("m", None, ["infill_file"], task_manager=wrong, confirm_run_unsafe_code=True)
    nowhere = TaskManager(include_defaults=False, metadata={"file": str(tmp_path / "none.jsonl")})
    with pytest.raises(DataError, match="no such file"):
        evaluate("m", None, ["infill_file"], task_manager=nowhere)
    assert loaded == []
    evaluate("m", None, ["infill_toy"], task_manager=wrong)
    assert len(loaded) == 1


def test_no_gap_is_left(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 of 1 references pass their own tests; no gap is left to ask"):
        task_of(file=write(tmp_path / "own.jsonl", ROWS[3])).build_all_requests(limit=None)


def test_gaps_without_tests_execute_nothing(tmp_path: Path) -> None:
    task = task_of(file=write(tmp_path / "own.jsonl", ROWS[4]))
    assert not getattr(task, "UNSAFE_CODE", False)
    task.build_all_requests(limit=None)
    assert references._FOUND == {}


def test_without_a_file_it_says_what_to_give() -> None:
    with pytest.raises(ConfigError, match="name their file"):
        task_of()
