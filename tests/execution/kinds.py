"""Tests of the kinds that people bring, for right and wrong programs, with the verdict of a plain run of both in one file.

Unless a case says otherwise it completes ``def f(x):`` and is right in both modes. ``apart`` is what the split judge says where
that differs from the plain run, ``together`` likewise; "?" marks a verdict that says "cannot judge".
"""

from __future__ import annotations

# A table: one case per line.
# ruff: noqa: E501
# fmt: off
from dataclasses import dataclass

from lm_eval_ensemble.execution import Job

__all__ = ["KINDS", "Kind"]


@dataclass(frozen=True)
class Kind:
    name: str
    completion: str
    test: str
    plain: str = "pass"
    apart: str = ""
    together: str = ""
    prompt: str = "def f(x):\n"
    suffix: str = ""
    entry: str = "f"

    @property
    def job(self) -> Job:
        return Job(self.prompt, self.completion, self.suffix, self.test, self.entry)


def _check(*lines: str) -> str:
    return "def check(c):\n" + "".join(f"    {line}\n" for text in lines for line in text.split("\n"))


RIGHT, WRONG = "    return x + 1\n", "    return x + 2\n"
LOOP = "    if x < 0:\n        while True: pass\n    return x + 1\n"
RAISES = "    if x < 0: raise ValueError('negative', x)\n    return x + 1\n"

CHECKS = [
    Kind("a call before check, wrong", WRONG, "f(1)\n" + _check("assert c(1) == 2"), "fail"),
    Kind("a call in a comprehension before check, wrong", WRONG, "seen = [f(i) for i in range(3)]\n" + _check("assert c(1) == 2"), "fail"),
    Kind("a call in a default before check, wrong", WRONG, "def check(c, first=f(0)):\n    assert c(1) == 2\n", "fail"),
    Kind("a call behind check, wrong", WRONG, _check("assert c(1) == 2") + "print(f(1))\n", "fail"),
    Kind("check under a guard that is false, wrong", WRONG, "f(0)\n" + _check("assert c(1) == 2") + "if __name__ == 'x':\n    check(f)\n", "fail"),
    Kind("check calls itself through the text, once", "    N.append(x)\n    return len(N)\nN = []\n", _check("assert c(1) == 1") + "check(f)\n"),
    Kind("check called under another name counts twice, which is harmless", RIGHT, _check("assert c(1) == 2") + "go = check\ngo(f)\n"),
    Kind("check without parameters", RIGHT, "def check():\n    assert f(1) == 2\n"),
    Kind("check without parameters, wrong", WRONG, "def check():\n    assert f(1) == 2\n", "fail"),
    Kind("an async check", RIGHT, "async def check(c):\n    assert c(1) == 2\n"),
    Kind("an async check, wrong", WRONG, "async def check(c):\n    assert c(1) == 2\n", "fail"),
    Kind("test functions nobody calls, wrong", WRONG, "def test_one():\n    assert f(1) == 2\n", "fail"),
    Kind("test functions nobody calls", RIGHT, "def test_one():\n    assert f(1) == 2\n"),
    Kind("cases of unittest nobody runs, wrong", WRONG, "import unittest\nclass T(unittest.TestCase):\n    def test_one(self): self.assertEqual(f(1), 2)\n", "fail"),
    Kind("a class in the style of pytest", RIGHT, "class TestF:\n    def setup_method(self): self.v = 1\n    def test_one(self): assert f(self.v) == 2\n"),
    Kind("a class in the style of pytest, wrong", WRONG, "class TestF:\n    def test_one(self): assert f(1) == 2\n", "fail"),
    Kind("parameters of pytest", RIGHT, "import pytest\n@pytest.mark.parametrize('x, y', [(1, 2), pytest.param(2, 3, id='b')])\n@pytest.mark.parametrize('z', [[0]])\ndef test_one(x, y, z):\n    assert f(x) == y\n    assert f(0.5) == pytest.approx(1.5)\n    assert z == [0]\n"),
    Kind("parameters of pytest, the second wrong", "    return 2\n", "import pytest\n@pytest.mark.parametrize('x, y', [(1, 2), (2, 3)])\ndef test_one(x, y):\n    assert f(x) == y\n", "fail"),
    Kind("parameters of a class of pytest, wrong", "    return 2\n", "import pytest\n@pytest.mark.parametrize('x', [1, 2])\nclass TestF:\n    def test_one(self, x):\n        assert f(x) == x + 1\n", "fail"),
    Kind("an exception that pytest waits for", RAISES, "import pytest\ndef test_one():\n    with pytest.raises(ValueError):\n        f(-1)\n"),
    Kind("an exception that pytest waits for, missing", RIGHT, "import pytest\ndef test_one():\n    with pytest.raises(ValueError):\n        f(-1)\n", "fail"),
    Kind("tests that pytest skips or expects to fail", RIGHT, "import pytest\n@pytest.mark.skip\ndef test_a(): assert f(1) == 3\n@pytest.mark.skipif('1 < 2', reason='')\ndef test_b(): assert f(1) == 3\n@pytest.mark.xfail\ndef test_c(): assert f(1) == 3\n@pytest.mark.skipif(False, reason='')\ndef test_d(): assert f(1) == 2\n"),
    Kind("a test that pytest would not skip, wrong", WRONG, "import pytest\n@pytest.mark.skipif('1 > 2', reason='')\ndef test_one(): assert f(1) == 2\n", "fail"),
    Kind("cases of unittest whose result nobody reads, wrong", WRONG, "import unittest\nclass T(unittest.TestCase):\n    def test_one(self): self.assertEqual(f(1), 2)\nunittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(T))\n", "fail"),
    Kind("unittest.main, right", RIGHT, "import unittest\nclass T(unittest.TestCase):\n    def test_one(self): self.assertEqual(f(1), 2)\nunittest.main()\n"),
    Kind("unittest.main, wrong", WRONG, "import unittest\nclass T(unittest.TestCase):\n    def test_one(self): self.assertEqual(f(1), 2)\nunittest.main()\n", "fail"),
    Kind("unittest.main with a program that exits", "    raise SystemExit(0)\n", "import unittest\nclass T(unittest.TestCase):\n    def test_one(self): self.assertEqual(f(1), 2)\nunittest.main()\n", "fail"),
    Kind("a test that ends by sys.exit", RIGHT, "import sys\nassert f(1) == 2\nsys.exit(0)\n"),
    Kind("a test that ends by sys.exit(1)", WRONG, "import sys\nsys.exit(f(1) != 2)\n", "fail"),
    Kind("a program that ends by sys.exit", "    import sys; sys.exit(0)\n", "f(1)\nassert False\n", "fail"),
]

