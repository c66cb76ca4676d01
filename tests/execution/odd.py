"""Odd text and honest code: what a judge must not stumble over. Continues the table of ``hostile.py``."""

from __future__ import annotations

# A table: one case per line.
# ruff: noqa: E501
# fmt: off
from tests.execution.hostile import FLOODS, FORGED, LIMITS, PROCESSES, REACH, RIGHT, Case, call, top, value

__all__ = ["CASES"]


def _text(name: str, completion: str, status: str = "pass", test: str | None = None) -> Case:
    case = Case(name, "odd text", completion, "pass" if status == "pass" else "fail")
    return case if test is None else Case(case.name, case.category, completion, case.status, test)


TEXT = [
    _text("a lone surrogate", "    return x + 1 # \ud800\n", "fail"),
    _text("NUL", "    return x + 1\0\n", "fail"),
    _text("a byte order mark in the middle", "    \ufeffreturn x + 1\n", "fail"),
    _text("tabs against spaces", "    y = x\n\treturn y + 1\n", "fail"),
    _text("a __future__ import in the middle", "    return x + 1\n\ny = 1\nfrom __future__ import division\n", "fail"),
    _text("nothing", "", "fail"),
    _text("only blanks", "   \n  \n", "fail"),
    _text("prose", "Sure! Here is the code:\n```python\n    return x + 1\n```\n", "fail"),
    _text("100,000 parentheses", "    return " + "(" * 100_000 + "x" + ")" * 100_000 + "\n", "fail"),
    _text("100,000 minus signs", "    return " + "-" * 100_000 + "x\n", "fail"),
    _text("100,000 levels of lists", "    return " + "[" * 90 + "x" + "]" * 90 + "\n", "fail"),
    _text("CRLF", "    y = x\r\n    return y + 1\r\n"),
    _text("a lone CR", "    y = x\r    return y + 1\r"),
    _text("a form feed", "    y = x\n\f    return y + 1\n"),
    _text("a coding cookie in the middle", "    # -*- coding: latin-1 -*-\n    return x + 1\n"),
    _text("a comment of 1 MB", "    # " + "é" * 500_000 + "\n    return x + 1\n"),
    _text("a line of 1 MB", "    return x + 1" + " + 0" * 2_000 + "; '" + "a" * 1_000_000 + "'\n"),
    _text("10,000 lines", "    y = x\n" + "    y += 0\n" * 10_000 + "    return y + 1\n"),
    _text("names in other scripts", "    größe = x\n    変数 = größe\n    return 変数 + 1\n"),
    _text("no newline at the end", "    return x + 1"),
    _text("a main block, which must not run", top("if __name__ == '__main__': f = None")),
    _text("the name of the module is that of the reference", call("assert __name__ == 'builtins'\nreturn x + 1")),
    _text("surrogates in the answer", "    return '\\ud800' * x\n", test="def check(c):\n    assert c(2) == '\\ud800\\ud800'\n"),
    _text("NUL in the answer", "    return '\\0'\n", test="def check(c):\n    assert c(2) == '\\0'\n"),
    _text("annotations are evaluated", top("def g(a: does_not_exist): pass"), "fail"),
]

