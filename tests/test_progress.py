from __future__ import annotations

import logging

import pytest

from lm_eval_ensemble.progress import ProgressBar


def test_without_a_terminal_a_line_for_every_tenth_or_half_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("lm_eval_ensemble.progress.time.monotonic", lambda: now[0])
    caplog.set_level(logging.INFO, "lm_eval_ensemble")
    with ProgressBar(100, "fim: generating") as bar:
        for seconds, rows in ((5, 20), (12, 5), (13, 1), (45, 1), (46, 30), (60, 0), (90, 43)):
            now[0] = float(seconds)
            bar.update(rows)
    assert [record.getMessage() for record in caplog.records] == [
        "fim: generating: 25 of 100 rows (25 %) in 12 s, about 36 s left.",  # at 5 s it was too early
        "fim: generating: 27 of 100 rows (27 %) in 45 s, about 2:02 min left.",  # half a minute without a tenth
        "fim: generating: 57 of 100 rows (57 %) in 1:00 min, about 45 s left.",  # at the end nothing more is said
    ]
    assert capsys.readouterr().err == ""


def test_a_hidden_one_and_one_of_unknown_length(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    monkeypatch.setattr("lm_eval_ensemble.progress.time.monotonic", lambda: now[0])
    caplog.set_level(logging.INFO, "lm_eval_ensemble")
    with ProgressBar(10, "x", shown=False) as hidden, ProgressBar(None, "judging", unit="samples") as bar:
        now[0] = 40.0
        hidden.update(5)
        bar.update(7)
    assert [record.getMessage() for record in caplog.records] == ["judging: 7 samples in 40 s."]
