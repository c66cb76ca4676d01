"""What is known of every cell while a sweep runs: the manifest on the disk, a bar where somebody looks, a line per cell."""

from __future__ import annotations

import hashlib
import shlex
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lm_eval_ensemble.sweep.attempt import SCHEMA
from lm_eval_ensemble.sweep.cells import Cell
from lm_eval_ensemble.sweep.files import read_json, write_json
from lm_eval_ensemble.sweep.grid import Grid
from lm_eval_ensemble.sweep.locks import is_taken, owner
from lm_eval_ensemble.sweep.machine import git_commit, versions
from lm_eval_ensemble.sweep.results import finished

__all__ = ["Board", "duration", "facts_of", "state_of"]


def facts_of(cell: Cell, grid: Grid) -> dict[str, Any]:
    """What a cell's record says of the cell itself."""
    return {
        "name": cell.name,
        "model": cell.model,
        "task": cell.task,
        "label": cell.label,
        "settings": dict(cell.choices),
        "digest": cell.digest,
        "grid": grid.name,
    }


def state_of(cell: Cell, output: Path) -> tuple[str, str]:
    """``todo``, ``done``, ``running``, ``failed`` or ``unfinished``, and a remark. Looks at the files, not at a list."""
    folder = cell.folder(output)
    if not folder.is_dir():
        return "todo", ""
    if is_taken(folder):
        return "running", owner(folder)
    if found := finished(folder, cell.resolved(output)):
        return "done", found.name
    record = cell.record(output)
    if record.get("state") == "failed":
        return "failed", str(record.get("error") or "")
    return ("unfinished" if record.get("attempts") else "todo"), ""


class Board:
    """All cells of the grid, and those asked for (``chosen``). Safe to use from several threads."""

    def __init__(
        self, grid: Grid, cells: Sequence[Cell], chosen: Sequence[Cell], output: Path, overridden: Mapping[str, Any]
    ) -> None:
        self.grid, self.cells, self.chosen, self.output = grid, cells, chosen, output
        self._lock = threading.Lock()
        self._head = {
            "schema_version": SCHEMA,
            "grid": {
                "name": grid.name,
                "path": str(grid.path.resolve()),
                "digest": grid.digest,
                "file_sha256": hashlib.sha256(grid.path.read_bytes()).hexdigest(),
                "description": grid.file.description,
            },
            "command": shlex.join(["lm-eval-ensemble", *sys.argv[1:]]),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S"),
            "versions": versions(),
            "git_commit": git_commit(),
            "environment": dict(overridden),
        }
        self.states: dict[str, str] = {cell.digest: state_of(cell, output)[0] for cell in cells}
        #: of failed cells; where the disk is the fault, no record says it.
        self.errors: dict[str, str] = {}
        for cell in cells:
            if self.states[cell.digest] == "done":
                self.adopt(cell)
        waiting = [cell for cell in chosen if self.states[cell.digest] != "done"]
        # Only what is to be done counts for the time left.
        self._bar = tqdm(total=len(waiting), desc="cells", unit="cell", disable=None if waiting else True, file=sys.stderr)
        self._write()  # a folder that cannot be written is known before anything runs
        self._unsaved = False

    def adopt(self, cell: Cell) -> None:
        """A finished cell whose record does not say so: its sweep was killed, it went on."""
        record, folder = cell.record(self.output), cell.folder(self.output)
        found = finished(folder, cell.resolved(self.output))
        results = str(found.relative_to(folder)) if found else None
        if record.get("state") == "done" and record.get("results") == results:
            return
        content = read_json(found) if found else {}
        told = {
            "attempts": 0,
            "seconds": as_seconds(content.get("total_evaluation_time_seconds")),
            "member_memory_mib": (content.get("config") or {}).get("peak_memory_mib") or None,
            **{k: v for k, v in record.items() if k not in ("error", "error_lines") and v is not None},
        }
        facts = facts_of(cell, self.grid)
        write_json(folder / "cell.json", {"schema_version": SCHEMA, **told, **facts, "state": "done", "results": results})

    def say(self, text: str) -> None:
        with self._lock:
            if self._bar.disable:
                print(text, flush=True)
            else:
                self._bar.write(text, file=sys.stdout)

    def started(self, cell: Cell) -> None:
        self.states[cell.digest] = "running"
        with self._lock:
            self._bar.set_postfix_str(cell.name[:60], refresh=True)
        self.save()

    def ended(self, cell: Cell, record: Mapping[str, Any]) -> None:
        """Tells how a cell ended; of a failure also where to look."""
        state = str(record.get("state"))
        self.states[cell.digest] = state
        if state == "failed":
            self.errors[cell.digest] = str(record.get("error") or "no message")
        self.save()
        if state == "interrupted":
            return
        cost = [duration(record["seconds"])] if record.get("seconds") is not None else []
        if record.get("peak_memory_mib"):
            cost.append(f"peak {record['peak_memory_mib']:.0f} MiB")
        if record.get("attempts", 1) > 1:
            cost.append(f"attempt {record['attempts']}")
        line = f"{state:<8}{cell.name}" + (f"  ({', '.join(cost)})" if cost else "")
        if state == "failed":
            log = cell.folder(self.output) / "log.txt"
            lines = record.get("error_lines") or [record.get("error") or "no message"]
            line = "\n".join([line, *(f"        {text[:300]}" for text in lines), f"        log: {log}"])
        self.say(line)
        with self._lock:
            self._bar.update(1)

    def save(self) -> None:
        """Writes the manifest; whoever reads it finds it whole. A disk that is full by now does not stop the cells."""
        try:
            self._write()
        except OSError as error:
            if not self._unsaved:
                self.say(f"{self.output / 'manifest.json'}: cannot be written ({error.strerror}); it lags behind.")
            self._unsaved = True

    def _write(self) -> None:
        with self._lock:
            rows = [self._row(cell) for cell in self.cells]
            path = self.output / "manifest.json"
            write_json(path, {**self._head, "updated": time.strftime("%Y-%m-%dT%H:%M:%S"), "cells": rows})

    def close(self) -> None:
        self._bar.close()

    def _row(self, cell: Cell) -> dict[str, Any]:
        record, folder = cell.record(self.output), cell.folder(self.output)
        names = ("attempts", "exit_status", "seconds", "peak_memory_mib", "member_memory_mib", "gpu_memory_mib", "job", "error")
        return {
            **facts_of(cell, self.grid),
            "chosen": cell in self.chosen,
            "config": str((folder / "config.yaml").relative_to(self.output)),
            "state": self.states[cell.digest],
            **{name: record.get(name) for name in names},
            **({"error": self.errors[cell.digest]} if cell.digest in self.errors else {}),
            "results": f"{folder.name}/{record['results']}" if record.get("results") else None,
        }


def as_seconds(value: Any) -> float | None:
    """lm_eval writes its time as text."""
    try:
        return round(float(value), 1)
    except (TypeError, ValueError):
        return None


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
