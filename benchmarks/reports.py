"""``report`` and ``select`` on one run of 100,000 documents with records of two members, and ``compare`` on two runs of stock
models of 100,000 samples: seconds of CPU time and peak memory.

    python benchmarks/reports.py [--samples N] [--against CHECKOUT]

``--against``: another checkout of the project, timed in turn on the same files; the ratios are its time over ours. The last
line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

DATE = "2026-01-02T03-04-05.000006"
ROOT = Path(__file__).resolve().parent.parent
#: command -> of which runs, and its words.
COMMANDS = {
    "report": ("ensemble", ["report", "--format", "json"]),
    "page": ("ensemble", ["report", "--html", "{folder}/page.html"]),
    "select": ("ensemble", ["select", "--selectors", "argmin", "veto", "inverse", "always:dllm"]),
    "select all": ("ensemble", ["select"]),
    "members": ("ensemble", ["compare", "--members"]),
    "compare": ("stock", ["compare"]),
}


def candidate(draw: random.Random, member: str, gap: int) -> dict[str, Any]:
    """Right answers have lower scores on average; twelve tokens with log-probabilities."""
    right = draw.random() < 0.5
    text = f"    return value_{gap} + {0 if right else draw.randrange(1, 9)}\n"
    score = round(draw.gauss(1.0 if right else 1.4, 0.4), 5)
    return {
        "member": member,
        "sample": 0,
        "text": text,
        "raw": text,
        "tokens": [f" t{draw.randrange(500)}" for _ in range(12)],
        "logprobs": [round(-draw.expovariate(1.5), 5) for _ in range(12)],
        "scores": {"fim": score, "onepass": score, "causal": round(score + 0.5, 5), "joint": round(score + 0.2, 5)},
        "verdict": "pass" if right else "fail",
        "why": "" if right else "AssertionError: wrong",
        "right": right,
        "length_mode": "oracle",
        "row_forwards": 12,
    }


def write_run(folder: Path, count: int) -> int:
    """A run in lm_eval's format, ten gaps of each program. Returns the bytes of a sample."""
    folder.mkdir(parents=True)
    draw, size, hits = random.Random(0), 0, 0
    text = "".join(draw.choice("abcdefghij \n") for _ in range(300))
    with (folder / f"samples_synthetic_{DATE}.jsonl").open("w") as file:
        for i in range(count):
            pair = [candidate(draw, member, i) for member in ("dllm", "fim")]
            winner = min((0, 1), key=lambda k: (pair[k]["scores"]["fim"], -k))
            hits += pair[winner]["right"]
            problem = f"problem/{i // 10}"
            doc = {"task_id": f"synthetic/{i}", "problem": problem, "prefix": text, "suffix": text, "middle": f"    {i}\n"}
            record = {"measure": "pass@1", "problem": problem, "winner": pair[winner]["member"], "winner_index": winner}
            record |= {"reason": "score", "rule": "fim", "selector": "argmin", "prefer": "fim", "candidates": pair}
            rows = {"pass@1": float(pair[winner]["right"]), "pass@1_dllm": float(pair[0]["right"])}
            rows |= {"pass@1_fim": float(pair[1]["right"])}
            rows |= {
                "pass@1_oracle": float(any(c["right"] for c in pair)),
                "pass@1_floor": float(all(c["right"] for c in pair)),
            }
            sample = {"doc_id": i, "doc": {**doc, "test": "check"}, "target": doc["middle"], "filter": "none"}
            sample |= {"resps": [[pair[winner]["text"]]], "filtered_resps": [pair[winner]["text"]], "doc_hash": f"{i:064x}"}
            sample |= {"arguments": {"gen_args_0": {"arg_0": text, "arg_1": {}}}, **rows, "selection": record}
            line = json.dumps(sample)
            size += len(line) + 1
            file.write(line + "\n")
    content = {
        "results": {"synthetic": {"alias": "synthetic", "pass@1,none": hits / count, "selection,none": 0.5}},
        "configs": {"synthetic": {"task": "synthetic"}},
        "config": {"model": "ensemble-ppl", "model_args": {}, "ensemble": {"seed": 1}},
        "n-samples": {"synthetic": {"original": count, "effective": count}},
        "higher_is_better": {"synthetic": {"pass@1": True}},
        "model_name": "synthetic",
        "model_source": "ensemble-ppl",
    }
    (folder / f"results_{DATE}.json").write_text(json.dumps(content))
    return size // count


