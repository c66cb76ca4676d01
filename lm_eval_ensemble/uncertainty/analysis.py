"""From the answers of a run to every number of the report, and models compared on the documents they share."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_ensemble.errors import ConfigError, DataError, did_you_mean
from lm_eval_ensemble.metrics.abstention import Abstention, abstain
from lm_eval_ensemble.metrics.answer_scores import free_scores
from lm_eval_ensemble.metrics.calibration import METHODS, Calibration, calibrate
from lm_eval_ensemble.metrics.clustered import cluster_codes, clustered_share, few_clusters
from lm_eval_ensemble.metrics.delong import NO_VARIANCE, TOO_FEW, Difference, paired, unpaired
from lm_eval_ensemble.metrics.discrimination import Discrimination, discriminate, spearman
from lm_eval_ensemble.metrics.multiple import holm
from lm_eval_ensemble.metrics.uncertainty import Estimate, auroc
from lm_eval_ensemble.runs.answer import RULES
from lm_eval_ensemble.uncertainty.answers import Answers, labels
from lm_eval_ensemble.uncertainty.clusters import Clusters, MatchClusters
from lm_eval_ensemble.uncertainty.origin import UNKNOWN
from lm_eval_ensemble.uncertainty.own import OwnScore
from lm_eval_ensemble.uncertainty.relevance import relevance_scores
from lm_eval_ensemble.uncertainty.sampled import sampled_scores
from lm_eval_ensemble.uncertainty.similarity import Similarity

__all__ = [
    "BASELINE",
    "PRIMARY",
    "Analysis",
    "AnalysisSettings",
    "HolmTest",
    "ModelPair",
    "ScoreReport",
    "analyse",
    "between",
    "compare",
]

PRIMARY = "g_nll"
BASELINE = "length_tokens"
# Every document has this score, so what is said of it is said of all answers.
BASELINE_OF_ALL = "length_chars"
Column = list[float | None]


@dataclass(frozen=True)
class AnalysisSettings:
    """How to analyse. ``label`` is the primary rule, ``alpha`` the target error of abstention with risk ``delta``, by the one
    score ``abstain_by``: a promise that holds for a score named beforehand does not hold for the best of several. ``own`` are
    scores of the user's."""

    similarity: Similarity | None = None
    clusters: Clusters = field(default_factory=MatchClusters)
    label: str = "f1"
    alpha: float = 0.1
    delta: float = 0.05
    draws: int = 1000
    seed: int = 0
    abstain_by: str = PRIMARY
    own: tuple[OwnScore, ...] = ()

    def __post_init__(self) -> None:
        if self.label not in RULES:
            raise ConfigError(f"label: found {self.label!r}, expected one of {', '.join(RULES)}.")
        for name in ("alpha", "delta"):
            if not 0 < (value := getattr(self, name)) < 1:
                raise ConfigError(f"{name}: found {value}, expected a number between 0 and 1, such as 0.1.")
        if self.draws < 0:
            raise ConfigError(f"draws: found {self.draws}, expected 0 or more.")


@dataclass(frozen=True)
class HolmTest:
    """A paired difference of AUROCs and its p-value after Holm's correction over the tests of its family."""

    difference: Difference
    p_holm: float | None


@dataclass(frozen=True)
class ScoreReport:
    """Everything about one score. ``by_label``: AUROC under each rule; ``over_primary`` and ``over_length``: its AUROC minus
    that of G-NLL and of the answer's length, on the documents that have both."""

    name: str
    discrimination: Discrimination
    by_label: Mapping[str, Estimate]
    calibrations: Mapping[str, Calibration]
    over_primary: HolmTest | None
    over_length: HolmTest | None
    unanswerable: Estimate | None


@dataclass(frozen=True)
class Analysis:
    """One task of one run. ``columns``: score -> one value per document of ``answers.keys``; ``wrong``: (n,) bool."""

    answers: Answers
    label: str
    columns: Mapping[str, Column]
    wrong: NDArray[np.bool_]
    reports: Mapping[str, ScoreReport]
    abstain_by: str
    abstention: Abstention
    accuracy: Estimate
    correlations: Mapping[str, Mapping[str, float | None]]
    rates: Mapping[str, float]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ModelPair:
    """Two models on one task by one score: AUROC of the first minus that of the second.

    ``differ`` lists what is known to differ between them (family, size, precision). Where it is more than one thing, the
    difference belongs to none of them alone.
    """

    dataset: str
    score: str
    first: str
    second: str
    test: HolmTest
    differ: tuple[str, ...]


