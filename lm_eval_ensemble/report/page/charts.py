"""The shapes of the small charts: places along an axis in percent, for the macros of ``page.html``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval_ensemble.report.failures import CATEGORIES

__all__ = ["Axis", "Bar", "Curve", "Mosaic", "Share", "Square", "Stack", "charts"]

_MOST_TILES = 400


@dataclass(frozen=True)
class Axis:
    """``ticks``: (place in percent, label); ``mark``: a place to compare with, and what it is."""

    ticks: Sequence[tuple[float, str]]
    mark: tuple[float, str] | None = None


@dataclass(frozen=True)
class Bar:
    """A value with its interval: ``at``, ``low``, ``high`` in percent of the axis; ``kind`` names the colour."""

    label: str
    kind: str
    at: float
    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True)
class Share:
    """A part of a stacked bar, from ``start`` and ``width`` wide, in percent."""

    kind: str
    name: str
    start: float
    width: float
    count: str


@dataclass(frozen=True)
class Stack:
    label: str
    shares: Sequence[Share]


@dataclass(frozen=True)
class Curve:
    """``points``: an SVG point list in a square of 100 by 100, the origin at the top left."""

    points: str
    base: float
    top: str


@dataclass(frozen=True)
class Square:
    """A curve in a square of 100 by 100, the origin at the top left, with its references: ``marks`` are point lists, chance
    first."""

    text: str
    points: str
    marks: Sequence[str]


@dataclass(frozen=True)
class Mosaic:
    """One tile per problem: name, number of documents, step 0 (none solved) to 4 (all), text."""

    tiles: Sequence[tuple[str, int, int, str]]


def charts(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Charts by the name of the section they belong to (``report.text.sections``)."""
    found: dict[str, Any] = {}
    if not figures["n"]:
        return found
    members = figures.get("members", {})
    rows = [("ensemble" if members else "score", "chosen", figures["score"])]
    rows += [(name, f"m{i % 6}", entry) for i, (name, entry) in enumerate(members.items())]
    rows += [(name, "bound", figures[name]) for name in ("oracle", "floor") if name in figures]
    if all(0.0 <= entry["value"] <= 1.0 for _, _, entry in rows):
        found["scores"] = _bars([(label, kind, *_bounds(entry)) for label, kind, entry in rows], scale=100.0)
    if chosen := figures.get("selection"):
        found["picks"] = _picks(figures["picks"], list(members))
        if chosen["n"]:
            row = ("right choices", "chosen", chosen["accuracy"], chosen["low"], chosen["high"])
            found["selection"] = _bars([row], 100.0, 1.0, (chosen["break_even"], "break-even"))
    if failed := figures.get("failures"):
        found["failures"] = [_verdicts(who, counts) for who, counts in failed["counts"].items()]
    if (covered := figures.get("risk_coverage")) and covered["points"]:
        found["margin"] = _curve(covered["points"])
    if scores := figures.get("uncertainty"):
        known = [(name, "chosen", e["value"], e["low"], e["high"]) for name, e in scores.items() if e["value"] is not None]
        if known:
            found["questions"] = _bars(known, 1.0, 1.0, (0.5, "chance"), ".3f")
            curves = {name: entry for name, entry in scores.items() if entry["roc"]}
            found["roc"] = [_roc(name, entry) for name, entry in curves.items()]
            found["risk"] = [_risk(name, entry) for name, entry in curves.items()]
    problems = figures["by_problem"]
    shares = all(0.0 <= entry["score"] <= 1.0 for entry in problems)
    if 1 < len(problems) <= _MOST_TILES and len(problems) < figures["n"] and shares:
        found["problems"] = Mosaic([_tile(entry) for entry in problems])
    return found


def _bounds(entry: Mapping[str, Any]) -> tuple[float, float | None, float | None]:
    return entry["value"], entry["low"], entry["high"]