def write_stock_run(folder: Path, name: str, count: int, share: float) -> int:
    """A run of a stock model, ten documents of each problem; every third document is right in all runs together. Returns the
    bytes of a sample."""
    folder.mkdir(parents=True)
    source, noise = random.Random(0), random.Random(name)
    text = "".join(source.choice('abcdefghij \n"') for _ in range(400))
    right, size = 0.0, 0
    with (folder / f"samples_synthetic_{DATE}.jsonl").open("w") as file:
        for i in range(count):
            score = float(noise.random() < share if source.random() < 0.7 else i % 3 == 0)
            right += score
            sample = {
                "doc_id": i,
                "doc": {"task_id": f"synthetic/{i}", "problem": f"problem/{i // 10}", "prefix": text, "suffix": text},
                "target": "x",
                "arguments": {"gen_args_0": {"arg_0": text + str(i), "arg_1": {"until": ["\n"]}}},
                "resps": [[text]],
                "filtered_resps": [text[:40]],
                "filter": "none",
                "metrics": ["pass@1"],
                "doc_hash": f"{i:064x}",
                "prompt_hash": "0" * 64,
                "target_hash": "0" * 64,
                "pass@1": score,
            }
            line = json.dumps(sample)
            size += len(line) + 1
            file.write(line + "\n")
    content = {
        "results": {"synthetic": {"alias": "synthetic", "pass@1,none": right / count, "pass@1_stderr,none": 0.0}},
        "configs": {"synthetic": {"task": "synthetic"}},
        "config": {"model": "hf", "model_args": f"pretrained={name}"},
        "n-samples": {"synthetic": {"original": count, "effective": count}},
        "higher_is_better": {"synthetic": {"pass@1": True}},
        "model_name": name,
        "model_source": "hf",
    }
    (folder / f"results_{DATE}.json").write_text(json.dumps(content))
    return size // count


def timed(command: list[str], folder: Path, checkout: Path) -> tuple[float, float]:
    """(CPU seconds, peak memory in MB) of a command of the package in a checkout."""
    given = [part.format(folder=folder.parent) for part in command]
    script = "import resource, sys; from lm_eval_ensemble.cli import main; status = main(sys.argv[1:]); "
    script += "used = resource.getrusage(resource.RUSAGE_SELF); sys.stdout.flush(); "
    script += "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, file=sys.stderr); sys.exit(status)"
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", script, given[0], str(folder), *given[1:]]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=checkout, env=environment, check=True)
    seconds, memory = done.stderr.split()[-2:]
    return float(seconds), float(memory)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100_000, help="documents (default: %(default)s)")
    parser.add_argument("--against", type=Path, help="another checkout, timed on the same files")
    parser.add_argument("--only", choices=COMMANDS, action="append", help="one command; may be repeated")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"samples": arguments.samples}
    with tempfile.TemporaryDirectory() as name:
        figures["bytes_per_sample"] = write_run(Path(name) / "ensemble", arguments.samples)
        for run, share in (("a", 0.50), ("b", 0.51)):
            figures["bytes_per_stock_sample"] = write_stock_run(Path(name) / "stock" / run, run, arguments.samples, share)
        for command in arguments.only or COMMANDS:
            folder, words = Path(name) / COMMANDS[command][0], COMMANDS[command][1]
            seconds, memory = timed(words, folder, ROOT)
            figures[command] = {"cpu_seconds": round(seconds, 1), "mb": round(memory)}
            if arguments.against is not None:
                before, much = timed(words, folder, arguments.against.resolve())
                figures[command] |= {"against_seconds": round(before, 1), "against_mb": round(much)}
                figures[command]["ratio"] = round(before / seconds, 2)
            print(command, figures[command], flush=True)
    figures["peak_mb_of_all"] = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
