"""All selectors over one task's records, ranked, with what can be said about the differences.

A member that has no candidate for a gap has no value there: what sets the members side by side (the best of them, gains over
it, s0) is over the choices that all of them answered, and left out where there is none.

With ``both`` = all candidates right and ``D`` = some but not all right, as shares of the choices, a selector that is right
in a share ``s`` of the decisive ones scores both + s * D; the best member has s0 in the place of s. Only s is a selector's
own doing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_ensemble.errors import ConfigError, EnsembleError, counted, did_you_mean
from lm_eval_ensemble.metrics.clustered import Clustered, cluster_codes, clustered_share
from lm_eval_ensemble.metrics.paired import Paired, Simultaneous, compare_paired, simultaneous
from lm_eval_ensemble.metrics.standing import standing
from lm_eval_ensemble.replay.rows import Decision, Recorded
from lm_eval_ensemble.selection import Selector

__all__ = ["Plan", "Ranked", "Replay", "compare"]

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """A selector to replay. ``choose`` gets the whole choice, so that cross-fitted numbers can go by its program.

    ``fitted`` says on what its numbers were fitted, empty if it has none.
    """

    name: str
    choose: Callable[[Decision], tuple[int, str]]
    fitted: str = ""

    @classmethod
    def of(cls, name: str, selector: Selector, fitted: str = "") -> Plan:
        return cls(name, lambda choice: selector(choice.case), fitted)


@dataclass(frozen=True)
class Ranked:
    """One row. ``score`` is the share of right choices, ``s`` that on decisive ones (None if there are none), ``gain`` the
    comparison with the reference member on the documents of all members (None if there are none); ``among`` is the same
    difference seen together with those of all selectors but the primary one and the bounds."""

    selector: str
    score: Clustered
    wilson: tuple[float, float] | None
    s: Clustered | None
    gain: Paired | None
    reasons: Mapping[str, int]
    fitted: str = ""
    primary: bool = False
    bound: bool = False
    among: Simultaneous | None = None


@dataclass(frozen=True)
class OverAll:
    """A gain over the best of several members, without knowing which is the best: ``value`` is the smallest of the differences
    to each, ``low`` the smallest of their lower ends and ``high`` that of their simultaneous upper ends. To be better it must
    beat every member, so ``p`` is the largest of their tests (intersection-union, Berger 1982); to be worse one member that
    beats it is enough, so where ``value`` is negative ``p`` is the smallest of the simultaneous tests of those ahead of it."""

    value: float
    low: float | None
    high: float | None
    p: float


@dataclass(frozen=True)
class Replay:
    """One task of one run: ``rows`` from best to worst; ``members`` map to (score, choices it answered).

    ``shared`` counts the choices that all members answered, ``best`` is None where there is none; ``level``: all members are
    right equally often there. ``reference`` is the member
    that gains are over: ``baseline``, named beforehand, else the best one, found on these documents. ``over_all`` is what the
    run's own selector gains over the best member whichever that truly is. ``changed`` counts those in
    which replaying the run's own selector chooses another candidate. ``left_out`` maps a selector to the reason.
    ``label`` tells the run from the others.
    """

    recorded: Recorded
    rule: str
    rows: tuple[Ranked, ...]
    best: str | None
    level: bool
    members: Mapping[str, tuple[float, int]]
    shared: int
    floor: float
    oracle: float
    decisive: float
    s0: float | None
    baseline: str | None
    over_all: OverAll | None
    changed: int
    left_out: Mapping[str, str] = field(default_factory=dict)
    label: str = ""

    @property
    def clusters(self) -> int:
        return len({choice.problem for choice in self.recorded.choices})

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the record beside its figures."""
        choices, notes = self.recorded.choices, []
        if self.recorded.unmeasured:
            notes.append(f"Left out, without {self.recorded.measure}: {counted(self.recorded.unmeasured, 'documents')}.")
        if not self.recorded.measure.startswith("pass@"):
            notes.append(f"right is what {self.recorded.measure} says; nothing was executed for it.")
        if self.changed:
            notes.append(
                f"replaying {self.primary.selector} chooses another candidate than the run in {self.changed} of {len(choices)} "
                "documents: scores are stored with five decimals, or the record is of another release. The row shows what the "
                "run chose."
            )
        some = [name for name, (_, answered) in self.members.items() if answered < len(choices)]
        if some:
            notes.append(
                f"not every gap has a candidate of {', '.join(some)}; a member's score is over the gaps it has one for."
            )
        if "oracle" in self.recorded.length_modes:
            notes.append("length=oracle told the diffusion member the length of the answer.")
        return notes

    @property
    def reference(self) -> str | None:
        return self.baseline or self.best

    @property
    def primary(self) -> Ranked:
        return next(row for row in self.rows if row.primary)

    @property
    def n_decisive(self) -> int:
        return sum(choice.decisive for choice in self.recorded.choices)


