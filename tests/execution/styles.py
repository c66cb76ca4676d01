"""Programs and tests in the styles that people write them: continues the table of ``kinds.py``."""

from __future__ import annotations

# A table: one case per line.
# ruff: noqa: E501
# fmt: off
from tests.execution.kinds import RIGHT, WRONG, Kind

__all__ = ["STYLES"]


def _check(*lines: str) -> str:
    return "def check(c):\n" + "".join(f"    {line}\n" for text in lines for line in text.split("\n"))


def _inside(*lines: str) -> str:
    return "".join(f"    {line}\n" for text in lines for line in text.split("\n"))


def _after(text: str) -> str:
    """A completion that goes on after its function."""
    return "    pass\n\n\n" + text


_DOCTEST = 'def f(x):\n    """\n    >>> f(1)\n    2\n    """\n'
_UNITTEST = "import unittest\nclass T(unittest.TestCase):\n"

PROGRAMS = [
    Kind("a data class", _inside("from dataclasses import astuple, dataclass, field, replace", "@dataclass(order=True, frozen=True)\nclass P:\n    a: int\n    b: list = field(default_factory=list, compare=False)", "return astuple(replace(P(x), b=[1])), P(1) < P(2)"), _check("assert c(1) == ((1, [1]), True)")),
    Kind("an enum that stays", _inside("import enum", "return enum.Enum('E', 'A B').A"), _check("assert c(1).name == 'A'"), apart="fail"),
    Kind("an enum by its value", _inside("import enum", "class E(enum.Flag):\n    A = 1\n    B = 2", "return (E.A | E.B).value"), _check("assert c(1) == 3")),
    Kind("an enum of texts is its text", _inside("import enum", "class E(str, enum.Enum):\n    A = 'a'", "return E.A"), _check("assert c(1) == 'a'")),
    Kind("a hierarchy of classes", _after("import abc\nclass A(abc.ABC):\n    @abc.abstractmethod\n    def go(self): ...\n    @property\n    def twice(self): return 2 * self.go()\nclass B(A):\n    def __init__(self, v): self.v = v\n    def go(self): return self.v\nclass C(B):\n    def go(self): return super().go() + 1\ndef f(x): return C(x).twice\n"), _check("assert c(1) == 4")),
    Kind("operators of its own", _after("class V:\n    def __init__(self, a): self.a = a\n    def __add__(self, o): return V(self.a + o.a)\n    def __matmul__(self, o): return self.a * o.a\n    def __getitem__(self, i): return self.a\n    def __contains__(self, v): return v == self.a\ndef f(x): return (V(x) + V(1)) @ V(2), V(x)[9], x in V(x)\n"), _check("assert c(1) == (4, 1, True)")),
    Kind("a cache that is asked", _after("import functools\n@functools.lru_cache\ndef f(x): return x if x < 2 else f(x - 1) + f(x - 2)\n"), _check("assert c(80) == 23416728348467685", "assert c.cache_info().currsize > 50"), apart="fail"),
    Kind("a cache that works", _after("import functools\n@functools.cache\ndef f(x): return x if x < 2 else f(x - 1) + f(x - 2)\n"), _check("assert c(80) == 23416728348467685")),
    Kind("a cached property", _inside("import functools", "class A:\n    n = 0\n    @functools.cached_property\n    def p(self):\n        A.n += 1\n        return A.n", "a = A()", "return a.p, a.p"), _check("assert c(0) == (1, 1)")),
    Kind("single dispatch", _after("import functools\n@functools.singledispatch\ndef f(x): return 'other'\n@f.register\ndef _(x: int): return 'int'\n@f.register(list)\ndef _(x): return 'list'\n"), _check("assert [c(1), c([]), c('')] == ['int', 'list', 'other']")),
    Kind("a decorator that counts", _after("import functools\ndef counted(g):\n    @functools.wraps(g)\n    def h(*a):\n        h.n += 1\n        return g(*a) + h.n\n    h.n = 0\n    return h\n@counted\ndef f(x): return x\n"), _check("assert [c(1), c(1)] == [2, 3]")),
    Kind("a decorator with parameters, of a class", _after("def tag(**k):\n    def deco(kind):\n        kind.k = k\n        return kind\n    return deco\n@tag(a=1)\nclass A: pass\ndef f(x): return A.k\n"), _check("assert c(0) == {'a': 1}")),
    Kind("a state that is global", _after("total = 0\ndef f(x):\n    global total\n    total += x\n    return total\n"), _check("assert [c(1), c(2), c(3)] == [1, 3, 6]")),
    Kind("a default that is changed", "    y.append(x)\n    return y\n", _check("assert c(1) == [1]", "assert c(2) == [1, 2]"), prompt="def f(x, y=[]):\n"),
    Kind("a closure with state", _inside("n = x", "def g(d=1):\n    nonlocal n\n    n += d\n    return n", "return g"), _check("g, h = c(1), c(10)", "assert [g(), g(5), h(), g()] == [2, 7, 11, 8]")),
    Kind("a generator that is sent to", _inside("while True:\n    x += yield x"), _check("g = c(1)", "next(g)", "assert g.send(4) == 5"), apart="fail"),
    Kind("a generator that is closed", _inside("try:\n    yield x\nfinally:\n    x = None"), _check("g = c(1)", "assert next(g) == 1", "g.close()"), apart="fail"),
    Kind("a generator of generators", "    return ((i * j for j in range(2)) for i in range(x))\n", _check("assert [list(g) for g in c(3)] == [[0, 0], [0, 1], [0, 2]]")),
    Kind("an iterator class, next and iter", _inside("class I:\n    def __init__(self): self.n = x\n    def __iter__(self): return self\n    def __next__(self):\n        if not self.n: raise StopIteration\n        self.n -= 1\n        return self.n", "return I()"), _check("i = c(3)", "assert next(i) == 2 and list(i) == [1, 0] and list(i) == []")),
    Kind("zip and map objects", "    return zip(map(str, x), enumerate(x))\n", _check("assert list(c([1, 2])) == [('1', (0, 1)), ('2', (1, 2))]")),
    Kind("views of a dict", "    return x.keys(), sorted(x.items())\n", _check("k, i = c({'a': 1})", "assert list(k) == ['a'] and i == [('a', 1)]")),
    Kind("an async generator", _inside("import asyncio", "async def g():\n    for i in range(x):\n        await asyncio.sleep(0)\n        yield i", "async def main(): return [i async for i in g()]", "return asyncio.run(main())"), _check("assert c(3) == [0, 1, 2]")),
    Kind("a group of tasks and a queue", _inside("import asyncio", "async def main():\n    q = asyncio.Queue()\n    async def put():\n        for i in range(x): await q.put(i)\n    t = asyncio.create_task(put())\n    got = [await q.get() for _ in range(x)]\n    await asyncio.gather(t, asyncio.wait_for(asyncio.sleep(0.01), 1))\n    return got", "return asyncio.run(main())"), _check("assert c(4) == [0, 1, 2, 3]")),
    Kind("a lock, a condition, an event", _inside("import threading", "lock, ready, got = threading.Lock(), threading.Event(), []", "def work():\n    ready.wait()\n    with lock: got.append(x)", "threads = [threading.Thread(target=work) for _ in range(5)]", "for t in threads: t.start()", "ready.set()", "for t in threads: t.join()", "return got"), _check("assert c(1) == [1] * 5")),
    Kind("an alarm of the program", _inside("import signal, time", "def stop(*_): raise TimeoutError", "signal.signal(signal.SIGALRM, stop)", "signal.setitimer(signal.ITIMER_REAL, 0.05)", "try: time.sleep(2)", "except TimeoutError: return x + 1", "finally: signal.setitimer(signal.ITIMER_REAL, 0)"), _check("assert c(1) == 2")),
    Kind("a signal to itself", _inside("import signal", "got = []", "signal.signal(signal.SIGUSR1, lambda *_: got.append(x))", "signal.raise_signal(signal.SIGUSR1)", "return got"), _check("assert c(1) == [1]"), apart="fail", together="fail"),
    Kind("exceptions in chains and groups", _inside("try:\n    try: 1 / 0\n    except ZeroDivisionError as e: raise KeyError('k') from e\nexcept KeyError as e: return type(e.__cause__).__name__"), _check("assert c(1) == 'ZeroDivisionError'")),
    Kind("an exception with a note and a cause, caught by the test", _inside("try: 1 / 0\nexcept ZeroDivisionError as e: raise ValueError('bad') from e"), _check("try: c(1)", "except ValueError as e: assert isinstance(e.__cause__, ZeroDivisionError)"), apart="fail"),
    Kind("an error of a class of the program, by its name", "    raise Own(x)\n\n\nclass Own(Exception): pass\n", "def test_one():\n    try: f(1)\n    except Own as e: assert e.args == (1,)\n", apart="fail"),
    Kind("an error of a deep recursion", "    return f(x + 1)\n", _check("try: c(0)", "except RecursionError: return", "assert False")),
    Kind("a recursion 900 deep", "    return 0 if x == 0 else 1 + f(x - 1)\n", _check("assert c(900) == 900")),
    Kind("a recursion 20,000 deep", "    import sys; sys.setrecursionlimit(10**6)\n    return 0 if x == 0 else 1 + f(x - 1)\n", _check("assert c(20000) == 20000")),
    Kind("an output of 20 MB", "    print('x' * 20_000_000); return x + 1\n", _check("assert c(1) == 2")),
    Kind("odd names and texts", "    ñ, ﬁ = x, '🦆é\\u0301\\x00\\u202e'\n    return ﬁ * ñ, 'ﬀ'.casefold(), 'İ'.lower(), len('👨\u200d👩\u200d👧')\n", _check("assert c(2) == ('🦆é\\u0301\\x00\\u202e' * 2, 'ff', 'i̇', 5)")),
    Kind("pattern matching", _inside("match x:\n    case [a, *rest] if a: return rest\n    case {'k': v, **more}: return v, more\n    case int() | float(): return 'number'\n    case _: return None"), _check("assert [c([1, 2]), c({'k': 1, 'm': 2}), c(1.5), c('')] == [[2], (1, {'m': 2}), 'number', None]")),
    Kind("a metaclass, slots and descriptors", _after("class M(type):\n    def __call__(cls, *a): return super().__call__(*a).v\nclass D:\n    def __set_name__(self, o, n): self.n = '_' + n\n    def __get__(self, o, t): return getattr(o, self.n) + 1\nclass A(metaclass=M):\n    __slots__ = ('_v',)\n    v = D()\n    def __init__(self, v): self._v = v\ndef f(x): return A(x)\n"), _check("assert c(1) == 2")),
    Kind("an exit stack", _inside("import contextlib", "log = []", "with contextlib.ExitStack() as stack:\n    for i in range(x): stack.callback(log.append, i)", "return log"), _check("assert c(3) == [2, 1, 0]")),
    Kind("a program of the standard library", _inside("import csv, io, json, re, statistics, string, itertools, heapq, bisect, zlib, base64", "rows = list(csv.reader(io.StringIO('a,1\\nb,2\\n')))", "return json.loads(json.dumps(rows)), statistics.median([1, 2, 9]), base64.b64encode(zlib.compress(b'a' * 99))[:4], heapq.nsmallest(2, [3, 1, 2]), re.sub('(?P<a>.)', r'\\g<a>!', 'ab')"), _check("assert c(0) == ([['a', '1'], ['b', '2']], 2, b'eJxL', [1, 2], 'a!b!')")),
    Kind("arrays of several kinds", _inside("import numpy as np", "a = np.arange(6, dtype=np.int32).reshape(2, 3)", "return a.T[::2], a.mean(axis=0), a > 2, np.datetime64('2020-01-01'), np.int64(7)"), _check("import numpy as np", "t, m, g, d, i = c(0)", "np.testing.assert_array_equal(t, [[0, 3], [2, 5]])", "np.testing.assert_allclose(m, [1.5, 2.5, 3.5])", "assert g.dtype == bool and g.sum() == 3 and str(d) == '2020-01-01' and i == 7 and t.dtype == np.int32")),
    Kind("an array as argument and its view", "    x[1:] *= 2\n    return x.sum()\n", _check("import numpy as np", "a = np.ones((2, 2))", "assert c(a) == 6 and a[1].tolist() == [2, 2]")),
    Kind("a data frame", "    import pandas as pd\n    return pd.DataFrame({'a': [1, 2]}).assign(b=lambda d: d.a * x).b.tolist()\n", _check("assert c(3) == [3, 6]")),
    Kind("a class that the test subclasses", _after("class f:\n    def go(self): return 1\n"), _check("class G(c):\n    def go(self): return super().go() + 1", "assert G().go() == 2"), apart="fail"),
    Kind("an answer with a method", _after("class A:\n    def __init__(self): self.items = []\n    def push(self, v):\n        self.items.append(v)\n        return self\n    def __len__(self): return len(self.items)\ndef f(x): return A()\n"), _check("a = c(0)", "a.push(1).push(2)", "assert len(a) == 2"), apart="fail"),
    Kind("arguments of many shapes", "    return x, y, z, more, options\n", _check("assert c(1, 2, *[3, 4], z=5, k=6) == (1, 2, 5, (3, 4), {'k': 6})"), prompt="def f(x, /, y, *more, z=None, **options):\n"),
    Kind("a nested argument is changed and returned", "    x['a'].append({'n': x['b']}); x['c'] = x['a']; return x['c']\n", _check("d = {'a': [], 'b': (1,)}", "r = c(d)", "assert r is d['a'] is d['c'] and r == [{'n': (1,)}]")),
]

