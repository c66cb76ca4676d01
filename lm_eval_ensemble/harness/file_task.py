"""``infill_file``: gaps of the user's own, from files named in ``--metadata '{"file": "gaps.jsonl"}'``.

The reference of every gap that has a test is judged before a model is loaded. A gap whose own reference fails says nothing
about a model: it is left out and counted, or ``strict`` stops the run.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets

from lm_eval_ensemble.data import Document
from lm_eval_ensemble.errors import ConfigError, DataError, HostError
from lm_eval_ensemble.harness.judging import JudgeSettings, judge_references
from lm_eval_ensemble.harness.ranks import HOST_RUN
from lm_eval_ensemble.harness.task import InfillTask
from lm_eval_ensemble.problems import load_problems, title
from lm_eval_ensemble.types import CANNOT_JUDGE

__all__ = ["NAME", "InfillFile", "judged_first"]

logger = logging.getLogger(__name__)

NAME = "infill_file"
#: what the references of a file said, by its gaps and the judge: they are judged once in a process.
_FOUND: dict[str, dict[str, str]] = {}
_SHOWN = 10


class InfillFile(InfillTask):
    """Beside what infilling tasks know, ``--metadata`` sets ``file`` (a path, a list of paths, a folder) and ``strict``."""

    known = InfillTask.known - {"data_dir"} | {"file", "strict"}
    what = "infill_file"

    def prepare(self, settings: dict[str, Any]) -> None:
        if "file" not in self.meta:
            raise ConfigError(
                f'{NAME} asks your own gaps: name their file, --metadata \'{{"file": "gaps.jsonl"}}\' '
                "(`lm-eval-ensemble gaps SRC` makes one from code)."
            )
        if not isinstance(self.meta.get("strict", False), bool):
            raise ConfigError(f"--metadata strict={self.meta['strict']!r}: expected true or false.")
        super().prepare(settings)
        self.judge = _judge(self.meta)
        self.documents = load_problems(self.meta["file"])
        settings["unsafe_code"] = any(document["test"] for document in self.documents)

    @property
    def task_name(self) -> str:
        """Runs of two files side by side are two tasks."""
        return f"{self.config.task}_{title(self.meta['file'])}"

    def own_documents(self) -> list[Document]:
        return self.documents

    def build_all_requests(self, **arguments: Any) -> None:
        if self.config.unsafe_code and not self.predicts_only:
            failed = failing(self.documents, self.judge, self.meta.get("strict", False))
            if HOST_RUN.lm is not None:  # a reference that passes here and fails there is asked in no process
                failed = {name: why for told in HOST_RUN.lm.all_told(failed) for name, why in told.items()}
            kept = [document for document in self.dataset["test"] if document["task_id"] not in failed]
            self.dataset = datasets.DatasetDict({"test": datasets.Dataset.from_list(kept)})
            self.config.metadata = {**(self.config.metadata or {}), "references_that_fail": len(failed)}
        super().build_all_requests(**arguments)


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
                failing(documents, _judge(meta), meta.get("strict") is True)
        return simple_evaluate(model, model_args, tasks, *arguments, **named)

    return method


def _judge(meta: Mapping[str, Any]) -> JudgeSettings:
    return JudgeSettings.from_metadata({"judge": "auto", **meta})


def failing(documents: Sequence[Document], settings: JudgeSettings, strict: bool = False) -> dict[str, str]:
    """task_id -> reason, of the gaps whose own reference does not pass their test; told when they are judged.

    :raises DataError: one fails under ``strict``, or no gap is left.
    """
    tested = [document for document in documents if document["test"]]
    key = hashlib.sha256(json.dumps([tested, repr(settings), strict], sort_keys=True).encode("ascii")).hexdigest()
    if key not in _FOUND:
        verdicts = judge_references(tested, settings)
        failed = {d["task_id"]: v.why or v.status for d, v in zip(tested, verdicts, strict=True) if not v.passed}
        _tell(len(documents), len(tested), failed, strict)
        _FOUND[key] = failed
    return _FOUND[key]


def _tell(total: int, tested: int, failed: Mapping[str, str], strict: bool) -> None:
    text = f"{NAME}: {tested - len(failed)} of {tested} references pass their own tests"
    if not failed:
        logger.info("%s.", text)
        return
    reasons = "".join(f"\n  {name}: {why.removeprefix(CANNOT_JUDGE)}" for name, why in list(failed.items())[:_SHOWN])
    reasons += f"\n  ... and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
    if strict or len(failed) == total:
        stop = "strict stops here" if strict else "no gap is left to ask"
        raise DataError(f"{text}; {stop}. Mend the tests or the middles:{reasons}")
    logger.warning("%s; the others say nothing about a model and are left out:%s", text, reasons)
