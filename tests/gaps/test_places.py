"""Where gaps can be cut, and what stays of the file around them."""

from __future__ import annotations

import ast
import random

import pytest

from lm_eval_ensemble.gaps.places import KINDS, Place, Program
from lm_eval_ensemble.gaps.sources import CodeFile
from lm_eval_ensemble.problems import compiles

TEXT = '''"""Docstring of the file: nothing here is code."""

import json


@wrapped
def total(numbers, start=0):
    """Docstring of one line, long enough."""
    # a comment that is long enough to be a gap
    result = start
    for number in numbers:
        result += scaled(number, factor=2)
    if not numbers:
        pass
    return json.dumps(
        result,
    )


def stub(numbers):
    """Only a docstring and nothing."""
    raise NotImplementedError


class Späte:
    text = """line of a text, no code
    another line of it
    """
    name = "ü", ["ä"], other(name, "ö")
'''


def found(text: str = TEXT, language: str = "python", kinds: tuple[str, ...] = tuple(KINDS)) -> dict[str, list[str]]:
    program = Program(CodeFile("a/b.py", text, language))
    texts: dict[str, list[str]] = {kind: [] for kind in kinds}
    for place in program.places(kinds):
        assert text[: place.start].count("\n") + 1 == place.first
        assert text[: place.end].removesuffix("\n").count("\n") + 1 == place.last
        texts[place.kind].append(text[place.start : place.end])
    return texts


def test_places_of_python() -> None:
    texts = found()
    assert texts["body"] == [TEXT[TEXT.index("    result = start\n") : TEXT.index("\n\ndef stub")]]
    loop = "    for number in numbers:\n        result += scaled(number, factor=2)\n"
    assert {loop, "    result = start\n" + loop, "    return json.dumps(\n        result,\n    )\n"} <= set(texts["lines"])
    assert not any("Docstring" in text or text.lstrip().startswith("#") for own in texts.values() for text in own)
    assert not any("of a text" in text or "of it" in text for kind in ("line", "span") for text in texts[kind])
    assert "        pass\n" not in texts["line"]
    assert set(texts["arguments"]) == {"number, factor=2", 'name, "ö"'}
    # Columns of the syntax tree are bytes.
    assert {"scaled(number, factor=2)", "not numbers", 'other(name, "ö")'} <= set(texts["span"])
    assert all(ast.parse(text, mode="eval") for text in texts["span"])


def test_statements_that_share_a_line_are_no_lines_of_their_own() -> None:
    texts = found("if ready: first(one)\nelse:\n    second(two); third(three)\n    fourth(four)\n")
    assert "    second(two); third(three)\n    fourth(four)\n" in texts["lines"]
    assert "    fourth(four)\n" in texts["line"]
    assert not any(text.startswith(("first", "third")) for text in texts["lines"])


def test_other_languages_by_line() -> None:
    text = "// a comment of some length\nfunction half(x) {\n  return x / 2.0;\n}\n\nexport default half;\n"
    texts = found(text, "javascript")
    assert texts["line"] == ["function half(x) {\n", "  return x / 2.0;\n", "export default half;\n"]
    assert "function half(x) {\n  return x / 2.0;\n}\n" in texts["lines"]
    assert not any("comment" in text or "\n\n" in text for text in texts["lines"])
    assert texts["body"] == texts["span"] == texts["arguments"] == []


def long_class(methods: int) -> str:
    body = "".join(
        f"    def method_{i}(self, value):\n        try:\n            return value + {i}\n        except TypeError:\n"
        f"            return other(value, {i})\n\n"
        for i in range(methods)
    )
    return "import os\n\nlimit = 3\n\n\n@decorated\nclass Long(object):\n" + body + "\nlast = Long()\n"


@pytest.mark.parametrize(("before", "after"), [(300, 200), (500, 150), (10**6, 200), (300, 10**6)])
def test_what_is_left_of_a_long_file_is_a_program(before: int, after: int) -> None:
    text = long_class(40)
    program = Program(CodeFile("a.py", text, "python"))
    places = random.Random(0).sample(list(program.places(tuple(KINDS))), 60)
    for place in places:
        prefix, suffix = program.window(place, before, after)
        assert len(prefix) <= before
        assert len(suffix) <= after
        middle = text[place.start : place.end]
        if prefix.startswith("class Long(object):\n"):  # the class begins too far away: its first line stays
            assert text[: place.start].endswith(prefix.removeprefix("class Long(object):\n"))
        else:
            assert text[: place.start].endswith(prefix)
        assert text[place.end :].startswith(suffix)
        assert compiles(prefix + middle + suffix), (place, prefix)


def test_a_whole_file_stays_whole() -> None:
    program = Program(CodeFile("a.py", TEXT, "python"))
    place = next(program.places(("body",)))
    prefix, suffix = program.window(place, 6000, 3000)
    assert prefix + TEXT[place.start : place.end] + suffix == TEXT


def test_without_a_border_it_is_the_end_of_a_line() -> None:
    text = "".join(f"let value{i} = {i};\n" for i in range(50))
    program = Program(CodeFile("a.js", text, "javascript"))
    start = text.index("let value25")
    prefix, suffix = program.window(Place("line", start, text.index("\n", start) + 1, 26, 26), 40, 40)
    assert (prefix, suffix) == (
        "let value23 = 23;\nlet value24 = 24;\n",
        "let value26 = 26;\nlet value27 = 27;\n",
    )