def compare(
    recorded: Recorded,
    plans: Sequence[Plan],
    own: str,
    left_out: Mapping[str, str] | None = None,
    baseline: str | None = None,
) -> Replay:
    """:param own: what the run's own selector is called in the table; its row is what the run recorded.
    :param baseline: the member that gains are over, named before looking; None takes the best one.
    :raises ConfigError: no member has the name of the baseline.
    """
    if baseline is not None and baseline not in recorded.members:
        names = ", ".join(recorded.members)
        raise ConfigError(
            f"--baseline {baseline}: expected one of the members {names}.{did_you_mean(baseline, recorded.members)}"
        )
    choices = recorded.choices
    # Everything is by document: a document completed several times is one, with the mean over its choices.
    document = cluster_codes([choice.document for choice in choices])
    programs = cluster_codes([choice.problem for choice in choices])
    problems = programs[np.unique(document, return_index=True)[1]]
    right = [choice.right for choice in choices]
    decisive = np.array([choice.decisive for choice in choices])
    members = _members(choices, recorded.members)
    shared = ~np.isnan(np.array(list(members.values()))).any(axis=0)
    own_document = np.unique(document[shared], return_inverse=True)[1]
    together = problems[np.unique(document[shared])]
    alone = {name: _means(x[shared], own_document) for name, x in members.items()}
    best = max(members, key=lambda m: (members[m][shared].mean(), m == recorded.prefer)) if len(together) else None
    reference = (baseline or best) if len(together) else None
    replayed = _replay(plans, choices)
    made = [(choice.winner, choice.reason) for choice in choices]
    picks = {**replayed, own: made}
    values = {
        name: np.array([r[i] for r, (i, _) in zip(right, picked, strict=True)], dtype=np.float64)
        for name, picked in picks.items()
    }
    bounds = {name: np.array([pick(r) for r in right], dtype=np.float64) for name, pick in (("oracle", any), ("floor", all))}
    fitted = {plan.name: plan.fitted for plan in plans}
    # Many selectors choose alike: the same values need their tests only once.
    known: dict[bytes, Paired] = {}
    both = decisive & shared
    rows = []
    for name, x in {**values, **bounds}.items():
        if (key := x.tobytes()) not in known and reference is not None:
            known[key] = compare_paired(_means(x[shared], own_document), alone[reference], together)
        stands = standing(_means(x, document), problems)
        rows.append(
            Ranked(
                selector=name,
                score=stands.clustered,
                wilson=stands.wilson,
                s=clustered_share(_sums(x * decisive, document), problems, _sums(decisive, document)),
                gain=_of_bound(name, known[key]) if name in bounds and key in known else known.get(key),
                reasons=Counter(reason for _, reason in picks.get(name, ())),
                fitted=fitted.get(name, ""),
                primary=name == own,
                bound=name in bounds,
            )
        )
    gaps = {}
    if reference is not None:
        others = {row.selector for row in rows if not row.primary and not row.bound}
        gaps = {name: _means(x[shared], own_document) - alone[reference] for name, x in values.items() if name in others}
    among = dict(zip(gaps, simultaneous(list(gaps.values()), together, shares=True), strict=True))
    own_values = _means(values[own][shared], own_document) if reference is not None else np.array([])
    return Replay(
        recorded=recorded,
        rule=choices[0].case.rule,
        rows=_ranked([replace(row, among=among.get(row.selector)) for row in rows]),
        best=best,
        level=len({x[shared].sum() for x in members.values()}) == 1,
        members={name: (float(np.nanmean(x)), int((~np.isnan(x)).sum())) for name, x in members.items()},
        shared=len(together),
        floor=float(bounds["floor"].mean()),
        oracle=float(bounds["oracle"].mean()),
        decisive=float(decisive.mean()),
        s0=float(members[reference][both].mean()) if reference is not None and both.any() else None,
        baseline=baseline,
        over_all=_over_all(own_values, list(alone.values()), together) if len(alone) > 1 and len(together) else None,
        changed=sum(now != then for (now, _), (then, _) in zip(replayed.get(own, made), made, strict=True)),
        left_out=dict(left_out or {}),
    )


