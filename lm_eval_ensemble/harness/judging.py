"""Executes the candidates of a task: settings from ``--metadata``, one judge per process."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.execution import Job, Judge, Verdict
from lm_eval_ensemble.execution.pool import JUDGES
from lm_eval_ensemble.execution.reference import judge_by_reference
from lm_eval_ensemble.types import Scored

__all__ = ["JudgeSettings", "check_judge", "judge_all", "judge_references"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class JudgeSettings:
    """``checker`` is ``split``, ``together`` or ``auto`` (ours, see docs/judge.md), or ``reference`` (OpenAI's package, for
    comparison)."""

    checker: str = "split"
    timeout: float = 3.0
    workers: int | None = None
    sandbox: str = "auto"
    command: tuple[str, ...] = ()

    @classmethod
    def from_metadata(cls, meta: Mapping[str, Any]) -> JudgeSettings:
        """:raises ConfigError: a setting out of range."""
        faults = []
        checker, sandbox = meta.get("judge", "split"), meta.get("sandbox", "auto")
        if checker not in (*JUDGES, "reference"):
            faults.append(f"judge={checker!r}: expected 'split', 'together', 'auto' or 'reference'")
        if sandbox not in ("strict", "auto", "off"):
            faults.append(f"sandbox={sandbox!r}: expected 'strict', 'auto' or 'off'")
        timeout, workers = meta.get("judge_timeout", 3.0), meta.get("judge_workers")
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
            faults.append(f"judge_timeout={timeout!r}: expected seconds above 0")
        if workers is not None and (type(workers) is not int or workers < 1):
            faults.append(f"judge_workers={workers!r}: expected a whole number of at least 1")
        command = _words(meta.get("sandbox_command") or ())
        if command is None:
            faults.append(f"sandbox_command={meta['sandbox_command']!r}: expected a command line, or a list of words")
        if faults:
            raise ConfigError("--metadata: " + "; ".join(faults))
        return cls(checker, float(timeout), workers, sandbox, command or ())


def _words(command: Any) -> tuple[str, ...] | None:
    """The words of a command; None if it is none."""
    try:
        words = shlex.split(command) if isinstance(command, str) else list(command)
    except (TypeError, ValueError):
        return None
    return tuple(words) if all(isinstance(word, str) for word in words) else None


def judge_all(
    candidates: Sequence[tuple[Mapping[str, Any], Scored]], settings: JudgeSettings, title: str
) -> tuple[list[Scored], str | None]:
    """The candidates with their verdicts, in order; those of documents without tests are returned as they are.

    :returns: also one line that says which sandbox ran them (None if nothing was run).
    """
    tested = [(doc, scored) for doc, scored in candidates if doc.get("test")]
    jobs = [_job(doc, scored.candidate.text) for doc, scored in tested]
    references = [_job(doc, doc["middle"]) for doc, _ in tested] if settings.checker == "auto" else []
    verdicts, sandbox = _judge(jobs, references, settings, title)
    found = iter(verdicts)
    return [_with(scored, next(found), settings) if doc.get("test") else scored for doc, scored in candidates], sandbox


def _job(doc: Mapping[str, Any], completion: str) -> Job:
    return Job(doc["prefix"], completion, doc["suffix"], doc["test"], doc["entry_point"])


def _with(scored: Scored, verdict: Verdict, settings: JudgeSettings) -> Scored:
    """The candidate with its verdict, labelled unless it is of the split judge, as in every shipped task."""
    label = {"judge": verdict.mode} if settings.checker in ("together", "auto") else {}
    return replace(scored, verdict=verdict.status, why=verdict.why, facts={**scored.facts, **label})


def judge_references(documents: Sequence[Mapping[str, Any]], settings: JudgeSettings) -> list[Verdict]:
    """The verdicts on the documents' own middles, in order, by the settings that their candidates will be judged by."""
    jobs = [_job(doc, doc["middle"]) for doc in documents]
    return _judge(jobs, jobs if settings.checker == "auto" else [], settings, None)[0]


def check_judge(settings: JudgeSettings) -> None:
    """Judge one program, so that a judge that cannot run is known before anything is generated.

    :raises SandboxError: it cannot run here.
    """
    test = "def check(candidate):\n    assert candidate(1) == 2\n"
    job = Job("def f(x):\n", "    return x + 1\n", "", test, "f")
    _judge([job], [job], replace(settings, workers=1), None)


def _judge(
    jobs: Sequence[Job], references: Sequence[Job], settings: JudgeSettings, title: str | None
) -> tuple[list[Verdict], str | None]:
    if not jobs:
        return [], None
    if settings.checker == "reference":
        return judge_by_reference(jobs, timeout=settings.timeout), "OpenAI's human_eval_infilling"
    with Judge(settings.workers, settings.timeout, settings.sandbox, settings.command) as judge:
        description = judge.describe(settings.checker)
        if title:
            logger.info("%s: %s", title, description)
        verdicts = judge.run_as(settings.checker, jobs, references)
        if title and (out := sum(verdict.mode == "unjudgeable" for verdict in verdicts)):
            logger.warning(
                "%s: %d completions are of documents whose own reference does not pass; they do not count.", title, out
            )
        return verdicts, description
