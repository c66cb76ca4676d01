"""Scores against toy models whose probabilities are known, and against the laws every score obeys."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.fim import LAYOUTS
from lm_eval_ensemble.scoring import (
    DEFAULT_RULE,
    SCORES,
    Scorers,
    Span,
    Statistic,
    apply_rule,
    check_terms,
    parse_rule,
    score_all,
)
from lm_eval_ensemble.scoring.base import PER_SEQUENCE, PER_TOKEN
from lm_eval_ensemble.tokens import PlainEncoder
from lm_eval_ensemble.types import InfillRequest

Rows = Sequence[tuple[Sequence[int], Sequence[int], Sequence[int]]]
EVERYTHING = "+".join(SCORES)
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
    def onepass_logprobs(self, rows: Rows) -> list[list[float]]:
        return [[-math.log(self.vocabulary)] * len(middle) for _, middle, _ in rows]

    chain_logprobs = onepass_logprobs

    def elbo(self, rows: Rows, *, samples: int, names: Sequence[tuple[object, ...]]) -> list[Any]:
        self.names = names
        found = self.onepass_logprobs(rows)
        return [SimpleNamespace(value=sum(row), stderr=0.5, samples=samples) for row in found]


@pytest.fixture
def uniform(tokenizer: Any) -> Scorers:
    return Scorers(UniformCausal(tokenizer), UniformDiffusion(tokenizer))


def test_uniform_logits_give_the_vocabulary_as_perplexity(uniform: Scorers) -> None:
    values = score_all(uniform, [(REQUEST, "    return x + 1\n")], DEFAULT_RULE, extra=EVERYTHING)[0].values
    assert uniform.causal is not None
    per_token = [score.name for score in SCORES.values() if score.unit == PER_TOKEN]
    assert {"causal", "joint_mean", "fim", "onepass", "chain", "elbo"} == set(per_token)
    for name in (*per_token, DEFAULT_RULE, "causal_worst", "fim_worst", "onepass_worst", "chain_worst"):
        value = values[name]
        assert value is not None
        assert math.exp(value) == pytest.approx(uniform.causal.encoder.vocabulary)


def test_bits_per_byte_and_sums_of_uniform_logits(uniform: Scorers) -> None:
    text = "    return 'é'\n"  # é is two bytes
    sheet = score_all(uniform, [(REQUEST, text)], DEFAULT_RULE, extra=EVERYTHING)[0]
    assert uniform.causal is not None
    n, bits = len(uniform.causal.encoder.encode(text)), math.log2(uniform.causal.encoder.vocabulary)
    size = len(text) + 1
    for name, count in {"causal": n, "fim": n + 1, "onepass": n, "chain": n, "elbo": n}.items():
        assert sheet.values[f"{name}_byte"] == pytest.approx(count * bits / size)
        assert sheet.values[f"{name}_sum"] == pytest.approx(count * bits * math.log(2))
        assert sheet.facts["score_tokens"][name] == count
    assert sheet.facts["bytes"] == size
    assert sheet.facts["stderr"] == {"elbo": pytest.approx(0.5 / n)}


def test_joint_is_the_sum_over_middle_and_suffix(uniform: Scorers) -> None:
    values = score_all(uniform, [(REQUEST, "    return x\n")], "joint")[0].values
    assert uniform.causal is not None
    encode = uniform.causal.encoder.encode
    count = len(encode("    return x\n")) + len(encode(REQUEST.suffix))
    assert values["joint"] == pytest.approx(count * math.log(uniform.causal.encoder.vocabulary))


def test_the_stop_token_is_part_of_fim(tokenizer: Any) -> None:
    model = UniformCausal(tokenizer)
    score_all(Scorers(causal=model), [(REQUEST, "return x\n")], "fim")
    fim = next(span for span in model.asked if span.ids[0] == 1)
    assert fim.ids[-1] == model.end_id
    assert list(fim.ids[: fim.start]) == LAYOUTS["qwen"].encode(model.encoder, REQUEST.prefix, REQUEST.suffix, 200).ids


def test_prefix_middle_and_suffix_are_tokenised_apart(tokenizer: Any) -> None:
    # "re" + "turn" would be one token if the border were not kept.
    model = UniformCausal(tokenizer)
    score_all(Scorers(causal=model), [(InfillRequest("re", "x\n"), "turn")], "causal")
    sequence = next(span for span in model.asked if span.ids[0] != 1)
    parts = [model.encoder.encode(text) for text in ("re", "turn", "x\n")]
    assert list(sequence.ids) == [i for part in parts for i in part]
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
            n = next(len(m) for m in middles if list(span.ids[span.start : span.start + len(m)]) == m)
            around.append((span.ids[: span.start], span.ids[span.start + n :]))
        assert len(spans) == 2
        assert around[0] == around[1]


def test_an_empty_prefix_still_has_something_before_it(tokenizer: Any) -> None:
    model = UniformCausal(tokenizer)
    score_all(Scorers(causal=model), [(InfillRequest("", ""), "x\n")], "causal")
    assert {span.start for span in model.asked} >= {1}


def test_empty_text_has_no_score(uniform: Scorers) -> None:
    values = score_all(uniform, [(REQUEST, "")], DEFAULT_RULE, extra=EVERYTHING)[0].values
    assert set(values.values()) == {None}


def test_each_distinct_candidate_is_scored_once(tokenizer: Any) -> None:
    model = UniformCausal(tokenizer)
    pairs = [(REQUEST, "x\n"), (REQUEST, "x\n"), (InfillRequest(REQUEST.prefix, REQUEST.suffix, sample=3), "x\n")]
    values = score_all(Scorers(causal=model), pairs, "fim")
    assert len(model.asked) == 1
    assert values[0] == values[1] == values[2]


def test_rules() -> None:
    assert [term.name for term in parse_rule("fim+onepass")] == ["fim", "onepass"]
    assert [(term.score.name, term.scorer) for term in parse_rule("fim@a.b+onepass")] == [("fim", "a.b"), ("onepass", None)]
    assert parse_rule("worst")[0].score is SCORES["fim_worst"]
    assert apply_rule({"fim": 1.0, "onepass": 2.0}, "fim+onepass") == 1.5
    assert apply_rule({"fim": 1.0, "onepass": None}, "fim+onepass") is None
    assert apply_rule({"fim": math.nan}, "fim") is None


def test_unknown_scores_and_mixed_units_are_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'causal'"):
        parse_rule("casual")
    with pytest.raises(ConfigError, match="different units"):
        parse_rule("fim+joint")
    with pytest.raises(ConfigError, match="names no model after '@'"):
        parse_rule("fim@")


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


def test_hand_made_statistics_of_the_other_scores() -> None:
    # Middle with probabilities 1/2 and 1/8 in 4 bytes; 64 suffix tokens of 1/4, and one more that must not count.
    middle, after = (math.log(0.5), math.log(0.125)), (math.log(0.25),) * 64
    statistic = Statistic(middle, (*after, -99.0), size=4)
    assert SCORES["joint_mean"].compute(statistic) == pytest.approx((2 * math.log(2) + 2 * math.log(2)) / 2)
    assert SCORES["causal_byte"].compute(statistic) == pytest.approx(1.0)  # 4 bits over 4 bytes
    assert SCORES["causal_worst"].compute(statistic) == pytest.approx(3 * math.log(2))
    assert SCORES["causal_sum"].compute(statistic) == pytest.approx(4 * math.log(2))
    # Without a suffix, the end of the text counts in its place; without that, the middle alone.
    assert SCORES["joint_mean"].compute(Statistic(middle, (), (math.log(0.25),))) == pytest.approx(2 * math.log(2))
    assert SCORES["joint_mean"].compute(Statistic(middle)) == pytest.approx(2 * math.log(2))
    assert SCORES["joint"].compute(Statistic(middle, (), (-5.0,))) == pytest.approx(4 * math.log(2))
    # pmi: 4 + 2 bits given the context, less half of the 3 bits the middle costs anywhere.
    fim, prior = Statistic(middle, (math.log(0.25),)), Statistic((math.log(0.125),))
    assert SCORES["pmi"].compute(fim, prior) == pytest.approx(4.5 * math.log(2))
    # elbo: one number for all tokens.
    assert SCORES["elbo"].compute(Statistic((-6.0,), tokens=3, stderr=0.3)) == pytest.approx(2.0)


def test_the_prior_of_pmi_does_not_charge_the_indentation(tokenizer: Any) -> None:
    model = UniformCausal(tokenizer)
    score_all(Scorers(causal=model), [(REQUEST, "        return x\n"), (REQUEST, "  \n")], "pmi")
    middle = model.encoder.encode("        return x\n")
    prior = next(span for span in model.asked if list(span.ids) == [model.end_id, *middle])
    assert model.encoder.decode(prior.ids[1 : prior.start]).isspace()
    assert model.encoder.decode(prior.ids[prior.start : prior.start + 1]).strip()
    # A blank candidate costs nothing anywhere, so that nothing is taken back.
    values = score_all(Scorers(causal=model), [(REQUEST, "  \n")], "pmi", extra="fim_sum")[0].values
    assert values["pmi"] == pytest.approx(values["fim_sum"])


def test_a_score_under_a_named_model(tokenizer: Any) -> None:
    first, judge, dllm = UniformCausal(tokenizer), UniformCausal(tokenizer), UniformDiffusion(tokenizer)
    judge.vocabulary = 8
    scorers = Scorers(first, dllm, {"qwen": first, "dllm": dllm, "judge": judge})
    sheet = score_all(scorers, [(REQUEST, "return x\n")], "fim@qwen+onepass@dllm+causal@judge", extra="causal")[0]
    values = sheet.values
    assert values["fim@qwen"] == values["fim"]
    assert values["causal@judge"] == pytest.approx(math.log(8))
    assert values["causal"] == pytest.approx(math.log(first.vocabulary))
    expected = sum(values[name] or 0.0 for name in ("fim", "onepass", "causal@judge")) / 3
    assert values["fim@qwen+onepass@dllm+causal@judge"] == pytest.approx(expected)
    # The pass of fim@qwen is that of fim: it is not run twice; the judge runs only what was asked for.
    assert len(first.asked) == 2
    assert len(judge.asked) == 1
    assert "fim@judge" not in values
    assert sheet.facts["score_tokens"]["causal@judge"] == len(judge.encoder.encode("return x\n"))


def test_scores_without_a_model_that_can_are_refused(tokenizer: Any) -> None:
    scorers = Scorers(causal=UniformCausal(tokenizer), named={"qwen": UniformCausal(tokenizer)})
    with pytest.raises(ConfigError, match=r"'qwne', which is not here\. Did you mean 'qwen'"):
        check_terms(scorers, "fim@qwne")
    with pytest.raises(ConfigError, match="under 'qwen': expected a diffusion-infill model"):
        check_terms(scorers, "fim", "chain@qwen")
    check_terms(scorers, "fim", "")


def test_masks_of_the_bound_are_named_by_the_gap(tokenizer: Any) -> None:
    model = UniformDiffusion(tokenizer)
    score_all(Scorers(diffusion=model), [(REQUEST, "a\n"), (REQUEST, "b\n")], "elbo")
    assert len(set(model.names)) == 1


def test_token_scores_on_request(uniform: Scorers) -> None:
    sheet = score_all(uniform, [(REQUEST, "x\n")], "fim+onepass", extra="joint", token_scores=True)[0]
    assert uniform.causal is not None
    n = len(uniform.causal.encoder.encode("x\n"))
    found = sheet.facts["token_scores"]
    assert set(found) == {"sequence", "fim", "onepass"}
    assert (len(found["fim"]["middle"]), len(found["fim"]["after"])) == (n, 1)
    assert -sum(found["fim"]["middle"] + found["fim"]["after"]) / (n + 1) == pytest.approx(sheet.values["fim"])
    assert "token_scores" not in score_all(uniform, [(REQUEST, "x\n")], "fim")[0].facts


def test_real_scores_do_not_depend_on_batch_or_order(scored: Any, diffusion: Any, toy: list[dict[str, Any]]) -> None:
    pairs = [(InfillRequest(d["prefix"], d["suffix"]), d["middle"]) for d in toy[:10]]
    together = score_all(Scorers(scored, diffusion), pairs[::-1], DEFAULT_RULE, extra="pmi")[::-1]
    for pair, sheet in zip(pairs, together, strict=True):
        alone = score_all(Scorers(scored, diffusion), [pair], DEFAULT_RULE, extra="pmi")[0].values
        assert set(alone) == set(sheet.values)
        for name, value in sheet.values.items():
            # Sums have as many times the rounding error as terms.
            tolerance = 1e-3 if SCORES.get(name, SCORES["fim"]).unit == PER_SEQUENCE else 1e-4
            assert value == pytest.approx(alone[name], abs=tolerance), name


def test_another_candidate_changes_no_score(scored: Any, diffusion: Any, toy: list[dict[str, Any]]) -> None:
    """Beside others the prompt is read once for all of them, alone it is not; the numbers must be the same."""
    scorers = Scorers(scored, diffusion)
    fits = [d for d in toy if len(d["prefix"] + d["suffix"]) < 600][:4]
    pairs = [(InfillRequest(d["prefix"], d["suffix"]), d["middle"]) for d in fits]
    more = [(r, t) for r, text in pairs for t in (text, "    return None\n", "pass\n")]
    alone = [sheet.values for sheet in score_all(scorers, pairs, DEFAULT_RULE)]
    beside = [sheet.values for sheet in score_all(scorers, more, DEFAULT_RULE)[::3]]
    for one, other in zip(alone, beside, strict=True):
        for name, value in one.items():
            assert value == pytest.approx(other[name], abs=1e-4 * (10 if name == "joint" else 1)), name


def test_the_chain_rule_holds(scored: Any) -> None:
    """joint = causal of the middle + causal of the suffix after both: the same tokens, cut elsewhere."""
    scorers, middle = Scorers(causal=scored), "    total = 0\n"
    request = InfillRequest("def f(values):\n", "    return total\n")
    whole = score_all(scorers, [(request, middle)], "joint", extra="causal_sum")[0].values
    later = InfillRequest(request.prefix + middle, "")
    suffix = score_all(scorers, [(later, request.suffix)], "causal", extra="causal_sum")[0].values
    encode = scored.encoder.encode
    assert encode(later.prefix) == encode(request.prefix) + encode(middle)  # or the law would not apply
    assert whole["causal_sum"] is not None
    assert suffix["causal_sum"] is not None
    assert whole["joint"] == pytest.approx(whole["causal_sum"] + suffix["causal_sum"], abs=1e-3)


def test_at_most_two_autoregressive_passes_and_one_diffusion_pass(
    scored: Any, diffusion: Any, toy: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in tokens that go through the models: per distinct candidate not more than its rows in two autoregressive
    passes and one diffusion pass."""
    forwarded = {"ar": 0, "dllm": 0}

    def counted(kind: str, model: Any, name: str) -> None:
        original = getattr(model, name)

        def forward(*args: Any, **kwargs: Any) -> Any:
            forwarded[kind] += (kwargs["input_ids"] if "input_ids" in kwargs else args[0]).numel()
            return original(*args, **kwargs)

        monkeypatch.setattr(model, name, forward)

    requests = [InfillRequest(d["prefix"], d["suffix"]) for d in toy[:3]]
    texts = ["    return None\n", "    pass\n", "    return None\n"]  # the third repeats the first
    pairs = [(request, text) for request in requests for text in texts]
    encode = scored.encoder.encode
    ar = dllm = 0
    for request in requests:
        for text in set(texts):
            around, n = len(encode(request.prefix)) + len(encode(request.suffix)), len(encode(text))
            ar += (around + n) + (around + n + 3 + 1)  # reading order; FIM with three sentinels and the stop
            dllm += around + n
    counted("ar", scored.model, "forward")
    counted("dllm", diffusion.network, "backbone")
    size = scored._batcher.size, diffusion._batcher.size
    scored._batcher.size = diffusion._batcher.size = 1  # no padding to count
    try:
        score_all(Scorers(scored, diffusion), pairs, DEFAULT_RULE)
    finally:
        scored._batcher.size, diffusion._batcher.size = size
    assert forwarded["dllm"] == dllm
    # Less than two whole passes: the prompt of a gap is read once for all its candidates.
    assert 0 < forwarded["ar"] < ar


