"""Keeps the --help texts in the documentation true.

    python scripts/docs_help.py           write them anew
    python scripts/docs_help.py --check   fail if one is stale

A block begins with ``<!-- help: COMMAND -->`` and is the fenced block that follows.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- help: (?P<command>[^>]+?) -->\n```text\n)(?P<text>.*?)(^```)", re.DOTALL | re.MULTILINE)


def help_text(command: str) -> str:
    """What ``COMMAND --help`` prints, at a fixed width."""
    words = command.split()
    assert words[0] == "lm-eval-ensemble", command
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval_ensemble", *words[1:], "--help"],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    return done.stdout.strip()


def renewed(text: str) -> str:
    """The page with every help block written anew."""
    return BLOCK.sub(lambda m: f"{m[1]}{help_text(m['command'])}\n{m[4]}", text)


def main() -> int:
    if sys.version_info[:2] != (3, 11):
        print("the --help blocks are written by Python 3.11; argparse lays them out differently here, not compared")
        return 0
    stale = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        before = page.read_text(encoding="utf-8")
        after = renewed(before)
        if after == before:
            continue
        if "--check" in sys.argv[1:]:
            stale.append(str(page.relative_to(ROOT)))
        else:
            page.write_text(after, encoding="utf-8")
    if stale:
        print(f"stale --help text in {', '.join(stale)}; run `make docs`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
