"""What a record says of an answer: is it right?"""

from __future__ import annotations

from typing import Any

import pytest

from lm_eval_ensemble.runs.answer import answer_record, is_right


def judged(answer: str, *references: str) -> dict[str, Any]:
    return answer_record({"question": "?", "references": list(references), "answerable": bool(references)}, answer)


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        (" 51", "51", True),
        ("51.0", "51", True),
        ("$51.00.", "51", True),
        ("510", "51", False),
        ("51.05", "51", False),
        ("2.5", "2.5", True),
        ("version 1.0", "version 10", True),  # no number: SQuAD's normaliser as it is
    ],
)
def test_numbers_are_read_as_numbers(answer: str, reference: str, right: bool) -> None:
    found = judged(answer, reference)
    assert (is_right(found), bool(found["em"])) == (right, right)
    assert found["raw"] == answer


@pytest.mark.parametrize("answer", ["", " unanswerable.", "No answer"])
def test_saying_that_there_is_no_answer_is_right_where_there_is_none(answer: str) -> None:
    assert is_right(judged(answer))
    assert not is_right(judged(answer, "Paris"))
    assert not is_right(judged("Paris"))
