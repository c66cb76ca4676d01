"""``lm-eval-ensemble compare`` on two runs of 100,000 samples of about 2 kB each: seconds and peak memory.

    python benchmarks/compare.py [--samples N] [--dir FOLDER]

The last line is JSON. Goal: under 15 s and 2 GB.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DATE = "2026-01-02T03-04-05.000006"
GOAL_SECONDS, GOAL_MB = 15.0, 2000.0


def write_run(folder: Path, name: str, count: int, share: float, problems: int) -> int:
    """A run in lm_eval's format; every third document is right in both runs together. Returns the bytes of a sample."""
    folder.mkdir(parents=True)
    source, noise = random.Random(0), random.Random(name)
    text = "".join(source.choice('abcdefghij \\n"') for _ in range(400))
    right, size = 0, 0
    with (folder / f"samples_synthetic_{DATE}.jsonl").open("w") as file:
        for i in range(count):
            score = float(noise.random() < share if source.random() < 0.7 else i % 3 == 0)
            right += int(score)
            sample = {
                "doc_id": i,
                "doc": {"task_id": f"synthetic/{i}", "problem": f"problem/{i % problems}", "prefix": text, "suffix": text},
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100_000, help="per run (default: %(default)s)")
    parser.add_argument("--problems", type=int, help="clusters (default: a tenth of the samples)")
    parser.add_argument("--dir", help="where the files are written (default: the system's temporary folder)")
    arguments = parser.parse_args()
    problems = arguments.problems or max(2, arguments.samples // 10)
    with tempfile.TemporaryDirectory(dir=arguments.dir) as name:
        folder = Path(name)
        size = write_run(folder / "a", "model-a", arguments.samples, 0.50, problems)
        write_run(folder / "b", "model-b", arguments.samples, 0.51, problems)
        command = [sys.executable, "-m", "lm_eval_ensemble", "compare", str(folder / "a"), str(folder / "b")]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(done.stdout)
    found = {
        "benchmark": "compare",
        "runs": 2,
        "samples_per_run": arguments.samples,
        "bytes_per_sample": size,
        "problems": problems,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_mb": round(used.ru_maxrss / 1024, 1),
        "goal_seconds": GOAL_SECONDS,
        "goal_mb": GOAL_MB,
    }
    found["met"] = bool(seconds < GOAL_SECONDS and found["peak_mb"] < GOAL_MB)
    print(json.dumps(found))
    return 0 if found["met"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
