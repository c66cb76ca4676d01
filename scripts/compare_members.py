"""When does each member win? Right answers by length of the gap and by kind of line, from samples files of a run.

python scripts/compare_members.py out/tiny/samples_humaneval_infill_*.jsonl ...
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Sample = dict[str, Any]
KINDS = (
    ("else, try, pass, break, continue", r"(else|try|finally|pass|break|continue)\b:?"),
    ("return of a constant or a name", r"return( [\w.\-'\"\[\]]+)?$"),
    ("other return", r"return\b"),
    ("if, elif, while", r"(if|elif|while)\b"),
    ("for", r"for\b"),
    ("assignment", r"[\w\[\], .]+ ?([-+*/%]|//|\*\*)?= ?"),
)


def kind(sample: Sample) -> str:
    line = sample["doc"]["middle"].strip()
    return next((name for name, pattern in KINDS if re.match(pattern, line)), "anything else")


def length(sample: Sample) -> str:
    characters = len(sample["doc"]["middle"].strip())
    edge = next((edge for edge in (10, 20, 40) if characters <= edge), None)
    return f"at most {edge} characters" if edge else "over 40 characters"


def table(samples: Iterable[Sample], group: Callable[[Sample], str], order: Iterable[str]) -> list[str]:
    """Rows of a Markdown table: documents, each member, only one of them, ensemble, oracle."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    members: list[str] = []
    for sample in samples:
        record, row = sample["selection"], counts[group(sample)]
        right = {candidate["member"]: candidate["right"] for candidate in record["candidates"]}
        members = list(right)
        row["n"] += 1
        row["ensemble"] += record["candidates"][record["winner_index"]]["right"]
        row["oracle"] += any(right.values())
        for member, is_right in right.items():
            row[member] += is_right
            row[f"only {member}"] += is_right and sum(right.values()) == 1
    columns = ["n", *members, *(f"only {member}" for member in members), "ensemble", "oracle"]
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(str(counts[name][c]) for c in columns)} |" for name in order if name in counts]
    return lines


def main() -> None:
    for name in sys.argv[1:]:
        samples = [json.loads(line) for line in Path(name).read_text(encoding="utf-8").split("\n") if line]
        task = Path(name).name.removeprefix("samples_").rsplit("_", 1)[0]
        print(f"\n{task}, right answers by {samples[0]['selection']['measure']}\n")
        print("\n".join(table(samples, kind, [*(n for n, _ in KINDS), "anything else"])) + "\n")
        lengths = [f"at most {edge} characters" for edge in (10, 20, 40)]
        print("\n".join(table(samples, length, [*lengths, "over 40 characters"])))


if __name__ == "__main__":
    main()
