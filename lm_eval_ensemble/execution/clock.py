"""Fair time: what a job is charged on a machine that is busy with other things.

A job is over time when its guest has used more processor time than the limit, or when the wall clock, less the
time the job spent waiting for a processor, has passed the limit (sleeping and waiting count), or when ten times
the limit has passed whatever the reason. The worker looks from outside; nothing a test or a program does to its own
clocks and signals matters.
"""

from __future__ import annotations

import itertools
import os
import time

__all__ = ["FIRST_LOOK", "HARD_WALL", "NEXT_LOOKS", "FairClock", "open_delay", "read_delay"]

HARD_WALL = 10  # times the limit
FIRST_LOOK, NEXT_LOOKS = 0.5, 0.1  # seconds; short jobs are never looked at
_THREADS = 64  # per process that are looked at


class FairClock:
    """The time one job has taken, in seconds.

    :param guest: the process that runs the program.
    :param examiner: the process that runs the tests; it may be older than the job.
    :param before: the delay (seconds) of the examiner when the job began.
    """

    def __init__(self, limit: float, guest: int, examiner: int, before: float) -> None:
        self.limit = limit
        self._guest, self._examiner, self._before = guest, examiner, before
        self._start = time.monotonic()
        self._delays: dict[int, float] = {}  # by thread, those that have ended too

    def is_over(self) -> bool:
        wall = time.monotonic() - self._start
        if wall > HARD_WALL * self.limit or _processor_time(self._guest) > self.limit:
            return True
        waited = self._waited(wall)
        return wall > self.limit and wall - waited > self.limit

    def _waited(self, wall: float) -> float:
        """Seconds spent ready to run but not running. The job's threads wait for each other, so theirs add up."""
        now = _queue_delays(self._guest) | _queue_delays(self._examiner)
        if now:
            self._delays |= now
            return sum(self._delays.values()) - self._before
        # No such figure (macOS): assume that each of the runnable processes gets an equal share.
        share = min(1.0, (os.cpu_count() or 1) / max(os.getloadavg()[0], 0.01))
        return wall * (1 - share)


def open_delay(pid: int) -> int | None:
    """A descriptor for ``read_delay``; None where the system does not tell."""
    try:
        return os.open(f"/proc/{pid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def read_delay(descriptor: int | None) -> float:
    """Seconds that the main thread of a process spent ready to run but not running."""
    try:
        return 0.0 if descriptor is None else _delay(os.pread(descriptor, 100, 0))
    except (OSError, IndexError, ValueError):
        return 0.0


def _delay(schedstat: bytes) -> float:
    return int(schedstat.split()[1]) / 1e9


def _queue_delays(pid: int) -> dict[int, float]:
    """Of each thread of a process, by its number; empty where the system does not tell."""
    found = {}
    try:
        with os.scandir(f"/proc/{pid}/task") as threads:
            for thread in itertools.islice(threads, _THREADS):
                with open(f"{thread.path}/schedstat", "rb") as file:
                    found[int(thread.name)] = _delay(file.read())
    except (OSError, IndexError, ValueError):
        pass  # it ended just now
    return found


def _processor_time(pid: int) -> float:
    """Processor seconds of a whole process; 0 where the system does not tell."""
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0
