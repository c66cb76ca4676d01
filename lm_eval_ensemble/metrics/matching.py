"""Exact match of a filled line, by both rules in use; they differ by more than ten points on some models."""

from __future__ import annotations

__all__ = ["exact_match", "exact_match_first_line"]


def exact_match(answer: str, reference: str) -> bool:
    """The original SantaCoder-FIM rule: equal after ``strip``; the model must stop by itself."""
    return answer.strip() == reference.strip()


def exact_match_first_line(answer: str, reference: str) -> bool:
    """The rule of the Qwen2.5-Coder, DreamOn and Open-dLLM scripts: the first line of the answer, or the second if the
    answer starts with a newline (or a space and a newline), equal after ``strip``."""
    lines = answer.split("\n")
    second = answer.startswith(("\n", " \n")) and len(lines) > 1
    return lines[1 if second else 0].strip() == reference.strip()
