"""Which warnings fail a test.

A deprecation (also a FutureWarning) fails it if the call that raises it is ours: the line that it is attributed to
(``stacklevel``) belongs to us. Frames that only hand a call on, as those of ``torch.nn.Module.__call__``, are skipped on the
way out: a ``forward`` that is called by an argument of yesterday is called by us, though the warning names torch's file. What
a dependency raises for calls of its own, or while it is imported, is its own business: its next release must not turn our
tests red.

Any other warning (RuntimeWarning, UserWarning, ...) fails it if a line of the package is anywhere on the stack: it is about
what we do.

All deprecations below a call of ours are listed at the end of a run: what moves next, whoever has to mend it.
"""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

__all__ = ["Watch"]

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("lm_eval_ensemble", "tests", "tasks", "scripts", "benchmarks")
PASSING = ("torch/nn/modules/module.py", "torch/utils/_contextlib.py", "/functools.py", "/contextlib.py", "<frozen importlib")
DEPRECATIONS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
_KEY = "deprecations below calls of ours"


class Watch:
    """A pytest plugin: ``config.pluginmanager.register(Watch())``.

    :param root: the checkout; code in its rooms is ours.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        #: What is to be listed at the end, and how often it was raised.
        self.deprecations: Counter[str] = Counter()
        self.faults: list[str] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Every warning comes here; ``pytest.warns`` and the like inside take theirs before."""
        before, warnings.showwarning = warnings.showwarning, self._see
        try:
            yield
        finally:
            warnings.showwarning = before

    def _see(
        self, message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        stack = [frame for frame, _ in traceback.walk_stack(None) if frame.f_code.co_filename != __file__]
        deprecated = issubclass(category, DEPRECATIONS)
        if self._called_by_us(stack, filename, lineno) if deprecated else any(self._is_ours(f, ROOMS[:1]) for f in stack):
            shown = "".join(traceback.format_stack(stack[0])[-12:])
            self.faults.append(f"{category.__name__}: {message} ({filename}:{lineno})\n{shown}")
        nearest = next((frame for frame in stack if self._is_ours(frame)), None)
        if deprecated and nearest is not None:
            place = f"{Path(nearest.f_code.co_filename).relative_to(self.root)}:{nearest.f_lineno}"
            self.deprecations[f"{place}: {category.__name__}: {' '.join(str(message).split())}"] += 1

    def _called_by_us(self, stack: Sequence[FrameType], filename: str, lineno: int) -> bool:
        if stack and stack[0].f_code.co_name == "<module>" and not self._is_ours(stack[0]):
            return False  # a dependency that is imported, whomever it names for it
        named = next((i for i, f in enumerate(stack) if (f.f_code.co_filename, f.f_lineno) == (filename, lineno)), None)
        if named is None:
            return self._is_our_file(filename)  # it is about a file that is being read, not about a call
        caller = next((f for f in stack[named:] if not any(part in f.f_code.co_filename for part in PASSING)), None)
        return caller is not None and self._is_ours(caller)

    def _is_ours(self, frame: FrameType, rooms: Sequence[str] = ROOMS) -> bool:
        return self._is_our_file(frame.f_code.co_filename, rooms)

    def _is_our_file(self, name: str, rooms: Sequence[str] = ROOMS) -> bool:
        return any(name.startswith(f"{self.root / room}/") for room in rooms)

    def _fail(self) -> None:
        found, self.faults = self.faults, []
        if found:
            pytest.fail("A call of ours raises a warning.\n" + "\n".join(found), pytrace=False)

    # Inside pytest's own wrappers of these two, which put the warnings module back as it was.

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_collection(self) -> Generator[None, Any, Any]:
        with self.watching():
            result = yield
        if self.faults:
            raise pytest.UsageError("An import of ours raises a warning.\n" + "\n".join(self.faults))
        return result

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_protocol(self) -> Generator[None, Any, Any]:
        with self.watching():
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None, Any, Any]:
        result = yield
        self._fail()
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Generator[None, Any, Any]:
        result = yield
        self._fail()
        return result

    # With several processes each tells the first one what it has seen.

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if (told := getattr(session.config, "workeroutput", None)) is not None:
            told[_KEY] = dict(self.deprecations)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.deprecations.update(getattr(node, "workeroutput", {}).get(_KEY, {}))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.deprecations:
            terminalreporter.section(_KEY)
            for told, count in sorted(self.deprecations.items()):
                terminalreporter.write_line(f"{told} ({count} times)" if count > 1 else told)
