"""Result folders as a run leaves them: rows and records come from the package's own metrics."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from lm_eval_ensemble.runs.rows import document_rows
from lm_eval_ensemble.selection import SELECTORS, Case, make_selector
from lm_eval_ensemble.types import RUN, Candidate, Scored, Selection

DATE = "2026-01-02T03-04-05.678901"
RULE = "fim+onepass"
Candidates = Callable[[int, Random], Sequence[Scored]]


def scored(member: str, text: str, right: bool, fim: float, onepass: float, sample: int = 0, **info: Any) -> Scored:
    scores = {"fim": fim, "onepass": onepass, "causal": fim + 0.5, RULE: (fim + onepass) / 2}
    return Scored(Candidate(member, text, text, sample, info=info), scores, "pass" if right else "fail", "")


def pair(i: int, random: Random) -> list[Scored]:
    """Two members; right answers score lower on average, and sometimes a wrong one does not compile."""
    found = []
    for member, chance in (("dllm", 0.5), ("fim", 0.6)):
        right = random.random() < chance
        low = random.gauss(1.0 if right else 1.6, 0.4)
        text = f"    return {i}\n" if right else random.choice([f"    return -{i}\n", f"    return {i} +\n"])
        found.append(scored(member, text, right, low, low + random.gauss(0.0, 0.2)))
    return found


def write_run(
    folder: Path,
    task: str = "humaneval_infill",
    n: int = 120,
    candidates: Candidates = pair,
    selector: str = "argmin",
    repeats: int = 1,
    runs: int = 1,
    task_id: str = "SingleLineInfilling/HumanEval/{problem}/L{line}",
    date: str = DATE,
) -> Path:
    """A results file with samples of one task, ``n`` documents of n / 4 programs; returns the samples file."""
    folder.mkdir(parents=True, exist_ok=True)
    random, samples = Random(task), []
    select = SELECTORS.get(selector) or make_selector(selector)
    for i in range(n):
        doc = {
            "task_id": task_id.format(problem=i // 4, line=i % 4),
            "problem": f"HumanEval/{i // 4}",
            "prefix": f"def f{i}():\n",
            "middle": f"    return {i}\n",
            "suffix": "\n",
            "cut": "line",
            "test": "check",
            "entry_point": f"f{i}",
        }
        selections = []
        for repeat in range(repeats):
            for number in range(runs):
                found = tuple(candidates(i, random))
                if runs > 1:  # length=fixed-mean
                    first = replace(found[0].candidate, info={**found[0].candidate.info, RUN: number})
                    found = (replace(found[0], candidate=first), *found[1:])
                case = Case(found, RULE, "fim", doc["prefix"], doc["suffix"], (task, i, repeat), 7)
                winner, reason = select(case)
                selections.append(Selection(found, winner, reason, RULE, {"selector": selector, "prefer": "fim"}))
        rows = document_rows(doc, selections)
        samples.append({"doc_id": i, "doc": doc, "filter": "none", "resps": [], **json.loads(json.dumps(rows))})
    file = folder / f"samples_{task}_{date}.jsonl"
    file.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    results = folder / f"results_{date}.json"
    before = json.loads(results.read_text()) if results.exists() else {"results": {}, "configs": {}, "n-samples": {}}
    content = {
        "results": {**before["results"], task: {"alias": task, "pass@1,none": 0.5, "selection,none": 0.5}},
        "configs": {**before["configs"], task: {}},
        "n-samples": {**before["n-samples"], task: {"original": n, "effective": n}},
        "config": {"model": "ensemble-ppl", "model_args": {}, "ensemble": {"seed": 7}, "torch_seed": 1234},
        "model_name": "tiny",
        "model_source": "ensemble-ppl",
    }
    results.write_text(json.dumps(content))
    return file


def santacoder(folder: Path, **settings: Any) -> Path:
    return write_run(folder, "santacoder_fim", task_id="humaneval-HumanEval_{problem}_x.json-L{line}", **settings)
