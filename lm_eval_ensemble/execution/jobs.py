"""What goes into the judge and what comes out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["LOST", "Job", "Status", "Verdict"]

Status = Literal["pass", "fail", "timeout"]
LOST = "worker lost"


@dataclass(frozen=True)
class Job:
    """One program to judge: ``prompt + completion + suffix``, and the tests of its function ``entry_point``.

    ``test`` defines ``check(candidate)``, or calls ``entry_point`` itself. What stands in ``prompt`` before the
    entry point (imports, helper functions) is trusted and available to the tests.
    """

    prompt: str
    completion: str
    suffix: str
    test: str
    entry_point: str

    @property
    def program(self) -> str:
        return self.prompt + self.completion + self.suffix + "\n"

    @property
    def head(self) -> str:
        """The part of the prompt before ``def entry_point``; empty if the prompt does not hold that line."""
        match = re.search(rf"^(async\s+)?def\s+{re.escape(self.entry_point)}\b", self.prompt, re.MULTILINE)
        return self.prompt[: match.start()] if match else ""

    def message(self) -> dict[str, Any]:
        return {"program": self.program, "entry": self.entry_point, "head": self.head, "test": self.test}


@dataclass(frozen=True)
class Verdict:
    """``why`` is empty for a pass. A job whose worker was lost twice is a ``fail`` with why ``worker lost``."""

    status: Status
    why: str = ""

    @property
    def passed(self) -> bool:
        return self.status == "pass"

    @property
    def lost(self) -> bool:
        """Whether this says something about the judge instead of the program."""
        return self.why == LOST
