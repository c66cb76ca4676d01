"""What crosses a process border: frames of JSON, and a plain-data code for Python values.

Never pickle, never marshal: everything read from the guest is hostile. A value is either rebuilt from a fixed
list of built-in types, or stays with its owner and travels as a numbered handle.

A frame is a length (4 bytes, big-endian) and that much ASCII JSON, so that lone surrogates and NUL survive.
Values JSON lacks are objects with one key, the type's tag: ``{"t": [1, 2]}`` is ``(1, 2)``.
"""

from __future__ import annotations

import decimal
import fractions
import json
import os
from collections.abc import Callable
from typing import Any

__all__ = ["Channel", "ClosedError", "MalformedError", "NotPlainError", "decode", "encode"]

# Honest answers are far below; hostile ones must not exhaust the judge.
MAX_REPLY = 16 << 20
MAX_ITEMS = 1_000_000
MAX_DEPTH = 100
MAX_BITS = 4_000_000
_JSON_INT = 1 << 62

Keep = Callable[[Any], int]  # the owner stores a value and gives its handle
Resolve = Callable[[int], Any]  # the reader turns a handle into something that stands for the value


class ClosedError(Exception):
    """The other side has ended."""


class MalformedError(Exception):
    """The other side does not follow the protocol."""


class NotPlainError(Exception):
    """A value that is not plain data (all the way down) where only plain data can travel."""


class Channel:
    """Frames over a pair of file descriptors (which may be the same socket)."""

    def __init__(self, read_fd: int, write_fd: int, limit: int = 1 << 32) -> None:
        self.read_fd, self.write_fd, self.limit = read_fd, write_fd, limit
        # Kept here because a guest may rebind os.read in its own process, and honest code survives that.
        self._read, self._write = os.read, os.write
        self._dumps, self._loads = json.dumps, json.loads

    def send(self, message: Any) -> None:
        body = self._dumps(message, separators=(",", ":")).encode("ascii")
        frame = memoryview(len(body).to_bytes(4, "big") + body)
        while frame:
            frame = frame[self._put(frame) :]

    def receive(self) -> Any:
        size = int.from_bytes(self._exactly(4), "big")
        if size > self.limit:
            raise MalformedError(f"a message of {size} bytes; at most {self.limit} are read")
        body = self._exactly(size)
        try:
            return self._loads(body)
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"not JSON: {type(error).__name__}") from None

    def _exactly(self, size: int) -> bytes:
        first = self._some(size)
        if len(first) == size:
            return first
        parts, missing = [first], size - len(first)
        while missing:
            part = self._some(min(missing, 1 << 20))
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _put(self, data: memoryview) -> int:
        try:
            return self._write(self.write_fd, data)
        except OSError as error:
            raise ClosedError(str(error)) from None

    def _some(self, size: int) -> bytes:
        try:
            data = self._read(self.read_fd, min(size, 1 << 20)) if size else b""
        except OSError as error:
            raise ClosedError(str(error)) from None
        if size and not data:
            raise ClosedError("end of stream")
        return data


def encode(value: Any, keep: Keep | None = None) -> Any:
    """``value`` as JSON. What is not plain data goes to ``keep``, or raises NotPlainError if that is None.

    Instances of subclasses arrive as their base type, by the base type's own methods, never by overridden ones.
    """
    try:
        return _encode(value, keep, 0)
    except NotPlainError:
        if keep is None:
            raise
        return {"o": keep(value)}


def _encode(value: Any, keep: Keep | None, depth: int) -> Any:
    if value is None or value is True or value is False:
        return value
    if depth > MAX_DEPTH:
        raise NotPlainError("nested too deeply")
    for kind, scalar in _SCALARS:
        if isinstance(value, kind):
            return scalar(value)
    for kind, tag, items in _CONTAINERS:
        if isinstance(value, kind):
            return _encode_items(value, tag, items, keep, depth + 1)
    if getattr(type(value), "__module__", "") == "numpy" and getattr(value, "ndim", 1) == 0:
        return _encode(value.item(), keep, depth + 1)
    if keep is None:
        raise NotPlainError(f"a value of type {type(value).__name__}")
    return {"o": keep(value)}