def _bars(
    rows: Iterable[tuple[str, str, float, float | None, float | None]],
    scale: float,
    top: float | None = None,
    mark: tuple[float | None, str] | None = None,
    form: str = ".1f",
) -> tuple[Axis, list[Bar]]:
    rows = list(rows)
    most = max([value for _, _, *values in rows for value in values if value is not None], default=1.0)
    top = min(1.0, _above(most)) if top is None else top
    step = top / 4
    digits = 0 if scale * step == int(scale * step) else 1 if scale > 1 else 2
    ticks = [(100 * k / 4, f"{scale * step * k:.{digits}f}") for k in range(5)]
    shown = None if mark is None or mark[0] is None else (100 * mark[0] / top, mark[1])
    bars = [
        Bar(label, kind, _place(value, top) or 0.0, _place(low, top), _place(high, top), format(scale * value, form))
        for label, kind, value, low, high in rows
    ]
    return Axis(ticks, shown), bars


def _place(value: float | None, top: float) -> float | None:
    return None if value is None else max(0.0, min(100.0, 100 * value / top))


def _above(value: float) -> float:
    """The next of 0.04, 0.08, 0.2, 0.4, 0.6, 0.8, 1: so that quarters are round."""
    return next((end for end in (0.04, 0.08, 0.2, 0.4, 0.6, 0.8, 1.0) if value <= end), 1.0)


def _picks(picks: Mapping[str, float], members: Sequence[str]) -> Stack:
    order = [*(name for name in members if name in picks), *(name for name in picks if name not in members)]
    kinds = {name: f"m{members.index(name) % 6}" if name in members else "bound" for name in order}
    return Stack("picked", _stacked([(kinds[name], name, picks[name], f"{100 * picks[name]:.1f}") for name in order]))


def _verdicts(who: str, counts: Mapping[str, int]) -> Stack:
    total = sum(counts.values()) or 1
    names = ["pass", *CATEGORIES]
    return Stack(who, _stacked([(name, name, counts[name] / total, str(counts[name])) for name in names if counts[name]]))


def _stacked(parts: Iterable[tuple[str, str, float, str]]) -> list[Share]:
    start, found = 0.0, []
    for kind, name, share, count in parts:
        found.append(Share(kind, name, round(100 * start, 3), round(100 * share, 3), count))
        start += share
    return found


def _curve(points: Sequence[Mapping[str, float]]) -> Curve:
    top = _above(max([point["risk"] for point in points], default=1.0))
    places = [(100 * point["coverage"], 100 - 100 * point["risk"] / top) for point in points]
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in places if math.isfinite(y))
    return Curve(drawn, places[-1][1], f"{100 * top:.0f} %")


def _roc(name: str, entry: Mapping[str, Any]) -> Square:
    drawn = _polyline([(0.0, 0.0), *((point["false_alarms"], point["found"]) for point in entry["roc"])])
    return Square(f"{name} {entry['value']:.3f}", drawn, ["0,100 100,0"])


def _risk(name: str, entry: Mapping[str, Any]) -> Square:
    """Axis to 100 %, the same in all; the perfect order keeps every right answer before the first wrong one."""
    right = 1 - entry["risk"]
    ideal = [(point["coverage"], max(0.0, 1 - right / point["coverage"])) for point in entry["points"]]
    level = 100 - 100 * entry["risk"]
    drawn = _polyline([(point["coverage"], point["risk"]) for point in entry["points"]])
    return Square(f"{name} {entry['aurc']:.3f}", drawn, [f"0,{level:.1f} 100,{level:.1f}", _polyline(ideal)])


def _polyline(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{100 * x:.1f},{100 - 100 * y:.1f}" for x, y in places)


def _tile(entry: Mapping[str, Any]) -> tuple[str, int, int, str]:
    score = entry["score"]
    step = 0 if score == 0 else 4 if score == 1 else 1 + min(2, int(3 * score))
    return str(entry["problem"]), entry["n"], step, f"{entry['problem']}: {100 * score:.0f} % of {entry['n']}"
