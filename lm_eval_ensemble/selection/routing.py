"""Routing: a rule picks one member before anything is generated, so that only it runs.

::

    suffix_empty:fim; task=santacoder*&prefix_lines>40:fim; *:dllm
    suffix_empty?fim:dllm                                          the same as suffix_empty:fim;*:dllm

Clauses are tried from left to right; the first whose conditions all hold names the member. The last one must be ``*``, so
that every gap has a member. Conditions are joined by ``&``, and ``!`` turns one around:

    *                         always
    task=GLOB                 the task's name; ``*`` stands for any characters
    prefix_empty, suffix_empty        nothing but blank space on that side of the gap
    FEATURE OP NUMBER         OP is one of < <= > >= = !=; FEATURE is prefix_lines, suffix_lines (lines that are not blank),
                              prefix_chars, suffix_chars, or indent (spaces before the next line that is not blank, else
                              before the last one)
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from lm_eval_ensemble.errors import ConfigError, did_you_mean
from lm_eval_ensemble.types import InfillRequest

__all__ = ["FEATURES", "FLAGS", "Router", "parse_route"]

Condition = Callable[[InfillRequest], bool]


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def _indent(request: InfillRequest) -> int:
    near = [*_lines(request.suffix)[:1], *_lines(request.prefix)[-1:]]
    line = near[0].expandtabs(4) if near else ""
    return len(line) - len(line.lstrip())


#: numbers of a gap. None of them looks at the answer.
FEATURES: dict[str, Callable[[InfillRequest], int]] = {
    "prefix_lines": lambda request: len(_lines(request.prefix)),
    "suffix_lines": lambda request: len(_lines(request.suffix)),
    "prefix_chars": lambda request: len(request.prefix),
    "suffix_chars": lambda request: len(request.suffix),
    "indent": _indent,
}
FLAGS: dict[str, Condition] = {
    "prefix_empty": lambda request: not request.prefix.strip(),
    "suffix_empty": lambda request: not request.suffix.strip(),
}
_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "!=": operator.ne}
_COMPARISON = re.compile(r"(\w+)\s*(<=|>=|!=|<|>|=)\s*(.*)")
_TERNARY = re.compile(r"([^?:;]+)\?([^?:;]+):([^?:;]+)")


@dataclass(frozen=True)
class Router:
    """``choose`` is a pure function of the request: the same gap always goes to the same member."""

    rule: str
    clauses: tuple[tuple[tuple[Condition, ...], str], ...]

    def choose(self, request: InfillRequest) -> str:
        """The name of the member that shall fill this gap."""
        return next(member for conditions, member in self.clauses if all(holds(request) for holds in conditions))

    @property
    def members(self) -> tuple[str, ...]:
        """The members the rule names, in its order: the others need not be loaded."""
        return tuple(dict.fromkeys(member for _, member in self.clauses))


def parse_route(rule: str, members: Sequence[str]) -> Router:
    """:param members: the names a clause may choose.

    :raises ConfigError: names every fault of the rule: its clause, what was found, what was expected.
    """
    whole = _TERNARY.fullmatch(rule.strip())
    text = f"{whole[1]}:{whole[2]};*:{whole[3]}" if whole else rule
    faults: list[str] = []
    clauses: list[tuple[tuple[Condition, ...], str]] = []
    written = [clause.strip() for clause in text.strip().rstrip(";").split(";")]
    for number, clause in enumerate(written, 1):
        where = f"route: clause {number} ({clause!r})"
        conditions, colon, member = (part.strip() for part in clause.rpartition(":"))
        if not colon or not conditions:
            faults.append(f"{where}: expected CONDITION:MEMBER.")
            continue
        if member not in members:
            faults.append(f"{where}: {member!r} is not a member.{did_you_mean(member, members)}")
        if (conditions == "*") != (number == len(written)):
            last = "the last clause must be *:MEMBER, so that every gap has one" if conditions != "*" else ""
            faults.append(f"{where}: {last or 'no clause after * is ever asked; put it last'}.")
        parsed = list(_conditions(conditions, where, faults))
        clauses.append((tuple(parsed), member))
    if faults:
        raise ConfigError("\n".join(faults))
    return Router(rule, tuple(clauses))


def _conditions(text: str, where: str, faults: list[str]) -> Iterator[Condition]:
    for part in (part.strip() for part in text.split("&")):
        turned = part.startswith("!")
        try:
            condition = _condition(part.removeprefix("!").strip())
        except ConfigError as error:
            faults.append(f"{where}: {error}")
            continue
        yield _not(condition) if turned else condition


def _not(condition: Condition) -> Condition:
    return lambda request: not condition(request)


def _condition(text: str) -> Condition:
    if text == "*":
        return lambda request: True
    if text in FLAGS:
        return FLAGS[text]
    found = _COMPARISON.fullmatch(text)
    if not found:
        expected = "*, a flag, task=GLOB or FEATURE OP NUMBER"
        raise ConfigError(f"{text!r} is not a condition; expected {expected}.{did_you_mean(text, [*FLAGS, *FEATURES, 'task'])}")
    name, sign, value = found.groups()
    if name == "task":
        if sign not in ("=", "!=") or not re.fullmatch(r"[\w.*-]+", value):
            raise ConfigError(f"{text!r}: expected task=NAME or task!=NAME, where * stands for any characters.")
        return lambda request: fnmatchcase(request.task, value) == (sign == "=")
    if name not in FEATURES:
        raise ConfigError(f"{name!r} is not a feature.{did_you_mean(name, [*FEATURES, *FLAGS, 'task'])}")
    if not re.fullmatch(r"[0-9]{1,9}", value):
        raise ConfigError(f"{text!r}: got {value!r}, expected a whole number >= 0.")
    measure, compare, number = FEATURES[name], _COMPARE[sign], int(value)
    return lambda request: bool(compare(measure(request), number))
