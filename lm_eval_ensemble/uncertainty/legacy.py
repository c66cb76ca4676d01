"""``validation_generations.pkl`` of earlier experiments (the format of jlko/semantic_uncertainty), read without trust.

A pickle can run any code of the machine that opens it. Here only plain containers and numpy arrays are made; a tensor
(the files hold hidden states) is passed over, not loaded; anything else is refused with its name before it is called.

The format: a dict of document id -> ``{"question", "context", "reference": {"answers": {"text": [...]}},
"most_likely_answer": {"response", "token_log_likelihoods", "accuracy"}, "responses": [(text, log-likelihoods,
embedding, accuracy), ...]}``.
"""

from __future__ import annotations

import importlib
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.metrics.answers import rouge_l, squad_em, squad_f1

__all__ = ["FILE_NAME", "load_pickle", "old_records", "run_settings"]

FILE_NAME = "validation_generations.pkl"
_PLAIN = {kind.__name__: kind for kind in (dict, list, tuple, set, frozenset, str, bytes, int, float, complex, bool)}


def _tensor(*_: Any, **__: Any) -> None:
    """Stands where a tensor would be."""


def _bytes_of(text: str, encoding: str) -> bytes:
    """How pickles of protocol 2 and below write bytes."""
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
    return text.encode("latin1")


def _allowed() -> dict[tuple[str, str], Callable[..., Any]]:
    core = "numpy._core" if int(np.__version__.partition(".")[0]) >= 2 else "numpy.core"
    multiarray, numeric = (importlib.import_module(f"{core}.{name}") for name in ("multiarray", "numeric"))
    known: dict[tuple[str, str], Callable[..., Any]] = {("collections", "OrderedDict"): OrderedDict}
    known |= {("builtins", name): kind for name, kind in _PLAIN.items()}
    known |= {("__builtin__", name): kind for name, kind in _PLAIN.items()} | {("__builtin__", "unicode"): str}
    known |= {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype, ("_codecs", "encode"): _bytes_of}
    for package in ("numpy.core", "numpy._core"):
        known |= {(f"{package}.multiarray", name): getattr(multiarray, name) for name in ("_reconstruct", "scalar")}
        known[f"{package}.numeric", "_frombuffer"] = numeric._frombuffer
    names = ("_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_parameter")
    known |= {("torch._utils", name): _tensor for name in names}
    known[("torch.storage", "_load_from_bytes")] = _tensor
    return known


class _PlainUnpickler(pickle.Unpickler):
    """Looks names up in a list; nothing is ever imported."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._known = _allowed()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self._known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside the file")


def load_pickle(path: Path) -> Any:
    """The content of a pickle of plain data, arrays and tensors (the last as None).

    :raises DataError: the file asks for anything else, or is damaged. Nothing of it was executed.
    """
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path}: refused: {error}. Only plain containers, numbers, texts and numpy arrays are read from a pickle; nothing "
            "was executed."
        ) from None
    except Exception as error:  # a damaged pickle fails in every way there is
        raise DataError(f"{path}: not a readable pickle ({type(error).__name__}: {error}).") from None


def old_records(path: Path, problems: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(document id, record) in the form of a samples file; RW-G-NLL is not to be had, as the tokens were not saved.

    :param problems: takes one line per fault of entries that are not of the expected form.
    :raises DataError: the file is no dict of entries, or see :func:`load_pickle`.
    """
    content = load_pickle(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: found {type(content).__name__}, expected a dict of document id -> answers.")
    faults: dict[str, list[Any]] = {}
    for key, entry in content.items():
        try:
            yield str(key), _record(entry)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            faults.setdefault(f"{type(error).__name__}: {error}", []).append(key)
    # Many equal faults are one: the file is of another form.
    for fault, keys in faults.items():
        where = f"entry {keys[0]!r}" if len(keys) == 1 else f"{len(keys)} entries, the first {keys[0]!r}"
        problems.append(f"{path}, {where}: {fault}; left out.")


def _record(entry: Mapping[str, Any]) -> dict[str, Any]:
    best = entry["most_likely_answer"]
    text = str(best["response"])
    references = _references(entry.get("reference"))
    answerable = bool(references)
    accuracy = None if best.get("accuracy") is None else float(best["accuracy"])
    known = "reference" in entry
    return {
        "question": str(entry["question"]),
        "answer": text.strip(),
        "raw": text,
        "tokens": None,
        "token_ids": None,
        "logprobs": _numbers(best.get("token_log_likelihoods")),
        "stop_logprob": None,
        "stop_kind": None,
        "source": "generation",
        # Without references only the stored verdict is known.
        "f1": squad_f1(text, references) if known else accuracy,
        "em": squad_em(text, references) if known else accuracy,
        "rougeL": rouge_l(text, references) if known else accuracy,
        "stored": accuracy,
        "references": references,
        "answerable": answerable if known else True,
        "samples": [_sample(response) for response in entry.get("responses") or []],
    }


def _references(given: Any) -> list[str]:
    """The accepted answers: those under ``answers``, or, as in forks of the format, one text or a list of texts."""
    if isinstance(given, str):
        return [given]
    if isinstance(given, list | tuple):
        return [str(answer) for answer in given]
    answers = (given or {}).get("answers") or {}
    return [str(answer) for answer in (answers.get("text", []) if isinstance(answers, Mapping) else answers)]


def _sample(response: Sequence[Any]) -> dict[str, Any]:
    return {"text": str(response[0]), "logprobs": _numbers(response[1]), "tokens": None, "token_ids": None}


def _numbers(values: Any) -> list[float] | None:
    return None if values is None else [float(value) for value in values]


def run_settings(path: Path) -> dict[str, Any]:
    """The settings wandb wrote beside the file (``config.yaml``), flat; empty where there are none."""
    file = path.with_name("config.yaml")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    found: dict[str, Any] = {}
    for name, value in (content if isinstance(content, dict) else {}).items():
        inner = value.get("value") if isinstance(value, dict) else value
        found |= inner if isinstance(inner, dict) and name != "_wandb" else {str(name): inner}
    return found
