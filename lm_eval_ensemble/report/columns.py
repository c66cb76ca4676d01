"""The numbers of each document as columns, read in one pass: what a comparison needs, and nothing else is kept."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from lm_eval_ensemble.runs.load import TaskRun
from lm_eval_ensemble.runs.samples import BOUNDS, Sample, as_number, document_keys, read

__all__ = ["Columns", "read_columns"]


@dataclass(frozen=True)
class Columns:
    """One task of one run: ``values[name][i]`` belongs to document ``ids[i]``.

    ``values[""]`` is the run itself, other names are its members and the bounds of selection; undefined values, of a member
    also where it was not asked, are NaN. ``clusters`` are the problems the documents were cut from; a document that names none
    is a cluster of its own, and ``alone`` says so. ``members`` are those of all records; ``forwards``: member -> mean
    row-forwards per document, ``memory``: member -> largest peak memory in MiB, where recorded. ``informed`` are the members
    that note a length mode themselves. ``problems`` and ``notes`` are for people.
    """

    run: TaskRun
    metric: str
    filter: str
    ids: Sequence[Any]
    hashes: Sequence[str | None]
    clusters: Sequence[Hashable]
    alone: Sequence[bool]
    values: dict[str, Sequence[float]]
    forwards: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    length_modes: Sequence[str] = ()
    members: Sequence[str] = ()
    informed: frozenset[str] = frozenset()
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()

    def at(self, places: Sequence[int]) -> Columns:
        """The documents at these places alone."""

        def chosen(values: Sequence[Any]) -> list[Any]:
            return [values[i] for i in places]

        return replace(
            self,
            ids=chosen(self.ids),
            hashes=chosen(self.hashes),
            clusters=chosen(self.clusters),
            alone=chosen(self.alone),
            values={name: chosen(values) for name, values in self.values.items()},
        )

    @property
    def keys(self) -> list[Hashable]:
        """What makes a document the same in two runs."""
        return document_keys(self.ids, self.hashes)

    @property
    def numbers(self) -> list[Hashable]:
        """The documents by number alone."""
        return document_keys(self.ids, [None] * len(self.ids))


class _DocumentRow(NamedTuple):
    """Of one document."""

    number: Any
    content: str | None
    cluster: Hashable
    alone: bool
    value: float | None
    others: dict[str, float | None] | None
    forwards: dict[str, float] | None


def read_columns(run: TaskRun, metric: str, filter_name: str, members: bool = False) -> Columns:
    """The columns of one task of one run.

    :param members: also the members of an ensemble and the bounds of selection, from the same samples.
    """
    modes: set[str] = set()
    informed: set[str] = set()
    names: dict[str, None] = {}

    def keep(sample: Sample) -> _DocumentRow:
        if isinstance(mode := sample.raw.get("length_mode"), str):
            modes.add(mode)
        others = forwards = None
        if sample.choices:
            own = sample.members
            names.update(dict.fromkeys(own))
            others = {name: sample.value_of(name, metric) for name in (*own, *BOUNDS)} if members else None
            forwards = _costs(sample, modes, informed)
        alone = sample.problem is None
        return _DocumentRow(sample.number, sample.content, sample.cluster, alone, sample.score, others, forwards)

    samples = read(run, keep, metric, filter_name)
    rows = samples.rows
    values: dict[str, Sequence[float]] = {"": [math.nan if row.value is None else row.value for row in rows]}
    if members and len(names) > 1:
        for name in (*names, *BOUNDS):
            own = [(row.others or {}).get(name) for row in rows]
            values[name] = [math.nan if value is None else value for value in own]
    totals: dict[str, list[float]] = {}
    for row in rows:
        for name, value in (row.forwards or {}).items():
            totals.setdefault(name, []).append(value)
    peaks = run.config.get("peak_memory_mib")
    sizes = {str(name): as_number(size) for name, size in peaks.items()} if isinstance(peaks, dict) else {}
    problems = list(samples.problems)
    stated = as_number(run.metrics(filter_name).get(metric))
    complete = run.n_samples is None or run.n_samples == len(rows)
    if (
        complete
        and samples.mean is not None
        and stated is not None
        and abs(stated - samples.mean) > 1e-6 * max(1.0, abs(stated))
    ):
        problems.append(
            f"{run.results_path}: {run.task} {metric} is {stated:.6g}, the mean of its samples {samples.mean:.6g}: this metric "
            "is no mean over documents, or one of the files was changed. The mean of the samples is used."
        )
    return Columns(
        run,
        metric,
        filter_name,
        [row.number for row in rows],
        [row.content for row in rows],
        [row.cluster for row in rows],
        [row.alone for row in rows],
        values,
        {name: math.fsum(found) / len(rows) for name, found in totals.items()},
        {name: size for name, size in sizes.items() if size is not None},
        sorted(modes),
        list(names),
        frozenset(informed),
        problems,
        samples.notes,
    )


def _costs(sample: Sample, modes: set[str], informed: set[str]) -> dict[str, float]:
    """Row-forwards of each member, repeats included; notes which length modes were told, and by whom."""
    told = not isinstance(sample.raw.get("length_mode"), str)
    forwards: dict[str, float] = {}
    for choice in sample.choices:
        for scored in choice.selection.candidates:
            own = scored.candidate
            if mode := own.info.get("length_mode"):
                informed.add(own.member)
                if told:
                    modes.add(str(mode))
            if (count := as_number(own.info.get("row_forwards"))) is not None:
                forwards[own.member] = forwards.get(own.member, 0.0) + count
    return forwards
