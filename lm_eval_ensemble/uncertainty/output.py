"""An analysis as a table for people, as JSON, and as rows for a spreadsheet."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lm_eval_ensemble.metrics.rejection import CURVES
from lm_eval_ensemble.metrics.uncertainty import Estimate
from lm_eval_ensemble.runs.answer import RULES
from lm_eval_ensemble.uncertainty.analysis import BASELINE, PRIMARY, Analysis, HolmTest, ModelPair, ScoreReport

__all__ = ["COLUMNS", "as_json", "as_text", "comparisons_text", "csv_row", "write_csv", "write_json"]

# The columns of the earlier experiments, by their names.
COLUMNS = (
    *("model_name", "model_family", "model_size", "quantization", "dataset", "run_id", "experiment_lot"),
    *("G-NLL_AUROC", "Accuracy", "Num_examples", "Mean_G-NLL", "Std_G-NLL"),
    *("RW-G-NLL_AUROC", "Mean_RW-G-NLL", "Std_RW-G-NLL"),
)
_OLD_NAMES = {PRIMARY: "G-NLL", "rw_g_nll": "RW-G-NLL"}
# What the table shows; the files have all.
_SHOWN = ("auprc", "prr", "aurc", "acc@80", "acc@90", "acc@95")


def as_text(analysis: Analysis) -> str:
    """The table of one run: scores as rows, lengths as the baseline, p-values after Holm's correction."""
    answers, accuracy = analysis.answers, analysis.accuracy
    right = round((accuracy.value or 0.0) * accuracy.n)
    origin = answers.origin
    interval = "" if accuracy.low is None else f" [{_percent(accuracy.low)}, {_percent(accuracy.high)}]"
    lines = [
        answers.label,
        f"  family {origin.family}, size {origin.size}, precision {origin.precision}; {accuracy.n} answers"
        f"{_of_clusters(analysis)}, {right} right = {_percent(accuracy.value)}"
        f"{interval} by {_rule(analysis.label)}",
        "  answers " + ", ".join(f"{name} {_percent(value)}" for name, value in analysis.rates.items()),
        *(f"  {line}" for line in _aligned(_rows(analysis))),
    ]
    lines += [f"  {line}" for line in (_calibration_line(analysis), _abstention_line(analysis)) if line]
    reasons = {estimate.reason for report in analysis.reports.values() if (estimate := _area(report)).reason}
    lines += [f"  note: {reason}" for reason in sorted(filter(None, reasons))]
    lines += [f"  warning: {warning}" for warning in analysis.warnings]
    return "\n".join(lines)


def _of_clusters(analysis: Analysis) -> str:
    answers = analysis.answers
    return f" of {len(set(answers.clusters))} {answers.kind}" if answers.clusters else ""


def comparisons_text(comparisons: Sequence[ModelPair]) -> str:
    """One line per pair of models; empty without any."""
    if not comparisons:
        return ""
    rows = [["task", "score", "first", "second", "difference", "95 %", "p (Holm)", "n", "how", "differ in"]]
    for found in comparisons:
        gap = found.test.difference
        interval = f"[{_signed(gap.low)}, {_signed(gap.high)}]" if gap.low is not None else gap.reason or ""
        names = [found.dataset, found.score, found.first, found.second]
        rows.append([*names, _signed(gap.value), interval, _p(found.test), str(gap.n), gap.method, ", ".join(found.differ)])
    lines = ["AUROC of the first model minus that of the second", *(f"  {line}" for line in _aligned(rows))]
    if any({"size", "precision"} <= set(found.differ) for found in comparisons):
        lines.append("  warning: some pairs differ in size and in precision: their difference is no effect of size")
    return "\n".join(lines)


