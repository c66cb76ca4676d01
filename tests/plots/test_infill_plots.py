"""Plots of infilling runs: what is drawn are the figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm_eval_ensemble.metrics.clustered import clustered_share
from lm_eval_ensemble.plots import infill
from lm_eval_ensemble.plots.style import Missing, plain, render, unit_of
from lm_eval_ensemble.report.records import Measured
from lm_eval_ensemble.report.run import report_of
from lm_eval_ensemble.runs.load import load_runs
from tests.plots.overlap import overlaps
from tests.report.helpers import FIXTURES, candidate, ensemble_sample, record, write_run

Run = tuple[dict[str, Any], list[Measured]]


def run_of(folder: Path) -> Run:
    (run,), _ = load_runs([folder])
    report = report_of(run)
    return dict(report.content), list(report.rows)


@pytest.fixture
def made(tmp_path: Path) -> Run:
    """Forty gaps of eight problems: `a` is right in 3 of 4, `b` in every second one; the margin grows with the number."""
    samples = []
    for i in range(40):
        right = (i % 4 != 0, i % 2 == 0)
        pair = [candidate("a", "x" * (i + 1), right[0], 1.0), candidate("b", "y", right[1], 1.5 + i / 10)]
        samples.append(ensemble_sample(i, record(pair, 0), f"P/{i // 5}", "z" * (3 * i + 1)))
    return run_of(write_run(tmp_path / "made", samples, metric="pass@1"))


def intervals(axes: Any) -> list[Any]:
    """Both ends of the interval of each bar; None without one."""
    return [bar.errorbar and bar.errorbar.lines[2][0].get_segments()[0] for bar in axes.containers if hasattr(bar, "errorbar")]


def bars(axes: Any) -> list[float]:
    return [patch.get_width() for patch in axes.patches]


def test_bars_are_the_figures(made: Run) -> None:
    report, _ = made
    figures = report["figures"]
    axes: Any = infill.accuracy_bars([report]).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["oracle", "ensemble", "a", "b", "floor"]
    expected = [figures["oracle"], figures["ensemble"], figures["members"]["a"], figures["members"]["b"], figures["floor"]]
    assert bars(axes) == pytest.approx([100 * entry["value"] for entry in expected])
    # By hand: a is right in 30 of 40, b in 20, both in 10, one of them in 40; the ensemble always takes a.
    assert bars(axes) == pytest.approx([100, 75, 75, 50, 25])
    low, high = intervals(axes)[2][:, 0]
    assert (low, high) == pytest.approx((100 * figures["members"]["a"]["low"], 100 * figures["members"]["a"]["high"]))
    assert axes.get_xlabel() == "pass@1, %"


def test_every_plot_names_its_run(made: Run) -> None:
    report, rows = made
    named = [
        infill.accuracy_bars([report]),
        infill.score_scatter(report, rows),
        infill.selection_by_margin(report),
        infill.risk_coverage(report, rows),
        infill.length_histogram(report),
    ]
    assert {figure.get_suptitle().splitlines()[1] for figure in named} == {f"{report['task']}, run {report['run']}"}


def test_bars_of_several_runs_say_whose_they_are(made: Run) -> None:
    runs = [run_of(FIXTURES / name) for name in ("ensemble", "dllm", "repeats")]
    figure: Any = infill.accuracy_bars([report for report, _ in runs])
    axes = figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[:5] == ["oracle", "ensemble", "dllm", "fim", "floor"]
    assert "tiny-dllm" in names
    assert "tiny" in [text.get_text() for text in axes.texts]
    assert "Documents differ" in figure.get_supxlabel()


def test_bars_of_runs_that_differ_in_one_setting(made: Run) -> None:
    report, _ = made
    names = [f"a pair (samples=4, temperature={heat}, top_p=0.95, seed=0)" for heat in (0.2, 0.6)]
    alone = {**report["figures"], "members": {"b": report["figures"]["members"]["b"]}}
    runs = [{**report, "run": names[0]}, {**report, "run": names[1], "figures": alone}]
    figure: Any = infill.accuracy_bars(runs)
    axes = figure.axes[0]
    assert not overlaps(figure)
    assert [text.get_text() for text in axes.texts if "samples" in text.get_text()] == names
    # A member has one colour, whichever others stand beside it.
    drawn = dict[str, set[Any]]()
    labels = [label.get_text() for label in axes.get_yticklabels()]
    for name, bar in zip(labels, [bar for bar in axes.patches if bar.get_height() == pytest.approx(0.7)], strict=True):
        drawn.setdefault(name, set()).add(bar.get_facecolor())
    assert all(len(colours) == 1 for colours in drawn.values())
    assert drawn["a"] != drawn["b"]


def test_the_scatter_counts_every_pair_once(made: Run) -> None:
    report, rows = made
    figure: Any = infill.score_scatter(report, rows)
    axes = figure.axes[0]
    told = {collection.get_label(): len(collection.get_offsets()) for collection in axes.collections}
    assert told == {"both right: 10": 10, "only a right: 20": 20, "only b right: 10": 10}
    assert "in 20 of 30" in figure.get_supxlabel().replace("\n", " ")
    assert axes.get_xlabel() == "fim of a's text, nats per token"
    assert sorted(axes.collections[1].get_offsets()[:, 1])[0] == pytest.approx(1.6)


def test_quarters_by_margin(made: Run) -> None:
    report, _ = made
    axes: Any = infill.selection_by_margin(report).axes[0]
    bins = report["figures"]["risk_coverage"]["selection_accuracy_by_margin"]
    assert [patch.get_height() for patch in axes.patches[: len(bins)]] == [100 * part["accuracy"] for part in bins]
    first = intervals(axes)[0][:, 1]
    assert first == pytest.approx([100 * bins[0]["accuracy_low"], 100 * bins[0]["accuracy_high"]])
    # Choices of one problem are drawn together.
    decisive = [(0.5 + i / 10, i % 4 != 0, i // 5) for i in range(40) if (i % 4 != 0) != (i % 2 == 0)]
    quarter = sorted(decisive)[: bins[0]["n"]]
    share = clustered_share([float(right) for _, right, _ in quarter], [problem for *_, problem in quarter])
    assert share is not None
    assert (bins[0]["accuracy_low"], bins[0]["accuracy_high"]) == (share.low, share.high)
    assert sum(part["n"] for part in bins) == report["figures"]["selection"]["n"] == 30
    assert not overlaps(axes.figure)


def test_the_risk_coverage_curve_and_its_bounds(made: Run) -> None:
    report, rows = made
    axes: Any = infill.risk_coverage(report, rows).axes[0]
    curve, chance, perfect = (np.asarray(line.get_ydata(), float) for line in axes.lines)
    found = report["figures"]["risk_coverage"]
    assert curve == pytest.approx([100 * point["risk"] for point in found["points"]])
    assert curve[-1] == pytest.approx(chance[0]) == pytest.approx(perfect[-1])
    # No order can beat the perfect one, and it keeps no wrong answer while there are right ones: 30 of 40.
    assert (curve >= perfect - 1e-9).all()
    assert perfect[14] == pytest.approx(0)
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() <= curve.min()
    assert band.max() >= curve.max()


def test_lengths_are_the_breakdown(made: Run) -> None:
    report, _ = made
    axes: Any = infill.length_histogram(report).axes
    top, bottom = axes
    bins = report["figures"]["by_length"]["bins"]
    right, rest = ([patch.get_height() for patch in group] for group in top.containers)
    assert [a + b for a, b in zip(right, rest, strict=True)] == [part["n"] for part in bins]
    assert right == pytest.approx([part["n"] * part["score"] for part in bins])
    ensemble = bottom.containers[0].lines[0].get_ydata()
    assert list(ensemble) == pytest.approx([100 * part["score"] for part in bins])
    assert bottom.get_xticklabels()[0].get_text() == "0 to 9"
    segments = bottom.containers[0].lines[2][0].get_segments()
    for part, segment in zip(bins, segments, strict=True):
        low, high = part["intervals"]["score"]
        drawn = [100 * part["score"]] * 2 if low is None else [100 * low, 100 * high]
        assert list(segment[:, 1]) == pytest.approx(drawn)


@pytest.mark.parametrize("name", ["ensemble", "dllm", "hf", "repeats"])
def test_real_runs_are_drawn_or_refused_with_a_reason(name: str) -> None:
    report, rows = run_of(FIXTURES / name)
    drawn = 0
    makers: tuple[Callable[[], Any], ...] = (
        lambda: infill.accuracy_bars([report]),
        lambda: infill.score_scatter(report, rows),
        lambda: infill.selection_by_margin(report),
        lambda: infill.risk_coverage(report, rows),
        lambda: infill.length_histogram(report),
    )
    for make in makers:
        try:
            figure = make()
        except Missing:
            continue
        assert render(figure, "png", 30).startswith(b"\x89PNG")
        assert not overlaps(figure)
        drawn += 1
    assert drawn >= 2


def test_nothing_to_order_is_no_curve(tmp_path: Path) -> None:
    pairs = [record([candidate("a", "x", False, 1.0), candidate("b", "y", False, 2.0 + i)], 0) for i in range(4)]
    report, rows = run_of(write_run(tmp_path, [ensemble_sample(i, own) for i, own in enumerate(pairs)], metric="pass@1"))
    with pytest.raises(Missing, match="all answers are wrong"):
        infill.risk_coverage(report, rows)
    with pytest.raises(Missing, match="no choice between a right and a wrong"):
        infill.selection_by_margin(report)


def test_files_do_not_change_from_run_to_run(made: Run) -> None:
    report, rows = made
    first, second = (render(infill.score_scatter(report, rows), "svg") for _ in range(2))
    assert first == second
    assert b"<dc:date>" not in first
    assert render(infill.accuracy_bars([report]), "png", 40) == render(infill.accuracy_bars([report]), "png", 40)


def test_names_are_text_and_no_formulas(made: Run) -> None:
    report, _ = made
    odd = {**report, "run": "$\\frac{", "task": "a$b_{"}
    assert render(infill.accuracy_bars([odd, {**odd, "run": "模型"}]), "svg")
    assert plain("$x$") == r"\$x\$"


def test_nothing_is_left_open(made: Run) -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom lm_eval_ensemble.plots import gallery, infill\nassert 'matplotlib' not in sys.modules\n"
        "from lm_eval_ensemble.plots.style import blank, render\nrender(blank('x')[0])\n"
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules and 'lm_eval' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.parametrize(
    ("rule", "unit"),
    [
        ("fim+onepass", "nats per token"),
        ("joint", "nats per sequence"),
        ("fim_sum", "nats per sequence"),
        ("causal_byte@judge", "bits per byte"),
        ("worst", "nats of the least likely token"),
    ],
)
def test_units(rule: str, unit: str) -> None:
    assert unit_of(rule) == unit
