"""Plots that show one model's scores as a whole: the radar and the reliability of calibrated probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lm_eval_ensemble.metrics.uncertainty import FEW
from lm_eval_ensemble.plots.models import area_of, cells, datasets_of, models_of
from lm_eval_ensemble.plots.style import COLOURS, GREY, MARKERS, Missing, blank, caption, errors, label, listed, plain, short
from lm_eval_ensemble.uncertainty.analysis import PRIMARY, Analysis

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lm_eval_ensemble.metrics.calibration import Calibration

__all__ = ["RADAR", "RELIABLE", "count", "documents", "radar", "reliability", "runs_named", "with_area"]

#: spokes of the radar: metric -> its name on the plot. All are better when higher and 1 at best.
RADAR = {"accuracy": "accuracy", "auroc": "AUROC", "auprc": "AUPRC", "prr": "PRR", "aurac": "AURAC", "acc@80": "acc@80"}
_MOST = 8
#: answers from which reliability is drawn: thirty a bin, whose share is then known to about 18 points either way.
RELIABLE = 300


def radar(analyses: Sequence[Analysis], score: str = PRIMARY) -> Figure:
    """Six metrics of each model at once, one panel per data set. For a first look: areas on a radar mean nothing."""
    known = with_area(analyses, score)
    models, datasets = list(models_of(known)), datasets_of(known)
    drawn, table = models[:_MOST], cells(known)
    figure, panels = blank(
        f"Profile of {score}",
        2.6 + 3.0 * len(datasets),
        5.1,
        1,
        len(datasets),
        subplot_kw={"projection": "polar"},
        squeeze=False,
    )
    angles = np.linspace(0, 2 * math.pi, len(RADAR), endpoint=False)
    cut = False
    for axes, dataset in zip(panels[0], datasets, strict=True):
        for k, name in enumerate(drawn):
            if (analysis := table.get((name, dataset))) is None:
                continue
            values = [_spoke(analysis, score, metric) for metric in RADAR]
            cut = cut or any(value is not None and value < 0 for value in values)
            height = [max(0.0, value or 0.0) for value in values]
            axes.plot([*angles, angles[0]], [*height, height[0]], color=COLOURS[k % len(COLOURS)], lw=1.4, label=plain(name),
                      marker=MARKERS[k % len(MARKERS)], ms=3.5)  # fmt: skip
        axes.set_ylim(0, 1)
        axes.set_yticks([0.25, 0.5, 0.75, 1.0], ["", "0.5", "", "1"], fontsize=7)
        axes.set_xticks(angles, list(RADAR.values()), fontsize=8)
        axes.set_theta_offset(math.pi / 2)
        axes.tick_params(axis="x", pad=6)
        # The layout counts neither a title nor names that stand around a circle: the blank line keeps them off what is above.
        axes.set_title(plain(f"\n{short(dataset)}"), fontsize=9, pad=26)
    handles = {text: line for axes in figure.axes for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), fontsize=8, frameon=False, loc="outside right center")
    more = f"{len(models) - _MOST} more models are not drawn." if len(models) > _MOST else ""
    caption(
        figure,
        documents(known),
        "Centre 0, rim 1, higher is better. A radar has no room for intervals: see the heatmap and the tables.",
        "AUPRC rises with the error rate, accuracy falls with it.",
        "PRR below 0 is drawn at 0." if cut else "",
        more,
    )
    return figure


def reliability(analyses: Sequence[Analysis], method: str = "isotonic", score: str = PRIMARY) -> Figure:
    """Does the probability of being right, made of a score by a cross-fitted calibration, come true? One panel per run.

    :raises Missing: no run has enough answers: :data:`RELIABLE`, and :data:`~lm_eval_ensemble.metrics.uncertainty.FEW` of a
        class.
    """
    rule = f"drawn from {RELIABLE} answers on, {FEW} of them right and {FEW} wrong"
    known = [a for a in analyses if score in a.reports and _enough(a, a.reports[score].calibrations[method])]
    if not known:
        raise Missing(f"too few answers for a reliability diagram ({rule})")
    names = {id(a): name for name, own in models_of(analyses).items() for a in own}
    columns = min(3, len(known))
    rows = math.ceil(len(known) / columns)
    # Room for four lines above each panel and as many below all.
    figure, panels = blank(
        f"Reliability of {score}, {method}", max(5.0, 0.8 + 2.5 * columns), 1.5 + 3.2 * rows, rows, columns, squeeze=False,
        sharex=True, sharey=True,
    )  # fmt: skip
    for axes, analysis in zip(panels.flat, known, strict=False):
        found = analysis.reports[score].calibrations[method]
        axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
        for part in found.bins:
            ends = errors(part.right, part.low, part.high)
            axes.errorbar(part.probability, part.right, yerr=ends, color=COLOURS[0], marker="o", ms=4, lw=1, capsize=2)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        brier = f"Brier {found.brier.value:.2f}, base rate's {found.base:.2f}"
        title = f"{names[id(analysis)]}\n{short(analysis.answers.dataset, 30)}, n = {found.ece.n}"
        label(axes, title=f"{title}\nECE {found.ece.value:.2f} ({found.expected:.2f} if calibrated)\n{brier}")
        axes.title.set_fontsize(7.5)
    for axes in panels.flat[len(known) :]:
        axes.set_visible(False)
    for column in range(columns):
        last = max(i for i in range(rows) if panels[i][column].get_visible())
        label(panels[last][column], "probability of being right")
        panels[last][column].tick_params(labelbottom=True)
    for row in panels:
        label(row[0], row[0].get_xlabel(), "right answers")
    left = len(analyses) - len(known)
    caption(
        figure,
        f"{analyses[0].label} decides what is right. Probabilities from a fit on the other folds, equal-mass bins.",
        "Intervals: 95 %, as those of an accuracy. In brackets: the ECE that these bins would show on average if the "
        "probabilities were true and answers independent.",
        f"{rule.capitalize()}" + (f": {count(left, 'run')} left out." if left else "."),
    )
    return figure


def _enough(analysis: Analysis, found: Calibration) -> bool:
    wrong = int(analysis.wrong.sum())
    return found.ece.n >= RELIABLE and min(wrong, len(analysis.wrong) - wrong) >= FEW and bool(found.bins)


def _spoke(analysis: Analysis, score: str, metric: str) -> float | None:
    return analysis.accuracy.value if metric == "accuracy" else analysis.reports[score].discrimination.metrics[metric].value


def with_area(analyses: Sequence[Analysis], score: str) -> list[Analysis]:
    """The runs that have an AUROC of a score.

    :raises Missing: none has.
    """
    known = [analysis for analysis in analyses if area_of(analysis, score).value is not None]
    if not known:
        reasons = sorted({area_of(analysis, score).reason or "no AUROC" for analysis in analyses})
        raise Missing(f"no run has an AUROC of {score} ({'; '.join(reasons)})")
    return known


def documents(analyses: Sequence[Analysis]) -> str:
    """Documents, and what counts as wrong."""
    counts = sorted({analysis.accuracy.n for analysis in analyses})
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    return f"{n} answers per run; wrong by rule {analyses[0].label}."


def runs_named(analyses: Sequence[Analysis]) -> str:
    """Whose points these are, for plots that have no room for names."""
    names = list(models_of(analyses))
    more = [count(len(names) - _MOST, "more run")] if len(names) > _MOST else []
    return f"Runs: {listed([*names[:_MOST], *more])}."


def count(n: int, what: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{n} {what}" + ("" if n == 1 else "s")
