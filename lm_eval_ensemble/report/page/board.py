"""A comparison as one HTML file: the table of models by tasks, which sorts, and below it the tables of each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from lm_eval_ensemble import __version__
from lm_eval_ensemble.report.comparison import Comparison, TaskComparison
from lm_eval_ensemble.report.page.build import content_policy, extent, read_part, template
from lm_eval_ensemble.report.sentences import first_sentences
from lm_eval_ensemble.report.summary import Summary

__all__ = ["board"]


def board(
    comparison: Comparison,
    sections: Sequence[tuple[TaskComparison, Any]],
    summary: Summary | None = None,
    links: Mapping[str, str] | None = None,
) -> str:
    """One HTML document without any outside address.

    :param sections: the tables of each task (``report.tables.tables_of``).
    :param links: label of a run -> its page, from where this one will lie.
    """
    style, script = read_part("page.css"), read_part("board.js")
    tasks, pages = [task.task for task in comparison.tasks], dict(links or {})
    return str(
        template("board.html").render(
            title="Comparison",
            head=extent(comparison),
            verdicts=first_sentences(comparison.tasks),
            cautions=comparison.cautions,
            summary=summary,
            links=pages,
            cell_links={(label, task): f"{page}#{quote(task, safe='')}" for label, page in pages.items() for task in tasks},
            sections=sections,
            notes=comparison.notes,
            style=style,
            script=script,
            policy=content_policy(style, script),
            version=__version__,
        )
    )
