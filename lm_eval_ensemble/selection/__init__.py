"""Pure functions over recorded scores that choose one candidate."""

from lm_eval_ensemble.selection.argmin import argmin
from lm_eval_ensemble.selection.base import Case, Selector

__all__ = ["SELECTORS", "Case", "Selector", "argmin"]

SELECTORS: dict[str, Selector] = {"argmin": argmin}
