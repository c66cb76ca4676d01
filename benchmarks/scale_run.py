"""One run of lm_eval with instruments, for ``scale.py``:  scale_run.py FOLDER BEGIN ARGUMENTS-OF-LM_EVAL...

BEGIN is the caller's ``time.monotonic()``: the start of the interpreter counts too. Writes ``FOLDER/rank<N>.json``.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import importlib
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: (module, class or None, function, part). A part that begins with ``:`` belongs to the phase that is open.
PARTS = [
    ("lm_eval.tasks", "TaskManager", "__init__", "lm_eval: task index"),
    ("lm_eval.tasks", "TaskManager", "load", "lm_eval: task and data set"),
    ("lm_eval.evaluator", None, "evaluate", "lm_eval: evaluate"),
    ("lm_eval.evaluator", None, "_process_results", "lm_eval: means and standard errors"),
    ("lm_eval.evaluator", None, "add_env_info", "lm_eval: environment information"),
    ("lm_eval.evaluator", None, "get_git_commit_hash", "lm_eval: environment information"),
    ("lm_eval.loggers", "EvaluationTracker", "save_results_samples", "lm_eval: saving samples"),
    ("lm_eval.loggers", "EvaluationTracker", "save_results_aggregated", "lm_eval: saving results"),
    ("lm_eval.models.huggingface", "HFLM", "__init__", "lm_eval: loading models"),
    ("lm_eval_ensemble.harness.base", "InfillLM", "gather_object", "lm_eval: waiting for ranks"),
    ("lm_eval_ensemble.harness.base", "InfillLM", "all_gather", "lm_eval: waiting for ranks"),
    ("lm_eval_ensemble.harness.base", "InfillLM", "barrier", "lm_eval: waiting for ranks"),
    ("lm_eval_ensemble.harness.ensemble_lm", "EnsemblePPL", "__init__", "lm_eval: loading models"),
    ("lm_eval_ensemble.harness.diffusion_lm", "DiffusionInfill", "__init__", "lm_eval: loading models"),
    # What each does itself; the parts below are taken out of it.
    ("lm_eval_ensemble.harness.task", None, "load_documents", "ours: documents"),
    ("lm_eval_ensemble.harness.task", "InfillTask", "doc_to_text", "ours: prompts of the task"),
    ("lm_eval_ensemble.harness.task", "InfillTask", "apply_filters", "ours: around the judge"),
    ("lm_eval_ensemble.harness.task", "InfillTask", "process_results", "ours: records and rows"),
    ("lm_eval_ensemble.harness.task", None, "check_judge", "judge: executing"),
    ("lm_eval_ensemble.runs.rows", None, "selection_accuracy", "ours: metrics"),
    ("lm_eval_ensemble.runs.rows", None, "mean_defined", "ours: metrics"),
    ("lm_eval_ensemble.runs.rows", None, "single_value", "ours: metrics"),
    ("lm_eval_ensemble.harness.ensemble_lm", "EnsemblePPL", "generate_until", "ours: pipeline and selection"),
    ("lm_eval_ensemble.harness.base", "InfillLM", "generate_until", "ours: pipeline and selection"),
    ("lm_eval_ensemble.harness.scored_lm", "ScoredHF", "generate_until", "ours: pipeline and selection"),
    ("lm_eval_ensemble.harness.ensemble_lm", None, "to_requests", "ours: requests"),
    ("lm_eval_ensemble.store", "Store", "ask", "ours: store"),
    ("lm_eval_ensemble.store", "_Page", "add", "ours: store"),
    ("lm_eval_ensemble.store", "Store", "_attempt", "ours: store"),
    ("lm_eval_ensemble.harness.memory", None, "_reset_process", "ours: memory figures"),
    ("lm_eval_ensemble.harness.memory", None, "_process_peak", "ours: memory figures"),
    ("lm_eval_ensemble.harness.scored_lm", "ScoredHF", "_answer", "ours: members, around generation"),
    ("lm_eval_ensemble.harness.diffusion_lm", "DiffusionInfill", "propose", "ours: members, around generation"),
    ("lm_eval_ensemble.harness.recorder", "Recorder", "__call__", "ours: recording log-probabilities"),
    ("lm_eval_ensemble.harness.recorder", "Recorder", "_see", "ours: recording log-probabilities"),
    ("lm_eval_ensemble.harness.recorder", "Recorder", "finish", "ours: recording log-probabilities"),
    ("lm_eval_ensemble.tokens", "PlainEncoder", "encode", "ours: tokenising"),
    ("lm_eval_ensemble.tokens", "PlainEncoder", "decode", "ours: tokenising"),
    ("lm_eval_ensemble.tokens", "PlainEncoder", "pieces", "ours: tokenising"),
    ("lm_eval_ensemble.ensemble", None, "score_candidates", "ours: around scoring"),
    ("lm_eval_ensemble.execution.pool", "Judge", "__init__", "judge: executing"),
    ("lm_eval_ensemble.execution.pool", "Judge", "run", "judge: executing"),
    ("lm_eval_ensemble.execution.pool", "Judge", "close", "judge: executing"),
    ("lm_eval_ensemble.execution.pool", None, "encoded", "ours: around the judge"),
    # The work itself.
    ("transformers", "GenerationMixin", "generate", ": decoding"),
    ("lm_eval_ensemble.harness.diffusion_lm", None, "fill", ": decoding"),
    ("lm_eval_ensemble.harness.reading", "SpanReader", "_read", ": padding and reading logits"),
    ("lm_eval_ensemble.harness.reading", "SpanReader", "_read_groups", ": padding and reading logits"),
    ("lm_eval_ensemble.diffusion.likelihood", None, "read_masked", ": padding and reading logits"),
    ("lm_eval_ensemble.diffusion.model", "MaskedDiffusionModel", "states_at", ": forwards"),
    ("lm_eval_ensemble.diffusion.model", "MaskedDiffusionModel", "logits_of", ": forwards"),
    ("transformers", "Qwen2ForCausalLM", "forward", ": forwards"),
]
#: what opens a phase: (module, class or None, function) -> its name.
PHASES = {
    ("lm_eval_ensemble.harness.scored_lm", "ScoredHF", "_answer"): "generate fim",
    ("lm_eval_ensemble.harness.diffusion_lm", "DiffusionInfill", "propose"): "generate dllm",
    ("lm_eval_ensemble.ensemble", None, "score_candidates"): "score",
}


def seconds() -> tuple[float, float]:
    """Wall time and processor time: of this process, and of children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic(), time.process_time() + ended.ru_utime + ended.ru_stime


