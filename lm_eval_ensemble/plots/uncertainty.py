"""Plots of models that answer questions: how well a score tells their wrong answers, by model, data set, family and size.

Every function takes the analyses of ``lm-eval-ensemble uncertainty`` (one per task and run) and draws the runs that have what
it shows; :class:`~lm_eval_ensemble.plots.style.Missing` says why there is nothing to draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_eval_ensemble.metrics.uncertainty import FEW
from lm_eval_ensemble.plots.models import aliasing, area_of, by_size, cells, datasets_of, fewest, models_of, size_pairs
from lm_eval_ensemble.plots.profiles import count, documents, radar, reliability, runs_named, with_area
from lm_eval_ensemble.plots.style import (
    COLOURS,
    INK,
    MARKERS,
    Missing,
    blank,
    caption,
    errors,
    interval,
    label,
    plain,
    short,
)
from lm_eval_ensemble.uncertainty.analysis import PRIMARY, Analysis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PLOTS", "accuracy_against_auroc", "auroc_heatmap", "dataset_effect", "family_bars", "size_effect"]

_CHANCE = "0.5 is chance."
_DELONG = "Intervals: 95 %, DeLong on the logit scale (docs/uncertainty.md)."
# How a point is filled tells the precision.
_FILLS = ("full", "none", "left", "bottom", "right", "top")


def auroc_heatmap(analyses: Sequence[Analysis], score: str = PRIMARY) -> Figure:
    """AUROC of a score, models by data sets; every cell with its interval, or why it is empty."""
    models, datasets, table = list(models_of(analyses)), datasets_of(analyses), cells(analyses)
    values = np.full((len(models), len(datasets)), np.nan)
    notes: dict[str, None] = {}
    few = False
    figure, axes = blank(
        f"AUROC of {score}: finding the wrong answers", max(5.0, 2.6 + 1.9 * len(datasets)), 1.9 + 0.55 * len(models)
    )
    for i, model in enumerate(models):
        for j, dataset in enumerate(datasets):
            analysis = table.get((model, dataset))
            area = area_of(analysis, score) if analysis else None
            if area is None or area.value is None:
                text = "not run" if area is None else f"none\nn = {area.n}"
                if area is not None and area.reason:
                    notes[area.reason] = None
                axes.text(j, i, text, ha="center", va="center", fontsize=8, color=INK)
                continue
            values[i, j] = area.value
            dark = abs(area.value - 0.5) > 0.33
            star = "*" if analysis is not None and fewest(analysis) < FEW else ""
            few |= bool(star)
            text = f"{area.value:.2f}{star} {interval(area.low, area.high)}\nn = {area.n}"
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else INK)
    image = axes.imshow(np.ma.masked_invalid(values), cmap="PuOr_r", vmin=0, vmax=1, aspect="auto")
    axes.set_facecolor("#eeeeee")
    axes.spines[:].set_visible(False)
    axes.set_xticks(range(len(datasets)), [plain(short(name)) for name in datasets])
    axes.set_yticks(range(len(models)), [plain(name) for name in models])
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
    bar.ax.tick_params(labelsize=8)
    bar.set_label("AUROC", fontsize=9)
    empty = f"None where {'; '.join(notes)}." if notes else ""
    told = f"* from fewer than {FEW} right or fewer than {FEW} wrong answers, which are too few to know an AUROC well."
    caption(figure, documents(analyses), _DELONG, _CHANCE, empty, warning=told if few else "")
    return figure


def family_bars(analyses: Sequence[Analysis], score: str = PRIMARY) -> Figure:
    """Mean AUROC of the models of each family, by data set, with the models themselves as points."""
    known = with_area(analyses, score)
    families = list(dict.fromkeys(a.answers.origin.family for a in known))
    datasets = datasets_of(known)
    figure, axes = blank(f"AUROC of {score} by family", max(5.0, 2.2 + 1.1 * len(families) * len(datasets)), 4.2)
    width = 0.8 / len(datasets)
    for j, dataset in enumerate(datasets):
        for i, family in enumerate(families):
            own = [a for a in known if a.answers.origin.family == family and a.answers.dataset == dataset]
            if not own:
                continue
            areas = [area_of(a, score) for a in own]
            place = i + (j - (len(datasets) - 1) / 2) * width
            mean = math.fsum(area.value or 0.0 for area in areas) / len(areas)
            axes.bar(place, mean, width * 0.92, color=COLOURS[j % len(COLOURS)], alpha=0.45)
            axes.annotate(f"{mean:.2f}", (place, 0), (0, 4), textcoords="offset points", ha="center", fontsize=8)
            for k, area in enumerate(areas):
                spot = place + (k - (len(areas) - 1) / 2) * width * 0.6 / len(areas)
                _point(axes, spot, area, COLOURS[j % len(COLOURS)], MARKERS[j % len(MARKERS)])
    for j, dataset in enumerate(datasets):
        axes.bar(0, 0, color=COLOURS[j % len(COLOURS)], alpha=0.6, label=plain(short(dataset)))
    axes.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(datasets))
    counts = {family: len({a.answers.origin for a in known if a.answers.origin.family == family}) for family in families}
    axes.set_xticks(range(len(families)), [f"{plain(name)}\n{count(counts[name], 'model')}" for name in families])
    axes.axhline(0.5, color=INK, lw=0.8, ls="--")
    axes.set_xlim(-0.7, len(families) - 0.3)
    axes.set_ylim(0, 1.03)
    label(axes, y=f"AUROC of {score}")
    caption(
        figure,
        documents(known),
        "Points: models with 95 % intervals (DeLong). Bars: their mean; it has no interval, because the models are no sample "
        "of a family.",
        "Dashed: chance.",
        runs_named(known),
    )
    return figure


def size_effect(analyses: Sequence[Analysis], score: str = PRIMARY) -> Figure:
    """AUROC over the number of parameters; models of one family on one data set are joined.

    :raises Missing: the size of fewer than two models is known.
    """
    known = by_size(with_area(analyses, score))
    if len({a.answers.origin.parameters for a in known}) < 2:
        raise Missing("the number of parameters of two models of different size is needed")
    datasets = datasets_of(known)
    families = list(dict.fromkeys(a.answers.origin.family for a in known))
    precisions = list(dict.fromkeys(a.answers.origin.precision for a in known))
    colour = {family: COLOURS[i % len(COLOURS)] for i, family in enumerate(families)}
    spots: dict[int, float] = {}
    last = 0.0
    # Models of nearly one size would hide each other: the larger one is moved to the right.
    for own in sorted(models_of(known).values(), key=lambda own: _size(own[0])):
        last = max(_size(own[0]), 1.12 * last)
        spots |= {id(analysis): last for analysis in own}
    figure, panels = blank(
        f"AUROC of {score} and the size of the model",
        2.2 + 2.8 * len(datasets),
        4.4,
        1,
        len(datasets),
        sharey=True,
        squeeze=False,
    )
    for axes, dataset in zip(panels[0], datasets, strict=True):
        own = [a for a in known if a.answers.dataset == dataset]
        for a, b in _neighbours(own):
            alike = a.answers.origin.precision == b.answers.origin.precision
            x, y = zip(*[(spots[id(c)], area_of(c, score).value) for c in (a, b)], strict=True)
            axes.plot(x, y, color=colour[a.answers.origin.family], lw=1.2, ls="-" if alike else "--", alpha=0.8, zorder=1)
        for analysis in own:
            origin, area = analysis.answers.origin, area_of(analysis, score)
            fill = _FILLS[precisions.index(origin.precision) % len(_FILLS)]
            _point(
                axes,
                spots[id(analysis)],
                area,
                colour[origin.family],
                MARKERS[families.index(origin.family) % len(MARKERS)],
                fill,
            )
        axes.axhline(0.5, color=INK, lw=0.8, ls=":")
        _log_sizes(axes, [_size(a) for a in known])
        label(axes, "parameters", f"AUROC of {score}" if axes is panels[0][0] else "", short(dataset))
    for family in families:
        marker = MARKERS[families.index(family) % len(MARKERS)]
        panels[0][0].plot([], [], color=colour[family], marker=marker, ls="", label=plain(family))
    for precision in precisions:
        fill = _FILLS[precisions.index(precision) % len(_FILLS)]
        panels[0][0].plot([], [], color=INK, marker="o", ls="", fillstyle=fill, label=plain(precision))
    figure.legend(fontsize=8, frameon=False, loc="outside right center")
    dropped = len(with_area(analyses, score)) - len(known)
    left = f"{dropped} of unknown size are left out." if dropped else ""
    caption(
        figure,
        documents(known),
        _DELONG,
        "Dotted: chance. Models that would hide each other are moved to the right.",
        left,
        runs_named(known),
        warning=aliasing(known).caveat,
    )
    return figure


def dataset_effect(analyses: Sequence[Analysis], score: str = PRIMARY) -> Figure:
    """AUROC of every model on each data set, joined.

    :raises Missing: no model has an AUROC on two data sets.
    """
    known = with_area(analyses, score)
    datasets = datasets_of(known)
    several = {name: own for name, own in models_of(known).items() if len(own) > 1}
    if not several:
        raise Missing("no model has an AUROC on two data sets")
    figure, axes = blank(f"AUROC of {score} by data set", max(6.4, 3.2 + 1.8 * len(datasets)), 4.4)
    ends = []
    for k, (name, own) in enumerate(several.items()):
        shift = (k - (len(several) - 1) / 2) * 0.05
        colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
        spots = [(datasets.index(a.answers.dataset) + shift, area_of(a, score)) for a in own]
        spots.sort(key=lambda spot: spot[0])
        axes.plot([x for x, _ in spots], [area.value for _, area in spots], color=colour, lw=1.2)
        for x, area in spots:
            _point(axes, x, area, colour, marker)
        ends.append((spots[-1][1].value or 0.0, name, colour, spots[-1][0]))
    _names_beside(axes, ends, len(datasets) - 1 + 0.05 * len(several))
    axes.axhline(0.5, color=INK, lw=0.8, ls=":")
    axes.set_xlim(-0.4, len(datasets) - 0.05)
    axes.set_xticks(range(len(datasets)), [plain(short(name)) for name in datasets])
    label(axes, y=f"AUROC of {score}")
    caption(figure, documents(known), _DELONG, "Dotted: chance. The questions of two data sets are not the same: unpaired.")
    return figure


def accuracy_against_auroc(analyses: Sequence[Analysis], score: str = PRIMARY) -> Figure:
    """Are models that know more also better at telling what they do not know?"""
    known = with_area(analyses, score)
    models, datasets = models_of(known), datasets_of(known)
    figure, axes = blank(f"Accuracy against AUROC of {score}", 7.4, 4.8)
    for k, (name, own) in enumerate(models.items()):
        for analysis in own:
            area, right = area_of(analysis, score), analysis.accuracy
            marker = MARKERS[datasets.index(analysis.answers.dataset) % len(MARKERS)]
            x = 100 * (right.value or 0.0)
            ends = [None if end is None else 100 * end for end in (right.low, right.high)]
            y, colour = area.value or 0.0, COLOURS[k % len(COLOURS)]
            axes.errorbar(
                x, y, xerr=errors(x, *ends), yerr=errors(y, area.low, area.high), marker=marker, color=colour, ms=6,
                lw=0.9, capsize=0,
            )  # fmt: skip
        axes.plot([], [], color=COLOURS[k % len(COLOURS)], lw=4, label=plain(name))
    for j, dataset in enumerate(datasets):
        axes.plot([], [], color=INK, marker=MARKERS[j % len(MARKERS)], ls="", label=plain(short(dataset)))
    figure.legend(fontsize=8, frameon=False, loc="outside right center")
    axes.axhline(0.5, color=INK, lw=0.8, ls=":")
    label(axes, "accuracy, %", f"AUROC of {score}")
    caption(figure, documents(known), "Intervals: 95 %, Wilson (accuracy) and DeLong (AUROC). Dotted: chance.")
    return figure


def _neighbours(analyses: Sequence[Analysis]) -> list[tuple[Analysis, Analysis]]:
    """Pairs of one family with nothing between them in size."""
    pairs = size_pairs(analyses)
    return [
        (a, b)
        for a, b in pairs
        if not any(_size(a) < _size(c) < _size(b) and c.answers.origin.family == a.answers.origin.family for c in analyses)
    ]


def _size(analysis: Analysis) -> int:
    return analysis.answers.origin.parameters or 0


def _point(axes: Axes, x: float, area: Any, colour: str, marker: str, fill: Any = "full") -> None:
    y = area.value
    axes.errorbar(
        x, y, yerr=errors(y, area.low, area.high), color=colour, marker=marker, fillstyle=fill, mfcalt="white", ms=6, lw=1,
        capsize=2, zorder=3,
    )  # fmt: skip


def _log_sizes(axes: Axes, sizes: Sequence[int]) -> None:
    """A logarithmic axis with the ticks that the sizes need."""
    axes.set_xscale("log")
    low, high = min(sizes), max(sizes)
    ticks = [step * 10**power for power in range(5, 13) for step in (1, 3) if low / 3.2 <= step * 10**power <= high * 3.2]
    axes.set_xlim(low / 2, high * 4)
    axes.set_xticks(ticks, [f"{tick / 1e9:g}B" if tick >= 1e9 else f"{tick / 1e6:g}M" for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)


def _names_beside(axes: Axes, ends: Sequence[tuple[float, str, str, float]], x: float) -> None:
    """Names at the right ends of lines, moved apart where they would touch."""
    low, high = axes.get_ylim()
    step = (high - low) * 0.055
    last = -math.inf
    for height, name, colour, _ in sorted(ends):
        last = max(height, last + step)
        axes.text(x, last, plain(name), color=colour, fontsize=8, va="center")


#: name of a file -> what draws it.
PLOTS: dict[str, Callable[[Sequence[Analysis]], Figure]] = {
    "auroc-heatmap": auroc_heatmap,
    "families": family_bars,
    "size": size_effect,
    "datasets": dataset_effect,
    "accuracy-auroc": accuracy_against_auroc,
    "radar": radar,
    "reliability": reliability,
}
