"""The errors a user can meet, one tree.

::

    EnsembleError               every error of ours; its text is meant to be read, not debugged
    ├── ConfigError             a setting is unknown, misspelt or out of range
    ├── DataError               a data set or a results file is missing, damaged or of another shape
    ├── ModelError              weights are missing, or are not the kind of model that was asked for
    ├── HostError               a flag of lm_eval cannot work with what was asked for
    └── SandboxError            the judge cannot run, or a layer of its sandbox was promised and is missing

Each message says where, what was found, what was expected, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "ConfigError",
    "DataError",
    "EnsembleError",
    "HostError",
    "ModelError",
    "SandboxError",
    "counted",
    "did_you_mean",
    "missing_weights",
    "no_such_folder",
]


class EnsembleError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(EnsembleError):
    """A setting is unknown, misspelt or out of range."""


class DataError(EnsembleError):
    """A data set or a file of completions is missing, damaged or of another shape."""


class ModelError(EnsembleError):
    """Weights are missing, or are not the kind of model that was asked for."""


class HostError(EnsembleError):
    """A flag of lm_eval cannot work with what was asked for."""


class SandboxError(EnsembleError):
    """The judge cannot run here, or a promised layer of its sandbox is missing."""


def counted(number: int, noun: str) -> str:
    """``3 files``, and ``1 file``; the noun may be given in either number."""
    return f"{number} {noun.removesuffix('s')}{'' if number == 1 else 's'}"


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, then all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(found, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{hint} Known: {', '.join(names)}."


def no_such_folder(path: str) -> str:
    """For a checkpoint that can only be a path."""
    return f"{path!r}: no such folder. Give the folder of a checkpoint, or a name on the Hub (OWNER/NAME)."


def missing_weights(pretrained: str, error: Exception) -> ModelError:
    """One message for weights that are not there; the library's own says less and takes a page."""
    path = Path(pretrained)
    if not path.exists() and (pretrained.startswith(("/", ".", "~")) or pretrained.count("/") > 1):
        return ModelError(no_such_folder(pretrained))
    if path.is_file():
        return ModelError(f"{pretrained!r} is a file. Give the folder of a checkpoint: config.json, weights and tokenizer.")
    first = next(iter(str(error).strip().splitlines()), "")
    first = (first or type(error).__name__).partition(" Checkout 'https")[0].rstrip(". ")
    advice = (
        "Check the name and the network (HF_HUB_OFFLINE is honoured), give a local folder, or run without any download: "
        "--model_args preset=tiny,pretrained=tiny"
    )
    if path.exists():
        advice = "Give the folder of a whole checkpoint."
    if isinstance(error, ImportError | ValueError):  # the files are there
        advice = ""
    kind = "folder" if path.exists() else "Hub model"
    return ModelError(f"Could not load the {kind} {pretrained!r}: {first}. {advice}".rstrip())
