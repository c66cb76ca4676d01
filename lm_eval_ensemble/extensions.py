"""Scores, selectors and members of other packages: imported where the commands, or lm_eval, begin (docs/api.md)."""

from __future__ import annotations

import logging
from importlib.metadata import entry_points

__all__ = ["GROUP", "load_extensions"]

#: The group of entry points whose modules register something.
GROUP = "lm_eval_ensemble"
logger = logging.getLogger(__name__)


def load_extensions() -> None:
    """Import what other packages name under the entry points of ``GROUP``. One that cannot be imported is told and left out;
    what only it would have registered is then unknown by name."""
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:  # a package of somebody else: nothing of it may end a run that does not use it
            package = point.dist.name if point.dist else "a package"
            logger.warning(
                "%s: its entry point %s = %s cannot be imported (%s: %s) and is left out.",
                package,
                point.name,
                point.value,
                type(error).__name__,
                error,
            )
