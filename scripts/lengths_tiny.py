"""Accuracy of the tiny pair under each length policy: 300 tasks each of HumanEval-Infilling and SantaCoder-FIM.

    LM_EVAL_ENSEMBLE_DATA=... python -m scripts.lengths_tiny --output lengths.jsonl
    python -m scripts.lengths_tiny --output lengths.jsonl --table

The tasks are 450 to 749 of ``random.Random(0).shuffle``; nothing was fitted or chosen on them. Every (gap, length) is
filled once and every text is scored and judged once, whichever policies ask for it; decoding is greedy, so that each
policy's answers are those of a run of its own. Five documents of each set at a time are appended to the output; a run that
was stopped goes on where it was.

``--grown CHECKPOINT`` evaluates ``length=expand`` instead, by a model that ``scripts.train_tiny train --kind grow`` made; the
judge of the ensemble is the embedded pair, as for the other policies. Its lines go to a file of their own.

``--fit FOLDER`` writes the held-out files of the pair's training corpus there: what ``fit-length`` was given.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lm_eval_ensemble import ensemble
from lm_eval_ensemble.data import load_documents
from lm_eval_ensemble.harness.diffusion_lm import DiffusionInfill
from lm_eval_ensemble.harness.judging import JudgeSettings, judge_all
from lm_eval_ensemble.harness.scored_lm import ScoredHF
from lm_eval_ensemble.members.base import Ledger, Member
from lm_eval_ensemble.runs import rows as infill
from lm_eval_ensemble.scoring import Scorers
from lm_eval_ensemble.types import Candidate, Completion, InfillRequest, Scored, Selection

SETS = {"humaneval_infill": "single-line", "santacoder_fim": "santacoder-py"}
#: policy -> whether it must be shown the reference.
POLICIES = {
    "oracle": True,
    "fixed-mean": False,
    "search": False,
    "grid": False,
    "ar": False,
    "ar:2": False,
    "grid:ar+4+8+16": False,
}
CHUNK = 5


class Remembered:
    """A function over a list that computes each distinct item once."""

    def __init__(self, compute: Callable[[Sequence[Any]], Sequence[Any]], key: Callable[[Any], Any]) -> None:
        self.compute, self.key = compute, key
        self.known: dict[Any, Any] = {}

    def __call__(self, items: Sequence[Any]) -> list[Any]:
        new = list({self.key(i): i for i in items if self.key(i) not in self.known}.values())
        self.known.update(zip(map(self.key, new), self.compute(new) if new else [], strict=True))
        return [self.known[self.key(item)] for item in items]


class Partner(Member):
    """The autoregressive member's answers, as a member."""

    name = "fim"

    def __init__(self, answer: Callable[[Sequence[InfillRequest]], list[Candidate]]) -> None:
        self.answer = answer

    def propose(self, requests: Sequence[InfillRequest], ledger: Ledger | None = None) -> list[Candidate]:
        return self.answer(requests)


def build(grown: str | None) -> tuple[dict[str, DiffusionInfill], Partner, Scorers]:
    """One diffusion member per policy, all with one memory of fills; the partner; the scorers of the default rule."""
    members, fills = {}, None
    for policy in POLICIES:
        member = DiffusionInfill(name="dllm", preset="tiny", length=policy, batch_size=16)
        fills = fills or Remembered(member._fill, lambda row: (row.request.prefix, row.request.suffix, row.length.tokens))
        member._fill = fills  # type: ignore
        members[policy] = member
    causal, first = ScoredHF(name="fim", preset="tiny", batch_size=16), members["oracle"]
    if grown:
        settings: dict[str, Any] = {"temperature": 0.0, "max_length": 384, "max_new_tokens": 64, "batch_size": 16}
        members = {"expand": DiffusionInfill(name="dllm", pretrained=grown, length="expand", alg="entropy", **settings)}
    answers = Remembered(causal.propose, lambda request: request.key)
    causal.token_logprobs = Remembered(causal.token_logprobs, lambda span: (tuple(span.ids), span.start))  # type: ignore
    first.onepass_logprobs = Remembered(first.onepass_logprobs, lambda row: tuple(map(tuple, row)))  # type: ignore
    return members, Partner(answers), Scorers(causal, first)


def judged(
    docs: Sequence[dict[str, Any]], completions: Sequence[Completion], judge: Callable[[Sequence[Any]], Sequence[Any]]
) -> list[list[Selection]]:
    """The runs of every completion, with verdicts."""
    pairs = [(doc, s) for doc, c in zip(docs, completions, strict=True) for run in c.runs for s in run.candidates]
    verdicts = iter(judge(pairs))
    return [[replace(r, candidates=tuple(_with(s, next(verdicts)) for s in r.candidates)) for r in c.runs] for c in completions]


def _with(scored: Scored, verdict: Scored) -> Scored:
    return replace(scored, verdict=verdict.verdict, why=verdict.why)


def cost(selections: Sequence[Selection], name: str) -> tuple[float, float]:
    """Row-forwards of one answer of the member: spent on the length, and on fills; the mean over runs."""
    own = [[s.candidate.info for s in run.candidates if s.candidate.member == name] for run in selections]
    search, fill = ([sum(info[key] for info in run) for run in own] for key in ("length_forwards", "row_forwards"))
    return statistics.fmean(search), statistics.fmean(fill)


