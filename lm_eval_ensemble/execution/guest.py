"""The untrusted side: runs one program and answers calls to its functions.

This process holds the program and, unless the job is judged ``together``, nothing else: no test, no expected value,
no verdict. All it can do is answer, and its answers are data. Whatever a program does to this module it does to itself.
"""

from __future__ import annotations

import builtins
import os
import socket
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

from lm_eval_ensemble.execution import suite
from lm_eval_ensemble.execution.plain import Writer
from lm_eval_ensemble.execution.rebuild import Reader, Snapshot
from lm_eval_ensemble.execution.wire import Channel, ClosedError, NotPlainError

__all__ = ["GUEST_FD", "Guest", "rehearsed"]

GUEST_FD = 3
_BATCH_SECONDS = 0.005


class Guest:
    """One guest, made in the zygote: what is ready there need not be made again and again."""

    def __init__(self, folder: str, fd: int = GUEST_FD) -> None:
        self._folder, self._channel = folder, Channel(fd, fd)
        self._namespace = suite.module()
        self._desk = _Desk(self._namespace)

    def serve(self) -> None:
        """Read a program, run it, answer requests until the judge hangs up."""
        self.begin()
        while True:
            self.answer_one()

    def begin(self) -> None:
        """Run the program of a job. (If it is judged together, that is all of it.)"""
        job = self._channel.receive()
        os.chdir(self._folder)  # no sooner: where nothing forbids it, the guest before may have removed the folder
        if "test" in job:
            self._channel.send({"nonce": job["nonce"], "why": _run_together(job)})
            os._exit(0)
        desk = self._desk
        desk.entry = job["entry"]
        try:
            exec(compile(job["program"], "<program>", "exec", dont_inherit=True), self._namespace)
        except BaseException as error:
            self._channel.send({"e": desk.describe(error)})
            os._exit(1)
        self._channel.send({"r": desk.has_entry()})

    def answer_one(self) -> None:
        reply = self._desk.answer(self._channel.receive())
        try:
            self._channel.send(reply)
        except ClosedError:
            os._exit(0)


