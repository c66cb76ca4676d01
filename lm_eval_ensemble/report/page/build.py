"""The page as text: figures drawn by the template, samples embedded as JSON, scripts allowed by their hash alone."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval_ensemble import __version__
from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.report.page.charts import charts
from lm_eval_ensemble.report.page.samples import embedded, task_data
from lm_eval_ensemble.report.run import RunReport
from lm_eval_ensemble.report.text import Table, headline, sections

__all__ = ["page", "write_page"]

_HERE = Path(__file__).parent
#: by this we know a page of ours, which may be written anew.
_MARK = '<meta name="generator" content="lm_eval_ensemble report'


def page(reports: Sequence[RunReport]) -> str:
    """One HTML document without any outside address."""
    data: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = []
    for report, key in zip(reports, _keys([report.content for report in reports]), strict=True):
        facts, samples = _facts(report, key)
        # Samples are JSON text already, one document a line; only what stands around them is encoded here.
        data.append({"key": key, "facts": embedded(facts), "documents": ",\n".join(samples)})
        shown.append(_overview(report.content, key, facts))
    style, script = (_read(name) for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    title = ", ".join(dict.fromkeys(str(report.content["run"]) for report in reports)) or "no run"
    return str(
        _template().render(title=title, tasks=shown, data=data, style=style, script=script, policy=policy, version=__version__)
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
    notes = []
    if facts.get("cut"):
        notes.append(f"Texts longer than {facts['cut']:,} characters are cut here; the samples file has all of them.")
    if facts.get("left_out"):
        notes.append(f"{facts['left_out']:,} documents did not fit on this page; the figures count them.")
    return {
        "key": key,
        "metric": report["metric"],
        "run": report["run"],
        "head": headline(report),
        "n": figures["n"],
        "sections": sections(figures),
        "charts": charts(figures),
        "figures": figures,
        "notes": notes,
        "path": report["results_path"],
    }


def _keys(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """The task's name; where several runs have it, with the run; a number where even that is not enough."""
    names = [str(report["task"]) for report in reports]
    keys: list[str] = []
    for name, report in zip(names, reports, strict=True):
        key = name if names.count(name) == 1 else f"{name} ({report['run']})"
        keys.append(key if key not in keys else f"{key} {len(keys) + 1}")
    return keys


@functools.cache
def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Of what stands between the tags, to the letter."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def _template() -> Any:
    # Imported late: the figures as text do not need it.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["pairs"] = lambda stack: [(part.kind, f"{part.name} {part.count} %") for part in stack.shares]
    environment.tests["table"] = lambda part: isinstance(part, Table)
    return environment.get_template("page.html")
