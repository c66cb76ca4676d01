"""What the runs show, in sentences made of their numbers: the written half of ``lm-eval-ensemble plots``.

No sentence says more than its test: a difference is called one only if its p-value after Holm's correction is below 0.05.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from lm_eval_ensemble.errors import DataError, counted
from lm_eval_ensemble.metrics.clustered import few_clusters
from lm_eval_ensemble.metrics.multiple import holm
from lm_eval_ensemble.metrics.uncertainty import FEW
from lm_eval_ensemble.plots.models import aliasing, area_of, datasets_of, fewest, models_of, size_pairs
from lm_eval_ensemble.plots.style import interval, listed, percent
from lm_eval_ensemble.report.compare import CompareOptions
from lm_eval_ensemble.report.compare import compare as compare_runs
from lm_eval_ensemble.report.sentences import disagreement, verdict
from lm_eval_ensemble.report.tables import markdown_table
from lm_eval_ensemble.runs.load import TaskRun
from lm_eval_ensemble.uncertainty.analysis import BASELINE, PRIMARY, Analysis, HolmTest, between, compare

__all__ = ["LEVEL", "compared", "infill_findings", "uncertainty_findings", "uncertainty_table"]

#: p-values below this are called significant.
LEVEL = 0.05


def infill_findings(report: Mapping[str, Any]) -> list[str]:
    """Sentences about one run of one task."""
    figures = report["figures"]
    score = figures["score"]
    share = 0 <= score["value"] <= 1
    value = percent(score["value"]) if share else f"{score['value']:.4g}"
    size = f"{counted(figures['n'], 'documents')} of {counted(figures['problems'], figures['clusters_are'])}"
    few = few_clusters(figures["problems"], figures["clusters_are"], score["df"], compared="members" in figures)
    found = [f"{report['metric']} {value}{_span(score, share)} on {size}.", *([few] if few else [])]
    if "members" not in figures:
        return found
    best = figures["best_member"]
    gains = {member: entry["ensemble_minus_member"] for member, entry in figures["members"].items()}
    tests = f"Holm over {len(gains)} members" if len(gains) > 1 else "one test"
    for (member, gain), p in zip(gains.items(), holm([gain["p"] for gain in gains.values()]), strict=True):
        ends = "" if gain["low"] is None else f" (95 % interval {100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"
        significant = p < LEVEL and bool(gain["difference"])
        word = "significant" if significant else "not significant"
        name = f"{member} (the best member)" if member == best and not figures["members_are_level"] else member
        found.append(
            f"The ensemble minus {name}: {100 * gain['difference']:+.1f} points{ends}; {gain['wins']} wins, {gain['losses']} "
            f"losses; {word}, p = {p:.2g} (sign flip by problem, {tests})."
            + (disagreement(gain["low"], gain["high"], gain["p"], significant) if gain["difference"] else "")
        )
    found.append(
        f"Every selector lies between {percent(figures['floor']['value'])} (floor) and {percent(figures['oracle']['value'])} "
        f"(oracle){_recovered(figures['recovered'])}."
    )
    chosen = figures["selection"]
    if chosen["n"]:
        ends = said = ""
        if chosen["low"] is not None:
            ends = f" (95 % {percent(chosen['low'])} to {percent(chosen['high'])}, by problem)"
            if chosen["break_even"] is not None:
                holds = chosen["low"] <= chosen["break_even"] <= chosen["high"]
                said = ", which the interval " + ("does not exclude" if holds else "excludes")
        even = chosen["break_even"]
        found.append(
            f"Where some candidate is right and some is wrong, {figures['rule']} takes a right one in {chosen['right']} of "
            f"{chosen['n']} choices, {percent(chosen['accuracy'])}{ends}"
            + ("." if even is None else f"; always taking one member gets at most {percent(even)}{said}.")
        )
    return found


def compared(runs: Sequence[TaskRun], seed: int = 0) -> list[str]:
    """Runs of one task against the first of them: the sentences of ``lm-eval-ensemble compare``."""
    try:
        found = compare_runs(runs, CompareOptions(seed=seed))
    except DataError as error:
        return [f"Not compared: {error}"]
    told = [verdict(task, row) for task in found.tasks for row in task.rows if row.label != task.baseline]
    return [*told, *(problem for problem in found.problems)]


def uncertainty_findings(analyses: Sequence[Analysis]) -> dict[str, list[str]]:
    """``Overall statistics``, ``Best performers`` and ``Key findings``, each a list of sentences."""
    return {
        "Overall statistics": _overall(analyses),
        "Best performers": _best(analyses),
        "Key findings": [
            *_against_length(analyses),
            *_other_scores(analyses),
            *_below_chance(analyses),
            *_size(analyses),
            *_dataset(analyses),
            *_accuracy(analyses),
        ],
    }


def uncertainty_table(analyses: Sequence[Analysis]) -> str:
    """One Markdown row per run."""
    header = [
        "data set",
        "model",
        "family",
        "size",
        "precision",
        "n",
        "accuracy",
        "95 %",
        f"AUROC of {PRIMARY}",
        "95 %",
        "note",
    ]
    rows = []
    for name, own in models_of(analyses).items():
        for analysis in own:
            origin, area, right = analysis.answers.origin, area_of(analysis), analysis.accuracy
            ends = f"{percent(right.low)} to {percent(right.high)}"
            cells = [analysis.answers.dataset, name, origin.family, origin.size, origin.precision, str(right.n)]
            value = "-" if area.value is None else f"{area.value:.3f}"
            few = f"fewer than {FEW} right or wrong answers" if fewest(analysis) < FEW else ""
            rows.append(
                [*cells, percent(right.value), ends, value, interval(area.low, area.high, 3) or "-", area.reason or few]
            )
    return markdown_table(header, rows, left=5)


def _overall(analyses: Sequence[Analysis]) -> list[str]:
    models, datasets = models_of(analyses), datasets_of(analyses)
    areas = [area.value for analysis in analyses if (area := area_of(analysis)).value is not None]
    right = [analysis.accuracy.value or 0.0 for analysis in analyses]
    found = [
        f"Runs: {len(analyses)}; models: {len(models)}; data sets: {len(datasets)}; answers: "
        f"{sum(a.accuracy.n for a in analyses)}; an answer is right by rule {listed(sorted({a.label for a in analyses}))}.",
        f"Accuracy from {percent(min(right))} to {percent(max(right))}, median {percent(median(right))}.",
    ]
    if areas:
        found.append(
            f"AUROC of {PRIMARY} from {min(areas):.3f} to {max(areas):.3f}, median {median(areas):.3f}, in the {len(areas)} "
            "runs that have one (0.5 is chance)."
        )
    if gone := len(analyses) - len(areas):
        reasons = sorted({area_of(a).reason or "no score" for a in analyses if area_of(a).value is None})
        found.append(f"{gone} {_runs(gone)} no AUROC: {'; '.join(reasons)}.")
    return found


def _best(analyses: Sequence[Analysis]) -> list[str]:
    """Per data set the highest AUROC, and which models it cannot be told from."""
    found = []
    for dataset in datasets_of(analyses):
        group = [a for a in analyses if a.answers.dataset == dataset and area_of(a).value is not None]
        if not group:
            found.append(f"{dataset}: no model has an AUROC.")
            continue
        names = {id(a): name for name, own in models_of(analyses).items() for a in own}
        best = max(group, key=lambda a: area_of(a).value or 0.0)
        area = area_of(best)
        if len(group) == 1:
            told = f"{names[id(best)]} has AUROC {area.value:.3f} {interval(area.low, area.high, 3)}".rstrip()
            found.append(f"{dataset}: {told}; it is the only model, so nothing is said of a best one.")
            continue
        text = (
            f"{dataset}: {names[id(best)]} has the highest AUROC, {area.value:.3f} {interval(area.low, area.high, 3)}".rstrip()
        )
        # Holm over all pairs of the data set: the best one was picked after looking.
        order = [(a, b) for i, a in enumerate(group) for b in group[i + 1 :]]
        tests = compare(group, (PRIMARY,))
        alike = [
            names[id(b if a is best else a)]
            for (a, b), test in zip(order, tests, strict=True)
            if best in (a, b) and (test.test.p_holm is None or test.test.p_holm >= LEVEL)
        ]
        made = _tests([pair.test for pair in tests])
        text += f"; not told from it (p >= {LEVEL}, {made}, Holm over {len(order)} pairs): {listed(alike)}"
        found.append(f"{text}.")
    return found


def _against_length(analyses: Sequence[Analysis]) -> list[str]:
    """Is the score more than the length of the answer?"""
    tests = [test for a in analyses if PRIMARY in a.reports and (test := a.reports[PRIMARY].over_length) is not None]
    known = [test for test in tests if test.p_holm is not None]
    if not known:
        return []
    better = sum(test.p_holm < LEVEL and (test.difference.value or 0) > 0 for test in known if test.p_holm is not None)
    worse = sum(test.p_holm < LEVEL and (test.difference.value or 0) < 0 for test in known if test.p_holm is not None)
    return [
        f"{PRIMARY} tells wrong answers better than their length ({BASELINE}) in {better} of {len(known)} runs, worse in "
        f"{worse}, and cannot be told from it in {len(known) - better - worse} ({_tests(known)}, Holm within each run)."
    ]


def _other_scores(analyses: Sequence[Analysis]) -> list[str]:
    """Scores that beat the primary one somewhere."""
    wins: dict[str, int] = {}
    asked: dict[str, int] = {}
    known: list[HolmTest] = []
    for analysis in analyses:
        for name, report in analysis.reports.items():
            test = report.over_primary
            if test is None or test.p_holm is None or name.startswith("length_"):
                continue
            known.append(test)
            asked[name] = asked.get(name, 0) + 1
            wins[name] = wins.get(name, 0) + (test.p_holm < LEVEL and (test.difference.value or 0.0) > 0)
    if not asked:
        return []
    ahead = [f"{name} ({wins[name]} of {asked[name]} runs)" for name in asked if wins[name]]
    return [f"Scores significantly better than {PRIMARY} ({_tests(known)}, Holm within each run): {listed(ahead)}."]


def _below_chance(analyses: Sequence[Analysis]) -> list[str]:
    names = {id(a): name for name, own in models_of(analyses).items() for a in own}
    wrong_way = [a for a in analyses if (area_of(a).high or 1.0) < 0.5]
    shown = [f"{names[id(a)]} on {a.answers.dataset} {interval(area_of(a).low, area_of(a).high)}" for a in wrong_way]
    return (
        [f"Below chance with its whole interval, a fault of sign or labels until explained: {listed(shown)}."] if shown else []
    )


def _size(analyses: Sequence[Analysis]) -> list[str]:
    """Larger against smaller models of one family, with the caveat of the plot."""
    known = [a for a in analyses if area_of(a).value is not None and a.answers.origin.parameters]
    caveat = aliasing(known).caveat
    pairs = [(a, b) for a, b in size_pairs(known)]
    found = []
    if pairs:
        gaps = [(area_of(b).value or 0.0) - (area_of(a).value or 0.0) for a, b in pairs]
        tests = {(c.dataset, i): c for i, c in enumerate(c for a, b in pairs for c in compare([a, b], (PRIMARY,)))}
        p = holm([c.test.difference.p if c.test.difference.p is not None else 1.0 for c in tests.values()])
        made = _tests([c.test for c in tests.values()])
        up = sum(value < LEVEL and gap > 0 for value, gap in zip(p, gaps, strict=True))
        down = sum(value < LEVEL and gap < 0 for value, gap in zip(p, gaps, strict=True))
        found.append(
            f"Larger minus smaller model of one family: AUROC of {PRIMARY} {min(gaps):+.3f} to {max(gaps):+.3f} in "
            f"{len(pairs)} pairs; significantly higher in {up}, lower in {down} ({made}, Holm over the pairs)."
        )
    if caveat and len({a.answers.origin.parameters for a in known}) > 1:
        found.append(f"Caution: {caveat}")
    return found


def _dataset(analyses: Sequence[Analysis]) -> list[str]:
    """Each model on the first data set against each other one; the questions differ, so the test is unpaired."""
    first, *others = datasets_of(analyses) or [""]
    found = []
    for other in others:
        gaps: list[float] = []
        p: list[float] = []
        methods: set[str] = set()
        for own in models_of(analyses).values():
            here = {a.answers.dataset: a for a in own if area_of(a).value is not None}
            if first in here and other in here:
                difference = between(here[first], here[other])
                if difference.value is not None and difference.p is not None:
                    gaps.append(difference.value)
                    p.append(difference.p)
                    methods.add(difference.method)
        if not gaps:
            continue
        told = sum(value < LEVEL for value in holm(p))
        found.append(
            f"{first} minus {other}: AUROC of {PRIMARY} {min(gaps):+.3f} to {max(gaps):+.3f} over {len(gaps)} models; "
            f"significant for {told} ({_named(methods)}, Holm over the models)."
        )
    return found


def _accuracy(analyses: Sequence[Analysis]) -> list[str]:
    """Spearman's correlation of accuracy and AUROC over models, per data set, where there are enough for a p-value."""
    from scipy.stats import spearmanr

    found = []
    for dataset in datasets_of(analyses):
        points = [
            (a.accuracy.value, area.value)
            for a in analyses
            if a.answers.dataset == dataset and (area := area_of(a)).value is not None
        ]
        if len(points) < 5 or any(len(set(column)) == 1 for column in zip(*points, strict=True)):
            continue
        result = spearmanr(*zip(*points, strict=True))
        if math.isfinite(result.statistic):
            word = "significant" if result.pvalue < LEVEL else "not significant"
            found.append(
                f"{dataset}: Spearman's correlation of accuracy and AUROC over {len(points)} models is "
                f"{result.statistic:+.2f}, {word} (p = {result.pvalue:.2g}; so few models show strong relations only)."
            )
    return found


def _span(entry: Mapping[str, Any], share: bool) -> str:
    if entry["low"] is None:
        return ""
    ends = (percent(entry["low"]), percent(entry["high"])) if share else (f"{entry['low']:.4g}", f"{entry['high']:.4g}")
    return f" (95 % {ends[0]} to {ends[1]}, clustered by problem)"


def _recovered(entry: Mapping[str, Any]) -> str:
    if entry["value"] is None:
        return f"; {entry['reason']}"
    ends = "" if entry["low"] is None else f" (95 % {percent(entry['low'])} to {percent(entry['high'])})"
    return f"; the ensemble recovers {percent(entry['value'])} of what a perfect selector adds to the best member{ends}"


def _tests(tests: Sequence[HolmTest]) -> str:
    return _named({test.difference.method for test in tests if test.difference.p is not None})


def _named(methods: Iterable[str]) -> str:
    """The names of the tests that were made."""
    return listed(sorted(method.replace("delong", "DeLong") for method in methods))


def _runs(n: int) -> str:
    return "run has" if n == 1 else "runs have"
