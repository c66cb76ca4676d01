"""How values become JSON, on either side of a border: plain data all the way down, the rest as numbered handles.

Values JSON lacks are objects with one key, the type's tag: ``{"t": [1, 2]}`` is ``(1, 2)``. Containers that can be
changed are numbered in the order in which they are met; ``{"@": 0}`` is the first of them once more. So aliases
survive, and after a call the guest can say which of the judge's own objects it changed, and returned.
"""

from __future__ import annotations

import builtins
import collections
import datetime
import decimal
import fractions
import itertools
import sys
from collections.abc import Callable, Iterable
from typing import Any

from lm_eval_ensemble.execution.wire import MAX_DEPTH, MAX_REPLY, NotPlainError

__all__ = ["DEEP", "DTYPES", "FUNCTIONS", "HANDLES", "IN_JSON", "SINGLETONS", "TYPES", "Keep", "Writer"]

Keep = Callable[[Any], Any]  # the owner stores a value and describes its handle: {"o": 0}
_JSON_INT = 1 << 62
DEEP = 8 * MAX_DEPTH  # more frames, since values may be nested as deeply as we say however deep the stack is already

_AS_THEY_ARE = frozenset({type(None), bool, float, str})
IN_JSON = _AS_THEY_ARE | {int}

#: types that may travel by their name; calling one of them with hostile arguments does nothing but make a value.
TYPES = {
    kind.__name__: kind
    for kind in vars(builtins).values()
    if (
        isinstance(kind, type)
        and (issubclass(kind, BaseException) or kind in (bool, int, float, complex, str, bytes, bytearray))
    )
    or kind in (list, tuple, set, frozenset, dict, object, range, slice)
} | {"NoneType": type(None)}
#: functions that the judge may hand to a guest, never the other way.
FUNCTIONS: dict[str, Any] = {
    function.__name__: function
    for function in (
        *(abs, all, any, ascii, bin, callable, chr, divmod, enumerate, filter, hash, hex, isinstance, iter, len, map, max),
        *(min, next, oct, ord, pow, repr, reversed, round, sorted, sum, zip),
    )
}
SINGLETONS = {"Ellipsis": ..., "NotImplemented": NotImplemented}
DTYPES = "biufcSUMm"  # numpy's kinds: numbers, texts and times
#: tags of values that stayed with their owner: any object, an iterator, something that can be called, a coroutine.
HANDLES = ("o", "g", "h", "a")
_SIZED = frozenset({list, tuple, set, frozenset, dict, bytes, bytearray})


