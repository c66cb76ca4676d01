"""The figures of an ensemble by hand, their laws, and those of real runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_ensemble.report.figures import figures
from lm_eval_ensemble.report.run import report_of
from lm_eval_ensemble.report.text import as_text
from lm_eval_ensemble.runs.load import load_runs
from tests.report.helpers import FIXTURES, candidate, ensemble_sample, read_lines, record

FACTS = {"run": "m", "task": "t", "metric": "pass@1", "model": "ensemble-ppl", "date": ""}


def computed(samples: list[dict[str, Any]], metric: str = "pass@1") -> dict[str, Any]:
    rows, problems = read_lines(samples, metric)
    assert problems == []
    found = figures(rows)
    json.dumps(found, allow_nan=False)
    return found


def two(a: bool, b: bool, winner: int, reason: str = "score", texts: str = "xy") -> dict[str, Any]:
    scores = (1.0, 2.0) if winner == 0 else (2.0, 1.0)
    return record([candidate("a", texts[0], a, scores[0]), candidate("b", texts[1], b, scores[1])], winner, reason)


def test_an_ensemble_by_hand() -> None:
    # both right 2, only a 3 (chosen in 2), only b 2 (chosen in 1), neither 3 (one with the same text)
    cases = [
        *[two(True, True, 0)] * 2,
        *[two(True, False, 0)] * 2,
        two(True, False, 1),
        two(False, True, 1),
        two(False, True, 0),
        *[two(False, False, 1)] * 2,
        two(False, False, 0, "agreement", "zz"),
    ]
    found = computed([ensemble_sample(i, case, f"P{i // 2}") for i, case in enumerate(cases)])
    assert (found["n"], found["problems"]) == (10, 5)
    assert found["ensemble"]["value"] == pytest.approx(0.5)
    assert found["score"]["value"] == found["ensemble"]["value"]
    assert (found["oracle"]["value"], found["floor"]["value"]) == (pytest.approx(0.7), pytest.approx(0.2))
    assert (found["members"]["a"]["value"], found["members"]["b"]["value"]) == (pytest.approx(0.5), pytest.approx(0.4))
    assert found["random"] == pytest.approx(0.45)
    assert (found["best_member"], found["regret"]) == ("a", pytest.approx(0.2))
    assert found["recovered"]["value"] == pytest.approx(0.0)
    selection = found["selection"]
    assert (selection["n"], selection["right"], selection["accuracy"]) == (5, 3, pytest.approx(0.6))
    assert selection["by_member"] == {"a": {"n": 3, "accuracy": pytest.approx(2 / 3)}, "b": {"n": 2, "accuracy": 0.5}}
    assert selection["balanced"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert selection["break_even"] == pytest.approx(3 / 5)
    assert found["picks"] == {"a": pytest.approx(0.5), "agreement": pytest.approx(0.1), "b": pytest.approx(0.4)}
    against_a = found["members"]["a"]["ensemble_minus_member"]
    assert (against_a["wins"], against_a["losses"], against_a["ties"]) == (1, 1, 8)
    (pair,) = found["diversity"]
    assert (pair["both"], pair["only_a"], pair["only_b"], pair["neither"]) == (2, 3, 2, 3)
    assert (pair["disagreement"], pair["double_fault"]) == (0.5, 0.3)
    assert pair["same_wrong_text"] == pytest.approx(1 / 3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 1), st.integers(0, 3)), min_size=2, max_size=25))
def test_laws_of_selection(cases: list[tuple[bool, bool, int, int]]) -> None:
    rows = [ensemble_sample(i, two(a, b, winner), f"P{p}") for i, (a, b, winner, p) in enumerate(cases)]
    found = computed(rows)
    both, discordant = found["floor"]["value"], found["diversity"][0]["disagreement"]
    assert found["oracle"]["value"] == pytest.approx(both + discordant)
    accuracy = found["selection"]["accuracy"]
    assert (accuracy is None) == (discordant == 0)
    if accuracy is not None:
        # acc = both + s D, and the gain over the best member is D (s - s0)
        assert found["score"]["value"] == pytest.approx(both + accuracy * discordant)
        best = found["members"][found["best_member"]]["value"]
        assert found["score"]["value"] - best == pytest.approx(discordant * (accuracy - found["selection"]["break_even"]))
    assert found["regret"] >= -1e-12
    assert sum(found["picks"].values()) == pytest.approx(1)


def test_repeats_are_means_over_a_document() -> None:
    first, second = two(True, False, 0), two(True, False, 1)
    rows = [
        ensemble_sample(0, {**first, "completions": [first, second]}),
        ensemble_sample(1, {**first, "completions": [first, first]}),
    ]
    found = computed(rows)
    assert found["completions_per_document"] == 2
    assert found["score"]["value"] == pytest.approx(0.75)
    assert found["score"]["wilson"] is None
    assert found["members"]["a"]["value"] == 1.0
    assert (found["selection"]["n"], found["selection"]["right"]) == (4, 3)


def test_a_member_that_was_not_asked_has_no_value() -> None:
    """a answered 0 to 4, b 2 to 5: a member's row is over what it answered, pairs over what both did."""
    only_a = [record([candidate("a", "x", right, 1.0)], 0, "single") for right in (True, False)]
    only_b = [record([candidate("b", "y", True, 1.0)], 0, "single")]
    cases = [*only_a, two(True, False, 0), two(False, True, 0), two(True, True, 1), *only_b]
    found = computed([ensemble_sample(i, case, f"P{i}") for i, case in enumerate(cases)])
    a, b = found["members"]["a"], found["members"]["b"]
    assert (a["n"], a["value"]) == (5, pytest.approx(3 / 5))
    assert (b["n"], b["value"]) == (4, pytest.approx(3 / 4))
    # The ensemble is right in 0, 2, 4 and 5.
    assert (found["score"]["n"], found["score"]["value"]) == (6, pytest.approx(4 / 6))
    gain = b["ensemble_minus_member"]
    assert (gain["difference"], gain["wins"], gain["losses"], gain["ties"]) == (0.0, 1, 1, 2)
    assert found["documents_of_all_members"] == 3
    # On 2, 3 and 4 both have two right of three; the decisive ones among them are 2 and 3.
    assert (found["random"], found["selection"]["break_even"]) == (pytest.approx(2 / 3), 0.5)
    assert "over the 3 that all answered" in as_text({**FACTS, "figures": found})