def analyse(answers: Answers, settings: AnalysisSettings) -> Analysis:
    """Every score and metric of a run.

    :raises DataError: the labels of the rule asked for are not to be had.
    """
    wrong = labels(answers.records, settings.label)
    if wrong is None:
        raise DataError(f"{answers.path}: {answers.dataset} has no label {settings.label!r} for some answers; try --label f1.")
    columns = _columns(answers, settings)
    told = _finite(columns)
    if settings.abstain_by not in columns:
        raise DataError(
            f"{answers.path}: {answers.dataset} has no score {settings.abstain_by!r} to abstain by."
            f"{did_you_mean(settings.abstain_by, columns)}"
        )
    clusters = _codes(answers)
    rules = {rule: found for rule in RULES if (found := labels(answers.records, rule)) is not None}
    answerable = np.array([record.get("answerable") is not False for record in answers.records])
    reports = {name: _report(name, column, wrong, clusters, rules, answerable, settings) for name, column in columns.items()}
    over_primary, over_length = (_tests(columns, wrong, clusters, other) for other in (PRIMARY, BASELINE))
    reports = {
        name: replace(report, over_primary=over_primary.get(name), over_length=over_length.get(name))
        for name, report in reports.items()
    }
    return Analysis(
        answers=answers,
        label=settings.label,
        columns=columns,
        wrong=wrong,
        reports=reports,
        abstain_by=settings.abstain_by,
        abstention=abstain(columns[settings.abstain_by], wrong, settings.alpha, settings.delta, clusters),
        accuracy=_accuracy(wrong, clusters),
        correlations=spearman(columns),
        rates=_rates(answers.records),
        warnings=(*_warnings(answers, reports, rules), *told),
    )


def compare(analyses: Sequence[Analysis], scores: Sequence[str] = (PRIMARY, "rw_g_nll")) -> list[ModelPair]:
    """All pairs of runs of the same task: paired on the documents they share, unpaired where they share none.

    Holm's correction is over the pairs of one task and score.
    """
    found: list[ModelPair] = []
    for dataset in dict.fromkeys(analysis.answers.dataset for analysis in analyses):
        group = [analysis for analysis in analyses if analysis.answers.dataset == dataset]
        for score in scores:
            having = [analysis for analysis in group if score in analysis.columns]
            pairs = list(combinations(having, 2))
            tests = _corrected([between(a, b, score) for a, b in pairs])
            for (a, b), test in zip(pairs, tests, strict=True):
                found.append(ModelPair(dataset, score, _name(a, group), _name(b, group), test, _differ(a, b)))
    return found


def _columns(answers: Answers, settings: AnalysisSettings) -> dict[str, Column]:
    """Score -> values; scores no document has are left out, but for the primary one, which keeps its row."""
    records = answers.records
    rows: list[dict[str, float | None]] = [free_scores(record) for record in records]
    if settings.similarity is not None:
        for row, more in zip(rows, relevance_scores(records, settings.similarity), strict=True):
            row.update(more)
    if any(record.get("samples") for record in records):
        for row, more in zip(rows, sampled_scores(records, settings.clusters, settings.similarity), strict=True):
            row.update(more)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    for own in settings.own:
        if own.name in columns:
            raise ConfigError(f"--score {own.spec}: {own.name!r} is the name of a score of ours; call yours by another.")
        columns[own.name] = own.values(answers)
    return {name: col for name, col in columns.items() if name == PRIMARY or any(value is not None for value in col)}


def _codes(answers: Answers) -> NDArray[np.intp] | None:
    """(n,) the clusters as numbers; None where every answer stands for itself."""
    return cluster_codes(answers.clusters) if answers.clusters else None


