"""Python runs this at the start of every process that a test starts: lm_eval sees our tasks alone.

An index of all of its tasks, thousands of files, takes longer than most runs.
"""

import pathlib

_glob = pathlib.Path.glob
pathlib.Path.glob = lambda self, *a, **k: iter(()) if self.parts[-2:] == ("lm_eval", "tasks") else _glob(self, *a, **k)  # type: ignore[assignment, method-assign]
