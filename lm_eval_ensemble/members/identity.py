"""What exactly a member is made of: the files of its checkpoint, by content.

A name is not enough to reuse answers: the files behind ``out/checkpoint`` change with the next training run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["checkpoint_identity", "identified", "versions"]

#: what decides a model's answers: weights, configuration, tokenizer, and code that comes with the checkpoint.
_SUFFIXES = {".safetensors", ".bin", ".pt", ".gguf", ".json", ".model", ".txt", ".jinja", ".tiktoken", ".py", ".yaml"}
#: larger files are known by size, time of change, and their first and last MiB.
_WHOLE, _END = 2**30, 2**20
_COMMIT = re.compile(r"[0-9a-f]{40}")


def checkpoint_identity(name: str, revision: str = "main", subfolder: str = "") -> dict[str, Any] | None:
    """Which checkpoint ``name`` stands for now; None if it is neither on this disk nor in the local Hub cache.

    A snapshot of the Hub is known by its commit. Any other folder by the sha256 of each file; files above 1 GiB by size,
    time of change and the sha256 of their first and last MiB, so that a large checkpoint does not take a minute to know.

    :param subfolder: where in the folder the checkpoint lies (an argument of ``hf``).
    """
    path = Path(name)
    if not path.exists():
        found = _in_hub_cache(name, revision)
        if found is None:
            return None
        path = found
    if path.is_dir() and path.parent.name == "snapshots" and _COMMIT.fullmatch(path.name):
        return {"hub": path.parent.parent.name, "commit": path.name}
    path = path / subfolder if subfolder and path.is_dir() else path
    files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES) if path.is_dir() else [path]
    return {"files": {file.name: _file_identity(file) for file in files if file.is_file()}}


def identified(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with every path that exists replaced by the identity of what lies there."""
    return {name: _identified(value) for name, value in sorted(arguments.items())}


def versions(*packages: str) -> dict[str, str | None]:
    """Installed versions: another release of a library may answer differently."""
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def _identified(value: Any) -> Any:
    if isinstance(value, Mapping):
        return identified(value)
    if isinstance(value, list | tuple):
        return [_identified(item) for item in value]
    if isinstance(value, str | Path):
        try:
            return checkpoint_identity(str(value)) if value and Path(value).exists() else str(value)
        except OSError:  # too long for a path, or not ours to read
            return str(value)
    return value if value is None or isinstance(value, bool | int | float) else repr(value)


def _in_hub_cache(name: str, revision: str) -> Path | None:
    """The snapshot's folder."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(config).parent if isinstance(config, str) else None


def _file_identity(file: Path) -> list[Any]:
    status = file.stat()
    with file.open("rb") as stream:
        if status.st_size <= _WHOLE:
            digest = hashlib.sha256()
            while piece := stream.read(_END):
                digest.update(piece)
            return [status.st_size, digest.hexdigest()]
        digest = hashlib.sha256(stream.read(_END))
        stream.seek(-_END, 2)
        digest.update(stream.read(_END))
    return [status.st_size, status.st_mtime_ns, digest.hexdigest()]
