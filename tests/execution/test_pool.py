"""The pool: order, memory, lost workers, and that nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lm_eval_ensemble.errors import ConfigError, SandboxError
from lm_eval_ensemble.execution import Job, Judge, Verdict, handle, judge, pool
from lm_eval_ensemble.execution.handle import worker_command
from lm_eval_ensemble.execution.wire import encoded
from tests.execution.helpers import job, leftovers, needs_layers, needs_proc, processes

RIGHT, WRONG = "    return x + 1\n", "    return x\n"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test sees its own pools only, and must leave nothing."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert leftovers(tmp_path) == []


def test_results_come_in_the_order_of_the_jobs() -> None:
    slow = "    import time; time.sleep(0.2)\n"
    bodies = [slow + RIGHT, WRONG, RIGHT, slow + WRONG, RIGHT + "# again\n"]
    found = judge([job(body) for body in bodies], workers=3, progress=False)
    assert [v.status for v in found] == ["pass", "fail", "pass", "fail", "pass"]


def test_jobs_may_be_a_generator_and_may_be_none() -> None:
    assert [v.status for v in judge((job(b) for b in (RIGHT, WRONG)), progress=False)] == ["pass", "fail"]
    assert judge([], progress=False) == []


def test_equal_jobs_are_judged_once() -> None:
    # The program is right or wrong by chance: equal verdicts can only be one verdict.
    body = "    import time; return x + 1 if time.time_ns() // 1000 % 2 else x\n"
    with Judge(2, progress=False) as room:
        first = room.run([job(body)] * 20)
        again = room.run([job(body)] * 5)
    assert len({id(v) for v in first + again}) == 1


def test_a_failure_says_why() -> None:
    bodies = {WRONG: "AssertionError", "    return 1 / 0\n": "ZeroDivisionError", "    (\n": "SyntaxError"}
    for verdict, reason in zip(judge([job(b) for b in bodies], progress=False), bodies.values(), strict=True):
        assert reason in verdict.why


def test_a_lost_worker_is_replaced_and_its_job_retried() -> None:
    with Judge(1, progress=False) as room:
        assert room.run([job(RIGHT)])[0].passed
        os.kill(room._slot(0).start().pid, signal.SIGKILL)
        assert room.run([job(RIGHT + "# 2\n")])[0].passed
        assert room.lost == 0


def test_a_job_lost_twice_is_a_failure_of_the_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    with Judge(1, progress=False) as room:
        run = handle.Worker.run

        def killed(self: handle.Worker, frame: bytes, wall: float) -> dict[str, object]:
            os.kill(self.pid, signal.SIGKILL)
            return run(self, frame, wall)

        monkeypatch.setattr(handle.Worker, "run", killed)
        (verdict,) = room.run([job(RIGHT)])
        assert verdict == Verdict("fail", "worker lost")
        assert not verdict.judged
        assert room.lost == 1


def test_fifteen_kills_at_the_start_lose_nothing() -> None:
    """Workers, examiners, zygotes and guests, whoever is met, while the workers are still starting too."""
    chance = random.Random(15)
    mixed = _mixed(500, chance)
    with Judge(2, 1.0, progress=False) as room:
        stop, killed = threading.Event(), list[int]()
        killer = threading.Thread(target=_kill_anyone, args=(room, chance, killed, stop), daemon=True)
        killer.start()
        try:
            found = room.run([j for j, _ in mixed])
        finally:
            stop.set()
            killer.join()
        assert [v.status for v in found] == [status for _, status in mixed]
        assert len(killed) == 15
        assert room.lost == 0


def _kill_anyone(room: Judge, chance: random.Random, killed: list[int], stop: threading.Event) -> None:
    while not stop.is_set() and len(killed) < 15:
        time.sleep(chance.uniform(0.02, 0.15))
        family = [worker.pid for worker in list(room.staff._workers)]
        for pid in list(family):
            for child in _children(pid):
                family += [child, *_children(child)]
        if family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid := chance.choice(family), signal.SIGKILL)
                killed.append(pid)


def test_time_outs_are_confirmed_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, twenty endless loops took minutes."""
    run, spans = handle.Worker.run, list[tuple[float, float]]()

    def noted(self: handle.Worker, frame: bytes, wall: float) -> dict[str, object]:
        begin = time.monotonic()
        reply = run(self, frame, wall)
        spans.append((begin, time.monotonic()))
        return reply

    monkeypatch.setattr(handle.Worker, "run", noted)
    found = judge([job(f"    import time; time.sleep(60 + {n})\n") for n in range(3)], workers=3, timeout=0.2, progress=False)
    assert [v.why for v in found] == ["no verdict after 0.2 s, confirmed"] * 3
    second = sorted(spans)[3:]
    assert len(second) == 3
    assert max(begin for begin, _ in second) < min(end for _, end in second)


