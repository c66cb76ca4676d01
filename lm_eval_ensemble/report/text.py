"""The figures of a run in words: short tables and sentences, by section. The page shows the same sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval_ensemble.errors import counted
from lm_eval_ensemble.metrics.clustered import few_clusters
from lm_eval_ensemble.metrics.multiple import holm
from lm_eval_ensemble.report.comparison import LEVEL
from lm_eval_ensemble.report.failures import CATEGORIES
from lm_eval_ensemble.report.sentences import disagreement, length_caution
from lm_eval_ensemble.report.tables import markdown_table
from lm_eval_ensemble.runs.samples import BY_TEXT

__all__ = ["Section", "Table", "as_text", "closing", "headline", "sections", "verdict_of"]

_NONE = "-"
_SHOWN = 5


@dataclass(frozen=True)
class Table:
    """Cells are finished text; every row has as many as ``header``."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """``name`` is fixed, for those who add something to a section; a part is a table, or sentences, one per line."""

    name: str
    title: str
    parts: Sequence[str | Table]


def as_text(report: Mapping[str, Any]) -> str:
    """One task of one run.

    :param report: ``run``, ``task``, ``metric`` and the like, and ``figures``.
    """
    parts = [f"## {report['run']}, {report['task']}: {report['metric']}", headline(report)]
    parts += [verdict] if (verdict := verdict_of(report["figures"])) else []
    parts += [length_caution([str(report["run"])])] if "oracle" in str(report.get("length_mode")) else []
    for section in sections(report["figures"]):
        parts += [markdown_table(part.header, part.rows) if isinstance(part, Table) else part for part in section.parts]
    return "\n\n".join(parts)


def sections(figures: Mapping[str, Any]) -> list[Section]:
    """What there is to say, the most important first; sections without anything are left out."""
    if not figures["n"]:
        return []
    found = [
        Section("scores", "Scores", _scores(figures)),
        Section("questions", "Does it know when it is wrong?", _questions(figures)),
        Section("selection", "Selection", _selection(figures)),
        Section("scorers", "What the scores know", _scorers(figures)),
        Section("diversity", "How differently the members fail", _diversity(figures)),
        Section("failures", "Why texts fail", _failures(figures)),
        Section("margin", "Error among the surest", _margin(figures)),
        Section("lengths", "By length", _lengths(figures)),
        Section("problems", "By problem", _problems(figures)),
    ]
    return [section for section in found if section.parts]


def headline(report: Mapping[str, Any]) -> str:
    """Model, date and size of the run in one sentence."""
    figures, facts = report["figures"], [f"{report['model']}, {report['date']}".rstrip(", ")]
    if not figures["n"]:
        return f"{facts[0]}. No sample can be used."
    unnamed = figures["documents_without_problem"]
    if unnamed == figures["n"]:
        facts.append(f"{counted(unnamed, 'documents')} (they name no problem and count as independent)")
    else:
        facts.append(
            f"{counted(figures['n'], 'documents')} of {counted(figures['problems'], figures['clusters_are'])}"
            + (f", {unnamed} alone" if unnamed else "")
        )
    if figures["completions_per_document"] > 1:
        facts.append(f"{figures['completions_per_document']} completions each")
    if report.get("length_mode"):
        facts.append(f"length={report['length_mode']}")
    if report.get("seconds_per_document") is not None:
        facts.append(f"{report['seconds_per_document']:.3g} s per document (whole command)")
    if forwards := figures.get("row_forwards"):
        facts.append("row-forwards per document: " + ", ".join(f"{name} {value:.3g}" for name, value in forwards.items()))
    return "; ".join(facts) + "."


def closing(report: Mapping[str, Any]) -> list[str]:
    """What a run came to, in at most four lines: its score, best member, oracle, and whether it beats its members."""
    figures = report["figures"]
    if not figures["n"]:
        return []
    score, name = figures["score"], f"{report['task']}: {report['metric']}"
    share = 0 <= score["value"] <= 1

    def told(entry: Mapping[str, Any]) -> str:
        if not share:
            return f"{entry['value']:.4g}"
        interval = _interval(entry.get("low"), entry.get("high"))
        return f"{_share(entry['value'])} %" + (f" ({interval})" if interval != _NONE else "")

    size = counted(figures["n"], "documents")
    if figures["documents_without_problem"] != figures["n"]:
        size += f" of {counted(figures['problems'], figures['clusters_are'])}"
    lines = [f"{name} {told(score)}, {size}."]
    if figures.get("best_member") is not None:
        best = figures["best_member"]
        who = f"best member: {best}"
        if len(figures["members"]) == 1:
            who = f"{best}, drawn blindly among its candidates"
        elif figures["members_are_level"]:
            who = f"members, all level: {', '.join(figures['members'])}"
        lines.append(f"  {who} {told(figures['members'][best])}")
    if figures.get("oracle"):
        lines.append(
            f"  oracle, the best possible choice: {told(figures['oracle'])}; floor, the worst: {told(figures['floor'])}"
        )
    area = (figures.get("uncertainty") or {}).get("g_nll")
    if area and area["value"] is not None:
        bounds = "" if area["low"] is None else f" ({area['low']:.3f} to {area['high']:.3f})"
        lines.append(f"  does it know when it is wrong? AUROC of g_nll {area['value']:.3f}{bounds}; 0.5 is chance")
    if verdict := verdict_of(figures):
        lines.append(f"  {verdict}")
    return lines


def verdict_of(figures: Mapping[str, Any]) -> str:
    """Is the ensemble better than each of its members? Empty for other runs. p is after Holm, for the members together."""
    members = figures.get("members") or {}
    if len(members) < 2:
        return ""
    gains = [entry["ensemble_minus_member"] for entry in members.values()]
    parts, against = [], ""
    for name, gain, p in zip(members, gains, holm([gain["p"] for gain in gains]), strict=True):
        of = f"p = {p:.2g}" + (" after Holm" if p != gain["p"] else "")
        if not gain["difference"]:
            parts.append(f"level with {name} ({of})")
            continue
        ahead = gain["difference"] > 0
        side = ("better than" if ahead else "worse than") if p < LEVEL else ("ahead of" if ahead else "behind")
        interval = _interval(gain["low"], gain["high"], signed=True)
        told = [*([interval] if interval != _NONE else []), *([] if p < LEVEL else ["not significant"]), of]
        parts.append(f"{side} {name} by {abs(100 * gain['difference']):.3g} points ({'; '.join(told)})")
        against += disagreement(gain["low"], gain["high"], gain["p"], p < LEVEL, name)
    return f"The ensemble is {'; '.join(parts)}.{against}"


def _scores(figures: Mapping[str, Any]) -> list[str | Table]:
    header = [
        "",
        "score",
        "n",
        "95 %",
        "deff",
        "selected",
        "log-ppl",
        "ensemble minus it",
        "p",
        "W/L/T",
    ]
    rows = []
    members = figures.get("members", {})
    named = {"oracle": figures.get("oracle"), "floor": figures.get("floor")}
    # Members that were not asked for every document stand for other documents.
    partial = any(entry["n"] != figures["n"] for entry in members.values())
    rows.append(["ensemble" if members else "score", *_score_cells(figures["score"], partial), *[_NONE] * 5])
    for name, entry in members.items():
        gain = entry["ensemble_minus_member"]
        interval = _interval(gain["low"], gain["high"], signed=True)
        gain_text = _points(gain["difference"]) + (f" ({interval})" if interval != _NONE else "")
        counts = f"{gain['wins']}/{gain['losses']}/{gain['ties']}"
        mean = _plain(entry["mean_log_ppl"], ".3f")
        rows.append(
            [name, *_score_cells(entry, partial), _share(entry["selected"]), mean, gain_text, _plain(gain["p"], ".2g"), counts]
        )
    rows += [[name, *_score_cells(entry, partial), *[_NONE] * 5] for name, entry in named.items() if entry]
    by_text = f"{BY_TEXT[0].upper()}{BY_TEXT[1:]}." if figures["clustered_by_text"] else ""
    few = few_clusters(figures["problems"], figures["clusters_are"], figures["score"]["df"], compared=bool(members))
    told = [few, by_text, _repeats(figures)]
    return [_table(header, rows), *(line for line in told if line)]


def _repeats(figures: Mapping[str, Any]) -> str:
    if (found := figures.get("repeats")) is None:
        return ""
    return (
        f"Standard error of the score {100 * found['se']:.2f} points: {100 * found['within']:.2f} within documents, from "
        f"drawing {figures['completions_per_document']} completions each, which more repeats would lessen, and "
        f"{100 * found['between']:.2f} between documents, which only more problems would (the squares add up)."
    )


def _selection(figures: Mapping[str, Any]) -> list[str | Table]:
    found = figures.get("selection")
    if not found:
        return []
    recovered, best = figures["recovered"], figures["best_member"]
    bounds = _interval(recovered["low"], recovered["high"])
    if recovered["value"] is None:
        gap = recovered["reason"]
    else:
        gap = f"{_share(recovered['value'])} % of the gap between {best} and the oracle is recovered"
        gap += f" ({bounds})" if bounds != _NONE else ""
    lines = [f"Selection by {figures['rule']}: {gap}; {_share(figures['regret'])} points are lost to the oracle."]
    if found["n"]:
        each = {m: e for m, e in found["by_member"].items() if e["n"]}
        parts = ", ".join(f"{_share(e['accuracy'])} % of {e['n']} where {m} is right" for m, e in each.items())
        balanced = "" if found["balanced"] is None else f"; balanced {_share(found['balanced'])} %"
        interval = _interval(found["low"], found["high"])
        bounds = f" ({interval})" if interval != _NONE else ""
        lines.append(
            f"Right on {_share(found['accuracy'])} %{bounds} of the {found['n']} choices that mattered; {parts}{balanced}."
        )
        if found["break_even"] is not None:
            lines[-1] += f" It pays above {_share(found['break_even'])} %, which always taking one member gives."
    else:
        lines.append("No choice mattered: all candidates of each document were right, or all were wrong.")
    if (shared := figures["documents_of_all_members"]) < figures["n"]:
        lines.append(
            f"Not every document was answered by every member: a member's row is over those it answered, the best member, gain "
            f"and break-even over the {shared} that all answered."
        )
    lines.append("Picked: " + ", ".join(f"{name} {_share(value)} %" for name, value in figures["picks"].items()) + ".")
    return ["\n".join(lines)] if lines else []


def _scorers(figures: Mapping[str, Any]) -> list[str | Table]:
    found = figures.get("scorers")
    if not found:
        return []
    members = list(next(iter(found.values()))["members"])
    several = len(members) > 1
    header = ["scorer"]
    for member in members:
        header += [f"{member}: mean", "AUROC", "r"] + (["preferred"] if several else [])
    inner = any(entry["members"][member]["auroc_within"] is not None for entry in found.values() for member in members)
    among = several and any(entry.get("auroc_within") is not None for entry in found.values())
    if inner:
        header = [name for head in header for name in ([head, "within"] if head == "AUROC" else [head])]
    rows = []
    for name, entry in found.items():
        cells = [name]
        for member in members:
            own = entry["members"][member]
            cells += [_plain(own["mean"], ".3f"), _plain(own["auroc"], ".3f")]
            cells += [_plain(own["auroc_within"], ".3f")] if inner else []
            cells.append(_plain(own["point_biserial"], "+.2f"))
            if several:
                cells.append(_share((entry["prefers"] or {}).get(member)))
        cells += [_plain(entry["auroc_within"], ".3f")] if among else []
        rows.append([*cells, *([_share(entry["accuracy"])] if several else [])])
    intro = "Scores (nats, lower is better), AUROC for telling wrong from right, correlation r with being right" + (
        ", how often each prefers whom, and its accuracy on the choices that matter" if several else ""
    )
    if inner or among:
        intro += "; within: AUROC among the candidates of one document only, which is what choosing needs"
    told: list[str | Table] = [
        intro + ":",
        _table([*header, *(["within"] if among else []), *(["accuracy"] if several else [])], rows),
    ]
    gone = [
        f"{name} of {own['without']} of {own['without'] + own['n']} by {member}"
        for name, entry in found.items()
        for member, own in entry["members"].items()
        if own["n"] and own["without"]
    ]
    return [*told, *([f"Candidates without a finite score are left out there: {', '.join(gone)}."] if gone else [])]


def _diversity(figures: Mapping[str, Any]) -> list[str | Table]:
    lines = []
    for entry in figures.get("diversity", []):
        first, second = entry["pair"]
        lines.append(
            f"{first} and {second}: both right {entry['both']}, only {first} {entry[f'only_{first}']}, only {second} "
            f"{entry[f'only_{second}']}, neither {entry['neither']}; D {_plain(entry['disagreement'], '.3f')}, Q "
            f"{_plain(entry['q'], '.2f')}, kappa {_plain(entry['kappa'], '.2f')}, double fault "
            f"{_plain(entry['double_fault'], '.3f')}; the same text in {_share(entry['same_text'])} %, the same wrong text in "
            f"{_share(entry['same_wrong_text'])} % of what both got wrong."
        )
    return ["\n".join(lines)] if lines else []


def _failures(figures: Mapping[str, Any]) -> list[str | Table]:
    found = figures.get("failures")
    if not found:
        return []
    names = ["pass", *CATEGORIES]
    rows = [[who, *(str(counts[name]) for name in names)] for who, counts in found["counts"].items()]
    others = ", ".join(f"{name} {count}" for name, count in found["other"].items())
    return [_table(["verdicts", *names], rows), *([f"Other: {others}."] if others else [])]


def _margin(figures: Mapping[str, Any]) -> list[str | Table]:
    found = figures.get("risk_coverage")
    if not found:
        return []
    kept = {point["coverage"]: point["risk"] for point in found["points"]}
    risks = ", ".join(f"{_share(kept[c])} % of the surest {c:.0%}" for c in (0.25, 0.5, 0.75, 1.0))
    text = (
        f"By {found['by']} ({found['n']} choices, {found['excluded']} without): wrong are {risks}; AURC "
        f"{_plain(found['aurc'], '.3f')}, excess {_plain(found['eaurc'], '.3f')}, AUROC {_plain(found['auroc'], '.3f')}."
    )
    if bins := found.get("selection_accuracy_by_margin"):
        parts = ", ".join(
            f"{_share(b['accuracy'])} % of {b['n']} ({b['margin_from']:.3g} to {b['margin_to']:.3g})" for b in bins
        )
        text += f"\nRight choices by margin, among those that mattered: {parts}."
    return [text]


def _lengths(figures: Mapping[str, Any]) -> list[str | Table]:
    found = figures.get("by_length")
    if not found:
        return []
    members = list(figures.get("members", {}))
    header = [f"{found['of']} length", "n", "score", *members, *(["oracle", "decisive", "selection"] if members else [])]
    rows = []
    for entry in found["bins"]:
        high = entry["high"]
        cells = [f"{entry['low']} to {high - 1}" if high is not None else f"{entry['low']} or more", str(entry["n"])]
        cells += [_share(entry["score"]), *(_share(entry["members"][m]) for m in members)]
        if members:
            cells += [_share(entry["oracle"]), str(entry["decisive"]), _share(entry["selection_accuracy"])]
        rows.append(cells)
    return [_table(header, rows)]


def _problems(figures: Mapping[str, Any]) -> list[str | Table]:
    entries, members = figures["by_problem"], list(figures.get("members", {}))
    if len(entries) < 2:
        return []
    solved = sum(entry["score"] == 1 for entry in entries)
    none = sum(entry["score"] == 0 for entry in entries)
    text = f"Of {len(entries)} {figures['clusters_are']} {solved} are solved in every document, {none} in none."
    if members:
        # Where selection left the most on the table, in documents.
        lost = sorted(entries, key=lambda e: (-(e["oracle"] - e["score"]) * e["n"], str(e["problem"])))[:_SHOWN]
        shown = [
            f"{e['problem']} ({(e['oracle'] - e['score']) * e['n']:.3g} of {e['n']})" for e in lost if e["oracle"] > e["score"]
        ]
        if shown:
            text += " Most documents lost to the oracle: " + ", ".join(shown) + "."
    return [text]


def _questions(figures: Mapping[str, Any]) -> list[str | Table]:
    parts: list[str | Table] = []
    if found := figures.get("answers"):
        right = ", ".join(f"{_share(value)} % by {rule}" for rule, value in found["right"].items())
        stops = ", ".join(f"{name} {count}" for name, count in found["stops"].items()) or "not recorded"
        parts.append(
            f"{found['n']} answers: right {right}; truncated {_share(found['truncated'])} %, empty {_share(found['empty'])} %, "
            f"{_plain(found['mean_tokens'], '.3g')} tokens; ended by {stops}."
        )
    if scores := figures.get("uncertainty"):
        header = ["uncertainty", "AUROC", "95 %", "AURC", "excess", "PRR", "n", "wrong"]
        rows = []
        for name, entry in scores.items():
            bounds = "-" if entry["low"] is None else f"{entry['low']:.3f} to {entry['high']:.3f}"
            numbers = [_plain(entry[key], ".3f") for key in ("aurc", "eaurc", "prr")]
            rows.append([name, _plain(entry["value"], ".3f"), bounds, *numbers, str(entry["n"]), str(entry["wrong"])])
        parts.append(_table(header, rows))
        if reasons := sorted({entry["reason"] for entry in scores.values() if entry["reason"]}):
            parts.append(f"Without AUROC or interval: {'; '.join(reasons)}.")
        if gone := [f"{entry['excluded']} of {name}" for name, entry in scores.items() if entry["excluded"]]:
            parts.append(f"Left out, as the record gives no finite number: {', '.join(gone)}.")
    return parts


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Columns without any value are left out."""
    kept = [i for i in range(len(header)) if i < 2 or any(row[i] != _NONE for row in rows)]
    return Table([header[i] for i in kept], [[row[i] for i in kept] for row in rows])


def _score_cells(entry: Mapping[str, Any], counted: bool) -> list[str]:
    n = str(entry["n"]) if counted else _NONE
    return [_share(entry["value"]), n, _interval(entry["low"], entry["high"]), _plain(entry["deff"], ".2f")]


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.1f}"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _interval(low: float | None, high: float | None, signed: bool = False) -> str:
    if low is None or high is None:
        return _NONE
    return f"{_points(low)} to {_points(high)}" if signed else f"{_share(low)} to {_share(high)}"


def _plain(value: float | None, form: str) -> str:
    return _NONE if value is None else format(value, form)
