"""The trusted side: runs the tests, and asks the guest for nothing but values.

The entry point's name is bound to a proxy. Each call of it is a message to the guest; the reply is rebuilt here
from a fixed list of standard types, so no object of the program's making ever meets an ``==`` of the tests.

The examiner is a process of its own. It is forked by the worker, which watches the clock from outside, and replaced
after every test that could leave anything behind. Whatever is wrong with the guest itself (it ended, its answer is too
large or no answer at all) is said and done at once: no ``except`` of a test gets to see it.
"""

from __future__ import annotations

import builtins
import functools
import gc
import opcode
import os
import socket
import sys
from _thread import RLock, allocate_lock  # not threading, whose care for forks costs each of them 0.3 ms
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any, NoReturn

from lm_eval_ensemble.execution import lockdown, suite
from lm_eval_ensemble.execution.plain import Writer
from lm_eval_ensemble.execution.rebuild import Reader, write_back
from lm_eval_ensemble.execution.suite import CANNOT, CannotJudgeError
from lm_eval_ensemble.execution.wire import MAX_REPLY, Channel, ClosedError, MalformedError, NotPlainError

__all__ = ["serve"]

_REPLIES = ({"r"}, {"e"}, {"r", "a"}, {"e", "a"})
_ONE_BY_ONE, _BATCH = 500, 250  # items of a guest's iterator that are asked for singly; and at once, after those


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
        return bool(self._guest.ask("bool", self._handle))

    def __len__(self) -> int:
        return int(self._guest.ask("len", self._handle, int))

    def __str__(self) -> str:
        return str(self._guest.ask("str", self._handle, str))

    def __repr__(self) -> str:
        return str(self._guest.ask("repr", self._handle, str))

    def __iter__(self) -> Iterator[Any]:
        iterator: Iterator[Any] = self._guest.ask("iter", self._handle, OpaqueIterator)
        return iterator


class OpaqueIterator(Opaque):
    """An iterator of the guest. Items are taken when they are asked for; one that is read far is read in batches."""

    __slots__ = ("_items", "_taken")

    def __init__(self, guest: _Guest, handle: int) -> None:
        super().__init__(guest, handle)
        self._items: list[Any] = []
        self._taken = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __len__(self) -> int:
        raise TypeError("an iterator has no length")

    def __next__(self) -> Any:
        if not self._items:
            most = 1 if self._taken < _ONE_BY_ONE else _BATCH
            self._items = self._guest.ask("next", self._handle, list, most=most)[::-1]
            if not self._items:
                raise StopIteration
        self._taken += 1
        return self._items.pop()


class OpaqueFunction(Opaque):
    """Something of the guest's that can be called: a closure, a class."""

    __slots__ = ()

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._guest.call(self._handle, arguments, keywords)


_OPAQUE: dict[str, type[Opaque]] = {"o": Opaque, "g": OpaqueIterator, "h": OpaqueFunction}


