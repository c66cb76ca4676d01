"""Plots of one run that answers questions, by score: ROC, risk-coverage, and the areas with their intervals.

The analysis is that of ``lm-eval-ensemble uncertainty``: what is printed on a plot is what its table prints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lm_eval_ensemble.metrics.bootstrap import percentile, resamples
from lm_eval_ensemble.metrics.clustered import FEW_CLUSTERS
from lm_eval_ensemble.metrics.rejection import grouped, risks, roc
from lm_eval_ensemble.metrics.uncertainty import FEW, Pairs, usable
from lm_eval_ensemble.plots.models import area_of
from lm_eval_ensemble.plots.profiles import with_area
from lm_eval_ensemble.plots.style import COLOURS, GREY, INK, blank, caption, errors, interval, label, plain, titled
from lm_eval_ensemble.uncertainty.analysis import BASELINE, Analysis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CURVES_OF_A_RUN", "auroc_bars", "risk_coverage_of_scores", "roc_of_scores"]

Floats = NDArray[np.float64]
_DRAWS = 300
# Documents of one block of resamples: bounds the memory of large runs.
_BLOCK = 1_000_000
#: where a band is computed; curves themselves have all their points.
_RATES = np.linspace(0, 1, 51)
_COVERAGES = tuple(k / 50 for k in range(1, 51))
_COLUMNS = 4
_BAND = f"Bands: pointwise 95 %, {_DRAWS} resamples of "


def roc_of_scores(analysis: Analysis, run: str, seed: int = 0) -> Figure:
    """The share of wrong answers that a threshold finds, by the share of right ones that it flags too; one panel per score.

    :raises Missing: no score has an AUROC: all answers are right, or all wrong.
    """
    names = _names(analysis)
    figure, panels = _panels(titled("Finding the wrong answers: ROC", analysis.answers.dataset, run), names)
    base = _pairs(analysis, BASELINE) if BASELINE in names else None
    for axes, name in zip(panels, names, strict=True):
        pairs, area = _pairs(analysis, name), area_of(analysis, name)
        axes.plot([0, 100], [0, 100], color=GREY, lw=1, ls="--")
        if base is not None and name != BASELINE:
            axes.plot(*_staircase(base), color=COLOURS[1], lw=0.9, alpha=0.8)
        if (band := _band(pairs, lambda total, wrong: roc(total, wrong, _RATES), seed)) is not None:
            axes.fill_between(100 * _RATES, 100 * band[0], 100 * band[1], color=COLOURS[0], alpha=0.18, lw=0)
        axes.plot(*_staircase(pairs), color=COLOURS[0], lw=1.4)
        axes.set(xlim=(-2, 102), ylim=(-2, 102), aspect="equal")
        label(axes, title=f"{name}\n{area.value or 0.0:.3f} {interval(area.low, area.high, 3)}".rstrip())
        axes.title.set_fontsize(8)
    _label_outside(panels, "right answers flagged, %", "wrong answers found, %")
    caption(
        figure,
        _counts(analysis),
        "In each title: the AUROC with its 95 % interval, as in the table of `uncertainty`.",
        _BAND + _drawn(analysis),
        "Dashed: chance." + (f" Orange: {BASELINE}, the baseline." if base is not None else ""),
        warning=_few(analysis),
    )
    return figure


def risk_coverage_of_scores(analysis: Analysis, run: str, seed: int = 0) -> Figure:
    """The share of wrong answers among those given when only the most certain ones are; one panel per score.

    :raises Missing: no score has an AUROC: then every order of the answers is as good.
    """
    names = _names(analysis)
    figure, panels = _panels(titled("What abstaining gains: risk and coverage", analysis.answers.dataset, run), names)
    coverages = 100 * np.array(_COVERAGES)
    for axes, name in zip(panels, names, strict=True):
        pairs, metrics = _pairs(analysis, name), analysis.reports[name].discrimination.metrics
        risk = float(pairs.wrong.mean())
        axes.axhline(100 * risk, color=GREY, lw=1, ls="--")
        # The perfect order keeps every right answer before the first wrong one.
        ideal = np.maximum(0.0, 1 - (1 - risk) / (coverages / 100))
        axes.plot(coverages, 100 * ideal, color=COLOURS[2], lw=1.2, ls=":")
        if (band := _band(pairs, lambda total, wrong: risks(total, wrong, _COVERAGES), seed)) is not None:
            axes.fill_between(coverages, 100 * band[0], 100 * band[1], color=COLOURS[0], alpha=0.18, lw=0)
        axes.plot(coverages, 100 * risks(*grouped(pairs.score, pairs.wrong), _COVERAGES)[0], color=COLOURS[0], lw=1.4)
        axes.set_xlim(0, 101)
        aurc, prr = metrics["aurc"].value, metrics["prr"].value
        told = [] if aurc is None else [f"AURC {aurc:.3f}"]
        label(axes, title=f"{name}\n{', '.join([*told, *([] if prr is None else [f'PRR {prr:.3f}'])])}")
        axes.title.set_fontsize(8)
    panels[0].set_ylim(0, min(100.0, panels[0].get_ylim()[1]))
    _label_outside(panels, "answers given, % (surest first)", "wrong among them, %")
    caption(
        figure,
        _counts(analysis),
        "Equal scores are taken in random order, in expectation.",
        _BAND + _drawn(analysis),
        "Dashed: chance, a random order. Dotted: ideal, all right answers first. PRR: 1 ideal, 0 chance.",
        warning=_few(analysis),
    )
    return figure


def auroc_bars(analysis: Analysis, run: str, seed: int = 0) -> Figure:
    """The AUROC of every score with its interval, in the order of the table.

    :raises Missing: no score has one.
    """
    names = _names(analysis)
    figure, axes = blank(
        titled("AUROC: finding the wrong answers", analysis.answers.dataset, run), height=1.9 + 0.26 * len(names)
    )
    for place, name in enumerate(names):
        area = area_of(analysis, name)
        value, colour = area.value or 0.0, COLOURS[1] if name == BASELINE else COLOURS[0]
        ends = errors(value, area.low, area.high)
        axes.errorbar(value, place, xerr=ends, color=colour, marker="o", ms=5, lw=1.4, capsize=3)
        axes.annotate(
            f"{value:.3f} {interval(area.low, area.high, 3)}".rstrip(), (1.02, place), xycoords=("axes fraction", "data"),
            va="center", fontsize=8, color=INK, annotation_clip=False,
        )  # fmt: skip
    axes.axvline(0.5, color=GREY, lw=1, ls="--")
    axes.set_yticks(range(len(names)), [f"{plain(name)} (baseline)" if name == BASELINE else plain(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    lows = [area_of(analysis, name).low for name in names]
    axes.set_xlim(min([0.45, *(low - 0.02 for low in lows if low is not None)]), 1.01)
    label(axes, "AUROC")
    methods = dict.fromkeys(area_of(analysis, name).method for name in names)
    several = len(names) > 1
    caption(
        figure,
        _counts(analysis),
        f"95 % intervals: {'; '.join(methods)} (docs/uncertainty.md), each for itself"
        + (f", not for all {len(names)}." if several else "."),
        "They do not tell whether two scores differ: the paired tests of the table do." if several else "",
        "Dashed: chance.",
        warning=_few(analysis),
    )
    return figure


def _names(analysis: Analysis) -> list[str]:
    """The scores that have an AUROC, in the order of the table."""
    found = [name for name in analysis.reports if area_of(analysis, name).value is not None]
    if not found:
        with_area([analysis], next(iter(analysis.reports)))
    return found


def _pairs(analysis: Analysis, name: str) -> Pairs:
    return usable(analysis.columns[name], analysis.wrong, analysis.answers.clusters or None)


def _panels(title: str, names: Sequence[str]) -> tuple[Figure, list[Axes]]:
    columns = min(_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure, grid = blank(
        title, max(4.6, 0.6 + 2.0 * columns), 1.7 + 2.15 * rows, rows, columns, squeeze=False, sharex=True, sharey=True
    )
    every = list(grid.flat)
    for axes in every[len(names) :]:
        axes.set_visible(False)
    return figure, every[: len(names)]


def _label_outside(panels: Sequence[Axes], x: str, y: str) -> None:
    """Names of the axes at the left and below, also where the last row is not full."""
    columns = min(_COLUMNS, len(panels))
    for i, axes in enumerate(panels):
        below = i + columns >= len(panels)
        axes.tick_params(labelbottom=below, labelsize=7)
        axes.set_xlabel(x if below else "", fontsize=7.5, color=INK)
        axes.set_ylabel(y if i % columns == 0 else "", fontsize=7.5, color=INK)


def _staircase(pairs: Pairs) -> tuple[Floats, Floats]:
    """The ROC curve, in percent: right answers flagged, wrong answers found, at every threshold."""
    total, wrong = grouped(pairs.score, pairs.wrong)
    found, flagged = (np.concatenate([[0.0], np.cumsum(part[0, ::-1])]) for part in (wrong, total - wrong))
    return 100 * flagged / flagged[-1], 100 * found / found[-1]


def _band(pairs: Pairs, curve: Callable[[Floats, Floats], Floats], seed: int) -> Floats | None:
    """Low and high ends (2, points) over resamples of what is drawn; None where one cluster is all there is."""
    if pairs.clusters == 1:
        return None
    counts, _ = resamples(pairs.wrong, _DRAWS, seed, pairs.codes)
    rows = max(1, _BLOCK // len(pairs.wrong))
    drawn = np.concatenate([curve(*grouped(pairs.score, pairs.wrong, counts[i : i + rows])) for i in range(0, _DRAWS, rows)])
    ends: Floats = np.array([percentile(column) or (np.nan, np.nan) for column in drawn.T]).T
    return ends


def _counts(analysis: Analysis) -> str:
    wrong, kind = int(analysis.wrong.sum()), analysis.answers.kind
    of = f" of {len(set(analysis.answers.clusters))} {kind}" if kind else ""
    right = len(analysis.wrong) - wrong
    gone = [f"{area.excluded} of {name}" for name in _names(analysis) if (area := area_of(analysis, name)).excluded]
    left = f" Left out, as they have no such score: {', '.join(gone)}." if gone else ""
    return f"n = {len(analysis.wrong)} answers{of}: {right} right, {wrong} wrong by rule {analysis.label}.{left}"


def _drawn(analysis: Analysis) -> str:
    return f"{analysis.answers.kind or 'answers'}."


def _few(analysis: Analysis) -> str:
    """What the tables warn of: few answers of a class, few clusters."""
    wrong, count = int(analysis.wrong.sum()), len(set(analysis.answers.clusters))
    parts = []
    if min(wrong, len(analysis.wrong) - wrong) < FEW:
        parts.append(f"fewer than {FEW} answers are {'wrong' if 2 * wrong < len(analysis.wrong) else 'right'}")
    if 0 < count < FEW_CLUSTERS:
        parts.append(f"{count} {analysis.answers.kind} are few")
    return (
        f"{' and '.join(parts)}: bands are too narrow, and intervals rest on assumptions (docs/uncertainty.md)."
        if parts
        else ""
    )


#: last part of a file's name -> what draws it, of an analysis and the name of its run.
CURVES_OF_A_RUN: Mapping[str, Callable[[Analysis, str, int], Figure]] = {
    "auroc": auroc_bars,
    "roc": roc_of_scores,
    "risk-coverage": risk_coverage_of_scores,
}