@needs_proc
@pytest.mark.parametrize("who", ["guest", "examiner"])
def test_a_process_killed_from_outside_costs_no_verdict(who: str) -> None:
    """As the kernel does when memory runs out: not the program's fault."""
    with Judge(1, progress=False) as room:
        worker = room._slot(0).start().pid
        killer = threading.Thread(target=_kill_members, args=(worker, who, 1))
        killer.start()
        (verdict,) = room.run([job("    import time; time.sleep(0.5)\n" + RIGHT)])
        killer.join()
        assert verdict.passed
        killer = threading.Thread(target=_kill_members, args=(worker, who, 2))
        killer.start()
        (verdict,) = room.run([job("    import time; time.sleep(0.6)\n" + RIGHT)])
        killer.join()
        assert verdict == Verdict("fail", "worker lost")


def _kill_members(worker: int, who: str, number: int) -> None:
    """Kill guests at work (the first grandchild of a worker), or examiners (children that have none)."""
    killed: set[int] = set()
    deadline = time.monotonic() + 10
    while len(killed) < number and time.monotonic() < deadline:
        time.sleep(0.02)
        families = {child: _children(child) for child in _children(worker)}
        guests = {own[0] for own in families.values() if own}
        found = guests if who == "guest" else {child for child, own in families.items() if not own} if guests else set()
        for pid in found - killed:
            time.sleep(0.1)
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)


@needs_proc
def test_a_guest_that_is_killed_while_it_waits_costs_no_job_a_run() -> None:
    with Judge(1, progress=False) as room:
        assert room.run([job(RIGHT)])[0].passed
        waiting, deadline = list[int](), time.monotonic() + 10
        while len(waiting) != 1 and time.monotonic() < deadline:  # the last one is not gone at once
            time.sleep(0.01)
            waiting = [guest for child in _children(room._slot(0).start().pid) for guest in _children(child)]
        (guest,) = waiting
        os.kill(guest, signal.SIGKILL)
        time.sleep(0.1)
        assert room._slot(0).run(encoded(job(RIGHT).message()), "split").passed


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def test_a_worker_that_hangs_is_replaced() -> None:
    with Judge(1, 0.05, progress=False) as room:
        room._slot(0)._wall = 0.5
        os.kill(room._slot(0).start().pid, signal.SIGSTOP)
        (verdict,) = room.run([job(RIGHT)])
    assert verdict.passed


@needs_proc
def test_a_dead_zygote_takes_its_worker_along_and_the_job_is_retried() -> None:
    with Judge(1, progress=False) as room:
        for zygote in _children(room._slot(0).start().pid):
            os.kill(zygote, signal.SIGKILL)
        assert room.run([job(RIGHT)])[0].passed


def test_a_guest_that_removes_its_folder_harms_nobody() -> None:
    remove = RIGHT + "\nimport os\ntry:\n    os.rmdir(os.getcwd())\nexcept OSError:\n    pass\n"
    use = "    open('note', 'w').close()\n"
    with Judge(1, sandbox="off", progress=False) as room:
        found = room.run([job(remove), job(use + RIGHT), job(remove + "# 2\n"), job(use + RIGHT + "# 2\n")])
        assert [v.status for v in found] == ["pass"] * 4
        assert room.lost == 0


def test_an_exception_in_the_jobs_closes_everything() -> None:
    def jobs() -> Iterator[Job]:
        yield job(RIGHT)
        raise RuntimeError("no more")

    room = Judge(2, progress=False)
    with pytest.raises(RuntimeError, match="no more"):
        room.run(jobs())
    with pytest.raises(SandboxError, match="closed"):
        room.run([])


def test_closing_twice_is_fine_and_forgetting_to_close_too() -> None:
    room = Judge(1, progress=False)
    room.close()
    room.close()
    forgotten = Judge(1, progress=False)
    forgotten.run([job(RIGHT)])
    del forgotten


