"""What quantised weights cost and save on this machine's CPU.

    python benchmarks/quantized.py            # 4 layers, hidden 896, vocabulary 32,768: 0.3 GB of memory
    python benchmarks/quantized.py --quick    # one layer, two rounds: says whether it runs, not what it costs

One Qwen2 with random weights in float32 and quantised in each way that has a name, through ``hf-scored``. All do the same work
in turn, so that a busy machine hits all of them: 8 prompts of 64 characters, 16 tokens generated greedily in one batch, then 8
texts of 80 tokens of which the last 16 are read. Time is the processor time of the process, as the median of the rounds' ratios
to float32; a footprint is that of the weights. ``off`` is the mean absolute difference of a token's log-probability from
float32 (nats); with random weights it says nothing about real models. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lm_eval_ensemble.values import QUANTIZATIONS

ROWS, PROMPT, TOKENS, HIDDEN, VOCABULARY = 8, 64, 16, 896, 32_768
WAYS = ("none", *QUANTIZATIONS)


def save_model(folder: Path, layers: int) -> None:
    """A Qwen2 of the 0.5B width, fewer layers and words, with random weights."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<end>", *alphabet, *(f"Ġw{i}" for i in range(VOCABULARY - len(alphabet) - 1))]
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<end>").save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=4864,
        num_hidden_layers=layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)


def requests() -> list[Any]:
    from lm_eval.api.instance import Instance

    settings = {"until": ["\n\n\n"], "do_sample": False, "max_gen_toks": TOKENS}
    prompts = [(f"{i} who was it and when? " * PROMPT)[:PROMPT] for i in range(ROWS)]
    return [
        Instance("generate_until", {}, (p, settings), 0, metadata=("t", i, 1), task_name="t", doc_id=i, repeats=1)
        for i, p in enumerate(prompts)
    ]


def spans() -> list[Any]:
    from lm_eval_ensemble.scoring.base import Span

    return [Span([(37 * i + 101 * row) % VOCABULARY for i in range(PROMPT + TOKENS)], PROMPT) for row in range(ROWS)]


def timed(lm: Any) -> tuple[float, float, list[float]]:
    """CPU-seconds of generating and of reading, and the log-probabilities read."""
    begin = time.process_time()
    lm.generate_until(requests())
    middle = time.process_time()
    found = lm.token_logprobs(spans())
    return middle - begin, time.process_time() - middle, [value for row in found for value in row]


def measure(folder: str, rounds: int) -> dict[str, Any]:
    import torch

    from lm_eval_ensemble.harness.scored_lm import ScoredHF

    torch.set_num_threads(1)
    lms = {way: ScoredHF(pretrained=folder, dtype="float32", device="cpu", batch_size=ROWS, quantization=way) for way in WAYS}
    read = {way: timed(lm)[2] for way, lm in lms.items()}  # also the warm-up
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for number in range(rounds):
        turn = number % len(WAYS)
        for way in (*WAYS[turn:], *WAYS[:turn]):
            seconds[way].append(timed(lms[way])[:2])
        print({way: [round(s, 2) for s in values[-1]] for way, values in seconds.items()}, file=sys.stderr, flush=True)
    return {way: _row(way, lms[way], seconds, read) for way in WAYS}


def _row(way: str, lm: Any, seconds: dict[str, list[tuple[float, float]]], read: dict[str, list[float]]) -> dict[str, float]:
    pairs = list(zip(seconds[way], seconds["none"], strict=True))
    return {
        "footprint_mib": lm.footprint_mib,
        "generate_ratio": round(statistics.median(own[0] / full[0] for own, full in pairs), 2),
        "read_ratio": round(statistics.median(own[1] / full[1] for own, full in pairs), 2),
        "off": round(statistics.fmean(abs(a - b) for a, b in zip(read[way], read["none"], strict=True)), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="1 layer, 2 rounds")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--rounds", type=int)
    given = parser.parse_args()
    layers, rounds = given.layers or (1 if given.quick else 4), given.rounds or (2 if given.quick else 5)
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), layers)
        found = measure(folder, rounds)
    print(json.dumps({"ways": found, "layers": layers, "rounds": rounds, "hidden": HIDDEN, "vocabulary": VOCABULARY}))


if __name__ == "__main__":
    main()
