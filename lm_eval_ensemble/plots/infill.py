"""Plots of runs that fill gaps: scores, what the members disagree on, selection, and lengths.

``report`` is what :func:`lm_eval_ensemble.report.run.report_of` says: the heights of all bars are its figures.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_eval_ensemble.errors import counted
from lm_eval_ensemble.metrics.bootstrap import percentile
from lm_eval_ensemble.metrics.rejection import grouped, risks
from lm_eval_ensemble.plots.style import (
    COLOURS,
    GREY,
    INK,
    MARKERS,
    Missing,
    blank,
    caption,
    errors,
    label,
    percent,
    plain,
    titled,
    unit_of,
)
from lm_eval_ensemble.report.records import Measured, own_score
from lm_eval_ensemble.report.signals import COVERAGES, margin
from lm_eval_ensemble.runs.samples import Choice
from lm_eval_ensemble.selection.base import score_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["accuracy_bars", "length_histogram", "risk_coverage", "score_scatter", "selection_by_margin"]

Report = Mapping[str, Any]
# One colour each in all plots: the ensemble, what belongs to no member, and the members in their order.
_ENSEMBLE, _PALE = "#707070", "#d9d9d9"
_MEMBERS = (COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[3], COLOURS[4], COLOURS[5])
_BOUND = "bound"
_LENGTH_TOLD = "length=oracle: the diffusion model is told the length of every gap, which leaks part of the answer."
_DRAWS = 500
# Resamples at a time: bounds the memory of large runs.
_BLOCK = 20


def accuracy_bars(reports: Sequence[Report]) -> Figure:
    """Scores of the runs of one task: an ensemble with its members, oracle and floor, a single model as one bar."""
    # Name, colour and figures of a bar; no figures: the name of the run whose bars follow.
    rows: list[tuple[str, str, Mapping[str, Any] | None]] = []
    colours: dict[str, str] = {}
    for report in reports:
        figures, run = report["figures"], report["run"]
        if "members" not in figures:
            rows.append((textwrap.fill(run, 40), COLOURS[5], figures["score"]))
            continue
        if len(reports) > 1:
            rows.append((run, INK, None))
        rows.append(("oracle", _BOUND, figures["oracle"]))
        rows.append(("ensemble", _ENSEMBLE, figures["score"]))
        for member, entry in figures["members"].items():
            colours.setdefault(member, _MEMBERS[len(colours) % len(_MEMBERS)])
            rows.append((member, colours[member], entry))
        rows.append(("floor", _BOUND, figures["floor"]))
    metric, share = reports[0]["metric"], all(0 <= entry["value"] <= 1 for _, _, entry in rows if entry)
    scale = 100.0 if share else 1.0
    task = reports[0]["task"]
    title = f"{task}: {metric}" if len(reports) > 1 else titled(metric, task, reports[0]["run"])
    figure, axes = blank(title, height=1.7 + 0.34 * len(rows))
    furthest = max(scale * (entry["high"] if entry["high"] is not None else entry["value"]) for _, _, entry in rows if entry)
    for place, (name, colour, entry) in enumerate(rows):
        if entry is None:
            own = {"xycoords": axes.get_yaxis_transform(), "va": "center", "fontsize": 8, "fontweight": "bold"}
            axes.annotate(plain(name), (0, place), xytext=(4, 0), textcoords="offset points", color=colour, **own)
            continue
        look = {"color": "white", "edgecolor": GREY, "hatch": "////"} if colour == _BOUND else {"color": colour}
        value = scale * entry["value"]
        low, high = (None if entry[key] is None else scale * entry[key] for key in ("low", "high"))
        axes.barh(place, value, height=0.7, xerr=errors(value, low, high), ecolor=INK, capsize=3, **look)
        axes.annotate(
            f"{value:.1f}" if share else f"{value:.3g}",
            (value if high is None else high, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_yticks(*zip(*((place, plain(name)) for place, (name, _, entry) in enumerate(rows) if entry), strict=True))
    axes.invert_yaxis()
    axes.set_xlim(0, furthest * 1.12 or 1.0)
    label(axes, f"{metric}, %" if share else metric)
    bounds = "oracle: some candidate is right; floor: all are." if any(colour == _BOUND for _, colour, _ in rows) else ""
    gone = list(dict.fromkeys(name for name, _, entry in rows if entry and entry["low"] is None))
    caption(
        figure,
        _documents(reports),
        "Bars: mean with 95 % interval clustered by problem (docs/report.md).",
        f"No interval: {', '.join(gone)} (one problem, or no variation)." if gone else "",
        bounds,
        warning=_LENGTH_TOLD if any(report.get("length_mode") == "oracle" for report in reports) else "",
    )
    return figure


def score_scatter(report: Report, rows: Sequence[Measured], pair: tuple[str, str] | None = None) -> Figure:
    """The selection score of two members' texts for the same gap, coloured by who is right. Low is likely; the rule takes the
    first member's text above the diagonal, the second's below it.

    :raises Missing: one member only, or the rule's scores were not recorded.
    """
    first, second = pair or _pair(report)
    rule = report["figures"]["rule"]
    classes: dict[tuple[bool, bool], list[tuple[float, float]]] = {}
    choices = [choice for row in rows for choice in row.choices]
    for choice in choices:
        own, other = choice.of(first), choice.of(second)
        if not own or not other:
            continue
        (ours, right), (theirs, also) = own[0], other[0]
        a, b = score_of(ours, rule), score_of(theirs, rule)
        if a is not None and b is not None:
            classes.setdefault((right, also), []).append((a, b))
    if not classes:
        raise Missing(f"no gap has the score {rule} for both {first} and {second}")
    used = sum(map(len, classes.values()))
    figure, axes = blank(_title("Which text is likelier, and which is right", report), 6.4, 5.8)
    styles = {
        (False, False): ("neither", GREY, ".", 0.35),
        (True, True): ("both", INK, "x", 0.7),
        (True, False): (f"only {first}", COLOURS[0], "o", 0.85),
        (False, True): (f"only {second}", COLOURS[1], "^", 0.85),
    }
    for key, (name, colour, marker, alpha) in styles.items():
        if points := classes.get(key):
            x, y = zip(*points, strict=True)
            size = 16 if key == (False, False) else 26
            axes.scatter(
                x,
                y,
                s=size,
                c=colour,
                marker=marker,
                alpha=alpha,
                linewidths=0.8,
                label=f"{name.replace('$', '')} right: {len(points)}",
            )
    high = max(max(point) for points in classes.values() for point in points)
    low = min(0.0, min(min(point) for points in classes.values() for point in points))
    axes.plot([low, high], [low, high], color=INK, lw=0.8, ls="--")
    for name, place, ha, va in ((first, (0.015, 0.985), "left", "top"), (second, (0.985, 0.015), "right", "bottom")):
        axes.text(
            *place, f"{name}'s text is likelier".replace("$", r"\$"), transform=axes.transAxes, ha=ha, va=va, fontsize=8,
            style="italic",
        )  # fmt: skip
    axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=4, frameon=False, columnspacing=1.2)
    label(axes, f"{rule} of {first}'s text, {unit_of(rule)}", f"{rule} of {second}'s text, {unit_of(rule)}")
    decided = sum(a < b for a, b in classes.get((True, False), [])) + sum(b < a for a, b in classes.get((False, True), []))
    decisive = len(classes.get((True, False), [])) + len(classes.get((False, True), []))
    share = f" ({percent(decided / decisive)})" if decisive else ""
    left = f"{len(choices) - used} without both scores are left out." if used < len(choices) else ""
    caption(
        figure,
        f"n = {used} pairs of candidates.",
        left,
        f"Where one member alone is right, its text is the likelier one in {decided} of {decisive}{share}.",
        "Lower is likelier.",
    )
    return figure


def selection_by_margin(report: Report) -> Figure:
    """Selection accuracy by how clear the decision was, in quarters of the decisive choices.

    :raises Missing: no choice is decisive, or none has a margin.
    """
    figures = report["figures"]
    bins = (figures.get("risk_coverage") or {}).get("selection_accuracy_by_margin")
    if not bins:
        raise Missing("no choice between a right and a wrong candidate has a margin")
    figure, axes = blank(_title("Does a clear decision mean a right one?", report), height=4.2)
    for place, part in enumerate(bins):
        value = part["accuracy"]
        low, high = (None if part[end] is None else 100 * part[end] for end in ("accuracy_low", "accuracy_high"))
        axes.bar(place, 100 * value, width=0.65, color=_ENSEMBLE, yerr=errors(100 * value, low, high), ecolor=INK, capsize=3)
        top = 100 * value if high is None else high
        axes.annotate(f"{100 * value:.0f} %", (place, top), (0, 3), textcoords="offset points", ha="center", fontsize=8)
    even = figures["selection"]["break_even"]
    if even is not None:
        axes.axhline(100 * even, color=COLOURS[1], lw=1.2, ls="--", zorder=3)
        # Beside the bars: above one of them it would cover its number.
        axes.annotate(
            *("always the\nbest member", (len(bins) - 0.55, 100 * even), (0, 3)),
            textcoords="offset points", fontsize=8, color=COLOURS[1],
        )  # fmt: skip
    axes.set_xticks(
        range(len(bins)), [f"{part['margin_from']:.2g} to {part['margin_to']:.2g}\nn = {part['n']}" for part in bins]
    )
    axes.set_ylim(0, 118)
    axes.set_yticks(range(0, 101, 20))
    axes.set_xlim(-0.6, len(bins) + 0.15)
    label(axes, f"margin under {figures['rule']}, {unit_of(figures['rule'])}", "right choices, %")
    caption(
        figure,
        f"n = {sum(part['n'] for part in bins)} decisive choices (some candidate right, some wrong), in equal parts by margin.",
        "95 % intervals, clustered by problem (docs/report.md).",
    )
    return figure


def risk_coverage(report: Report, rows: Sequence[Measured], seed: int = 0) -> Figure:
    """Error among the answers kept when the least certain ones are left out.

    The band is pointwise: percentiles over resamples of whole problems.

    :raises Missing: nothing orders the answers, or all are right or all wrong.
    """
    found = report["figures"].get("risk_coverage")
    if not found:
        raise Missing("no score orders the answers")
    if found["risk"] in (0.0, 1.0):
        raise Missing(f"all answers are {'wrong' if found['risk'] else 'right'}: every order is as good")
    x = [point["coverage"] for point in found["points"]]
    y = [100 * point["risk"] for point in found["points"]]
    figure, axes = blank(_title("What leaving out uncertain answers gains", report), height=4.4)
    band = _band(rows, found["by"] == "margin", seed)
    if band is not None:
        axes.fill_between([100 * value for value in x], 100 * band[0], 100 * band[1], color=_ENSEMBLE, alpha=0.15, lw=0)
    axes.plot([100 * value for value in x], y, color=_ENSEMBLE, marker="o", ms=3, lw=1.6, label=f"by {found['by']}")
    axes.axhline(100 * found["risk"], color=GREY, lw=1.2, ls="--", label="random order")
    # A perfect order keeps every right answer before the first wrong one.
    right = 1 - found["risk"]
    perfect = [100 * max(0.0, (value - right) / value) for value in x]
    axes.plot([100 * value for value in x], perfect, color=COLOURS[2], lw=1.4, ls=":", label="perfect order")
    axes.legend(fontsize=8, frameon=False, loc="best")
    axes.set_xlim(0, 101)
    axes.set_ylim(0, None)
    label(axes, f"answers kept, % (surest first, by {found['by']})", "wrong among them, %")
    prr = "" if found["prr"] is None else f"; PRR {found['prr']:.2f} (1 perfect, 0 random)"
    caption(
        figure,
        f"n = {found['n']} answers, {found['excluded']} without a margin or score left out.",
        f"AURC {found['aurc']:.3f}, perfect order {found['aurc'] - found['eaurc']:.3f}{prr}.",
        f"Band: pointwise 95 %, {_DRAWS} resamples of problems." if band is not None else "No band: one problem only.",
    )
    return figure


def length_histogram(report: Report) -> Figure:
    """How long the gaps are, how many of each length are filled, and by whom.

    :raises Missing: no document has a length, or the metric is no share.
    """
    figures = report["figures"]
    found = figures.get("by_length")
    if not found:
        raise Missing("no document has a length")
    bins = found["bins"]
    if not all(0 <= part["score"] <= 1 for part in bins):
        raise Missing(f"{report['metric']} is no share of documents")
    members = list(bins[0].get("members", {}))
    title = _title(f"By length of the {found['of']}", report)
    figure, (top, bottom) = blank(title, 6.4, 5.6, 2, sharex=True, height_ratios=[1.1, 1])
    places = np.arange(len(bins))
    n = np.array([part["n"] for part in bins])
    right = np.array([part["n"] * part["score"] for part in bins])
    top.bar(places, right, width=0.8, color=_ENSEMBLE, label=report["metric"].replace("$", r"\$"))
    top.bar(places, n - right, bottom=right, width=0.8, color=_PALE, label="the rest")
    for place, part in zip(places, bins, strict=True):
        top.annotate(str(part["n"]), (place, part["n"]), (0, 2), textcoords="offset points", ha="center", fontsize=8)
    top.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(-0.01, 0.98), ncols=2)
    top.margins(y=0.12)
    label(top, y="documents")
    lines = [("score" if not members else "ensemble", "score", [part["score"] for part in bins])]
    lines += [(member, member, [part["members"][member] for part in bins]) for member in members]
    for k, (name, key, values) in enumerate(lines):
        shift = (k - (len(lines) - 1) / 2) * 0.14
        # A member has no value where no document of the bin has a record of it.
        known = [
            (place, value, part["intervals"][key])
            for place, value, part in zip(places, values, bins, strict=True)
            if value is not None
        ]
        if not known:
            continue
        # The two ends may touch a value of 0 or 1 from the other side by rounding; without an interval there is no line.
        ends = [(v if low is None else low, v if high is None else high) for _, v, (low, high) in known]
        distance = 100 * np.array([[max(0, v - e[0]), max(0, e[1] - v)] for (_, v, _), e in zip(known, ends, strict=True)]).T
        x, y = np.array([place for place, _, _ in known]), 100 * np.array([value for _, value, _ in known])
        colour = _ENSEMBLE if k == 0 else _MEMBERS[(k - 1) % len(_MEMBERS)]
        bottom.errorbar(
            x + shift, y, yerr=distance, color=colour, marker=MARKERS[k % len(MARKERS)], ms=5, lw=1.2,
            ls="-" if k == 0 else ":", capsize=2, label=name.replace("$", r"\$"),
        )  # fmt: skip
    bottom.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(-0.01, 0.98), ncols=len(lines))
    bottom.set_ylim(0, None)
    bottom.set_xticks(places, [_bin_name(part) for part in bins])
    label(bottom, f"length of the {found['of']}, {found['unit']}", f"{report['metric']}, %")
    caption(
        figure,
        _documents([report]),
        "Numbers above the bars: documents. 95 % intervals, clustered by problem (docs/report.md).",
    )
    return figure


def _band(rows: Sequence[Measured], by_margin: bool, seed: int) -> Any:
    """Low and high risk (2, coverages) over resamples of problems; None where there is one problem."""
    known: list[tuple[float, bool, Any]] = []
    for row in rows:
        for choice in row.choices:
            own = _uncertainty(choice, by_margin)
            if own is not None:
                known.append((own, not choice.is_right, row.cluster))
    names = {name: number for number, name in enumerate(dict.fromkeys(entry[2] for entry in known))}
    if len(names) < 2:
        return None
    cluster = np.array([names[entry[2]] for entry in known])
    score, wrong = np.array([entry[0] for entry in known]), np.array([entry[1] for entry in known])
    generator = np.random.default_rng(seed)
    drawn_risks = []
    for _ in range(_DRAWS // _BLOCK):
        drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=_BLOCK)
        total, mistakes = grouped(score, wrong, drawn[:, cluster])
        drawn_risks.append(risks(total, mistakes, COVERAGES))
    return np.array([percentile(column) for column in np.concatenate(drawn_risks).T]).T


def _uncertainty(choice: Choice, by_margin: bool) -> float | None:
    if not by_margin:
        return own_score(choice.chosen)
    found = margin(choice)
    return None if found is None else -found


def _title(what: str, report: Report) -> str:
    return titled(what, report["task"], report["run"])


def _pair(report: Report) -> tuple[str, str]:
    members = list(report["figures"].get("members", {}))
    if len(members) < 2:
        raise Missing("one model only: nothing to choose between")
    return members[0], members[1]


def _documents(reports: Sequence[Report]) -> str:
    every = [report["figures"] for report in reports]
    sizes = [f"{counted(f['n'], 'documents')} of {counted(f['problems'], f['clusters_are'])}" for f in every]
    if len(set(sizes)) == 1:
        return f"n = {sizes[0]}."
    parts = [f"{report['run']} {size}" for report, size in zip(reports, sizes, strict=True)]
    return f"Documents differ: {'; '.join(parts)}."


def _bin_name(part: Mapping[str, Any]) -> str:
    return f"{part['low']} and more" if part["high"] is None else f"{part['low']} to {part['high'] - 1}"
