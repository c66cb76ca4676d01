"""Fair time: what counts, and what does not."""

from __future__ import annotations

import contextlib
import os
import time

import pytest

from lm_eval_ensemble.execution import Judge, clock
from lm_eval_ensemble.execution.clock import Alarm, FairClock, TimeUp
from tests.execution.helpers import LINUX, job


def test_sleeping_counts() -> None:
    fair = FairClock(0.05)
    assert not fair.is_over()
    time.sleep(0.1)
    assert fair.is_over()


def test_waiting_for_a_processor_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = iter([0.0, 10.0])
    monkeypatch.setattr(clock, "_queue_delay", lambda pid: next(waited, 10.0))
    fair = FairClock(0.02)
    time.sleep(0.05)
    assert not fair.is_over()


def test_ten_times_the_limit_is_the_end_whatever_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    delays = iter([0.0])
    monkeypatch.setattr(clock, "_queue_delay", lambda pid: next(delays, 10.0))
    fair = FairClock(0.01)
    time.sleep(0.12)
    assert fair.is_over()


@pytest.mark.skipif(not LINUX, reason="reads the clock of another process")
def test_processor_time_of_another_process_is_seen() -> None:
    assert clock._processor_time(os.getpid()) == pytest.approx(time.process_time(), abs=0.1)
    assert clock._processor_time(0) == 0.0
    assert clock._queue_delay(os.getpid()) is not None
    assert clock._queue_delay(1 << 30) is None


def test_the_alarm_rings_inside_a_loop_that_swallows_exceptions() -> None:
    def loop() -> None:
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.01)

    with pytest.raises(TimeUp), Alarm(FairClock(0.1)):
        loop()


def test_a_timeout_says_its_limit_and_that_it_was_confirmed() -> None:
    with Judge(1, 0.5, progress=False) as judge:
        start = time.monotonic()
        (verdict,) = judge.run([job("    import time; time.sleep(99)\n")])
    assert verdict.status == "timeout"
    assert verdict.why == "no verdict after 0.5 s, confirmed alone"
    assert time.monotonic() - start < 10


def test_a_passing_timeout_is_forgiven_when_it_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval_ensemble.execution import Verdict, pool

    answers = iter([Verdict("timeout", "busy"), Verdict("pass")])
    monkeypatch.setattr(pool._Slot, "run", lambda self, job: next(answers))
    with Judge(1, progress=False) as judge:
        assert judge.run([job("    return x + 1\n")]) == [Verdict("pass")]
