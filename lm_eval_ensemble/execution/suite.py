"""How the text of a test is run: in a namespace that holds the entry point, on either side of the border.

Whatever the text leaves to its harness is done here: ``check(candidate)`` is called unless the text calls it, and
so are the cases of unittest and the ``test_`` functions that nobody ran.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from lm_eval_ensemble.execution.surroundings import PACKAGES

__all__ = ["CANNOT", "CannotJudgeError", "compiled", "entry_of", "is_by_the_test", "module", "name_module", "run"]

_ENTERED = "__entered_by_the_test__"


#: how ``why`` begins where the test cannot be judged here, whatever the program
CANNOT = "cannot judge: "


class CannotJudgeError(Exception):
    """The test needs something that is not to be had here; that says nothing about the program."""


def module(name: str = "", *also: str) -> dict[str, Any]:
    """A fresh namespace that is a module of its own, so that unittest and doctest find what is in it.

    Without a name it is as in the reference: ``__name__`` is that of the built-ins. With one, what is pickled is found
    in it. In neither case is ``if __name__ == "__main__"`` true.
    """
    made = types.ModuleType(name)
    for alias in ("__main__", name, *also):
        if alias:
            sys.modules[alias] = made
    if not name:
        vars(made).clear()
    return vars(made)


def name_module(test: str, entry: str) -> None:
    """Let the last ``module`` be found under the names that the test imports it by."""
    for name in _names_of_the_program(test, entry):
        package, _, last = name.rpartition(".")
        sys.modules[name] = made = sys.modules["__main__"]
        while package:
            inner = made
            made = sys.modules.setdefault(package, types.ModuleType(package))
            made.__path__ = []
            setattr(made, last, inner)
            package, _, last = package.rpartition(".")


@functools.lru_cache(maxsize=512)
def _names_of_the_program(test: str, entry: str) -> list[str]:
    """Of the modules that a test imports and that are not here, those it takes the entry point from."""
    imported = re.findall(r"^[ \t]*(?:from|import)[ \t]+(\w+)", test, re.MULTILINE)
    if all(map(_is_here, imported)):
        return []  # parsing is dear
    wanted = entry.partition(".")[0].partition("(")[0]
    nodes = list(ast.walk(ast.parse(test)))
    asked = {ast.unparse(node.value) for node in nodes if isinstance(node, ast.Attribute) and node.attr == wanted}
    found = []
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and not node.level and {wanted, "*"} & {one.name for one in node.names}:
            found.append(str(node.module))
        elif isinstance(node, ast.Import):
            found += [one.name for one in node.names if (one.asname or one.name) in asked]
    return [name for name in found if not _is_here(name)]


def _is_here(name: str) -> bool:
    """Whether programs may import a module of that name."""
    top = name.partition(".")[0]
    return top in sys.stdlib_module_names or top in PACKAGES or f"{top}.py" in PACKAGES or top in ("__main__", "__future__")


def entry_of(namespace: dict[str, Any], entry: str) -> Any:
    """What an entry point (``f``, or ``Solution().f``) stands for; NameError if the program does not define it."""
    if entry.isidentifier():
        try:
            return namespace[entry]
        except KeyError:
            raise NameError(f"name {entry!r} is not defined") from None
    return eval(entry, namespace)


def run(test: str, namespace: dict[str, Any], candidate: Any) -> bool:
    """Run a test to its end; whatever it raises is its answer. False if there was nothing to run but its top level."""
    before = namespace.get("check")
    entered = namespace[_ENTERED] = set[str]()
    cases = _Cases() if "unittest" in test else None
    try:
        exec(compiled(test, "<test>"), namespace)
    except SystemExit as end:
        if not _is_good_end(end):
            raise
    check = namespace.get("check")
    if check is not before and check is not candidate and callable(check):
        if "check" not in entered:
            _call(check, candidate)
        return True
    done = cases is not None and cases.run_the_rest(namespace)
    for method in _methods(namespace):
        done = True
        _call(method)
    functions = [value for name, value in namespace.items() if _is_test(name) and _is_of_the_test(value)]
    for function in functions:
        if function.__name__ not in entered:
            for parameters in _parameters(function):
                done = True
                _call(functools.partial(function, **parameters))
    done = done or any(function.__name__ in entered for function in functions)
    if not done and (functions or not _can_fail(test)):
        raise CannotJudgeError("every test is skipped" if functions else "the test calls nothing and asserts nothing")
    return done


def _can_fail(test: str) -> bool:
    """Whether anything at the top level of a text could tell a program from another."""
    return any(isinstance(node, ast.Assert | ast.Call | ast.Raise | ast.Subscript) for node in ast.walk(ast.parse(test)))


def _call(function: Callable[..., Any], *candidate: Any) -> None:
    """Call a test function with the entry point, or without if it takes nothing."""
    code = getattr(function, "__code__", None)
    takes = code is None or code.co_argcount or code.co_flags & 0x04
    answer = function(*candidate) if takes else function()
    if isinstance(answer, types.CoroutineType):
        import asyncio

        asyncio.run(answer)


def _methods(namespace: dict[str, Any]) -> Iterator[Callable[..., Any]]:
    """The test methods of classes in the style of pytest, each of a fresh object."""
    for name, kind in list(namespace.items()):
        if name.startswith("Test") and isinstance(kind, type) and "__init__" not in vars(kind):
            for method, value in list(vars(kind).items()):
                if _is_test(method) and _is_of_the_test(value):
                    for parameters in _parameters(value, kind):
                        own = kind()
                        getattr(own, "setup_method", lambda: None)()
                        yield functools.partial(value, own, **parameters)


def _parameters(function: types.FunctionType, kind: type | None = None) -> list[dict[str, Any]]:
    """The arguments of each call that pytest would make of a test by its marks, and by those of its class: none if it is
    to be skipped or expected to fail.
    """
    calls: list[dict[str, Any]] = [{}]
    for mark in (*getattr(kind, "pytestmark", ()), *getattr(function, "pytestmark", ())):
        conditions = (eval(one, function.__globals__) if isinstance(one, str) else one for one in mark.args)
        if mark.name in ("skip", "xfail") or (mark.name == "skipif" and any(conditions)):
            return []
        if mark.name == "parametrize":
            calls = [{**call, **more} for more in _sets(*mark.args, **mark.kwargs) for call in calls]
    code = function.__code__
    needed = code.co_varnames[kind is not None : code.co_argcount - len(function.__defaults__ or ())]
    if any(not call.keys() >= set(needed) for call in calls):
        raise CannotJudgeError(f"{code.co_name} takes arguments that only pytest can give")
    return calls


def _sets(argnames: Any, argvalues: Any, **_: Any) -> Iterator[dict[str, Any]]:
    """The sets of arguments of one ``pytest.mark.parametrize``."""
    names = [name.strip() for name in argnames.split(",")] if isinstance(argnames, str) else list(argnames)
    for values in argvalues:
        if type(values).__name__ == "ParameterSet":  # pytest.param
            yield dict(zip(names, values.values, strict=True))
        else:
            yield dict(zip(names, values if len(names) > 1 else [values], strict=True))


def _is_of_the_test(value: Any) -> bool:
    return isinstance(value, types.FunctionType) and value.__code__.co_filename == "<test>"


def _is_good_end(end: SystemExit) -> bool:
    """Whether the test itself (or unittest.main in its name) said that all is well, and not the program."""
    return end.code in (None, 0, False) and is_by_the_test(end, "unittest")


def is_by_the_test(error: BaseException, *packages: str) -> bool:
    """Whether an exception was raised by the test's own lines, or by the import system or ``packages`` called from there."""
    own, trace = False, error.__traceback__
    while trace is not None:
        code, name = trace.tb_frame.f_code, trace.tb_frame.f_globals.get("__name__", "")
        if not (own and str(name).partition(".")[0] in ("importlib", *packages)):
            own = code.co_filename == "<test>"
        trace = trace.tb_next
    return own


