from __future__ import annotations

import pytest

from lm_eval_ensemble.metrics.matching import edit_similarity, exact_match, exact_match_first_line


@pytest.mark.parametrize(
    ("answer", "original", "first_line"),
    [
        ("    return x", True, True),
        ("\n    return x\n", True, True),
        ("    return x\n    y", False, True),
        ("\n    return x\n    y", False, True),
        (" \n    return x", True, True),
        ("  \n    return x", True, False),  # only "\n" and " \n" are skipped by the second rule
        ("\n\n    return x", True, False),
        ("return y", False, False),
        ("", False, False),
    ],
)
def test_both_published_rules(answer: str, original: bool, first_line: bool) -> None:
    assert exact_match(answer, "    return x\n") is original
    assert exact_match_first_line(answer, "    return x\n") is first_line


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("abcd", "bcde", 2 * 3 / 8),
        ("kitten", "sitting", 2 * 4 / 13),  # ittn
        ("ab", "ba", 2 * 1 / 4),
        ("  x = 1\n", "x = 1", 1.0),
        ("", "x", 0.0),
        (" ", "", 1.0),
    ],
)
def test_edit_similarity_by_hand(answer: str, reference: str, expected: float) -> None:
    assert edit_similarity(answer, reference) == edit_similarity(reference, answer) == pytest.approx(expected)