_SCRIPT = """
import sys, tempfile
from lm_eval_ensemble.execution import Job, Judge
tempfile.tempdir = sys.argv[1]
with Judge(2, 60.0) as room:
    print("ready", flush=True)
    room.run([Job("def f(x):\\n", f"    while True: pass # {i}\\n", "", "def check(c): c(1)", "f") for i in range(9)])
"""


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_the_harness_is_the_end_of_everything(number: int, tmp_path: Path) -> None:
    harness = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        # A test run in the background of a shell ignores SIGINT, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with harness:
        assert harness.stdout is not None
        assert harness.stdout.readline() == b"ready\n"
        time.sleep(1.0)
        found = len(processes(tmp_path))
        harness.send_signal(number)
        assert harness.wait(timeout=20) != 0
    assert found == 10  # two workers, each with zygote, guest, examiner and the guest of the next job
    assert leftovers(tmp_path, seconds=10) == []


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not tell")
def test_a_worker_stays_on_one_processor_where_each_has_one() -> None:
    usable = os.sched_getaffinity(0)
    with Judge(len(usable), progress=False) as room:
        assert {*map(frozenset, _places(room))} == {frozenset({core}) for core in usable}
    if len(usable) > 1:
        with Judge(1, progress=False) as room:
            assert _places(room) == [usable]


def _places(room: Judge) -> list[set[int]]:
    return [os.sched_getaffinity(room._slot(number).start().pid) for number in range(room.workers)]


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'strict'"):
        Judge(sandbox="stric")
    with pytest.raises(ConfigError, match="expected 0 < timeout"):
        Judge(timeout=0)
    with pytest.raises(ConfigError, match="workers >= 1"):
        Judge(workers=0)


def test_workers_are_shared_among_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert pool.usable_workers() == 16
    monkeypatch.setenv("WORLD_SIZE", "64")
    assert pool.usable_workers() == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert pool.usable_workers() == 4


def test_windows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SandboxError, match="does not run on Windows"):
        Judge(progress=False)


def test_a_prefix_may_bring_its_own_interpreter() -> None:
    assert worker_command([], "/f")[0] == sys.executable
    assert worker_command(["bwrap", "--die-with-parent"], "/f")[:3] == ["bwrap", "--die-with-parent", sys.executable]
    command = worker_command(["docker", "run", "-i", "python:3.11", "python"], "/f")
    assert command[4:8] == ["python", "-I", "-B", "-c"]


def test_a_prefix_that_fails_is_quoted() -> None:
    with pytest.raises(SandboxError, match="no such thing here"):
        Judge(1, sandbox_command=["sh", "-c", "echo no such thing here >&2; exit 1"], progress=False)
    with pytest.raises(SandboxError, match="does-not-exist"):
        Judge(1, sandbox_command="does-not-exist", progress=False)


def test_secrets_of_the_harness_do_not_reach_a_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    body = "    import os; return sorted(os.environ)\n"
    test = "def check(c):\n    assert not {'HF_TOKEN', 'PYTHONPATH'} & set(c(1)), c(1)\n"
    assert judge([job(body, test=test)], progress=False)[0].passed


# The interpreter may itself lie under /tmp, so it is bound once more on top.
_BWRAP = [
    *("bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/"),
    *("--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"),
    *("--ro-bind", sys.prefix, sys.prefix),
]


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_workers_run_under_bubblewrap() -> None:
    if subprocess.run([*_BWRAP, "true"], capture_output=True, check=False).returncode:
        pytest.skip("bubblewrap may not make namespaces here")
    with Judge(2, 1.0, sandbox_command=_BWRAP, progress=False) as room:
        assert "under bwrap" in room.description
        found = room.run([job(RIGHT), job(WRONG), job("    while True: pass\n"), job("    import os; os._exit(0)\n")])
    assert [v.status for v in found] == ["pass", "fail", "timeout", "fail"]


def _mixed(count: int, chance: random.Random) -> list[tuple[Job, str]]:
    kinds = [
        (RIGHT, "pass", 50),
        (WRONG, "fail", 20),
        ("    raise ValueError\n", "fail", 8),
        ("    return (\n", "fail", 8),
        ("    import os; os._exit(0)\n", "fail", 5),
        ("    open('left', 'w').write('x')\n" + RIGHT, "pass", 5),
        ("    import threading; threading.Thread(target=print).start()\n" + RIGHT, "pass", 4),
    ]
    drawn = chance.choices(kinds, [weight for _, _, weight in kinds], k=count)
    mixed = [(job(f"{body}# {number}\n"), status) for number, (body, status, _) in enumerate(drawn)]
    for number in chance.sample(range(count), 4):
        mixed[number] = (job(f"    while True: pass # {number}\n"), "timeout")
    return mixed


def _kill_workers(room: Judge, chance: random.Random, killed: list[int], stop: threading.Event, busy: set[int]) -> None:
    """Kill 40 workers, each at a random moment of its life.

    Not before its first verdict, though: that may be of a job which was lost with another worker, and a job lost
    twice is a failure, and rightly so.
    """
    while not stop.is_set() and len(killed) < 40:
        time.sleep(chance.uniform(0.02, 0.15))
        ripe = [worker.pid for worker in list(room.staff._workers) if worker.pid in busy]
        if ripe:
            killed.append(pid := chance.choice(ripe))
            os.killpg(pid, signal.SIGKILL)


