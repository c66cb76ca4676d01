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

import numpy as np
from numpy.typing import NDArray

from lm_eval_ensemble.errors import EnsembleError
from lm_eval_ensemble.metrics.clustered import Clustered, cluster_codes, clustered_mean
from lm_eval_ensemble.metrics.multiple import holm
from lm_eval_ensemble.metrics.paired import Paired, compare_paired, minimal_detectable_gain
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
    comparison with the best member on the choices of all members (None if there are none); ``p_holm`` is adjusted over all
    selectors but the primary one and the bounds."""

    selector: str
    score: Clustered
    wilson: tuple[float, float] | None
    s: Clustered | None
    gain: Paired | None
    reasons: Mapping[str, int]
    fitted: str = ""
    primary: bool = False
    bound: bool = False
    p_holm: float | None = None


@dataclass(frozen=True)
class Replay:
    """One task of one run: ``rows`` from best to worst; ``members`` map to (score, choices it answered).

    ``shared`` counts the choices that all members answered, ``best`` is None where there is none. ``changed`` counts those in
    which replaying the run's own selector chooses another candidate. ``left_out`` maps a selector to the reason.
    """

    recorded: Recorded
    rule: str
    rows: tuple[Ranked, ...]
    best: str | None
    members: Mapping[str, tuple[float, int]]
    shared: int
    floor: float
    oracle: float
    decisive: float
    s0: float | None
    deff: float | None
    detectable: float | None
    changed: int
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def clusters(self) -> int:
        return len({choice.problem for choice in self.recorded.choices})

    @property
    def notes(self) -> list[str]:
        """What a reader must know of the record beside its figures."""
        choices, notes = self.recorded.choices, []
        if self.changed:
            own = next(row.selector for row in self.rows if row.primary)
            notes.append(
                f"replaying {own} chooses another candidate than the run in {self.changed} of {len(choices)} documents: scores "
                "are stored with five decimals, or the record is of another release. The row shows what the run chose."
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
    def n_decisive(self) -> int:
        return sum(choice.decisive for choice in self.recorded.choices)


def compare(recorded: Recorded, plans: Sequence[Plan], own: str, left_out: Mapping[str, str] | None = None) -> Replay:
    """:param own: what the run's own selector is called in the table; its row is what the run recorded."""
    choices = recorded.choices
    problems = cluster_codes([choice.problem for choice in choices])
    right = [choice.right for choice in choices]
    decisive = np.array([choice.decisive for choice in choices])
    members = {name: _member(choices, name) for name in recorded.members}
    shared = ~np.isnan(np.array(list(members.values()))).any(axis=0)
    together = problems[shared]
    best = max(members, key=lambda m: (members[m][shared].mean(), m == recorded.prefer)) if len(together) else None
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
        if (key := x.tobytes()) not in known and best is not None:
            known[key] = compare_paired(x[shared], members[best][shared], together)
        stands = standing(x, problems)
        rows.append(
            Ranked(
                selector=name,
                score=stands.clustered,
                wilson=stands.wilson,
                s=clustered_mean(x[decisive], problems[decisive]) if decisive.any() else None,
                gain=known.get(key),
                reasons=Counter(reason for _, reason in picks.get(name, ())),
                fitted=fitted.get(name, ""),
                primary=name == own,
                bound=name in bounds,
            )
        )
    share, primary = float(decisive.mean()), next(row for row in rows if row.primary)
    deff = None if primary.gain is None else primary.gain.difference.deff
    detectable = None
    if deff and primary.gain is not None:
        detectable = minimal_detectable_gain(len(together), primary.gain.discordant, max(1.0, deff))
    return Replay(
        recorded=recorded,
        rule=choices[0].case.rule,
        rows=_ranked(rows),
        best=best,
        members={name: (float(np.nanmean(x)), int((~np.isnan(x)).sum())) for name, x in members.items()},
        shared=len(together),
        floor=float(bounds["floor"].mean()),
        oracle=float(bounds["oracle"].mean()),
        decisive=share,
        s0=float(members[best][both].mean()) if best is not None and both.any() else None,
        deff=deff,
        detectable=detectable,
        changed=sum(now != then for (now, _), (then, _) in zip(replayed.get(own, made), made, strict=True)),
        left_out=dict(left_out or {}),
    )


def _member(choices: Sequence[Decision], name: str) -> Values:
    """Share of right ones among a member's own candidates, per choice: what picking it blindly gives; NaN where it has none."""
    shares = []
    for choice in choices:
        own = [r for s, r in zip(choice.case.candidates, choice.right, strict=True) if s.candidate.member == name]
        shares.append(sum(own) / len(own) if own else np.nan)
    return np.array(shares)


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
    family = {row.selector: row.gain.p for row in rows if row.gain is not None and not row.primary and not row.bound}
    adjusted = dict(zip(family, holm(list(family.values())), strict=True))
    done = [replace(row, p_holm=adjusted.get(row.selector)) for row in rows]
    # The bounds stand at the ends, also where a selector reaches them.
    place = {"oracle": 0, "floor": 2}
    return tuple(sorted(done, key=lambda row: (place.get(row.selector, 1) if row.bound else 1, -row.score.mean, row.selector)))
