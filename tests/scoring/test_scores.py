"""Scores against toy models whose probabilities are known, and against the laws every score obeys."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.fim import LAYOUTS
from lm_eval_ensemble.scoring import DEFAULT_RULE, SCORES, Scorers, Span, Statistic, apply_rule, parse_rule, score_all
from lm_eval_ensemble.tokens import PlainEncoder
from lm_eval_ensemble.types import InfillRequest

REQUEST = InfillRequest("def f(x):\n", "\nprint(f(1))\n")


class UniformCausal:
    """Gives every token probability 1/V."""

    def __init__(self, tokenizer: Any) -> None:
        self.encoder = PlainEncoder(tokenizer)
        self.layout = LAYOUTS["qwen"]
        self.end_id, self.window, self.vocabulary = 0, 200, self.encoder.vocabulary
        self.asked: list[Span] = []

    def token_logprobs(self, spans: Sequence[Span]) -> list[list[float]]:
        self.asked += spans
        return [[-math.log(self.vocabulary)] * (len(span.ids) - span.start) for span in spans]


class UniformDiffusion(UniformCausal):
    def onepass_logprobs(self, rows: Sequence[tuple[list[int], list[int], list[int]]]) -> list[list[float]]:
        return [[-math.log(self.vocabulary)] * len(middle) for _, middle, _ in rows]


@pytest.fixture
def uniform(tokenizer: Any) -> Scorers:
    return Scorers(UniformCausal(tokenizer), UniformDiffusion(tokenizer))


def test_uniform_logits_give_the_vocabulary_as_perplexity(uniform: Scorers) -> None:
    values = score_all(uniform, [(REQUEST, "    return x + 1\n")], DEFAULT_RULE)[0]
    assert uniform.causal is not None
    for name in ("causal", "fim", "onepass", DEFAULT_RULE):
        value = values[name]
        assert value is not None
        assert math.exp(value) == pytest.approx(uniform.causal.encoder.vocabulary)


def test_joint_is_the_sum_over_middle_and_suffix(uniform: Scorers) -> None:
    values = score_all(uniform, [(REQUEST, "    return x\n")], "joint")[0]
    assert uniform.causal is not None
    encode = uniform.causal.encoder.encode
    count = len(encode("    return x\n")) + len(encode(REQUEST.suffix))
    assert values["joint"] == pytest.approx(count * math.log(uniform.causal.encoder.vocabulary))


def test_the_stop_token_is_part_of_fim(tokenizer: Any) -> None:
    model = UniformCausal(tokenizer)
    score_all(Scorers(causal=model), [(REQUEST, "return x\n")], "fim")
    fim = next(span for span in model.asked if span.ids[0] == 1)
    assert fim.ids[-1] == model.end_id
    assert fim.ids[: fim.start] == LAYOUTS["qwen"].encode(model.encoder, REQUEST.prefix, REQUEST.suffix, 200).ids


def test_prefix_middle_and_suffix_are_tokenised_apart(tokenizer: Any) -> None:
    # "re" + "turn" would be one token if the border were not kept.
    model = UniformCausal(tokenizer)
    score_all(Scorers(causal=model), [(InfillRequest("re", "x\n"), "turn")], "causal")
    sequence = next(span for span in model.asked if span.ids[0] != 1)
    parts = [model.encoder.encode(text) for text in ("re", "turn", "x\n")]
    assert sequence.ids == [i for part in parts for i in part]
    assert sequence.start == len(parts[0])


def test_candidates_of_a_long_gap_are_scored_in_the_same_context(tokenizer: Any) -> None:
    model = UniformCausal(tokenizer)
    long = InfillRequest("x = 1\n" * 100, "y = 2\n" * 100)
    texts = ["a\n", "value = first + second + third\n"]
    score_all(Scorers(causal=model), [(long, text) for text in texts], "fim+causal")
    middles = [model.encoder.encode(text) for text in texts]
    for sequence in (True, False):
        spans = [span for span in model.asked if (span.ids[0] != 1) == sequence]
        around = []
        for span in spans:
            n = next(len(m) for m in middles if span.ids[span.start : span.start + len(m)] == m)
            around.append((span.ids[: span.start], span.ids[span.start + n :]))
        assert len(spans) == 2
        assert around[0] == around[1]


def test_an_empty_prefix_still_has_something_before_it(tokenizer: Any) -> None:
    model = UniformCausal(tokenizer)
    score_all(Scorers(causal=model), [(InfillRequest("", ""), "x\n")], "causal")
    assert {span.start for span in model.asked} >= {1}


def test_empty_text_has_no_score(uniform: Scorers) -> None:
    values = score_all(uniform, [(REQUEST, "")], DEFAULT_RULE)[0]
    assert set(values.values()) == {None}


def test_each_distinct_candidate_is_scored_once(tokenizer: Any) -> None:
    model = UniformCausal(tokenizer)
    pairs = [(REQUEST, "x\n"), (REQUEST, "x\n"), (InfillRequest(REQUEST.prefix, REQUEST.suffix, sample=3), "x\n")]
    values = score_all(Scorers(causal=model), pairs, "fim")
    # Two passes (reading order, and fill in the middle) for one distinct text.
    assert len(model.asked) == 2
    assert values[0] == values[1] == values[2]


def test_rules() -> None:
    assert [score.name for score in parse_rule("fim+onepass")] == ["fim", "onepass"]
    assert apply_rule({"fim": 1.0, "onepass": 2.0}, "fim+onepass") == 1.5
    assert apply_rule({"fim": 1.0, "onepass": None}, "fim+onepass") is None
    assert apply_rule({"fim": math.nan}, "fim") is None


def test_unknown_scores_and_mixed_units_are_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'causal'"):
        parse_rule("casual")
    with pytest.raises(ConfigError, match="different units"):
        parse_rule("fim+joint")


def test_a_score_without_its_model_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="diffusion-infill member"):
        score_all(Scorers(causal=UniformCausal(tokenizer)), [(REQUEST, "x\n")], "onepass")


def test_hand_made_statistics() -> None:
    # Middle with probabilities 1/2 and 1/8, what follows 1/4: means of 2, sum of ln 64, mean of ln 64 over three.
    statistic = Statistic((math.log(0.5), math.log(0.125)), (math.log(0.25),))
    assert SCORES["causal"].compute(statistic) == pytest.approx(2 * math.log(2))
    assert SCORES["onepass"].compute(statistic) == pytest.approx(2 * math.log(2))
    assert SCORES["joint"].compute(statistic) == pytest.approx(math.log(64))
    assert SCORES["fim"].compute(statistic) == pytest.approx(math.log(64) / 3)


def test_real_scores_do_not_depend_on_batch_or_order(scored: Any, diffusion: Any, toy: list[dict[str, Any]]) -> None:
    pairs = [(InfillRequest(d["prefix"], d["suffix"]), d["middle"]) for d in toy[:10]]
    together = score_all(Scorers(scored, diffusion), pairs, DEFAULT_RULE)
    for pair, values in zip(pairs, together, strict=True):
        alone = score_all(Scorers(scored, diffusion), [pair], DEFAULT_RULE)[0]
        for name in ("causal", "fim", "onepass"):
            assert values[name] == pytest.approx(alone[name], abs=1e-4)
