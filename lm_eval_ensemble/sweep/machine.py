"""GPUs of this machine, and what is installed on it: facts for the manifest."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from lm_eval_ensemble import __version__

__all__ = ["git_commit", "gpu_memory", "shares", "versions"]

_PACKAGES = ("lm_eval", "torch", "transformers", "accelerate", "datasets", "bitsandbytes", "torchao", "vllm", "submitit")


def gpu_memory() -> dict[str, int]:
    """Memory in use on each GPU (MiB), by its number; empty where there is none."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", "--query-gpu=index,memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        rows = [line.split(",") for line in done.stdout.splitlines() if line.strip()]
        return {index.strip(): int(used) for index, used in rows}
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}


def shares(jobs: int, visible: str | None, found: Sequence[str] = ()) -> list[str | None]:
    """``CUDA_VISIBLE_DEVICES`` of each of ``jobs`` cells that run at once; None leaves it as it is.

    :param visible: its value now; without one, ``found`` are the GPUs of the machine.
    """
    devices = [part.strip() for part in visible.split(",") if part.strip()] if visible is not None else list(found)
    if jobs < 2 or len(devices) < 2:
        return [None] * jobs
    if len(devices) <= jobs:
        return [devices[i % len(devices)] for i in range(jobs)]
    size, more = divmod(len(devices), jobs)
    ends = [size * (i + 1) + min(i + 1, more) for i in range(jobs)]
    return [",".join(devices[a:b]) for a, b in zip([0, *ends], ends, strict=False)]


def versions() -> dict[str, str | None]:
    """What is installed; None for a package that is not."""
    found: dict[str, str | None] = {"python": platform.python_version(), "lm_eval_ensemble": __version__}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_commit() -> str | None:
    """The commit of the checkout that this package lies in, with ``-dirty`` where files were changed; None outside of one."""
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / "pyproject.toml").is_file():
        return None
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