TESTS = [
    Kind("the program imported by its module's name", RIGHT, "from calc import f as g\nassert g(1) == 2\n"),
    Kind("the program imported by its module's name, wrong", WRONG, "from calc import f as g\nassert g(1) == 2\n", "fail"),
    Kind("the program as a module of a package", RIGHT, "import tools.calc as m\nimport tools.calc\nfrom tools.calc import *\ndef test_one():\n    import other.calc\n    assert m.f(1) == tools.calc.f(1) == other.calc.f(1) == f(1) == 2\n"),
    Kind("another function of the program's module", _after("def g(x): return x + 2\ndef f(x): return x + 1\n"), "from calc import f, g\nassert f(1) == 2 and g(1) == 3\n", apart="?"),
    Kind("a method of the program's module", "        return x + 1\n", "from calc import S\nassert S().f(1) == 2\n", prompt="class S:\n    def f(self, x):\n", entry="S().f", apart="?"),
    Kind("a patch in the program's module", _after("def g(): return 1\ndef f(x): return g() + x\n"), "from unittest import mock\nfrom calc import f\nwith mock.patch('calc.g', return_value=5): assert f(1) == 6\n", apart="?"),
    Kind("a module that is not the program's", RIGHT, "import calc\nassert f(1) == calc.two()\n", "fail", apart="?", together="?"),
    Kind("a program that reads lines, run by its test", _after("import sys\ndef f(x): return sum(int(line) for line in sys.stdin)\n"), _check("import io, sys", "sys.stdin = io.StringIO('1\\n2\\n')", "assert c(0) == 3"), apart="fail"),
    Kind("a test that patches a module", _after("import random\ndef f(x): return random.randint(1, 6) + x\n"), _check("from unittest import mock", "with mock.patch('random.randint', return_value=99): assert c(1) == 100"), apart="fail"),
    Kind("a test that patches the time", _after("import time\ndef f(x): return time.time()\n"), _check("from unittest import mock", "with mock.patch('time.time', lambda: 5.0): assert c(1) == 5"), apart="fail"),
    Kind("a test that patches print", "    print('hello', x)\n", _check("from unittest import mock", "with mock.patch('builtins.print') as p: c(1)", "p.assert_called_once_with('hello', 1)"), apart="fail"),
    Kind("a mock as argument", "    return x.go(1)\n", _check("from unittest import mock", "m = mock.Mock(**{'go.return_value': 2})", "assert c(m) == 2", "m.go.assert_called_with(1)"), apart="?"),
    Kind("a doctest in the prompt", RIGHT, "import doctest\nassert doctest.testmod().failed == 0\n", prompt=_DOCTEST, apart="?"),
    Kind("a doctest in the prompt, wrong", WRONG, "import doctest\nassert doctest.testmod().failed == 0\n", "fail", prompt=_DOCTEST),
    Kind("a doctest of the candidate beside other asserts", WRONG, _check("import contextlib, doctest, io", "with contextlib.redirect_stdout(io.StringIO()) as out: doctest.run_docstring_examples(c, {'f': c})", "assert c(1) == c(1) and not out.getvalue()"), "fail", prompt=_DOCTEST),
    Kind("the docstring of the candidate", RIGHT, _check("assert c(1) == 2", "assert '>>> f(1)' in c.__doc__"), prompt=_DOCTEST),
    Kind("sub-tests", RIGHT, _UNITTEST + "    def test_one(self):\n        for i in range(3):\n            with self.subTest(i=i): self.assertEqual(f(i), i + 1)\n"),
    Kind("sub-tests, one wrong", "    return x + 1 if x < 2 else 0\n", _UNITTEST + "    def test_one(self):\n        for i in range(3):\n            with self.subTest(i=i): self.assertEqual(f(i), i + 1)\n", "fail"),
    Kind("set-up of class and case", RIGHT, _UNITTEST + "    @classmethod\n    def setUpClass(cls): cls.a = 1\n    def setUp(self): self.b = self.a\n    def tearDown(self): self.b = None\n    def test_one(self): self.assertEqual(f(self.b), 2)\n    @unittest.skip('no')\n    def test_two(self): self.fail()\n    @unittest.expectedFailure\n    def test_three(self): self.assertEqual(f(1), 3)\n"),
    Kind("an async case of unittest", RIGHT, "import unittest\nclass T(unittest.IsolatedAsyncioTestCase):\n    async def test_one(self): self.assertEqual(f(1), 2)\nunittest.main()\n"),
    Kind("almost equal and counted alike", "    return [x / 3, x]\n", _UNITTEST + "    def test_one(self):\n        self.assertAlmostEqual(f(1)[0], 0.3333333333)\n        self.assertCountEqual(f(1), [1, 1 / 3])\n        self.assertIsInstance(f(1), list)\n"),
    Kind("an assert in a thread of the test that nobody sees", WRONG, _check("import threading", "def go(): assert c(1) == 2", "t = threading.Thread(target=go)", "t.start(); t.join()")),
    Kind("an assert in a pool of the test", WRONG, _check("from concurrent.futures import ThreadPoolExecutor", "def go(v): assert c(v) == v + 1", "with ThreadPoolExecutor(2) as pool: list(pool.map(go, [1, 2]))"), "fail"),
    Kind("a random test with a seed", "    return sorted(x)\n", _check("import random", "random.seed(7)", "for _ in range(20):\n    a = [random.randint(0, 99) for _ in range(9)]\n    assert c(a[:]) == sorted(a)")),
    Kind("a test with a table and a helper", RIGHT, "CASES = [(1, 2), (2, 3)]\ndef verify(g, pair):\n    assert g(pair[0]) == pair[1], f'{pair} is not right'\ndef check(candidate):\n    for pair in CASES: verify(candidate, pair)\n"),
    Kind("a test of the signature", "    return x\n", _check("import inspect", "assert list(inspect.signature(c).parameters) == ['x']"), apart="?"),
    Kind("a test of the source", RIGHT, _check("import inspect", "assert 'return' in inspect.getsource(c)"), apart="?"),
    Kind("a test that measures the time", RIGHT, _check("import time", "t = time.perf_counter()", "assert c(1) == 2", "assert time.perf_counter() - t < 2")),
    Kind("a test with a warning", "    import warnings; warnings.warn('old', DeprecationWarning); return x\n", _check("import warnings", "with warnings.catch_warnings(record=True) as w:\n    warnings.simplefilter('always')\n    c(1)", "assert len(w) == 1"), apart="fail"),
    Kind("a test with a log", "    import logging; logging.getLogger('a').error('no'); return x\n", _UNITTEST + "    def test_one(self):\n        with self.assertLogs('a', 'ERROR'): f(1)\n", apart="fail"),
    Kind("a fixture of pytest", RIGHT, "import pytest\n@pytest.fixture\ndef one(): return 1\ndef test_one(one): assert f(one) == 2\n", apart="?", together="?"),
    Kind("a match of pytest.raises", "    raise ValueError(f'bad {x}')\n", "import pytest\ndef test_one():\n    with pytest.raises(ValueError, match=r'bad \\d') as e: f(1)\n    assert e.value.args == ('bad 1',)\n"),
    Kind("a file that the test wrote", "    return open(x).read()\n", _check("open('in.txt', 'w').write('text')", "assert c('in.txt') == 'text'"), apart="fail"),
    Kind("global state of the program, looked at", _after("log = []\ndef f(x): log.append(x)\n"), "f(1)\nassert log == [1]\n", apart="fail"),
]

STYLES = [*PROGRAMS, *TESTS]