class Writer:
    """Turns values into JSON.

    :param keep: describes a value that is no plain data; it may raise NotPlainError.
    :param strict: whether subclasses are no plain data either. Otherwise they arrive as their base type, by the base
        type's own methods, never by overridden ones.
    :param objects: the containers that the other side knows already, in the order of their numbers.
    """

    def __init__(self, keep: Keep, *, strict: bool = False, objects: Iterable[Any] = ()) -> None:
        self.keep, self.strict = keep, strict
        self.objects = list(objects)
        self._numbers = dict(zip(map(id, self.objects), itertools.count()))
        self._again: Any = None

    def write(self, value: Any) -> Any:
        """``value`` as JSON; as a handle if anything in it is nested too deeply."""
        if type(value) in _AS_THEY_ARE or (type(value) is int and -_JSON_INT < value < _JSON_INT):
            return value
        known, limit = len(self.objects), sys.getrecursionlimit()
        try:
            sys.setrecursionlimit(limit + DEEP)
            return self.inner(value, 0)
        except NotPlainError:
            if self.strict:
                raise
            for forgotten in self.objects[known:]:
                self._numbers.pop(id(forgotten), None)
            del self.objects[known:]
            return self.keep(value)
        finally:
            sys.setrecursionlimit(limit)

    def rewrite(self, value: Any) -> Any:
        """The content of a container that has a number already."""
        self._again = value
        return self.write(value)

    def inner(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in _AS_THEY_ARE:
            return value
        if kind is int and -_JSON_INT < value < _JSON_INT:
            return value
        if depth > MAX_DEPTH:
            raise NotPlainError("a value nested too deeply")
        if not self.strict and kind in _SIZED and len(value) > MAX_REPLY // 2:
            raise NotPlainError("a value too large for any answer")
        write = _WRITERS.get(kind) or self._other(value, kind)
        return write(self, value, depth + 1) if write else self.keep(value)

    def _other(self, value: Any, kind: type) -> Callable[[Writer, Any, int], Any] | None:
        """How to write what is not exactly of a known type."""
        if getattr(kind, "__module__", "") == "numpy" and hasattr(kind, "dtype"):
            return _write_numpy
        name = getattr(value, "__name__", "")
        if kind is type and TYPES.get(name) is value:
            return lambda *_: {"T": name}
        if self.strict:
            return (lambda *_: {"L": name}) if FUNCTIONS.get(name) is value else None
        return next((_WRITERS[base] for base in kind.__mro__ if base in _WRITERS), None)

    def number(self, value: Any) -> int | None:
        """The number it has; None if it gets one now."""
        if value is self._again and value is not None:
            self._again = None
            self.objects.append(None)  # the other side counts it once more
            return None
        number = self._numbers.setdefault(id(value), len(self.objects))
        if number < len(self.objects):
            return number
        self.objects.append(value)
        return None


def _is_in_json(values: list[Any]) -> bool:
    kinds = set(map(type, values))
    if kinds <= _AS_THEY_ARE:
        return True
    return kinds == {int} and min(values) > -_JSON_INT and max(values) < _JSON_INT


def _write_int(_writer: Writer, value: int, _depth: int) -> Any:
    value = int.__int__(value)
    return value if -_JSON_INT < value < _JSON_INT else {"i": format(value, "x")}


def _write_list(writer: Writer, value: list[Any], depth: int) -> Any:
    number = writer.number(value)
    if number is not None:
        return {"@": number}
    items = list(list.__iter__(value))
    return items if _is_in_json(items) else _inner(writer, items, depth)


def _inner(writer: Writer, values: Iterable[Any], depth: int) -> list[Any]:
    content = []
    for value in values:
        content.append(writer.inner(value, depth))  # no comprehension: it would double the frames of deep values
    return content


def _write_items(tag: str, items: Callable[[Any], Iterable[Any]]) -> Callable[[Writer, Any, int], Any]:
    def write(writer: Writer, value: Any, depth: int) -> Any:
        return {tag: _inner(writer, items(value), depth)}

    return write


def _write_set(writer: Writer, value: set[Any], depth: int) -> Any:
    number = writer.number(value)
    return {"s": _inner(writer, set.__iter__(value), depth)} if number is None else {"@": number}


def _write_mapping(tag: str, items: Callable[[Any], Iterable[Any]]) -> Callable[[Writer, Any, int], Any]:
    def write(writer: Writer, value: Any, depth: int) -> Any:
        number = writer.number(value)
        if number is not None:
            return {"@": number}
        pairs = []
        for key, item in items(value):
            pairs.append([writer.inner(key, depth), writer.inner(item, depth)])
        return {tag: [_factory(writer, value), pairs] if tag == "D" else pairs}

    return write


def _factory(writer: Writer, value: Any) -> str | None:
    """The factory of a defaultdict by its name; one that is no built-in type stays behind."""
    name = getattr(value.default_factory, "__name__", "")
    if TYPES.get(name) is value.default_factory:
        return str(name)
    if writer.strict and value.default_factory is not None:
        raise NotPlainError("a defaultdict with a factory of its own")
    return None


def _write_deque(writer: Writer, value: collections.deque[Any], depth: int) -> Any:
    number = writer.number(value)
    return {"q": [value.maxlen, _inner(writer, iter(value), depth)]} if number is None else {"@": number}


def _write_bytearray(writer: Writer, value: bytearray, _depth: int) -> Any:
    number = writer.number(value)
    return {"B": bytearray.hex(value)} if number is None else {"@": number}


def _write_numpy(writer: Writer, value: Any, _depth: int) -> Any:
    """Arrays (never of a subclass) and scalars of numbers, texts and times; others stay."""
    is_array = type(value).__name__ == "ndarray"
    if value.dtype.kind not in DTYPES or not (is_array or isinstance(value, sys.modules["numpy"].generic)):
        return writer.keep(value)
    number = writer.number(value) if is_array else None
    if number is not None:
        return {"@": number}
    return {"n": [value.dtype.str, list(value.shape) if is_array else None, value.tobytes().hex()]}


def _write_zone(zone: Any) -> list[int] | None:
    """An offset from UTC. Zones with rules of their own do not travel."""
    if zone is not None and type(zone) is not datetime.timezone:
        raise NotPlainError("a time with a zone")
    return None if zone is None else _write_delta(zone.utcoffset(None))


def _write_delta(value: datetime.timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _write_datetime(_writer: Writer, value: datetime.datetime, _depth: int) -> Any:
    clock = [value.hour, value.minute, value.second, value.microsecond]
    return {"dt": [[value.year, value.month, value.day, *clock], _write_zone(value.tzinfo), value.fold]}


def _write_time(_writer: Writer, value: datetime.time, _depth: int) -> Any:
    clock = [value.hour, value.minute, value.second, value.microsecond]
    return {"tm": [clock, _write_zone(value.tzinfo), value.fold]}


_WRITERS: dict[type, Callable[[Writer, Any, int], Any]] = {
    str: lambda _w, v, _d: str.__str__(v),
    int: _write_int,
    float: lambda _w, v, _d: float.__float__(v),
    complex: lambda _w, v, _d: {"c": [v.real, v.imag]},
    bytes: lambda _w, v, _d: {"b": bytes.hex(v)},
    bytearray: _write_bytearray,
    fractions.Fraction: lambda w, v, d: {"F": [_write_int(w, v.numerator, d), _write_int(w, v.denominator, d)]},
    decimal.Decimal: lambda _w, v, _d: {"N": decimal.Decimal.__str__(v)},
    list: _write_list,
    tuple: _write_items("t", tuple.__iter__),
    frozenset: _write_items("f", frozenset.__iter__),
    range: _write_items("r", lambda v: (v.start, v.stop, v.step)),
    slice: _write_items("S", lambda v: (v.start, v.stop, v.step)),
    set: _write_set,
    dict: _write_mapping("d", dict.items),
    collections.OrderedDict: _write_mapping("O", collections.OrderedDict.items),
    collections.Counter: _write_mapping("C", dict.items),
    collections.defaultdict: _write_mapping("D", dict.items),
    collections.deque: _write_deque,
    type(...): lambda _w, _v, _d: {"X": "Ellipsis"},
    type(NotImplemented): lambda _w, _v, _d: {"X": "NotImplemented"},
    datetime.date: lambda _w, v, _d: {"da": [v.year, v.month, v.day]},
    datetime.datetime: _write_datetime,
    datetime.time: _write_time,
    datetime.timedelta: lambda _w, v, _d: {"td": _write_delta(v)},
}
