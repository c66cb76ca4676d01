"""Every canonical answer passes; a wrong one for each problem fails."""

from __future__ import annotations

from typing import Any

import pytest

from lm_eval_ensemble.data import SETS, load_documents
from lm_eval_ensemble.execution import Job, judge
from tests.execution.helpers import DATA

EXECUTED = {name for name, data_set in SETS.items() if data_set.executed}

pytestmark = [pytest.mark.data, pytest.mark.skipif(not DATA, reason="LM_EVAL_ENSEMBLE_DATA is not set")]


def _job(document: dict[str, Any], completion: str) -> Job:
    return Job(document["prefix"], completion, document["suffix"], document["test"], document["entry_point"])


@pytest.mark.parametrize("name", sorted(EXECUTED))
def test_canonical_answers_pass(name: str) -> None:
    # Many rows of a set are cut from one program; the judge runs each distinct program once.
    documents = load_documents(name)
    verdicts = judge([_job(d, d["middle"]) for d in documents], progress=False)
    assert {d["task_id"]: v.why for d, v in zip(documents, verdicts, strict=True) if not v.passed} == {}
    assert len(verdicts) == SETS[name].rows


@pytest.mark.parametrize("name", sorted(EXECUTED - {"multi-line"}))
def test_rows_pass_when_none_is_remembered(name: str) -> None:
    # Every third: most rows are the same programs, cut elsewhere.
    documents = load_documents(name)[::3]
    jobs = [_job(d | {"suffix": f"{d['suffix']}\n# row {number}"}, d["middle"]) for number, d in enumerate(documents)]
    assert sum(v.passed for v in judge(jobs, progress=False)) == len(jobs) == -(-SETS[name].rows // 3)


def test_a_wrong_answer_for_each_problem_fails() -> None:
    """The function answers with an object of no use; so no test of any problem is vacuous."""
    documents = {d["problem"]: d for d in load_documents("random-span-light")}
    assert len(documents) == 164
    wrong = [_job(d, f"{d['middle']}") for d in documents.values()]
    jobs = [
        Job(j.prompt, j.completion, f"{j.suffix}\n\ndef {j.entry_point}(*_, **__): return 'wrong'\n", j.test, j.entry_point)
        for j in wrong
    ]
    assert [v.status for v in judge(jobs, progress=False)] == ["fail"] * 164
