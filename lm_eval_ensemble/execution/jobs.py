"""What goes into the judge and what comes out."""

from __future__ import annotations

import ast
import functools
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lm_eval_ensemble.types import WORKER_LOST, is_of_the_judge

__all__ = ["LOST", "MODES", "Job", "Mode", "Status", "Verdict"]

Status = Literal["pass", "fail", "timeout"]
Mode = Literal["split", "together"]
MODES: tuple[Mode, ...] = get_args(Mode)
LOST = WORKER_LOST


@dataclass(frozen=True)
class Job:
    """One program to judge: ``prompt + completion + suffix``, and the tests of its function ``entry_point``.

    ``test`` defines ``check(candidate)``, or calls ``entry_point`` itself, or both. What stands in ``prompt`` before the
    entry point (imports, helper functions) is trusted and available to the tests. An empty ``entry_point`` stands for the
    last function that the prompt defines. ``whole``: the completion is the program, and the prompt says only what the tests
    may use.
    """

    prompt: str
    completion: str
    suffix: str
    test: str
    entry_point: str
    whole: bool = False

    @property
    def program(self) -> str:
        if self.whole:
            return self.completion + "\n"
        return self.prompt + self.completion + self.suffix + "\n"

    @property
    def head(self) -> str:
        """What of the prompt stands before the entry point; see ``_head``."""
        return _head(self.prompt, self.entry)

    @property
    def entry(self) -> str:
        """The entry point, or what an empty one stands for."""
        if self.entry_point:
            return self.entry_point
        names = re.findall(r"^(?:async\s+)?def\s+(\w+)", self.prompt, re.MULTILINE)
        return names[-1] if names else ""

    def message(self, mode: Mode = "split") -> dict[str, Any]:
        message: dict[str, Any] = {"mode": mode, "program": self.program, "entry": self.entry}
        message |= {"head": self.head, "test": self.test}
        if "doc" in self.test:  # doctest, or __doc__
            message["doc"] = _doc(self.prompt, self.entry)
        return message


@dataclass(frozen=True)
class Verdict:
    """``why`` is empty for a pass.

    A ``fail`` whose ``why`` is ``worker lost`` (its process was killed from outside, twice) or begins with ``cannot
    judge`` (the test needs what this mode does not offer, or is broken) says nothing about the program: ``judged`` is
    False. ``mode`` says how it was judged; what was judged ``together`` can be forged by the program, and what is
    ``unjudgeable`` fails its own reference in both modes (``auto`` only).
    """

    status: Status
    why: str = ""
    mode: Mode | Literal["unjudgeable"] = "split"

    @property
    def passed(self) -> bool:
        return self.status == "pass"

    @property
    def judged(self) -> bool:
        return not is_of_the_judge(self.why)


@functools.lru_cache(maxsize=4096)
def _head(prompt: str, entry: str) -> str:
    """The statements of the prompt before the first definition of the entry point, decorators included.

    Only the prompt decides, never the completion. If it does not define the entry point (the completion does, or the
    gap is elsewhere), these are all its statements that are complete.
    """
    definition = re.compile(rf"^(?:async\s+)?def\s+{re.escape(entry)}\b", re.MULTILINE)
    found = [match.start() for match in definition.finditer(prompt)]
    if found and "@" not in prompt[: found[0]] and '"""' not in prompt[: found[0]] and "'''" not in prompt[: found[0]]:
        return prompt[: found[0]]  # nothing that could reach from before the line into it
    for start in found:
        for cut in (start, *_starts_before(prompt, start, only="@")):
            if _is_whole(prompt[:cut]):
                return prompt[:cut]
    # A statement that the prompt leaves off in may go on in the completion.
    goes_on = not prompt.endswith("\n") or (prompt.rstrip().rpartition("\n")[2][:1].isspace() and not prompt.endswith("\n\n"))
    ends = (*(() if goes_on else (len(prompt),)), *_starts_before(prompt, len(prompt)))
    return next((prompt[:cut] for cut in ends if _is_whole(prompt[:cut])), "")


@functools.lru_cache(maxsize=512)
def _doc(prompt: str, entry: str) -> str | None:
    """The docstring that the prompt gives the entry point."""
    found = re.search(rf"^(?:async\s+)?def\s+{re.escape(entry)}\b", prompt, re.MULTILINE)
    if found is None:
        return None
    definition = prompt[found.start() :]
    ends = (match.end() for match in re.finditer(r"$", definition, re.MULTILINE))
    whole = next((definition[:end] for end in ends if _is_whole(definition[:end])), "")  # of its body the first statement
    return next((ast.get_docstring(node, clean=False) for node in ast.parse(whole).body), None)  # type: ignore[arg-type]


def _starts_before(prompt: str, end: int, only: str = "") -> Iterator[int]:
    """Where lines begin that are not indented, backwards; with ``only``, those that begin with it, at most 20."""
    starts = [match.start() for match in re.finditer(rf"^(?=[^\s#]){re.escape(only)}", prompt[:end], re.MULTILINE)]
    yield from starts[::-1][: 20 if only else None]


def _is_whole(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes and the like are not ours to tell
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
