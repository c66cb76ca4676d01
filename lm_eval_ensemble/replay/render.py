"""A comparison as markdown or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lm_eval_ensemble.errors import counted
from lm_eval_ensemble.metrics.clustered import Clustered, few_clusters
from lm_eval_ensemble.replay.compare import Ranked, Replay

__all__ = ["as_json", "as_markdown"]

_HEADS = ["selector", "{measure}", "s", "s0", "gain over {best} [95 %]", "p", "p (all)", "vetoes", "agreements", "numbers"]


def as_markdown(found: Replay) -> str:
    """Percent and percentage points; the run's own selector in bold."""
    own = found.recorded
    n, documents = len(own.choices), own.documents
    size = counted(documents, "documents") if n == documents else f"{n} choices, {counted(documents, 'documents')}"
    members = ", ".join(
        f"{name} {_percent(value)}" + (f" (of {answered})" if answered < n else "")
        for name, (value, answered) in found.members.items()
    )
    modes = f", length_mode {'+'.join(own.length_modes)}" if own.length_modes else ""
    lines = [
        f"## {own.task}: {found.label or own.run.model_name}",
        "",
        f"{size} of {counted(found.clusters, 'programs')}, right by {own.measure}, score {found.rule}{modes}; in percent.",
        f"Members: {members}. Floor {_percent(found.floor)}, oracle {_percent(found.oracle)}.",
    ]
    if not found.n_decisive:
        lines.append("Nothing is decisive: all candidates are right, or none is. Every selector scores the same.")
    else:
        lines.append(
            f"Decisive (some but not all candidates right): {found.n_decisive}, D = {_percent(found.decisive)}. "
            f"A selector that is right in a share s of them scores {_percent(found.floor)} + s * {_percent(found.decisive)}"
            + (f"; it beats {found.reference} from s0 = {_percent(found.s0)} on." if found.s0 is not None else ".")
        )
    if found.best is None:
        lines.append("No choice was answered by all members, so there is no best member and no gain over it.")
    elif found.shared < n:
        lines.append(
            f"The best member, {found.best}, and gains over {found.reference} are those of the {found.shared} choices that all "
            "answered."
        )
    lines += _primary(found)
    heads = [head.format(measure=own.measure, best=found.reference or "the best member") for head in _HEADS]
    lines += ["", _row(heads), "|---" * len(heads) + "|", *(_row(_cells(row, found)) for row in found.rows), ""]
    lines.append(
        "Bold: the run's own selector, the primary comparison. Intervals and p (all) of the others hold for all of them "
        "together (max-t over the sign flips). Clusters: programs."
    )
    lines += [f"Left out: {name} ({reason})." for name, reason in found.left_out.items()]
    lines += [f"Note: {note}" for note in found.notes]
    return "\n".join(lines)


def _primary(found: Replay) -> list[str]:
    """What the primary comparison is worth: chosen before or after looking, how large a gain it would have found."""
    gain, lines = found.primary.gain, []
    if gain is not None and found.baseline is None and len(found.members) > 1:
        lines.append(
            f"No member is better than another on these documents; gains are over {found.best}, or over --baseline MEMBER."
            if found.level
            else f"{found.best} was found to be the best on these documents, after looking: --baseline MEMBER compares with "
            "one named beforehand."
        )
    if found.over_all is not None:
        one = found.over_all
        ends = "" if one.low is None or one.high is None else f" [{_points(one.low)}, {_points(one.high)}]"
        lines.append(
            f"Over the best member, whichever it truly is, {found.primary.selector} gains {_points(one.value)}{ends}, "
            f"p = {_p(one.p)} ({'one member that beats it is enough' if one.value < 0 else 'it must beat every member'})."
        )
    if gain is not None and gain.difference.deff is not None:
        size = (
            "no gain that the differing documents allow would be found"
            if gain.detectable is None
            else f"a gain of {_points(gain.detectable)[1:]} points would be found"
        )
        lines.append(
            f"Design effect of the primary gain {gain.difference.deff:.2f}; {size} with a chance of 80 % at the 5 % level."
        )
    if few := few_clusters(found.clusters, "programs", compared=gain is not None):
        lines.append(few)
    return lines


