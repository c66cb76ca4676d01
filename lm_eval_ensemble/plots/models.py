"""Several models on several data sets: which differences in size, precision and family the runs can tell apart at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from lm_eval_ensemble.metrics.uncertainty import Estimate
from lm_eval_ensemble.plots.style import listed, short
from lm_eval_ensemble.uncertainty.analysis import PRIMARY, Analysis
from lm_eval_ensemble.uncertainty.origin import UNKNOWN

__all__ = ["Aliasing", "aliasing", "area_of", "by_size", "cells", "datasets_of", "fewest", "models_of", "name_of", "size_pairs"]


def name_of(analysis: Analysis) -> str:
    """The cell of a sweep, else the model by the last part of its name; :func:`models_of` tells models of one name apart."""
    if analysis.answers.cell:
        return short(analysis.answers.cell, 40)
    parts = analysis.answers.origin.name.rstrip("/").split("/")
    return short(parts[-1] or analysis.answers.origin.name, 28)


def models_of(analyses: Sequence[Analysis]) -> dict[str, list[Analysis]]:
    """Label -> its runs, one per data set; in the order given. What tells models of one name apart stands in brackets."""
    groups: list[list[Analysis]] = []
    for analysis in analyses:
        own = next((group for group in groups if _joins(analysis, group)), None)
        if own is None:
            groups.append([analysis])
        else:
            own.append(analysis)
    found: dict[str, list[Analysis]] = {}
    for group in groups:
        first = group[0]
        name, origin = name_of(first), first.answers.origin
        rivals = [other[0].answers for other in groups if name_of(other[0]) == name]
        if len(rivals) > 1:
            details = {
                origin.precision: {rival.origin.precision for rival in rivals},
                origin.size: {rival.origin.size for rival in rivals},
                first.answers.source: {rival.source for rival in rivals},
            }
            told = [own for own, all_of_them in details.items() if len(all_of_them) > 1]
            # The same model, run with other settings: the title of the run says which.
            name = f"{name} ({', '.join(told)})" if told else short(first.answers.title or name, 40)
        count = sum(label.split(" #")[0] == name for label in found)
        found[f"{name} #{count + 1}" if count else name] = group
    return found


def datasets_of(analyses: Sequence[Analysis]) -> list[str]:
    return list(dict.fromkeys(analysis.answers.dataset for analysis in analyses))


def cells(analyses: Sequence[Analysis]) -> dict[tuple[str, str], Analysis]:
    """(model, data set) -> its run."""
    return {(name, a.answers.dataset): a for name, own in models_of(analyses).items() for a in own}


def area_of(analysis: Analysis, score: str = PRIMARY) -> Estimate:
    """AUROC of a score, with its interval, or the reason why there is none."""
    report = analysis.reports.get(score)
    n = len(analysis.wrong)
    return report.discrimination.metrics["auroc"] if report else Estimate(None, None, None, "", f"no {score}", 0, n)


def fewest(analysis: Analysis) -> int:
    """Answers of the class, right or wrong, of which there are fewer."""
    wrong = int(sum(analysis.wrong))
    return min(wrong, len(analysis.wrong) - wrong)


def by_size(analyses: Sequence[Analysis]) -> list[Analysis]:
    """Those whose number of parameters is known, small ones first."""
    return sorted(
        (analysis for analysis in analyses if analysis.answers.origin.parameters),
        key=lambda analysis: analysis.answers.origin.parameters or 0,
    )


@dataclass(frozen=True)
class Aliasing:
    """Pairs of models of one family and one data set that differ in size: ``pairs`` of them, in ``confounded`` the precision
    differs too, ``unknown`` have a precision nobody knows. ``families`` are those with such a pair."""

    pairs: int
    confounded: int
    unknown: int
    families: tuple[str, ...]

    @property
    def caveat(self) -> str:
        """What stands on the plot; empty if size alone differs in every pair."""
        if not self.pairs:
            return "no two models of one family differ in size: the slope over sizes mixes size with family."
        if self.confounded == self.pairs:
            return (
                f"size and precision are aliased: in all {self.pairs} pairs of one family that differ in size the precision "
                "differs too. No effect of size can be told from one of precision here."
            )
        if self.confounded or self.unknown:
            parts = [f"in {self.confounded} the precision differs too"] if self.confounded else []
            parts += [f"in {self.unknown} it is not known"] if self.unknown else []
            return (
                f"of {self.pairs} pairs of one family that differ in size, {listed(parts)} (dashed): those show no effect of "
                "size alone."
            )
        return ""


def aliasing(analyses: Sequence[Analysis]) -> Aliasing:
    """Whether the runs can tell an effect of size from one of precision."""
    pairs = confounded = unknown = 0
    families: dict[str, None] = {}
    for a, b in size_pairs(analyses):
        first, second = a.answers.origin, b.answers.origin
        pairs += 1
        families[first.family] = None
        if UNKNOWN in (first.precision, second.precision):
            unknown += 1
        elif first.precision != second.precision:
            confounded += 1
    return Aliasing(pairs, confounded, unknown, tuple(families))


def size_pairs(analyses: Sequence[Analysis]) -> list[tuple[Analysis, Analysis]]:
    """(smaller, larger) of one known family, on one data set."""
    return [
        (a, b)
        for a, b in combinations(by_size(analyses), 2)
        if a.answers.dataset == b.answers.dataset
        and a.answers.origin.family == b.answers.origin.family != UNKNOWN
        and a.answers.origin.parameters != b.answers.origin.parameters
    ]


def _joins(analysis: Analysis, group: Sequence[Analysis]) -> bool:
    """Whether a run is of the group's model, on a data set that the group does not have yet."""
    mine, theirs = analysis.answers, group[0].answers
    same = (mine.origin, mine.source, mine.title) == (theirs.origin, theirs.source, theirs.title)
    return same and analysis.answers.dataset not in {other.answers.dataset for other in group}