SIGNALS = [
    Kind("a loop under a bare except", LOOP, _check("assert c(3) == 4", "try: c(-1)", "except: pass"), "timeout"),
    Kind("a loop in a finally that returns", LOOP, _check("try: c(-1)", "finally: return"), "timeout"),
    Kind("a loop in a context manager that swallows", LOOP, "class Any:\n    def __enter__(self): pass\n    def __exit__(self, *_): return True\n" + _check("with Any(): c(-1)"), "timeout"),
    Kind("a loop in a thread of the test", LOOP, _check("import threading", "t = threading.Thread(target=c, args=(-1,)); t.start(); t.join()"), "timeout"),
    Kind("an exit under a bare except", "    import os; os._exit(0)\n", _check("try: c(-1)", "except: pass"), "fail"),
    Kind("an exit under except Exception", "    raise SystemExit\n", _check("try: c(-1)", "except Exception: pass"), "fail"),
    Kind("nonsense under a bare except", "    import os; os.write(3, b'\\0\\0\\0\\1x'); return 0\n", _check("try: c(-1)", "except: pass"), "pass", apart="fail", together="fail"),
    Kind("an endless answer, counted", "    import itertools; return itertools.count()\n", _check("assert sum(1 for _ in c(0)) == 10**6"), "timeout"),
    Kind("an endless answer as a list", "    while True: yield x\n", _check("assert len(list(c(0))) > 3"), "timeout"),
]

