"""YAML of the user's own that includes our common files and brings documents from anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from lm_eval_ensemble.data import tasks_folder
from lm_eval_ensemble.errors import ConfigError, DataError
from lm_eval_ensemble.harness import references

GAPS = [
    {"prefix": "def two():\n", "middle": "    return 2\n", "suffix": "", "test": "def test_two():\n    assert two() == 2\n"},
    {"prefix": "def three():\n", "middle": "    return 3\n", "suffix": "", "test": "assert three() == 4\n"},
]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(references, "_FOUND", {})
    (tmp_path / "gaps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GAPS))


def manager(folder: Path, text: str, common: str = "executed_yaml", **metadata: Any) -> TaskManager:
    (folder / "own.yaml").write_text(f"include: {tasks_folder()}/common/{common}\ntask: own\n{text}")
    return TaskManager(include_defaults=False, include_path=str(folder), metadata=metadata)


def load(*arguments: Any, **metadata: Any) -> Any:
    (task,) = manager(*arguments, **metadata).load(["own"])["tasks"].values()
    return task


def own(folder: Path) -> str:
    return f"dataset_path: json\ndataset_kwargs:\n  data_files: {folder}/gaps.jsonl\ntest_split: train\n"


def test_a_run_has_full_records(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = simple_evaluate(
        model="ensemble-ppl",
        model_args={"preset": "tiny", "store": "off"},
        tasks=["own"],
        task_manager=manager(tmp_path, own(tmp_path)),
        confirm_run_unsafe_code=True,
        bootstrap_iters=0,
        log_samples=True,
    )
    (sample,) = found["samples"]["own"]
    assert "own: 1 of 2 references pass their own tests" in caplog.text
    assert found["configs"]["own"]["metadata"]["references_that_fail"] == 1
    assert sample["doc"]["task_id"] == "own/1"
    assert sample["selection"]["measure"] == "pass@1"
    assert [candidate["member"] for candidate in sample["selection"]["candidates"]] == ["dllm", "fim"]


def test_files_without_a_loader(tmp_path: Path) -> None:
    task = load(tmp_path, f"dataset_kwargs:\n  data_files: {{test: {tmp_path}/gaps.jsonl}}\n", strict=True)
    assert [doc["task_id"] for doc in task.eval_docs] == ["gaps/1", "gaps/2"]
    with pytest.raises(DataError, match="own: 1 of 2 references pass their own tests; strict stops here"):
        task.build_all_requests(limit=None)


def test_columns_made_by_a_function(tmp_path: Path) -> None:
    (tmp_path / "columns.py").write_text(
        "def split(rows):\n    return rows.map(lambda row: {'prefix': row['code'][:4], 'middle': row['code'][4:]})\n"
    )
    (tmp_path / "gaps.jsonl").write_text(json.dumps({"code": "x = 123\n"}) + "\n")
    task = load(tmp_path, own(tmp_path) + "process_docs: !function columns.split\n", "infill_yaml")
    assert [(doc["prefix"], doc["middle"], doc["cut"]) for doc in task.eval_docs] == [("x = ", "123\n", "line")]


def test_tests_are_run_only_where_the_yaml_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = load(tmp_path, own(tmp_path), "infill_yaml")
    assert not getattr(task, "UNSAFE_CODE", False)
    assert {doc["test"] for doc in task.eval_docs} == {""}
    assert "own: its tests are not run; a YAML that includes executed_yaml runs them" in caplog.text


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"own: names no documents\. Its YAML wants dataset_name"):
        load(tmp_path, "")
    with pytest.raises(ConfigError, match="own: test_split 'test' is not there; found 'train'"):
        load(tmp_path, own(tmp_path).replace("test_split: train\n", ""))
    (tmp_path / "gaps.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(DataError, match=r"own \(json\):\n  row 1: has no middle"):
        load(tmp_path, own(tmp_path))
    with pytest.raises(DataError, match=r"own: dataset_kwargs\.data_files .*no such file"):
        load(tmp_path, f"dataset_kwargs:\n  data_files: {tmp_path}/none.jsonl\n")
