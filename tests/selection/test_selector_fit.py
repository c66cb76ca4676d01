from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.selection import Case, make_selector, needs_file, spec_scores
from lm_eval_ensemble.selection.fit import FEWEST, FOLDS, Fitting, Judged, fold_of
from lm_eval_ensemble.selection.spec import read_selector_file
from lm_eval_ensemble.types import Candidate, Scored

TASK = "humaneval_infill"
FEATURES = ("fim", "log_bytes", "compiles", "preferred")


def row(i: int, values: tuple[float, float], right: tuple[bool, bool], texts: tuple[str, str] = ("a\n", "b\n")) -> Judged:
    pair = tuple(
        Scored(Candidate(member, text, text), {"fim": value, "onepass": 2 * value})
        for member, text, value in zip(("dllm", "fim"), texts, values, strict=True)
    )
    return Judged(Case(pair, "fim", "fim", key=(TASK, i, 0)), right, f"HumanEval/{i // 3}")


def random_rows(n: int = 240, seed: int = 0) -> list[Judged]:
    """Scores that tell right from wrong, with a constant of 1 nat in favour of the diffusion member."""
    random, rows = Random(seed), []
    for i in range(n):
        right = (random.random() < 0.4, random.random() < 0.5)
        values = tuple(random.gauss(1.0 if r else 2.0, 0.3) - (m == 0) for m, r in enumerate(right))
        rows.append(row(i, (values[0], values[1]), right))
    return rows


def share(rows: list[Judged], select: Any) -> float:
    decisive = [r for r in rows if r.decisive]
    return float(sum(r.right[select(r.case)[0]] for r in decisive)) / len(decisive)


def fitting(rows: list[Judged]) -> Fitting:
    return Fitting(rows, "fim", ("fim", "onepass"), FEATURES)


def saved(folder: Path, numbers: Any) -> str:
    file = folder / "numbers.json"
    content = {"version": 1, "origin": {"fitted_on": "a test"}, "numbers": numbers.model_dump(mode="json")}
    file.write_text(json.dumps(content))
    return str(file)


def test_folds_keep_programs_together_and_are_about_equal() -> None:
    sizes = Counter(fold_of(f"HumanEval/{i}") for i in range(164))
    assert sorted(sizes) == list(range(FOLDS))
    assert min(sizes.values()) >= 5
    # Pinned: the same in every release, or published cross-fitted figures would not come back.
    assert [fold_of(f"HumanEval/{i}") for i in range(6)] == [2, 1, 2, 4, 9, 1]


def test_the_fold_left_out_has_no_say() -> None:
    rows = random_rows()
    turned = [
        dataclasses.replace(r, right=tuple(not is_right for is_right in r.right)) if fold_of(r.problem) == 3 else r
        for r in rows
    ]
    assert fitting(rows).numbers(3) == fitting(turned).numbers(3)
    assert fitting(rows).numbers(4) != fitting(turned).numbers(4)
    assert fitting(rows).numbers(3) == fitting([r for r in rows if fold_of(r.problem) != 3]).numbers()


def test_what_is_fitted_takes_a_constant_bias_out(tmp_path: Path) -> None:
    rows = random_rows()
    numbers = fitting(rows).numbers()
    file, fresh = saved(tmp_path, numbers), random_rows(seed=1)
    assert share(fresh, make_selector("argmin")) < 0.75
    for spec in ("centred", "znorm", "calibrated", "learned", "margin"):
        assert share(fresh, make_selector(spec, file, ("dllm", "fim"))) > 0.85, spec
    # The mean difference is the bias: 1 nat, and 0.1 because fim is right a little more often (by 1 nat lower).
    assert numbers.members is not None
    assert numbers.members["fim"].mean - numbers.members["dllm"].mean == pytest.approx(0.9, abs=0.15)
    assert numbers.margin == pytest.approx(1.0, abs=0.3)


def test_a_calibrated_member_gets_its_log_odds() -> None:
    # One outcome only: 30 of 30 wrong gives log(0.5 / 30.5), whatever the score.
    rows = [row(i, (1.0 + i / 30, 1.0), (False, i % 2 == 0)) for i in range(30)]
    numbers = fitting(rows).numbers()
    assert numbers.calibrated is not None
    dllm = numbers.calibrated["dllm"]
    assert dllm.intercept == pytest.approx(math.log(0.5 / 30.5))
    assert (dllm.score, dllm.log_bytes) == (0, 0)
    # The other: same score always, right in half of them, so no slope and even odds.
    assert numbers.calibrated["fim"].intercept == pytest.approx(0, abs=1e-6)
    assert numbers.calibrated["fim"].score == 0


def test_the_margin_is_the_smallest_best_threshold() -> None:
    # dllm is lower by 0.32 where it is wrong and by 0.62 where it is right: thresholds 0.35 to 0.6 get all.
    rows = [row(i, (1.0, 1.32 if i % 2 else 1.62), (not i % 2, bool(i % 2))) for i in range(40)]
    assert fitting(rows).numbers().margin == pytest.approx(0.35)


