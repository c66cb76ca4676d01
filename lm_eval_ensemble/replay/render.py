"""A comparison as markdown or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lm_eval_ensemble.metrics.clustered import Clustered
from lm_eval_ensemble.replay.compare import Ranked, Replay

__all__ = ["as_json", "as_markdown"]

_HEADS = ["selector", "{measure}", "s", "s0", "gain over {best} [95 %]", "p", "p (Holm)", "vetoes", "agreements", "numbers"]


def as_markdown(found: Replay) -> str:
    """Percent and percentage points; the run's own selector in bold."""
    own = found.recorded
    n, documents = len(own.choices), own.documents
    counted = f"{n} documents" if n == documents else f"{n} choices, {documents} documents"
    members = ", ".join(
        f"{name} {_percent(value)}" + (f" (of {answered})" if answered < n else "")
        for name, (value, answered) in found.members.items()
    )
    modes = f", length_mode {'+'.join(own.length_modes)}" if own.length_modes else ""
    lines = [
        f"## {own.task}: {own.run.model_name}",
        "",
        f"{counted} of {found.clusters} programs, right by {own.measure}, score {found.rule}{modes}; in percent.",
        f"Members: {members}. Floor {_percent(found.floor)}, oracle {_percent(found.oracle)}.",
    ]
    if not found.n_decisive:
        lines.append("Nothing is decisive: all candidates are right, or none is. Every selector scores the same.")
    else:
        lines.append(
            f"Decisive (some but not all candidates right): {found.n_decisive}, D = {_percent(found.decisive)}. "
            f"A selector that is right in a share s of them scores {_percent(found.floor)} + s * {_percent(found.decisive)}"
            + (f"; it beats {found.best} from s0 = {_percent(found.s0)} on." if found.s0 is not None else ".")
        )
    if found.best is None:
        lines.append("No choice was answered by all members, so there is no best member and no gain over it.")
    elif found.shared < n:
        lines.append(
            f"The best member, {found.best}, and gains over it are those of the {found.shared} choices that all answered."
        )
    if found.detectable is not None:
        lines.append(
            f"Design effect of the primary gain {found.deff:.2f}; a gain of {_points(found.detectable)[1:]} points would be "
            "found with a chance of 80 % at the 5 % level."
        )
    heads = [head.format(measure=own.measure, best=found.best or "the best member") for head in _HEADS]
    lines += ["", _row(heads), "|---" * len(heads) + "|", *(_row(_cells(row, found)) for row in found.rows), ""]
    lines.append(
        "Bold: the run's own selector, the primary comparison; p of the others is also adjusted by Holm. Clusters: programs."
    )
    lines += [f"Left out: {name} ({reason})." for name, reason in found.left_out.items()]
    lines += [f"Note: {note}" for note in found.notes]
    return "\n".join(lines)


def _cells(row: Ranked, found: Replay) -> list[str]:
    name = f"**{row.selector}**" if row.primary else f"*{row.selector}*" if row.bound else row.selector
    gap = None if row.gain is None else row.gain.difference
    interval = "" if gap is None or gap.low is None or gap.high is None else f" [{_points(gap.low)}, {_points(gap.high)}]"
    return [
        name,
        _percent(row.score.mean),
        "" if row.s is None else _percent(row.s.mean, 1),
        "" if found.s0 is None else _percent(found.s0, 1),
        "" if gap is None else _points(gap.mean) + interval,
        "" if row.bound or row.gain is None else _p(row.gain.p),
        "" if row.p_holm is None else _p(row.p_holm),
        str(row.reasons.get("veto", 0)),
        str(row.reasons.get("agreement", 0)),
        row.fitted,
    ]


def as_json(found: Replay) -> dict[str, Any]:
    """Shares between 0 and 1, five decimals."""
    own = found.recorded
    return {
        "task": own.task,
        "model": own.run.model_name,
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
        "design_effect": _number(found.deff),
        "detectable_gain": _number(found.detectable),
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
        "p_holm": _number(row.p_holm),
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