HONEST = [
    value("None", "None", "assert c(1) is None"),
    value("True is True", "x > 0", "assert c(1) is True and c(-1) is False"),
    value("a float", "x / 3", "assert c(1) == 1 / 3 and type(c(1)) is float"),
    value("infinity", "float('-inf')", "assert c(1) == float('-inf')"),
    value("negative zero", "-0.0", "import math\nassert math.copysign(1, c(1)) == -1"),
    value("a large integer", "3 ** 20000 * x", "assert c(-1) == -(3 ** 20000)"),
    value("a complex number", "complex(x, float('inf'))", "assert c(1) == complex(1, float('inf'))"),
    value("bytes", "bytes([x, 255])", "assert c(0) == b'\\x00\\xff'"),
    value("a tuple is no list", "(x, [x, (x,)])", "assert c(1) == (1, [1, (1,)]) != [1, [1, [1]]]"),
    value("a set", "{x, (x, 'a'), frozenset({x})}", "assert c(1) == {1, (1, 'a'), frozenset({1})}"),
    value("a dict with keys of every kind", "{x: 1, (x,): 2, None: 3, 'o': {'t': 4}}", "assert c(1) == {1: 1, (1,): 2, None: 3, 'o': {'t': 4}}"),
    value("a dict that looks like our code", "{'o': 0}", "assert c(1) == {'o': 0}"),
    value("a Fraction", "__import__('fractions').Fraction(x, 3)", "from fractions import Fraction\nassert c(1) == Fraction(1, 3)"),
    value("a Decimal", "__import__('decimal').Decimal('1.10')", "from decimal import Decimal\nassert str(c(1)) == '1.10'"),
    value("a named tuple", "__import__('collections').namedtuple('P', 'a b')(x, 2)", "assert c(1) == (1, 2)"),
    value("a Counter", "__import__('collections').Counter('aab')", "assert c(1) == {'a': 2, 'b': 1}"),
    value("a str subclass", "type('S', (str,), {})('a')", "assert c(1) == 'a' and type(c(1)) is str"),
    value("an enum of int", "__import__('enum').IntEnum('E', 'A B')(1)", "assert c(1) == 1"),
    value("a deque, iterated", "__import__('collections').deque([x, 2])", "assert tuple(c(1)) == (1, 2)"),
    value("a generator, iterated", "(i for i in range(x))", "assert list(c(3)) == [0, 1, 2]"),
    value("a range, measured", "range(x)", "assert len(c(3)) == 3 and bool(c(3)) and not c(0)"),
    value("an object, printed", "type('S', (), {'__str__': lambda s: 'text'})()", "assert str(c(1)) == 'text'"),
    value("a generator is no list", "(i for i in range(x))", "assert c(3) == [0, 1, 2]", "fail"),
    value("an answer handed back", "x if isinstance(x, range) else range(x)", "assert len(c(c(3))) == 3"),
    value("keyword arguments", "x * 2", "assert c(x=4) == 8"),
    value("a tuple as argument", "x == (1, {2}, {'a': b'b'})", "assert c((1, {2}, {'a': b'b'}))"),
    value("a list of 200,000", "[x] * 200_000", "assert c(7) == [7] * 200_000"),
    Case("state between calls", "honest code", top("n = [0]\ndef f(x):\n    n[0] += 1\n    return n[0]"), "pass", "def check(c):\n    assert [c(0), c(0)] == [1, 2]\n"),
    Case("a test that calls itself", "honest code", RIGHT, "pass", "def check(c):\n    assert c(1) == 2\n\ncheck(f)\n"),
    Case("a helper from the prompt, in the test", "honest code", RIGHT, "pass", "def check(c):\n    assert half(c(3)) == 2\n", "def half(x):\n    return x / 2\n\n\ndef f(x):\n"),
    Case("a function it does not return from a def", "honest code", "    pass\n\nf = lambda x: x + 1\n", "pass"),
    Case("a callable object", "honest code", "    pass\n\nclass F:\n    def __call__(self, x): return x + 1\nf = F()\n", "pass"),
    Case("common modules", "honest code", call("import math, re, typing, collections, itertools, functools, heapq, bisect, string, json, hashlib, random, datetime, dataclasses, statistics, operator, copy, decimal, fractions, enum, abc, queue, textwrap, calendar, uuid, struct, base64, time, logging, tempfile, pathlib, unittest, ast, inspect\nreturn x + 1"), "pass"),
    Case("hashes", "honest code", call("import hashlib\nreturn x + 1 if hashlib.md5(b'a').hexdigest()[:4] == '0cc1' else 0"), "pass"),
    Case("a file in the current folder", "honest code", call("with open('note', 'w') as file: file.write(str(x))\nreturn int(open('note').read()) + 1"), "pass"),
    Case("a temporary file", "honest code", call("import tempfile\nwith tempfile.TemporaryDirectory() as d, open(d + '/a', 'w') as file: file.write('1')\nreturn x + 1"), "pass"),
    Case("os.getcwd, os.environ, os.cpu_count", "honest code", call("import os\nreturn x + 1 if os.path.isdir(os.getcwd()) and os.environ.get('PATH') and os.cpu_count() else 0"), "pass"),
    Case("threads", "honest code", call("from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(4) as pool: return sum(pool.map(int, [x, 1]))"), "pass"),
    Case("asyncio", "honest code", call("import asyncio\nasync def g():\n    await asyncio.sleep(0.01)\n    return x + 1\nreturn asyncio.run(g())"), "pass"),
    Case("deep recursion", "honest code", call("import sys\nsys.setrecursionlimit(20_000)\ndef g(n): return n if n == 0 else 1 + g(n - 1)\nreturn x + 1 + g(5_000) - 5_000"), "pass"),
    Case("recovers from recursion", "honest code", call("def g(): return g()\ntry: g()\nexcept RecursionError: return x + 1"), "pass"),
    Case("reads standard input", "honest code", call("return int(input())"), "fail"),
    Case("prints in a loop", "honest code", call("import sys\nfor i in range(1000): print(i, file=sys.stderr)\nsys.stdout.write('x')\nsys.stdout.flush()\nreturn x + 1"), "pass"),
    Case("a quarter of a second of work", "honest code", call("import time\nend = time.process_time() + 0.25\nwhile time.process_time() < end: pass\nreturn x + 1"), "pass"),
    Case("exec and eval", "honest code", call("exec('y = 1')\nreturn eval('x + 1')"), "pass"),
    Case("random, seeded", "honest code", call("import random\nrandom.seed(x)\nrandom.shuffle([1, 2])\nreturn x + 1"), "pass"),
    Case("an async function is no answer", "honest code", "    pass\n\nasync def f(x): return x + 1\n", "fail"),
    Case("the wrong answer", "honest code", call("return x"), "fail"),
    Case("right once, wrong once", "honest code", call("return 4"), "fail"),
    Case("another name", "honest code", "    pass\n\ndel f\ndef g(x): return x + 1\n", "fail"),
]

CASES = (*FORGED, *LIMITS, *PROCESSES, *REACH, *FLOODS, *TEXT, *HONEST)
