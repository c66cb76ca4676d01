"""Selectors with numbers that were fitted before; ``fit`` finds the numbers, a selector file carries them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

from pydantic import Field

from lm_eval_ensemble.config import Strict
from lm_eval_ensemble.errors import ConfigError, did_you_mean
from lm_eval_ensemble.selection.base import Case, Selector, lowest, score_of
from lm_eval_ensemble.selection.features import feature
from lm_eval_ensemble.selection.rules import argmin, margin, scored_by

__all__ = ["FITTED", "LEARNED_TASKS", "Logistic", "Moments", "Numbers", "Weight"]

Finite = Annotated[float, Field(allow_inf_nan=False)]
Spread = Annotated[float, Field(gt=0, allow_inf_nan=False)]

#: the learned selector is fitted on these tasks and leaves the others to ``argmin``.
LEARNED_TASKS = "humaneval_infill"


class Moments(Strict):
    """Mean and standard deviation of a score, nats."""

    mean: Finite
    sd: Spread


class Logistic(Strict):
    """Log-odds that a candidate is right: ``intercept + score * s + log_bytes * log(1 + bytes)``."""

    intercept: Finite
    score: Finite
    log_bytes: Finite


class Weight(Strict):
    """One feature of the learned selector: standardised (undefined counts as the mean), times ``weight``."""

    mean: Finite
    sd: Spread
    weight: Finite


class Numbers(Strict):
    """Everything that is fitted; None where it was not. ``rule`` is the score that ``margin``, ``centred``, ``znorm`` and
    ``calibrated`` compare, whatever the rule of the run."""

    rule: str
    prefer: str | None = None
    margin: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    members: dict[str, Moments] | None = None
    scores: dict[str, Moments] | None = None
    calibrated: dict[str, Logistic] | None = None
    learned: dict[str, Weight] | None = None


def _of_member(numbers: Mapping[str, Any], member: str) -> Any:
    if member not in numbers:
        raise ConfigError(f"selector_file: nothing was fitted for member {member!r}.{did_you_mean(member, numbers)}")
    return numbers[member]


def _by_member(numbers: Numbers, scale: bool, case: Case) -> tuple[int, str]:
    values: list[float | None] = []
    for scored in case.candidates:
        own, value = _of_member(numbers.members or {}, scored.candidate.member), score_of(scored, numbers.rule)
        values.append(None if value is None else (value - own.mean) / (own.sd if scale else 1.0))
    return lowest(case, values)


def centred(numbers: Numbers) -> Selector:
    """Lowest score after subtracting the member's mean: a member that is always sure gains nothing by it."""
    return partial(_by_member, numbers, False)


def znorm(numbers: Numbers) -> Selector:
    """Lowest score in standard deviations of the member's own scores."""
    return partial(_by_member, numbers, True)


def weighted(numbers: Numbers, weights: Mapping[str, float] | None = None) -> Selector:
    """Lowest weighted mean of several scores, each in standard deviations from its own mean; equal weights by default.

    A candidate for which one of the scores is undefined counts as undefined.
    """
    moments = numbers.scores or {}
    used = weights or dict.fromkeys(moments, 1.0)
    for name in used:
        if name not in moments:
            raise ConfigError(f"selector=weighted: nothing was fitted for score {name!r}.{did_you_mean(name, moments)}")

    def select(case: Case) -> tuple[int, str]:
        values: list[float | None] = []
        for scored in case.candidates:
            found = {name: score_of(scored, name) for name in used}
            parts = [(v - moments[n].mean) / moments[n].sd * used[n] for n, v in found.items() if v is not None]
            values.append(sum(parts) / sum(used.values()) if len(parts) == len(used) else None)
        return lowest(case, values)

    return select


def calibrated(numbers: Numbers) -> Selector:
    """Highest probability of being right, by a logistic curve per member over its score and log length (Platt 1999).

    Reason ``calibrated``.
    """

    def select(case: Case) -> tuple[int, str]:
        values: list[float | None] = []
        for i, scored in enumerate(case.candidates):
            own, value = _of_member(numbers.calibrated or {}, scored.candidate.member), score_of(scored, numbers.rule)
            size = feature(case, i, "log_bytes") or 0.0
            values.append(None if value is None else -(own.intercept + own.score * value + own.log_bytes * size))
        return lowest(case, values, "calibrated")

    return select


def learned(numbers: Numbers) -> Selector:
    """Highest weighted sum of standardised features. Reason ``learned``; on tasks other than HumanEval-Infilling it was not
    fitted for, so ``argmin`` decides there, reason ``foreign``."""
    weights = numbers.learned or {}

    def select(case: Case) -> tuple[int, str]:
        if not case.task.startswith(LEARNED_TASKS):
            return argmin(case)[0], "foreign"
        values: list[float | None] = []
        for i in range(len(case.candidates)):
            found = [(w, feature(case, i, name)) for name, w in weights.items()]
            values.append(-sum(w.weight * (v - w.mean) / w.sd for w, v in found if v is not None and math.isfinite(v)))
        return lowest(case, values, "learned")

    return select


def fitted_margin(numbers: Numbers) -> Selector:
    """``margin`` with the fitted threshold."""
    return scored_by(margin(numbers.margin or 0.0), numbers.rule)


#: selector -> the field of ``Numbers`` it needs, and how it is made of them.
FITTED: dict[str, tuple[str, Callable[[Numbers], Selector]]] = {
    "margin": ("margin", fitted_margin),
    "centred": ("members", centred),
    "znorm": ("members", znorm),
    "weighted": ("scores", weighted),
    "calibrated": ("calibrated", calibrated),
    "learned": ("learned", learned),
}