class Split:
    """Charges the time of one thread to the innermost open part: the parts add up to the whole, nothing counts twice.

    :param first: the part that is open when no other is.
    """

    def __init__(self, first: str, now: Callable[[], tuple[float, float]] = seconds) -> None:
        self.spent: dict[str, list[float]] = {}
        self._now, self._open = now, [first]
        self._phases: list[str] = []
        self._last = now()
        self._thread = threading.get_ident()

    def charge(self) -> None:
        """The time since the last change goes to the part that is open."""
        at = self._now()
        spent = self.spent.setdefault(self._open[-1], [0.0, 0.0])
        for i in (0, 1):
            spent[i] += at[i] - self._last[i]
        self._last = at

    def wrap(self, function: Callable[..., Any], part: str, phase: str | None = None) -> Callable[..., Any]:
        """The function, charged to a part while nothing inside it opens another. Other threads are not charged: this one
        waits for them meanwhile."""

        @functools.wraps(function)
        def charged(*arguments: Any, **options: Any) -> Any:
            if threading.get_ident() != self._thread:
                return function(*arguments, **options)
            self.charge()
            if phase:
                self._phases.append(phase)
            # Outside of all phases a model runs only to be probed, when it is loaded.
            work = self._phases[-1] + part if self._phases else "lm_eval: loading models"
            self._open.append(work if part.startswith(":") else part)
            try:
                return function(*arguments, **options)
            finally:
                self.charge()
                self._open.pop()
                if phase:
                    self._phases.pop()

        return charged


