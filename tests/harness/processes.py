"""One process of a distributed run: python processes.py CASES.json OUT.json, under torch.distributed.run.

Runs every case by lm_eval's own evaluator and writes what the first process got. The case named ``fails`` comes last: the
second process meets an error in its second batch.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable, setup_logging

from lm_eval_ensemble.harness import plugin

__all__ = ["answer"]


def answer(
    lm: str, task: str, metadata: dict[str, Any] | None = None, limit: int = 5, batch_size: int = 4, **arguments: Any
) -> Any:
    """The samples of a run, sorted by document, as JSON; None in all processes but the first."""
    manager = TaskManager(include_defaults=False, metadata={**arguments, **(metadata or {})})
    settings = {"confirm_run_unsafe_code": True, "bootstrap_iters": 0, "log_samples": True, "device": "cpu"}
    found = simple_evaluate(lm, arguments, [task], task_manager=manager, limit=limit, batch_size=batch_size, **settings)
    if found is None:
        return None
    rows = json.loads(json.dumps(found["samples"][task], default=handle_non_serializable))
    return {"metrics": sorted(found["results"][task]), "samples": sorted(rows, key=lambda row: int(row["doc_id"]))}


def fail_in_the_second_process() -> None:
    from lm_eval_ensemble.errors import ModelError
    from lm_eval_ensemble.harness.scored_lm import ScoredHF

    batches, generate = [0], ScoredHF._generate

    def failing(self: Any, batch: Any) -> Any:
        batches[0] += 1
        if os.environ["RANK"] == "1" and batches[0] == 2:
            raise ModelError("the weights went away")
        return generate(self, batch)

    ScoredHF._generate = failing  # type: ignore[method-assign]


def main() -> None:
    setup_logging()
    plugin.register()
    cases, out = json.loads(Path(sys.argv[1]).read_text()), {}
    for name, case in cases.items():
        if name == "fails":
            fail_in_the_second_process()
        out[name] = answer(**case)
        if os.environ["RANK"] == "0":
            Path(sys.argv[2]).write_text(json.dumps(out))
        else:
            assert out[name] is None


if __name__ == "__main__":
    main()
