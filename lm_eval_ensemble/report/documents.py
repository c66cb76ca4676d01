"""The numbers of each document, read out of samples in one pass: what a comparison needs, and nothing else is kept."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lm_eval_ensemble.errors import DataError, did_you_mean
from lm_eval_ensemble.report.load import TaskRun, first_few

__all__ = [
    "BOUNDS",
    "Documents",
    "as_number",
    "choose_filter",
    "choose_metric",
    "contradiction",
    "label_of",
    "order_of",
    "problem_of",
    "read_documents",
    "record_of",
]

#: rows of an ensemble that no selector can reach on purpose.
BOUNDS = ("oracle", "floor")


@dataclass
class Documents:
    """One task of one run as columns: ``values[name][i]`` belongs to document ``ids[i]``.

    ``values[""]`` is the run itself, other names are its members and :data:`BOUNDS`; undefined values are NaN. ``clusters``
    are the problems the documents were cut from; a document that names none is a cluster of its own (``alone`` counts
    them). ``members`` are those of the first record; ``forwards``: member -> mean row-forwards per document, ``memory``:
    member -> largest peak memory in MiB, where recorded. ``informed`` are the members that note a length mode themselves.
    """

    run: TaskRun
    metric: str
    filter: str
    ids: list[Any] = field(default_factory=list)
    hashes: list[str | None] = field(default_factory=list)
    clusters: list[Hashable] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=lambda: {"": []})
    forwards: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    length_modes: list[str] = field(default_factory=list)
    alone: int = 0
    members: list[str] = field(default_factory=list)
    informed: set[str] = field(default_factory=set)

    @property
    def keys(self) -> list[tuple[Any, ...]]:
        """What makes a document the same in two runs: its content (``doc_hash``), which does not depend on prompt or number;
        equal documents of one set are told apart by their order. Without hashes, its number."""
        if any(value is None for value in self.hashes):
            return self.numbers
        seen: Counter[str | None] = Counter()
        found: list[tuple[Any, ...]] = [()] * len(self.ids)
        for i in sorted(range(len(self.ids)), key=lambda i: order_of(self.ids[i])):
            found[i] = (self.hashes[i], seen[self.hashes[i]])
            seen[self.hashes[i]] += 1
        return found

    @property
    def numbers(self) -> list[tuple[Any, ...]]:
        """The documents by number alone."""
        return [("doc_id", number) for number in self.ids]


def choose_filter(run: TaskRun, asked: str | None) -> str | None:
    """The name of the filter to read; None if the run does not have the one asked for."""
    names = [run.first_filter, *run.filters]
    return run.first_filter if asked is None else asked if asked in names else None


def choose_metric(run: TaskRun, asked: str | None, filter_name: str) -> str:
    """The metric to compare: the one asked for, else the first of the results.

    :raises DataError: the run does not have it, or has none.
    """
    values = run.results if filter_name == run.first_filter else run.filters.get(filter_name, {})
    names = [name for name in values if "_stderr" not in name and name not in ("alias", "selection", "uncertainty")]
    if asked is None:
        found = next((name for name in names if as_number(values[name]) is not None), None)
        if found is None:
            raise DataError(f"{run.results_path}: {run.task} has no metric with a number; found {', '.join(names) or 'none'}.")
        return found
    if asked not in names:
        shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise DataError(
            f"{run.results_path}: {run.task} has no metric {asked!r}; found {shown or 'none'}.{did_you_mean(asked, names)}"
        )
    return asked


def read_documents(run: TaskRun, metric: str, filter_name: str, problems: list[str], members: bool = False) -> Documents:
    """The columns of one task of one run.

    :param problems: takes one line per damaged line of the file, up to five and then their number, and what else is odd.
    :param members: also the members of an ensemble and :data:`BOUNDS`, from the same samples.
    """
    found = Documents(run, metric, filter_name)
    told: list[str] = []
    totals: dict[str, list[float]] = {}
    seen: set[tuple[Any, Any]] = set()
    modes: dict[str, None] = {}
    for number, sample in run.numbered_samples(told):
        if sample.get("filter", filter_name) != filter_name:
            continue
        identity = (_hashable(sample["doc_id"]), sample.get("doc_hash"))
        if identity in seen:
            told.append(f"{run.samples_path}, line {number}: document {sample['doc_id']!r} again; the first one is used.")
            continue
        value = as_number(sample.get(metric))
        if value is None and sample.get(metric) is not None:
            told.append(
                f"{run.samples_path}, line {number}: {metric} is {_shown(sample[metric])}, expected a number. Left out."
            )
            continue
        record = record_of(sample)
        if fault := contradiction(sample, metric, record):
            told.append(f"{run.samples_path}, line {number}: {fault}. Left out.")
            continue
        seen.add(identity)
        if not found.members and record is not None:
            found.members = list(dict.fromkeys(str(candidate["member"]) for candidate in record["candidates"]))
            names = [*found.members, *BOUNDS] if members and len(found.members) > 1 else []
            found.values |= {name: [math.nan] * len(found.ids) for name in names}
        found.ids.append(identity[0])
        found.hashes.append(identity[1] if isinstance(identity[1], str) else None)
        problem = problem_of(sample)
        found.alone += problem is None
        found.clusters.append(("document", identity) if problem is None else problem)
        found.values[""].append(math.nan if value is None else value)
        for name, column in found.values.items():
            if name:
                own = as_number(sample.get(f"{metric}_{name}"))
                column.append(math.nan if own is None else own)
        if record is not None:
            _costs(record, totals)
            found.informed |= {str(c["member"]) for c in record["candidates"] if c.get("length_mode")}
        if mode := _mode(sample, record):
            modes[mode] = None
    found.length_modes = sorted(modes)
    peaks = run.config.get("peak_memory_mib")
    sizes = {str(name): as_number(size) for name, size in peaks.items()} if isinstance(peaks, Mapping) else {}
    found.memory = {name: size for name, size in sizes.items() if size is not None}
    found.forwards = {name: math.fsum(values) / len(found.ids) for name, values in totals.items()}
    problems += first_few(told, run.samples_path)
    problems += _oddities(found)
    return found


def problem_of(sample: Mapping[str, Any]) -> Hashable:
    """The program a document was cut from, None if it does not say."""
    for place in (sample.get("doc"), sample.get("selection")):
        if isinstance(place, Mapping) and isinstance(problem := place.get("problem"), str | int) and problem != "":
            return problem
    return None


def record_of(sample: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The record of the selection, None where there is none or it is damaged."""
    record = sample.get("selection")
    if not isinstance(record, Mapping) or not isinstance(record.get("candidates"), list) or not record["candidates"]:
        return None
    return record if all(isinstance(c, Mapping) and "member" in c for c in record["candidates"]) else None


