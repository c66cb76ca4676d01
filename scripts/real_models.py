"""docs/real_models.md from result folders of real models; nothing stands there that a command of the package does not print.

    python -m scripts.real_models out/pair out/smollm2 > docs/real_models.md

Every folder was given to ``lm_eval --output_path`` with ``--log_samples``. Runs of ``ensemble-ppl`` are compared with their
members and replayed with every selector, runs of uncertainty tasks are analysed; times are those of the results files.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval_ensemble.cli import main as command
from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.report.run import report_of
from lm_eval_ensemble.runs.load import TaskRun, labels, load_runs

# The files that were measured: name of the checkpoint's folder here, what it is, where it is published, sha256.
WEIGHTS = (
    (
        "qwen",
        "Qwen2.5-Coder-0.5B-Instruct, Q4_K_M, Apache-2.0",
        "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    (
        "smollm2",
        "SmolLM2-135M-Instruct, Q4_1, Apache-2.0",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    (
        "gemma",
        "Gemma 3 270M, Q4_K_M, Gemma terms of use",
        "google/gemma-3-270m",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
)
BEGINNING = """# Real models

Language models of 0.1 to 0.5 billion parameters on a CPU. **All weights are 4-bit files, dequantised**: other models than
those published in full precision. (For Qwen2.5-Coder-0.5B itself, not instruction-tuned, in full precision and at temperature
0.6, 74.15 % on HumanEval-Infilling is reported: [corrections](corrections.md).) `dllm` is the embedded diffusion model of 4
million parameters (in one run `smollm2-mdm`: [SmolLM2, adapted](diffusion.md#a-diffusion-model-of-your-own-family)), and is
told no length: `length=ar` gives it the length of its partner's answer.

| checkpoint | what | published as | sha256 of the file |
|---|---|---|---|
"""
MADE = """
This page is what the commands below print, put together by `python -m scripts.real_models` from the folders of the runs
([archive](data/real_models.tar.xz), to be unpacked in `out`). SantaCoder-FIM has [a page of its own](real_santacoder.md): its
licence restricts its use, so its folder is not in the archive. The grid that runs most of it is `lm-eval-ensemble sweep
real_small`; [the notebook](analysis.ipynb) draws the plots. Times are of two cores that other work shared. The texts of four
runs were scored a second time (`score`), after a fault of the score `fim` had been mended: both commands stand there. In the
run `mdm` the diffusion model alone fills each gap with six lengths, and `qwen` judges them.
"""
PUBLISHED = """
Published beside it, on TriviaQA in full precision: 4.1 % for SmolLM2-135M (not instruction-tuned, no examples; its
[model card](https://huggingface.co/HuggingFaceTB/SmolLM2-135M)) and 15.4 % for Gemma 3 270M (five examples; its
[model card](https://ai.google.dev/gemma/docs/core/model_card_3)). Here every question follows the same few examples, the
questions are a sample, and an answer is right that equals any alias after the usual normalisation.
"""


def page(folders: Sequence[str], similarity: str | None = None) -> str:
    """The page in Markdown. What cannot be read in the folders, or no run that belongs here, is a :class:`DataError`.

    :param similarity: for ``uncertainty``, of the runs with sampled answers.
    """
    runs, problems = load_runs(folders)
    if problems:
        raise DataError("\n".join(problems))
    pairs = [run for run in runs if run.model_source in ("ensemble-ppl", "score")]
    questions = [run for run in runs if run.task.endswith("_uncertainty")]
    if not pairs and not questions:
        raise DataError(f"{', '.join(folders)}: found no run of ensemble-ppl or of an uncertainty task, expected one of them.")
    rows = "".join(f"| `{name}` | {what} | {place} | `{digest}` |\n" for name, what, place, digest in WEIGHTS)
    parts = [BEGINNING + rows + MADE]
    if pairs:
        parts.append(in_one_table(pairs))
    if questions:
        parts.append(
            "## Does a real model know when it is wrong?\n\n" + labels_table(questions) + PUBLISHED + otherwise(questions)
        )
    parts += map(gaps, pairs, labels(pairs))
    several = [task for task, count in Counter(run.task for run in pairs).items() if count > 1]
    parts += [side_by_side(task, [run for run in pairs if run.task == task]) for task in several]
    parts += [known(run, label, similarity) for run, label in zip(questions, labels(questions), strict=True)]
    return "\n".join(parts)


def in_one_table(pairs: Sequence[TaskRun]) -> str:
    """One line for each run: the run's own rule and the selectors against the best member, from what ``select`` says."""
    rows = []
    for run, label in zip(pairs, labels(pairs), strict=True):
        (found,) = json.loads(printed("select", str(run.results_path), "--task", run.task, "--format", "json"))["tasks"]
        by_name = {row["selector"]: row for row in found["rows"]}
        (own,) = (row for row in found["rows"] if row["primary"])
        best = found["reference"]
        gaining = [
            f"{row['selector']} {gained(row)}"
            for row in found["rows"]
            if not row["bound"] and row["p_all"] is not None and row["p_all"] < 0.05 and row["gain"]["value"] > 0
        ]
        cells = [
            *(run.task, label, found["n"], interval(own["score"], 1)),
            f"{best} {100 * found['members'][best]:.1f}",
            f"{gained(own)}, p = {own['p']:.2g}",
            interval(by_name["oracle"]["score"], 1),
            f"{100 * own['s']['value']:.1f} of {100 * found['s0']:.1f}",
            "; ".join(gaining) or "none",
        ]
        rows.append(f"| {' | '.join(map(str, cells))} |\n")
    heads = ("task", "run", "gaps", "ensemble", "best member", "ensemble minus it", "oracle", "s of s0", "selectors that gain")
    return (
        "## Does the ensemble beat its best member?\n\n"
        "pass@1 in percent [95 % interval], from `lm-eval-ensemble select out`: the run's own rule against the best "
        "member, which was found after looking. s: the share of right choices where some candidates are right and some "
        "are not; s0: what it takes to beat the best member. The last column has the other selectors whose gain over it "
        "is significant (p < 0.05) over all selectors together; of those `learned`, `calibrated` and `margin` are fitted "
        "on other folds, the others need no fit.\n\n"
        f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n{''.join(rows)}"
    )


def interval(found: Any, digits: int, sign: str = "") -> str:
    """A share with its interval, in percent."""
    value, low, high = (100 * found[name] for name in ("value", "low", "high"))
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def gained(row: Any) -> str:
    """What a selector gains over the best member; that of the selectors which are not the run's own holds for all together."""
    low, high = row["gain_all"] or (row["gain"]["low"], row["gain"]["high"])
    return interval({"value": row["gain"]["value"], "low": low, "high": high}, 1, "+")


def gaps(run: TaskRun, label: str) -> str:
    """A run of the ensemble: how it was made, beside its members, and by every selector."""
    folder = str(run.results_path)
    lines = ("compare", folder, "--members", "--task", run.task, "--metric", "exact_match_first_line")
    first_line = f"\nBy what was published, `--metric exact_match_first_line`:\n\n{printed(*lines)}" if _is_santa(run) else ""
    return (
        f"## {run.task}: {label}\n\n{made(run)}{unended(run)}"
        f"\n`lm-eval-ensemble compare out --members`:\n\n{printed('compare', folder, '--members', '--task', run.task)}"
        f"{first_line}"
        f"\n`lm-eval-ensemble select out`:\n\n{lowered(printed('select', folder, '--task', run.task))}"
    )


def unended(run: TaskRun) -> str:
    """Which share of a member's answers the limit of tokens ended, where it is more than a tenth (row ``truncated_rate``)."""
    every: dict[str, list[bool]] = {}
    for choice in (choice for row in report_of(run).rows for choice in row.choices):
        for scored in choice.selection.candidates:
            every.setdefault(scored.candidate.member, []).append(scored.candidate.was_truncated)
    told = [f"{sum(ended)} of {len(ended)} of `{name}`" for name, ended in every.items() if sum(ended) > 0.1 * len(ended)]
    return f"\nAnswers that ended at the limit of tokens, because the model did not stop: {', '.join(told)}.\n" if told else ""


def _is_santa(run: TaskRun) -> bool:
    """Whether published figures of the set are exact matches of the first line, not tests."""
    return run.task.startswith("santacoder")


def side_by_side(task: str, runs: Sequence[TaskRun]) -> str:
    """Several runs of one task and their members, on the documents that they share."""
    told = printed("compare", *(str(run.results_path) for run in runs), "--members", "--common", "--task", task)
    return f"## {task}: all runs\n\n`lm-eval-ensemble compare out --members --common`:\n\n{told}"


def known(run: TaskRun, label: str, similarity: str | None) -> str:
    """A run of questions: how it was made, and every score with its interval."""
    asked = "n_samples" in run.config["model_args"] and similarity is not None
    told = printed("uncertainty", str(run.results_path), *(("--similarity", str(similarity)) if asked else ()))
    mine = told[told.index(f"{run.task},") :].split("\n\n")[0].rstrip().replace(run.model_name, _shown(run.model_name))
    how = f"\n`lm-eval-ensemble uncertainty out --similarity sentence:{Path(str(similarity)).name}`:\n" if asked else ""
    return f"### {run.task}: {label}\n\n{made(run)}{how}\n```text\n{mine}\n```\n"


def labels_table(runs: Sequence[TaskRun]) -> str:
    """AUROC of G-NLL and of its mean per token by what counts as right: token F1 of at least 0.5, or exact match."""
    rows = []
    for run, name in zip(runs, labels(runs), strict=True):
        cells = []
        for label in ("f1", "em"):
            found = analysed(run, label)
            cells += [f"{100 * found['accuracy']['value']:.1f}", auroc(found, "g_nll"), auroc(found, "ln_nll")]
        rows.append(f"| {name} | {run.task} | {' | '.join(cells)} |\n")
    heads = [f"{what} by {label}" for label in ("F1", "exact match") for what in ("right (%)", "G-NLL", "length-normalised")]
    return (
        "AUROC (higher is better, 0.5 is chance) with 95 % intervals, by what counts as a right answer, "
        "`lm-eval-ensemble uncertainty out --label f1` and `--label em`:\n\n"
        f"| model | task | {' | '.join(heads)} |\n|{'---|' * (2 + len(heads))}\n{''.join(rows)}"
    )


def otherwise(runs: Sequence[TaskRun]) -> str:
    """How many greedy answers two runs of one model do not share: what other rows of a batch do to half precision."""
    told = []
    for i, first in enumerate(runs):
        for second in runs[i + 1 :]:
            if (first.task, first.model_name) == (second.task, second.model_name):
                ours, theirs = (
                    {sample["doc_id"]: sample["uncertainty"]["answer"] for _, sample in run.lines({})}
                    for run in (first, second)
                )
                shared = ours.keys() & theirs.keys()
                differ = sum(ours[number] != theirs[number] for number in shared)
                told.append(f"{differ} of {len(shared)} ({_shown(first.model_name)}, {first.task})")
    return (
        f"\nGreedy answers that read otherwise in two runs of one model, with other rows in their batches: {', '.join(told)}.\n"
        if told
        else ""
    )


def analysed(run: TaskRun, label: str) -> Any:
    """What ``uncertainty --json`` says of one run."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        printed("uncertainty", str(run.results_path), "--label", label, "--json", str(file))
        found = json.loads(file.read_text(encoding="utf-8"))
    return next(entry for entry in found["runs"] if entry["dataset"] == run.task)


def auroc(found: Any, score: str) -> str:
    """The area with its interval; a dash where every answer is right or every one is wrong."""
    value = found["scores"][score]["metrics"]["auroc"]
    return "-" if value["value"] is None else f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def made(run: TaskRun) -> str:
    """The commands without their folders, the date, the time. Tasks of one run were asked in one command, whose time it is."""
    whole = json.loads(run.results_path.read_text(encoding="utf-8"))
    config = whole.get("scored_config", run.config)  # texts of one run that another command has scored
    tasks, limit = list(whole["n-samples"]), config.get("limit")
    more = f" --limit {limit:g}" if limit else f' --samples "$({drawn})"' if (drawn := drawn_by(run)) else ""
    judged = " --confirm_run_unsafe_code"
    if "scored_config" in whole or any(whole["configs"][task].get("unsafe_code") for task in tasks):
        more += judged
    given = given_to(config["model_args"])
    lines = [
        f"lm_eval --model {config['model']} --model_args {given} --tasks {','.join(tasks)} "
        f"--batch_size {config.get('batch_size')}{more} --output_path out --log_samples"
    ]
    if "scored_config" in whole:
        given = given_to(run.config["model_args"])
        lines.append(f"lm-eval-ensemble score out --model_args {given} --batch_size {run.config['batch_size']}{judged}")
    together = f" and its {run.run_documents} documents" if len(tasks) > 1 else ""
    seconds = (
        ""
        if run.run_seconds is None
        else f"; {run.run_seconds:.0f} s for the whole command{together}, loading and judging included"
    )
    return "```sh\n" + "\n".join(lines) + f"\n```\n\n{run.date[:10]}, {_documents(run)}{seconds}.\n"


def given_to(model_args: Mapping[str, Any]) -> str:
    """``--model_args`` for a shell: as JSON where values are nested."""
    given = {name: _shown(value) for name, value in model_args.items() if name != "store"}
    if any(isinstance(value, list | dict) for value in given.values()):
        return f"'{json.dumps(given)}'"
    return ",".join(f"{name}={value}" for name, value in given.items())


def drawn_by(run: TaskRun) -> str:
    """The command that prints which documents were asked, where they are a seeded part of all; empty where all or the first
    were."""
    count = _counts(run)
    asked = sorted(sample["doc_id"] for _, sample in run.lines({}))
    if asked == list(range(len(asked))):
        return ""
    if asked != sorted(random.Random(0).sample(range(count["original"]), len(asked))):
        raise DataError(f"{run.samples_path}: found documents of no known choice, expected random.Random(0).sample of all.")
    numbers = f"sorted(random.Random(0).sample(range({count['original']}), {len(asked)}))"
    return f"python -c 'import json, random; print(json.dumps({{\"{run.task}\": {numbers}}}))'"


def _counts(run: TaskRun) -> Any:
    return json.loads(run.results_path.read_text(encoding="utf-8"))["n-samples"][run.task]


def _documents(run: TaskRun) -> str:
    """How many documents were asked, and of how many (``--limit`` and ``--samples`` ask a part of them)."""
    count = _counts(run)
    whole = "" if count["original"] == count["effective"] else f" of {count['original']}"
    return f"{count['effective']}{whole} documents"


def _shown(value: Any) -> Any:
    """A path of the machine that ran it is shortened to its last part."""
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def printed(*words: str) -> str:
    """What ``lm-eval-ensemble`` prints with these arguments; its failure is raised."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = command(list(words))
    if status:
        raise DataError(f"lm-eval-ensemble {' '.join(words)}: ended with status {status}, expected 0.")
    return out.getvalue()


def lowered(text: str) -> str:
    """Without headings: those of this page say the same."""

    def lines() -> Iterator[str]:
        yield from (line for line in text.strip().split("\n") if not line.startswith("#"))

    return "\n".join(lines()).strip() + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m scripts.real_models")
    parser.add_argument("folders", nargs="+", metavar="OUT")
    parser.add_argument("--similarity", help="of runs with sampled answers, as for `lm-eval-ensemble uncertainty`")
    options = parser.parse_args()
    sys.stdout.write(page(options.folders, options.similarity))