def _encode_items(value: Any, tag: str, items: Callable[[Any], Any], keep: Keep | None, depth: int) -> Any:
    content = list(items(value))
    if len(content) > MAX_ITEMS:
        raise NotPlainError("too many items")
    if tag == "d":
        return {"d": [[_encode(key, keep, depth), _encode(item, keep, depth)] for key, item in content]}
    encoded = [_encode(item, keep, depth) for item in content]
    return {tag: encoded} if tag else encoded


def _encode_int(value: int) -> Any:
    value = int.__int__(value)
    if -_JSON_INT < value < _JSON_INT:
        return value
    if value.bit_length() > MAX_BITS:
        raise NotPlainError("an integer of too many bits")
    return {"i": format(value, "x")}


_SCALARS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, _encode_int),
    (float, float.__float__),
    (complex, lambda value: {"c": [value.real, value.imag]}),
    (bytes, lambda value: {"b": bytes.hex(value)}),
    (bytearray, lambda value: {"b": bytearray.hex(value)}),
    (fractions.Fraction, lambda value: {"F": [_encode_int(value.numerator), _encode_int(value.denominator)]}),
    (decimal.Decimal, lambda value: {"D": decimal.Decimal.__str__(value)}),
)
_CONTAINERS: tuple[tuple[type, str, Callable[[Any], Any]], ...] = (
    (list, "", list.__iter__),
    (tuple, "t", tuple.__iter__),
    (dict, "d", dict.items),
    (set, "s", set.__iter__),
    (frozenset, "f", frozenset.__iter__),
)


def decode(message: Any, resolve: Resolve | None = None) -> Any:
    """The value that ``encode`` described. Raises MalformedError for anything ``encode`` cannot have written."""
    try:
        return _decode(message, resolve, 0)
    except (TypeError, ValueError, KeyError, ArithmeticError) as error:
        raise MalformedError(f"not a value: {type(error).__name__}") from None


def _decode(message: Any, resolve: Resolve | None, depth: int) -> Any:
    if depth > MAX_DEPTH + 1:
        raise MalformedError("nested too deeply")
    if isinstance(message, list):
        return [_decode(item, resolve, depth + 1) for item in message]
    if not isinstance(message, dict):
        return message
    ((tag, content),) = message.items()
    if tag == "d":
        return {_decode(key, resolve, depth + 1): _decode(item, resolve, depth + 1) for key, item in content}
    if tag in _REBUILD:
        if not isinstance(content, list):
            raise MalformedError(f"{tag}: expected a list")
        return _REBUILD[tag]([_decode(item, resolve, depth + 1) for item in content])
    if tag in _REBUILD_TEXT:
        if not isinstance(content, str):
            raise MalformedError(f"{tag}: expected text")
        return _REBUILD_TEXT[tag](content)
    if tag == "o" and resolve is not None and type(content) is int:
        return resolve(content)
    raise MalformedError("unknown tag")


def _fraction(parts: list[Any]) -> fractions.Fraction:
    numerator, denominator = parts
    if type(numerator) is not int or type(denominator) is not int:
        raise MalformedError("F: expected integers")
    return fractions.Fraction(numerator, denominator)


def _complex(parts: list[Any]) -> complex:
    real, imaginary = parts
    if type(real) is not float or type(imaginary) is not float:
        raise MalformedError("c: expected floats")
    return complex(real, imaginary)


_REBUILD: dict[str, Callable[[list[Any]], Any]] = {
    "t": tuple,
    "s": set,
    "f": frozenset,
    "c": _complex,
    "F": _fraction,
}
_REBUILD_TEXT: dict[str, Callable[[str], Any]] = {
    "i": lambda text: int(text, 16),
    "b": bytes.fromhex,
    "D": decimal.Decimal,
}