def _accuracy(wrong: NDArray[np.bool_], clusters: NDArray[np.intp] | None) -> Estimate:
    """The interval that ``compare`` and ``report`` give the same share."""
    n = len(wrong)
    found = clustered_share((~wrong).astype(float), np.arange(n) if clusters is None else clusters)
    name = "wilson" if clusters is None else "wilson by cluster"
    reason = None if found is not None and found.low is not None else "one cluster only: no interval"
    value = float((~wrong).mean())
    if found is None:
        return Estimate(value, None, None, name, reason, n, 0)
    return Estimate(value, found.low, found.high, name, reason, n, 0, None if clusters is None else found.clusters, found.df)


def _finite(columns: dict[str, Column]) -> list[str]:
    """Takes what is no finite number out of the columns, and tells so: files of other programs hold NaN and infinity."""
    told: dict[str, int] = {}
    for name, column in columns.items():
        if count := sum(value is not None and not math.isfinite(value) for value in column):
            columns[name] = [None if value is None or not math.isfinite(value) else value for value in column]
            told[name] = count
    counts = ", ".join(f"{count} of {name}" for name, count in told.items())
    return [f"values that are no finite numbers are left out: {counts}"] if told else []


def _report(
    name: str,
    column: Column,
    wrong: NDArray[np.bool_],
    clusters: NDArray[np.intp] | None,
    rules: Mapping[str, NDArray[np.bool_]],
    answerable: NDArray[np.bool_],
    settings: AnalysisSettings,
) -> ScoreReport:
    return ScoreReport(
        name=name,
        discrimination=discriminate(column, wrong, settings.draws, settings.seed, clusters),
        by_label={rule: auroc(column, other, clusters) for rule, other in rules.items()},
        calibrations={method: calibrate(column, wrong, method, seed=settings.seed, clusters=clusters) for method in METHODS},
        over_primary=None,
        over_length=None,
        # told only where the task asks some questions that have no answer
        unanswerable=None if answerable.all() else auroc(column, ~answerable, clusters),
    )


def _tests(
    columns: Mapping[str, Column], wrong: NDArray[np.bool_], clusters: NDArray[np.intp] | None, other: str
) -> dict[str, HolmTest]:
    if other not in columns:
        return {}
    names = [name for name in columns if name != other]
    second = _array(columns[other])
    differences = []
    for name in names:
        first = _array(columns[name])
        both = ~np.isnan(first) & ~np.isnan(second)
        codes = None if clusters is None or not both.any() else cluster_codes(clusters[both])
        differences.append(paired(first[both], second[both], wrong[both], codes=codes))
    return dict(zip(names, _corrected(differences), strict=True))


def _corrected(differences: Sequence[Difference]) -> list[HolmTest]:
    adjusted = iter(holm([difference.p for difference in differences if difference.p is not None]))
    return [HolmTest(difference, None if difference.p is None else next(adjusted)) for difference in differences]


def between(a: Analysis, b: Analysis, score: str = PRIMARY) -> Difference:
    """AUROC of the first run minus that of the second: paired on the documents they share, unpaired where they share none."""
    first, second = (dict(zip(x.answers.keys, _array(x.columns[score]), strict=True)) for x in (a, b))
    wrongs = [dict(zip(x.answers.keys, x.wrong, strict=True)) for x in (a, b)]
    known = [[key for key, value in column.items() if not np.isnan(value)] for column in (first, second)]
    named = _clusters_of((a, b))
    shared = [key for key in known[0] if key in set(known[1])]
    if shared:
        mine, yours = (np.array([wrong[key] for key in shared], bool) for wrong in wrongs)
        codes = cluster_codes([named[0][key] for key in shared]) if named else None
        return paired(
            np.array([first[key] for key in shared]), np.array([second[key] for key in shared]), mine, yours, codes=codes
        )
    columns = [np.array([column[key] for key in keys], float) for column, keys in zip((first, second), known, strict=True)]
    mine, yours = (np.array([wrong[key] for key in keys], bool) for wrong, keys in zip(wrongs, known, strict=True))
    both = None
    if named and known[0] and known[1]:
        numbers = cluster_codes([own[key] for own, keys in zip(named, known, strict=True) for key in keys])
        both = (numbers[: len(known[0])], numbers[len(known[0]) :])
    return unpaired(columns[0], columns[1], mine, yours, both)