RAISED = [
    Kind("a type is caught", RAISES, _check("try: c(-1)", "except ValueError: return", "assert False")),
    Kind("another type is not", RAISES, _check("try: c(-1)", "except KeyError: return", "assert False"), "fail"),
    Kind("a base type is caught", "    return {}[x]\n", _check("try: c(-1)", "except LookupError: return", "assert False")),
    Kind("the arguments", RAISES, _check("try: c(-1)", "except ValueError as e: assert e.args == ('negative', -1)")),
    Kind("the text of a key error", "    return {}['k']\n", _check("try: c(-1)", "except KeyError as e: assert str(e) == \"'k'\"")),
    Kind("the number of an OS error", "    open('missing')\n", _check("import errno", "try: c(-1)", "except FileNotFoundError as e: assert e.errno == errno.ENOENT and 'missing' in str(e)")),
    Kind("a type of the program by its base", "    raise Own('text')\nclass Own(ValueError): pass\n", _check("try: c(-1)", "except ValueError as e: assert str(e) == 'text'")),
    Kind("a text of the program's own", "    raise Own\nclass Own(ValueError):\n    def __str__(self): return 'mine'\n", _check("try: c(-1)", "except ValueError as e: assert str(e) == 'mine'")),
    Kind("a type of the prompt", "    raise Own('text')\n", _check("try: c(-1)", "except Own as e: assert str(e) == 'text'"), prompt="class Own(Exception):\n    pass\n\n\ndef f(x):\n"),
    Kind("assertRaises", RAISES, _check("import unittest", "with unittest.TestCase().assertRaisesRegex(ValueError, 'negative'): c(-1)")),
    Kind("assertRaises of a program that does not", RIGHT, _check("import unittest", "with unittest.TestCase().assertRaises(ValueError): c(-1)"), "fail"),
    Kind("an assert of the program", "    assert x > 0, 'no'\n    return x\n", _check("try: c(-1)", "except AssertionError as e: assert str(e) == 'no'")),
    Kind("a memory error", "    return bytes(1 << 60)\n", _check("try: c(-1)", "except (MemoryError, OverflowError): return", "assert False")),
    Kind("stop iteration", "    raise StopIteration\n", _check("try: c(0)", "except StopIteration: return", "assert False")),
    Kind("an interrupt is no Exception", "    raise KeyboardInterrupt\n", _check("try: c(0)", "except Exception: pass"), "fail"),
    Kind("an exception with a value that cannot travel", "    raise ValueError(object())\n", _check("try: c(0)", "except ValueError: return", "assert False")),
    Kind("an exception in an iterator, in its place", "    yield 1\n    raise ValueError\n", _check("it = c(0)", "assert next(it) == 1", "try: next(it)", "except ValueError: return", "assert False")),
]

STATE = [
    Kind("a list is changed", "    x.sort()\n", _check("a = [2, 1]", "c(a)", "assert a == [1, 2]")),
    Kind("a list is not changed", "    x = sorted(x)\n", _check("a = [2, 1]", "c(a)", "assert a == [1, 2]"), "fail"),
    Kind("a list must not be changed", "    return x.sort()\n", _check("a = [2, 1]", "c(a)", "assert a == [2, 1]"), "fail"),
    Kind("a row inside is changed", "    x[1][0] = 9\n", _check("m = [[1], [2]]", "row = m[1]", "c(m)", "assert row == [9] and m[1] is row")),
    Kind("a list is emptied before an error", "    x.clear()\n    raise ValueError\n", _check("a = [1]", "try: c(a)", "except ValueError: pass", "assert a == []")),
    Kind("a dict, a set, a bytearray", "    x[0]['k'] = 1; x[1].add(2); x[2].append(3)\n", _check("a = [{}, set(), bytearray()]", "c(a)", "assert a == [{'k': 1}, {2}, bytearray([3])]")),
    Kind("a deque and a defaultdict", "    x[0].rotate(1); x[1]['k'].append(1)\n", _check("from collections import defaultdict, deque", "a = (deque([1, 2]), defaultdict(list))", "c(a)", "assert list(a[0]) == [2, 1] and a[1]['k'] == [1] and a[1]['m'] == []")),
    Kind("the argument comes back", "    return x\n", _check("a = [1]", "assert c(a) is a")),
    Kind("a part of the argument comes back", "    return x[0]\n", _check("a = [[1]]", "b = c(a)", "b.append(2)", "assert a == [[1, 2]]")),
    Kind("one list twice", "    x[0].append(1)\n    return x[1]\n", _check("a = []", "assert c([a, a]) == [1]")),
    Kind("a list that holds itself", "    return x[0] is x\n", _check("a = []", "a.append(a)", "assert c(a) is True")),
    Kind("an array is changed", "    x += 1\n", _check("import numpy as np", "a = np.zeros(3)", "c(a)", "assert a.tolist() == [1, 1, 1]")),
    Kind("a keyword argument is changed", "    y.append(x)\n", _check("a = []", "c(1, y=a)", "assert a == [1]"), prompt="def f(x, y):\n"),
]