class _Guest:
    """The conversation with one guest. Threads of a test take turns.

    :param give_up: ends this process, with a verdict; for what no test may catch.
    """

    def __init__(self, channel: Channel, give_up: Callable[[str, bool], NoReturn]) -> None:
        self._channel, self._give_up = channel, give_up
        self._turn = RLock()
        self._opaque: dict[int, Opaque] = {}
        self.namespace: dict[str, Any] = {}
        self.calls = self.answers = 0

    def start(self, job: dict[str, Any]) -> bool:
        """Have the program run; whether it defines the entry point."""
        defined = self._exchange({"program": job["program"], "entry": job["entry"]}, [])
        self.answers = 0  # so far the program knows nothing of the test
        return defined is True

    def call(self, handle: int | None, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        with self._turn:
            self.calls += handle is None
            writer = Writer(self._handle_of, strict=True)
            plain = [*map(writer.write, arguments)]
            named = dict(zip(keywords, map(writer.write, keywords.values()), strict=True))
            return self._exchange({"do": "call", "of": handle, "with": plain, "by": named}, writer.objects)

    def ask(self, question: str, handle: int, kind: type = object, *, most: int = 1) -> Any:
        with self._turn:
            answer = self._exchange({"do": question, "of": handle, "at most": most}, [])
            if not isinstance(answer, kind):
                self._give_up("the program's process sent nonsense: an answer of an unexpected type", False)
            return answer

    def talk(self, message: Any) -> Any:
        """One message there, one back. Does not return if the guest has ended or sends nonsense."""
        try:
            self._channel.send(message)
            return self._channel.receive()
        except ClosedError:
            self._give_up("the program ended its process", True)
        except MalformedError as error:
            self._give_up(f"the program's answer cannot be read: {error}", False)

    def _exchange(self, request: dict[str, Any], objects: list[Any]) -> Any:
        """The value of the reply, after the containers that the guest changed have been changed here."""
        reply = self.talk(request)
        try:
            return self._value(reply, objects)
        except MalformedError as error:
            self._give_up(f"the program's process sent nonsense: {error}", False)

    def _value(self, reply: dict[str, Any], objects: list[Any]) -> Any:
        if not isinstance(reply, dict) or reply.keys() not in _REPLIES:
            raise MalformedError("a reply of an unknown form")
        reader = Reader(self._stand_in, objects=objects)
        value = reader.read(reply["r"]) if "r" in reply else None
        error = self._error(reply["e"]) if "e" in reply else None
        if "a" in reply:
            self._write_back(reply["a"], objects, reader)
        self.answers += 1
        if error is not None:
            raise error
        return value

    def _write_back(self, changes: Any, objects: list[Any], reader: Reader) -> None:
        if type(changes) is not list:
            raise MalformedError("changes that are no list")
        contents = [(objects[number], reader.read(content)) for number, content in map(_change_of(len(objects)), changes)]
        for target, content in contents:
            write_back(target, content)

    def _stand_in(self, tag: str, handle: int) -> Any:
        if tag == "a":
            return self._awaited(handle)
        if handle not in self._opaque:
            self._opaque[handle] = _OPAQUE[tag](self, handle)
        return self._opaque[handle]

    async def _awaited(self, handle: int) -> Any:
        """A coroutine of the guest's, which it runs to its end when the test awaits this one."""
        return self.ask("await", handle)

    def _handle_of(self, value: Any) -> Any:
        # A value that came from this guest may be handed back to it; any other must be plain.
        if isinstance(value, Opaque) and value._guest is self:
            return {"o": value._handle}
        raise NotPlainError(f"the test passed a value of type {type(value).__name__}, which cannot travel to the program")

    def _error(self, description: Any) -> BaseException:
        """The exception that the program raised, as one of a built-in type, or of a type that the prompt defines."""
        try:
            name, base, arguments, handle = description
            name = name if name.isidentifier() and len(name) <= 50 else "an unnamed exception"
            kind, own = getattr(builtins, base), self.namespace.get(name)
            if isinstance(own, type) and issubclass(own, kind):
                kind = own
            if type(handle) is int:  # its text is for the program to say, if anybody asks

                def text(_: BaseException) -> str:
                    return str(self.ask("str", handle, str))

                kind = type(kind.__name__, (kind,), {"__str__": text})
            error = _made(kind, Reader().read(arguments))
            error.__judge_name__ = name  # type: ignore[attr-defined]
        except Exception:
            raise MalformedError("an unknown exception") from None
        return error


def _change_of(count: int) -> Callable[[Any], tuple[int, Any]]:
    def change(message: Any) -> tuple[int, Any]:
        if type(message) is not list or len(message) != 2 or type(message[0]) is not int or not 0 <= message[0] < count:
            raise MalformedError("a change of an unknown container")
        return message[0], message[1]

    return change


def _made(kind: type[BaseException], arguments: list[Any]) -> BaseException:
    if not issubclass(kind, BaseException):
        raise MalformedError("an unknown exception")
    try:
        return kind(*arguments)
    except Exception:  # one that wants other arguments than those it keeps
        return kind.__new__(kind, *arguments)


def serve(link: socket.socket) -> NoReturn:
    """Examine jobs from ``link``, each with the socket of its guest, until it closes or a test may have left a trace."""
    lockdown.restrict_self("RLIMIT_AS", lockdown.MEMORY)
    gc.enable()
    while True:
        beginning, fds, _, _ = socket.recv_fds(link, 1 << 13, 1)
        if not beginning or not fds:
            os._exit(0)
        worker = Channel(link.fileno(), link.fileno(), ahead=beginning)
        if not _Examination(worker, fds[0]).run(worker.receive()):
            os._exit(0)
        os.close(fds[0])


class _Examination:
    """One job."""

    def __init__(self, worker: Channel, guest_fd: int) -> None:
        self._worker = worker
        self._guest = _Guest(Channel(guest_fd, guest_fd, limit=MAX_REPLY), self._give_up)
        self._again = False
        self._said = allocate_lock()

    def _give_up(self, why: str, closed: bool) -> NoReturn:
        self._say("fail", why, closed=closed)
        os._exit(0)

    def _say(self, status: str, why: str, *, closed: bool = False, again: bool = False) -> None:
        """Give the verdict; only the first one counts, whichever thread has it."""
        self._said.acquire()
        self._worker.send({"status": status, "why": why, "closed": closed, "again": again})

    def run(self, job: dict[str, Any]) -> bool:
        """Whether this process can be used again."""
        if "random" in sys.modules:
            sys.modules["random"].seed(0)
        try:
            why = self._together(job) if job["mode"] == "together" else self._apart(job)
        except BaseException as error:
            why = self._reason(error)
        self._say("fail" if why else "pass", why, again=self._again)
        return self._again

    def _together(self, job: dict[str, Any]) -> str:
        """Everything is done in the guest; the nonce says that its end was reached, as far as one believes the guest."""
        nonce = os.urandom(16).hex()
        answer = self._guest.talk({**job, "nonce": nonce})
        self._again = True
        if not isinstance(answer, dict) or answer.get("nonce") != nonce or not isinstance(answer.get("why"), str):
            return "the program's process sent nonsense: no verdict"
        return _tamed(answer["why"])

    def _apart(self, job: dict[str, Any]) -> str:
        entry, guest = job["entry"], self._guest
        namespace = guest.namespace = suite.module()
        head, _ = suite.compiled(job["head"], "<head>"), suite.compiled(job["test"], "<test>")
        suite.name_module(job["test"], entry)
        if not guest.start(job):
            return f"the program does not define {entry}"
        self._again = _leave_no_trace(job["head"], job["test"], entry)

        def candidate(*arguments: Any, **keywords: Any) -> Any:
            return guest.call(None, arguments, keywords)

        candidate.__name__ = candidate.__qualname__ = entry
        candidate.__doc__ = job.get("doc")
        exec(head, namespace)
        if entry.isidentifier():
            namespace[entry] = candidate
        suite.run(job["test"], namespace, candidate)
        if not guest.calls:
            raise CannotJudgeError(f"the test never called {entry or 'the function'}")
        return ""

    def _reason(self, error: BaseException) -> str:
        """Why the tests do not hold. Before the first answer nothing can be the program's fault."""
        name = getattr(error, "__judge_name__", None)
        if name is not None:
            return f"the program raised {name}"
        text = _text(error)
        if isinstance(error, NotPlainError | CannotJudgeError):
            return CANNOT + str(error)
        return text if self._guest.answers else CANNOT + f"the test failed before the program had answered ({text})"


def _text(error: BaseException) -> str:
    name = type(error).__name__
    try:
        text = f"{name}: {error}" if str(error) else name
    except BaseException:  # a value of the program in the message, and it does not want to be text
        text = name
    return _tamed(text)


def _tamed(text: str) -> str:
    """Short, and without surprises for a terminal or a log."""
    return text[:300].encode("utf-8", "replace").decode()


# What a test may do, and its examiner still be used for the next one: calculate with built-in types.
_WORDS = """
abs all any ascii bin bool bytearray bytes chr complex dict divmod enumerate filter float format frozenset hash hex int
isinstance issubclass iter len list map max min next oct ord pow print range repr reversed round set slice sorted str sum
tuple zip append extend insert pop remove index count sort reverse copy keys values items get setdefault update add discard
union intersection difference join split rsplit strip lstrip rstrip lower upper title replace startswith endswith find
isdigit isalpha islower isupper encode decode hexdigest Exception AssertionError ValueError TypeError __name__ __doc__
math pi e inf nan sqrt ceil floor fabs isclose isnan gcd prod log exp deepcopy string hashlib md5 re collections
random Random randint uniform randrange choice shuffle seed typing List Tuple Dict Set Optional Any Union Callable Iterable
ascii_lowercase ascii_uppercase ascii_letters digits
"""
_HARMLESS = frozenset(_WORDS.split())
_TRACES = {opcode.opmap.get(name) for name in ("STORE_ATTR", "DELETE_ATTR", "IMPORT_STAR")}
_STORE_NAME = opcode.opmap["STORE_NAME"]


@functools.lru_cache(maxsize=512)
def _leave_no_trace(head: str, test: str, entry: str) -> bool:
    """Whether texts can only calculate, so that nothing of them outlives them in this process. Doubtful means no."""
    codes = [suite.compiled(head, "<head>"), suite.compiled(test, "<test>")]
    stores = [
        (code.co_names, where)
        for code in codes
        for what, where in zip(code.co_code[::2], code.co_code[1::2], strict=True)
        if what == _STORE_NAME
    ]
    names = {names[where] for names, where in stores} | _HARMLESS | {entry}
    return all(len(code.co_names) < 256 and _only_calculates(code, names) for code in codes)


def _only_calculates(code: CodeType, names: set[str]) -> bool:
    if _TRACES & set(code.co_code[::2]) or not names.issuperset(code.co_names):
        return False
    return all(_only_calculates(inner, names) for inner in code.co_consts if isinstance(inner, CodeType))
