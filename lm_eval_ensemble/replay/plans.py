"""Which selectors a replay shows, and where the fitted ones get their numbers."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from functools import cached_property

from lm_eval_ensemble.errors import ConfigError, DataError, did_you_mean
from lm_eval_ensemble.replay.compare import Plan
from lm_eval_ensemble.replay.rows import Decision, Recorded
from lm_eval_ensemble.selection import SELECTORS, needs_file, spec_scores
from lm_eval_ensemble.selection.base import Case, Selector, score_of
from lm_eval_ensemble.selection.features import DEFAULT_FEATURES, TEXT_FEATURES, check_features
from lm_eval_ensemble.selection.fit import FEWEST, FOLDS, Fitting, fold_of
from lm_eval_ensemble.selection.fitted import FITTED, Numbers
from lm_eval_ensemble.selection.spec import build, read_selector_file
from lm_eval_ensemble.values import function_of

__all__ = ["Teacher", "default_specs", "fitting", "make_plans", "usable_features", "weighed_scores"]

_SINGLE = ("fim", "onepass", "causal", "joint")


def default_specs(recorded: Recorded, rule: str) -> list[str]:
    """Every selector that makes sense for the record: each score in the place of the rule, each member always, all rules."""
    scores = [f"argmin[{score}]" for score in recorded.scores if score != rule]
    several = len(recorded.members) > 1
    members = [f"always:{member}" for member in recorded.members] if several else []
    found = [
        "argmin",
        *scores,
        "veto",
        "agreement",
        *(["margin:0.1", "sequence:veto,agreement,margin:0.05", "margin"] if several and recorded.prefer else []),
        *(["centred", "znorm"] if several else []),
        "weighted",
        "calibrated",
        "learned",
        "inverse",
        "random",
        *members,
        "longest",
        "shortest",
        *(["mbr", "mbr:edit"] if _most(recorded) >= 3 else []),
    ]
    return [*found, *(name for name in SELECTORS if name not in found and name != "mbr")]


def _most(recorded: Recorded) -> int:
    """Candidates of the gap that has most."""
    return max(len(choice.case.candidates) for choice in recorded.choices)


def weighed_scores(recorded: Recorded) -> tuple[str, ...]:
    """The scores that ``weighted`` averages by default: the four perplexities, else whatever there is."""
    return tuple(score for score in _SINGLE if score in recorded.scores) or recorded.scores


def usable_features(recorded: Recorded, asked: Sequence[str] | None) -> tuple[str, ...]:
    """The features asked for, checked; by default those that the record has."""
    if asked is not None:
        return check_features(asked, recorded.scores)
    several = len(recorded.members) > 1 and recorded.prefer is not None
    known = {*recorded.scores, *TEXT_FEATURES} - (set() if several else {"preferred"})
    return tuple(name for name in DEFAULT_FEATURES if name in known)


def fitting(recorded: Recorded, rule: str, features: Sequence[str] | None) -> Fitting:
    """Ready to fit on these records, whole or without one fold."""
    own = usable_features(recorded, features) if recorded.is_humaneval else ()
    return Fitting(recorded.choices, rule, tuple(dict.fromkeys((rule, *recorded.scores))), own)


class Teacher:
    """The records that numbers are cross-fitted on. They are fitted once, when the first selector asks."""

    def __init__(self, recorded: Recorded, rule: str, features: Sequence[str] | None) -> None:
        self.recorded, self.rule, self.features = recorded, rule, features

    @cached_property
    def folds(self) -> dict[int, Numbers]:
        """Fold -> the numbers fitted on all programs outside it."""
        learner, kept = fitting(self.recorded, self.rule, self.features), weighed_scores(self.recorded)
        found = {}
        for fold in range(FOLDS):
            numbers = learner.numbers(fold)
            # Only the scores that `weighted` averages without being told which.
            own = {name: moments for name, moments in (numbers.scores or {}).items() if name in kept}
            found[fold] = numbers.model_copy(update={"scores": own})
        return found


def make_plans(
    recorded: Recorded,
    rule: str,
    specs: Sequence[str] | None,
    file: str | None = None,
    teacher: Teacher | None = None,
    own: Sequence[str] = (),
) -> tuple[list[Plan], dict[str, str]]:
    """The selectors to replay, and those left out with the reason.

    :param specs: None for all; otherwise a selector that cannot be made is an error.
    :param own: selectors of the user's own, ``module:function``, beside these.
    :param teacher: the records that numbers are cross-fitted on; None if there are none that may be used.
    """
    wanted = list(dict.fromkeys(specs or default_specs(recorded, rule)))
    functions = [Plan.of(spec, _of_function(spec)) for spec in dict.fromkeys(own)]
    given = read_selector_file(file).numbers if file else None
    members, plans = recorded.members, []
    left_out = {} if specs or _most(recorded) >= 3 else {"mbr": "needs three candidates"}
    if not specs and "fim" in recorded.scores and not {"causal", "joint"} & set(recorded.scores):
        # No rule needs their pass by default.
        left_out["argmin[causal], argmin[joint]"] = "not read in this run (extra_scores=causal reads both; so does `score`)"
    for spec in wanted:
        _known_scores(spec, recorded)
        if not needs_file(spec):
            plans.append(Plan.of(spec, build(spec, None, members)))
            continue
        reason = _no_numbers(spec, recorded, teacher, given)
        if reason is None and given is not None:
            plans.append(Plan.of(spec, build(spec, given, members), f"from {file}"))
            continue
        if reason is None and teacher is not None:
            reason = _too_few(spec, teacher.folds, members)
            if reason is None:
                plans.append(_cross_fitted(spec, teacher, recorded))
                continue
        if specs:
            raise ConfigError(f"--selectors {spec}: {reason}")
        left_out[spec] = str(reason)
    return [*plans, *functions], left_out


def _of_function(spec: str) -> Selector:
    """A selector of the user's own, ``module:function``: what it returns is checked, as nobody else has."""
    function = function_of(spec, "--selector")

    def choose(case: Case) -> tuple[int, str]:
        try:
            found = function(case)
            index, reason = found if isinstance(found, tuple) else (found, "own")
            index = operator.index(index)
        except Exception as error:  # somebody else's code fails in every way there is
            raise DataError(
                f"--selector {spec}: {type(error).__name__}: {error}; expected a function of a Case that returns the index of "
                "the winner, or (index, reason), as in docs/architecture.md."
            ) from error
        if not 0 <= index < len(case.candidates):
            raise DataError(
                f"--selector {spec}: returned {index}, and there are {len(case.candidates)} candidates (from 0 on)."
            )
        return index, str(reason)

    return choose


