"""What the judge costs, against the two designs it replaces, on canonical single-line answers.

    LM_EVAL_ENSEMBLE_DATA=... python benchmarks/judge.py [--samples 1033] [--workers N] [--load N]

Processor time is that of this process and of every descendant, taken from getrusage after all of them have been
reaped (each runner is a process of its own, a subreaper, so that nothing escapes the count). Samples are made
distinct by a comment, so that no runner gains from remembering. With ``--load`` that many busy loops run beside them, each
in a session of its own, as other people's work would. The last line is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lm_eval_ensemble.data import load_documents
from lm_eval_ensemble.execution import Job, Judge

TIMEOUT = 3.0


def split_judge(jobs: Sequence[Job], workers: int) -> tuple[int, str]:
    """Ours, start of the workers included."""
    with Judge(workers, TIMEOUT, progress=False) as judge:
        return sum(verdict.passed for verdict in judge.run(jobs)), judge.description


def rlimits_only(jobs: Sequence[Job], workers: int) -> tuple[int, str]:
    with Judge(workers, TIMEOUT, "off", progress=False) as judge:
        return sum(verdict.passed for verdict in judge.run(jobs)), judge.description


def reference_design(jobs: Sequence[Job], workers: int) -> tuple[int, str]:
    """As openai/human-eval-infilling: per sample a Manager with a list, and a Process; threads drive them."""
    with ThreadPoolExecutor(workers) as threads:
        return sum(threads.map(_check_like_the_reference, jobs)), "a Manager and a Process per sample, the reference's guard"


def _check_like_the_reference(job: Job) -> bool:
    context = multiprocessing.get_context("fork")
    manager = context.Manager()
    result = manager.list()
    process = context.Process(target=_unsafe_execute, args=(job, result))
    process.start()
    process.join(timeout=TIMEOUT + 1)
    if process.is_alive():
        process.kill()
    passed = len(result) > 0 and result[0] == "passed"
    manager.shutdown()  # the reference leaks it; then its processor time could not be counted
    return passed


def _unsafe_execute(job: Job, result: Any) -> None:
    """The reference's child: a scratch folder, its guard, swallowed output, an alarm, everything in one exec."""
    import io
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        rmtree, rmdir, chdir, home = shutil.rmtree, os.rmdir, os.chdir, Path.cwd()
        os.chdir(folder)
        _guard()
        try:
            signal.signal(signal.SIGALRM, _time_is_up)
            signal.setitimer(signal.ITIMER_REAL, TIMEOUT)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                exec(f"{job.program}{job.test}\ncheck({job.entry_point})", {})
            result.append("passed")
        except BaseException as error:
            result.append(f"failed: {error}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            shutil.rmtree, os.rmdir, os.chdir = rmtree, rmdir, chdir
            os.chdir(home)


def _time_is_up(*_: object) -> None:
    raise TimeoutError


def _guard() -> None:
    """The reference's reliability_guard, without its memory limit (it sets none by default)."""
    import builtins
    import faulthandler
    import shutil

    faulthandler.disable()
    builtins.exit = builtins.quit = None  # type: ignore[assignment]
    os.environ["OMP_NUM_THREADS"] = "1"
    names = "kill system putenv remove removedirs rmdir fchdir setuid fork forkpty killpg rename renames truncate replace "
    names += "unlink fchmod fchown chmod chown chroot lchown getcwd chdir"
    for name in names.split():
        setattr(os, name, None)
    shutil.rmtree = shutil.move = shutil.chown = None  # type: ignore[assignment]
    subprocess.Popen = None  # type: ignore[assignment,misc]
    for module in ("ipdb", "joblib", "resource", "psutil", "tkinter"):
        sys.modules[module] = None  # type: ignore[assignment]


def programs_alone(jobs: Sequence[Job], workers: int) -> tuple[int, str]:
    """What the programs and their tests cost by themselves: one process after the other, no process per sample. No judge can
    be below it (the canonical answers are ours to trust).
    """
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        return sum(pool.map(_run_alone, jobs, chunksize=20)), "program and test in one exec, nothing around them"


def _run_alone(job: Job) -> bool:
    exec(f"{job.program}{job.test}\ncheck({job.entry_point})", {})
    return True


def interpreter_per_sample(jobs: Sequence[Job], workers: int) -> tuple[int, str]:
    """``python -I -c program``: its exit status is the verdict."""
    with ThreadPoolExecutor(workers) as threads:
        return sum(threads.map(_run_interpreter, jobs)), "python -I -c per sample"


def _run_interpreter(job: Job) -> bool:
    program = f"{job.program}{job.test}\ncheck({job.entry_point})"
    command = [sys.executable, "-I", "-c", program]
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, check=False)
        return done.returncode == 0
    return False