def test_undefined_scores_do_not_disturb_the_fit(tmp_path: Path) -> None:
    rows = random_rows()
    holes = [row(1000 + i, (math.nan, 1.0), (False, True), ("", "b\n")) for i in range(20)]
    numbers = fitting([*rows, *holes]).numbers()
    select = make_selector("learned", saved(tmp_path, numbers))
    assert all(math.isfinite(w.weight) for w in (numbers.learned or {}).values())
    assert select(holes[0].case)[0] == 1  # the blank text ranks last


def test_few_rows_fit_neither_margin_nor_weights() -> None:
    numbers = fitting([row(i, (1.0, 2.0), (True, False)) for i in range(FEWEST - 1)]).numbers()
    assert (numbers.margin, numbers.learned) == (None, None)
    assert numbers.members is not None


def test_the_learned_selector_stays_at_home(tmp_path: Path) -> None:
    file = saved(tmp_path, fitting(random_rows()).numbers())
    case = random_rows()[0].case
    assert make_selector("learned", file)(case)[1] in ("learned", "tie")
    away = dataclasses.replace(case, key=("santacoder_fim", 0, 0))
    assert make_selector("learned", file)(away) == (make_selector("argmin")(away)[0], "foreign")


def test_weights_over_scores(tmp_path: Path) -> None:
    file = saved(tmp_path, fitting(random_rows()).numbers())
    pair = (
        Scored(Candidate("dllm", "a", "a"), {"fim": 1.0, "onepass": 9.0}),
        Scored(Candidate("fim", "b", "b"), {"fim": 2.0, "onepass": 1.0}),
    )
    case = Case(pair, "fim", "fim")
    assert make_selector("weighted:fim", file)(case) == (0, "score")
    assert make_selector("weighted:fim=1+onepass=10", file)(case) == (1, "score")
    assert make_selector("sequence:veto/weighted:onepass", file)(case) == (1, "score")
    with pytest.raises(ConfigError, match="nothing was fitted for score 'causal'"):
        make_selector("weighted:causal", file)
    with pytest.raises(ConfigError, match="weight > 0"):
        make_selector("weighted:fim=0", file)


def test_a_selector_file_for_other_members_is_refused_before_the_run(tmp_path: Path) -> None:
    file = saved(tmp_path, fitting(random_rows()).numbers())
    for spec in ("znorm", "centred", "calibrated"):
        with pytest.raises(ConfigError, match="member 'qwen'"):
            make_selector(spec, file, ("dllm", "qwen"))
        stranger = Case(
            (Scored(Candidate("x", "a", "a"), {"fim": 1.0}), Scored(Candidate("fim", "b", "b"), {"fim": 1.0})), "fim"
        )
        with pytest.raises(ConfigError, match="member 'x'"):
            make_selector(spec, file)(stranger)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "cannot be read"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "expected an object"),
        ('{"version": 2}', "version 2, expected 1"),
        ('{"version": 1, "numbers": {"rule": "fim"}}', r"\$.origin: missing"),
        ('{"version": 1, "origin": {}, "numbers": {"rule": "fim"}}', r"\$.origin"),
        ('{"version": 1, "origin": {"a": 1}, "numbers": {"rule": "fim", "margn": 1}}', "Did you mean 'margin'"),
        ('{"version": 1, "origin": {"a": 1}, "numbers": {"rule": "fim", "margin": -1}}', ">= 0"),
        ('{"version": 1, "origin": {"a": 1}, "numbers": {"rule": "fim", "members": {"a": {"mean": NaN, "sd": 1}}}}', "mean"),
        ('{"version": 1, "origin": {"a": 1}, "numbers": {"rule": "fim", "members": {"a": {"mean": 1, "sd": 0}}}}', "> 0"),
    ],
)
def test_a_damaged_selector_file_is_one_message(tmp_path: Path, content: str | None, found: str) -> None:
    file = tmp_path / "numbers.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=found) as caught:
        read_selector_file(file)
    assert "numbers.json" in str(caught.value)


def test_numbers_that_are_missing_are_named(tmp_path: Path) -> None:
    file = saved(tmp_path, fitting(random_rows()[:30]).numbers().model_copy(update={"learned": None}))
    with pytest.raises(ConfigError, match=r"no numbers for it \(\$.numbers.learned\)"):
        make_selector("learned", file)


def test_what_a_name_asks_for() -> None:
    assert spec_scores("argmin[fim]") == ("fim",)
    assert spec_scores("sequence:veto,margin[fim+onepass]:0.1") == ("fim+onepass",)
    assert spec_scores("argmin") == ()
    assert [needs_file(s) for s in ("argmin", "margin:0.1", "veto", "sequence:veto,margin:0.1")] == [False] * 4
    assert [needs_file(s) for s in ("margin", "learned", "weighted:fim=2", "sequence:veto,znorm")] == [True] * 4
