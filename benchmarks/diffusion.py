"""What a denoising step and a document cost, against the published algorithm written plainly (full vocabulary, full sort).

    python benchmarks/diffusion.py [--temperature 0] [--full] [--threads 2]
    LM_EVAL_ENSEMBLE_DATA=... python benchmarks/diffusion.py --forwards [--tasks 200]

Shape of Open-dCoder 0.5B: hidden 896, 14 heads, vocabulary 151,936, float32; two rows of about 300 tokens, 15 of them
masked. Weights are random (standard deviation 0.2, so that the distributions are peaked and not flat) and the prompt is
this package's source: what changes from step to step is not what a trained model would change. Both sides have the same
weights and inputs. Costs are CPU-seconds of the process, all threads, so that other work on the machine matters less.
The full-vocabulary side is ``tests/diffusion/reference.py``; each of its steps costs the same, so a few are measured and
multiplied. Memory is the peak of the resident set during decoding above what the process held before (``VmHWM``, reset
through ``/proc/self/clear_refs``), each side in a process of its own. The last line is JSON.

``--forwards`` runs the embedded model on HumanEval-Infilling instead (contexts trimmed to 128 tokens around the gap), and
counts how many row-forwards are not needed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

#: tokens a row may have in ``--forwards``: short, so that counting is quick.
CONTEXT = 128
VOCABULARY, HIDDEN, LENGTH, MIDDLE, STEPS = 151_936, 896, 300, 15, 64
#: CPU-seconds a step of the published code at two rows and two layers, measured once: backbone, LM head, sampling.
PUBLISHED = {"backbone": 0.78, "lm_head": 2.32, "sampling": 14.73}


class Clock:
    """CPU-seconds spent inside the functions it wraps, and when each call began."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.calls: list[tuple[float, int]] = []

    def watch(self, name: str, module: Any) -> None:
        real: Callable[..., Any] = module.forward

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            if name == "backbone":
                self.calls.append((began, len(kwargs["input_ids"])))
            output = real(*args, **kwargs)
            self.spent[name] = self.spent.get(name, 0.0) + time.process_time() - began
            return output

        module.forward = timed


def make_network(layers: int) -> Any:
    """A random model of the published shape, loaded by nothing but its configuration."""
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    from lm_eval_ensemble.config import asset_path
    from lm_eval_ensemble.diffusion.model import MaskedDiffusionModel

    # The embedded tokenizer, its vocabulary filled up to the published number of tokens.
    content = json.loads(Path(asset_path("asset:tiny/mdm"), "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    vocabulary.update({f"unused{i}": i for i in range(len(vocabulary), 151_666)})
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)), mask_token="<|mask|>", eos_token="<|endoftext|>"
    )
    torch.manual_seed(0)
    shape = {"hidden_size": HIDDEN, "intermediate_size": 4864, "num_attention_heads": 14, "num_key_value_heads": 2}
    config = Qwen2Config(
        vocab_size=VOCABULARY, num_hidden_layers=layers, tie_word_embeddings=True, initializer_range=0.2, **shape
    )
    return MaskedDiffusionModel(Qwen2ForCausalLM(config), tokenizer)


def make_canvas(network: Any, rows: int) -> Any:
    """Windows of the package's source around a gap."""
    import torch

    from lm_eval_ensemble.diffusion.decode import Canvas

    text = (ROOT / "lm_eval_ensemble" / "diffusion" / "decode.py").read_text(encoding="utf-8")
    tokens = network.encoder.encode(text)
    ids = torch.tensor([tokens[150 * r : 150 * r + LENGTH] for r in range(rows)])
    start = LENGTH // 2
    ids[:, start : start + MIDDLE] = network.mask_id
    return Canvas(ids, torch.full((rows,), LENGTH), torch.full((rows,), start), torch.full((rows,), MIDDLE))


