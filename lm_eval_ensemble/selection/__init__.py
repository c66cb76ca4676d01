"""Pure functions over recorded scores that choose one candidate, and the rule that routes a gap to one member."""

from lm_eval_ensemble.selection.base import Case, Selector, lowest
from lm_eval_ensemble.selection.routing import Router, parse_route
from lm_eval_ensemble.selection.rules import argmin
from lm_eval_ensemble.selection.spec import SELECTORS, make_selector, needs_file, spec_scores

__all__ = [
    "SELECTORS",
    "Case",
    "Router",
    "Selector",
    "argmin",
    "lowest",
    "make_selector",
    "needs_file",
    "parse_route",
    "spec_scores",
]
