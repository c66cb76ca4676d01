from __future__ import annotations

import copy
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_ensemble.types import Candidate, Completion, Scored, Selection, cut_line, normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("return x", "return x\n"),
        ("    return x\n    y = 1\n", "    return x\n"),
        ("\n    return x\n\nmore", "\n    return x\n"),
        ("  \n\t\nx = 1\n", "  \n\t\nx = 1\n"),
        ("", "\n"),
        ("\n\n  \n", "\n"),
        ("x = 1  \n\n", "x = 1  \n"),
    ],
)
def test_cut_line(text: str, expected: str) -> None:
    assert cut_line(text) == expected


@given(st.text(alphabet="ab \n\t", max_size=30))
def test_cut_line_is_idempotent_and_ends_in_one_newline(text: str) -> None:
    once = cut_line(text)
    assert cut_line(once) == once
    assert once.endswith("\n")
    assert not once[:-1].endswith("\n") or not once.strip()


def test_no_cut_changes_nothing() -> None:
    assert normalise("\n a \n b\n", "none") == "\n a \n b\n"


def test_completion_is_its_text_and_survives_pickle_and_copy() -> None:
    trace = Selection((Scored(Candidate("a", "x", "x"), {"fim": 1.0}),), 0, "single", "fim")
    completion = Completion("x", trace)
    assert completion == "x"
    assert json.dumps(completion) == '"x"'
    for other in (pickle.loads(pickle.dumps(completion)), copy.deepcopy(completion)):
        assert type(other) is Completion
        assert (other, other.trace) == ("x", trace)


def test_completion_takes_one_argument() -> None:
    # lm_eval's default scoring builds type(answer)(gold).
    assert type(Completion("a"))("gold").trace is None


def test_was_cut_ignores_blank_space() -> None:
    assert not Candidate("a", "x\n", "x").was_cut
    assert not Candidate("a", "x\n", "x\n\n").was_cut
    assert Candidate("a", "x\n", "x\ny").was_cut
