"""Texts of a figure that lie over one another, where no reader could read them."""

from __future__ import annotations

import itertools
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg


def overlaps(figure: Any) -> list[tuple[str, str]]:
    """Pairs of texts that overlap by more than a pixel each way, title and caption of the figure with all others, and the
    titles, names and numbers around each of its panels; and texts that leave the picture."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    # A caveat stands on empty lines of the caption.
    around = [[text for text in figure.texts if text.get_gid() != "caveat"]]
    for axes in figure.axes:
        numbers = []
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            numbers += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        titles = [axes.title, axes._left_title, axes._right_title, axes.xaxis.label, axes.yaxis.label]
        around.append([*titles, *numbers, *axes.texts])
    boxes = [
        (group, text.get_text().strip(), text.get_window_extent(renderer))
        for group, texts in enumerate(around)
        for text in texts
        if text.get_visible() and text.get_text().strip()
    ]
    width, _ = canvas.get_width_height()
    found = [(text, "the edge") for _, text, box in boxes if box.x0 < -1 or box.x1 > width + 1]
    for (one, first, a), (other, second, b) in itertools.combinations(boxes, 2):
        wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        if (one == other or not one) and wide > 1 and high > 1:
            found.append((first, second))
    return found
