"""Fair time: what a job is charged on a machine that is busy with other things.

A job is over time when its guest has used more processor time than the limit, or when the wall clock, less the
time the job spent waiting for a processor, has passed the limit (sleeping and waiting count), or when ten times
the limit has passed whatever the reason.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import FrameType

__all__ = ["HARD_WALL", "Alarm", "FairClock", "TimeUp"]

HARD_WALL = 10  # times the limit
_FIRST_LOOK, _NEXT_LOOKS = 0.5, 0.1  # seconds; short jobs are never looked at


class TimeUp(BaseException):
    """The job is over time. Not an Exception, so that tests which catch those do not swallow it."""


class FairClock:
    """The time one job has taken, in seconds. ``guest`` is 0 until there is one."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.guest = 0
        self._start = time.monotonic()
        self._own_delay = _queue_delay(os.getpid())

    def is_over(self) -> bool:
        wall = time.monotonic() - self._start
        if wall > HARD_WALL * self.limit or _processor_time(self.guest) > self.limit:
            return True
        return wall > self.limit and wall - self._waited() > self.limit

    def _waited(self) -> float:
        """Seconds spent ready to run but not running. Guest and judge take turns, so theirs add up."""
        own = _queue_delay(os.getpid())
        if own is not None and self._own_delay is not None:
            return own - self._own_delay + (_queue_delay(self.guest) or 0.0)
        # No such figure (macOS): assume that each of the runnable processes gets an equal share.
        wall = time.monotonic() - self._start
        share = min(1.0, (os.cpu_count() or 1) / max(os.getloadavg()[0], 0.01))
        return wall * (1 - share)


def _queue_delay(pid: int) -> float | None:
    try:
        with open(f"/proc/{pid}/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return None


def _processor_time(pid: int) -> float:
    """Processor seconds of a whole process; 0 where the system does not tell."""
    try:
        return time.clock_gettime(~pid << 3 | 2) if pid else 0.0
    except OSError:
        return 0.0


class Alarm:
    """Raises TimeUp in the main thread, again and again, once ``clock`` is over. A context manager.

    ``also`` is called at every look, and may raise something of its own.
    """

    def __init__(self, clock: FairClock, also: Callable[[], None] = lambda: None) -> None:
        self._clock, self._also = clock, also

    def __enter__(self) -> None:
        signal.signal(signal.SIGALRM, self._look)
        signal.setitimer(signal.ITIMER_REAL, _FIRST_LOOK, _NEXT_LOOKS)
        # A judge stuck inside one C call never sees the alarm above: the kernel ends it by this one, after twice the limit
        # of the judge's own processor time.
        signal.setitimer(signal.ITIMER_PROF, 2 * self._clock.limit)

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _look(self, _signal: int, _frame: FrameType | None) -> None:
        self._also()
        if self._clock.is_over():
            raise TimeUp
