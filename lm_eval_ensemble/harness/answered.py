"""A line of a samples file as the candidates that were written for its gap, judged or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.fim import LAYOUTS
from lm_eval_ensemble.runs.load import TaskRun
from lm_eval_ensemble.runs.samples import recorded
from lm_eval_ensemble.types import Selection

__all__ = ["selections_of"]


def selections_of(run: TaskRun, number: int, raw: Mapping[str, Any]) -> Sequence[Selection]:
    """The candidates of a line: those of its record, one for each repeat, else its texts.

    :raises DataError: it is no line of an infilling task, or damaged.
    """
    from lm_eval_ensemble.harness.task import as_selections  # lm_eval: only the work needs it

    where, doc = f"{run.samples_path}, line {number}", raw.get("doc")
    if not isinstance(doc, dict) or not all(isinstance(doc.get(name), str) for name in ("prefix", "middle", "suffix")):
        raise DataError(f"{where}: its document is no gap (prefix, middle, suffix); {run.task} is no infilling task.")
    try:
        found = recorded(raw)
    except DataError as error:
        raise DataError(f"{where}: {error}.") from None
    if found:
        return found
    texts = [text for group in raw.get("resps") or () for text in (group if isinstance(group, list) else [group])]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: holds no answer (resps).")
    named = str((run.task_config.get("metadata") or {}).get("prompt_layout") or "")
    layout = LAYOUTS.get(named, LAYOUTS["qwen"])
    return [selection for text in texts for selection in as_selections(text, doc, layout)]
