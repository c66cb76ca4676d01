"""How much memory a member needs at its peak: on a GPU what torch holds there, on a CPU what the process holds in all.

Members on different devices work at the same time; on a CPU the figure then includes the others. It goes into the results
file, never into a sample's record: a resumed run must write the same samples.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from lm_eval_ensemble.types import Candidate, InfillRequest

__all__ = ["Metered", "peak_memory"]

_PROCESS = Path("/proc/self")


@contextlib.contextmanager
def peak_memory(name: str, device: object, peaks: dict[str, float]) -> Iterator[None]:
    """Keeps the largest peak seen under ``name`` in ``peaks`` (MiB); nothing where it cannot be known (servers, macOS)."""
    try:
        place = torch.device(str(device))
    except RuntimeError:
        place = None
    cuda = place is not None and place.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(place)
    known = cuda or (place is not None and place.type == "cpu" and _reset_process())
    yield
    if known:
        found = torch.cuda.max_memory_allocated(place) / 2**20 if cuda else _process_peak()
        peaks[name] = round(max(found, peaks.get(name, 0.0)), 1)


def _reset_process() -> bool:
    """Starts the kernel's high-water mark of this process anew; False where it has none."""
    try:
        (_PROCESS / "clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _process_peak() -> float:
    lines = (_PROCESS / "status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024


class Metered:
    """A member whose peak memory while it proposes is kept in ``peaks``."""

    def __init__(self, member: Any, peaks: dict[str, float]) -> None:
        self.member, self._peaks = member, peaks

    def __getattr__(self, name: str) -> Any:
        return getattr(self.member, name)

    def propose(self, requests: Sequence[InfillRequest]) -> list[Candidate]:
        """The member's."""
        with peak_memory(self.member.name, getattr(self.member, "device", None), self._peaks):
            found: list[Candidate] = self.member.propose(requests)
        return found
