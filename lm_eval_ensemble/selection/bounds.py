"""The best and the worst choice there was. They look at the outcome, so only a replay can apply them."""

from __future__ import annotations

from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.selection.base import Case, by_preference

__all__ = ["floor", "oracle"]


def oracle(case: Case) -> tuple[int, str]:
    """A right candidate if there is one."""
    right = _outcome(case)
    order = by_preference(case)
    return next((i for i in order if right[i]), order[0]), "oracle"


def floor(case: Case) -> tuple[int, str]:
    """A wrong candidate if there is one."""
    right = _outcome(case)
    order = by_preference(case)
    return next((i for i in order if not right[i]), order[0]), "floor"


def _outcome(case: Case) -> tuple[bool, ...]:
    if case.right is None:
        raise ConfigError("selector=oracle and selector=floor need the verdicts; `lm-eval-ensemble select` shows both bounds.")
    return case.right
