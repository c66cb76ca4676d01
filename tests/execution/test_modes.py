"""``auto``: each document as its own reference needs it; and what a label says."""

from __future__ import annotations

import pytest

from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.execution import Job, Judge, Verdict, judge, suite
from lm_eval_ensemble.types import CANNOT_JUDGE, is_of_the_judge
from tests.execution.helpers import job

RIGHT, WRONG, LIAR = (
    "    return x + 1\n",
    "    return x + 2\n",
    "    class L:\n        __eq__ = lambda *_: True\n    return L()\n",
)
PLAIN = "def check(c):\n    assert c(1) == 2\n"
CALLBACK = "def check(c):\n    assert list(map(lambda v: c(v), [1])) == [2] and c(lambda: 1) == 2\n"
BROKEN = "def check(c):\n    assert c(1) == 2\n    assert c(1) == 3\n"
CALLS = "    return (x() if callable(x) else x) + 1\n"


def test_each_document_is_judged_as_its_reference_needs_it() -> None:
    documents = [(PLAIN, RIGHT), (CALLBACK, CALLS), (BROKEN, RIGHT)]
    answers = [RIGHT, WRONG, LIAR]
    jobs = [
        job(answer if test != CALLBACK or answer != RIGHT else CALLS, test=test) for test, _ in documents for answer in answers
    ]
    references = [job(right, test=test) for test, right in documents for _ in answers]
    with Judge(2, progress=False) as room:
        found = room.run_as("auto", jobs, references)
    assert [(v.status, v.mode) for v in found] == [
        *(("pass", "split"), ("fail", "split"), ("fail", "split")),
        *(("pass", "together"), ("fail", "together"), ("pass", "together")),  # forged, as the label warns
        *[("fail", "unjudgeable")] * 3,
    ]
    assert {v.why for v in found[6:]} == {
        "cannot judge: the reference itself fails its tests (split: AssertionError; together: AssertionError in the test)"
    }
    assert [v.judged for v in found] == [True] * 6 + [False] * 3


def test_a_reference_that_times_out_makes_its_document_unjudgeable() -> None:
    slow = job("    while True: pass\n")
    with Judge(2, 0.3, progress=False) as room:
        (verdict,) = room.run_as("auto", [job(RIGHT)], [slow])
    assert verdict.mode == "unjudgeable"
    assert "no verdict after 0.3 s" in verdict.why


def test_the_modes_are_not_mixed_up_by_the_memory_of_the_judge() -> None:
    with Judge(1, progress=False) as room:
        assert room.run([job(LIAR, test=PLAIN)])[0].status == "fail"
        assert room.run([job(LIAR, test=PLAIN)], "together") == [Verdict("pass", "", "together")]
        assert room.run([job(LIAR, test=PLAIN)])[0].status == "fail"
        assert "can forge" in room.describe("together")
        assert "can forge" in room.describe("auto")


def test_jobs_that_differ_in_surrogates_only_are_two_jobs() -> None:
    test = "def check(c):\n    assert len(c(0)) == 2\n"
    with Judge(1, progress=False) as room:
        found = room.run([job("    return '\U0001f600'\n", test=test), job("    return '\ud83d\ude00'\n", test=test)])
    assert [v.why for v in found] == ["AssertionError", "the program raised UnicodeEncodeError"]


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown mode 'both'"):
        judge([job(RIGHT)], mode="both", progress=False)  # type: ignore[arg-type]
    with Judge(1, progress=False) as room, pytest.raises(ConfigError, match="Did you mean 'auto'"):
        room.run_as("autp", [], [])


def test_the_word_is_one_on_both_sides() -> None:
    assert suite.CANNOT == CANNOT_JUDGE
    assert is_of_the_judge(f"{suite.CANNOT}it")
    assert not is_of_the_judge("AssertionError")


@pytest.mark.parametrize(
    ("prompt", "entry", "head"),
    [
        ("import math\n\n\ndef f(x):\n", "f", "import math\n\n\n"),
        ("import a\n\n\n@a.b(\n    1,\n)\n@c\ndef f(x):\n", "f", "import a\n\n\n"),
        ("@a\ndef g(x):\n    pass\n\n\ndef f(x):\n", "f", "@a\ndef g(x):\n    pass\n\n\n"),
        ('"""\ndef f(x):\n"""\nimport a\ndef f(x):\n', "f", '"""\ndef f(x):\n"""\nimport a\n'),
        ("@overload\ndef f(x): ...\ndef f(x):\n", "f", ""),
        ("import a\n", "f", "import a\n"),
        ("import a\nclass S:\n    def f(self):\n        return ", "S().f", "import a\n"),
        ("import a\nx = (1,\n", "f", "import a\n"),
        ("async def f(x):\n", "f", ""),
        ("def f2(x):\n    pass\ndef f(x):\n", "f", "def f2(x):\n    pass\n"),
    ],
)
def test_the_head_of_a_prompt(prompt: str, entry: str, head: str) -> None:
    assert Job(prompt, "", "", "", entry).head == head


def test_an_empty_entry_point_is_the_last_function_of_the_prompt() -> None:
    assert Job("def g(x):\n    pass\ndef f(x):\n", "", "", "", "").entry == "f"
    assert Job("import a\n", "", "", "", "").entry == ""
