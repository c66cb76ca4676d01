"""What the plugin costs at every interpreter start.

    python benchmarks/startup.py

Two fresh virtual environments of the same interpreter, one with our package and its .pth line, one without; `python -c
pass` runs in them in turn. The cost is the median of the paired differences. The last line is JSON.
"""

from __future__ import annotations

import compileall
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROUNDS = 150
ROOT = Path(__file__).resolve().parent.parent


def environment(folder: Path, with_plugin: bool) -> str:
    """A virtual environment; with the plugin, it holds the two files an interpreter start touches, and the .pth."""
    venv.create(folder, with_pip=False, symlinks=True)
    if with_plugin:
        site = next(folder.glob("lib/python*/site-packages"))
        (site / "lm_eval_ensemble").mkdir()
        for name in ("__init__.py", "_autoload.py"):
            shutil.copy(ROOT / "lm_eval_ensemble" / name, site / "lm_eval_ensemble" / name)
        shutil.copy(ROOT / "lm_eval_ensemble.pth", site / "lm_eval_ensemble_autoload.pth")
        compileall.compile_dir(site, quiet=2)  # pip does this when it installs
    return str(folder / "bin" / "python")


def start(python: str) -> float:
    """Milliseconds of one interpreter start."""
    begin = time.perf_counter()
    subprocess.run([python, "-c", "pass"], check=True)
    return (time.perf_counter() - begin) * 1000


def charged(python: str) -> int:
    """Microseconds that `-X importtime` charges to our modules."""
    report = subprocess.run([python, "-X", "importtime", "-c", "pass"], check=True, capture_output=True, text=True).stderr
    return sum(int(line.split("|")[0].split(":")[1]) for line in report.splitlines() if "lm_eval_ensemble" in line)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        without, with_plugin = environment(Path(folder, "a"), False), environment(Path(folder, "b"), True)
        for _ in range(5):
            start(without), start(with_plugin)
        pairs = [(start(without), start(with_plugin)) for _ in range(ROUNDS)]
        microseconds = statistics.median(charged(with_plugin) for _ in range(21))
    figures = {
        "python": sys.version.split()[0],
        "rounds": ROUNDS,
        "start_without_ms": round(statistics.median(a for a, _ in pairs), 3),
        "start_with_ms": round(statistics.median(b for _, b in pairs), 3),
        "cost_ms": round(statistics.median(b - a for a, b in pairs), 3),
        "importtime_us": microseconds,
    }
    print(f"cost of the plugin at interpreter start: {figures['cost_ms']} ms of {figures['start_without_ms']} ms")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