def _cells(row: Ranked, found: Replay) -> list[str]:
    name = f"**{row.selector}**" if row.primary else f"*{row.selector}*" if row.bound else row.selector
    gap = None if row.gain is None else row.gain.difference
    low, high = (None, None) if gap is None else (gap.low, gap.high)
    if row.among is not None and row.among.low is not None:
        low, high = row.among.low, row.among.high
    # The reference against itself is no finding; with several samples it is the best of them against a blind one.
    itself = row.selector == f"always:{found.reference}" and row.gain is not None and not row.gain.discordant
    interval = "" if itself or low is None or high is None else f" [{_points(low)}, {_points(high)}]"
    return [
        name,
        _percent(row.score.mean),
        "" if row.s is None else _percent(row.s.mean, 1),
        "" if found.s0 is None else _percent(found.s0, 1),
        "" if gap is None else _points(gap.mean) + interval,
        "" if row.bound or row.gain is None else _p(row.gain.p),
        "" if row.among is None else _p(row.among.p),
        str(row.reasons.get("veto", 0)),
        str(row.reasons.get("agreement", 0)),
        row.fitted,
    ]


def as_json(found: Replay) -> dict[str, Any]:
    """Shares between 0 and 1, five decimals."""
    own, gain = found.recorded, found.primary.gain
    every = None if found.over_all is None else {name: _number(value) for name, value in asdict(found.over_all).items()}
    return {
        "task": own.task,
        "model": own.run.model_name,
        "label": found.label or own.run.model_name,
        "results": str(own.run.results_path),
        "samples": str(own.run.samples_path),
        "measure": own.measure,
        "rule": found.rule,
        "prefer": own.prefer,
        "length_modes": list(own.length_modes),
        "n": len(own.choices),
        "documents": own.documents,
        "clusters": found.clusters,
        "members": {name: _number(value) for name, (value, _) in found.members.items()},
        "members_n": {name: answered for name, (_, answered) in found.members.items()},
        "n_of_all_members": found.shared,
        "best_member": found.best,
        "floor": _number(found.floor),
        "oracle": _number(found.oracle),
        "n_decisive": found.n_decisive,
        "decisive": _number(found.decisive),
        "s0": _number(found.s0),
        "baseline": found.baseline,
        "reference": found.reference,
        "gain_over_every_member": every,
        "design_effect": _number(None if gain is None else gain.difference.deff),
        "detectable_gain": _number(None if gain is None else gain.detectable),
        "rows": [_json_row(row) for row in found.rows],
        "left_out": dict(found.left_out),
        "notes": found.notes,
    }


def _json_row(row: Ranked) -> dict[str, Any]:
    gain = row.gain
    return {
        "selector": row.selector,
        "primary": row.primary,
        "bound": row.bound,
        "fitted": row.fitted or None,
        "score": _clustered(row.score),
        "score_wilson": None if row.wilson is None else [_number(value) for value in row.wilson],
        "s": None if row.s is None else _clustered(row.s),
        "gain": None if gain is None else _clustered(gain.difference),
        "wins": None if gain is None else gain.wins,
        "losses": None if gain is None else gain.losses,
        "p": None if gain is None else _number(gain.p),
        "p_all": None if row.among is None else _number(row.among.p),
        "gain_all": None if row.among is None else [_number(row.among.low), _number(row.among.high)],
        "p_mcnemar_unclustered": None if gain is None else _number(gain.p_unclustered),
        "reasons": dict(sorted(row.reasons.items())),
    }


def _clustered(found: Clustered) -> dict[str, Any]:
    return {
        "value": _number(found.mean),
        "stderr_clustered": _number(found.se),
        "low": _number(found.low),
        "high": _number(found.high),
        "n": found.n,
        "clusters": found.clusters,
        "design_effect": _number(found.deff),
        "degrees_of_freedom": _number(found.df),
    }


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f}"


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"


def _p(value: float) -> str:
    return f"{value:.4f}" if value < 0.01 else f"{value:.3f}"


def _number(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
