"""How much memory a member needs at its peak: on a GPU what torch holds there, on a CPU what the process holds in all.

Members on different devices work at the same time; on a CPU the figure then includes the others. It goes into the results
file, never into a sample's record: a resumed run must write the same samples.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

__all__ = ["peak_memory"]

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