def test_members_that_never_met_are_not_compared() -> None:
    cases = [record([candidate(m, "x", right, 1.0)], 0, "single") for m, right in (("a", True), ("a", False), ("b", True))]
    found = computed([ensemble_sample(i, case, f"P{i}") for i, case in enumerate(cases)])
    assert [(name, entry["n"], entry["value"]) for name, entry in found["members"].items()] == [("a", 2, 0.5), ("b", 1, 1.0)]
    assert (found["best_member"], found["random"], found["recovered"]["value"]) == (None, None, None)
    assert (found["selection"]["n"], found["selection"]["break_even"]) == (0, None)
    text = as_text({**FACTS, "figures": found})
    assert "no document was answered by all members" in text
    assert "None" not in text


def test_lengths_fall_into_bins() -> None:
    rows = [ensemble_sample(i, two(True, False, i % 2), middle="m" * n + "\n") for i, n in enumerate((3, 9, 10, 159, 160))]
    found = computed(rows)["by_length"]
    assert (found["of"], [(b["low"], b["high"], b["n"]) for b in found["bins"]]) == (
        "reference",
        [(0, 10, 2), (10, 20, 1), (80, 160, 1), (160, None, 1)],
    )


def test_no_rows_are_no_figures() -> None:
    assert figures([]) == {"n": 0}


@pytest.mark.parametrize(
    ("name", "sections"), [("ensemble", {"members", "scorers"}), ("fim", {"scorers"}), ("hf", set()), ("stock", set())]
)
def test_real_runs(name: str, sections: set[str]) -> None:
    for run in load_runs([FIXTURES / name])[0]:
        found = report_of(run)
        assert (list(found.problems), list(found.notes)) == ([], [])
        assert found.figures["n"] == run.n_samples
        assert sections <= found.figures.keys()
        assert ("members" in found.figures) == (name == "ensemble")
        json.dumps(found.content, allow_nan=False)


def test_lines_of_several_processes_tell_the_same() -> None:
    (run,) = load_runs([FIXTURES / "ensemble"])[0]
    samples = [sample for _, sample in run.lines({})]
    dealt = [*samples[0::3], *samples[1::3], *samples[2::3]]
    assert dealt != samples
    assert computed(dealt) == computed(samples)


def test_figures_of_a_real_ensemble_are_the_rows_of_lm_eval() -> None:
    (run,) = load_runs([FIXTURES / "ensemble"])[0]
    found, rows = report_of(run).figures, run.results
    assert found["score"]["value"] == pytest.approx(rows["pass@1"])
    assert found["oracle"]["value"] == pytest.approx(rows["pass@1_oracle"])
    assert found["floor"]["value"] == pytest.approx(rows["pass@1_floor"])
    for member in ("dllm", "fim"):
        assert found["members"][member]["value"] == pytest.approx(rows[f"pass@1_{member}"])
        assert found["picks"].get(member, 0.0) == pytest.approx(rows[f"pick_rate_{member}"])
        mean = found["scorers"][found["rule"]]["members"][member]["mean"]
        assert mean == pytest.approx(rows[f"log_ppl_{member}"], abs=1e-5)
    assert found["selection"]["accuracy"] == (None if rows["selection"] == "N/A" else pytest.approx(rows["selection"]))


def test_damaged_records_are_told_and_left_out() -> None:
    good = ensemble_sample(0, two(True, False, 0))
    broken = [ensemble_sample(i, two(True, False, 0)) for i in range(1, 5)]
    broken[0]["selection"]["winner_index"] = 7
    del broken[1]["selection"]["candidates"][0]["right"]
    broken[2]["selection"] = "gone"
    broken[3]["pass@1"] = None
    rows, problems = read_lines([good, *broken, good])
    assert len(rows) == 1
    assert [f"file, line {n}:" in text for n, text in zip(range(2, 7), problems, strict=True)] == [True] * 5
