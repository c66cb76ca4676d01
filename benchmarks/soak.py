"""A run that is killed again and again ends like one that never was.

    python benchmarks/soak.py                                                   # HumanEval-Infilling, 60 gaps, ten kills
    python benchmarks/soak.py --task infill_toy --limit 12 --kills 3 --no-distributed
    python benchmarks/soak.py --limit 40 --kills 0 --processes 2 3 --temperature 0      # processes only, greedy

The tiny pair samples at temperature 0.6 (or another; 0 is greedy). One run goes through; another is killed (SIGKILL) at random
moments, drawn from a fixed seed, and started again until it ends. Their samples files must be the same bytes. The same with
several processes (torch.distributed.run), whose samples, sorted by document, must tell the same as those of one process: texts,
winners, reasons, verdicts, and scores within 1e-4; with two or more, each must say how many they were. The last line is JSON;
the exit status is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOLERANCE = 1e-4
HARNESS = "lm_eval_ensemble.harness"


@dataclass(frozen=True)
class Work:
    """What every run does."""

    task: str
    limit: int
    temperature: float


def arguments_of_lm_eval(work: Work, folder: Path) -> list[str]:
    model = f"preset=tiny,pretrained=tiny,temperature={work.temperature:g},store={folder / 'store.sqlite'}"
    wanted = ["--model", "ensemble-ppl", "--model_args", model, "--batch_size", "4"]
    wanted += ["--tasks", work.task, "--limit", str(work.limit)]
    return [*wanted, "--confirm_run_unsafe_code", "--output_path", str(folder / "out"), "--log_samples", "--seed", "7"]


def start_forked(work: Work, folder: Path) -> int:
    """The run in a child of this process, which has imported everything already; its process id."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    with open(folder / "log", "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    status = 1
    try:
        import lm_eval.tasks
        from lm_eval.__main__ import cli_evaluate

        # An index of our tasks alone: that of all tasks of lm_eval takes longer than the run.
        lm_eval.tasks.TaskManager = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
        sys.argv = ["lm_eval", *arguments_of_lm_eval(work, folder)]
        cli_evaluate()
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def start_distributed(work: Work, processes: int, folder: Path) -> int:
    """The run in several processes; the id of their launcher."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*launcher, "-m", "lm_eval", *arguments_of_lm_eval(work, folder)]
    with open(folder / "log", "a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True).pid


def stored(folder: Path) -> int:
    """Number of candidates in the run's store."""
    path = folder / "store.sqlite"
    if not path.exists():
        return 0
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path, timeout=5)) as connection:
        return int(connection.execute("SELECT count(*) FROM candidates").fetchone()[0])
    return 0


