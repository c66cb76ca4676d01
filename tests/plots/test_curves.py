"""ROC, risk-coverage and AUROC of every score of one run: synthetic questions about 45 articles, and real answers."""

from __future__ import annotations

import random
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_eval_ensemble.metrics.bootstrap import percentile, resamples
from lm_eval_ensemble.metrics.discrimination import discriminate
from lm_eval_ensemble.metrics.rejection import accuracy_at, areas, grouped
from lm_eval_ensemble.plots.curves import CURVES_OF_A_RUN, auroc_bars, risk_coverage_of_scores, roc_of_scores
from lm_eval_ensemble.plots.style import COLOURS, Missing, render
from lm_eval_ensemble.uncertainty.analysis import Analysis, AnalysisSettings, analyse
from lm_eval_ensemble.uncertainty.answers import load_answers
from lm_eval_ensemble.uncertainty.output import as_text
from tests.uncertainty.runs import a_record, write_run

REAL = Path(__file__).resolve().parent.parent / "fixtures" / "answers"


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    generator, found = random.Random(0), []
    chance = [generator.uniform(0.3, 0.9) for _ in range(45)]
    for number in range(270):
        right = generator.random() < chance[number % 45]
        logprobs = [round(-generator.expovariate(2.0 if right else 1.0), 6) for _ in range(generator.randint(1, 4))]
        found.append(a_record(number, logprobs, right, title=f"article {number % 45}"))
    docs = [{"title": record["title"]} for record in found]
    run = write_run(tmp_path_factory.mktemp("run"), found, task="squad_uncertainty", docs=docs)
    (answers,), problems = load_answers([run])
    assert problems == []
    return analyse(answers, AnalysisSettings(draws=0))


def table(analysis: Analysis) -> dict[str, tuple[str, str]]:
    """Score -> AUROC and interval, as `lm-eval-ensemble uncertainty` prints them."""
    lines = as_text(analysis).splitlines()
    rows = [re.match(r"  (\w+)(?: \(baseline\))? +(\d\.\d{3}|-) +(\[.*?\]|-)", line) for line in lines]
    return {row[1]: (row[2], row[3]) for row in rows if row}


def texts(figure: Any) -> str:
    return str(figure.get_supxlabel()).replace("\n", " ")


@pytest.mark.parametrize("kind", list(CURVES_OF_A_RUN))
def test_every_curve_names_its_run_and_is_drawn_without_a_warning(kind: str, analysis: Analysis) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure: Any = CURVES_OF_A_RUN[kind](analysis, "model (bfloat16)", 0)
        assert render(figure, "png", 40).startswith(b"\x89PNG")
    assert figure.get_suptitle().splitlines()[1] == "squad_uncertainty, run model (bfloat16)"
    right = int((~analysis.wrong).sum())
    assert f"n = 270 answers of 45 articles: {right} right, {270 - right} wrong by rule f1." in texts(figure)


