"""From result folders to reports: agreement with the metrics, missing parts, models compared."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lm_eval_ensemble.cli import main
from lm_eval_ensemble.errors import ConfigError, DataError
from lm_eval_ensemble.metrics.clustered import clustered_share
from lm_eval_ensemble.uncertainty.analysis import Analysis, AnalysisSettings, analyse, compare
from lm_eval_ensemble.uncertainty.answers import labels, load_answers
from lm_eval_ensemble.uncertainty.similarity import Constant
from tests.uncertainty.runs import a_record, records, write_run

QUICK = AnalysisSettings(draws=20)


def analysed(folder: Path, found: list[dict[str, Any]], settings: AnalysisSettings = QUICK, **names: Any) -> Analysis:
    write_run(folder, found, **names)
    (answers,), problems = load_answers([folder])
    assert problems == []
    return analyse(answers, settings)


def test_numbers_are_those_of_the_records(tmp_path: Path) -> None:
    found = records()
    analysis = analysed(tmp_path, found, AnalysisSettings(Constant(), draws=20))
    wrong = [record["f1"] < 0.5 for record in found]
    assert analysis.accuracy.value == 1 - np.mean(wrong)
    scores = {"g_nll": [-sum(r["logprobs"]) for r in found], "length_tokens": [len(r["logprobs"]) for r in found]}
    for name, values in scores.items():
        area = analysis.reports[name].discrimination.metrics["auroc"]
        assert area.value == pytest.approx(roc_auc_score(wrong, values))
        assert area.n == len(found)
    assert analysis.columns["rw_g_nll"] == analysis.columns["ln_nll"]
    # scores that no document has take no row
    assert "mean_entropy" not in analysis.reports
    assert "pe" not in analysis.reports
    assert analysis.correlations["g_nll"]["ln_nll"] == analysis.correlations["ln_nll"]["g_nll"]
    assert analysis.reports["g_nll"].over_primary is None
    over = analysis.reports["g_nll"].over_length
    assert over is not None
    assert over.difference.value == pytest.approx(
        roc_auc_score(wrong, scores["g_nll"]) - roc_auc_score(wrong, scores["length_tokens"])
    )
    assert over.p_holm is not None
    assert over.difference.p is not None
    assert over.p_holm >= over.difference.p


def test_labels_by_every_rule(tmp_path: Path) -> None:
    values = [(0.5, 0, 0.3), (0.49, 1, 0.29)]
    found = [a_record(i, [-1.0], True, f1=f1, em=em, rougeL=rouge) for i, (f1, em, rouge) in enumerate(values)]
    wrong = {rule: labels(found, rule) for rule in ("f1", "em", "rougeL")}
    assert {rule: None if own is None else own.tolist() for rule, own in wrong.items()} == {
        "f1": [False, True],
        "em": [True, False],
        "rougeL": [False, True],
    }
    assert labels(found, "stored") is None
    # what the record does not have is computed from its references
    bare = {**a_record(0, [-1.0], True), "f1": None, "em": None, "rougeL": None, "answer": "the w0"}
    assert [bool(labels([bare], rule)) for rule in ("f1", "em", "rougeL")] == [False, False, False]
    with pytest.raises(DataError, match="no label 'stored'"):
        analysed(tmp_path, found, AnalysisSettings(label="stored", draws=0))


def test_one_class_keeps_its_row(tmp_path: Path) -> None:
    analysis = analysed(tmp_path, [a_record(i, [-float(i)], True) for i in range(12)])
    area = analysis.reports["g_nll"].discrimination.metrics["auroc"]
    assert (area.value, area.reason) == (None, "all answers are right")
    assert analysis.reports["g_nll"].discrimination.mean == 5.5


def test_stock_models_are_told_how_to_get_scores(tmp_path: Path) -> None:
    found = [{**a_record(i, None, i % 2 == 0), "answer": "x" * (i + 1), "raw": " " + "x" * (i + 1)} for i in range(20)]
    analysis = analysed(tmp_path, found)
    assert list(analysis.reports) == ["g_nll", "length_chars"]
    assert analysis.reports["g_nll"].discrimination.metrics["auroc"].reason == "no document has this score"
    assert any("--model hf-scored" in warning for warning in analysis.warnings)


def test_warnings_about_mixed_sources_and_partial_entropies(tmp_path: Path) -> None:
    found = records(n=30)
    found[0]["source"] = "loglikelihood"
    for record in found:
        record |= {"entropy": [0.5] * len(record["logprobs"]), "entropy_kind": "topk:20", "truncated": True}
    analysis = analysed(tmp_path, found)
    assert any("generation, loglikelihood" in warning for warning in analysis.warnings)
    assert any("topk:20" in warning for warning in analysis.warnings)
    assert analysis.rates == {"truncated": 1.0, "straddle": 0.0, "empty": 0.0, "trimmed": 0.0}


@pytest.mark.parametrize(
    ("own", "asked", "drawn"),
    [
        ({}, {"do_sample": False, "temperature": 0.0}, False),
        ({}, {"do_sample": True, "temperature": 1.0}, True),
        ({}, {"temperature": 0.7}, True),
        ({"temperature": 1.0}, {"do_sample": False}, True),
        ({"temperature": 0}, {"do_sample": True}, False),
        ({"greedy": True}, {"do_sample": True}, False),
    ],
)
def test_answers_that_are_not_greedy_are_told(tmp_path: Path, own: dict[str, Any], asked: dict[str, Any], drawn: bool) -> None:
    path = write_run(tmp_path, records(n=12), config={"model_args": own})
    content = json.loads(path.read_text())
    content["configs"]["triviaqa_uncertainty"]["generation_kwargs"] = asked
    path.write_text(json.dumps(content))
    (answers,), _ = load_answers([tmp_path])
    assert any("not greedy" in warning for warning in analyse(answers, QUICK).warnings) is drawn


def test_rates_that_a_model_does_not_tell_are_left_out(tmp_path: Path) -> None:
    """A share of 0 would say that no answer was cut."""
    for source, stop_kind, told in (
        ("server", "until", ["truncated", "straddle", "empty"]),
        ("loglikelihood", None, ["empty"]),
    ):
        found = [record | {"source": source, "stop_kind": stop_kind} for record in records(n=12)]
        assert list(analysed(tmp_path / source, found).rates) == told


def test_unanswerable_questions_have_their_own_area(tmp_path: Path) -> None:
    found = records(n=40)
    for record in found[:20]:
        record["answerable"] = False
    report = analysed(tmp_path, found).reports["g_nll"]
    assert report.unanswerable is not None
    values = [-sum(r["logprobs"]) for r in found]
    assert report.unanswerable.value == pytest.approx(roc_auc_score([1] * 20 + [0] * 20, values))


def test_samples_bring_their_scores(tmp_path: Path) -> None:
    found = records(n=30)
    generator = random.Random(1)
    for record in found:
        texts = [generator.choice([" Paris", " Rome"]) for _ in range(4)]
        record["samples"] = [
            {"text": text, "tokens": [text], "token_ids": [1], "logprobs": [-generator.random()], "f1": 0.0} for text in texts
        ]
    analysis = analysed(tmp_path, found)
    assert {"pe", "se", "se_discrete", "lexical", "num_sets"} <= set(analysis.reports)
    assert "sar" not in analysis.reports
    assert set(analysis.columns["num_sets"]) <= {1.0, 2.0}


def test_models_are_compared_on_shared_documents(tmp_path: Path) -> None:
    strong, weak = records(n=80, gap=3.0), records(n=60, gap=0.0)
    analyses = [analysed(tmp_path / name, found, model=name) for name, found in (("strong", strong), ("weak", weak))]
    (found,) = compare(analyses)
    assert found.differ == ()
    assert (found.first, found.second, found.score) == ("strong (hf-scored)", "weak (hf-scored)", "g_nll")
    assert found.test.difference.n == 60
    assert "paired by document" in found.test.difference.method
    areas = [
        roc_auc_score([r["f1"] < 0.5 for r in rows[:60]], [-sum(r["logprobs"]) for r in rows[:60]]) for rows in (strong, weak)
    ]
    assert found.test.difference.value == pytest.approx(areas[0] - areas[1])
    other = analysed(tmp_path / "other", weak, model="weak", task="squad_uncertainty")
    assert compare([analyses[0], other]) == []


def test_models_without_shared_documents_are_compared_unpaired(tmp_path: Path) -> None:
    first = analysed(tmp_path / "a", records(n=40), model="a")
    write_run(tmp_path / "b", records(n=40, seed=1), model="b")
    path = next((tmp_path / "b").glob("samples*"))
    path.write_text(path.read_text().replace('"h', '"other'))
    (answers,), _ = load_answers([tmp_path / "b"])
    (found,) = compare([first, analyse(answers, QUICK)])
    assert (found.test.difference.method, found.test.difference.n) == ("unpaired delong", 80)


def test_damaged_records_are_told_and_left_out(tmp_path: Path) -> None:
    found: list[Any] = records(n=12)
    found[1], found[2] = "text", {"question": "x", "answer": "y", "logprobs": "z"}
    found[3], found[4] = {"answer": "y"}, {**found[4], "tokens": [1]}
    found[5] = {**found[5], "samples": [3]}
    write_run(tmp_path, found)
    (answers,), problems = load_answers([tmp_path])
    assert len(answers.records) == 7
    told = ["'uncertainty' is str", "'uncertainty.logprobs' is str", "no question", "no text", "without a text"]
    assert [part in problem for part, problem in zip(told, problems, strict=False)] == [True] * 5
    assert "line 2:" in problems[0]
    assert "7 documents can be used, the results file counts 12" in problems[5]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"f1": math.nan}, "'uncertainty.f1' is nan"),
        ({"f1": 7}, "'uncertainty.f1' is 7, expected a number from 0 to 1"),
        ({"em": "1"}, "'uncertainty.em' is str"),
        ({"f1": 10**400}, "'uncertainty.f1' is int"),
        ({"logprobs": [1000.0]}, "'uncertainty.logprobs' holds 1000.0"),
        ({"logprobs": [-math.inf, math.inf]}, "'uncertainty.logprobs' holds inf"),
        ({"logprobs": [-(10**400)]}, "'uncertainty.logprobs' holds int"),
        ({"logprobs": ["-1"]}, "'uncertainty.logprobs' holds str"),
        ({"stop_logprob": 9.0}, "'uncertainty.logprobs' holds 9.0"),
        ({"samples": [{"text": "a", "tokens": 5}]}, "'uncertainty.samples.tokens' is int"),
        ({"samples": [{"text": "a", "logprobs": [5.0]}]}, "'uncertainty.samples.logprobs' holds 5.0"),
    ],
)
def test_impossible_numbers_are_told_and_count_for_nothing(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    """Not-a-number is below no threshold: as a label it would make a wrong answer right."""
    found = records(n=12)
    found[3] = {**found[3], **changes}
    write_run(tmp_path, found)
    (answers,), problems = load_answers([tmp_path])
    assert (len(answers.records), len(problems)) == (11, 2)
    assert told in problems[0]
    assert analyse(answers, QUICK).accuracy.n == 11


def test_runs_without_records_are_told(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [])
    (tmp_path / "a" / "samples_triviaqa_uncertainty_2026-01-02T03-04-05.000006.jsonl").write_text('{"doc_id": 0}\n')
    with pytest.raises(DataError, match="none of 1 samples has an 'uncertainty' record"):
        load_answers([tmp_path])
    next((tmp_path / "a").glob("samples*")).unlink()
    with pytest.raises(DataError, match="--log_samples"):
        load_answers([tmp_path])


@pytest.mark.parametrize(("name", "value"), [("label", "bleu"), ("alpha", 0.0), ("delta", 1.5), ("draws", -1)])
def test_settings_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name}: found"):
        AnalysisSettings(**{name: value})


def test_questions_of_one_article_are_drawn_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Recorded articles come before texts; every figure knows them, and the accuracy is that of ``compare``."""
    found = [{**record, "title": f"article {i // 12}"} for i, record in enumerate(records())]
    for i, record in enumerate(found):
        record["f1"] = float(i // 12 % 2)
    docs = [{"question": "q", "context": f"text {i // 6}"} for i in range(60)]
    analysis = analysed(tmp_path / "now", found, docs=docs)
    accuracy = analysis.accuracy
    assert (accuracy.clusters, accuracy.method) == (5, "wilson by cluster")
    share = clustered_share([float(i // 12 % 2) for i in range(60)], [i // 12 for i in range(60)])
    assert share is not None
    assert (accuracy.low, accuracy.high) == (share.low, share.high)
    for name, report in analysis.reports.items():
        assert "cluster" in report.discrimination.metrics["auroc"].method or report.discrimination.metrics["auroc"].reason, name
        assert report.discrimination.metrics["aurc"].method.startswith("bootstrap by cluster")
    over = analysis.reports["g_nll"].over_length
    assert over is not None
    assert over.difference.method == "paired by cluster"
    assert any(warning.startswith("5 articles are few") for warning in analysis.warnings)
    # An older run: by text, and it says so. Compared with the newer one, the articles of that are taken.
    old = analysed(tmp_path / "old", records(seed=3), docs=docs, model="old")
    assert old.accuracy.clusters == 10
    assert any("clustered by the text" in warning for warning in old.warnings)
    for name, told in (("old", True), ("now", False)):
        main(["report", str(tmp_path / name), "--no_html"])
        main(["compare", str(tmp_path / name)])
        printed = capsys.readouterr().out
        assert printed.lower().count("questions are clustered by the text") == 2 * told
    (pair,) = compare([old, analysis])
    assert pair.test.difference.method == "paired by cluster"
    alone = analysed(tmp_path / "alone", records(), model="alone")
    assert (alone.accuracy.clusters, alone.accuracy.method) == (None, "wilson")
