"""``infill_file``: gaps of the user's own, from files named in ``--metadata '{"file": "gaps.jsonl"}'``.

The reference of every gap that has a test is judged before a model is loaded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from lm_eval_ensemble.data import Document
from lm_eval_ensemble.errors import ConfigError, HostError
from lm_eval_ensemble.harness.references import failing
from lm_eval_ensemble.harness.task import InfillTask, own_judge
from lm_eval_ensemble.problems import load_problems, title

__all__ = ["NAME", "InfillFile", "judged_first"]

NAME = "infill_file"


class InfillFile(InfillTask):
    """Beside what infilling tasks know, ``--metadata`` sets ``file`` (a path, a list of paths, a folder)."""

    known = InfillTask.known - {"data_dir"} | {"file"}
    what = "infill_file"

    def prepare(self, settings: dict[str, Any]) -> None:
        if "file" not in self.meta:
            raise ConfigError(
                f'{NAME} asks your own gaps: name their file, --metadata \'{{"file": "gaps.jsonl"}}\' '
                "(`lm-eval-ensemble gaps SRC` makes one from code)."
            )
        super().prepare(settings)
        self.documents = load_problems(self.meta["file"])
        settings["unsafe_code"] = any(document["test"] for document in self.documents)

    @property
    def task_name(self) -> str:
        """Runs of two files side by side are two tasks."""
        return f"{self.config.task}_{title(self.meta['file'])}"

    def own_documents(self) -> list[Document]:
        return self.documents


def judged_first(simple_evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """``lm_eval.simple_evaluate`` that judges the references of ``infill_file`` before it loads a model."""

    @functools.wraps(simple_evaluate)
    def method(model: Any, model_args: Any = None, tasks: Any = None, *arguments: Any, **named: Any) -> Any:
        manager = named.get("task_manager")
        meta = {**(getattr(manager, "metadata", None) or {}), **(named.get("metadata") or {})}
        if NAME in (tasks or ()) and "file" in meta and not named.get("predict_only"):
            documents = load_problems(meta["file"])
            if any(document["test"] for document in documents):
                if not named.get("confirm_run_unsafe_code"):
                    raise HostError(
                        f"{NAME}: the gaps of {meta['file']} have tests, which are run with what models wrote (in a sandbox, "
                        "docs/judge.md). If you want that, add --confirm_run_unsafe_code."
                    )
                failing(NAME, documents, own_judge(meta), meta.get("strict") is True)
        return simple_evaluate(model, model_args, tasks, *arguments, **named)

    return method
