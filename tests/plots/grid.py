"""Synthetic result folders: six models on two data sets, shaped like the experiments of the documents. No model wrote these
answers; the numbers mean nothing outside the tests.

    python tests/plots/grid.py FOLDER
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DATE = "2026-01-02T03-04-05.000006"
DATASETS = ("synthetic_trivia", "synthetic_squad")
#: name -> family, parameters, precision, accuracy, how much lower the log-probability of a wrong answer is (nats).
MODELS: dict[str, tuple[str, int, str, float, float]] = {
    "synthetic-alpha-1B": ("alpha", 1_236_000_000, "float16", 0.45, 0.9),
    "synthetic-alpha-8B": ("alpha", 8_030_000_000, "int8", 0.7, 0.8),
    "synthetic-beta-1.5B": ("beta", 1_544_000_000, "float16", 0.5, 1.1),
    "synthetic-beta-8B": ("beta", 8_190_000_000, "int8", 0.72, 0.35),
    "synthetic-gamma-7B": ("gamma", 7_248_000_000, "int8", 0.66, 1.0),
    "synthetic-gamma-7B-instruct": ("gamma", 7_248_000_000, "int8", 0.68, 1.4),
}


def a_record(number: int, logprobs: Sequence[float], right: bool) -> dict[str, Any]:
    tokens = [f" w{i}" for i in range(len(logprobs))]
    return {
        "question": f"Synthetic question {number}?",
        "answer": "".join(tokens).strip(),
        "raw": "".join(tokens),
        "tokens": tokens,
        "token_ids": list(range(len(tokens))),
        "logprobs": list(logprobs),
        "stop_logprob": -0.5,
        "stop_kind": "until",
        "truncated": False,
        "straddle": False,
        "source": "generation",
        "f1": float(right),
        "em": int(right),
        "rougeL": float(right),
        "references": ["w0"],
        "answerable": True,
        "samples": [],
    }


def write_grid(
    folder: Path,
    n: int = 80,
    models: Mapping[str, tuple[str, int, str, float, float]] = MODELS,
    datasets: Sequence[str] = DATASETS,
) -> Path:
    """Writes one results folder per model, with ``n`` answers per data set; returns ``folder``."""
    for k, (name, (family, parameters, precision, accuracy, gap)) in enumerate(models.items()):
        own = folder / "runs" / name
        own.mkdir(parents=True)
        checkpoint = folder / "checkpoints" / name
        checkpoint.mkdir(parents=True)
        (checkpoint / "config.json").write_text(json.dumps({"model_type": family}), encoding="utf-8")
        loading = {"load_in_8bit": True} if precision == "int8" else {"dtype": precision}
        results = {
            "results": {task: {"alias": task, "f1,none": accuracy} for task in datasets},
            "configs": {task: {"task": task} for task in datasets},
            "config": {
                "model": "hf-scored",
                "model_args": {"pretrained": str(checkpoint), **loading},
                "model_num_parameters": parameters,
            },
            "n-samples": {task: {"original": n, "effective": n} for task in datasets},
            "model_name": name,
            "model_source": "hf-scored",
        }
        (own / f"results_{DATE}.json").write_text(json.dumps(results), encoding="utf-8")
        for j, task in enumerate(datasets):
            generator = random.Random(100 * k + j)
            lines = []
            for number in range(n):
                right = generator.random() < accuracy
                mean = 0.6 if right else 0.6 + gap * (1.0 if j == 0 else 0.6)
                logprobs = [round(-generator.expovariate(1 / mean), 7) for _ in range(generator.randint(1, 4))]
                record = a_record(number, logprobs, right)
                sample = {"doc_id": number, "doc": {}, "doc_hash": f"{task}{number}", "filter": "none", "f1": record["f1"]}
                lines.append(json.dumps({**sample, "uncertainty": record}))
            (own / f"samples_{task}_{DATE}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


if __name__ == "__main__":
    print(write_grid(Path(sys.argv[1])))
