"""A real checkpoint on HumanEval-Infilling: gaps a second beside stock ``hf``, and what scoring costs beside generating.

    LM_EVAL_ENSEMBLE_DATA=DATA python benchmarks/real.py CHECKPOINT [--gaps 120] [--limit 48] [--dtype float32]
    LM_EVAL_ENSEMBLE_DATA=DATA python benchmarks/real.py CHECKPOINT --gaps 20 --limit 512

The gaps are ``random.Random(0).sample(range(1033), 120)``, the first of them with ``--gaps``. Both models are loaded the same
way, answer the same requests, one after the other in one process, and only the call that generates is timed. Then an ensemble
of the checkpoint and the embedded diffusion model fills the gaps, and generating and scoring are timed apart. The last line is
JSON; texts are compared after the task's cut.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import time
from collections.abc import Callable
from typing import Any

import torch
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from lm_eval_ensemble import ensemble
from lm_eval_ensemble.harness import plugin
from lm_eval_ensemble.harness.ensemble_lm import EnsemblePPL
from lm_eval_ensemble.harness.scored_lm import ScoredHF

TASK = "humaneval_infill"


class Watch:
    """Wall and CPU seconds of the calls it was put around."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def around(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return work(*given, **named)
            finally:
                self.wall, self.cpu = self.wall + time.perf_counter() - wall, self.cpu + time.process_time() - cpu

        return timed


def answers(lm: Any, numbers: list[int], limit: int) -> tuple[list[str], float, Watch]:
    """Texts after the cut in the order of the documents, pass@1, and the time of ``generate_until``."""
    watch = Watch()
    lm.generate_until = watch.around(lm.generate_until)
    found = simple_evaluate(
        model=lm,
        tasks=[TASK],
        samples={TASK: numbers},
        task_manager=TaskManager(include_defaults=False),
        gen_kwargs={"max_gen_toks": limit},
        confirm_run_unsafe_code=True,
        bootstrap_iters=0,
        log_samples=True,
    )
    samples = sorted(found["samples"][TASK], key=lambda sample: sample["doc_id"])
    return [sample["filtered_resps"][0] for sample in samples], found["results"][TASK]["pass@1,none"], watch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--gaps", type=int, default=120, help="how many of the 120 (default: all)")
    parser.add_argument("--limit", type=int, default=48, help="tokens of an answer (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    plugin.register()
    numbers = sorted(random.Random(0).sample(range(1033), 120)[: arguments.gaps])
    how = {"dtype": arguments.dtype, "batch_size": arguments.batch_size, "device": "cpu"}
    texts, rows = {}, {}
    for name, kind in (("hf", HFLM), ("hf-scored", ScoredHF)):
        lm = kind(pretrained=arguments.checkpoint, **how)
        texts[name], score, watch = answers(lm, numbers, arguments.limit)
        rows[name] = {"pass@1": round(score, 4), "wall_s": round(watch.wall, 1), "cpu_s": round(watch.cpu, 1)}
        print(f"{name}: {len(numbers)} gaps in {watch.wall:.1f} s, pass@1 {100 * score:.1f} %", flush=True)
        del lm
        gc.collect()
    scoring = Watch()
    ensemble.score_candidates = scoring.around(ensemble.score_candidates)
    pair = EnsemblePPL(preset="tiny", fim=arguments.checkpoint, length="ar", store="off", **how)
    _, score, watch = answers(pair, numbers, arguments.limit)
    generating = watch.cpu - scoring.cpu
    print(f"ensemble: scoring takes {100 * scoring.cpu / generating:.1f} % of the CPU time of generating", flush=True)
    row = {
        "benchmark": "real",
        "gaps": len(numbers),
        "limit": arguments.limit,
        "dtype": arguments.dtype,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        **rows,
        "equal_texts": sum(a == b for a, b in zip(*texts.values(), strict=True)),
        "times_faster_wall": round(rows["hf"]["wall_s"] / rows["hf-scored"]["wall_s"], 2),
        "times_faster_cpu": round(rows["hf"]["cpu_s"] / rows["hf-scored"]["cpu_s"], 2),
        "ensemble_pass@1": round(score, 4),
        "scoring_share_of_generating": round(scoring.cpu / generating, 3),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
