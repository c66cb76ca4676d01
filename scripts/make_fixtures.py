"""Makes the result folders that the tests of ``report/`` read: real runs of lm_eval with the embedded models.

    python scripts/make_fixtures.py            all of them, about five minutes on two cores
    python scripts/make_fixtures.py ensemble   only this one

What describes the machine is taken out of the results files; samples are as lm_eval wrote them,
those of questions without prompts.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
HF = "pretrained=lm_eval_ensemble/assets/tiny/fim,max_length=384"
TOY = ["--tasks", "infill_toy", "--limit", "15", "--confirm_run_unsafe_code"]
TWELVE = ["--tasks", "triviaqa_uncertainty", "--num_fewshot", "0", "--limit", "12"]
STOCK = ["--tasks", "words_choice,words_generate", "--include_path", "tests/fixtures/tasks", "--limit", "12"]

#: name -> arguments of lm_eval.
RUNS = {
    "ensemble": ["--model", "ensemble-ppl", "--model_args", "preset=tiny,pretrained=tiny", *TOY],
    "dllm": ["--model", "diffusion-infill", "--model_args", "preset=tiny,pretrained=tiny-dllm", *TOY],
    "fim": ["--model", "hf-scored", "--model_args", "preset=tiny,pretrained=tiny-fim", *TOY],
    "hf": ["--model", "hf", "--model_args", HF, "--gen_kwargs", "max_gen_toks=64", *TOY],
    "stock": ["--model", "hf", "--model_args", HF, *STOCK],
    "repeats": [
        *("--model", "ensemble-ppl", "--model_args", "preset=tiny,pretrained=tiny-repeats"),
        *("--metadata", '{"repeats": 3}', "--tasks", "infill_toy", "--limit", "6", "--confirm_run_unsafe_code"),
    ],
    # Needs the data sets (LM_EVAL_ENSEMBLE_DATA).
    "questions": ["--model", "hf-scored", "--model_args", "pretrained=tests/assets/tiny_qa", *TWELVE],
}
#: questions: one model that knows half of them, at two precisions, and one that knows none. They need LM_EVAL_ENSEMBLE_DATA.
QUESTIONS = {
    name: [
        *("--model", "hf-scored", "--model_args", f"pretrained={checkpoint},dtype={dtype},record=entropy"),
        *("--tasks", "triviaqa_uncertainty", "--limit", "60", "--num_fewshot", "0"),
    ]
    for name, checkpoint, dtype in (
        ("qa_float32", "tests/assets/tiny_qa", "float32"),
        ("qa_bfloat16", "tests/assets/tiny_qa", "bfloat16"),
        ("qa_fim", "lm_eval_ensemble/assets/tiny/fim", "float32"),
    )
}
#: of the samples of questions: long, and read by nobody.
LEFT_OUT = ("arguments", "doc", "resps", "filtered_resps", "target")
#: of the results file: they describe the machine and its checkout.
DROPPED = ("pretty_env_info", "git_hash", "upper_git_hash")


def make(name: str) -> None:
    """Run lm_eval and keep the files it wrote under ``tests/fixtures/runs/NAME``, of questions under ``answers/NAME``."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "lm_eval_ensemble", "run", *(RUNS | QUESTIONS)[name]),
            *("--log_samples", "--output_path", folder, "--batch_size", "8", "--device", "cpu"),
        ]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": f"{folder}/cache", "PYTHONPATH": str(ROOT)}
        subprocess.run(command, check=True, cwd=ROOT, env=environment)
        (results,) = Path(folder).rglob("results_*.json")
        target = FIXTURES / ("answers" if name in QUESTIONS else "runs") / name / results.parent.name.rsplit("__", 1)[-1]
        shutil.rmtree(target.parent, ignore_errors=True)
        target.mkdir(parents=True)
        content = {key: value for key, value in json.loads(results.read_text()).items() if key not in DROPPED}
        (target / results.name).write_text(json.dumps(content, indent=1).replace(f"{ROOT}/", "") + "\n")
        for samples in results.parent.glob("samples_*.jsonl"):
            if name in QUESTIONS:
                lines = [json.loads(line) for line in samples.read_text().splitlines()]
                for line in lines:
                    for heavy in LEFT_OUT:
                        line.pop(heavy, None)
                (target / samples.name).write_text("".join(json.dumps(line) + "\n" for line in lines))
            else:
                shutil.copy(samples, target / samples.name)


if __name__ == "__main__":
    for asked in sys.argv[1:] or RUNS:
        make(asked)
