"""The figures of docs/corrections.md, from a samples file of the tiny pair.

python scripts/corrections.py out/tiny/samples_humaneval_infill_*.jsonl
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval_ensemble.harness.scored_lm import ScoredHF
from lm_eval_ensemble.scoring.base import Statistic, mean_nll
from lm_eval_ensemble.scoring.passes import PassJob, run_pass
from lm_eval_ensemble.selection import Case, argmin
from lm_eval_ensemble.types import Candidate, InfillRequest, Scored

Record = dict[str, Any]


def shifted(statistic: Statistic) -> float | None:
    """The off-by-one: logits[start:end] against tokens[start+1:end+1] drops the first token of the middle and charges
    the first token of the suffix."""
    return mean_nll((*statistic.middle[1:], *statistic.after[:1]))


def picks_right(samples: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Right choices by ``causal`` with the corrected span and with the shifted one, and on how many they differ."""
    model = ScoredHF(preset="tiny", batch_size=16)
    jobs = [
        PassJob(InfillRequest(s["doc"]["prefix"], s["doc"]["suffix"]), c["text"])
        for s in samples
        for c in s["selection"]["candidates"]
    ]
    statistics = iter(run_pass("sequence", model, jobs))
    counts = {"causal": 0, "shifted": 0, "different_choice": 0}
    for sample in samples:
        record = sample["selection"]
        scored = []
        for candidate in record["candidates"]:
            found = next(statistics)
            scores = {
                "causal": None if found is None else mean_nll(found.middle),
                "shifted": None if found is None else shifted(found),
            }
            scored.append(Scored(Candidate(candidate["member"], candidate["text"], candidate["raw"]), scores))
        winners = {rule: argmin(Case(tuple(scored), rule, record["prefer"]))[0] for rule in ("causal", "shifted")}
        for rule, winner in winners.items():
            counts[rule] += record["candidates"][winner]["right"]
        counts["different_choice"] += winners["causal"] != winners["shifted"]
    return counts


def main() -> None:
    for name in sys.argv[1:]:
        samples = [json.loads(line) for line in Path(name).read_text(encoding="utf-8").split("\n") if line]
        rights = [[c["right"] for c in s["selection"]["candidates"]] for s in samples]
        chosen = [s["selection"]["candidates"][s["selection"]["winner_index"]]["right"] for s in samples]
        figures = {
            "task": Path(name).name,
            "documents": len(samples),
            "problems": len({s["doc"]["problem"] for s in samples}),
            "members": [sum(column) for column in zip(*rights, strict=True)],
            "floor": sum(map(all, rights)),
            "ensemble": sum(chosen),
            "oracle": sum(map(any, rights)),
            "ensemble_right_while_no_member_is": sum(c and not any(r) for c, r in zip(chosen, rights, strict=True)),
            **picks_right(samples),
        }
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
