"""Kinds of failures; the reasons are those the judge really gives."""

from __future__ import annotations

import pytest

from lm_eval_ensemble.execution import Job, Judge
from lm_eval_ensemble.report.failures import category, failures
from lm_eval_ensemble.types import Candidate, Scored
from tests.report.helpers import chosen

TEST = "def check(candidate):\n    assert candidate(1) == 2\n"
BODIES = {
    "    return x + 1\n": None,
    "    return x +\n": "syntax",
    "  return x\n   return x\n": "syntax",
    "    return y\n": "name",
    "    return x\n": "assertion",
    "    return x + 'a'\n": "other",
    "    assert False\n": "other",
}


def test_the_reasons_of_the_judge_have_a_kind() -> None:
    with Judge(1, 3.0) as judge:
        verdicts = judge.run([Job("def f(x):\n", body, "", TEST, "f") for body in BODIES])
    assert [category(v.status, v.why) for v in verdicts] == list(BODIES.values())


def test_timeouts_have_a_kind_of_their_own() -> None:
    assert category("timeout", "no verdict after 3 s, confirmed") == "timeout"


@pytest.mark.parametrize(("verdict", "why"), [("pass", ""), (None, "")])
def test_what_did_not_fail_has_none(verdict: str | None, why: str) -> None:
    assert category(verdict, why) is None


def test_counts() -> None:
    def option(member: str, verdict: str | None, why: str = "") -> tuple[Scored, bool]:
        return Scored(Candidate(member, "x", "x"), {}, verdict, why), verdict == "pass"

    bad = option("b", "fail", "the program raised TypeError")
    data = [
        chosen([option("a", "pass"), bad], 0),
        chosen([option("a", "timeout", "late"), bad], 1),
    ]
    found = failures(data, ["a", "b"])
    assert found is not None
    assert found["counts"]["a"] == {"pass": 1, "syntax": 0, "name": 0, "assertion": 0, "timeout": 1, "other": 0}
    assert (found["counts"]["chosen"]["other"], found["other"]) == (1, {"TypeError": 2})
    assert failures([chosen([option("a", None)], 0, "single", "none")], ["a"]) is None