def _rows(analysis: Analysis) -> list[list[str]]:
    rules = [rule for rule in RULES if rule in next(iter(analysis.reports.values())).by_label]
    others = [rule for rule in rules if rule != analysis.label]
    some_unanswerable = any(report.unanswerable for report in analysis.reports.values())
    head = ["score", "AUROC", "95 %", *(f"by {rule}" for rule in others), "- length", "p", "- g_nll", "p", "rank"]
    head += [*(["unansw."] if some_unanswerable else []), *_SHOWN, "left out"]
    rows = [head]
    for name, report in analysis.reports.items():
        area, metrics = _area(report), report.discrimination.metrics
        correlation = analysis.correlations[PRIMARY].get(name)
        rows.append(
            [f"{name} (baseline)" if name == BASELINE else name, _three(area.value) or "-", _interval(area) or "-"]
            + [_three(report.by_label[rule].value) for rule in others]
            + [*_gap(report.over_length), *_gap(report.over_primary), _signed(correlation, 2)]
            + ([_three(report.unanswerable.value if report.unanswerable else None)] if some_unanswerable else [])
            + [_three(metrics[metric].value) for metric in _SHOWN]
            + [str(area.excluded or "")]
        )
    return rows


def _calibration_line(analysis: Analysis) -> str:
    parts = []
    for method, found in analysis.reports[PRIMARY].calibrations.items():
        if found.brier.value is not None and found.ece.value is not None:
            parts.append(
                f"{method} ECE {found.ece.value:.3f} ({_three(found.expected)} if calibrated), Brier {found.brier.value:.3f} "
                f"{_interval(found.brier)}".rstrip()
                + f" (base rate {found.base:.3f})"
            )
    return f"{PRIMARY} as a probability, cross-fitted: {'; '.join(parts)}" if parts else ""


def _abstention_line(analysis: Analysis) -> str:
    found, score = analysis.abstention, analysis.abstain_by
    target = f"an error of at most {_percent(found.alpha)} (confidence {_percent(1 - found.delta)})"
    if found.threshold is None:
        return f"{target} by {score}: {found.reason}"
    rule = "always answer" if found.coverage == 1.0 else f"answer where {score} < {found.threshold:.4g}"
    drawn = (
        "questions are drawn independently" if found.clusters is None else f"{analysis.answers.kind} are drawn independently"
    )
    return (
        f"{target}: {rule}; {_percent(found.coverage)} answered here, {_percent(found.error)} of them wrong. It holds for new "
        f"questions of this kind if {drawn} and {score} was named before looking"
    )


