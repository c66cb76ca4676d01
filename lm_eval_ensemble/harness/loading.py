"""When the models of an ensemble are in memory: all of them, or one at a time."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["LazyModel", "Shelf"]

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
    """Stands for a model on a shelf: whatever is asked of it loads the model.

    Plain values (name, device, encoder, window, ...) are remembered, so that reading them does not load it again; methods are
    not, for they would keep the model in memory.
    """

    def __init__(self, name: str, shelf: Shelf) -> None:
        self._name, self._shelf = name, shelf

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self._shelf.get(self._name), name)
        if not callable(value):
            self.__dict__[name] = value
        return value