def ended(pid: int) -> int | None:
    """The exit status of a child, or None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def finish(pid: int, folder: Path) -> Path:
    """Wait for the end of a run; its samples file."""
    _, status = os.waitpid(pid, 0)
    if status:
        raise SystemExit(f"a run failed:\n{(folder / 'log').read_text()[-3000:]}")
    return max((folder / "out").rglob("samples_*.jsonl"), key=lambda path: path.stat().st_mtime)


def kill_at_random(pid: int, folder: Path, most: int, draw: random.Random) -> int:
    """Kill a run, and all its processes, a random moment after a random number of new candidates; that number.

    :returns: candidates in the store when it died; -1 if it ended before.
    """
    goal, delay = stored(folder) + draw.randint(1, most), draw.uniform(0, 0.4)
    while stored(folder) < goal:
        if (status := ended(pid)) is not None:
            if status:
                raise SystemExit(f"a run failed:\n{(folder / 'log').read_text()[-3000:]}")
            return -1
        time.sleep(0.02)
    time.sleep(delay)
    if ended(pid) is not None:
        return -1
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return stored(folder)


def compare(start: Callable[[Path], int], place: Path, kills: int, total: int, draw: random.Random) -> dict[str, Any]:
    """One run through, one killed (none, if it is to be killed zero times); what was seen, and both samples files."""
    for name in ("through", "killed"):
        (place / name).mkdir(parents=True)
    begin = time.monotonic()
    through = finish(start(place / "through"), place / "through")
    seconds = time.monotonic() - begin
    deaths: list[int] = []
    for _ in range(kills):
        # A kill needs something left to generate: about as many new candidates each time.
        died = kill_at_random(start(place / "killed"), place / "killed", max(total // (kills + 1), 1), draw)
        if died < 0:
            break
        deaths.append(died)
    killed = finish(start(place / "killed"), place / "killed") if kills else through
    return {
        "seconds": round(seconds, 1),
        "deaths": deaths,
        "same_bytes": through.read_bytes() == killed.read_bytes(),
        "through": through,
        "killed": killed,
    }


def facts(path: Path) -> list[tuple[Any, list[float | None]]]:
    """What a samples file tells, sorted by document: everything but scores, and scores."""
    rows = sorted(map(json.loads, path.read_text(encoding="utf-8").splitlines()), key=lambda row: row["doc_id"])
    found = []
    for row in rows:
        entry = row["selection"]
        texts = [(c["member"], c["text"], c["raw"], c["verdict"]) for c in entry["candidates"]]
        scores = [value for c in entry["candidates"] for _, value in sorted(c["scores"].items())]
        found.append(((row["doc_id"], entry["winner_index"], entry["reason"], texts), scores))
    return found


def furthest(one: Path, other: Path) -> tuple[bool, float]:
    """Whether two files tell the same, and by how much their scores differ at most."""
    a, b = facts(one), facts(other)
    pairs = [(x, y) for (_, xs), (_, ys) in zip(a, b, strict=True) for x, y in zip(xs, ys, strict=True)]
    same = [row for row, _ in a] == [row for row, _ in b] and all((x is None) == (y is None) for x, y in pairs)
    return same, max((abs(x - y) for x, y in pairs if x is not None and y is not None), default=0.0)


def processes_of(samples: Path) -> int:
    """How many processes a run says it had."""
    results = samples.parent / f"results_{samples.stem.rpartition('_')[2]}.json"
    return int(json.loads(results.read_text(encoding="utf-8"))["config"]["processes"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="humaneval_infill")
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--processes", type=int, nargs="+", default=[2], help="numbers of processes, beside one")
    parser.add_argument("--no-distributed", dest="distributed", action="store_false")
    given = parser.parse_args()
    # Everything slow to import, so that the forks need not.
    for module in (
        "lm_eval.__main__",
        "lm_eval.tasks",
        "lm_eval_ensemble.harness.ensemble_lm",
        "lm_eval_ensemble.harness.task",
    ):
        importlib.import_module(module)
    importlib.import_module("transformers").Qwen2ForCausalLM  # noqa: B018

    draw, total = random.Random(given.seed), 2 * given.limit
    work = Work(given.task, given.limit, given.temperature)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        one = compare(functools.partial(start_forked, work), place / "one", given.kills, total, draw)
        figures: dict[str, Any] = {
            "task": given.task,
            "documents": given.limit,
            "temperature": given.temperature,
            "kills": len(one["deaths"]),
            "candidates_at_each_kill": one["deaths"],
            "same_bytes": one["same_bytes"],
            "seconds_uninterrupted": one["seconds"],
        }
        good = one["same_bytes"] and len(one["deaths"]) == given.kills
        for count in given.processes if given.distributed else ():
            kills = given.kills and max(given.kills // 5, 1)
            start = functools.partial(start_distributed, work, count)
            some = compare(start, place / str(count), kills, total, draw)
            same, distance = furthest(one["through"], some["killed"])
            were = processes_of(some["killed"])
            figures[f"{count}_processes"] = {
                "said": were,
                "kills": len(some["deaths"]),
                "same_bytes": some["same_bytes"],
                "tell_the_same": same,
                "largest_score_difference": distance,
            }
            good = good and some["same_bytes"] and len(some["deaths"]) == kills
            good = good and same and distance <= TOLERANCE and were == count
    print(json.dumps({**figures, "ok": good}))
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
