from __future__ import annotations

import pytest

from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.selection import parse_route
from lm_eval_ensemble.types import InfillRequest

MEMBERS = ("dllm", "fim")


def choose(rule: str, prefix: str = "", suffix: str = "", task: str = "", reference: str | None = None) -> str:
    return parse_route(rule, MEMBERS).choose(InfillRequest(prefix, suffix, task, reference=reference))


def test_clauses_are_tried_from_left_to_right() -> None:
    rule = "task=santacoder*&!suffix_empty:fim; prefix_lines>1:dllm; *:fim"
    assert choose(rule, "a\nb\nc\n", "x", "santacoder_fim") == "fim"
    assert choose(rule, "a\nb\nc\n", "", "santacoder_fim") == "dllm"
    assert choose(rule, "a\n\n  \n", "x", "humaneval_infill") == "fim"
    assert parse_route(rule, MEMBERS).members == ("fim", "dllm")


def test_the_short_form() -> None:
    assert choose("suffix_empty?fim:dllm", suffix=" \n") == "fim"
    assert choose("suffix_empty?fim:dllm", suffix="x") == "dllm"


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("prefix_lines=2", True),
        ("prefix_lines!=2", False),
        ("prefix_chars >= 13", True),
        ("prefix_chars>13", False),
        ("suffix_lines<1", False),
        ("suffix_chars<=3", True),
        ("indent=4", True),
        ("prefix_empty", False),
        ("task!=other*", True),
        ("task=to*", True),
        ("task=t?y", None),
    ],
)
def test_conditions(condition: str, expected: bool | None) -> None:
    if expected is None:
        with pytest.raises(ConfigError, match="task=NAME"):
            parse_route(f"{condition}:fim;*:dllm", MEMBERS)
        return
    # prefix: 13 characters in two lines; the next line is empty, so the indent is that of the last one
    assert (choose(f"{condition}:fim;*:dllm", "a:\n\n    b = 1", "\n x", "toy") == "fim") == (
        expected if condition != "indent=4" else False
    )
    assert choose("indent=4:fim;*:dllm", "a:\n    b = 1", "\n\n") == "fim"


def test_the_answer_plays_no_part() -> None:
    rule = "prefix_lines>3:fim;*:dllm"
    assert choose(rule, "x", "y", reference="a\n" * 10) == choose(rule, "x", "y", reference=None)


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ("", "expected CONDITION:MEMBER"),
        ("fim", "expected CONDITION:MEMBER"),
        ("suffix_empty:fim", "the last clause must be"),
        ("*:fim;suffix_empty:dllm", "put it last"),
        ("sufix_empty:fim;*:dllm", "Did you mean 'suffix_empty'"),
        ("*:fmi", "Did you mean 'fim'"),
        ("lines>3:fim;*:dllm", "is not a feature"),
        ("prefix_lines>x:fim;*:dllm", "whole number"),
        ("prefix_lines>-1:fim;*:dllm", "whole number"),
        ("task>3:fim;*:dllm", "task=NAME"),
        ("suffix_empty&:fim;*:dllm", "not a condition"),
        ("suffix_empty?fim", "expected CONDITION:MEMBER"),
    ],
)
def test_a_faulty_rule_says_where(rule: str, found: str) -> None:
    with pytest.raises(ConfigError, match="route: clause 1") as caught:
        parse_route(rule, MEMBERS)
    assert found in str(caught.value)


def test_all_faults_come_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_route("sufix_empty:fim;prefix_lines>x:nobody;*:dllm", MEMBERS)
    assert [line[:16] for line in str(caught.value).splitlines()] == [
        "route: clause 1 ",
        "route: clause 2 ",
        "route: clause 2 ",
    ]