def rehearsed(folder: str) -> Guest:
    """A guest, after others served jobs in this process: what its forks will run is then as fast as it gets, and shared."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        judge = Channel(ours.fileno(), ours.fileno())
        for _ in range(_REHEARSALS):
            guest = Guest(folder, theirs.fileno())
            judge.send({"program": _PROGRAM, "entry": "f"})
            guest.begin()
            judge.receive()
            for request in _REQUESTS:
                judge.send(request)
                guest.answer_one()
                judge.receive()
    return Guest(folder)


_REHEARSALS = 10  # the interpreter makes code fast that has run some eight times
_REQUESTS: list[dict[str, Any]] = [
    {"do": "call", "of": None, "with": given, "by": {}}
    for given in ([3], ["text"], [[1, 2]], [1, {"t": [1, [2.5]]}], [[["a"]], 2], ["a b", {"d": [["k", 1]]}])
]
_PROGRAM = '''
from typing import Any, Dict, List, Optional, Tuple


class Pair:
    """Two values."""

    def __init__(self, first: Any, second: int = 0) -> None:
        self.first, self.second = first, second


def g(values: List[int], limit: Optional[int] = None) -> Tuple[int, Dict[str, int]]:
    """Count values.

    >>> g([1, 2])
    (3, {"1": 1, "2": 1})
    """
    total, seen = 0, {}
    for index, value in enumerate(values):
        if value % 2 == 0 and value not in (4, 6) or index > 10:
            total += value * 3 - 1
        elif limit is not None and not total < limit:
            break
        else:
            total -= value
        seen[str(value)] = seen.get(str(value), 0) + 1
    while total > 100:
        total //= 2
    return total, seen


def f(x, *y):
    try:
        text = "".join(sorted({c.lower() for c in str(x) if c.isalpha()}, key=lambda c: (-ord(c), c)))
        pairs = [Pair(a, len(text)) for a, b in zip(range(3), text[::-1])]
    except (TypeError, ValueError) as error:
        raise RuntimeError(f"no: {error}") from error
    return [x, text, (1.5, x), {len(pairs): y}, g([1, 2, 3]), any(p.first > 0 for p in pairs), [], {1}, None]
'''


def _run_together(job: dict[str, Any]) -> str:
    """Program and test in one namespace, as other harnesses do: why it failed, empty if it did not."""
    namespace = suite.module("program", "solution")
    try:
        suite.compiled(job["test"], "<test>")
    except BaseException as error:
        return f"{suite.CANNOT}the test does not compile ({_type_name(error)})"
    suite.name_module(job["test"], job["entry"])
    if "inspect" in job["test"]:
        import linecache

        lines = job["program"].splitlines(keepends=True)
        linecache.cache["<program>"] = len(job["program"]), None, lines, "<program>"
    try:
        exec(compile(job["program"], "<program>", "exec", dont_inherit=True), namespace)
        candidate = suite.entry_of(namespace, job["entry"]) if job["entry"] else None
    except BaseException as error:
        return f"the program raised {_type_name(error)}"
    try:
        suite.run(job["test"], namespace, candidate)
    except suite.CannotJudgeError as error:
        return f"{suite.CANNOT}{error}"
    except BaseException as error:
        if isinstance(error, ImportError) and suite.is_by_the_test(error):
            return f"{suite.CANNOT}the test imports what is not here ({error.name})"
        return f"{_type_name(error)} in the test"
    return ""


class _Desk:
    """Answers requests: calls of the entry point, and questions about values that could not travel."""

    def __init__(self, namespace: dict[str, Any], entry: str = "") -> None:
        self._namespace, self.entry = namespace, entry
        self._candidate: Any = None  # of an entry point that is an expression
        self._kept: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._waiting: dict[int, BaseException] = {}  # what an iterator raised behind the items that were asked for

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        reader = Reader(self._of_number, functions=True)
        snapshot = None
        try:
            if request["do"] == "call":
                function = self._function() if request["of"] is None else self._kept[request["of"]]
                arguments = [*map(reader.read, request["with"])]
                keywords = dict(zip(request["by"], map(reader.read, request["by"].values()), strict=True))
                if reader.objects:
                    snapshot = Snapshot(reader.objects)
                value = function(*arguments, **keywords)
            else:
                value = self._told(request["do"], request["of"], request["at most"])
            writer = Writer(self._keep, objects=reader.objects)
            reply = {"r": writer.write(value)}
        except BaseException as error:
            writer = Writer(self._keep, objects=reader.objects)
            reply = {"e": self.describe(error)}
        if snapshot is not None and (changed := snapshot.changed()):
            reply["a"] = [[number, writer.rewrite(value)] for number, value in changed]
        return reply

    def _of_number(self, _tag: str, number: int) -> Any:
        return self._kept[number]

    def _told(self, question: str, number: int, most: int) -> Any:
        """The answer to a question about a value that stayed here."""
        if question == "next":
            return self._items(number, most)
        return _QUESTIONS[question](self._kept[number])

    def has_entry(self) -> bool:
        return not self.entry.isidentifier() or self.entry in self._namespace

    def _function(self) -> Any:
        if self.entry.isidentifier():
            return suite.entry_of(self._namespace, self.entry)
        if self._candidate is None:
            self._candidate = suite.entry_of(self._namespace, self.entry)
        return self._candidate

    def _items(self, number: int, most: int) -> list[Any]:
        """The next items of an iterator; fewer if it ends, raises or takes its time. An empty list is its end."""
        items: list[Any] = []
        if number in self._waiting:
            raise self._waiting.pop(number)
        deadline = time.monotonic() + _BATCH_SECONDS
        try:
            while len(items) < most:
                items.append(next(self._kept[number]))
                if time.monotonic() > deadline:
                    break
        except StopIteration:
            pass
        except BaseException as error:
            if not items:
                raise
            self._waiting[number] = error
        return items

    def _keep(self, value: Any) -> dict[str, int]:
        number = self._numbers.setdefault(id(value), len(self._kept))
        if number == len(self._kept):
            self._kept.append(value)
        if isinstance(value, BaseException):
            return {"o": number}
        if isinstance(value, types.CoroutineType):
            return {"a": number}
        return {"g" if isinstance(value, Iterator) else "h" if callable(value) else "o": number}

    def describe(self, error: BaseException) -> list[Any]:
        """An exception: its type's name, the built-in type it is of, its arguments as plain data, and the handle of one
        whose text is not that of its arguments."""
        kind = type(error)
        base = next(c for c in kind.__mro__ if getattr(builtins, c.__name__, None) is c)
        arguments: Any = []
        try:
            file = error.filename if isinstance(error, OSError) else None  # it is kept apart from the others
            arguments = Writer(_refuse).write([*error.args, *([] if file is None else [file])])
            has_text = kind.__str__ is not base.__str__
        except BaseException:
            has_text = True
        return [_type_name(error), base.__name__, arguments, self._keep(error)["o"] if has_text else None]


def _awaited(value: types.CoroutineType[Any, Any, Any]) -> Any:
    import asyncio

    return asyncio.run(value)


_QUESTIONS: dict[str, Callable[[Any], Any]] = {
    "bool": bool,
    "str": str,
    "repr": repr,
    "len": len,
    "iter": iter,
    "await": _awaited,
}


def _refuse(value: Any) -> Any:
    raise NotPlainError(type(value).__name__)


def _type_name(error: BaseException) -> str:
    return type(error).__name__[:50]
