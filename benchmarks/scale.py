"""Where the time of a run goes, what a second process brings, and what a document costs in memory.

    LM_EVAL_ENSEMBLE_DATA=... nice -n 10 python benchmarks/scale.py     # all of it
    python benchmarks/scale.py --quick                                  # infill_toy, few documents: says whether it runs
    python benchmarks/scale.py --only split                             # one part: split, processes, memory

``split``: the embedded pair, each process with one thread. Every moment of a run is charged to the innermost part that is
open (``Split`` of ``scale_run.py``), so the parts add up to the wall time of the process; what no part claims is a line of its
own. *Ours* is all that is neither a generation (a model's forwards and the decoding loop around them), nor a pass that scores,
nor the judge executing code, nor lm_eval's own. Its share is of the time without lm_eval's; in ``with_decoding``, the
strictest reading, all but forwards and execution is ours.
``processes``: the same documents by 1 and by 2 processes (torch.distributed.run), and by each member alone, in turn, medians.
``memory``: peak resident memory, from the moment all is loaded, of ``ensemble-ppl`` and of stock ``hf`` on synthetic documents,
with models so small that records are what is measured; a slope over two numbers of documents is free of what is needed once.
Prompts that are kept for scoring have a bound of their own (a quarter of what is free, 8 GiB at most) and are not kept here.

The last line is JSON. Goals of the parts that ran, exit status 1 if one is missed: ours at most 10 % (wall and CPU), the
unaccounted part under 5 %, under 10 kB a document above stock ``hf``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
GOAL_OURS, GOAL_UNACCOUNTED, GOAL_KB = 0.10, 0.05, 10.0
GROUPS = ("generate dllm", "generate fim", "score", "judge", "ours", "lm_eval", "unaccounted")
Run = dict[str, Any]


def run(folder: Path, arguments: Sequence[str], processes: int = 1, **environment: str) -> Run:
    """One run of lm_eval in processes of its own; what its instruments saw (``scale_run.py``), and its wall time."""
    folder.mkdir(parents=True)
    begin = time.monotonic()
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*start, str(HERE / "scale_run.py"), str(folder), str(begin), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    with open(folder / "log", "w") as log:
        done = subprocess.run(command, stdout=log, stderr=log, env=environment)
    end = time.monotonic()
    if done.returncode:
        raise SystemExit(f"a run failed: {' '.join(arguments)}\n{(folder / 'log').read_text()[-3000:]}")
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(processes)]
    for seen in ranks:  # after the last instrument was read
        seen["wall"]["lm_eval: end of the process"] = end - seen["end"]
    check_shared([seen["documents"] for seen in ranks], int(arguments[list(arguments).index("--limit") + 1]))
    began, ended = (max(seen["evaluate"][i] for seen in ranks) for i in (0, 1))
    return {"ranks": ranks, "seconds": end - begin, "evaluating": ended - began, "cpu": sum(r["cpu_evaluating"] for r in ranks)}


def check_shared(documents: Sequence[int], asked: int) -> None:
    """:raises SystemExit: the processes did not share the documents: a rate of such a run would say nothing."""
    if sum(documents) != asked:
        raise SystemExit(
            f"{len(documents)} processes were to share {asked} documents, but worked on {list(documents)}: not data parallel."
        )


def grouped(parts: Mapping[str, float]) -> dict[str, float]:
    """The parts of a run by group; a part is named ``group: what``."""
    found = dict.fromkeys(GROUPS, 0.0)
    for name, value in parts.items():
        found[name.partition(":")[0]] += value
    return found


def shares(parts: Mapping[str, float]) -> dict[str, float]:
    """``ours``: of the time that is not lm_eval's. ``without_judge``: the same as if nothing had been executed.
    ``with_decoding``: as if all of generation and scoring but the forwards were ours too. ``unaccounted``: of all."""
    groups = grouped(parts)
    around = sum(v for name, v in parts.items() if name.startswith(("generate", "score")) and not name.endswith(": forwards"))
    work = sum(groups[name] for name in GROUPS if name not in ("lm_eval", "unaccounted"))
    return {
        "ours": groups["ours"] / work,
        "without_judge": groups["ours"] / (work - groups["judge"]),
        "with_decoding": (groups["ours"] + around) / work,
        "unaccounted": groups["unaccounted"] / sum(groups.values()),
    }


def table(wall: Mapping[str, float], cpu: Mapping[str, float], documents: int) -> str:
    """The parts of a run as markdown, the largest first within its group."""
    lines = ["| part | wall s | CPU s | wall ms a document |", "|---|---|---|---|"]
    walls, cpus = grouped(wall), grouped(cpu)
    for group in GROUPS:
        lines.append(f"| **{group}** | {walls[group]:.2f} | {cpus[group]:.2f} | {1000 * walls[group] / documents:.1f} |")
        inner = sorted((name for name in wall if name.startswith(f"{group}: ")), key=lambda name: -wall[name])
        for name in inner:
            label = name.partition(": ")[2]
            lines.append(f"| – {label} | {wall[name]:.2f} | {cpu.get(name, 0):.2f} | {1000 * wall[name] / documents:.1f} |")
    return "\n".join([*lines, f"| all | {sum(walls.values()):.2f} | {sum(cpus.values()):.2f} | |"])


def tiny(model: str, task: str, limit: int, folder: Path) -> list[str]:
    """lm_eval's arguments for the embedded pair or a member of it."""
    store = f",store={folder / 'store.sqlite'}" if model == "ensemble-ppl" else ""
    given = ["--model", model, "--model_args", f"preset=tiny,pretrained=tiny{store}", "--batch_size", "auto"]
    given += ["--tasks", task, "--limit", str(limit), "--confirm_run_unsafe_code", "--seed", "7"]
    return [*given, "--output_path", str(folder / "out"), "--log_samples"]