def _cross_fitted(spec: str, teacher: Teacher, recorded: Recorded) -> Plan:
    selectors = {fold: build(spec, numbers, recorded.members) for fold, numbers in teacher.folds.items()}

    def choose(choice: Decision) -> tuple[int, str]:
        return selectors[fold_of(choice.problem)](choice.case)

    on = "" if teacher.recorded.task == recorded.task else f" on {teacher.recorded.task}"
    return Plan(spec, choose, f"cross-fitted{on}")


def _no_numbers(spec: str, recorded: Recorded, teacher: Teacher | None, given: Numbers | None) -> str | None:
    """Why a fitted selector cannot be used on this task."""
    if spec.startswith("learned") and not recorded.is_humaneval:
        return "fitted on HumanEval-Infilling only, and applied only there"
    if given is None and teacher is None:
        return (
            "nothing is fitted on SantaCoder-FIM; with humaneval_infill in the same run its records are used"
            if recorded.is_santacoder
            else "no records to fit it on"
        )
    return None


def _too_few(spec: str, folds: Mapping[int, Numbers], members: Sequence[str]) -> str | None:
    """Why a selector cannot be cross-fitted: a fold leaves too little to fit on."""
    names = [step.strip().partition(":")[0].partition("[")[0] for step in re.split(r"[,/]", spec.removeprefix("sequence:"))]
    for name in (name for name in names if name in FITTED):
        own = [getattr(numbers, FITTED[name][0]) for numbers in folds.values()]
        if any(found is None for found in own):
            also = " and a preferred member" if name == "margin" else ""
            return f"needs {FEWEST} decisive documents{also} to be fitted"
        # All documents of a member may come from the programs of one fold: without it nothing is left to fit on.
        if name != "margin" and any(not set(members) <= set(numbers.members or ()) for numbers in folds.values()):
            return "needs candidates of every member from more programs to be cross-fitted"
    return None


def _known_scores(spec: str, recorded: Recorded) -> None:
    for score in spec_scores(spec):
        if all(score_of(scored, score) is None for choice in recorded.choices for scored in choice.case.candidates):
            raise ConfigError(f"selector {spec!r}: the score {score!r} is not recorded.{did_you_mean(score, recorded.scores)}")
