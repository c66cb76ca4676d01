"""Pure functions over recorded scores that choose one candidate."""

from lm_eval_ensemble.selection.argmin import argmin

__all__ = ["SELECTORS", "argmin"]

SELECTORS = {"argmin": argmin}