def test_the_numbers_are_those_of_the_table(analysis: Analysis) -> None:
    printed = table(analysis)
    assert list(printed) == list(analysis.reports)
    bars: Any = auroc_bars(analysis, "m").axes[0]
    assert [text.get_text() for text in bars.texts] == [" ".join(pair) for pair in printed.values()]
    for container, (value, interval) in zip(bars.containers, printed.values(), strict=True):
        low, high = container.lines[2][0].get_segments()[0][:, 0]
        assert f"{container.lines[0].get_xdata()[0]:.3f}" == value
        assert f"[{low:.3f}, {high:.3f}]" == interval
    panels: Any = [axes for axes in roc_of_scores(analysis, "m").axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == [f"{name}\n{' '.join(pair)}" for name, pair in printed.items()]


def test_the_area_under_every_roc_is_its_auroc(analysis: Analysis) -> None:
    figure: Any = roc_of_scores(analysis, "m")
    for axes, (name, report) in zip(figure.axes, analysis.reports.items(), strict=False):
        x, y = axes.lines[-1].get_data()
        assert np.trapezoid(y, x) / 1e4 == pytest.approx(report.discrimination.metrics["auroc"].value)
        chance = axes.lines[0]
        assert list(chance.get_xdata()) == list(chance.get_ydata()) == [0, 100]
        # The baseline stands behind every other score.
        assert len(axes.lines) == (2 if name == "length_tokens" else 3)
    base = np.array(figure.axes[0].lines[1].get_data())
    own = list(analysis.reports).index("length_tokens")
    assert np.array_equal(base, figure.axes[own].lines[-1].get_data())


def test_risk_coverage_has_its_references(analysis: Analysis) -> None:
    figure: Any = risk_coverage_of_scores(analysis, "m")
    wrong, score = analysis.wrong, np.array(analysis.columns["g_nll"], float)
    axes = figure.axes[0]
    chance, ideal, curve = axes.lines
    assert list(chance.get_ydata()) == pytest.approx([100 * wrong.mean()] * 2)
    counts = grouped(score, wrong)
    expected = [100 * (1 - accuracy_at(*counts, c)[0]) for c in (0.02, 0.5, 1.0)]
    assert curve.get_ydata()[[0, 24, 49]].tolist() == pytest.approx(expected)
    # all right answers first: nothing wrong until they are used up, then as many as are left over
    perfect = grouped(wrong.astype(float), wrong)
    assert ideal.get_ydata().tolist() == pytest.approx(
        [100 * max(0.0, 1 - (~wrong).sum() / (k / 50 * 270)) for k in range(1, 51)]
    )
    assert ideal.get_ydata()[49] == pytest.approx(100 * (1 - accuracy_at(*perfect, 1.0)[0]))
    metrics = analysis.reports["g_nll"].discrimination.metrics
    assert axes.get_title(loc="left") == f"g_nll\nAURC {metrics['aurc'].value:.3f}, PRR {metrics['prr'].value:.3f}"


def test_bands_come_from_whole_articles(analysis: Analysis) -> None:
    """At coverage 1 the band is that of the error rate over resampled articles."""
    (band,) = risk_coverage_of_scores(analysis, "m", seed=3).axes[0].collections
    counts, _ = resamples(analysis.wrong, 300, 3, np.arange(270) % 45)
    shares = (counts @ analysis.wrong) / counts.sum(1)
    edge: Any = band.get_paths()[0].vertices
    assert sorted({round(float(y), 6) for x, y in edge if x == 100}) == pytest.approx(
        [100 * end for end in percentile(shares) or ()], abs=1e-5
    )
    assert "300 resamples of articles" in texts(risk_coverage_of_scores(analysis, "m"))


def test_answers_without_a_score_are_counted(analysis: Analysis) -> None:
    column = [None, *analysis.columns["g_nll"][1:]]
    report = replace(analysis.reports["g_nll"], discrimination=discriminate(column, analysis.wrong, 0))
    changed = replace(analysis, columns={**analysis.columns, "g_nll": column}, reports={**analysis.reports, "g_nll": report})
    assert "Left out, as they have no such score: 1 of g_nll." in texts(roc_of_scores(changed, "m"))
    assert "Left out" not in texts(roc_of_scores(analysis, "m"))


def test_few_answers_are_a_caution_and_one_class_is_no_curve() -> None:
    answers, _ = load_answers([REAL])
    for own in answers:
        found = analyse(own, AnalysisSettings(draws=0))
        if found.wrong.all():
            for draw in CURVES_OF_A_RUN.values():
                with pytest.raises(Missing, match="all answers are wrong"):
                    draw(found, "m", 0)
            continue
        figure: Any = roc_of_scores(found, "m")
        (caution,) = [text for text in figure.texts if text.get_gid() == "caveat"]
        assert "fewer than 40 answers are" in caution.get_text()
        colours = {line.get_color() for line in figure.axes[0].lines}
        assert COLOURS[0] in colours
        value = areas(*grouped(np.array(found.columns["g_nll"], float), found.wrong))[0]
        assert figure.axes[0].get_title(loc="left").startswith(f"g_nll\n{value:.3f} [")
