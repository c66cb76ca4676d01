"""Perplexities of a candidate: one idea per file, computed once, recorded for every candidate.

A *rule* is a score's name, or several joined by ``+``, which means their mean: ``fim+onepass``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lm_eval_ensemble.errors import ConfigError, did_you_mean
from lm_eval_ensemble.scoring.base import CausalScorer, DiffusionScorer, Pass, Score, Scorers, Span, Statistic
from lm_eval_ensemble.scoring.causal import CAUSAL
from lm_eval_ensemble.scoring.fim import FIM
from lm_eval_ensemble.scoring.joint import JOINT
from lm_eval_ensemble.scoring.onepass import ONEPASS
from lm_eval_ensemble.scoring.passes import Pair, run_pass

__all__ = [
    "DEFAULT_RULE",
    "SCORES",
    "CausalScorer",
    "DiffusionScorer",
    "Score",
    "Scorers",
    "Span",
    "Statistic",
    "apply_rule",
    "parse_rule",
    "score_all",
]

SCORES: dict[str, Score] = {score.name: score for score in (CAUSAL, JOINT, FIM, ONEPASS)}

#: Each model alone as a judge favours its own text; the mean of the two takes that out (README, "Evidence").
DEFAULT_RULE = "fim+onepass"


def parse_rule(rule: str) -> tuple[Score, ...]:
    """The scores a rule averages.

    :raises ConfigError: unknown score, or scores of different units.
    """
    names = [name.strip() for name in rule.split("+")]
    for name in names:
        if name not in SCORES:
            raise ConfigError(f"score={rule!r}: {name!r} is not a score.{did_you_mean(name, SCORES)} Join several with '+'.")
    scores = tuple(SCORES[name] for name in names)
    if len({score.unit for score in scores}) > 1:
        units = ", ".join(f"{score.name} is in {score.unit}" for score in scores)
        raise ConfigError(f"score={rule!r}: cannot average different units ({units}). Average scores of one unit.")
    return scores


def score_all(scorers: Scorers, pairs: Sequence[Pair], rule: str) -> list[dict[str, float | None]]:
    """Every score the members can compute, for every (request, text); the rule's value under the rule's name.

    Each pass runs once per distinct pair, however many scores use it.
    """
    wanted = parse_rule(rule)
    keys = [(request.prefix, request.suffix, text) for request, text in pairs]
    by_key = dict(zip(keys, pairs, strict=True))
    distinct = list(by_key.values())
    place = {key: i for i, key in enumerate(by_key)}
    names: set[Pass] = {*scorers.passes(), *(score.needs for score in wanted)}
    statistics = {name: run_pass(name, scorers, distinct) for name in sorted(names)}
    scored = []
    for i in range(len(distinct)):
        values: dict[str, float | None] = {}
        for score in SCORES.values():
            if score.needs in statistics:
                statistic = statistics[score.needs][i]
                values[score.name] = None if statistic is None else score.compute(statistic)
        values[rule] = apply_rule(values, rule)
        scored.append(values)
    return [scored[place[key]] for key in keys]


def apply_rule(values: dict[str, float | None], rule: str) -> float | None:
    """The mean of the rule's scores; None if one is undefined or not finite."""
    parts = [values[score.name] for score in parse_rule(rule)]
    defined = [part for part in parts if part is not None and math.isfinite(part)]
    return sum(defined) / len(parts) if len(defined) == len(parts) else None
