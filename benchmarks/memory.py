"""Peak memory of two large members, loaded together and one at a time.

    python benchmarks/memory.py [--gigabytes 1.0]

Two random Qwen2-shaped checkpoints of at least one gigabyte each (float32) are saved to a temporary folder. Each way of
loading runs in a process of its own, on two gaps; its base is its resident memory after everything is imported, its peak is
that of the whole process. The answers must be the same.

The last line is JSON; the exit status is 1 if one-at-a-time needs 65 % or more.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LIMIT = 0.65
GIB = 2**30


def save_checkpoint(folder: Path, gigabytes: float, seed: int) -> int:
    """A random checkpoint with the embedded tokenizer; the number of bytes of its weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from lm_eval_ensemble.config import asset_path

    small = Path(asset_path("asset:tiny/fim"))
    config = AutoConfig.from_pretrained(small)
    config.hidden_size, config.intermediate_size, config.head_dim = 1024, 4096, None
    config.num_attention_heads, config.num_key_value_heads, config.num_hidden_layers = 16, 4, 1
    config.head_dim, config.layer_types, config.tie_word_embeddings = 64, None, True
    fixed, per_layer = config.vocab_size * 1024 * 4, (2 * 1024 * 1024 + 2 * 1024 * 256 + 3 * 1024 * 4096) * 4
    config.num_hidden_layers = int((gigabytes * 1e9 - fixed) // per_layer) + 1
    config.layer_types = ["full_attention"] * config.num_hidden_layers
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    shutil.copytree(small, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    model.save_pretrained(folder)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def measure(load: str, folders: list[str]) -> dict[str, Any]:
    """In a process of its own: base and peak in bytes, and what was answered."""
    from lm_eval_ensemble import ensemble
    from lm_eval_ensemble.harness.ensemble_lm import EnsemblePPL
    from lm_eval_ensemble.types import InfillRequest

    EnsemblePPL(preset="tiny", pretrained="tiny", store="off", load=load)  # imports all there is to import
    base = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    settings = {"max_new_tokens": 8, "max_length": 128, "dtype": "float32"}
    members = [{"name": f"m{i}", "model": "hf-scored", "args": {"pretrained": f, **settings}} for i, f in enumerate(folders)]
    lm = EnsemblePPL(members=members, load=load, store="off", batch_size=2)
    requests = [InfillRequest(f"def f{i}(x):\n", "    return y\n", "t", i, cut="line") for i in range(2)]
    answers = [completion.trace for completion in ensemble.run(requests, lm.members, lm.scorers, lm.settings)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"base": base, "peak": peak, "answers": [[str(c) for c in trace.candidates] for trace in answers if trace]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--measure", nargs=3, metavar=("LOAD", "FOLDER", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure[0], given.measure[1:])))
        return 0
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place, name) for name in ("a", "b")]
        sizes = [save_checkpoint(folder, given.gigabytes, seed) for seed, folder in enumerate(folders)]
        found = {}
        for load in ("together", "one-at-a-time"):
            command = [sys.executable, __file__, "--measure", load, *map(str, folders)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[load] = json.loads(done.stdout.strip().splitlines()[-1])
    above = {load: (row["peak"] - row["base"]) / GIB for load, row in found.items()}
    share = above["one-at-a-time"] / above["together"]
    same = found["together"]["answers"] == found["one-at-a-time"]["answers"]
    figures = {
        "weights_gb": [round(size / 1e9, 3) for size in sizes],
        "base_gib": round(found["together"]["base"] / GIB, 2),
        "together_gib_above_base": round(above["together"], 2),
        "one_at_a_time_gib_above_base": round(above["one-at-a-time"], 2),
        "share": round(share, 3),
        "same_answers": same,
    }
    ok = share < LIMIT and same and min(sizes) >= 1e9
    print(json.dumps({**figures, "ok": ok}))
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
