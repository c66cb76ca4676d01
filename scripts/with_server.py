"""Run a command while an OpenAI-compatible server answers on loopback.

    python scripts/with_server.py --port 8011 -- lm_eval --config docs/three_members.yaml

The server is the one of the tests (``tests/servers.py``, ``POST /v1/completions``) around a checkpoint, the embedded
autoregressive one unless another is given. It is for demonstrations: it answers one request at a time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lm_eval_ensemble.config import asset_path
from tests.servers import CompletionsServer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="asset:tiny/fim", help="a folder (default: the embedded one)")
    parser.add_argument("--port", type=int, default=8011)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run, after --")
    given = parser.parse_args()
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if not command:
        parser.error("expected a command after --")
    with CompletionsServer(asset_path(given.checkpoint), port=given.port) as server:
        print(f"serving {given.checkpoint} at {server.url}", file=sys.stderr)
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
