"""Where a gap can be cut out of a file: by the syntax tree in Python, by lines in other languages.

A docstring is never a gap, nor is a comment, nor what says nothing (a bracket, ``else:``, ``pass``).
"""

from __future__ import annotations

import ast
import bisect
import itertools
import keyword
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lm_eval_ensemble.gaps.sources import CodeFile

__all__ = ["KINDS", "Place", "Program"]

#: kind -> what it is; those after ``lines`` want a syntax tree.
KINDS = {
    "line": "one line",
    "lines": "two to eight lines: whole statements of one block",
    "body": "the body of a function, without its docstring, at most 30 lines",
    "span": "an expression within a line",
    "arguments": "what stands between the brackets of a call",
}
_MOST_LINES, _MOST_OF_A_BODY = 8, 30
_FEWEST, _LONGEST_SPAN = 8, 120  # characters that are no blanks; characters
_WORD = re.compile(r"[^\W\d]\w*")
_COMMENT = re.compile(r"\s*(?:#|//|/?\*|--|;;|<!--)")
_SAYS_NOTHING = {*keyword.kwlist, "self", "cls", "this", "null", "nil", "true", "false", "end", "fi", "done", "then", "do"}
_EXPRESSIONS = (
    *(ast.BinOp, ast.BoolOp, ast.Compare, ast.Call, ast.Attribute, ast.Subscript, ast.UnaryOp, ast.IfExp, ast.Lambda),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.List, ast.Dict, ast.Set),
)
Block = Sequence[ast.stmt]


class Place(NamedTuple):
    """``text[start:end]`` of a file, which begins in ``line`` and covers ``lines`` (both from 1, the latter inclusive)."""

    kind: str
    start: int
    end: int
    first: int
    last: int


