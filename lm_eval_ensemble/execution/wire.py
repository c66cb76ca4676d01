"""What crosses a process border: frames of JSON.

Never pickle, never marshal: everything read from the guest is hostile. A frame is a length (4 bytes, big-endian) and that much
JSON in UTF-8 (lone surrogates as they are, never joined). ``plain`` says how values become JSON, ``rebuild`` how they come
back.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from typing import Any

__all__ = ["MAX_DEPTH", "MAX_REPLY", "Channel", "ClosedError", "MalformedError", "NotPlainError", "encoded", "framed"]

# Honest answers are far below; hostile ones must not exhaust the judge.
MAX_REPLY = 16 << 20
MAX_DEPTH = 200


class ClosedError(Exception):
    """The other side has ended."""


class MalformedError(Exception):
    """The other side does not follow the protocol."""


class NotPlainError(Exception):
    """A value that is not plain data (all the way down) where only plain data can travel."""


class Channel:
    """Frames over a pair of file descriptors (which may be the same socket).

    :param ahead: what was read from there already.
    """

    def __init__(self, read_fd: int, write_fd: int, limit: int = 1 << 32, ahead: bytes = b"") -> None:
        self.read_fd, self.write_fd, self.limit = read_fd, write_fd, limit
        # Kept here because a guest may rebind os.read in its own process, and honest code survives that.
        self._read, self._write = os.read, os.write
        self._dumps, self._loads = _dumps, _DECODER.scan_once  # type: ignore[attr-defined]
        self._ahead = ahead

    def send(self, message: Any) -> None:
        self.send_frame(self._dumps(message).encode("utf-8", "surrogatepass"))

    def send_frame(self, body: bytes) -> None:
        frame = framed(body)
        sent = self._put(frame)
        while sent < len(frame):
            sent += self._put(memoryview(frame)[sent:])

    def receive(self) -> Any:
        body = self.receive_frame()
        try:
            text = body.decode("utf-8", "surrogatepass")
            message, end = self._loads(text, 0)
        except (ValueError, RecursionError, StopIteration) as error:
            raise MalformedError(f"not JSON: {type(error).__name__}") from None
        if end != len(text):
            raise MalformedError("not JSON: something behind it")
        return message

    def receive_frame(self) -> bytes:
        data = self._ahead or self._some(_ROOM)
        while len(data) < 4:
            data += self._some(_ROOM)
        end = 4 + int.from_bytes(data[:4], "big")
        if end - 4 > self.limit:
            raise MalformedError(f"a message of {end - 4:,} bytes; at most {self.limit:,} are read")
        if len(data) < end:
            parts, missing = [data], end - len(data)
            while missing:
                parts.append(self._some(min(missing, 1 << 20)))
                missing -= len(parts[-1])
            data = b"".join(parts)
        self._ahead = data[end:]
        return data[4:end]

    def _put(self, data: bytes | memoryview) -> int:
        try:
            return self._write(self.write_fd, data)
        except OSError as error:
            raise ClosedError(str(error)) from None

    def _some(self, most: int) -> bytes:
        try:
            data = self._read(self.read_fd, most)
        except OSError as error:
            raise ClosedError(str(error)) from None
        if not data:
            raise ClosedError("end of stream")
        return data


def framed(body: bytes) -> bytes:
    """A body with its length before it, as it is sent."""
    return len(body).to_bytes(4, "big") + body


def encoded(message: Any) -> bytes:
    """The body of a frame, for ``send_frame``."""
    return _dumps(message).encode("utf-8", "surrogatepass")


_ROOM = 1 << 13  # most messages are shorter, and are read at once
_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"))
# One object for every NaN, since containers take identical objects for equal.
_DECODER = json.JSONDecoder(parse_constant={"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}.__getitem__)


def _encoder() -> Callable[[Any], str]:
    """``_ENCODER.encode``, less what it makes anew for each message (as CPython allows)."""
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return _ENCODER.encode
    parts = make(None, _ENCODER.default, json.encoder.encode_basestring, None, ":", ",", False, False, True)
    return lambda message: "".join(parts(message, 0))


_dumps = _encoder()
