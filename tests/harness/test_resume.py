"""A killed run, started again, writes the samples file of a run that was never killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def test_three_kills_change_no_byte() -> None:
    command = [sys.executable, "benchmarks/soak.py", "--task", "infill_toy", "--limit", "10", "--kills", "3"]
    done = subprocess.run([*command, "--no-distributed"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    assert figures["kills"] == 3
    assert figures["same_bytes"] is True
    # Every life of the run found the work of the one before it, and did some of its own.
    deaths = figures["candidates_at_each_kill"]
    assert 0 < deaths[0] < deaths[1] < deaths[2] <= 20
