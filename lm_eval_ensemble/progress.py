"""How far long work is: a bar in a terminal, and lines of the log elsewhere (a job of a cluster, a file)."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from tqdm import tqdm

__all__ = ["ProgressBar"]

logger = logging.getLogger(__name__)
#: seconds: a line is due after so long in any case, and after so long if another tenth is done.
_LONG, _SHORT = 30.0, 10.0


class ProgressBar(tqdm):  # type: ignore[type-arg]
    """tqdm's bar; without a terminal a line for every tenth or 30 seconds, with the time left.

    :param total: None if nobody knows. ``shown``: False says nothing at all.
    """

    def __init__(self, total: int | None, title: str, *, unit: str = "rows", shown: bool = True) -> None:
        self._in_lines = shown and not sys.stderr.isatty()
        self._title, self._of, self._unit_name = title, total, unit
        self._count = self._told = 0
        self._began = self._last = time.monotonic()
        super().__init__(total=total, desc=title, unit=unit, disable=not shown or self._in_lines)

    def update(self, n: float | None = 1) -> Any:
        if self._in_lines:
            self._count += int(n or 0)
            self._tell(time.monotonic())
        return super().update(n)

    def _tell(self, now: float) -> None:
        since, total = now - self._last, self._of
        tenth = total is not None and 10 * (self._count - self._told) >= total
        if since < _SHORT or (since < _LONG and not tenth) or self._count == total:
            return
        self._last, self._told = now, self._count
        passed = now - self._began
        if not total:
            logger.info("%s: %d %s in %s.", self._title, self._count, self._unit_name, _time(passed))
            return
        left = f", about {_time(passed * (total - self._count) / self._count)} left" if self._count else ""
        logger.info(
            "%s: %d of %d %s (%d %%) in %s%s.",
            self._title,
            self._count,
            total,
            self._unit_name,
            100 * self._count // total,
            _time(passed),
            left,
        )


def _time(seconds: float) -> str:
    """
    >>> _time(5), _time(100), _time(3700)
    ('5 s', '1:40 min', '1:01 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02} h"
