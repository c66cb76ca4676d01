from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from lm_eval_ensemble.runs.rows import (
    directions,
    document_rows,
    higher_is_better,
    mean_defined,
    selection_accuracy,
    single_value,
)
from lm_eval_ensemble.runs.samples import record
from lm_eval_ensemble.types import RUN, Candidate, Scored, Selection

DOC = {"middle": "x\n", "test": "def check(c): ...", "problem": "P/1"}


def selection(a: str, b: str, winner: int = 0, reason: str = "score", why: str = "") -> Selection:
    """Two candidates with verdicts; the text of a passing one equals the reference."""
    candidates = tuple(
        Scored(Candidate(m, "x\n" if v == "pass" else m, "x" if v == "pass" else m), {"fim": s}, v, why)
        for m, v, s in (("dllm", a, 1.0), ("qwen", b, 2.0))
    )
    return Selection(candidates, winner, reason, "fim")


def test_rows_of_a_document_where_one_member_is_right() -> None:
    rows = document_rows(DOC, [selection("pass", "fail")])
    assert rows["pass@1"] == rows["pass@1_dllm"] == rows["pass@1_oracle"] == 1.0
    assert rows["pass@1_qwen"] == rows["pass@1_floor"] == 0.0
    assert rows["exact_match"] == rows["exact_match_dllm"] == 1.0
    assert (rows["pick_rate_dllm"], rows["pick_rate_qwen"], rows["agreement_rate"]) == (1.0, 0.0, 0.0)
    assert (rows["log_ppl_dllm"], rows["log_ppl_qwen"]) == (1.0, 2.0)


def test_agreement_is_nobodys_win() -> None:
    rows = document_rows(DOC, [selection("pass", "pass", reason="agreement")])
    assert (rows["pick_rate_dllm"], rows["pick_rate_qwen"], rows["agreement_rate"]) == (0.0, 0.0, 1.0)


def test_timeouts_and_lost_workers_are_rows_of_their_own() -> None:
    assert document_rows(DOC, [selection("timeout", "pass")])["timeout_rate"] == 1.0
    assert document_rows(DOC, [selection("pass", "timeout")])["timeout_rate"] == 0.0
    assert document_rows(DOC, [selection("fail", "fail", why="worker lost")])["judge_error_rate"] == 1.0


def test_an_unjudgeable_document_says_nothing_about_passing() -> None:
    def labelled(label: str, why: str) -> Selection:
        plain = selection("fail", "fail", why=why)
        return replace(plain, candidates=tuple(replace(c, facts={"judge": label}) for c in plain.candidates))

    rows = document_rows(DOC, [labelled("unjudgeable", "cannot judge: the reference itself fails")])
    assert not [name for name in rows if name.startswith(("pass@1", "timeout_rate", "judge_error_rate"))]
    assert (rows["judge"], rows["unjudgeable_rate"], rows["selection"]["measure"]) == ("unjudgeable", 1.0, "exact_match")
    rows = document_rows(DOC, [labelled("together", "AssertionError in the test")])
    assert (rows["judge"], rows["unjudgeable_rate"], rows["pass@1"], rows["judge_error_rate"]) == ("together", 0.0, 0.0, 0.0)
    assert rows["selection"]["candidates"][0]["judge"] == "together"
    assert document_rows(DOC, [selection("fail", "fail", why="cannot judge: it")])["judge_error_rate"] == 1.0
    assert higher_is_better("unjudgeable_rate") is False
    assert higher_is_better("judge") is None


def test_plain_strings_have_no_ensemble_rows() -> None:
    plain = Selection((Scored(Candidate("", "x\n", "x"), {}, "pass"),), 0, "single", "none")
    assert set(document_rows(DOC, [plain])) == {
        "pass@1",
        "exact_match",
        "exact_match_first_line",
        "timeout_rate",
        "judge_error_rate",
        "cut_rate",
    }


def test_a_member_that_does_not_see_all_of_a_document_is_counted() -> None:
    def chosen(info: dict[str, int]) -> Selection:
        candidates = (
            Scored(Candidate("dllm", "x\n", "x"), {}, "pass"),
            Scored(Candidate("fim", "y\n", "y", info=info), {}, "fail"),
        )
        return Selection(candidates, 0, "score", "fim")

    assert document_rows(DOC, [chosen({})])["trimmed_rate"] == 0.0
    assert document_rows(DOC, [chosen({"trimmed_prefix": 0, "trimmed_suffix": 3})])["trimmed_rate"] == 1.0
    assert higher_is_better("trimmed_rate") is False