VALUES = [
    Kind("an ordered dict in the wrong order", "    from collections import OrderedDict; return OrderedDict(b=1, a=2)\n", _check("from collections import OrderedDict", "assert c(0) == OrderedDict(a=2, b=1)"), "fail"),
    Kind("a moved item of an ordered dict", "    from collections import OrderedDict; d = OrderedDict(a=1, b=2); d.move_to_end('a'); return d\n", _check("assert list(c(0)) == ['b', 'a']")),
    Kind("a counter", "    from collections import Counter; return Counter(x)\n", _check("assert c('aab').most_common(1) == [('a', 2)] and c('')['z'] == 0")),
    Kind("dates", "    from datetime import date, timedelta; return date(2020, 2, 28) + timedelta(x)\n", _check("from datetime import date", "assert c(1) == date(2020, 2, 29)")),
    Kind("a range is a range", "    return range(x)\n", _check("assert c(3) == range(3) and c(3)[1] == 1")),
    Kind("an array", "    import numpy as np; return np.array(x) * 2\n", _check("import numpy as np", "assert (c([1, 2]) == np.array([2, 4])).all()")),
    Kind("a scalar of numpy is no float", "    import numpy as np; return np.float32(0.1)\n", _check("assert type(c(0)) is float"), "fail"),
    Kind("types", "    return type(x)\n", _check("assert c(1) is int and c('') is str and c(None) is type(None)")),
    Kind("types as arguments", "    return [v for v in (1, 'a') if isinstance(v, x)]\n", _check("assert c(str) == ['a'] and c((int, str)) == [1, 'a']")),
    Kind("a built-in function as argument", "    return x([3, 1])\n", _check("assert c(sorted) == [1, 3] and c(len) == 2")),
    Kind("a closure", "    return lambda y: x + y\n", _check("assert c(1)(2) == 3")),
    Kind("a generator, in part", "    n = x\n    while True:\n        yield n\n        n += 1\n", _check("g = c(1)", "assert [next(g), next(g)] == [1, 2]", "assert next(g) == 3")),
    Kind("a generator that is read to its end, 3,000 items", "    yield from range(x)\n", _check("assert list(c(3000)) == list(range(3000))")),
    Kind("a generator that hangs behind what is read", "    yield 1\n    while True: pass\n", _check("assert next(iter(c(0))) == 1")),
    Kind("the same NaN in a list", "    return [float('nan')] * 2\n", _check("a = c(0)", "assert a[0] is not None and len(a) == 2")),
    Kind("two lone surrogates", "    return '\\ud83d\\ude00'\n", _check("assert c(0) == chr(0x1f600)"), "fail"),
    Kind("nested 190 deep", "    for _ in range(190): x = [x]\n    return x\n", _check("v = c(0)", "while isinstance(v, list): v = v[0]", "assert v == 0")),
    Kind("nested 300 deep", "    for _ in range(300): x = [x]\n    return x\n", _check("v = c(0)", "while isinstance(v, list): v = v[0]", "assert v == 0"), apart="fail"),
    Kind("5 million bits", "    return 1 << 5_000_000\n", _check("assert c(0) == 1 << 5_000_000")),
]