def run_full(network: Any, canvas: Any, steps: int, settings: dict[str, Any]) -> int:
    """Some steps of the published algorithm; returns how many. The schedule is that of 64 steps, cut off."""
    import torch

    from tests.diffusion.reference import plain_fill, shifted_logits

    logits, done = shifted_logits(network), 0

    def counted(ids: torch.Tensor) -> torch.Tensor:
        nonlocal done
        if done == steps:
            raise StopIteration
        done += 1
        return logits(ids)

    places = torch.arange(LENGTH)[None]
    middle = (places >= canvas.starts[:, None]) & (places < (canvas.starts + canvas.sizes)[:, None])
    with contextlib.suppress(StopIteration):
        plain_fill(counted, canvas.ids, middle, network.mask_id, steps=STEPS, **settings)
    return done


def run_ours(network: Any, canvas: Any, steps: int, settings: dict[str, Any]) -> Any:
    from lm_eval_ensemble.diffusion.decode import fill
    from lm_eval_ensemble.sampling import row_uniforms

    names, sizes = [(r,) for r in range(len(canvas.sizes))], canvas.sizes.tolist()
    uniforms = row_uniforms(0, names, steps, sizes) if settings["temperature"] > 0 else None
    return fill(network, canvas, steps=steps, uniforms=uniforms, **settings)