def test_answers_that_the_limit_ended_are_counted() -> None:
    def chosen(raw: str, **info: object) -> Selection:
        return Selection((Scored(Candidate("fim", "x = 1\n", raw, info=info), {}, "fail"),), 0, "single", "none")

    rows = {
        stop: document_rows(DOC, [chosen("x = 1\n", stop=stop)])["truncated_rate"] for stop in ("length", "cut", "stop_token")
    }
    assert rows == {"length": 1.0, "cut": 0.0, "stop_token": 0.0}
    # What comes after the task's cut is no part of the answer, and a canvas is always full.
    assert document_rows(DOC, [chosen("x = 1\ny = 2\n", stop="length")])["truncated_rate"] == 0.0
    assert document_rows(DOC, [chosen("x = 1\n", stop="length", length_mode="ar")])["truncated_rate"] == 0.0
    assert "truncated_rate" not in document_rows(DOC, [chosen("x = 1\n")])
    assert higher_is_better("truncated_rate") is False


def test_documents_without_tests_have_no_pass_rate() -> None:
    rows = document_rows({"middle": "x\n"}, [selection("pass", "fail")])
    assert not any(name.startswith(("pass@", "timeout", "judge")) for name in rows)
    assert rows["selection"]["measure"] == "exact_match"


def test_repeats_give_unbiased_pass_at_k() -> None:
    # 3 completions, 1 right: pass@1 = 1/3, pass@2 = 1 - C(2,2)/C(3,2) = 2/3, pass@3 = 1.
    repeats = [selection("pass", "fail"), selection("fail", "fail"), selection("fail", "pass")]
    rows = document_rows(DOC, repeats, [2, 3, 10])
    assert rows["pass@1"] == pytest.approx(1 / 3)
    assert rows["pass@2"] == pytest.approx(2 / 3)
    assert rows["pass@3"] == 1.0
    assert "pass@10" not in rows
    assert rows["pass@2_qwen"] == pytest.approx(2 / 3)
    assert rows["pass@1_oracle"] == pytest.approx(2 / 3)
    assert len(rows["selection"]["completions"]) == 3


def of_run(number: int, own: Selection) -> Selection:
    """The selection as one of `length=fixed-mean`, where only the diffusion member's candidate names its run."""
    first = replace(own.candidates[0].candidate, info={RUN: number})
    return replace(own, candidates=(replace(own.candidates[0], candidate=first), *own.candidates[1:]))


def test_pass_at_k_never_pools_the_runs_of_a_document() -> None:
    # Two repeats of two runs: run 0 is right once (pass@2 = 1), run 1 never (pass@2 = 0); of k = 4 nobody can speak.
    fails = [of_run(number, selection("fail", "pass")) for number in (0, 1)]
    rows = document_rows(DOC, [of_run(0, selection("pass", "fail")), of_run(1, selection("fail", "fail")), *fails], [2, 3, 4])
    assert rows["pass@1"] == pytest.approx(1 / 4)
    assert rows["pass@2"] == rows["pass@2_dllm"] == pytest.approx(1 / 2)
    assert rows["pass@2_qwen"] == 1.0
    assert not {"pass@3", "pass@4", "pass@4_dllm", "pass@4_qwen"} & set(rows)


def test_the_record_is_json_without_nan_and_with_five_decimals() -> None:
    scored = Scored(Candidate("a", "x", "x", logprobs=(-0.1234567, -math.inf)), {"fim": math.nan, "causal": 1 / 3}, "pass")
    entry = record(DOC, [Selection((scored,), 0, "single", "fim")])
    text = json.dumps(entry, allow_nan=False)
    found = json.loads(text)["candidates"][0]
    assert found["logprobs"] == [-0.12346, None]
    assert found["scores"] == {"fim": None, "causal": 0.33333}


def test_selection_accuracy_counts_only_decisive_documents() -> None:
    cases = [("pass", "fail", 0), ("fail", "pass", 0), ("pass", "pass", 0), ("fail", "fail", 1), ("fail", "pass", 1)]
    records = [record(DOC, [selection(a, b, w)]) for a, b, w in cases]
    assert selection_accuracy(records) == pytest.approx(2 / 3)
    assert selection_accuracy(records[2:4]) is None


def test_mean_defined() -> None:
    assert mean_defined([1.0, None, math.nan, 3.0]) == 2.0
    assert mean_defined([None]) is None


def test_directions() -> None:
    assert higher_is_better("pass@1_dllm")
    assert not higher_is_better("log_ppl_dllm")
    assert not higher_is_better("timeout_rate")
    assert directions(["pass@1", "cut_rate", "layout", "length_mode", "pick_rate_fim", "agreement_rate"]) == {
        "pass@1": True,
        "cut_rate": False,
    }


def test_text_rows_do_not_depend_on_the_order_of_documents() -> None:
    assert single_value(["search", None, "ar", "search"]) == single_value(["ar", "search", None]) == "ar+search"
