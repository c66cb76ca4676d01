"""Findings as sentences."""

from __future__ import annotations

from collections.abc import Sequence

from lm_eval_ensemble.report.comparison import LEVEL, RunRow, TaskComparison

__all__ = ["cautions", "disagreement", "first_sentences", "length_caution", "verdict"]

#: so many verdicts can be read at a glance.
_FEW = 4
#: a difference below this is one of the order in which numbers were added.
_ROUNDING = 1e-12


def verdict(task: TaskComparison, row: RunRow) -> str:
    """Does the row beat the baseline, and is that significant?"""
    contrast, base = row.contrast, task.baseline
    if contrast is None or base is None:
        return f"{task.task}: {row.label} is not compared."
    scale, unit = (100.0, " points") if task.share else (1.0, "")
    head = f"{task.task}: {row.label}"
    if not contrast.wins and not contrast.losses:
        return f"{head} and {base} have equal {task.metric} on every document."
    size = f"{abs(scale * contrast.difference):.3g}{unit}"
    interval = ""
    if contrast.low is not None and contrast.high is not None:
        interval = f" (95 % interval {scale * contrast.low:+.3g} to {scale * contrast.high:+.3g})"
    p = f"p = {contrast.p_holm:.2g}" + (" after Holm" if contrast.p_holm != contrast.p else "")
    gain = contrast.difference if task.higher_is_better else -contrast.difference
    if contrast.p_holm < LEVEL and gain:
        text = f"{head} {'beats' if gain > 0 else 'is beaten by'} {base} by {size}{interval}; significant, {p}."
        return text + disagreement(contrast.low, contrast.high, contrast.p, significant=True)
    side = f"is level with {base}" if abs(gain) < _ROUNDING else f"is {'ahead of' if gain > 0 else 'behind'} {base} by {size}"
    text = f"{head} {side}{interval}; not significant, {p}."
    text += disagreement(contrast.low, contrast.high, contrast.p, significant=False)
    if contrast.detectable is not None:
        size = f"{scale * contrast.detectable:.3g}{unit}"
        text += (
            f" {contrast.n} documents of {contrast.clusters} problems show a true difference of {size} in four runs of five, "
            "smaller ones less often."
        )
    else:
        text += (
            f" No difference that the {contrast.wins + contrast.losses} differing documents allow would be found in four runs "
            "of five."
        )
    return text


def first_sentences(tasks: Sequence[TaskComparison]) -> list[str]:
    """The verdicts where they are few, else a sentence for each row: on how many tasks it beats the baseline or is beaten."""
    verdicts = [line for task in tasks for line in task.verdicts]
    if len(verdicts) <= _FEW:
        return verdicts
    said = []
    for label in dict.fromkeys(row.label for task in tasks for row in task.rows if row.contrast):
        own = [(task, row.contrast) for task in tasks for row in task.rows if row.label == label and row.contrast]
        gains = [c.difference if task.higher_is_better else -c.difference for task, c in own if c.p_holm < LEVEL]
        against = dict.fromkeys(task.baseline for task, _ in own)
        known = f"{len(own)} {'task' if len(own) == 1 else 'tasks'}"
        better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
        said.append(
            f"{label}: significantly better than {', '.join(map(str, against))} on {better} of {known}, worse on {worse}."
        )
    return said


def cautions(tasks: Sequence[TaskComparison]) -> list[str]:
    """What would make the scores of a comparison misread."""
    runs = [(task.task, row) for task in tasks for row in task.rows if row.kind == "run"]
    rows = [(row.label, name, "oracle" in (row.length_mode or "")) for name, row in runs]
    leaky = {name for _, name, leaks in rows if leaks}
    told = []
    for label in dict.fromkeys(label for label, _, leaks in rows if leaks):
        on = {name: leaks for other, name, leaks in rows if other == label}
        tasks_told = [name for name, leaks in on.items() if leaks]
        told.append(label if len(tasks_told) == len(on) else f"{label} on {' and '.join(tasks_told)}")
    return [length_caution(told, any(name in leaky and not leaks for _, name, leaks in rows))] if told else []


def length_caution(runs: Sequence[str], others: bool = False) -> str:
    """That a diffusion model was told how long the gaps are.

    :param others: there are runs beside these that were not told.
    """
    text = f"{', '.join(runs)}: told the true length of every gap (length=oracle), which leaks part of the answer; "
    return text + ("the other runs were not told it." if others else "compare only with models that are told it.")


def disagreement(low: float | None, high: float | None, p: float, significant: bool, against: str = "") -> str:
    """Where the sign flip and the interval contradict each other about 0, the verdict is the test's; begins with a blank.

    :param p: not corrected; where the correction alone takes the significance away, there is no contradiction.
    """
    if low is None or high is None or (p < LEVEL) is not significant or significant is not (low <= 0 <= high):
        return ""
    where = "holds" if significant else "leaves out"
    named = f" of the difference to {against}" if against else ""
    return f" The interval{named} {where} 0; the verdict is that of the sign flip, which needs no variance."
