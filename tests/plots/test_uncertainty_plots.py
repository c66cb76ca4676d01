"""Plots of models by data sets, on a synthetic grid of six models and two data sets (``grid.py``) and on real small runs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import roc_auc_score

from lm_eval_ensemble.plots import profiles
from lm_eval_ensemble.plots import uncertainty as plots
from lm_eval_ensemble.plots.findings import uncertainty_findings, uncertainty_table
from lm_eval_ensemble.plots.models import aliasing, models_of
from lm_eval_ensemble.plots.style import Missing, render
from lm_eval_ensemble.uncertainty.analysis import Analysis, AnalysisSettings, analyse
from lm_eval_ensemble.uncertainty.answers import load_answers
from tests.plots.grid import DATASETS, MODELS, write_grid
from tests.plots.overlap import overlaps

REAL = Path(__file__).resolve().parent.parent / "fixtures" / "answers"


def analyses_of(*paths: Path) -> list[Analysis]:
    answers, problems = load_answers(paths)
    assert problems == []
    return [analyse(own, AnalysisSettings(draws=0)) for own in answers]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> list[Analysis]:
    return analyses_of(write_grid(tmp_path_factory.mktemp("grid")) / "runs")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> list[Analysis]:
    one = {"synthetic-alpha-1B": MODELS["synthetic-alpha-1B"]}
    return analyses_of(write_grid(tmp_path_factory.mktemp("large"), profiles.RELIABLE, one) / "runs")


@pytest.fixture(scope="module")
def real() -> list[Analysis]:
    return analyses_of(REAL)


def area(analysis: Analysis) -> float:
    """By scikit-learn, from the records themselves."""
    score = [-sum(record["logprobs"]) for record in analysis.answers.records]
    return float(roc_auc_score(analysis.wrong, score))


def ends(container: Any) -> list[float]:
    return list(container.lines[2][0].get_segments()[0][:, 1])


def test_the_heatmap_has_every_cell(grid: list[Analysis]) -> None:
    axes: Any = plots.auroc_heatmap(grid).axes[0]
    shown = axes.images[0].get_array()
    assert shown.shape == (len(MODELS), len(DATASETS))
    names = [label.get_text() for label in axes.get_yticklabels()]
    sets = [label.get_text() for label in axes.get_xticklabels()]
    for analysis in grid:
        place = names.index(analysis.answers.origin.name), sets.index(analysis.answers.dataset)
        assert shown[place] == pytest.approx(area(analysis))
    texts = [text.get_text() for text in axes.texts]
    assert len(texts) == 12
    assert all("n = 80" in text and "[" in text for text in texts)


def test_empty_cells_say_why(real: list[Analysis]) -> None:
    figure: Any = plots.auroc_heatmap(real)
    assert "none\nn = 60" in [text.get_text() for text in figure.axes[0].texts]
    assert "all answers are wrong" in figure.get_supxlabel().replace("\n", " ")


def test_family_bars_are_means_of_their_points(grid: list[Analysis]) -> None:
    axes: Any = plots.family_bars(grid).axes[0]
    heights = [patch.get_height() for patch in axes.patches if patch.get_height()]
    expected = [
        sum(area(a) for a in grid if (a.answers.origin.family, a.answers.dataset) == (family, dataset)) / 2
        for dataset in dict.fromkeys(a.answers.dataset for a in grid)
        for family in ("alpha", "beta", "gamma")
    ]
    assert heights == pytest.approx(expected)


def test_the_size_plot_carries_the_caveat(grid: list[Analysis]) -> None:
    figure: Any = plots.size_effect(grid)
    (caveat,) = [text for text in figure.texts if text.get_gid() == "caveat"]
    assert "size and precision are aliased: in all 4 pairs" in caveat.get_text().replace("\n", " ")
    panel = figure.axes[0]
    assert panel.get_xscale() == "log"
    drawn = {round(float(container.lines[0].get_ydata()[0]), 9) for container in panel.containers}
    dataset = panel.get_title(loc="left")
    assert drawn == {round(area(a), 9) for a in grid if a.answers.dataset == dataset}


def test_where_precision_does_not_move_with_size_there_is_no_caveat(tmp_path: Path) -> None:
    clean = {"s-1B": ("s", 10**9, "float16", 0.5, 1.0), "s-3B": ("s", 3 * 10**9, "float16", 0.6, 1.0)}
    some = {**clean, "s-8B": ("s", 8 * 10**9, "int8", 0.6, 1.0)}
    alone = analyses_of(write_grid(tmp_path / "clean", 40, clean, ["d"]) / "runs")
    mixed = analyses_of(write_grid(tmp_path / "some", 40, some, ["d"]) / "runs")
    assert aliasing(alone).caveat == ""
    assert not [text for text in plots.size_effect(alone).texts if text.get_gid() == "caveat"]
    found = aliasing(mixed)
    assert (found.pairs, found.confounded, found.unknown) == (3, 2, 0)
    assert "of 3 pairs of one family that differ in size, in 2 the precision differs too" in found.caveat
    assert [line.get_linestyle() for line in plots.size_effect(mixed).axes[0].lines[:2]] == ["-", "--"]
    families = {"s-1B": ("s", 10**9, "float16", 0.5, 1.0), "t-3B": ("t", 3 * 10**9, "float16", 0.6, 1.0)}
    apart = analyses_of(write_grid(tmp_path / "apart", 40, families, ["d"]) / "runs")
    assert "mixes size with family" in aliasing(apart).caveat


def test_data_sets_are_joined_by_model(grid: list[Analysis]) -> None:
    axes: Any = plots.dataset_effect(grid).axes[0]
    joined = [line.get_ydata() for line in axes.lines if len(line.get_ydata()) == 2 and line.get_marker() == "None"][:6]
    expected = [[area(a) for a in own] for own in models_of(grid).values()]
    assert [list(line) for line in joined] == [pytest.approx(pair) for pair in expected]
    assert {text.get_text() for text in axes.texts} == set(MODELS)


def test_accuracy_against_auroc_has_both_intervals(grid: list[Analysis]) -> None:
    axes: Any = plots.accuracy_against_auroc(grid).axes[0]
    points = [
        (float(container.lines[0].get_xdata()[0]), float(container.lines[0].get_ydata()[0])) for container in axes.containers
    ]
    expected = [(100 * (1 - a.wrong.mean()), area(a)) for own in models_of(grid).values() for a in own]
    assert points == [pytest.approx(point) for point in expected]
    assert all(len(container.lines[2]) == 2 for container in axes.containers)


def test_the_radar_closes_and_stays_inside(grid: list[Analysis]) -> None:
    figure: Any = profiles.radar(grid)
    for panel in figure.axes:
        assert len(panel.lines) == len(MODELS)
        for line in panel.lines:
            heights = list(line.get_ydata())
            assert heights[0] == heights[-1]
            assert len(heights) == len(profiles.RADAR) + 1
            assert 0 <= min(heights) <= max(heights) <= 1
    first = grid[0]
    assert figure.axes[0].lines[0].get_ydata()[1] == pytest.approx(area(first))


def test_reliability_shows_the_bins(grid: list[Analysis], large: list[Analysis]) -> None:
    figure: Any = profiles.reliability([*large, *grid])
    visible = [panel for panel in figure.axes if panel.get_visible()]
    assert len(visible) == len(large)
    assert "12 runs left out" in figure.get_supxlabel().replace("\n", " ")
    found = large[0].reports["g_nll"].calibrations["isotonic"]
    drawn = [tuple(float(v[0]) for v in container.lines[0].get_data()) for container in visible[0].containers]
    assert drawn == [pytest.approx((part.probability, part.right)) for part in found.bins]
    assert [ends(container) for container in visible[0].containers] == [[part.low, part.high] for part in found.bins]
    assert sum(part.n for part in found.bins) == profiles.RELIABLE
    assert f"({found.expected:.2f} if calibrated)" in visible[0].get_title(loc="left")
    with pytest.raises(Missing, match="drawn from 300 answers on, 40 of them right and 40 wrong"):
        profiles.reliability(grid)


def test_one_name_at_two_precisions_is_two_models(real: list[Analysis]) -> None:
    assert list(models_of(real)) == ["fim", "tiny_qa (bfloat16)", "tiny_qa (float32)"]
    with pytest.raises(Missing, match="no model has an AUROC on two data sets"):
        plots.dataset_effect(real)


@pytest.mark.parametrize("name", list(plots.PLOTS))
def test_every_plot_is_drawn_without_a_warning(name: str, grid: list[Analysis], large: list[Analysis]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plots.PLOTS[name]([*grid, *large])
        assert render(figure, "png", 40).startswith(b"\x89PNG")
    assert not overlaps(figure)


@pytest.mark.parametrize("draw", [plots.PLOTS["radar"], profiles.reliability])
def test_panels_in_one_row_leave_title_and_caption_alone(draw: Any, large: list[Analysis]) -> None:
    assert not overlaps(draw(large))


@pytest.mark.parametrize("draw", [plots.family_bars, plots.size_effect])
def test_points_without_names_have_them_below(draw: Any, grid: list[Analysis]) -> None:
    told = draw(grid).get_supxlabel().replace("\n", " ")
    assert all(name in told.replace("- ", "-") for name in MODELS)


def test_findings_are_computed(grid: list[Analysis]) -> None:
    found = uncertainty_findings(grid)
    areas = sorted(area(a) for a in grid)
    overall = " ".join(found["Overall statistics"])
    assert f"from {areas[0]:.3f} to {areas[-1]:.3f}" in overall
    assert "answers: 960" in overall
    for dataset, sentence in zip(dict.fromkeys(a.answers.dataset for a in grid), found["Best performers"], strict=True):
        best = max((a for a in grid if a.answers.dataset == dataset), key=area)
        assert sentence.startswith(f"{dataset}: {best.answers.origin.name} has the highest AUROC, {area(best):.3f} [")
    key = " ".join(found["Key findings"])
    gaps = [area(a) - area(b) for a, b in (own for own in models_of(grid).values())]
    first, second = dict.fromkeys(a.answers.dataset for a in grid)
    assert f"{first} minus {second}: AUROC of g_nll {min(gaps):+.3f} to {max(gaps):+.3f} over 6 models" in key
    assert "Caution: size and precision are aliased" in key
    assert uncertainty_table(grid).count("\n") == 13


def test_a_difference_that_is_there_is_found(tmp_path: Path) -> None:
    far = {"near-1B": ("f", 10**9, "float16", 0.5, 0.0), "far-3B": ("f", 3 * 10**9, "float16", 0.5, 8.0)}
    analyses = analyses_of(write_grid(tmp_path, 120, far, ["d"]) / "runs")
    found = uncertainty_findings(analyses)
    assert "far-3B has the highest AUROC" in found["Best performers"][0]
    assert found["Best performers"][0].endswith("Holm over 1 pairs): none.")
    assert any("significantly higher in 1, lower in 0" in sentence for sentence in found["Key findings"])
    assert not any("Caution" in sentence for sentence in found["Key findings"])


def test_findings_name_the_test_that_was_made(tmp_path: Path) -> None:
    """Questions about one article are tested by cluster, which is not DeLong's test."""
    folder = write_grid(tmp_path, 80, {"a-1B": ("f", 10**9, "float16", 0.5, 0.5)}, ["d"]) / "runs"
    alone = " ".join(uncertainty_findings(analyses_of(folder))["Key findings"])
    assert "(paired DeLong, Holm within each run)" in alone
    (path,) = folder.rglob("samples_*")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for number, line in enumerate(lines):
        line["uncertainty"]["title"] = f"article {number // 4}"
    path.write_text("\n".join(map(json.dumps, lines)))
    told = " ".join(uncertainty_findings(analyses_of(folder))["Key findings"])
    assert "(paired by cluster, Holm within each run)" in told
    assert "DeLong" not in told