class Program:
    """A file and the places in it.

    :raises SyntaxError: a file of Python that this Python cannot parse; ``ValueError`` and ``RecursionError`` likewise.
    """

    def __init__(self, source: CodeFile) -> None:
        self.source, self.text = source, source.text
        self._lines = self.text.split("\n")
        self._starts = [0, *itertools.accumulate(len(line) + 1 for line in self._lines)]
        self._tree: ast.Module | None = None
        if source.language == "python":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._tree = ast.parse(self.text)

    def places(self, kinds: Sequence[str]) -> Iterator[Place]:
        """All places of these kinds, in no particular order."""
        found = self._of_text() if self._tree is None else self._of_tree(self._tree)
        return (place for place in found if place.kind in kinds and not is_trivial(self.text[place.start : place.end]))

    def window(self, place: Place, before: int, after: int) -> tuple[str, str]:
        """Prefix and suffix, of at most so many characters. What is left out ends where a statement does, so that the rest is a
        program: of a class or function that begins too far away its first line stays, and the nearest of its statements.
        Where there is no such place (and in other languages) it is at the end of a line."""
        return self._before(place, before), self._behind(place, after)

    def _before(self, place: Place, reach: int) -> str:
        start = place.start
        if start <= reach:
            return self.text[:start]
        heads = ""
        for block, around in self._around(place):
            begins = [self._starts[_first(statement) - 1] for statement in block]
            near = next((begin for begin in begins if start - reach + len(heads) <= begin <= start), None)
            if near is not None:
                return heads + self.text[near:start]
            if not isinstance(around, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                break
            heads += self.text[self._starts[around.lineno - 1] : self._starts[_first(around.body[0]) - 1]]
        line = self._starts[bisect.bisect_left(self._starts, start - reach)]
        return self.text[min(line, start) if line <= start else start - reach : start]

    def _behind(self, place: Place, reach: int) -> str:
        last = place.end + reach
        if last >= len(self.text):
            return self.text[place.end :]
        ends = [place.end]
        for block, _ in self._around(place):
            ends += [end for s in block if place.end <= (end := self._starts[_last(s)]) <= last]
        if len(ends) == 1:
            ends.append(max(self._starts[bisect.bisect_right(self._starts, last) - 1], place.end))
        return self.text[place.end : max(ends)]

    def _around(self, place: Place) -> list[tuple[Block, ast.stmt | None]]:
        """The blocks around a place, from the file inwards, each with its statement that holds the place. They end before the
        block of a ``try``, which is no program without its ``except``."""
        found: list[tuple[Block, ast.stmt | None]] = []
        block: Block | None = None if self._tree is None else self._tree.body
        while block:
            around = next((s for s in block if self._holds(s, s, place)), None)
            found.append((block, around))
            inner = [] if around is None else [*_blocks(around), *(h.body for h in getattr(around, "handlers", ()))]
            block = next((own for own in inner if self._holds(own[0], own[-1], place)), None)
            if isinstance(around, ast.Try) and block is around.body:
                break
        return found

    def _holds(self, first: ast.stmt, last: ast.stmt, place: Place) -> bool:
        return self._starts[_first(first) - 1] <= place.start and place.end <= self._starts[_last(last)]

    def _of_text(self) -> Iterator[Place]:
        """Lines, and runs of lines without a blank or a comment."""
        code = [bool(line.strip()) and not _COMMENT.match(line) for line in self._lines]
        for number, is_code in enumerate(code, 1):
            if is_code:
                yield self._whole("line", number, number)
                for size in range(2, _MOST_LINES + 1):
                    if number + size - 1 > len(code) or not code[number + size - 2]:
                        break
                    yield self._whole("lines", number, number + size - 1)

    def _of_tree(self, tree: ast.Module) -> Iterator[Place]:
        texts = {number for node in _walk(tree) for number in _lines_of_text(node)}
        for place in self._of_blocks(tree):
            if texts.isdisjoint(range(place.first, place.last + 1)):
                yield place
        for number, line in enumerate(self._lines, 1):
            if line.strip() and number not in texts and not _COMMENT.match(line):
                yield self._whole("line", number, number)
        for node in _walk(tree):
            if isinstance(node, ast.Call) and (node.args or node.keywords):
                yield from self._arguments(node)
            if isinstance(node, _EXPRESSIONS) and node.lineno == node.end_lineno:
                start, end = self._offsets(node)
                if end - start <= _LONGEST_SPAN:
                    yield Place("span", start, end, node.lineno, node.lineno)

    def _of_blocks(self, tree: ast.Module) -> Iterator[Place]:
        for node in _walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from self._body(node)
            for block in _blocks(node):
                yield from self._runs(block)

    def _body(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Place]:
        rest = [s for s in function.body if not _is_docstring(s)]
        if rest and self._begins_a_line(rest[0]) and self._ends_a_line(rest[-1]):
            first, last = _first(rest[0]), _last(rest[-1])
            if last - first < _MOST_OF_A_BODY and not _is_stub(rest):
                yield self._whole("body", first, last)

    def _runs(self, block: Block) -> Iterator[Place]:
        """Statements that follow each other, of two to eight lines together."""
        for i, one in enumerate(block):
            for other in block[i:]:
                if _is_docstring(other) or _last(other) - _first(one) >= _MOST_LINES:
                    break
                if _last(other) > _first(one) and self._begins_a_line(one) and self._ends_a_line(other):
                    yield self._whole("lines", _first(one), _last(other))

    def _arguments(self, call: ast.Call) -> Iterator[Place]:
        start = self.text.find("(", self._offset(call.func.end_lineno or 0, call.func.end_col_offset or 0)) + 1
        end = self._offsets(call)[1] - 1
        last = call.end_lineno or call.lineno
        first = bisect.bisect_right(self._starts, start)
        if 0 < start < end and last - first < _MOST_LINES:
            yield Place("arguments", start, end, first, last)

    def _whole(self, kind: str, first: int, last: int) -> Place:
        return Place(kind, self._starts[first - 1], min(self._starts[last], len(self.text)), first, last)

    def _begins_a_line(self, statement: ast.stmt) -> bool:
        """Nothing stands before it (``if x: return``)."""
        line = _first(statement)
        return not self.text[self._starts[line - 1] : self._offsets(statement)[0]].strip(" \t@")

    def _ends_a_line(self, statement: ast.stmt) -> bool:
        """Nothing but a comment stands behind it (``a = 1; b = 2``)."""
        behind = self.text[self._offsets(statement)[1] : self._starts[_last(statement)]]
        return behind.strip()[:1] in ("", "#")

    def _offsets(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        line = _first(node) if isinstance(node, ast.stmt) else node.lineno
        # A decorator is indented as what it decorates.
        return self._offset(line, node.col_offset), self._offset(node.end_lineno or 0, node.end_col_offset or 0)

    def _offset(self, line: int, column: int) -> int:
        """The syntax tree counts bytes of UTF-8."""
        text = self._lines[line - 1]
        return self._starts[line - 1] + (column if text.isascii() else len(text.encode()[:column].decode(errors="ignore")))


def is_trivial(text: str) -> bool:
    """Whether a gap says too little: fewer than 8 characters, or no name but keywords."""
    return len("".join(text.split())) < _FEWEST or set(_WORD.findall(text)) <= _SAYS_NOTHING


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes, but those inside of f-strings: Python before 3.12 does not know where they stand."""
    yield node
    if not isinstance(node, ast.JoinedStr):
        for child in ast.iter_child_nodes(node):
            yield from _walk(child)


def _blocks(node: ast.AST) -> Iterator[Block]:
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        if isinstance(block, list) and block:
            yield block


def _first(statement: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(decorator.lineno for decorator in decorators)])


def _last(statement: ast.stmt) -> int:
    return statement.end_lineno or statement.lineno


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _lines_of_text(node: ast.AST) -> range:
    """The lines of a docstring, or of a string of several lines: they are no code."""
    if isinstance(node, ast.Expr) and _is_docstring(node):
        return range(node.lineno, _last(node) + 1)
    if isinstance(node, ast.JoinedStr | ast.Constant) and node.end_lineno not in (None, node.lineno):
        return range(node.lineno, (node.end_lineno or 0) + 1)
    return range(0)


def _is_stub(body: Block) -> bool:
    """``pass``, ``...``, ``raise NotImplementedError``."""
    if len(body) != 1:
        return False
    (only,) = body
    return (
        isinstance(only, ast.Pass)
        or (isinstance(only, ast.Expr) and isinstance(only.value, ast.Constant))
        or (isinstance(only, ast.Raise) and "NotImplemented" in ast.dump(only))
    )
