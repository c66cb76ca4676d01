"""Writes result folders as lm_eval does, with ``uncertainty`` records."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DATE = "2026-01-02T03-04-05.000006"
TASK = "triviaqa_uncertainty"
CONFIG = {"model": "hf-scored", "model_num_parameters": 494032768, "model_dtype": "torch.bfloat16"}


def a_record(number: int, logprobs: Sequence[float] | None, right: bool, **changes: Any) -> dict[str, Any]:
    tokens = [f" w{i}" for i in range(len(logprobs or []))]
    made: dict[str, Any] = {
        "question": f"Question {number}?",
        "answer": "".join(tokens).strip(),
        "raw": "".join(tokens),
        "tokens": tokens,
        "token_ids": list(range(len(tokens))),
        "logprobs": logprobs,
        "stop_logprob": None if logprobs is None else -0.5,
        "stop_kind": "until",
        "truncated": False,
        "straddle": False,
        "source": "generation",
        "entropy": None,
        "margin": None,
        "entropy_kind": None,
        "f1": float(right),
        "em": int(right),
        "rougeL": float(right),
        "references": ["w0"],
        "answerable": True,
        "p_true": None,
        "trimmed_prefix": 0,
        "samples": [],
    }
    return {**made, **changes}


def records(seed: int = 0, n: int = 60, gap: float = 1.5) -> list[dict[str, Any]]:
    """Answers of one to four tokens; wrong ones have lower log-probabilities by ``gap`` on the mean."""
    generator = random.Random(seed)
    found = []
    for number in range(n):
        right = generator.random() < 0.5
        mean = 0.5 if right else 0.5 + gap
        logprobs = [round(-generator.expovariate(1 / mean), 7) for _ in range(generator.randint(1, 4))]
        found.append(a_record(number, logprobs, right))
    return found


def write_run(
    folder: Path,
    found: Sequence[Mapping[str, Any]],
    model: str = "org/model",
    task: str = TASK,
    config: Mapping[str, Any] = CONFIG,
    date: str = DATE,
    docs: Sequence[Mapping[str, Any]] = (),
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        "results": {task: {"alias": task, "f1,none": 0.5}},
        "configs": {task: {"task": task}},
        "config": {"model_args": {"pretrained": model}, **config},
        "n-samples": {task: {"original": len(found), "effective": len(found)}},
        "model_name": model,
        "model_source": "hf-scored",
    }
    path = folder / f"results_{date}.json"
    path.write_text(json.dumps(results), encoding="utf-8")
    every = docs or [{} for _ in found]
    lines = [
        json.dumps({"doc_id": i, "doc": doc, "doc_hash": f"h{i}", "uncertainty": record})
        for i, (doc, record) in enumerate(zip(every, found, strict=True))
    ]
    (folder / f"samples_{task}_{date}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