def _of_bound(name: str, gain: Paired) -> Paired:
    """The oracle cannot lose to a member, nor the floor win, whatever the documents."""
    found = gain.difference
    if found.low is None or found.high is None:
        return gain
    low, high = (max(0.0, found.low), found.high) if name == "oracle" else (found.low, min(0.0, found.high))
    return replace(gain, difference=replace(found, low=low, high=high))


def _sums(values: NDArray[Any], document: NDArray[np.intp]) -> Values:
    """(documents,) sum over the choices of each."""
    return np.bincount(document, values).astype(np.float64)


def _means(values: Values, document: NDArray[np.intp]) -> Values:
    return _sums(values, document) / np.bincount(document)


def _over_all(own: Values, members: Sequence[Values], problems: NDArray[np.intp]) -> OverAll:
    paired = [compare_paired(own, member, problems) for member in members]
    together = simultaneous([own - member for member in members], problems, shares=True)
    lows = [found.difference.low for found in paired]
    highs = [found.high if found.high is not None else one.difference.high for found, one in zip(together, paired, strict=True)]
    value = min(found.difference.mean for found in paired)
    ahead = [found.p for found, one in zip(together, paired, strict=True) if one.difference.mean < 0]
    return OverAll(
        value,
        None if None in lows else min(low for low in lows if low is not None),
        None if None in highs else min(high for high in highs if high is not None),
        min(ahead) if ahead else max(found.p for found in paired),
    )


def _members(choices: Sequence[Decision], names: Sequence[str]) -> dict[str, Values]:
    """Share of right ones among a member's own candidates, per choice: what picking it blindly gives; NaN where it has none."""
    numbers = {name: number for number, name in enumerate(names)}
    member = np.array([numbers[scored.candidate.member] for choice in choices for scored in choice.case.candidates])
    right = np.array([value for choice in choices for value in choice.right], dtype=np.float64)
    place = np.repeat(np.arange(len(choices)), [len(choice.right) for choice in choices])
    shares = {}
    for name, number in numbers.items():
        own = member == number
        with np.errstate(invalid="ignore"):
            shares[name] = np.bincount(place[own], right[own], len(choices)) / np.bincount(place[own], minlength=len(choices))
    return shares


def _replay(plans: Sequence[Plan], choices: Sequence[Decision]) -> dict[str, list[tuple[int, str]]]:
    """Choice by choice: what one selector has found out about a file serves the next one."""
    found: dict[str, list[tuple[int, str]]] = {plan.name: [] for plan in plans}
    for choice in choices:
        for plan in plans:
            try:
                found[plan.name].append(plan.choose(choice))
            except EnsembleError as error:
                raise type(error)(f"selector {plan.name!r}: {error}") from None
    return found


def _ranked(rows: Sequence[Ranked]) -> tuple[Ranked, ...]:
    # The bounds stand at the ends, also where a selector reaches them.
    place = {"oracle": 0, "floor": 2}
    return tuple(sorted(rows, key=lambda row: (place.get(row.selector, 1) if row.bound else 1, -row.score.mean, row.selector)))
