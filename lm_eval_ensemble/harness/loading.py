"""When the models of an ensemble are in memory: all of them, or one at a time."""

from __future__ import annotations

import functools
import gc
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["LazyModel", "Shelf"]

#: plain values of members and scorers, small enough to keep (an encoder holds the tokenizer).
_FACTS = (
    *("name", "wants_partner", "offers", "device", "resumes", "chunk", "encoder", "layout", "end_id", "window"),
    *("quantization", "footprint_mib", "diffusion_family"),
)

logger = logging.getLogger(__name__)


class Shelf:
    """The models that are loaded.

    :param builders: how each is loaded, by name.
    :param one: keep only the model that was asked for last; another one frees it first.
    """

    def __init__(self, builders: Mapping[str, Callable[[], Any]], one: bool) -> None:
        self.builders, self.one = builders, one
        self._loaded: dict[str, Any] = {}

    def get(self, name: str) -> Any:
        """The model, loaded if need be."""
        if name not in self._loaded:
            if self.one:
                self.clear()
                logger.info("load=one-at-a-time: loading %s.", name)
            self._loaded[name] = self.builders[name]()
        return self._loaded[name]

    def clear(self) -> None:
        """Free what is loaded."""
        if self._loaded:
            self._loaded.clear()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


class LazyModel:
    """Stands for a model on a shelf, which holds it in memory only while it is the one in use.

    The model is loaded once to learn what it has. What the pipeline asks of it again and again is remembered; a method, when
    it is called, loads the model again if need be. Methods themselves are not kept: they would keep the model.
    """

    def __init__(self, name: str, shelf: Shelf) -> None:
        self._label, self._shelf = name, shelf
        model = shelf.get(name)
        self._names = frozenset(dir(model))
        self._methods = frozenset(n for n in dir(type(model)) if inspect.isroutine(inspect.getattr_static(type(model), n)))
        self.__dict__.update({fact: getattr(model, fact) for fact in _FACTS if hasattr(model, fact)})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._names:
            raise AttributeError(f"{self._label} has no attribute {name!r}")
        if name in self._methods:
            return functools.partial(self._call, name)
        return getattr(self._shelf.get(self._label), name)

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        return getattr(self._shelf.get(self._label), name)(*arguments, **options)