class Memory:
    """Bytes of resident memory: at the end of each stage, and the peak."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}
        self.peak = 0

    def begin(self) -> None:
        """Every run begins alike: what loading has freed goes back to the system, and its peak is forgotten."""
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        self.peak = 0
        self.note("loaded")

    def note(self, stage: str) -> None:
        self.found[stage] = read_status("VmRSS")

    def keep_peak(self) -> None:
        """Before the kernel's mark is set back (``harness.memory``)."""
        self.peak = max(self.peak, read_status("VmHWM"))

    def after(self, owner: Any, name: str, stage: str) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def noted(*arguments: Any, **options: Any) -> Any:
            found = original(*arguments, **options)
            self.note(stage)
            return found

        setattr(owner, name, noted)


def read_status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def instrument(split: Split) -> None:
    for module, owner, name, part in PARTS:
        place: Any = importlib.import_module(module)
        place = getattr(place, owner) if owner else place
        setattr(place, name, split.wrap(getattr(place, name), part, PHASES.get((module, owner, name))))


def main() -> None:
    folder, begin, arguments = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    started = seconds()
    import lm_eval.__main__
    import lm_eval.evaluator
    import transformers
    from lm_eval.loggers import EvaluationTracker
    from transformers import Qwen2ForCausalLM  # noqa: F401

    from lm_eval_ensemble.harness import memory as product
    from lm_eval_ensemble.harness import prompts, task
    from lm_eval_ensemble.harness.ensemble_lm import EnsemblePPL

    assert transformers
    split = Split("unaccounted")
    split.spent["lm_eval: start and imports"] = [time.monotonic() - begin, seconds()[1]]
    assert started[0] >= begin
    if "SCALE_KEEPS_NO_PROMPTS" in os.environ:  # what a model read of its prompts is not kept for scoring
        prompts._MOST = 0
    held = Memory()
    evaluate, times = lm_eval.evaluator.evaluate, []

    def timed(*given: Any, **options: Any) -> Any:
        held.begin()
        times.append(seconds())
        try:
            return evaluate(*given, **options)
        finally:
            times.append(seconds())

    lm_eval.evaluator.evaluate = functools.wraps(evaluate)(timed)
    held.after(EnsemblePPL, "generate_until", "generated")
    held.after(task.InfillTask, "apply_filters", "judged")
    held.after(lm_eval.evaluator, "_process_results", "aggregated")
    held.after(EvaluationTracker, "save_results_samples", "saved")
    counted, rows = [0], task.InfillTask.process_results

    @functools.wraps(rows)
    def counting(*given: Any, **options: Any) -> Any:
        counted[0] += 1
        return rows(*given, **options)

    setattr(task.InfillTask, "process_results", counting)  # noqa: B010
    reset = product._reset_process

    def watched() -> bool:
        held.keep_peak()
        return reset()

    product._reset_process = watched
    instrument(split)
    sys.argv = ["lm_eval", *arguments]
    lm_eval.__main__.cli_evaluate()
    held.keep_peak()
    split.charge()
    seen = {
        "wall": {name: value[0] for name, value in split.spent.items()},
        "cpu": {name: value[1] for name, value in split.spent.items()},
        "documents": counted[0],
        "evaluate": [at[0] for at in times],
        "cpu_evaluating": times[1][1] - times[0][1],
        "memory": {**held.found, "peak": held.peak},
        "end": time.monotonic(),
    }
    (folder / f"rank{os.environ.get('RANK', '0')}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
