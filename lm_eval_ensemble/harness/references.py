"""The references of a user's own gaps, judged before anything is asked.

A gap whose own reference fails says nothing about a model: it is left out and counted, or ``strict`` stops the run.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence

from lm_eval_ensemble.data import Document
from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.harness.judging import JudgeSettings, judge_references
from lm_eval_ensemble.types import CANNOT_JUDGE

__all__ = ["failing"]

logger = logging.getLogger(__name__)

#: what the references of a set said, by its gaps and the judge: they are judged once in a process.
_FOUND: dict[str, dict[str, str]] = {}
_SHOWN = 10


def failing(name: str, documents: Sequence[Document], settings: JudgeSettings, strict: bool = False) -> dict[str, str]:
    """task_id -> reason, of the gaps whose own reference does not pass their test; told when they are judged.

    :param name: of the task, for messages.
    :raises DataError: one fails under ``strict``, or no gap is left.
    """
    tested = [document for document in documents if document["test"]]
    key = hashlib.sha256(json.dumps([tested, repr(settings), strict], sort_keys=True).encode("ascii")).hexdigest()
    if key not in _FOUND:
        verdicts = judge_references(tested, settings)
        failed = {d["task_id"]: v.why or v.status for d, v in zip(tested, verdicts, strict=True) if not v.passed}
        _tell(name, (len(documents), len(tested)), failed, strict)
        _FOUND[key] = failed
    return _FOUND[key]


def _tell(name: str, counts: tuple[int, int], failed: Mapping[str, str], strict: bool) -> None:
    total, tested = counts
    text = f"{name}: {tested - len(failed)} of {tested} references pass their own tests"
    if not failed:
        logger.info("%s.", text)
        return
    reasons = "".join(f"\n  {gap}: {why.removeprefix(CANNOT_JUDGE)}" for gap, why in list(failed.items())[:_SHOWN])
    reasons += f"\n  ... and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
    if strict or len(failed) == total:
        stop = "strict stops here" if strict else "no gap is left to ask"
        raise DataError(f"{text}; {stop}. Mend the tests or the middles:{reasons}")
    logger.warning("%s; the others say nothing about a model and are left out:%s", text, reasons)