def test_a_sign_that_is_wrong_is_told(tmp_path: Path) -> None:
    # A gap below zero: wrong answers are the likelier ones.
    upside_down = {"odd-1B": ("f", 10**9, "float16", 0.5, -0.55)}
    (sentence,) = [
        s
        for s in uncertainty_findings(analyses_of(write_grid(tmp_path, 120, upside_down, ["d"]) / "runs"))["Key findings"]
        if s.startswith("Below chance")
    ]
    assert "odd-1B on d" in sentence


def test_cells_of_few_answers_are_marked(tmp_path: Path) -> None:
    """One right answer of twenty is no AUROC to quote without a word."""
    name, own = next(iter(MODELS.items()))
    few = analyses_of(write_grid(tmp_path / "few", n=30, models={name: own}))
    figure = plots.auroc_heatmap(few)
    assert all("*" in text.get_text() for text in figure.axes[0].texts)
    assert any("too few to know an AUROC" in text.get_text().replace("\n", " ") for text in figure.texts)
    assert "| fewer than 40 right or wrong answers |" in uncertainty_table(few)
    many = analyses_of(write_grid(tmp_path / "many", n=300, models={name: own}))
    figure = plots.auroc_heatmap(many)
    assert not any("*" in text.get_text() for text in figure.axes[0].texts)
    assert not any("Caution" in text.get_text() for text in figure.texts)
