"""Grid files, and sweeps in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.sweep.stub import GRID, ROOT

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def write_grid(tmp_path: Path) -> Callable[..., Path]:
    """Writes ``GRID`` with changes to its top level; ``behaviour`` goes to the children."""

    def write(name: str = "grid.yaml", base: dict[str, Any] = GRID, **changes: Any) -> Path:
        content = {key: value for key, value in {**base, **changes}.items() if value is not None}
        path = tmp_path / name
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a sweep with stubs for children; whatever is left of it at the end of the test is ended."""
    started: list[subprocess.Popen[str]] = []

    def run(grid: Path, output: Path, *options: str, **variables: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.sweep.stub", "sweep", str(grid), "--output", str(output), *options]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **variables}
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Waits for something that another process does; the limit only keeps a broken test from hanging."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)
    return found
