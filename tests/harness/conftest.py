"""lm_eval runs inside the tests: an index of our tasks only, and models that answer with known text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

Answer = Callable[[dict[str, Any]], str]


class Scripted(LM):  # type: ignore[misc]
    """Answers every document with plain text computed from it, as a stock model would."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return [self.answer(request.doc) for request in requests]

    def loglikelihood(self, requests: list[Instance]) -> Any:
        raise AssertionError("not asked for")

    def loglikelihood_rolling(self, requests: list[Instance]) -> Any:
        raise AssertionError("not asked for")


@pytest.fixture
def evaluate() -> Callable[..., Any]:
    """``simple_evaluate`` on our tasks with quick defaults."""

    def run(model: Any, tasks: Sequence[str] = ("infill_toy",), metadata: dict[str, Any] | None = None, **options: Any) -> Any:
        arguments = options.get("model_args") or {}
        manager = TaskManager(include_defaults=False, metadata={**arguments, **(metadata or {})})
        settings = {"confirm_run_unsafe_code": True, "bootstrap_iters": 0, "log_samples": True, **options}
        return simple_evaluate(model=model, tasks=list(tasks), task_manager=manager, **settings)

    return run


@pytest.fixture
def scripted() -> Callable[[Answer], Scripted]:
    return Scripted