def as_json(analyses: Sequence[Analysis], comparisons: Sequence[ModelPair], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, without NaN: null with a reason; infinity as null."""
    return {
        "settings": dict(settings),
        "runs": [_run_json(analysis) for analysis in analyses],
        "comparisons": [
            {**{key: value for key, value in asdict(found).items() if key != "test"}, **_test_json(found.test)}
            for found in comparisons
        ],
    }


def _run_json(analysis: Analysis) -> dict[str, Any]:
    answers = analysis.answers
    return {
        "model_name": answers.origin.name,
        "model_source": answers.source,
        "model_family": answers.origin.family,
        "model_parameters": answers.origin.parameters,
        "quantization": answers.origin.precision,
        "dataset": answers.dataset,
        "run_id": answers.run_id,
        "experiment_lot": answers.experiment_lot,
        "cell": answers.cell or None,
        "results": answers.path.name,
        "label": analysis.label,
        "clusters": len(set(answers.clusters)) or None,
        "clustered_by": answers.kind or None,
        "accuracy": analysis.accuracy.as_json(),
        "abstention": _abstention_json(analysis),
        "rates": dict(analysis.rates),
        "scores": {name: _score_json(report) for name, report in analysis.reports.items()},
        "spearman": {name: dict(row) for name, row in analysis.correlations.items()},
        "warnings": list(analysis.warnings),
    }


def _abstention_json(analysis: Analysis) -> dict[str, Any]:
    found = {key: None if value == float("inf") else value for key, value in asdict(analysis.abstention).items()}
    return {"score": analysis.abstain_by, **found, "always_answer": analysis.abstention.coverage == 1.0}


def _score_json(report: ScoreReport) -> dict[str, Any]:
    return {
        "mean": report.discrimination.mean,
        "std": report.discrimination.std,
        "metrics": {name: estimate.as_json() for name, estimate in report.discrimination.metrics.items()},
        "auroc_by_label": {rule: estimate.as_json() for rule, estimate in report.by_label.items()},
        "auroc_unanswerable": report.unanswerable.as_json() if report.unanswerable else None,
        "over_g_nll": _test_json(report.over_primary) if report.over_primary else None,
        "over_length": _test_json(report.over_length) if report.over_length else None,
        "calibration": {
            method: {
                "ece": c.ece.as_json(),
                "expected_ece": c.expected,
                "brier": c.brier.as_json(),
                "base": c.base,
                "bins": [list(row) for row in c.bins],
            }
            for method, c in report.calibrations.items()
        },
    }


def _test_json(test: HolmTest) -> dict[str, Any]:
    return {**asdict(test.difference), "p_holm": test.p_holm}


def csv_row(analysis: Analysis) -> dict[str, Any]:
    """The old columns, then intervals, then the other scores; an empty cell where there is no value."""
    answers = analysis.answers
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {
        "model_name": answers.origin.name,
        "model_family": answers.origin.family,
        "model_size": answers.origin.size,
        "quantization": answers.origin.precision,
        "dataset": answers.dataset,
        "run_id": answers.run_id,
        "experiment_lot": answers.experiment_lot,
        "Accuracy": analysis.accuracy.value,
        "Num_examples": analysis.accuracy.n,
    }
    for score, old in _OLD_NAMES.items():
        if score in analysis.reports:
            found = analysis.reports[score]
            row |= {f"{old}_AUROC": _area(found).value}
            row |= {f"Mean_{old}": found.discrimination.mean, f"Std_{old}": found.discrimination.std}
    row |= {"cell": answers.cell} if answers.cell else {}
    row |= {"label": analysis.label, "Accuracy_low": analysis.accuracy.low, "Accuracy_high": analysis.accuracy.high}
    for name, report in analysis.reports.items():
        old, area = _OLD_NAMES.get(name, name), _area(report)
        row |= {f"{old}_AUROC": area.value, f"{old}_AUROC_low": area.low, f"{old}_AUROC_high": area.high}
        row |= {f"{old}_{metric}": report.discrimination.metrics[metric].value for metric in CURVES if metric != "auroc"}
        row[f"{old}_AUROC_reason"] = area.reason
    return row


def write_csv(path: Path, analyses: Sequence[Analysis]) -> None:
    """One row per task and run. Columns are the union over the rows, the old ones first."""
    rows = [csv_row(analysis) for analysis in analyses]
    names = list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)]))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Strict JSON: a NaN would be an error here, not in the reader."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _area(report: ScoreReport) -> Estimate:
    return report.discrimination.metrics["auroc"]


def _rule(name: str) -> str:
    return f"{name} >= {RULES[name]:g}"


def _gap(test: HolmTest | None) -> list[str]:
    return ["", ""] if test is None else [_signed(test.difference.value), _p(test)]


def _interval(estimate: Estimate) -> str:
    return "" if estimate.low is None else f"[{_three(estimate.low)}, {_three(estimate.high)}]"


def _three(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _signed(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:+.{digits}f}"


def _p(test: HolmTest) -> str:
    if test.p_holm is None:
        return ""
    return "<0.001" if test.p_holm < 0.001 else f"{test.p_holm:.3f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width; empty ones are left out."""
    kept = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
    widths = [max(len(row[i]) for row in rows) for i in kept]
    return ["  ".join(row[i].ljust(width) for i, width in zip(kept, widths, strict=True)).rstrip() for row in rows]
