"""The trusted side: runs the tests, and asks the guest for nothing but values.

The entry point's name is bound to a proxy. Each call of it is a message to the guest; the reply is rebuilt here
from a fixed list of built-in types, so no object of the program's making ever meets an ``==`` of the tests.
"""

from __future__ import annotations

import functools
import os
import random
import sys
from collections.abc import Iterator
from types import CodeType, ModuleType
from typing import Any

from lm_eval_ensemble.execution import guest
from lm_eval_ensemble.execution.clock import TimeUp
from lm_eval_ensemble.execution.wire import Channel, ClosedError, MalformedError, NotPlainError, decode, encode

__all__ = ["remember", "restore", "run_tests"]

_STATE: list[tuple[dict[str, Any], dict[str, Any]]] = []


class GuestError(Exception):
    """The program raised; all that is known of it is the exception's type, as the program names it."""


class Opaque:
    """A value that stayed with the guest. It equals nothing; the questions it answers are put to the guest."""

    __slots__ = ("_guest", "_handle")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, guest: _Guest, handle: int) -> None:
        self._guest, self._handle = guest, handle

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    def __bool__(self) -> bool:
        return bool(self._guest.ask({"do": "bool", "of": self._handle}))

    def __len__(self) -> int:
        try:
            size = self._guest.ask({"do": "len", "of": self._handle})
        except GuestError as error:
            raise TypeError(f"no length: {error}") from None  # list() asks, and takes only this for "no"
        if type(size) is not int:
            raise MalformedError("a length that is no integer")
        return size

    def __str__(self) -> str:
        text = self._guest.ask({"do": "str", "of": self._handle})
        if type(text) is not str:
            raise MalformedError("a text that is no string")
        return text

    def __iter__(self) -> Iterator[Any]:
        items = self._guest.ask({"do": "list", "of": self._handle})
        if type(items) is not list:
            raise MalformedError("items that are no list")
        return iter(items)


class _Guest:
    """The conversation with one guest."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.calls = 0

    def ask(self, request: dict[str, Any]) -> Any:
        self._channel.send(request)
        return self.receive()

    def receive(self) -> Any:
        reply = self._channel.receive()
        if not isinstance(reply, dict) or len(reply) != 1:
            raise MalformedError("a reply of an unknown form")
        if "e" in reply:
            raise GuestError(_printable(reply["e"]))
        if "r" not in reply:
            raise MalformedError("a reply of an unknown form")
        return decode(reply["r"], functools.partial(Opaque, self))

    def call(self, *arguments: Any, **keywords: Any) -> Any:
        self.calls += 1
        return self.ask({"do": "call", "with": encode([list(arguments), keywords], self._handle_of)})

    def _handle_of(self, value: Any) -> int:
        # A value that came from this guest may be handed back to it; any other must be plain.
        if type(value) is Opaque and value._guest is self:
            return value._handle
        raise NotPlainError(f"the test passed a value of type {type(value).__name__}")


def run_tests(job: dict[str, Any], channel: Channel) -> str | None:
    """Run one job's tests against the guest behind ``channel``: None if they hold, else why they do not.

    :param job: ``program``, ``entry``, ``head`` (what stands in the prompt before the entry point) and ``test``.
    :raises ClosedError: the guest is gone.
    :raises TimeUp: the job is over time (raised by the alarm).
    """
    program = _Guest(channel)
    try:
        channel.send({"program": job["program"], "entry": job["entry"]})
        program.receive()
        return _run(job, program)
    except (ClosedError, TimeUp):
        raise
    except BaseException as error:
        return _reason(error)


def _run(job: dict[str, Any], program: _Guest) -> str | None:
    entry = job["entry"]

    def candidate(*arguments: Any, **keywords: Any) -> Any:
        return program.call(*arguments, **keywords)

    candidate.__name__ = candidate.__qualname__ = entry
    namespace: dict[str, Any] = {}
    random.seed(0)
    exec(_compiled(job["head"], "<prompt>"), namespace)
    namespace[entry] = candidate
    exec(_compiled(job["test"], "<test>"), namespace)
    # HumanEval's tests define check and leave the call to the harness; SantaCoder's call it themselves.
    if not program.calls and "check" in namespace:
        namespace["check"](candidate)
    if not program.calls:
        return f"the test never called {entry}"
    return None


@functools.lru_cache(maxsize=512)
def _compiled(source: str, name: str) -> CodeType:
    # Samples of one problem share their test. Without dont_inherit, this module's __future__ imports would leak in.
    return compile(source, name, "exec", dont_inherit=True)


def _reason(error: BaseException) -> str:
    if isinstance(error, GuestError):
        return f"the program raised {error}"
    name = type(error).__name__
    try:
        text = f"{name}: {error}" if str(error) else name
    except (ClosedError, TimeUp):
        raise
    except BaseException:  # a value of the program in the message, and it does not want to be text
        text = name
    return text[:300].encode("utf-8", "replace").decode()


def _printable(name: object) -> str:
    """An exception's name as the guest gives it: short, and without surprises for a terminal or a log."""
    return name if isinstance(name, str) and name.isidentifier() and len(name) <= 50 else "an unnamed exception"


def remember() -> None:
    """Note the state that ``restore`` goes back to: the built-ins and every module that is loaded now."""
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType) and not module.__name__.startswith(("lm_eval_ensemble", "__main__")):
            _STATE.append((vars(module), dict(vars(module))))


def restore() -> None:
    """Undo what a test may have left behind in this process, so that no verdict depends on the job before it."""
    for names, before in _STATE:
        if len(names) != len(before) or any(names.get(name) is not value for name, value in before.items()):
            for name in names.keys() - before.keys():
                del names[name]
            names.update(before)
    sys.setrecursionlimit(1000)
    os.chdir("/")
    guest.mute()