def contradiction(sample: Mapping[str, Any], metric: str, record: Mapping[str, Any] | None) -> str | None:
    """How the row of a metric contradicts the record it was made from, in words; None if it does not, or nobody can tell.

    The record says which candidates are right by its own ``measure``: the row is the share of right ones among the chosen.
    """
    row = as_number(sample.get(metric))
    if record is None or row is None or record.get("measure") != metric:
        return None
    try:
        entries = record.get("completions") or [record]
        right = [[bool(candidate["right"]) for candidate in entry["candidates"]] for entry in entries]
        share = sum(own[entry["winner_index"]] for own, entry in zip(right, entries, strict=True)) / len(entries)
        best = sum(map(any, right)) / len(entries)
    except (KeyError, TypeError, IndexError, AttributeError):
        return None  # a damaged record contradicts nothing
    changed = "the file was changed or mixed with another"
    if row > best + 1e-9:
        return f"{metric} is {row:g}, but no candidate that was chosen from allows more than {best:g}: {changed}"
    return f"{metric} is {row:g}, but the chosen candidates give {share:g}: {changed}" if abs(row - share) > 1e-9 else None


def label_of(run: TaskRun) -> str:
    """A short name of the run: that of its cell of a sweep, else that of its checkpoint (of a path the last part) and what its
    weights were quantised to."""
    if run.cell:
        return run.cell
    name = " ".join(run.model_name.split()).rstrip("/")
    # Names on the Hub have one slash at most.
    short = name.rsplit("/", 1)[-1] if name.startswith(("/", ".", "~")) or name.count("/") > 1 else name
    return f"{short} {bits}" if (bits := run.quantization) else short


def _costs(record: Mapping[str, Any], totals: dict[str, list[float]]) -> None:
    """Adds up what the candidates of a document say about their cost, repeats included."""
    completions = record.get("completions")
    own: dict[str, float] = {}
    for completion in completions if isinstance(completions, list) else [record]:
        for candidate in completion.get("candidates", ()) if isinstance(completion, Mapping) else ():
            name = str(candidate.get("member"))
            if (forwards := as_number(candidate.get("row_forwards"))) is not None:
                own[name] = own.get(name, 0.0) + forwards
    for name, value in own.items():
        totals.setdefault(name, []).append(value)


def _mode(sample: Mapping[str, Any], record: Mapping[str, Any] | None) -> str | None:
    if isinstance(mode := sample.get("length_mode"), str):
        return mode
    candidates: Sequence[Mapping[str, Any]] = record["candidates"] if record is not None else ()
    return next((str(c["length_mode"]) for c in candidates if c.get("length_mode")), None)


def _oddities(found: Documents) -> list[str]:
    """Samples that do not fit the results file."""
    run, values = found.run, [value for value in found.values[""] if not math.isnan(value)]
    odd = []
    if run.n_samples is not None and run.n_samples != len(found.ids):
        odd.append(
            f"{run.samples_path}: {len(found.ids)} documents can be used, the results file counts {run.n_samples}: part of the "
            "file is missing or damaged."
        )
    elif values:
        table = run.results if found.filter == run.first_filter else run.filters.get(found.filter, {})
        stated, mean = as_number(table.get(found.metric)), math.fsum(values) / len(values)
        if stated is not None and abs(stated - mean) > 1e-6 * max(1.0, abs(stated)):
            odd.append(
                f"{run.results_path}: {run.task} {found.metric} is {stated:.6g}, the mean of its samples {mean:.6g}: this "
                "metric is no mean over documents, or one of the files was changed. The mean of the samples is used."
            )
    return odd


def as_number(value: Any) -> float | None:
    """A finite number of reasonable size, also of a truth value or of a number written as text; else None."""
    if not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    # Beyond that a square is infinite; no metric is.
    return found if abs(found) < 1e150 else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _hashable(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else repr(value)


def order_of(value: Any) -> tuple[int, Any]:
    """By which documents are sorted: numbers first. Lines of a run by several processes stand in another order."""
    return (0, value) if isinstance(value, int | float) else (1, str(value))
