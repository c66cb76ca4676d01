"""Names of scores, and rules made of them.

A *rule* is a score's name, or several joined by ``+``, which means their mean: ``fim+onepass``. A name may say which model
computes it, ``fim@judge``; a plain name means the first member that can.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lm_eval_ensemble.errors import ConfigError, did_you_mean
from lm_eval_ensemble.scoring.base import Score
from lm_eval_ensemble.scoring.scores import SCORES

__all__ = ["ALIASES", "DEFAULT_RULE", "Term", "apply_rule", "is_score", "parse_rule", "parse_terms"]

#: shorter names.
ALIASES = {"worst": "fim_worst"}

#: Each model alone as a judge favours its own text; the mean of the two takes that out (docs/tiny_pair.md, "Evidence").
DEFAULT_RULE = "fim+onepass"


@dataclass(frozen=True)
class Term:
    """One score of a rule as it was written: ``name`` may end in ``@scorer``."""

    name: str
    score: Score
    scorer: str | None = None


def parse_terms(text: str, setting: str = "score") -> tuple[Term, ...]:
    """The scores named in ``text``, joined by ``+``.

    :param setting: where it was typed, for messages.
    :raises ConfigError: unknown score, or an ``@`` without a model.
    """
    terms = []
    for written in (part.strip() for part in text.split("+")):
        name, at, scorer = written.partition("@")
        if ALIASES.get(name, name) not in SCORES:
            known = [*SCORES, *ALIASES]
            raise ConfigError(
                f"{setting}={text!r}: {name!r} is not a score.{did_you_mean(name, known)} Join several with '+', name the "
                "model with '@'."
            )
        if at and not scorer:
            raise ConfigError(
                f"{setting}={text!r}: {written!r} names no model after '@'; expected a member, as in {name}@NAME."
            )
        terms.append(Term(written, SCORES[ALIASES.get(name, name)], scorer or None))
    return tuple(terms)


def is_score(name: str) -> bool:
    """Whether ``NAME`` or ``NAME@MODEL`` is a score."""
    own = name.strip().partition("@")[0]
    return ALIASES.get(own, own) in SCORES


def parse_rule(rule: str) -> tuple[Term, ...]:
    """The scores a rule averages.

    :raises ConfigError: unknown score, or scores of different units.
    """
    terms = parse_terms(rule)
    if len({term.score.unit for term in terms}) > 1:
        units = ", ".join(f"{term.name} is in {term.score.unit}" for term in terms)
        raise ConfigError(f"score={rule!r}: cannot average different units ({units}). Average scores of one unit.")
    return terms


def apply_rule(values: Mapping[str, float | None], rule: str) -> float | None:
    """The mean of the rule's scores; None if one is undefined or not finite."""
    parts = [values[term.name] for term in parse_rule(rule)]
    defined = [part for part in parts if part is not None and math.isfinite(part)]
    return sum(defined) / len(parts) if len(defined) == len(parts) else None