RUNNERS: dict[str, Callable[[Sequence[Job], int], tuple[int, str]]] = {
    "split judge": split_judge,
    "split judge, rlimits only": rlimits_only,
    "(a) reference design": reference_design,
    "(b) python -I -c": interpreter_per_sample,
    "(c) the programs alone": programs_alone,
}


def measure(name: str, samples: int, workers: int) -> dict[str, Any]:
    """Run one runner in this process and count its time; for a process of its own."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans come back to be counted
    jobs = canonical_jobs(samples)
    before, start = _processor_time(), time.monotonic()
    passed, description = RUNNERS[name](jobs, workers)
    wall = time.monotonic() - start
    with contextlib.suppress(ChildProcessError):
        while True:  # every descendant has ended, or it would not be counted
            os.wait()
    cpu = _processor_time() - before
    return {
        "runner": name,
        "samples": len(jobs),
        "passed": passed,
        "cpu_ms": round(1000 * cpu / len(jobs), 2),
        "per_second": round(len(jobs) / wall, 1),
        "description": description,
    }


def seconds_for_loops(count: int, workers: int) -> float:
    """Wall time for programs that never end; each is run once more before it is called a timeout."""
    document = load_documents("single-line")[0]
    jobs = [
        Job(document["prefix"], "    while True: pass\n", f"\n# sample {number}", document["test"], document["entry_point"])
        for number in range(count)
    ]
    with Judge(workers, TIMEOUT, progress=False) as judge:
        start = time.monotonic()
        assert all(verdict.status == "timeout" for verdict in judge.run(jobs))
        return round(time.monotonic() - start, 1)


def canonical_jobs(samples: int) -> list[Job]:
    documents = load_documents("single-line")
    chosen = [documents[number * len(documents) // samples] for number in range(samples)]
    return [
        Job(d["prefix"], d["middle"], f"{d['suffix']}\n# sample {number}", d["test"], d["entry_point"])
        for number, d in enumerate(chosen)
    ]


@contextlib.contextmanager
def busy(loops: int) -> Iterator[None]:
    """That many programs that never rest, for as long as this lasts."""
    command = [sys.executable, "-I", "-S", "-c", "while True: pass"]
    running = [subprocess.Popen(command, start_new_session=True) for _ in range(loops)]
    try:
        yield
    finally:
        for loop in running:
            loop.kill()
            loop.wait()


def _processor_time() -> float:
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--samples", type=int, default=1033)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--loops", type=int, default=20, help="programs that never end (default: %(default)s)")
    parser.add_argument("--load", type=int, default=0, help="busy loops that run beside (default: none)")
    parser.add_argument("--runner", choices=RUNNERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.runner:
        print(json.dumps(measure(arguments.runner, arguments.samples, arguments.workers)))
        return
    with busy(arguments.load):
        report(arguments.samples, arguments.workers, arguments.loops, arguments.load)


def report(samples: int, workers: int, loops: int, load: int) -> None:
    rows = []
    print(f"{'runner':28}{'CPU ms':>8}{'samples/s':>11}{'passed':>12}")
    for name in RUNNERS:
        command = [sys.executable, __file__, "--runner", name, "--samples", str(samples), "--workers", str(workers)]
        rows.append(row := json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
        passed = f"{row['passed']}/{row['samples']}"
        print(f"{name:28}{row['cpu_ms']:>8}{row['per_second']:>11}{passed:>12}   {row['description']}", flush=True)
    ours, reference = rows[0], next(row for row in rows if row["runner"].startswith("(a)"))
    figures: dict[str, Any] = {"workers": workers, "busy_loops": load, "load": os.getloadavg()[0]}
    figures["times_reference"] = round(ours["per_second"] / reference["per_second"], 2)
    if loops:
        figures["loops_s"] = seconds_for_loops(loops, workers)
        print(f"{loops} programs that never end, {TIMEOUT:.0f} s each: {figures['loops_s']} s")
    print(json.dumps({**figures, "rows": rows}))


if __name__ == "__main__":
    main()
