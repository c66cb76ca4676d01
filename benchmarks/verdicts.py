"""The judge's verdicts against a plain run of the same program: canonical solutions rewritten without a change of meaning, and
mutants of them.

    LM_EVAL_ENSEMBLE_DATA=... python benchmarks/verdicts.py [--mutants 3] [--workers N]
    python benchmarks/verdicts.py --cases FILE.jsonl

Every rewrite must pass. A mutant must get the verdict that ``python -I -c`` with the same time limit gives; a disagreement is
printed. The programs are changed texts of HumanEval's own solutions, nothing that a model wrote.

``--cases`` judges a file instead: a line has ``name``, what a job has, and the verdict that is ``expected``. A case is right if
``split`` gives it, or if a pass is expected and ``together`` gives that. The last line is JSON either way.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lm_eval_ensemble.data import load_documents
from lm_eval_ensemble.execution import Job, Judge

TIMEOUT = 5.0
_OPPOSITE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt,
    ast.Gt: ast.Lt,
    ast.LtE: ast.GtE,
    ast.GtE: ast.LtE,
    ast.Eq: ast.Eq,
    ast.NotEq: ast.NotEq,
}
_OTHER: dict[type[ast.AST], type[Any]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
_OTHER |= {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult, ast.Mod: ast.Add}
_OTHER |= {ast.And: ast.Or, ast.Or: ast.And}


class Renamed(ast.NodeTransformer):
    """Names that a function binds in its body get others."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        kept = {part.arg for part in ast.walk(node) if isinstance(part, ast.arg)}
        kept |= {name for part in ast.walk(node) if isinstance(part, ast.Global | ast.Nonlocal) for name in part.names}
        bound = {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)} - kept
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and part.id in bound:
                part.id += "_renamed"
        return node


class TurnedComparisons(ast.NodeTransformer):
    """``a < b`` as ``b > a``, where both sides are plain."""

    def visit_Compare(self, node: ast.Compare) -> ast.Compare:
        plain = (ast.Name, ast.Constant)
        if len(node.ops) == 1 and type(node.ops[0]) in _OPPOSITE and isinstance(node.left, plain):
            (right,) = node.comparators
            if isinstance(right, plain):
                return ast.Compare(right, [_OPPOSITE[type(node.ops[0])]()], [node.left])
        return node


class TurnedBranches(ast.NodeTransformer):
    """``if c: A else: B`` as ``if not c: B else: A``."""

    def visit_If(self, node: ast.If) -> ast.If:
        self.generic_visit(node)
        return ast.If(ast.UnaryOp(ast.Not(), node.test), node.orelse, node.body) if node.orelse else node


class StoredReturns(ast.NodeTransformer):
    """A value is stored before it is returned."""

    def visit_Return(self, node: ast.Return) -> ast.AST | list[ast.AST]:
        if node.value is None:
            return node
        return [ast.Assign([ast.Name("outcome_", ast.Store())], node.value), ast.Return(ast.Name("outcome_", ast.Load()))]


class SpelledConstants(ast.NodeTransformer):
    """A whole number as the difference of two."""

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, int) and not isinstance(node.value, bool):
            return ast.BinOp(ast.Constant(node.value + 7), ast.Sub(), ast.Constant(7))
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.JoinedStr:
        return node


class Guarded(ast.NodeTransformer):
    """Every function's body in a try that raises on."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        raising = ast.ExceptHandler(ast.Name("Exception", ast.Load()), "error_", [ast.Raise()])
        node.body = [ast.Try(node.body, [raising], [], [])]
        return node


REWRITES = (ast.NodeTransformer, Renamed, TurnedComparisons, TurnedBranches, StoredReturns, SpelledConstants, Guarded)


def mutants(tree: ast.Module, entry: str, count: int, rng: random.Random) -> Iterator[str]:
    """Up to ``count`` programs whose function ``entry`` differs in one operator or one number. What the prompt defines before
    it is the tests' own."""
    for place in rng.sample(range(n := len(_changeable(tree, entry))), min(count, n)):
        changed = copy.deepcopy(tree)
        node: Any = _changeable(changed, entry)[place]
        if isinstance(node, ast.Constant):
            node.value = ast.literal_eval(node) + 1
        elif isinstance(node, ast.Compare):
            node.ops[0] = _OTHER[type(node.ops[0])]()
        else:
            node.op = _OTHER[type(node.op)]()
        yield ast.unparse(ast.fix_missing_locations(changed))


