"""The untrusted side: runs one program and answers calls to its functions.

This process holds the program and nothing else. It never sees a test, an expected value or the verdict; all it
can do is answer, and its answers are data. Whatever a program does to this module it does to itself.
"""

from __future__ import annotations

import gc
import itertools
import os
import random
import sys
from collections.abc import Callable
from typing import Any

from lm_eval_ensemble.execution.wire import MAX_ITEMS, Channel, ClosedError, decode, encode

__all__ = ["GUEST_FD", "serve"]

GUEST_FD = 3


class _Quiet:
    """A standard output that swallows everything at no cost: floods end nowhere."""

    encoding, errors, closed = "utf-8", "strict", False

    def write(self, text: str) -> int:
        return len(text)

    def writelines(self, _lines: Any) -> None: ...

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return 1


class _NoInput:
    """A standard input that fails at once, as in the reference harness, instead of waiting or reading our pipe."""

    encoding, errors, closed = "utf-8", "strict", False

    def read(self, *_: Any) -> str:
        raise OSError("there is no standard input")

    readline = readlines = __next__ = read

    def __iter__(self) -> _NoInput:
        return self

    def readable(self) -> bool:
        return False

    def fileno(self) -> int:
        raise OSError("there is no standard input")


def mute() -> None:
    """Point the standard streams of Python nowhere."""
    sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = _Quiet()  # type: ignore[assignment, misc]
    sys.stdin = sys.__stdin__ = _NoInput()  # type: ignore[assignment, misc]


def serve() -> None:
    """Read a program from ``GUEST_FD``, run it, answer requests until the judge hangs up."""
    channel = Channel(GUEST_FD, GUEST_FD)
    gc.enable()
    random.seed(0)  # a program that draws numbers gets the same verdict in every run
    job = channel.receive()
    namespace: dict[str, Any] = {}  # without __name__, as in the reference: `if __name__ == "__main__"` is false
    try:
        exec(compile(job["program"], "<program>", "exec", dont_inherit=True), namespace)
    except BaseException as error:
        channel.send({"e": _type_name(error)})
        os._exit(1)
    channel.send({"r": None})
    desk = _Desk(namespace, job["entry"])
    while True:
        request = channel.receive()
        reply = desk.answer(request)
        try:
            channel.send(reply)
        except ClosedError:
            os._exit(0)


class _Desk:
    """Answers requests: calls of the entry point, and questions about values that could not travel."""

    def __init__(self, namespace: dict[str, Any], entry: str) -> None:
        self._namespace, self._entry = namespace, entry
        self._kept: list[Any] = []

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            value = self._perform(request)
            return {"r": encode(value, self._keep)}
        except BaseException as error:
            return {"e": _type_name(error)}

    def _perform(self, request: dict[str, Any]) -> Any:
        action = request["do"]
        if action == "call":
            arguments, keywords = decode(request["with"], self._kept.__getitem__)
            return self._namespace[self._entry](*arguments, **keywords)
        value = self._kept[request["of"]]
        if action == "list":
            return list(itertools.islice(iter(value), MAX_ITEMS))
        questions: dict[str, Callable[[Any], Any]] = {"bool": bool, "str": str, "len": len}
        return questions[action](value)

    def _keep(self, value: Any) -> int:
        self._kept.append(value)
        return len(self._kept) - 1


def _type_name(error: BaseException) -> str:
    # Never str(error): that would run the program's code once more, and say what the program wants said.
    return type(error).__name__[:50]
