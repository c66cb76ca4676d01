"""Fair time: what counts, and what does not."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from lm_eval_ensemble.execution import Judge, clock
from lm_eval_ensemble.execution import judge as judge_all
from lm_eval_ensemble.execution.clock import FairClock
from tests.execution.helpers import LINUX, job

ME, NOBODY = os.getpid(), 4_194_305  # above the largest number Linux gives


def test_sleeping_counts() -> None:
    fair = FairClock(0.05, ME, ME, clock._queue_delays(ME)[ME])
    time.sleep(0.1)
    assert fair.is_over()


def test_waiting_for_a_processor_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_processor_time", lambda pid: 0.0)
    monkeypatch.setattr(clock, "_queue_delays", lambda pid: {pid: 2.0})
    fair = FairClock(0.02, 1, 2, before=1.0)
    time.sleep(0.05)
    assert not fair.is_over()
    assert fair._waited(0.05) == 3.0  # 2 of the guest, 2 of the examiner, which had 1 before


def test_the_delays_of_threads_that_have_ended_still_count(monkeypatch: pytest.MonkeyPatch) -> None:
    delays = {1: [{1: 0.5, 7: 2.0}, {1: 0.75}], 2: [{2: 0.0}, {2: 0.0}]}
    monkeypatch.setattr(clock, "_queue_delays", lambda pid: delays[pid].pop(0))
    fair = FairClock(1.0, 1, 2, before=0.0)
    assert fair._waited(1.0) == 2.5
    assert fair._waited(1.0) == 2.75


def test_ten_times_the_limit_is_the_end_whatever_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_processor_time", lambda pid: 0.0)
    monkeypatch.setattr(clock, "_queue_delays", lambda pid: {pid: 100.0})
    fair = FairClock(0.01, 1, 2, before=0.0)
    time.sleep(0.12)
    assert fair.is_over()


@pytest.mark.skipif(not LINUX, reason="reads the clock of another process")
def test_times_of_another_process_are_seen() -> None:
    assert clock._processor_time(ME) == pytest.approx(time.process_time(), abs=0.1)
    assert clock._processor_time(NOBODY) == 0.0
    assert len(clock._queue_delays(ME)) == len([*Path("/proc/self/task").iterdir()])
    assert clock._queue_delays(NOBODY) == {}
    descriptor = clock.open_delay(ME)
    assert descriptor is not None
    assert clock.read_delay(descriptor) == pytest.approx(clock._queue_delays(ME)[ME], abs=0.1)
    os.close(descriptor)
    assert clock.open_delay(NOBODY) is None
    assert clock.read_delay(None) == 0.0


def test_a_timeout_says_its_limit_and_that_it_was_confirmed() -> None:
    with Judge(1, 0.5, progress=False) as judge:
        start = time.monotonic()
        (verdict,) = judge.run([job("    import time; time.sleep(99)\n")])
    assert verdict.status == "timeout"
    assert verdict.why == "no verdict after 0.5 s, confirmed"
    assert time.monotonic() - start < 10


def test_a_timeout_is_forgiven_when_its_second_run_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval_ensemble.execution import Verdict, staff

    answers = iter([Verdict("timeout", "busy"), Verdict("pass")])
    monkeypatch.setattr(staff.Slot, "run", lambda self, job, mode: next(answers))
    with Judge(1, progress=False) as judge:
        assert judge.run([job("    return x + 1\n")]) == [Verdict("pass")]


def test_timeouts_are_confirmed_side_by_side() -> None:
    """Twelve sleepers of 0.5 s, four workers: three rounds, and three more."""
    start = time.monotonic()
    with Judge(4, 0.5, progress=False) as judge:
        found = judge.run([job(f"    import time; time.sleep(99)  # {n}\n") for n in range(12)])
    assert {v.status for v in found} == {"timeout"}
    assert time.monotonic() - start < 9  # one by one it would be 7.5 for the second run alone


@pytest.mark.parametrize(
    "test",
    [
        "def check(c):\n    try:\n        c(1)\n    except:\n        pass\n",
        "def check(c):\n    import contextlib\n    with contextlib.suppress(BaseException):\n        c(1)\n",
        "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\nsignal.setitimer(signal.ITIMER_REAL, 0)\nf(1)\n",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\nf(1)\n",
        "def check(c):\n    while True:\n        try:\n            c(1)\n        finally:\n            continue\n",
    ],
)
def test_no_test_swallows_the_end_of_its_time(test: str) -> None:
    (verdict,) = judge_all([job("    while True: pass\n", test=test)], timeout=0.3, progress=False)
    assert verdict.status == "timeout"
