"""Is the member's row the stock model's row? Greedy answers of `hf-scored` and of `hf`, document by document.

    LM_EVAL_ENSEMBLE_DATA=... python scripts/member_parity.py [--limit N]

Both run as plain `lm_eval` on the tiny autoregressive checkpoint: float32, batch size 1, the same token limit. Documents
whose prompt does not fit are counted apart: stock `hf` cuts the prompt's left end off (sentinel included), we trim around
the gap.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import lm_eval_ensemble

CHECKPOINT = Path(lm_eval_ensemble.__file__).parent / "assets" / "tiny" / "fim"
TASKS = ("humaneval_infill", "santacoder_fim")


def samples(model: str, arguments: str, tokens: int, limit: int | None, folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """Logged samples of one run by (task, document)."""
    command = [
        *(
            sys.executable,
            "-m",
            "lm_eval",
            "--model",
            model,
            "--model_args",
            f"pretrained={CHECKPOINT},dtype=float32,{arguments}",
        ),
        *("--tasks", ",".join(TASKS), "--batch_size", "1", "--device", "cpu", "--gen_kwargs", f"max_gen_toks={tokens}"),
        *("--confirm_run_unsafe_code", "--log_samples", "--output_path", str(folder / model)),
        *(("--limit", str(limit)) if limit else ()),
    ]
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(code)
    found = {}
    for task in TASKS:
        path = next((folder / model).rglob(f"samples_{task}_*.jsonl"))
        for line in path.read_text(encoding="utf-8").split("\n"):
            if line:
                sample = json.loads(line)
                found[task, sample["doc_id"]] = sample
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--max_length", type=int, default=384)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        length = f"max_length={options.max_length}"
        stock = samples("hf", length, options.tokens, options.limit, Path(folder))
        ours = samples("hf-scored", length, options.tokens, options.limit, Path(folder))
    for task in TASKS:
        keys = [key for key in stock if key[0] == task]
        trimmed = [k for k in keys if any(n.startswith("trimmed") for n in ours[k]["selection"]["candidates"][0])]
        fitting = [k for k in keys if k not in set(trimmed)]
        same = sum(stock[k]["resps"] == [[ours[k]["selection"]["candidates"][0]["raw"]]] for k in fitting)
        verdicts = sum(stock[k]["pass@1"] == ours[k]["pass@1"] for k in fitting)
        figures = {
            "task": task,
            "documents": len(keys),
            "fitting": len(fitting),
            "identical": same,
            "same_verdict": verdicts,
            "not_fitting": len(trimmed),
        }
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
