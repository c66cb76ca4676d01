"""Result folders of ``lm_eval``, ours or anybody's: which runs are there, and their samples.

A run is a results file (JSON with ``results`` and ``configs``) and, per task, a file of samples with the same date in its
name. What cannot be read is told and left out; the rest is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval_ensemble.errors import DataError

__all__ = ["TaskRun", "first_few", "load_runs", "runs_in"]

_DATE = re.compile(r"_(\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}\.\d+)\.json$")
#: so many faults of one file are told one by one.
_TOLD = 5
_SCALAR = {"true": True, "false": False, "none": None}


@dataclass(frozen=True)
class TaskRun:
    """One task of one run.

    ``model_source`` is the name given to ``--model``, ``model_name`` the label of the checkpoint (``--model_args
    pretrained=``). ``config`` is the run's (``model_args`` always a mapping), ``task_config`` the task's. ``results`` maps
    metric to value, ``filters`` likewise for filters other than the first one; standard errors are those of lm_eval.
    ``samples_path`` is None where the run was made without ``--log_samples``. ``run_seconds`` is the wall-clock time of the
    whole command, loading and judging included, ``run_documents`` the documents of all its tasks together.
    ``first_filter`` is the filter whose metrics stand in ``results``. ``cell`` is the name that ``sweep`` gave the run, which
    tells settings of one checkpoint apart, ``grid`` that of its grid; empty for other runs.
    """

    task: str
    model_name: str
    model_source: str
    config: Mapping[str, Any]
    task_config: Mapping[str, Any]
    results: Mapping[str, Any]
    results_path: Path
    samples_path: Path | None
    date: str
    filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    n_samples: int | None = None
    versions: Mapping[str, Any] = field(default_factory=dict)
    higher_is_better: Mapping[str, Any] = field(default_factory=dict)
    run_seconds: float | None = None
    run_documents: int | None = None
    first_filter: str = "none"
    cell: str = ""
    grid: str = ""

    @property
    def quantization(self) -> str:
        """What the weights of the model that ran were quantised to (``bnb-int8``); empty for an ordinary one."""
        loaded = self.config.get("quantization")
        name = loaded.get("name") if isinstance(loaded, Mapping) else None
        return name if isinstance(name, str) else ""

    @property
    def label(self) -> str:
        """Names the run for people: model and task."""
        return f"{self.cell or self.model_name} ({self.model_source}), {self.task}"

    def samples(self, problems: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """The samples in the order of the file, one per document and filter.

        :param problems: takes one line per damaged line of the file, with its number; without it they raise.
        :raises DataError: the run has no samples, or a line is damaged and nobody takes note.
        """
        return (sample for _, sample in self.numbered_samples(problems))

    def numbered_samples(self, problems: list[str] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Like :meth:`samples`, each with the number of its line, counted from 1."""
        if self.samples_path is None:
            raise DataError(
                f"{self.results_path}: found no samples of {self.task}, expected samples_{self.task}_{self.date}.jsonl beside "
                "it. Run lm_eval with --log_samples."
            )
        with self.samples_path.open(encoding="utf-8-sig", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    sample = json.loads(line)
                    fault = None if isinstance(sample, dict) and "doc_id" in sample else "not an object with doc_id"
                except (ValueError, RecursionError) as error:
                    fault = f"not JSON ({error})"
                if fault is None:
                    yield number, sample
                    continue
                message = f"{self.samples_path}, line {number}: {fault}; expected a sample of lm_eval. The line is left out."
                if problems is None:
                    raise DataError(message)
                problems.append(message)


def load_runs(paths: Sequence[str | Path]) -> tuple[list[TaskRun], list[str]]:
    """The runs found in results files or folders (searched through), and what could not be read.

    Of several runs of one model (in the same bits) and task in one folder the newest is kept. The order is that of ``paths``,
    then of model and task.

    :raises DataError: a path does not exist, or nothing at all could be read.
    """
    found: list[TaskRun] = []
    problems: list[str] = []
    for path in map(Path, paths):
        newest: dict[tuple[str, str, str], TaskRun] = {}
        for file in _results_files(path):
            for run in _read(file, problems, asked=path.is_file()):
                place = (str(file.parent), f"{run.model_source}{run.model_name} {run.quantization}", run.task)
                if place not in newest or newest[place].date < run.date:
                    newest[place] = run
        found += sorted(newest.values(), key=lambda run: (run.model_name, run.model_source, str(run.results_path), run.task))
    distinct = list({(run.results_path.resolve(), run.task): run for run in found}.values())
    if not distinct:
        shown = ", ".join(map(str, paths))
        told = "".join(f"\n{problem}" for problem in problems)
        raise DataError(f"{shown}: found no results of lm_eval. Give a results file or the folder of --output_path.{told}")
    return distinct, problems


def first_few(told: Sequence[str], where: object) -> list[str]:
    """The faults of one file for people: up to five, then their number."""
    more = len(told) - _TOLD
    return [*told[:_TOLD], *([f"{where}: {more} more lines like these."] if more > 0 else [])]


def _results_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder. Give a results file or the folder of --output_path.")
    return sorted(file for file in path.rglob("*.json") if _DATE.search(file.name))


def _read(file: Path, problems: list[str], asked: bool) -> Iterator[TaskRun]:
    """The tasks of one results file. Other JSON files of a folder are passed over unless they look like results."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{file}: not a results file of lm_eval ({error}); it is left out.")
        return
    content = content if isinstance(content, dict) else {}
    results, configs, config = (content.get(name) for name in ("results", "configs", "config"))
    if not (isinstance(results, dict) and isinstance(configs, dict) and isinstance(config, dict)):
        if asked or file.name.startswith("results_"):
            problems.append(
                f"{file}: found no 'results', 'configs' and 'config'; expected a results file of lm_eval. Left out."
            )
        return
    yield from runs_in(content, file, problems)


def runs_in(content: Mapping[str, Any], file: Path, problems: list[str]) -> Iterator[TaskRun]:
    """The tasks of the content of a results file; samples are looked for beside ``file``."""
    results, configs, config = (_mapping(content.get(name)) for name in ("results", "configs", "config"))
    date = match.group(1) if (match := _DATE.search(file.name)) else ""
    counts = [_mapping(count).get("effective") for count in _mapping(content.get("n-samples")).values()]
    documents = sum(count for count in counts if isinstance(count, int))
    source = str(content.get("model_source") or config.get("model") or "?")
    cell = _cell(file)
    for task in configs:
        values = results.get(task)
        if not isinstance(values, dict):
            problems.append(f"{file}: results of task {task!r} are missing; the task is left out.")
            continue
        samples = file.parent / f"samples_{task}_{date}.jsonl"
        by_filter = _by_filter(values)
        first = next(iter(by_filter), "none")
        count = _mapping(_mapping(content.get("n-samples")).get(task))
        yield TaskRun(
            task=task,
            model_name=str(content.get("model_name") or source),
            model_source=source,
            config={**config, "model_args": _arguments(config.get("model_args"))},
            task_config=configs[task] if isinstance(configs[task], dict) else {},
            results=by_filter.get(first, {}),
            results_path=file,
            samples_path=samples if samples.is_file() else None,
            date=date,
            filters={name: found for name, found in by_filter.items() if name != first},
            n_samples=effective if isinstance(effective := count.get("effective"), int) else None,
            versions={key: content.get(key) for key in ("lm_eval_version", "transformers_version", "git_hash")},
            higher_is_better=_mapping(_mapping(content.get("higher_is_better")).get(task)),
            run_seconds=_seconds(content.get("total_evaluation_time_seconds")),
            run_documents=documents or None,
            first_filter=first,
            cell=str(cell.get("label") or ""),
            grid=str(cell.get("grid") or ""),
        )


def _cell(file: Path) -> Mapping[str, Any]:
    """What ``sweep`` wrote of a run, two folders up: lm_eval puts results into one named after the model."""
    try:
        return _mapping(json.loads((file.resolve().parent.parent / "cell.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _seconds(value: Any) -> float | None:
    """lm_eval writes the time as text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _by_filter(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """``{"pass@1,none": 0.2}`` as ``{"none": {"pass@1": 0.2}}``."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        metric, comma, name = key.partition(",")
        if comma:
            found.setdefault(name, {})[metric] = value
    return found


def _arguments(given: Any) -> dict[str, Any]:
    """Model arguments as a mapping: lm_eval stores what was typed, a mapping or ``a=1,b=x``."""
    if isinstance(given, Mapping):
        return dict(given)
    found: dict[str, Any] = {}
    for part in str(given or "").split(","):
        name, equals, value = part.partition("=")
        if equals:
            found[name.strip()] = _SCALAR.get(value.lower(), value)
    return found