def test_1000_jobs_again_and_again_while_40_workers_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(20261121)
    mixed = _mixed(1000, chance)
    killed: list[int] = []
    stop, busy = threading.Event(), set[int]()
    run = handle.Worker.run

    def noted(self: handle.Worker, frame: bytes, wall: float) -> dict[str, object]:
        reply = run(self, frame, wall)
        busy.add(self.pid)
        return reply

    monkeypatch.setattr(handle.Worker, "run", noted)
    with Judge(4, 0.4, progress=False) as room:
        killer = threading.Thread(target=_kill_workers, args=(room, chance, killed, stop, busy), daemon=True)
        killer.start()
        try:
            for number in range(20):  # the same jobs as new ones, until 40 workers have died
                jobs = [Job(f"#{number}\n" + j.prompt, j.completion, j.suffix, j.test, j.entry_point) for j, _ in mixed]
                found = room.run(jobs)
                wrong = [(v, status) for v, (_, status) in zip(found, mixed, strict=True) if v.status != status]
                assert wrong == []
                if len(killed) >= 40:
                    break
        finally:
            stop.set()
            killer.join()
    assert len(killed) == 40
    assert room.lost == 0


def test_a_value_that_hangs_the_judge_is_a_timeout_of_seconds() -> None:
    test = "def check(candidate):\n    assert round(candidate(3)) == 6\n"
    body = "    from decimal import Decimal\n    return Decimal('1e999999999')\n"
    begin = time.monotonic()
    hung, after = judge([job(body, test=test), job(RIGHT)], workers=1, timeout=0.5, progress=False)
    assert (hung.status, after.status) == ("timeout", "pass")
    assert time.monotonic() - begin < 20


def test_no_verdict_depends_on_the_job_before_it() -> None:
    spoil = (
        "def check(c):\n    import builtins, math\n    c(1)\n"
        "    builtins.abs = lambda x: 0\n    math.pi = 3\n    builtins.extra = 1\n"
    )
    near = (
        "def check(c):\n    import builtins, math\n"
        "    assert abs(c(3) - 6) < 1e-6 and math.pi > 3.1 and not hasattr(builtins, 'extra')\n"
    )
    jobs = [job(RIGHT, test=spoil), job("    return 99\n", test=near), job("    return 2 * x\n", test=near)]
    found = judge(jobs, workers=1, progress=False)
    assert [v.status for v in found] == ["pass", "fail", "pass"]


def test_a_value_in_a_failing_message_cannot_harm_the_judge() -> None:
    test = "def check(candidate):\n    got = candidate(3)\n    assert got == 6, got\n"
    body = "    class Sly:\n        def __str__(self):\n            raise ValueError\n    return Sly()\n"
    (verdict,) = judge([job(body, test=test)], workers=1, progress=False)
    assert (verdict.status, verdict.why) == ("fail", "AssertionError")


@needs_layers
@pytest.mark.parametrize(
    "act",
    [
        "import socket; a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); a.sendto(b'x', '/tmp/any')",
        "import os; os.sched_setaffinity(os.getppid(), {0})",
        "import os; os.sched_getaffinity(os.getppid())",
        "import os; os.utime('/etc/hostname', (1, 1))",
    ],
)
def test_other_processes_and_sockets_are_out_of_reach(act: str) -> None:
    body = f"    try:\n        {act}\n    except PermissionError:\n        return 'refused'\n    return 'done'\n"
    (verdict,) = judge([job(body, test="def check(c):\n    assert c(1) == 'refused', str(c(1))\n")], progress=False)
    assert verdict.passed, verdict.why


@needs_layers
def test_plain_socket_pairs_and_asyncio_work() -> None:
    body = (
        "    import asyncio, socket\n    a, b = socket.socketpair()\n    a.sendall(b'hi')\n"
        "    async def main():\n        await asyncio.sleep(0)\n        return b.recv(2).decode()\n"
        "    return asyncio.run(main())\n"
    )
    (verdict,) = judge([job(body, test="def check(c):\n    assert c(1) == 'hi'\n")], progress=False)
    assert verdict.passed, verdict.why


def test_an_interrupt_is_told_as_such() -> None:
    room = Judge(2, progress=False)

    def jobs() -> Iterator[Job]:
        yield from (job(f"    return x + {n}\n") for n in range(20))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        room.run(jobs())
