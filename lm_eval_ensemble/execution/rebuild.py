"""The way back: values out of JSON that may be hostile, and what a call changed."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import operator
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lm_eval_ensemble.execution.plain import DEEP, DTYPES, FUNCTIONS, HANDLES, IN_JSON, SINGLETONS, TYPES
from lm_eval_ensemble.execution.wire import MAX_DEPTH, MalformedError

__all__ = ["Reader", "Resolve", "Snapshot", "write_back"]

Resolve = Callable[[str, int], Any]  # the reader turns kind and number of a handle into something that stands for the value


class Reader:
    """Rebuilds the values that a Writer described. What it reads may be hostile.

    :param resolve: gives what stands for a handle; without it there are none.
    :param functions: whether built-in functions may come by their names.
    :param objects: the containers that both sides know already, in the order of their numbers.
    """

    def __init__(self, resolve: Resolve | None = None, *, functions: bool = False, objects: Iterable[Any] = ()) -> None:
        self._resolve, self._functions = resolve, functions
        self.objects = list(objects)

    def read(self, message: Any) -> Any:
        """:raises MalformedError: nothing that a Writer can have written."""
        if type(message) in IN_JSON:
            return message
        limit = sys.getrecursionlimit()
        try:
            sys.setrecursionlimit(limit + DEEP)
            return self.inner(message, 0)
        except MalformedError:
            raise
        except Exception as error:  # whatever a hostile message leads to must not look like an exception of the program
            raise MalformedError(f"not a value: {type(error).__name__}") from None
        finally:
            sys.setrecursionlimit(limit)

    def inner(self, message: Any, depth: int) -> Any:
        kind = type(message)
        if kind in IN_JSON:
            return message
        if depth > 2 * MAX_DEPTH + 4:  # each tag is a level of its own
            raise MalformedError("nested too deeply")
        if kind is list:
            return self.fill(self.new([]), message, depth)
        ((tag, content),) = message.items()
        if tag in _READERS:
            return _READERS[tag](self, content, depth + 1)
        if tag in HANDLES and self._resolve is not None and type(content) is int:
            return self._resolve(tag, content)
        if tag == "L" and self._functions:
            return FUNCTIONS[content]
        raise MalformedError("unknown tag")

    def new(self, container: Any) -> Any:
        """Number a container, before what it holds is read."""
        self.objects.append(container)
        return container

    def fill(self, items: list[Any], messages: Any, depth: int) -> list[Any]:
        if type(messages) is not list:
            raise MalformedError("expected a list")
        if set(map(type, messages)) <= IN_JSON:
            items += messages
        else:
            for message in messages:
                items.append(self.inner(message, depth + 1))
        return items

    def mapping(self, container: Any, pairs: Any, depth: int) -> Any:
        self.objects.append(container)
        for key, item in pairs:
            key = self.inner(key, depth)
            container[key] = self.inner(item, depth)
        return container


def _exactly(kind: type, *values: Any) -> tuple[Any, ...]:
    if any(type(value) is not kind for value in values):
        raise MalformedError(f"expected {kind.__name__}")
    return values


def _read_known(reader: Reader, number: Any, _depth: int) -> Any:
    if type(number) is not int or not 0 <= number < len(reader.objects):
        raise MalformedError("a container that was not met yet")
    return reader.objects[number]


def _read_items(make: Callable[[list[Any]], Any]) -> Callable[[Reader, Any, int], Any]:
    return lambda reader, content, depth: make(reader.fill([], content, depth))


def _read_set(reader: Reader, content: Any, depth: int) -> set[Any]:
    container: set[Any] = reader.new(set())
    container.update(reader.fill([], content, depth))
    return container


def _read_default(reader: Reader, content: Any, depth: int) -> Any:
    factory, pairs = content
    return reader.mapping(collections.defaultdict(None if factory is None else TYPES[factory]), pairs, depth)


def _read_deque(reader: Reader, content: Any, depth: int) -> Any:
    maxlen, items = content
    container: collections.deque[Any] = reader.new(collections.deque(maxlen=maxlen))
    container.extend(reader.fill([], items, depth))
    return container


def _read_numpy(reader: Reader, content: Any, _depth: int) -> Any:
    import numpy as np

    dtype_name, shape, data = content
    dtype = np.dtype(*_exactly(str, dtype_name))
    if dtype.kind not in DTYPES or not dtype.itemsize:
        raise MalformedError("an array of an unknown kind")
    values = np.frombuffer(bytes.fromhex(data), dtype).copy()
    return values[0] if shape is None else reader.new(values.reshape(_exactly(int, *shape)))


def _read_zone(offset: Any) -> datetime.timezone | None:
    return None if offset is None else datetime.timezone(datetime.timedelta(*_exactly(int, *offset)))


def _read_moment(kind: Callable[..., Any]) -> Callable[[Reader, Any, int], Any]:
    def read(_reader: Reader, content: Any, _depth: int) -> Any:
        numbers, offset, fold = content
        return kind(*_exactly(int, *numbers), tzinfo=_read_zone(offset), fold=fold)

    return read


_READERS: dict[str, Callable[[Reader, Any, int], Any]] = {
    "@": _read_known,
    "t": _read_items(tuple),
    "f": _read_items(frozenset),
    "r": _read_items(lambda numbers: range(*_exactly(int, *numbers))),
    "S": _read_items(lambda ends: slice(*ends)),
    "F": _read_items(lambda parts: fractions.Fraction(*_exactly(int, *parts))),
    "s": _read_set,
    "d": lambda r, v, d: r.mapping({}, v, d),
    "O": lambda r, v, d: r.mapping(collections.OrderedDict(), v, d),
    "C": lambda r, v, d: r.mapping(collections.Counter(), v, d),
    "D": _read_default,
    "q": _read_deque,
    "i": lambda _r, v, _d: int(str.__str__(v), 16),
    "c": lambda _r, v, _d: complex(*_exactly(float, *v)),
    "b": lambda _r, v, _d: bytes.fromhex(v),
    "B": lambda r, v, _d: r.new(bytearray.fromhex(v)),
    "N": lambda _r, v, _d: decimal.Decimal(*_exactly(str, v)),
    "T": lambda _r, v, _d: TYPES[v],
    "X": lambda _r, v, _d: SINGLETONS[v],
    "da": lambda _r, v, _d: datetime.date(*_exactly(int, *v)),
    "dt": _read_moment(datetime.datetime),
    "tm": _read_moment(datetime.time),
    "td": lambda _r, v, _d: datetime.timedelta(*_exactly(int, *v)),
    "n": _read_numpy,
}


class Snapshot:
    """What some containers held at one moment, to find those that were changed since."""

    def __init__(self, objects: Sequence[Any]) -> None:
        self._before = [*zip(objects, map(_content, objects), strict=True)]

    def changed(self) -> list[tuple[int, Any]]:
        """Those that hold something else now, with their numbers."""
        return [(number, value) for number, (value, before) in enumerate(self._before) if not _same(_content(value), before)]


def _content(value: Any) -> Any:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, list | collections.deque) else value.copy()


def _same(now: Any, before: Any) -> bool:
    if type(now) is list:
        return len(now) == len(before) and all(map(operator.is_, now, before))
    if isinstance(now, set | bytearray):
        return bool(now == before)
    return bool(now.shape == before.shape and now.dtype == before.dtype and now.tobytes() == before.tobytes())


def write_back(target: Any, content: Any) -> None:
    """Make one of the judge's own objects hold what the guest says that it holds now."""
    if type(target) is not type(content):
        raise MalformedError("a container that became another")
    if isinstance(target, list | bytearray):
        target[:] = content
    elif isinstance(target, dict | set):
        target.clear()
        target.update(content)
    elif isinstance(target, collections.deque):
        target.clear()
        target.extend(content)
    elif target.shape == content.shape and target.dtype == content.dtype:
        target[...] = content
    else:
        raise MalformedError("an array that changed its shape")
