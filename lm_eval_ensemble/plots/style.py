"""What all plots share: colours, figures without global state, captions, files that do not change from run to run."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lm_eval_ensemble.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "FORMATS",
    "GREY",
    "INK",
    "MARKERS",
    "Missing",
    "blank",
    "caption",
    "errors",
    "interval",
    "label",
    "listed",
    "percent",
    "plain",
    "render",
    "require",
    "short",
    "titled",
    "unit_of",
]

#: told apart by the common kinds of colour blindness (Okabe and Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A6D00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY, INK = "#9a9a9a", "#222222"
#: file types of a plot.
FORMATS = ("png", "svg")
_DPI = 150
_SMALL, _NORMAL = 8.0, 9.0


class Missing(Exception):  # noqa: N818
    """The runs do not hold what a plot shows; the message says what. No fault: the plot is left out."""


def require() -> None:
    """Says what to install where matplotlib is missing.

    :raises ConfigError: it is.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"plots need matplotlib ({error}). Install it with: pip install 'lm_eval_ensemble[plots]'") from None


def blank(
    title: str, width: float = 6.4, height: float = 3.6, rows: int = 1, columns: int = 1, **more: Any
) -> tuple[Figure, Any]:
    """A figure and its axes (one, or an array of them), sizes in inches. pyplot is not involved: nothing stays open."""
    require()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(plain(title), x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    axes = figure.subplots(rows, columns, **more)
    for axis in figure.axes:
        if axis.name == "rectilinear":
            axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=_SMALL, colors=INK)
    return figure, axes


def titled(what: str, task: str, run: str) -> str:
    """The title of a plot of one run: what it shows, and below it whose it is."""
    return f"{what}\n{textwrap.fill(f'{task}, run {run}', 54)}"


def label(axes: Axes, x: str = "", y: str = "", title: str = "") -> None:
    """Names of the axes, with their units."""
    axes.set_xlabel(plain(x), fontsize=_NORMAL, color=INK)
    axes.set_ylabel(plain(y), fontsize=_NORMAL, color=INK)
    if title:
        axes.set_title(plain(title), fontsize=_NORMAL, loc="left", color=INK)


def caption(figure: Figure, *sentences: str, warning: str = "") -> None:
    """How to read the plot, below it: documents, how intervals were made, and a caveat in a colour of its own."""
    width = int(figure.get_figwidth() * 14.5)
    lines = textwrap.wrap(" ".join(filter(None, sentences)), width)
    more = textwrap.wrap(f"Caution: {warning}", width) if warning else []
    # Two colours need two texts: the caveat stands below, on room kept by empty lines of the first.
    text = "\n".join([*lines, *[""] * len(more)])
    figure.supxlabel(plain(text), x=0.01, ha="left", fontsize=_SMALL, color=INK)
    if more:
        place = (4 / 72) / figure.get_figheight()
        figure.text(
            *(0.01, place, plain("\n".join(more))), ha="left", va="bottom", fontsize=_SMALL, color=COLOURS[1], gid="caveat"
        )


def plain(text: str) -> str:
    """Text as it is: a dollar sign in a name starts no formula."""
    return text.replace("$", r"\$")


def unit_of(rule: str) -> str:
    """The unit of a selection rule (``docs/results.md``), for an axis."""
    name = rule.split("+")[0].split("@")[0].strip()
    if name.endswith("_byte"):
        return "bits per byte"
    if name.endswith("_worst") or name == "worst":
        return "nats of the least likely token"
    return "nats per sequence" if name in ("joint", "pmi") or name.endswith("_sum") else "nats per token"


def render(figure: Figure, kind: str = "png", dpi: int = _DPI) -> bytes:
    """The file of a figure: the same bytes for the same figure and version of matplotlib.

    :param kind: one of :data:`FORMATS`.
    """
    import matplotlib

    buffer = io.BytesIO()
    # Without these an SVG holds the time and random names, a PNG the version.
    metadata: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}[kind]
    with matplotlib.rc_context({"svg.hashsalt": "lm_eval_ensemble"}), warnings.catch_warnings():
        # Names of models may hold letters that the font does not have; a box stands for them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def errors(value: float, low: float | None, high: float | None) -> list[list[float]] | None:
    """An interval as matplotlib takes it: distances below and above; None without one."""
    if low is None or high is None:
        return None
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def percent(value: float | None, digits: int = 1) -> str:
    """A share for people."""
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def interval(low: float | None, high: float | None, digits: int = 2) -> str:
    """Two ends in brackets; empty without them."""
    return "" if low is None or high is None else f"[{low:.{digits}f}, {high:.{digits}f}]"


def short(text: str, most: int = 34) -> str:
    """A name cut in its middle: both ends tell models apart."""
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-(most // 2) :]}"


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"
