"""Pure functions over recorded scores that choose one candidate, and the rule that routes a gap to one member."""

from lm_eval_ensemble.selection.argmin import argmin
from lm_eval_ensemble.selection.base import Case, Selector
from lm_eval_ensemble.selection.consensus import minimum_risk
from lm_eval_ensemble.selection.routing import Router, parse_route
from lm_eval_ensemble.selection.rules import inverse, longest, random, sequence, shortest
from lm_eval_ensemble.selection.spec import make_selector, needs_file, spec_scores
from lm_eval_ensemble.selection.static import agreement, veto

__all__ = ["SELECTORS", "Case", "Router", "Selector", "argmin", "make_selector", "needs_file", "parse_route", "spec_scores"]

#: selectors by name. Those with an argument, a sequence or fitted numbers are made by ``make_selector``.
SELECTORS: dict[str, Selector] = {
    "argmin": argmin,
    "veto": sequence(veto),
    "agreement": sequence(agreement),
    "inverse": inverse,
    "random": random,
    "longest": longest,
    "shortest": shortest,
    "mbr": minimum_risk(),
}