TOGETHER = [
    Kind("attributes of an answer", "    from types import SimpleNamespace; return SimpleNamespace(a=x)\n", _check("assert c(1).a == 1"), apart="fail"),
    Kind("a class of the program", "", "assert Box(3).get() == 3\n", prompt="class Box:\n    def __init__(self, v):\n        self.v = v\n\n    def get(self):\n        return self.v\n", entry="Box", apart="fail"),
    Kind("a class of the program as argument", "    return x.v\n", "assert f(Box(3)) == 3\n", prompt="class Box:\n    def __init__(self, v):\n        self.v = v\n\n\ndef f(x):\n", apart="?"),
    Kind("a function as argument", "    return [x(v) for v in (1, 2)]\n", _check("assert c(lambda v: v * 2) == [2, 4]"), apart="fail"),
    Kind("a second function of the completion", "    return x + 1\n\n\ndef g(x):\n    return x + 2\n", "assert f(1) == 2\nassert g(1) == 3\n", apart="fail"),
    Kind("a second function of the completion, wrong", "    return x + 1\n\n\ndef g(x):\n    return x\n", "assert f(1) == 2\nassert g(1) == 3\n", "fail"),
    Kind("what is printed", "    print(x)\n", _check("import contextlib, io", "out = io.StringIO()", "with contextlib.redirect_stdout(out): c(3)", "assert out.getvalue() == '3\\n'"), apart="fail"),
    Kind("a program that reads", "    return int(input())\n", _check("import io, sys", "sys.stdin = io.StringIO('5\\n')", "assert c(0) == 5"), apart="fail"),
    Kind("a coroutine", "    return x + 1\n", _check("import asyncio", "assert asyncio.run(c(1)) == 2"), prompt="async def f(x):\n"),
    Kind("a coroutine, wrong", WRONG, _check("import asyncio", "assert asyncio.run(c(1)) == 2"), "fail", prompt="async def f(x):\n"),
    Kind("coroutines of an async test", "    import asyncio\n    await asyncio.sleep(0.001)\n    if x < 0: raise ValueError(x)\n    return x + 1\n", "import asyncio\nasync def check(c):\n    assert await c(1) == 2\n    assert await asyncio.gather(c(1), c(2)) == [2, 3]\n    assert await asyncio.wait_for(c(3), 1) == 4\n    try: await c(-1)\n    except ValueError as e: assert e.args == (-1,)\n    else: assert False\n", prompt="async def f(x):\n"),
    Kind("a coroutine that nobody awaits", RIGHT, _check("assert c(1) == 2"), "fail", prompt="async def f(x):\n"),
    Kind("a context manager", "    yield x\n", _check("with c(1) as v: assert v == 1"), prompt="import contextlib\n\n\n@contextlib.contextmanager\ndef f(x):\n", apart="fail"),
    Kind("imports of the program by name", RIGHT, "from __main__ import f as g\nassert g(1) == 2\n"),
    Kind("a class that is pickled", "    import pickle; return pickle.loads(pickle.dumps(A(x))).v\n\n\nclass A:\n    def __init__(self, v): self.v = v\n", _check("assert c(1) == 1"), apart="fail"),
]

BROKEN = [
    Kind("a test that tests nothing", RIGHT, "x = 1\n", apart="?", together="?"),
    Kind("a test that does not compile", RIGHT, "def check(c)\n    pass\n", "fail", apart="?", together="?"),
    Kind("a test that needs what is not here", RIGHT, "import surely_not_installed\nassert f(1) == 2\n", "fail", apart="?", together="?"),
    Kind("all tests skipped", RIGHT, "import pytest\n@pytest.mark.skip\ndef test_one(): assert f(1) == 2\n", apart="?", together="?"),
    Kind("parameters and what only pytest can give", RIGHT, "import pytest\n@pytest.mark.parametrize('x', [1])\ndef test_one(x, tmp_path): assert f(x) == 2\n", apart="?", together="?"),
    Kind("a test that never asks", RIGHT, _check("pass"), apart="?"),
    Kind("a test with a name nobody has", RIGHT, "assert nobody(1) == 2\n", "fail", apart="?"),
    Kind("no entry point in the program", "", _check("assert c(1) == 2"), "fail", prompt="x = 1\n"),
    Kind("no entry point named", RIGHT, _check("assert c(1) == 2"), entry=""),
    Kind("an entry point in a class", RIGHT.replace("    ", "        "), _check("assert c(1) == 2"), prompt="class S:\n    def f(self, x):\n", entry="S().f"),
    Kind("an entry point in a class, wrong", WRONG.replace("    ", "        "), _check("assert c(1) == 2"), "fail", prompt="class S:\n    def f(self, x):\n", entry="S().f"),
]