def _changeable(tree: ast.Module, entry: str) -> list[ast.AST]:
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == entry)
    return [node for node in ast.walk(function) if _operator(node) in _OTHER or type(getattr(node, "value", None)) is int]


def _operator(node: Any) -> type[ast.AST] | None:
    """Of a comparison its first operator, of an operation its own; None of other nodes."""
    found = node.ops[0] if isinstance(node, ast.Compare) else getattr(node, "op", None)
    return None if found is None else type(found)


def plain(job: Job) -> bool:
    """Whether program and test run through in an interpreter of their own."""
    text = f"{job.program}\n{job.test}\ncheck({job.entry_point})\n"
    try:
        done = subprocess.run([sys.executable, "-I", "-c", text], capture_output=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def jobs_of(count: int) -> tuple[list[Job], list[Job]]:
    """Rewrites and mutants of the 164 solutions. A solution stands whole: its prompt says only what tests may use."""
    whole = {d["problem"]: d for d in load_documents("single-line")}
    same, changed = [], []
    rng = random.Random(0)
    for document in whole.values():
        tree = ast.parse(document["prefix"] + document["middle"] + document["suffix"])
        for rewrite in REWRITES:
            text = ast.unparse(ast.fix_missing_locations(rewrite().visit(copy.deepcopy(tree))))
            same.append(Job(document["prefix"], text, "", document["test"], document["entry_point"], whole=True))
        for text in mutants(tree, document["entry_point"], count, rng):
            changed.append(Job(document["prefix"], text, "", document["test"], document["entry_point"], whole=True))
    return same, changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=3, help="of one solution (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--cases", type=Path, help="a file of programs with the verdicts that they should get")
    arguments = parser.parse_args()
    if arguments.cases:
        print(json.dumps(judged_cases(arguments.cases, arguments.workers)))
        return
    same, changed = jobs_of(arguments.mutants)
    with Judge(arguments.workers, TIMEOUT, progress=False) as judge:
        verdicts = judge.run([*same, *changed])
    failed = [job for job, verdict in zip(same, verdicts, strict=False) if not verdict.passed]
    tell("a rewrite failed", failed)
    with ThreadPoolExecutor(arguments.workers) as threads:
        expected = list(threads.map(plain, changed))
    found = [verdict.passed for verdict in verdicts[len(same) :]]
    disagreements = [job for job, one, other in zip(changed, found, expected, strict=True) if one != other]
    tell("a mutant is judged otherwise", disagreements)
    row = {
        "rewrites": len(same),
        "rewrites_failed": len(failed),
        "mutants": len(changed),
        "mutants_that_pass": sum(expected),
        "disagreements": len(disagreements),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(row))


def judged_cases(path: Path, workers: int) -> dict[str, Any]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    jobs = [Job(*(row[name] for name in ("prompt", "completion", "suffix", "test", "entry_point"))) for row in rows]
    with Judge(workers, progress=False) as judge:
        apart, together = judge.run(jobs), judge.run(jobs, "together")
    wrong, false_passes = [], []
    for row, one, other in zip(rows, apart, together, strict=True):
        if one.status != row["expected"] and not (row["expected"] == "pass" == other.status):
            print(f"--- {row['name']}: expected {row['expected']}, split {one.status} ({one.why}), together {other.status}")
            wrong.append(row["name"])
        if one.passed and row["expected"] != "pass":
            false_passes.append(row["name"])
    return {"cases": len(rows), "right": len(rows) - len(wrong), "wrong": wrong, "false_passes_of_split": false_passes}


def tell(what: str, jobs: Sequence[Job]) -> None:
    for job in jobs:
        print(f"--- {what}: {job.entry_point}\n{job.program}")


if __name__ == "__main__":
    main()
