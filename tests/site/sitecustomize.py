"""Python runs this at the start of every process that a test starts, to spare it what most runs do not need.

lm_eval sees our tasks alone: an index of all of its own, thousands of files, takes longer than a run. torchao, which
transformers imports wherever it is installed, is not seen: what uses it is tested in the tests' own processes.
"""

import os
import pathlib
import sys

_glob = pathlib.Path.glob
pathlib.Path.glob = lambda self, *a, **k: iter(()) if self.parts[-2:] == ("lm_eval", "tasks") else _glob(self, *a, **k)  # type: ignore[assignment, method-assign]
if "PYTEST_CURRENT_TEST" in os.environ:  # not in the tests' own processes, which are started before the first test
    sys.modules["torchao"] = None  # type: ignore[assignment]
