"""What a failed run's log says, and whether trying again could help."""

from __future__ import annotations

import itertools
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HEADER", "Failure", "diagnose", "telling_lines"]

#: begins the part of a log that belongs to one attempt.
HEADER = "=== attempt "
_TAIL = 200_000
_SHOWN = 5

_REFUSAL = re.compile(r"^(lm_eval_ensemble|lm-eval-ensemble): \w+Error: ")
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt|NotFound|Timeout|Refused)\b(: |$)")
_NOISE = re.compile(r"^(Traceback|[A-Z]\d{4} |=====|\S+(Error|Exception)\b|\d{4}-\d\d-\d\d)")
_USAGE = re.compile(r"^\S+: error: ")
_MEMORY = re.compile(
    r"out of memory|OutOfMemory|MemoryError|Cannot allocate memory|\bSIGKILL\b|exitcode: -9|CUBLAS_STATUS_ALLOC_FAILED"
)
_NETWORK = re.compile(
    r"ConnectionError|ConnectError|ConnectTimeout|ReadTimeout|RemoteDisconnected|ConnectionReset|Connection (refused|reset)"
    r"|Max retries exceeded|couldn't connect to|Temporary failure in name resolution|Name or service not known"
    r"|Network is unreachable|\b(429|502|503|504) (Client|Server) Error|Too Many Requests|TimeoutError|LocalEntryNotFoundError"
    r"|ProcessGroupNCCL.*timeout|NCCL.*(remote process exited|unhandled system error)"
)


@dataclass(frozen=True)
class Failure:
    """``line`` is the one that says most, ``lines`` what is shown, ``passing`` whether another attempt may succeed."""

    line: str
    lines: tuple[str, ...]
    passing: bool


def diagnose(status: int, log: Path) -> Failure:
    """What happened to an attempt that did not end well.

    :param status: its exit status; a negative number is a signal.
    """
    text = _last_attempt(log)
    lines = telling_lines(text)
    said = lines[0] if lines else "nothing was written to the log"
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        told = f"killed by {name}" + (" (often: not enough memory)" if -status == signal.SIGKILL else "")
        return Failure(told, (told, *lines), True)
    if status == 0:
        told = "it ended without complete results"
        warned = [line for line in text.splitlines() if "Could not save" in line][-1:]
        return Failure(told, (told, *warned, *lines[:_SHOWN]), False)
    passing = bool(_MEMORY.search("\n".join(lines)) or _MEMORY.search(text[-4000:]))
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    passing = passing or (not offline and bool(_NETWORK.search("\n".join(lines))))
    return Failure(said, lines, passing)


def telling_lines(text: str) -> tuple[str, ...]:
    """The lines of a log that say why it ended, the most telling first: a refusal of ours, the exception of the first
    traceback that is not torch's own report, a usage error, else the last lines."""
    lines = [_plain(line) for line in text.splitlines()]
    lines = [line for line in lines if line.strip() and not line.startswith(HEADER)]
    for pattern in (_REFUSAL, _USAGE):
        for i, line in enumerate(lines):
            if pattern.match(line):
                return (line, *itertools.takewhile(lambda more: not _NOISE.match(more), lines[i + 1 : i + _SHOWN]))
    found = [i for i, line in enumerate(lines) if _EXCEPTION.match(line) and "ChildFailedError" not in line]
    if found:
        last = found[-1]
        # Of several processes the first exception is the cause, and the others follow from it; of one, the last.
        if any("ChildFailedError" in line for line in lines):
            last = found[0]
        return tuple(lines[last : last + _SHOWN])
    return tuple(lines[-_SHOWN:])


def _plain(line: str) -> str:
    """Without what a progress bar drew before, and without the rank torch puts before it."""
    return re.sub(r"^\[rank\d+\]:\s?", "", line.rsplit("\r", 1)[-1]).rstrip()


def _last_attempt(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return text.rsplit(HEADER, 1)[-1].partition("\n")[2]
