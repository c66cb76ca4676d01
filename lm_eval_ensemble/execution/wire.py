"""What crosses a process border: frames of JSON.

Never pickle, never marshal: everything read from the guest is hostile. A frame is a length (4 bytes, big-endian) and that much
JSON in UTF-8 (lone surrogates as they are, never joined). ``plain`` says how values become JSON, ``rebuild`` how they come
back.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

__all__ = ["MAX_DEPTH", "MAX_REPLY", "Channel", "ClosedError", "MalformedError", "NotPlainError", "encoded"]

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
    """Frames over a pair of file descriptors (which may be the same socket)."""

    def __init__(self, read_fd: int, write_fd: int, limit: int = 1 << 32) -> None:
        self.read_fd, self.write_fd, self.limit = read_fd, write_fd, limit
        # Kept here because a guest may rebind os.read in its own process, and honest code survives that.
        self._read, self._write = os.read, os.write
        self._dumps, self._loads = _ENCODER.encode, _DECODER.decode

    def send(self, message: Any) -> None:
        self.send_frame(self._dumps(message).encode("utf-8", "surrogatepass"))

    def send_frame(self, body: bytes) -> None:
        frame = memoryview(len(body).to_bytes(4, "big") + body)
        while frame:
            frame = frame[self._put(frame) :]

    def receive(self) -> Any:
        body = self.receive_frame()
        try:
            return self._loads(body.decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"not JSON: {type(error).__name__}") from None

    def receive_frame(self) -> bytes:
        size = int.from_bytes(self._exactly(4), "big")
        if size > self.limit:
            raise MalformedError(f"a message of {size:,} bytes; at most {self.limit:,} are read")
        return self._exactly(size)

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


def encoded(message: Any) -> bytes:
    """The body of a frame, for ``send_frame``."""
    return _ENCODER.encode(message).encode("utf-8", "surrogatepass")


_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"))
# One object for every NaN, since containers take identical objects for equal.
_DECODER = json.JSONDecoder(parse_constant={"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}.__getitem__)