def evaluate(task: str, numbers: Sequence[int], documents: Sequence[dict[str, Any]], models: Any, judge: Any) -> Iterator[Any]:
    """One line per document and policy."""
    members, partner, scorers = models
    docs = [documents[i] for i in numbers]
    requests = [
        InfillRequest(d["prefix"], d["suffix"], task, i, reference=d["middle"], cut=d["cut"])
        for i, d in zip(numbers, docs, strict=True)
    ]
    hints = [candidate.text for candidate in partner.propose(requests)]
    for policy, member in members.items():
        asked = [r if POLICIES.get(policy) else replace(r, reference=None) for r in requests]
        together = ensemble.run(asked, [member, partner], scorers, ensemble.Settings(prefer="fim"))
        alone = member.answer_alone([replace(r, hint=h) for r, h in zip(asked, hints, strict=True)])
        found = zip(numbers, docs, judged(docs, together, judge), judged(docs, alone, judge), strict=True)
        for number, doc, both, one in found:
            rows = {"dllm": infill.document_rows(doc, one), "ensemble": infill.document_rows(doc, both)}
            searching, filling = cost(one, "dllm")
            yield {
                "task": task,
                "doc": number,
                "policy": policy,
                "fim_pass": rows["ensemble"]["pass@1_fim"],
                "fim_exact": rows["ensemble"]["exact_match_fim"],
                **{f"{who}_pass": row["pass@1"] for who, row in rows.items()},
                **{f"{who}_exact": row["exact_match"] for who, row in rows.items()},
                "reachable": rows["ensemble"]["pass@1_oracle"],
                "length_forwards": searching,
                "row_forwards": filling,
            }


def run(output: Path, first: int, last: int, grown: str | None) -> None:
    """Append the documents that are not in the output yet."""
    lines = output.read_text(encoding="utf-8").splitlines() if output.exists() else []
    done = {(row["task"], row["doc"]) for row in map(json.loads, lines)}
    models = build(grown)
    # A text of a document is judged once.
    judge = Remembered(lambda pairs: judge_all(pairs, JudgeSettings(workers=1), "lengths")[0], _judge_key)
    sets = {task: load_documents(name) for task, name in SETS.items()}
    for start in range(first, last, CHUNK):
        for task, documents in sets.items():
            order = list(range(len(documents)))
            random.Random(0).shuffle(order)
            numbers = [i for i in order[start : min(start + CHUNK, last)] if (task, i) not in done]
            found = list(evaluate(task, numbers, documents, models, judge)) if numbers else []
            with output.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in found)


def _judge_key(pair: tuple[dict[str, Any], Scored]) -> tuple[str, str]:
    return pair[0]["task_id"], pair[1].candidate.text


def table(output: Path) -> str:
    """The table of docs/tiny_pair.md, over the documents whose every policy is in the output."""
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    lines = []
    for task in SETS:
        own = [row for row in rows if row["task"] == task]
        count, policies = len({row["doc"] for row in own}), list(dict.fromkeys(row["policy"] for row in own))
        lines += [
            f"`{task}`, n = {count}; autoregressive member alone: pass@1 {_sum(own, policies[0], 'fim_pass')}, "
            f"exact match {_sum(own, policies[0], 'fim_exact')}",
            "",
            "| `length=` | needs the reference | dllm pass@1 | dllm exact match | ensemble pass@1 | reachable | row-forwards: "
            "length + fill |",
            "|---|---|---|---|---|---|---|",
        ]
        for policy in policies:
            numbers = [_sum(own, policy, k) for k in ("dllm_pass", "dllm_exact", "ensemble_pass", "reachable")]
            costs = [
                statistics.fmean(row[key] for row in own if row["policy"] == policy)
                for key in ("length_forwards", "row_forwards")
            ]
            shown = "yes" if POLICIES.get(policy) else "no"
            lines.append(f"| `{policy}` | {shown} | {' | '.join(numbers)} | {costs[0]:.1f} + {costs[1]:.1f} |")
        lines.append("")
        if policies != list(POLICIES):
            continue
        low, high = (float(_sum(own, policy, "dllm_pass")) for policy in ("fixed-mean", "oracle"))
        free = {p: float(_sum(own, p, "dllm_pass")) for p, shown in POLICIES.items() if not shown and p != "fixed-mean"}
        best = max(free, key=lambda policy: free[policy])
        share = f"{(free[best] - low) / (high - low):.0%}" if high > low else "undefined"
        lines += [f"Best without a reference: `{best}`, {share} of the gap between `fixed-mean` and `oracle`.", ""]
    return "\n".join(lines)


def _sum(rows: Sequence[dict[str, Any]], policy: str, key: str) -> str:
    return f"{sum(row[key] for row in rows if row['policy'] == policy):g}"


def copy_held_out(folder: Path) -> int:
    """The files that training left out, as far as this Python has them unchanged."""
    import lm_eval_ensemble

    corpus = json.loads(
        (Path(lm_eval_ensemble.__file__).parent / "assets" / "tiny" / "corpus.json").read_text(encoding="utf-8")
    )
    root, count = Path(sysconfig.get_paths()["stdlib"]), 0
    for _, path, sha256, split in corpus["files"]:
        content = (root / path).read_bytes() if split == "held_out" and (root / path).is_file() else b""
        if hashlib.sha256(content).hexdigest() == sha256:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
            count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("lengths.jsonl"))
    parser.add_argument("--first", type=int, default=450)
    parser.add_argument("--last", type=int, default=750)
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    parser.add_argument("--grown", metavar="CHECKPOINT", help="evaluate length=expand alone, with this model")
    parser.add_argument("--fit", type=Path, metavar="FOLDER", help="copy the held-out files there")
    arguments = parser.parse_args()
    if arguments.fit:
        print(f"{copy_held_out(arguments.fit)} files in {arguments.fit}")
    elif arguments.table:
        print(table(arguments.output))
    else:
        run(arguments.output, arguments.first, arguments.last, arguments.grown)


if __name__ == "__main__":
    main()
