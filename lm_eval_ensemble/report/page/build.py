"""The page as text: figures drawn by the template, samples embedded as JSON, scripts allowed by their hash alone."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lm_eval_ensemble import __version__
from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.report.comparison import Comparison
from lm_eval_ensemble.report.page.charts import charts
from lm_eval_ensemble.report.page.samples import embedded, task_data
from lm_eval_ensemble.report.run import RunReport
from lm_eval_ensemble.report.sentences import first_sentences, length_caution
from lm_eval_ensemble.report.summary import Summary, groups_of, summarise
from lm_eval_ensemble.report.summary_tables import heading, in_units
from lm_eval_ensemble.report.text import Table, headline, sections, verdict_of

__all__ = ["content_policy", "extent", "page", "read_part", "template", "write_page"]

_HERE = Path(__file__).parent
#: by this we know a page of ours, which may be written anew.
_MARK = '<meta name="generator" content="lm_eval_ensemble report'


@dataclass(frozen=True)
class Compared:
    """Several runs side by side, for the first view of their page. ``links`` are by row and column of ``summary``."""

    head: str
    first: Sequence[str]
    verdicts: Sequence[str]
    cautions: Sequence[str]
    summary: Summary
    links: Mapping[tuple[str, str], str]
    notes: Sequence[str]


def page(reports: Sequence[RunReport], comparison: Comparison | None = None) -> str:
    """One HTML document without any outside address.

    :param comparison: of these runs; the page then opens on it.
    """
    data: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = []
    for report, key in zip(reports, _keys([report.content for report in reports]), strict=True):
        facts, samples = _facts(report, key)
        # Samples are JSON text already, one document a line; only what stands around them is encoded here.
        data.append({"key": key, "facts": embedded(facts), "documents": ",\n".join(samples)})
        shown.append(_overview(report.content, key, facts))
    style, script, sorting = (read_part(name) for name in ("page.css", "page.js", "board.js"))
    compared = None if comparison is None else _compared(comparison, reports)
    policy = content_policy(style, script, *([sorting] if compared else []))
    title = ", ".join(dict.fromkeys(str(report.content["run"]) for report in reports)) or "no run"
    return str(
        template("page.html").render(
            title=title,
            tasks=shown,
            data=data,
            compared=compared,
            style=style,
            script=script,
            sorting=sorting,
            policy=policy,
            version=__version__,
        )
    )


def write_page(text: str, path: Path) -> None:
    """Writes the page whole or not at all, over an older page of ours but over nothing else.

    :raises DataError: it cannot be written there.
    """
    try:
        if path.exists() and _MARK not in path.read_text(encoding="utf-8", errors="replace")[:2000]:
            raise DataError(f"{path}: exists and is not a report of ours; it is left alone. Give --html another path.")
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            # What is left of undecodable texts in names (halves of surrogate pairs) is shown by number.
            beside.write_bytes(text.encode("utf-8", errors="backslashreplace"))
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path}: the page cannot be written ({error.strerror}). Give --html PATH, or --no_html.") from None


def _facts(report: RunReport, key: str) -> tuple[dict[str, Any], list[str]]:
    """What the script needs to know of a task, and its documents as JSON texts."""
    figures, metric = report.figures, report.content["metric"]
    usable = figures["n"] and report.samples is not None
    found = task_data(report) if usable else {"documents": [], "members": []}
    score = figures.get("score", {}).get("value")
    kind = "questions" if "answers" in figures else "choices" if found["members"] else "plain"
    facts = {
        "key": key,
        "metric": metric,
        # Only then can a document be called right or wrong.
        "share": score is not None and 0.0 <= score <= 1.0 and report.run.higher_is_better.get(str(metric)) is not False,
        "kind": kind,
        "lengthOf": (figures.get("by_length") or {}).get("of"),
        **{name: value for name, value in found.items() if name != "documents"},
    }
    return facts, found["documents"]


def _overview(report: Mapping[str, Any], key: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    figures = report["figures"]
    notes = [length_caution([str(report["run"])])] if "oracle" in str(report["length_mode"]) else []
    if facts.get("cut"):
        notes.append(f"Texts longer than {facts['cut']:,} characters are cut here; the samples file has all of them.")
    if facts.get("left_out"):
        notes.append(f"{facts['left_out']:,} documents did not fit on this page; the figures count them.")
    return {
        "key": key,
        "metric": report["metric"],
        "run": report["run"],
        "head": headline(report),
        "verdict": verdict_of(figures),
        "n": figures["n"],
        "sections": sections(figures),
        "charts": charts(figures),
        "figures": figures,
        "notes": notes,
        "path": report["results_path"],
    }


def _compared(comparison: Comparison, reports: Sequence[RunReport]) -> Compared:
    keys = _keys([report.content for report in reports])
    places = [(str(report.content["run"]), report.run.task) for report in reports]
    links = {place: f"#{quote(key, safe='')}" for place, key in zip(places, keys, strict=True)}
    verdicts = [line for task in comparison.tasks for line in task.verdicts]
    table = summarise(comparison, groups_of([report.run for report in reports]))
    notes = [*(note for task in comparison.tasks for note in task.notes), *comparison.notes]
    first = first_sentences(comparison.tasks)
    return Compared(extent(comparison), first, verdicts, comparison.cautions, table, links, list(dict.fromkeys(notes)))


def extent(comparison: Comparison) -> str:
    """How many runs and tasks, and what they are compared with."""
    runs = dict.fromkeys(row.label for task in comparison.tasks for row in task.rows if row.kind == "run")
    sizes = [
        f"{count} {word}{'' if count == 1 else 's'}" for count, word in ((len(runs), "run"), (len(comparison.tasks), "task"))
    ]
    bases = dict.fromkeys(task.baseline for task in comparison.tasks if task.baseline)
    return ", ".join([*sizes, *([f"compared with {', '.join(bases)}"] if len(runs) > 1 and bases else [])]) + "."


def _keys(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """The task's name; where several runs have it, with the run; a number where even that is not enough."""
    names = [str(report["task"]) for report in reports]
    keys: list[str] = []
    for name, report in zip(names, reports, strict=True):
        key = name if names.count(name) == 1 else f"{name} ({report['run']})"
        keys.append(key if key not in keys else f"{key} {len(keys) + 1}")
    return keys


@functools.cache
def read_part(name: str) -> str:
    """A file that is embedded in pages."""
    return (_HERE / name).read_text(encoding="utf-8")


def content_policy(style: str, *scripts: str) -> str:
    """What a page may load and run: its own style and scripts, known by their hashes, and nothing else."""
    allowed = " ".join(map(_hash, scripts))
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _hash(text: str) -> str:
    """Of what stands between the tags, to the letter."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def template(name: str) -> Any:
    """A template of this folder; what is put into it is escaped, and a name it does not get is an error."""
    # Imported late: the figures as text do not need it.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["pairs"] = lambda stack: [(part.kind, f"{part.name} {part.count} %") for part in stack.shares]
    # Long names may break behind an underscore.
    environment.filters["breakable"] = lambda text: escape(text).replace("_", Markup("_<wbr>"))
    environment.globals |= {"heading": heading, "in_units": in_units}
    environment.tests["table"] = lambda part: isinstance(part, Table)
    return environment.get_template(name)
