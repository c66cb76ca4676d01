"""Is a cell finished? lm_eval writes the results file first and the samples after it, and swallows what goes wrong with
either, so neither a file nor exit status 0 is proof: results count when every sample they speak of is on the disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.runs.load import load_runs

__all__ = ["finished", "set_aside"]

_BLOCK = 1 << 20


def finished(folder: Path, config: Mapping[str, Any]) -> Path | None:
    """The newest complete results file of a cell; None if there is none.

    :param config: what the cell was to be run with; results of other settings do not count.
    """
    for path in sorted(folder.glob("*/results_*.json"), key=lambda file: file.name, reverse=True):
        if not fault(path, config):
            return path
    return None


def set_aside(folder: Path, config: Mapping[str, Any]) -> list[Path]:
    """Renames results that are not complete, so that nobody takes them for a run; nothing is deleted."""
    moved = []
    for path in folder.glob("*/results_*.json"):
        if fault(path, config):
            moved.append(path.rename(path.with_name(path.name + ".incomplete")))
    return moved


def fault(path: Path, config: Mapping[str, Any]) -> str:
    """Why a results file is not that of a finished run; empty if it is."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        runs, problems = load_runs([path])
    except (OSError, ValueError, RecursionError, DataError) as error:
        return f"unreadable ({error})"
    if problems:
        return problems[0]
    if foreign := _foreign(content.get("config") or {}, config):
        return f"made with another {foreign}"
    for run in runs:
        if run.samples_path is None:
            return f"no samples of {run.task}"
        chosen = (config.get("samples") or {}).get(run.task) if isinstance(config.get("samples"), Mapping) else None
        expected = len(chosen) if chosen else run.n_samples
        lines, whole = _lines(run.samples_path)
        per_document = 1 + len(run.filters)
        if not whole or (expected is not None and lines != expected * per_document):
            return f"{lines} samples of {run.task}, expected {(expected or 0) * per_document}"
    return ""


def _foreign(found: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The setting that differs, of those that lm_eval writes down."""
    for name in ("model", "limit"):
        if found.get(name) != config.get(name):
            return name
    theirs, ours = found.get("model_args") or {}, config.get("model_args") or {}
    for name, value in ours.items():
        if not isinstance(theirs, Mapping) or theirs.get(name) != json.loads(json.dumps(value, default=str)):
            return f"model_args.{name}"
    return ""


def _lines(path: Path) -> tuple[int, bool]:
    """How many lines, and whether the last one was written to its end."""
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            count += block.count(b"\n")
            last = block[-1:]
    return count, last == b"\n"
