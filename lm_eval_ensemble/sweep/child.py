"""What runs in a cell's own process: ``lm-eval-ensemble run --config FILE``, with the cell held for as long as it lives."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from lm_eval_ensemble.sweep.locks import hold_as_worker

__all__ = ["main"]


def main() -> None:
    config = sys.argv[1]
    hold_as_worker(Path(config).parent)
    sys.argv = ["lm-eval-ensemble", "run", "--config", config]
    runpy.run_module("lm_eval_ensemble", run_name="__main__")


if __name__ == "__main__":
    main()