PROMPTS = [
    Kind("a decorator above the entry point", RIGHT, _check("assert c(1) == 2 and c(1) == 2"), prompt="import functools\n\n\n@functools.lru_cache(maxsize=None)\ndef f(x):\n"),
    Kind("decorators over several lines", RIGHT, _check("assert c(1) == 2 and two == 2"), prompt="import functools\n\ntwo = 2\n\n\n@functools.lru_cache(\n    maxsize=None,\n)\n@functools.wraps(len)\ndef f(x):\n"),
    Kind("a def inside a text", RIGHT, _check("assert c(1) == 2 and two == 2"), prompt='"""Example:\n\ndef f(x):\n    ...\n"""\ntwo = 2\n\n\ndef f(x):\n'),
    Kind("overloads", RIGHT, _check("assert c(1) == 2"), prompt="from typing import overload\n\n\n@overload\ndef f(x: int) -> int: ...\n@overload\ndef f(x: str) -> str: ...\ndef f(x):\n"),
    Kind("the def comes with the completion", "def f(x):\n    return x + 1\n", _check("assert c(1) == base"), prompt="base = 2\n\n\n"),
    Kind("the def comes with the completion, after half a statement", "    return x\n\n\ndef f(x):\n    return g(x) + 1\n", _check("assert c(1) == base"), prompt="base = 2\n\n\ndef g(x):\n"),
    Kind("only spaces are missing", "+ 1\n", _check("assert c(1) == 2"), prompt="def f(x):\n    return x "),
]

AROUND = [
    Kind("streams have all methods", "    import sys; sys.stdout.buffer.write(b'a'); sys.stdout.reconfigure(line_buffering=True); sys.stdin.readlines(); sys.stderr.close()\n    return sys.stdout.writable()\n", _check("assert c(0) is True")),
    Kind("arguments", "    import sys; return len(sys.argv)\n", _check("assert c(0) == 1")),
    Kind("the end of the input", "    try: input()\n    except EOFError: return 1\n", _check("assert c(0) == 1")),
    Kind("copying files", "    import shutil; open('a', 'w').write('x'); shutil.copy('a', 'b'); shutil.copy2('a', 'c'); shutil.copytree('.', 'd/e', ignore=lambda *_: ['d']); return open('d/e/c').read()\n", _check("assert c(0) == 'x'")),
    Kind("a package that is not granted", "    try: import yaml\n    except ImportError: pass\n    return 1\n", _check("assert c(0) == 1")),
    Kind("random numbers", "    import random; random.seed(1); return random.random()\n", _check("import random", "assert c(0) == random.Random(1).random()")),
    Kind("threads", "    from concurrent.futures import ThreadPoolExecutor\n    with ThreadPoolExecutor(4) as pool: return sum(pool.map(abs, range(x)))\n", _check("assert c(5) == 10")),
    Kind("asyncio with threads", "    import asyncio\n    async def main(): return await asyncio.to_thread(abs, -x)\n    return asyncio.run(main())\n", _check("assert c(5) == 5")),
    Kind("a test that calls from threads", "    import time; time.sleep(0.001 * (x % 3)); return x\n", _check("from concurrent.futures import ThreadPoolExecutor", "with ThreadPoolExecutor(8) as pool: assert list(pool.map(c, range(40))) == list(range(40))")),
    Kind("a test with its own alarm", RIGHT, _check("import signal", "signal.signal(signal.SIGALRM, lambda *_: 1 / 0)", "signal.setitimer(signal.ITIMER_REAL, 60)", "assert c(1) == 2")),
]

KINDS = [*CHECKS, *SIGNALS, *RAISED, *STATE, *VALUES, *TOGETHER, *BROKEN, *PROMPTS, *AROUND]
