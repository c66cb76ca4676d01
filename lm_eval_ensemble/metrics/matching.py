"""Exact match of a filled line, by both rules in use (they differ by more than ten points on some models); edit similarity."""

from __future__ import annotations

__all__ = ["edit_similarity", "exact_match", "exact_match_first_line"]


def exact_match(answer: str, reference: str) -> bool:
    """The original SantaCoder-FIM rule: equal after ``strip``; the model must stop by itself."""
    return answer.strip() == reference.strip()


def exact_match_first_line(answer: str, reference: str) -> bool:
    """The rule of the Qwen2.5-Coder, DreamOn and Open-dLLM scripts: the first line of the answer, or the second if the
    answer starts with a newline (or a space and a newline), equal after ``strip``."""
    lines = answer.split("\n")
    second = answer.startswith(("\n", " \n")) and len(lines) > 1
    return lines[1 if second else 0].strip() == reference.strip()


def edit_similarity(answer: str, reference: str) -> float:
    """Twice the length of the longest common subsequence over the length of both, in [0, 1]; 1 is equal.

    The ``fuzz.ratio`` of RepoBench and CrossCodeEval, here of the texts without blanks around them. Bit-parallel (Hyyrö 2004).
    """
    one, other = answer.strip(), reference.strip()
    if not one or not other:
        return float(one == other)
    places: dict[str, int] = {}
    for index, character in enumerate(one):
        places[character] = places.get(character, 0) | 1 << index
    full = (1 << len(one)) - 1
    row = full
    for character in other:
        here = row & places.get(character, 0)
        row = (row + here | row - here) & full
    return 2 * (len(one) - row.bit_count()) / (len(one) + len(other))
