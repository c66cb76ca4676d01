"""Evidence for the default rule: the tiny pair on 300 HumanEval-Infilling tasks, every judge on the same candidates.

    LM_EVAL_ENSEMBLE_DATA=... python scripts/evaluate_tiny.py --length oracle
    LM_EVAL_ENSEMBLE_DATA=... python scripts/evaluate_tiny.py --length ar

It runs plain ``lm_eval`` once, then replays the selection over the recorded scores. The tasks are 450 to 749 of
``random.Random(0).shuffle``; training chose nothing on them.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval_ensemble.selection import Case, argmin
from lm_eval_ensemble.types import Candidate, Scored

TASK, TOTAL = "humaneval_infill", 1033
RULES = ("fim+onepass", "causal", "joint", "fim", "onepass")


def chosen_documents(first: int, last: int) -> list[int]:
    """Document numbers of the evaluation block."""
    order = list(range(TOTAL))
    random.Random(0).shuffle(order)
    return sorted(order[first:last])


def run_lm_eval(length: str, documents: Sequence[int], folder: Path) -> list[dict[str, Any]]:
    """The selection records of one ``lm_eval`` run."""
    command = [
        *(sys.executable, "-m", "lm_eval", "--model", "ensemble-ppl"),
        *("--model_args", f"preset=tiny,pretrained=tiny,length={length}", "--batch_size", "auto"),
        *("--tasks", TASK, "--samples", json.dumps({TASK: list(documents)})),
        *("--confirm_run_unsafe_code", "--log_samples", "--output_path", str(folder)),
    ]
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(code)
    path = next(folder.rglob(f"samples_{TASK}_*.jsonl"))
    return [json.loads(line)["selection"] for line in path.read_text(encoding="utf-8").split("\n") if line]


def replay(record: dict[str, Any], rule: str) -> bool:
    """Whether the candidate this rule would choose is right."""
    found = []
    for candidate in record["candidates"]:
        scores = dict(candidate["scores"])
        found.append(Scored(Candidate(candidate["member"], candidate["text"], candidate["raw"]), scores))
    winner, _ = argmin(Case(tuple(found), rule, record["prefer"]))
    return bool(record["candidates"][winner]["right"])


def summary(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts of right answers: members, reachable (at least one right), and every judge."""
    members = [candidate["member"] for candidate in records[0]["candidates"]]
    right = {m: sum(r["candidates"][i]["right"] for r in records) for i, m in enumerate(members)}
    reachable = sum(any(c["right"] for c in r["candidates"]) for r in records)
    judges = {rule: sum(replay(record, rule) for record in records) for rule in RULES}
    return {"n": len(records), "members": right, "reachable": reachable, "judges": judges}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", default="oracle", help="oracle, ar or fixed:N (default: %(default)s)")
    parser.add_argument("--first", type=int, default=450)
    parser.add_argument("--last", type=int, default=750)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        records = run_lm_eval(arguments.length, chosen_documents(arguments.first, arguments.last), Path(folder))
    print(json.dumps({"length": arguments.length, **summary(records)}))


if __name__ == "__main__":
    main()