class _Cases:
    """Notes which cases of unittest are run, to run those that nobody ran."""

    def __init__(self) -> None:
        import unittest

        self._ran: set[type] = set()
        self._results: list[unittest.TestResult] = []
        run = unittest.TestCase.run

        def noted(case: Any, result: Any = None) -> Any:
            self._ran.add(type(case))
            found = run(case, result)
            if found is not None:
                self._results.append(found)
            return found

        unittest.TestCase.run = noted  # type: ignore[method-assign, assignment]

    def run_the_rest(self, namespace: dict[str, Any]) -> bool:
        """True if any case was run, here or before. One that failed counts, even if the text looked away."""
        import unittest

        kinds = [v for v in namespace.values() if isinstance(v, type) and issubclass(v, unittest.TestCase)]
        result = unittest.TestResult()
        if not self._ran:
            for kind in kinds:
                unittest.defaultTestLoader.loadTestsFromTestCase(kind).run(result)
        for found in (result, *self._results):
            for case, text in [*found.errors, *found.failures]:
                raise AssertionError(f"{case.id()}: {text.strip().splitlines()[-1]}")
            if found.unexpectedSuccesses:
                raise AssertionError("a test that was expected to fail did not")
        return bool(self._ran)


@functools.lru_cache(maxsize=512)
def compiled(source: str, name: str) -> types.CodeType:
    """The code of a text. Samples of one problem share their test."""
    tree: Any = source
    if name == "<test>" and _may_call_its_functions(source):
        tree = ast.parse(source, name)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _is_for_the_harness(node.name):
                _note_entry(node)
    # Without dont_inherit, this module's __future__ imports would leak in.
    return compile(tree, name, "exec", dont_inherit=True)


def _may_call_its_functions(test: str) -> bool:
    """Whether the text speaks of its functions anywhere but in their definition. (Parsing is dear, most do not.)"""
    return "def test" in test or len(re.findall(r"\bcheck\b", test)) > 1


def _is_for_the_harness(name: str) -> bool:
    return name == "check" or _is_test(name)


def _is_test(name: str) -> bool:
    """pytest takes every name that begins with test; a helper ``tested(x)`` that nobody calls is no test."""
    return name == "test" or name.startswith("test_")


def _note_entry(function: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    """Let a function say that it was entered."""
    note = ast.parse(f"{_ENTERED}.add({function.name!r})").body[0]
    first = function.body[0]
    has_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    function.body.insert(int(has_text), ast.fix_missing_locations(ast.copy_location(note, first)))
    for inner in ast.walk(note):
        ast.copy_location(inner, first)
