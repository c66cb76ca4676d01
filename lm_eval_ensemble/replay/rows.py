"""Stored records as cases: what the selectors saw in the run, and what came of each candidate."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lm_eval_ensemble.errors import ConfigError, DataError, did_you_mean
from lm_eval_ensemble.runs import samples as files
from lm_eval_ensemble.runs.load import TaskRun
from lm_eval_ensemble.runs.samples import Measure, Sample, measures
from lm_eval_ensemble.selection import Case
from lm_eval_ensemble.selection.fit import Judged
from lm_eval_ensemble.types import RUN

__all__ = ["Decision", "NoRecordsError", "Recorded", "read_record"]

_HUMANEVAL = re.compile(r"(SingleLine|MultiLine|RandomSpan|RandomSpanLight)Infilling/")


class NoRecordsError(DataError):
    """The samples of a run are sound, and hold no record of candidates."""


@dataclass(frozen=True, slots=True)
class Decision(Judged):
    """One gap, judged, and how the run itself chose."""

    task_id: str
    winner: int
    reason: str
    document: tuple[Any, ...]


@dataclass(frozen=True)
class Recorded:
    """One task of one run, with as many choices per document as it was completed times. ``selector``, ``rule`` and ``prefer``
    are the run's own. ``unmeasured``: documents that do not have the measure (no tests), and are left out."""

    run: TaskRun
    choices: tuple[Decision, ...]
    measure: str
    selector: str
    rule: str
    prefer: str | None
    length_modes: tuple[str, ...]
    documents: int
    problems: tuple[str, ...] = field(default=())
    unmeasured: int = 0

    @property
    def task(self) -> str:
        return self.run.task

    @cached_property
    def members(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(s.candidate.member for choice in self.choices for s in choice.case.candidates))

    @cached_property
    def scores(self) -> tuple[str, ...]:
        """The scores that are defined somewhere, without means of several."""
        defined = (
            name
            for choice in self.choices
            for scored in choice.case.candidates
            for name, value in scored.scores.items()
            if value is not None and "+" not in name
        )
        return tuple(dict.fromkeys(defined))

    @property
    def is_humaneval(self) -> bool:
        """HumanEval-Infilling, by the ids of its documents: the only set that numbers are fitted on for later use."""
        return all(_HUMANEVAL.match(choice.task_id) for choice in self.choices)

    @property
    def is_santacoder(self) -> bool:
        return "santacoder" in self.task or any(choice.task_id.startswith("humaneval-HumanEval") for choice in self.choices)


def read_record(run: TaskRun, rule: str | None = None, measure: str | None = None) -> Recorded:
    """:param rule: another score to compare than the run's; ``measure``: another row that says what is right.

    Records that are damaged, or contradict their rows, are told and left out.

    :raises NoRecordsError: the run has no records of candidates; ``DataError``: none of them can be used.
    """
    seed = _seed(run.config)
    own: list[tuple[str, str, str | None]] = []
    modes: set[str] = set()

    def keep(sample: Sample) -> tuple[str, list[Decision]]:
        if not sample.choices:
            return "", []
        selection = sample.choices[0].selection
        if not own:
            settings = selection.settings
            own.append((str(settings.get("selector", "argmin")), selection.rule, settings.get("prefer")))
        modes.update([str(c.candidate.info["length_mode"]) for c in selection.candidates if "length_mode" in c.candidate.info])
        if measure is None or measure == sample.measure:
            return sample.measure, _decisions(run, sample, rule, seed)
        # What tests say was found by the judge, or is not known.
        known = measures({**sample.doc, "test": ""})
        if measure not in known:
            names.update(known)
            return "", []
        return measure, _decisions(run, sample, rule, seed, known[measure])

    names: dict[str, Any] = {}
    samples = files.read(run, keep, facts=(RUN, "length_mode"))
    kinds = Counter(kind for kind, row in samples.rows if row)
    if not kinds and names:
        raise ConfigError(f"--measure {measure!r}: not a measure of this task.{did_you_mean(str(measure), names)}")
    # Of gaps of which some have tests, those are compared; so do the other commands.
    metric = samples.metric or ""
    measured = metric if metric in kinds else next(iter(kinds), "")
    decisions = tuple(decision for kind, row in samples.rows if kind == measured for decision in row)
    if not decisions:
        # A sound run of another kind has nothing to replay; it is no damaged one.
        raise (DataError if samples.problems else NoRecordsError)(
            "\n".join(
                [
                    f"{run.samples_path}: found no record of candidates ('selection') to use in {run.task} by "
                    f"{run.model_source}; expected a run of ensemble-ppl with --log_samples and without --predict_only.",
                    *samples.problems,
                ]
            )
        )
    selector, used, prefer = own[0]
    return Recorded(
        run,
        decisions,
        measured,
        selector,
        used,
        prefer,
        tuple(sorted(modes)),
        kinds[measured],
        samples.problems,
        len(samples.rows) - kinds[measured],
    )


def _seed(config: Mapping[str, Any]) -> int:
    """The seed of the run's random streams: its own, else torch's, as in the run."""
    settings = config.get("ensemble")
    own = settings.get("seed") if isinstance(settings, Mapping) else None
    found = config.get("torch_seed") if own is None else own
    return found if isinstance(found, int) else 0


def _decisions(run: TaskRun, sample: Sample, rule: str | None, seed: int, is_right: Measure | None = None) -> list[Decision]:
    doc = sample.doc
    prefix, suffix = str(doc.get("prefix", doc.get("prompt", ""))), str(doc.get("suffix", ""))
    name = str(doc.get("task_id", ""))
    problem = str(sample.problem or name or sample.number)
    infos = [s.candidate.info for choice in sample.choices for s in choice.selection.candidates]
    runs = 1 + max([0, *(info[RUN] for info in infos if isinstance(info.get(RUN), int))])
    decisions = []
    for number, choice in enumerate(sample.choices):
        made, right = choice.selection, choice.right
        if is_right is not None:
            right = tuple(map(is_right, made.candidates))
        # All runs of a repeat (length=fixed-mean) have the random stream of that repeat.
        key: tuple[Any, ...] = (run.task, sample.number, number // runs)
        prefer = made.settings.get("prefer")
        case = Case(made.candidates, rule or made.rule, prefer, prefix, suffix, key, seed)
        decisions.append(Decision(case, right, problem, name, made.winner, made.reason, (sample.number, sample.content)))
    return decisions
