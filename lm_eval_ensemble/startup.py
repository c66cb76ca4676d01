"""What every command, and lm_eval with our models, begins with: scores, selectors and members of other packages
(docs/api.md), and no talk between libraries."""

from __future__ import annotations

import logging
import sys
import warnings
from importlib.metadata import entry_points

__all__ = ["GROUP", "hide_deprecations", "load_extensions"]

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


def hide_deprecations() -> None:
    """What libraries tell programmers about their next releases is nothing that a user can act on. Who asks for warnings
    (``python -W``, ``PYTHONWARNINGS``) gets them."""
    if not sys.warnoptions:
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        # The same, said through logging: transformers imports torchao where it is installed, quantised model or not.
        for name in ("torchao", "torch.utils._pytree"):
            logging.getLogger(name).setLevel(logging.ERROR)