def split(place: Path, sets: Mapping[str, int]) -> dict[str, Any]:
    found = {}
    for task, limit in sets.items():
        seen = run(place / task, tiny("ensemble-ppl", task, limit, place / task))["ranks"][0]
        print(f"\n{task}, {limit} documents\n\n{table(seen['wall'], seen['cpu'], limit)}\n", flush=True)
        found[task] = {
            "documents": limit,
            "wall": {name: round(value, 4) for name, value in shares(seen["wall"]).items()},
            "cpu": {name: round(value, 4) for name, value in shares(seen["cpu"]).items()},
            "wall_seconds": {name: round(value, 2) for name, value in grouped(seen["wall"]).items()},
        }
    return found


def processes(place: Path, task: str, limit: int, rounds: int) -> dict[str, Any]:
    """Documents a second of 1 and 2 processes, and the ensemble against its members, paired in rounds."""
    seen: dict[str, list[Run]] = {}
    ways = {"one": ("ensemble-ppl", 1), "two": ("ensemble-ppl", 2), "dllm": ("diffusion-infill", 1), "fim": ("hf-scored", 1)}
    for number in range(rounds):
        names = list(ways)
        for name in names[number % 4 :] + names[: number % 4]:
            folder = place / f"{name}{number}"
            model, count = ways[name]
            seen.setdefault(name, []).append(run(folder, tiny(model, task, limit, folder), count))
            print(f"{name}: {seen[name][-1]['evaluating']:.1f} s, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)

    def apart(number: int, key: str, kind: str) -> float:
        """Both members alone and the scoring as it was in the ensemble, against the ensemble."""
        scoring = grouped(seen["one"][number]["ranks"][0][kind])["score"]
        one, dllm, fim = (float(seen[name][number][key]) for name in ("one", "dllm", "fim"))
        return one / (dllm + fim + scoring)

    def rate(name: str, key: str) -> float:
        return round(statistics.median(limit / float(found[key]) for found in seen[name]), 3)

    pairs = list(zip(seen["one"], seen["two"], strict=True))
    return {
        "task": task,
        "documents": limit,
        "rounds": rounds,
        "documents_per_second": {"1": rate("one", "evaluating"), "2": rate("two", "evaluating")},
        "documents_per_second_whole_command": {"1": rate("one", "seconds"), "2": rate("two", "seconds")},
        "two_to_one": round(statistics.median(a["evaluating"] / b["evaluating"] for a, b in pairs), 3),
        "two_to_one_cpu": round(statistics.median(b["cpu"] / a["cpu"] for a, b in pairs), 3),
        "ensemble_to_apart": round(statistics.median(apart(n, "evaluating", "wall") for n in range(rounds)), 3),
        "ensemble_to_apart_cpu": round(statistics.median(apart(n, "cpu", "cpu") for n in range(rounds)), 3),
    }


def synthetic(count: int) -> list[dict[str, Any]]:
    """Documents of the size of HumanEval's: about 700 characters around a gap of one line, all different."""
    documents = []
    for i in range(count):
        prose = " ".join(f"term_{(i * 31 + k * 17) % 997}" for k in range(36))
        before = "".join(f"    value_{k} = first * {i % 97 + k} + second\n" for k in range(4))
        after = "".join(f"    result += value_{k} - {(i + k) % 89}\n" for k in range(4))
        documents.append(
            {
                "task_id": f"synthetic/{i}",
                "problem": f"synthetic/{i // 6}",
                "prefix": f'def combine_{i}(first, second):\n    """{prose}"""\n{before}',
                "middle": f"    result = {i % 7}\n",
                "suffix": f"{after}    return result\n",
                "cut": "line",
                "test": f"def check(candidate):\n    assert candidate({i}, 1) is not None\n",
                "entry_point": f"combine_{i}",
            }
        )
    return documents


TASK = """task: synthetic
class: !function synthetic_task.Synthetic
dataset_name: synthetic
output_type: generate_until
test_split: test
num_fewshot: 0
unsafe_code: true
generation_kwargs: {do_sample: false, max_gen_toks: 12}
metric_list:
  - {metric: pass@1, aggregation: mean, higher_is_better: true}
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
TASK_CLASS = """import datasets

from lm_eval_ensemble.harness.task import InfillTask


class Synthetic(InfillTask):
    def download(self, dataset_kwargs=None, **kwargs):
        self.dataset = {{"test": datasets.Dataset.from_json({file!r})}}
"""


def save_small(asset: str, folder: Path, seed: int) -> None:
    """A random checkpoint of one narrow layer, with the embedded tokenizer."""
    import shutil

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from lm_eval_ensemble.config import asset_path

    source = Path(asset_path(asset))
    config = AutoConfig.from_pretrained(source)
    config.hidden_size, config.intermediate_size, config.head_dim = 16, 32, 8
    config.num_attention_heads, config.num_key_value_heads, config.num_hidden_layers = 2, 1, 1
    config.layer_types = ["full_attention"]
    torch.manual_seed(seed)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)


def memory(place: Path, sizes: Sequence[int]) -> dict[str, Any]:
    """Kilobytes a document: slope of the peak, and of what is held at the end of each stage."""
    task = place / "task"
    task.mkdir(parents=True)
    (task / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in synthetic(max(sizes))))
    (task / "synthetic.yaml").write_text(TASK)
    (task / "synthetic_task.py").write_text(TASK_CLASS.format(file=str(task / "documents.jsonl")))
    models = {name: place / name for name in ("dllm", "fim")}
    for seed, (name, folder) in enumerate(models.items()):
        save_small(f"asset:tiny/{'mdm' if name == 'dllm' else 'fim'}", folder, seed)
    own = {"max_length": 512, "dtype": "float32"}
    members = [
        {"name": "dllm", "model": "diffusion-infill", "args": {"pretrained": str(models["dllm"]), "steps": 2, **own}},
        {"name": "fim", "model": "hf-scored", "args": {"pretrained": str(models["fim"]), "max_new_tokens": 12, **own}},
    ]
    seen: dict[str, list[dict[str, Any]]] = {"ensemble-ppl": [], "hf": []}
    for size in sizes:
        for model in seen:
            folder = place / f"{model}-{size}"
            settings = {"pretrained": str(models["fim"]), **own}
            if model == "ensemble-ppl":
                settings = {"members": members, "pretrained": "small", "store": str(folder / "store.sqlite")}
            given = ["--model", model, "--model_args", json.dumps(settings), "--tasks", "synthetic", "--limit", str(size)]
            given += ["--include_path", str(task), "--batch_size", "16", "--confirm_run_unsafe_code", "--seed", "7"]
            given += ["--device", "cpu", "--output_path", str(folder / "out"), "--log_samples"]
            found = run(folder, given, SCALE_KEEPS_NO_PROMPTS="1")["ranks"][0]
            seen[model].append({"memory": found["memory"], "ours": grouped(found["cpu"])["ours"]})
            file = next((folder / "out").rglob("samples_*.jsonl"))
            seen[model][-1]["memory"]["samples_file"] = file.stat().st_size
            print(f"{model}, {size} documents: {found['memory']}", file=sys.stderr, flush=True)
    span = sizes[-1] - sizes[0]
    slopes = {
        model: {stage: (rows[-1]["memory"][stage] - rows[0]["memory"][stage]) / span / 1000 for stage in rows[0]["memory"]}
        for model, rows in seen.items()
    }
    ours = [1000 * row["ours"] / size for row, size in zip(seen["ensemble-ppl"], sizes, strict=True)]
    return {
        "documents": list(sizes),
        "kb_a_document": {model: {stage: round(kb, 2) for stage, kb in rows.items()} for model, rows in slopes.items()},
        "kb_a_document_above_hf": round(slopes["ensemble-ppl"]["peak"] - slopes["hf"]["peak"], 2),
        "ours_cpu_ms_a_document": [round(value, 2) for value in ours],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few documents, one round, infill_toy alone")
    parser.add_argument(
        "--only", action="append", choices=("split", "processes", "memory"), help="one part; may be given twice"
    )
    parser.add_argument("--limit", type=int, help="documents of humaneval_infill (default: 120)")
    parser.add_argument("--rounds", type=int, help="of 1 process, 2 processes and each member (default: 3)")
    parser.add_argument("--documents", type=int, nargs=2, help="synthetic documents, two numbers (default: 1000 10000)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave all files of the runs in a new folder")
    given = parser.parse_args()
    task = "infill_toy" if given.quick else "humaneval_infill"
    limit = given.limit or (8 if given.quick else 120)
    rounds, sizes = given.rounds or (1 if given.quick else 3), given.documents or ([50, 250] if given.quick else [1000, 10_000])
    parts = given.only or ["split", "processes", "memory"]
    figures: dict[str, Any] = {
        "benchmark": "scale",
        "parts": parts,
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
    }
    with tempfile.TemporaryDirectory() as name:
        place = given.keep or Path(name)
        if "split" in parts:
            figures["split"] = split(place / "split", {task: limit, "infill_toy": min(limit, 45)})
        if "processes" in parts:
            figures["processes"] = processes(place / "processes", task, limit, rounds)
        if "memory" in parts:
            figures["memory"] = memory(place / "memory", sizes)
    figures["load_after"] = round(os.getloadavg()[0], 1)
    rows = [row[kind] for row in figures.get("split", {}).values() for kind in ("wall", "cpu")]
    met = all(row["ours"] <= GOAL_OURS for row in rows) and all(row["unaccounted"] <= GOAL_UNACCOUNTED for row in rows)
    met = met and figures.get("memory", {}).get("kb_a_document_above_hf", 0.0) < GOAL_KB
    print(json.dumps({**figures, "goals": {"ours": GOAL_OURS, "kb_a_document_above_hf": GOAL_KB}, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
