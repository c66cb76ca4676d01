from __future__ import annotations

import ast

import pytest

from lm_eval_ensemble.problems import LONGEST, compiles
from lm_eval_ensemble.selection.static import same_program

HOSTILE = {
    "brackets": "(" * 50_000,
    "nested lists": "[" * 3_000 + "]" * 3_000,
    "signs": "-" * 90_000 + "1",
    "negations": "not " * 20_000 + "x",
    "lambdas": "lambda: " * 10_000 + "0",
    "attributes": "x" + ".x" * 40_000,
    "sums": "x" + "+x" * 40_000,
    "powers": "x" + "**x" * 20_000,
    "conditions": "x if y else " * 8_000 + "z",
    "blocks": "\n".join("  " * i + "if x:" for i in range(200)) + "\n" + "  " * 200 + "x\n",
    "elif": "if x: pass\n" + "elif x: pass\n" * 6_000,
    "digits": "x = " + "9" * 90_000,
    "big power": "x = 10 ** 10 ** 10 ** 10\ny = 'a' * 10 ** 12\n",
    "null byte": "x = 1\0",
    "surrogate": "x = '\ud800'",
    "warning": "x = '\\d' is 1\nassert (1, 2)\n",
    "encoding": "# -*- coding: no-such-codec -*-\nx = 1\n",
    "long": "x = 1\n" * 50_000,
    "format": 'f"' + "{" * 5_000,
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_text_from_a_model_cannot_raise(source: str) -> None:
    assert compiles(source) in (True, False, None)
    assert same_program(source, source + "#") in (True, False)


def test_what_exceeds_the_limits_is_not_called_broken() -> None:
    assert compiles("x = 1\n") is True
    assert compiles("x = (\n") is False
    assert compiles("return 1\n") is False  # parses, but no interpreter runs it
    assert compiles("#" * (LONGEST + 1)) is None
    assert compiles("x" + ".x" * 40_000) is not False


PAIRS = [
    ("x = (1)\n", "x = 1  # one\n", True),
    ("x = 'a'\n", 'x = "a"\n', True),
    ("x = 16\n", "x = 0x10\n", True),
    ("x = 1\n", "x = 1.0\n", False),
    ("x = 1\n", "x = True\n", False),
    ("x = 1\n", "x = 2\n", False),
    ("x = 'a'\n", "x = b'a'\n", False),
    ("x = 1\n", "x = 1\ny = 1\n", False),
    ("if a: b\n", "if a:\n    b\n", True),
]


@pytest.mark.parametrize(("one", "other", "same"), PAIRS)
def test_same_program_is_equality_of_syntax_trees(one: str, other: str, same: bool) -> None:
    assert same_program(one, other) == same == (ast.dump(ast.parse(one)) == ast.dump(ast.parse(other)))


def test_two_broken_files_are_not_the_same_program() -> None:
    assert not same_program("x = (", "x = ( ")
    assert same_program("x = (", "x = (")
