"""What scoring costs, against one candidate at a time over the full vocabulary.

    python benchmarks/scoring.py [--gaps 8] [--vocabulary 151936] [--hidden 896] [--layers 2]
    python benchmarks/scoring.py --share [--limit 45]     share of a run that scoring takes, on the embedded pair

Random weights, the shapes of Qwen2.5-Coder 0.5B but for the number of layers. Every gap has two distinct candidates and
the same candidate once more. Both sides compute the default scores: the reading-order pass (causal, joint), the
fill-in-the-middle pass (fim) and the masked pass (onepass). Times are CPU seconds of this process. The last line is JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from lm_eval_ensemble.batching import Batcher
from lm_eval_ensemble.diffusion.likelihood import onepass_logprobs
from lm_eval_ensemble.diffusion.probe import set_causal
from lm_eval_ensemble.harness.reading import SpanReader
from lm_eval_ensemble.scoring.base import Span

Gap = tuple[list[int], list[list[int]], list[int]]  # prefix, middles, suffix
FIM = (1, 2, 3)  # ids that stand for the sentinels
STOP, MASK = 4, 5


class Diffusion:
    """What ``diffusion.likelihood`` needs of a masked-diffusion model, around random weights."""

    def __init__(self, model: Any) -> None:
        set_causal(model, False)
        self.model, self.mask_id, self.device = model, MASK, torch.device("cpu")

    def logits_at(self, ids: torch.Tensor, lengths: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        mask = torch.arange(ids.shape[1])[None] < lengths[:, None]
        output = self.model.base_model(input_ids=ids, attention_mask=mask.long(), use_cache=False, is_causal=False)
        logits: torch.Tensor = self.model.lm_head(output.last_hidden_state[rows, (columns - 1).clamp_min(0)]).float()
        return logits


def random_gaps(count: int, vocabulary: int, draw: random.Random) -> list[Gap]:
    """Lengths as in HumanEval-Infilling, single line: some 220 tokens of prefix, 70 of suffix, a middle of 9."""

    def ids(n: int) -> list[int]:
        return [draw.randrange(10, vocabulary) for _ in range(n)]

    gaps = []
    for _ in range(count):
        one, other = ids(draw.randint(4, 16)), ids(draw.randint(4, 16))
        gaps.append((ids(draw.randint(120, 320)), [one, other, one], ids(draw.randint(20, 120))))
    return gaps


def naive(gaps: Sequence[Gap], causal: Any, diffusion: Diffusion) -> list[list[float]]:
    """One candidate per forward; log-softmax in float32 over the whole vocabulary at every position."""
    found = []
    for prefix, middles, suffix in gaps:
        for middle in middles:
            n, rows = len(middle), []
            for before, after in ((prefix, suffix), ([FIM[0], *prefix, FIM[1], *suffix, FIM[2]], [STOP])):
                ids = torch.tensor([[*before, *middle, *after]])
                logprobs = causal(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
                picked = logprobs[:-1].gather(-1, ids[0, 1:, None])[:, 0]
                rows.append(picked[len(before) - 1 :].tolist())
            masked = torch.tensor([[*prefix, *([MASK] * n), *suffix]])
            hidden = diffusion.model.base_model(input_ids=masked, use_cache=False, is_causal=False).last_hidden_state
            logprobs = diffusion.model.lm_head(hidden)[0].float().log_softmax(-1)
            at = torch.arange(len(prefix), len(prefix) + n)
            rows.append(logprobs[at - 1].gather(-1, torch.tensor(middle)[:, None])[:, 0].tolist())
            found.append(_scores(rows[0], rows[1], rows[2], n))
    return found


def batched(gaps: Sequence[Gap], causal: Any, diffusion: Diffusion, size: int, share: bool) -> list[list[float]]:
    """As the package does it: distinct candidates, batches, only the positions that are needed, prompts read once."""
    reader, batcher = SpanReader(causal, 0, "cpu", share=share), Batcher(size)
    keys = [(g, tuple(middle)) for g, (_, middles, _) in enumerate(gaps) for middle in middles]
    distinct = list(dict.fromkeys(keys))
    sequence, fim, rows = [], [], []
    for g, middle in distinct:
        prefix, _, suffix = gaps[g]
        sequence.append(Span([*prefix, *middle, *suffix], len(prefix)))
        prompt = [FIM[0], *prefix, FIM[1], *suffix, FIM[2]]
        fim.append(Span([*prompt, *middle, STOP], len(prompt)))
        rows.append((prefix, list(middle), suffix))
    onepass = batcher.run(rows, lambda row: sum(map(len, row)), lambda batch: onepass_logprobs(diffusion, batch))  # type: ignore[arg-type]
    passes = zip(distinct, reader.read(sequence, batcher), reader.read(fim, batcher), onepass, strict=True)
    scores = {key: _scores(a, b, c, len(key[1])) for key, a, b, c in passes}
    return [scores[key] for key in keys]


def _scores(sequence: Sequence[float], fim: Sequence[float], onepass: Sequence[float], n: int) -> list[float]:
    """causal, joint, fim, onepass."""
    return [-sum(sequence[:n]) / n, -sum(sequence), -sum(fim) / len(fim), -sum(onepass) / n]


def measure(work: Callable[[], list[list[float]]]) -> tuple[float, list[list[float]]]:
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


@torch.no_grad()
def compare(arguments: argparse.Namespace) -> None:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=arguments.vocabulary,
        hidden_size=arguments.hidden,
        intermediate_size=arguments.hidden * 38 // 7 // 8 * 8,
        num_hidden_layers=arguments.layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
    )
    causal = Qwen2ForCausalLM(config).eval()
    # A configuration of its own: the direction of attention is set on it.
    diffusion = Diffusion(Qwen2ForCausalLM(copy.deepcopy(config)).eval())
    gaps = random_gaps(arguments.gaps, arguments.vocabulary, random.Random(0))
    warm = gaps[:1]
    batched(warm, causal, diffusion, arguments.batch_size, True)
    naive([(warm[0][0][:8], [warm[0][1][0]], warm[0][2][:8])], causal, diffusion)
    seconds, found = {}, {}
    seconds["one at a time"], found["one at a time"] = measure(lambda: naive(gaps, causal, diffusion))
    for name, share in (("batched, prompts apart", False), ("batched", True)):
        seconds[name], found[name] = measure(lambda s=share: batched(gaps, causal, diffusion, arguments.batch_size, s))  # type: ignore[misc]
    candidates = len(found["batched"])
    print(f"{'':26}{'CPU s':>8}{'ms a candidate':>16}")
    for name, value in seconds.items():
        print(f"{name:26}{value:8.2f}{1000 * value / candidates:16.1f}")
    pairs = list(zip(found["one at a time"], found["batched"], strict=True))
    per_token = max(abs(a[i] - b[i]) for a, b in pairs for i in (0, 2, 3))
    joint = max(abs(a[1] - b[1]) / abs(a[1]) for a, b in pairs)
    print(
        json.dumps(
            {
                "gaps": len(gaps),
                "candidates": candidates,
                "vocabulary": arguments.vocabulary,
                "hidden": arguments.hidden,
                "layers": arguments.layers,
                "batch_size": arguments.batch_size,
                "threads": torch.get_num_threads(),
                "cpu_seconds": {name: round(value, 3) for name, value in seconds.items()},
                "times_faster": round(seconds["one at a time"] / seconds["batched"], 2),
                "times_faster_prompts_apart": round(seconds["one at a time"] / seconds["batched, prompts apart"], 2),
                "largest_difference_nats_per_token": float(f"{per_token:.2e}"),
                "largest_relative_difference_joint": float(f"{joint:.2e}"),
            }
        )
    )


def share(arguments: argparse.Namespace) -> None:
    """CPU seconds of generating and of scoring on ``infill_toy`` with ``preset=tiny``."""
    from lm_eval_ensemble import ensemble
    from lm_eval_ensemble.data import load_documents
    from lm_eval_ensemble.harness.ensemble_lm import EnsemblePPL
    from lm_eval_ensemble.types import InfillRequest

    model = EnsemblePPL(preset="tiny", batch_size=arguments.batch_size, store="off")
    requests = [
        InfillRequest(d["prefix"], d["suffix"], "infill_toy", i, reference=d["middle"], cut=d["cut"])
        for i, d in enumerate(load_documents("infill_toy")[: arguments.limit])
    ]
    spent = {"scoring": 0.0}
    original = ensemble.score_candidates

    def timed(*given: Any) -> Any:
        start = time.process_time()
        found = original(*given)
        spent["scoring"] += time.process_time() - start
        return found

    ensemble.score_candidates = timed  # type: ignore[assignment]
    start = time.process_time()
    ensemble.run(requests, model.members, model.scorers, model.settings)
    total = time.process_time() - start
    generating = total - spent["scoring"]
    row = {"documents": len(requests), "generating_cpu_s": generating, "scoring_cpu_s": spent["scoring"]}
    print(f"scoring takes {100 * spent['scoring'] / generating:.1f} % of the CPU time of generating")
    print(json.dumps({**row, "share_of_generation": round(spent["scoring"] / generating, 4)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--gaps", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--share", action="store_true", help="share of a run on the embedded pair instead")
    parser.add_argument("--limit", type=int, default=45)
    arguments = parser.parse_args()
    (share if arguments.share else compare)(arguments)


if __name__ == "__main__":
    main()