def _clusters_of(pair: Sequence[Analysis]) -> list[dict[Hashable, Hashable]]:
    """Key -> cluster of both runs; empty where every document of both stands for itself. Where one run knows larger clusters
    (articles, where the other knows their texts), these are taken for the documents that both have."""
    if not any(analysis.answers.clusters for analysis in pair):
        return []
    found: list[dict[Hashable, Hashable]] = [
        dict(zip(a.answers.keys, a.answers.clusters or [("document", key) for key in a.answers.keys], strict=True))
        for a in pair
    ]
    few, many = sorted(found, key=lambda own: len(set(own.values())) / max(len(own), 1))
    many |= {key: cluster for key, cluster in few.items() if key in many}
    return found


def _name(analysis: Analysis, group: Sequence[Analysis]) -> str:
    name = f"{analysis.answers.name} ({analysis.answers.source})"
    alike = sum(f"{other.answers.name} ({other.answers.source})" == name for other in group)
    return f"{name} {analysis.answers.run_id}" if alike > 1 else name


def _differ(a: Analysis, b: Analysis) -> tuple[str, ...]:
    first, second = a.answers.origin, b.answers.origin
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in ("family", "size", "precision")}
    return tuple(name for name, (x, y) in pairs.items() if x != y and UNKNOWN not in (x, y))


def _array(column: Column) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in column], np.float64)


def _rates(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Shares of the answers: cut by the length limit, last token across a stop, empty, prompt shortened to fit.

    Each over the answers whose model tells; left out where none does (plain text, a second pass, old files).
    """
    ended = [record for record in records if record.get("stop_kind") is not None]
    generated = [r for r in ended if r.get("source", "generation") == "generation" and "trimmed_prefix" in r]
    shares = {
        "truncated": [bool(record.get("truncated")) for record in ended],
        "straddle": [bool(record.get("straddle")) for record in ended],
        "empty": [not record.get("answer") for record in records],
        "trimmed": [bool(record["trimmed_prefix"]) for record in generated],
    }
    return {name: sum(values) / len(values) for name, values in shares.items() if values}


def _warnings(answers: Answers, reports: Mapping[str, ScoreReport], rules: Mapping[str, NDArray[np.bool_]]) -> list[str]:
    found = list(answers.notes)
    if answers.clusters and (few := few_clusters(count := len(set(answers.clusters)), answers.kind)):
        found.append(few.removesuffix(".") if count == 1 else f"{few} Those by resampling are too narrow until then")
    found += [warning for warning in reports[BASELINE_OF_ALL].discrimination.warnings if "too few" in warning]
    for name, report in reports.items():
        # that longer answers are right more often is a finding about lengths, no fault
        if not name.startswith("length_"):
            found += [f"{name}: {warning}" for warning in report.discrimination.warnings if "too few" not in warning]
    tests = [test for report in reports.values() for test in (report.over_primary, report.over_length) if test is not None]
    why = {test.difference.reason for test in tests}
    if NO_VARIANCE in why:
        found.append("a difference to an AUROC of 1 or 0, which has no variance, has no p; its interval is in the JSON")
    if TOO_FEW in why:
        found.append("with fewer than five wrong or right answers differences of AUROCs have no p; intervals are in the JSON")
    if all(record.get("logprobs") is None for record in answers.records):
        found.append("no log-probabilities were recorded: lengths only. Run with --model hf-scored")
    sources = sorted({str(record.get("source") or "generation") for record in answers.records})
    if len(sources) > 1:
        found.append(f"log-probabilities of different origin in one run ({', '.join(sources)}): scores are not on one scale")
    elif sources == ["loglikelihood"]:
        found.append("log-probabilities of a second pass over the answer's text, not of its generation")
    kinds = sorted({str(record["entropy_kind"]) for record in answers.records if record.get("entropy_kind")})
    if any(kind.startswith("topk") for kind in kinds):
        found.append(f"entropies are lower bounds ({', '.join(kinds)})")
    if "stored" in rules and (differ := int((rules["stored"] != rules["f1"]).sum())):
        found.append(f"stored verdicts differ from F1 >= 0.5 in {differ} answers (another judge?); --label stored uses them")
    return found
