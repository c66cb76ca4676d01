"""Nothing leaks from one test to the next: what one changes, the next one finds as if it were the first."""

from __future__ import annotations

import os

import pytest

from lm_eval_ensemble.execution import Job, Judge, trusted
from tests.execution.helpers import LINUX, job, needs_layers

RIGHT = "    return x + 1\n"

# A table: one case per line.
# ruff: noqa: E501
# what a test does -> what the next one asserts
STATE = {
    "built-ins": ("import builtins; builtins.abs = len; builtins.extra = 1", "abs(-1) == 1 and not hasattr(__import__('builtins'), 'extra')"),
    "a module": ("import math; math.pi = 3", "__import__('math').pi > 3.1"),
    "a class": ("import fractions; fractions.Fraction.__eq__ = lambda *_: True", "__import__('fractions').Fraction(1) != 2"),
    "the decimal context": ("import decimal; decimal.getcontext().prec = 2", "__import__('decimal').getcontext().prec == 28"),
    "warning filters": ("import warnings; warnings.simplefilter('error')", "not any(f[0] == 'error' for f in __import__('warnings').filters)"),
    "the search path": ("import sys; sys.path[:] = []", "__import__('sys').path"),
    "modules": ("import sys; sys.modules['json'] = None", "__import__('json').loads('1') == 1"),
    "module finders": ("import sys; sys.meta_path.clear()", "__import__('colorsys')"),
    "the recursion limit": ("import sys; sys.setrecursionlimit(200)", "__import__('sys').getrecursionlimit() == 1000"),
    "the switch interval": ("import sys; sys.setswitchinterval(1)", "__import__('sys').getswitchinterval() < 0.1"),
    "the limit of digits": ("import sys; sys.set_int_max_str_digits(0)", "__import__('sys').get_int_max_str_digits() > 0"),
    "a trace function": ("import sys; sys.settrace(lambda *_: None)", "__import__('sys').gettrace() is None"),
    "a profile function": ("import sys; sys.setprofile(lambda *_: None)", "__import__('sys').getprofile() is None"),
    "standard output": ("import sys; sys.stdout = None", "__import__('sys').stdout.writable()"),
    "an exception hook": ("import sys; sys.excepthook = None", "__import__('sys').excepthook"),
    "the environment": ("import os; os.environ['LEFT'] = '1'", "'LEFT' not in __import__('os').environ"),
    "the folder": ("import os; os.chdir('/proc')", "__import__('os').getcwd() != '/proc'"),
    "the mask of modes": ("import os; os.umask(0o777)", "__import__('os').umask(0) != 0o777"),
    "an alarm": ("import signal; signal.setitimer(signal.ITIMER_REAL, 0.05)", "__import__('time').sleep(0.1) is None"),
    "a handler": ("import signal; signal.signal(signal.SIGUSR2, signal.SIG_IGN)", "__import__('signal').getsignal(12) is not __import__('signal').SIG_IGN"),
    "blocked signals": ("import signal; signal.pthread_sigmask(0, {10})", "not __import__('signal').pthread_sigmask(0, ())"),
    "threads": ("import threading, time; threading.Thread(target=time.sleep, args=(9,), daemon=True).start()", "__import__('threading').active_count() == 1"),
    "collection": ("import gc; gc.disable()", "__import__('gc').isenabled()"),
    "random numbers": ("import random; random.random()", "__import__('random').random() == __import__('random').Random(0).random()"),
    "the locale": ("import locale; locale.setlocale(locale.LC_NUMERIC, 'C.UTF-8')", "(lambda l: l.setlocale(l.LC_NUMERIC))(__import__('locale')) == 'C'"),
    "the time zone": ("import os, time; os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()", "__import__('time').tzname[0] != 'JST'"),
    "the time limit of sockets": ("import socket; socket.setdefaulttimeout(1)", "__import__('socket').getdefaulttimeout() is None"),
    "logging": ("import logging; logging.disable(99)", "__import__('logging').getLogger().isEnabledFor(50)"),
    "limits": ("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))", "__import__('resource').getrlimit(7)[0] > 8"),
    "a context variable": ("import contextvars, builtins; v = contextvars.ContextVar('v'); v.set(1); builtins.v = v", "not hasattr(__import__('builtins'), 'v')"),
    "a cache of the test": ("import functools; functools.cache.left = 1", "not hasattr(__import__('functools').cache, 'left')"),
    "errors of numpy": ("import numpy; numpy.seterr(all='raise')", "__import__('numpy').geterr()['over'] == 'warn'"),
}  # fmt: skip


@pytest.fixture(scope="module")
def verdicts() -> dict[str, tuple[str, str]]:
    """Of each pair, on one worker, which runs the jobs of a call in their order."""
    jobs = []
    for act, condition in STATE.values():
        jobs.append(job(RIGHT, test=f"def check(c):\n    assert c(1) == 2\n    {act}\n"))
        jobs.append(job(RIGHT, test=f"def check(c):\n    assert c(1) == 2\n    assert {condition}\n"))
    with Judge(1, progress=False) as room:
        found = room.run(jobs)
    return {name: (found[2 * n].why, found[2 * n + 1].why) for n, name in enumerate(STATE)}


@pytest.mark.parametrize("name", STATE)
def test_state_does_not_leak(name: str, verdicts: dict[str, tuple[str, str]]) -> None:
    assert verdicts[name] == ("", "")


def test_tests_that_only_calculate_share_their_process() -> None:
    harmless = (
        "METADATA = {}\n\n\ndef check(candidate):\n    import math\n    assert all(candidate(i) == i + 1 for i in range(3))\n"
    )
    assert trusted._leave_no_trace("from typing import List\n\n\ndef g(x):\n    return x\n\n\n", harmless + "    g(1)\n", "f")
    for act, _ in STATE.values():
        if act != "import random; random.random()":  # it is seeded for every job
            assert not trusted._leave_no_trace("", f"def check(c):\n    {act}\n", "f"), act


@needs_layers
@pytest.mark.skipif(not LINUX or os.geteuid() != 0, reason="is about what root may do")
@pytest.mark.parametrize("sandbox", ["auto", "off"])
def test_root_cannot_read_the_tests_either(sandbox: str) -> None:
    """With root's capabilities the guest would find the expected value in the memory of another process."""
    body = """
    import glob, os
    found = []
    for folder in glob.glob('/proc/[0-9]*'):
        try:
            if folder != f'/proc/{os.getpid()}' and open(folder + '/cmdline').read():  # the kernel's own have none
                open(folder + '/mem', 'rb').close()
                found.append(folder)
        except OSError:
            pass
    return found
"""
    mine = Job("def f(x):\n", body, "", "def check(c):\n    assert c(1) == [], c(1)\n", "f")
    with Judge(1, sandbox=sandbox, progress=False) as room:
        assert "capabilities" in room.layers
        assert room.run([mine])[0].why == ""
