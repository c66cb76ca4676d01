"""Runs of questions: what counts as right, and whether a score tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import roc_auc_score

from lm_eval_ensemble.report.figures import figures
from lm_eval_ensemble.report.page.build import page
from lm_eval_ensemble.report.page.charts import charts
from lm_eval_ensemble.report.run import report_of
from lm_eval_ensemble.report.text import as_text
from lm_eval_ensemble.runs.load import load_runs
from lm_eval_ensemble.uncertainty.analysis import AnalysisSettings, analyse
from lm_eval_ensemble.uncertainty.answers import load_answers
from tests.report.helpers import read_lines, sample, write_run


def question(doc_id: int, score: float | None, f1: float) -> dict[str, Any]:
    record = {
        "question": f"q{doc_id}",
        "answer": "a" if f1 else "",
        "logprobs": [None, -2.0] if score is None else [-1.0, 1.0 - score],
        "stop_kind": "until" if doc_id else "length",
        "truncated": doc_id == 0,
        "f1": f1,
        "em": int(f1 == 1),
        "rougeL": f1,
    }
    pair = [score, float(f1 < 0.5)]
    return sample(doc_id, float(f1 >= 0.5), "accuracy", uncertainty=record, auroc_g_nll=pair, auroc_g_nll_low=pair)


def test_figures_of_questions() -> None:
    scores, f1 = [3.0, 2.0, 2.5, 1.0, 1.5, 4.0], [0.0, 0.0, 0.6, 1.0, 0.4, 0.0]
    data = [question(i, s, f) for i, (s, f) in enumerate(zip(scores, f1, strict=True))]
    found = figures(read_lines([*data, question(6, None, 1.0)], "accuracy")[0])
    assert found["answers"]["right"] == {
        "f1>=0.5": pytest.approx(3 / 7),
        "em": pytest.approx(2 / 7),
        "rougeL>=0.3": pytest.approx(4 / 7),
    }
    assert found["answers"]["stops"] == {"length": 1, "until": 6}
    assert (found["answers"]["truncated"], found["answers"]["mean_tokens"]) == (pytest.approx(1 / 7), 2.0)
    assert list(found["uncertainty"]) == ["g_nll"]
    entry = found["uncertainty"]["g_nll"]
    assert entry["value"] == pytest.approx(roc_auc_score([f < 0.5 for f in f1], scores), abs=1e-6)
    assert (entry["n"], entry["excluded"], entry["wrong"]) == (6, 1, 4)
    # From the least certain: wrong, wrong, right, wrong, wrong, right. Before the first right one half of the wrong are found.
    assert [entry["roc"][k] for k in (0, 20)] == [{"false_alarms": 0.0, "found": 0.5}, {"false_alarms": 1.0, "found": 1.0}]
    assert next(point["found"] for point in entry["roc"] if point["false_alarms"] == 0.5) == 1.0
    drawn = charts(found)
    (roc,), (risk,) = drawn["roc"], drawn["risk"]
    assert roc.text == f"g_nll {entry['value']:.3f}"
    assert roc.points.startswith("0.0,100.0 0.0,50.0 ")
    assert roc.points.endswith(" 100.0,0.0")
    assert roc.marks == ["0,100 100,0"]
    # Four of six wrong by chance; the perfect order has none wrong while a third is answered.
    assert risk.marks[0] == "0,33.3 100,33.3"
    assert risk.marks[1].split()[5:7] == ["30.0,100.0", "35.0,95.2"]
    assert risk.points.endswith(" 100.0,33.3")
    facts = {"run": "m", "task": "t", "metric": "accuracy", "model": "hf-scored", "date": ""}
    text = as_text({**facts, "figures": found})
    assert "| g_nll" in text
    assert "42.9 % by f1>=0.5" in text
    assert "Left out, as the record gives no finite number: 1 of g_nll." in text


@pytest.mark.parametrize("odd", [float("nan"), -float("inf")])
def test_numbers_that_are_not_finite_are_left_out_everywhere(odd: float, tmp_path: Path) -> None:
    """Files of other programs hold them: the same AUROC as without, a page that opens, JSON that any reader takes."""
    scores, f1 = [3.0, 2.0, 2.5, 1.0], [0.0, 0.0, 0.6, 1.0]
    data = [question(i, s, f) for i, (s, f) in enumerate(zip(scores, f1, strict=True))]
    spoilt = question(4, 1.5, 0.4)
    spoilt["uncertainty"]["logprobs"][0] = odd
    spoilt["auroc_g_nll"] = [odd, 1.0]
    folder = write_run(tmp_path / "run", [*data, spoilt], metric="accuracy")
    (run,), _ = load_runs([folder])
    report = report_of(run)
    entry = report.figures["uncertainty"]["g_nll"]
    expected = roc_auc_score([f < 0.5 for f in f1], scores)
    assert (entry["value"], entry["n"], entry["excluded"]) == (pytest.approx(expected, abs=1e-6), 4, 1)
    assert entry["wrong"] == 2  # of the four
    json.dumps(report.content, allow_nan=False, default=str)
    assert "1 of g_nll." in as_text(report.content)
    assert "Samples" in page([report])
    (answers,), _ = load_answers([folder])
    found = analyse(answers, AnalysisSettings(draws=0))
    assert found.rates["empty"] == report.figures["answers"]["empty"] == 0.4
    area = found.reports["g_nll"].discrimination.metrics["auroc"]
    assert area.value == pytest.approx(entry["value"], abs=1e-6)
    assert area.excluded == 1


def test_nothing_is_said_of_other_runs() -> None:
    found = figures(read_lines([sample(0, 1.0), sample(1, 0.0)], "acc")[0])
    assert not {"answers", "uncertainty", "scorers", "members"} & found.keys()


@pytest.mark.parametrize("damaged", [10**400, -1, "0.9", [1.0]])
def test_a_measure_that_is_no_share_is_damage(damaged: Any) -> None:
    data = [question(i, 1.0, float(i)) for i in range(2)]
    data.append(question(2, 1.0, 0.0))
    data[2]["uncertainty"]["f1"] = damaged
    rows, told = read_lines(data, "accuracy")
    found = figures(rows)["answers"]
    assert (found["right"]["f1>=0.5"], found["mean"]["f1"], found["n"]) == (0.5, 0.5, 2)
    assert "file, line 3: the record is damaged" in told[0]
    assert "'uncertainty.f1'" in told[0]
