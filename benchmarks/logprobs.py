"""What it costs to record the log-probabilities of what is generated.

    python benchmarks/logprobs.py            # 24 layers, hidden 896, vocabulary 151,936: 4 GB of memory, 1 GB of disk
    python benchmarks/logprobs.py --quick    # fewer layers and rounds: says whether it runs, not what it costs
    python benchmarks/logprobs.py --readings preset=tiny,dtype=bfloat16    # or pretrained=CHECKPOINT,dtype=...

Three ways over the same random weights and the same 8 prompts, 64 tokens each, greedily, in turn, so that a busy machine hits
all of them: stock ``hf``; ``hf-scored``; and stock ``hf`` with ``output_scores=True`` and ``compute_transition_scores``, as the
log-probabilities are usually had. Time is the processor time of the process, median of the rounds' ratios. Memory is the peak
beyond what the loaded model takes, each way in a process of its own; a *row* is one (8, vocabulary) tensor of float32 logits.
The last line is JSON. Goals: ``time_ratio_stock`` at most 1.05, ``extra_rows`` a few.

``--readings`` asks another question: how far the log-probabilities of generation are from those of reading the same answer
at once, which the score ``fim`` takes to be one (``scoring/passes.py``). Nats; over the gaps of ``infill_toy`` whose end is
known, of a token and of an answer's mean.
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
from dataclasses import replace
from pathlib import Path
from typing import Any

ROWS, TOKENS, VOCABULARY, HIDDEN, LAYERS = 8, 64, 151_936, 896, 24
WAYS = ("stock", "scored", "scores")


def save_model(folder: Path, layers: int) -> None:
    """A Qwen2 of the 0.5B shape with random weights, and a tokenizer of as many words."""
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
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def load(folder: str) -> Any:
    from lm_eval_ensemble.harness.scored_lm import ScoredHF

    return ScoredHF(pretrained=folder, dtype="float32", device="cpu", batch_size=ROWS, max_length=1024)


def requests(tokens: int, rows: int) -> list[Any]:
    from lm_eval.api.instance import Instance

    settings = {"until": ["\n\n\n"], "do_sample": False, "max_gen_toks": tokens}
    prompts = [f"Question {i}: who was it, and when?\nAnswer:" for i in range(rows)]
    return [
        Instance("generate_until", {}, (p, settings), 0, metadata=("t", i, 1), task_name="t", doc_id=i, repeats=1)
        for i, p in enumerate(prompts)
    ]


def answer(lm: Any, way: str, tokens: int = TOKENS, rows: int = ROWS) -> list[str]:
    """The answers, each in its way; all three are the same model and the same code but for what is recorded."""
    from lm_eval.models.huggingface import HFLM

    asked = requests(tokens, rows)
    if way == "scored":
        return [str(text) for text in lm.generate_until(asked)]
    if way == "stock":
        return list(HFLM.generate_until(lm, asked, disable_tqdm=True))
    plain = HFLM._model_generate

    def with_scores(context: Any, max_length: int, stop: list[str], **options: Any) -> Any:
        out = plain(lm, context, max_length, stop, output_scores=True, return_dict_in_generate=True, **options)
        lm.model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
        return out.sequences

    lm._model_generate = with_scores
    try:
        return list(HFLM.generate_until(lm, asked, disable_tqdm=True))
    finally:
        del lm._model_generate


def peak_bytes(folder: str, way: str) -> int:
    """In this process: peak resident memory while answering, beyond that before (Linux)."""
    lm = load(folder)
    answer(lm, way, tokens=2, rows=1)  # what is imported or cached once is not what recording costs
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
    before = _status("VmRSS")
    answer(lm, way)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def in_child(folder: str, way: str) -> int:
    command = [sys.executable, __file__, "--peak", way, folder]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return int(done.stdout.split()[-1])


def measure(folder: str, rounds: int) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    lm = load(folder)
    answers = {way: answer(lm, way) for way in WAYS}  # also the warm-up
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for way in (*WAYS[number % 3 :], *WAYS[: number % 3]):
            begin = time.process_time()
            answer(lm, way)
            seconds[way].append(time.process_time() - begin)
        print({way: round(values[-1], 2) for way, values in seconds.items()}, file=sys.stderr, flush=True)
    paired = list(zip(*(seconds[way] for way in WAYS), strict=True))
    return {
        "time_ratio_stock": round(statistics.median(scored / stock for stock, scored, _ in paired), 4),
        "time_ratio_scores": round(statistics.median(scored / scores for _, scored, scores in paired), 4),
        "cpu_seconds": {way: round(statistics.median(values), 2) for way, values in seconds.items()},
        "same_answers": answers["stock"] == answers["scored"] == answers["scores"],
    }


def readings(model_args: str) -> dict[str, Any]:
    """What generation and reading say of the same tokens, by the arguments of ``hf-scored``."""
    from lm_eval_ensemble.data import load_documents
    from lm_eval_ensemble.harness.scored_lm import ScoredHF
    from lm_eval_ensemble.scoring.passes import PassJob, run_pass
    from lm_eval_ensemble.types import InfillRequest

    lm = ScoredHF.create_from_arg_string(model_args, {"batch_size": ROWS, "device": "cpu"})
    gaps = [InfillRequest(d["prefix"], d["suffix"], "toy", i, cut=d["cut"]) for i, d in enumerate(load_documents("infill_toy"))]
    written = lm.propose([replace(gap, max_new_tokens=TOKENS) for gap in gaps])
    known = [(gap, own) for gap, own in zip(gaps, written, strict=True) if own.info.get("end_logprob") is not None and own.text]
    tokens, means = [], []
    for one, other in zip(
        run_pass("fim", lm, [PassJob(gap, own.text, (own,)) for gap, own in known]),
        run_pass("fim", lm, [PassJob(gap, own.text) for gap, own in known]),
        strict=True,
    ):
        if one is not None and other is not None:
            pairs = list(zip((*one.middle, *one.after), (*other.middle, *other.after), strict=True))
            tokens += [abs(a - b) for a, b in pairs]
            means.append(abs(sum(a - b for a, b in pairs)) / len(pairs))
    return {
        "answers": len(means),
        "tokens": len(tokens),
        "token_largest": round(max(tokens), 7),
        "token_median": round(statistics.median(tokens), 7),
        "mean_largest": round(max(means), 7),
        "mean_median": round(statistics.median(means), 7),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="2 layers, 2 rounds")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--peak", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--readings", metavar="ARGS", help="model arguments of hf-scored: generation against reading")
    given = parser.parse_args()
    if given.readings:
        print(json.dumps(readings(given.readings)))
        return
    if given.peak:
        print(peak_bytes(given.peak[1], given.peak[0]))
        return
    layers, rounds = given.layers or (2 if given.quick else LAYERS), given.rounds or (2 if given.quick else 5)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), layers)
        figures = measure(folder, rounds)
        row = ROWS * VOCABULARY * 4
        peaks = {way: in_child(folder, way) for way in WAYS}
    figures |= {
        "extra_rows": round((peaks["scored"] - peaks["stock"]) / row, 2),
        "extra_rows_scores": round((peaks["scores"] - peaks["stock"]) / row, 2),
        "peak_mib": {way: round(value / 2**20, 1) for way, value in peaks.items()},
        "row_mib": round(row / 2**20, 2),
        "layers": layers,
        "rounds": rounds,
        "rows": ROWS,
        "tokens": TOKENS,
        "vocabulary": VOCABULARY,
        "wall_seconds": round(time.monotonic() - began),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