def memory_kib(field: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{field}:"))


def measure(side: str, layers: int, rows: int, threads: int, temperature: float) -> dict[str, Any]:
    """One side in this process. ``full``: some steps; ``ours``: a step per token, so that every step needs the model;
    ``document``: 64 steps; ``probe``: what is checked at load, as if it were one step."""
    import torch

    from lm_eval_ensemble.diffusion.probe import check

    torch.set_num_threads(threads)
    network = make_network(layers)
    canvas, clock = make_canvas(network, rows), Clock()
    clock.watch("backbone", network.model.base_model)
    clock.watch("lm_head", network.model.get_output_embeddings())
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, began = memory_kib("VmRSS"), time.process_time()
    settings = {"temperature": temperature, "top_p": 0.95}
    found: dict[str, Any] = {"side": side, "layers": layers, "rows": rows}
    if side == "probe":
        check(network, shift=True)
        steps, clock.calls = 1, []
    elif side == "full":
        steps = run_full(network, canvas, 4 if layers > 2 else 2, settings)
    else:
        filled = run_ours(network, canvas, STEPS if side == "document" else MIDDLE, settings)
        steps = len(clock.calls)
        found["row_forwards"] = sum(filled.row_forwards)
    total = time.process_time() - began
    found |= {"forwards": steps, "total": total, "step": total / steps, "extra_gib": (memory_kib("VmHWM") - before) / 2**20}
    split = {name: spent / steps for name, spent in clock.spent.items()}
    found |= split | {"sampling": total / steps - sum(split.values())}
    if side == "document":
        # From one forward of all rows to the next forward: a whole step, what is between them included.
        times = [*clock.calls, (began + total, 0)]
        whole = [after[0] - call[0] for call, after in itertools.pairwise(times) if call[1] == rows]
        found["step"] = sum(whole) / len(whole)
    return found


def child(side: str, layers: int, rows: int, threads: int, temperature: float) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", side, "--layers", str(layers), "--rows", str(rows)]
    command += ["--threads", str(threads), "--temperature", str(temperature)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    parts = "  ".join(f"{name} {found[name]:7.2f}" for name in ("backbone", "lm_head", "sampling", "step"))
    print(f"{side:9s} {layers:2d} layers, {rows} rows: {parts}  extra memory {found['extra_gib']:5.2f} GiB", flush=True)
    return found


def costs(full: bool, threads: int, temperature: float) -> None:
    print(
        f"T = {temperature}; CPU-seconds a step (forward pass of all rows), and the peak of memory above the model:", flush=True
    )
    how = (threads, temperature)
    plain, ours = child("full", 2, 2, *how), child("ours", 2, 2, *how)
    published = sum(PUBLISHED.values())
    print(f"published code, measured earlier: {PUBLISHED}, step {published:.2f}; here {plain['step'] / published:.2f} of it")
    deep, document = child("full", 24, 2, *how), child("document", 24, 2, *how)
    # The published loop ends when nothing is masked: floor(n * (1 - (i + 1) / 64)) = 0.
    needed = math.floor(STEPS * (1 - 1 / MIDDLE)) + 1
    print(
        f"a document of 64 steps, 24 layers, 2 rows: {document['total']:.0f} CPU-seconds, {document['row_forwards']} of "
        f"{2 * STEPS} row-forwards; full vocabulary: {needed} steps (nothing is masked then) x {deep['step']:.2f}"
    )
    probe = child("probe", 24, 2, *how)
    ratios = {
        "step_ratio_2l": plain["step"] / ours["step"],
        "step_ratio_24l": deep["step"] / document["step"],
        "document_ratio_24l": needed * deep["step"] / document["total"],
        "memory_ratio": plain["extra_gib"] / ours["extra_gib"],
        "probe_in_forwards_24l": probe["total"] / (deep["backbone"] + deep["lm_head"]),
    }
    if full:
        plain, ours = child("full", 2, 8, *how), child("ours", 2, 8, *how)
        ratios |= {"step_ratio_2l_b8": plain["step"] / ours["step"], "memory_ratio_b8": plain["extra_gib"] / ours["extra_gib"]}
    print(json.dumps({name: round(value, 2) for name, value in ratios.items()}))


def forwards(tasks: int, threads: int) -> None:
    """Row-forwards of the embedded model on real gaps, by algorithm, steps and temperature."""
    import random

    import torch

    from lm_eval_ensemble.data import load_documents
    from lm_eval_ensemble.harness.diffusion_lm import DiffusionInfill
    from lm_eval_ensemble.types import InfillRequest

    torch.set_num_threads(threads)
    documents = load_documents("single-line")
    chosen = sorted(random.Random(0).sample(range(len(documents)), tasks))
    asked = [
        InfillRequest(d["prefix"], d["suffix"], "humaneval_infill", i, reference=d["middle"])
        for i, d in ((i, documents[i]) for i in chosen)
    ]
    results = []
    for alg, temperature, steps in [
        *(("p2", t, s) for s in (16, 64, "auto") for t in (0.0, 0.6)),
        *(("entropy", t, 64) for t in (0.0, 0.6)),
    ]:
        settings: dict[str, Any] = {"temperature": temperature, "top_p": 0.95, "steps": steps, "alg": alg, "seed": 0}
        model = DiffusionInfill(preset="tiny", batch_size=16, max_length=CONTEXT, **settings)
        infos = [candidate.info for candidate in model.propose(asked)]
        done, most = sum(i["row_forwards"] for i in infos), sum(i["steps"] for i in infos)
        tokens = sum(i["length"] for i in infos)
        stops = sum(i["stop"] == "stop_token" for i in infos)
        results.append({"alg": alg, "temperature": temperature, "steps": steps, "row_forwards": done, "of": most})
        print(
            f"{alg:8s} T={temperature} steps={steps!s:4s}: {done} of {most} row-forwards ({1 - done / most:.1%} saved), "
            f"{done / len(infos):.2f} a gap of {tokens / len(infos):.2f} tokens; {stops} ended by end-of-text",
            flush=True,
        )
    print(json.dumps(results))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="also eight rows")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--temperature", type=float, default=0.6, help="0: greedy (default: 0.6, as published)")
    parser.add_argument("--forwards", action="store_true", help="count row-forwards of the embedded model on real tasks")
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--layers", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options.layers, options.rows, options.threads, options.temperature)))
    elif options.forwards:
        forwards(options.tasks, options.threads)
    else:
        costs(options.full, options.threads, options.temperature)


if __name__ == "__main__":
    main()