def test_a_models_own_answer_is_not_read_again(scored: Any, toy: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [InfillRequest(d["prefix"], d["suffix"], "toy", i, max_new_tokens=64) for i, d in enumerate(toy[:12])]
    written = scored.propose(requests)
    pairs = [(request, candidate.text) for request, candidate in zip(requests, written, strict=True)]
    scorers = Scorers(causal=scored)
    fresh = score_all(scorers, pairs, "fim")
    asked: list[Span] = []
    original = scored.token_logprobs

    def noted(spans: Sequence[Span]) -> Any:
        asked.extend(spans)
        return original(spans)

    monkeypatch.setattr(scored, "token_logprobs", noted)
    reused = score_all(scorers, pairs, "fim", written=written)
    distinct = len({(r.prefix, r.suffix, text) for r, text in pairs if scored.encoder.encode(text)})
    assert len(asked) < distinct / 2
    for one, other in zip(fresh, reused, strict=True):
        assert other.values["fim"] == pytest.approx(one.values["fim"], abs=1e-4)
    # Another member's text, another text or one whose end was not seen is read.
    changes: list[dict[str, Any]] = [{"member": "other"}, {"text": "x"}, {"info": {}}]
    for change in changes:
        asked.clear()
        score_all(scorers, pairs, "fim", written=[replace(candidate, **change) for candidate in written])
        assert len(asked) == distinct
