"""What is recorded is the model's own opinion: raw logits to 1e-5, whatever the batch, the stops and the penalties."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

from lm_eval_ensemble.harness import recorder
from lm_eval_ensemble.harness.base import alone
from lm_eval_ensemble.harness.beginnings import find_beginnings
from lm_eval_ensemble.harness.recorder import Answer, Detail
from lm_eval_ensemble.harness.scored_lm import ScoredHF
from lm_eval_ensemble.runs.samples import record
from lm_eval_ensemble.types import Candidate, Completion, InfillRequest

PROMPTS = [
    "def add(a, b):\n",
    "import os\n",
    "class Point:\n    def __init__(self",
    "x = [1, 2",
    "for i in range(",
    "# The quick brown fox\nwhile True:\n    if x > 3:\n        ",
    "try:\n    value = int(text)\nexcept",
    "print(",
]


def questions(prompts: Sequence[str] = PROMPTS, **options: Any) -> list[Instance]:
    settings = {"until": ["\n"], "do_sample": False, "max_gen_toks": 24, **options}
    return [
        Instance("generate_until", {"question": p}, (p, settings), 0, metadata=("q", i, 1), task_name="q", doc_id=i, repeats=1)
        for i, p in enumerate(prompts)
    ]


def traces(answers: Sequence[str]) -> list[Candidate]:
    return [a.trace.chosen for a in answers if isinstance(a, Completion) and a.trace is not None]


@pytest.fixture(scope="module")
def model(assets: Path) -> ScoredHF:
    return ScoredHF(pretrained=str(assets / "fim"))


@pytest.fixture
def penalised(model: ScoredHF) -> Iterator[ScoredHF]:
    """As instruction-tuned models ship: the generation config changes what greedy decoding chooses."""
    before = model.model.generation_config.repetition_penalty
    model.model.generation_config.repetition_penalty = 1.5
    yield model
    model.model.generation_config.repetition_penalty = before


@torch.no_grad()
def answer_and_read(model: ScoredHF, rows: Sequence[Any]) -> tuple[list[Answer], list[torch.Tensor]]:
    """The answers to one batch, and for each the float32 logits ``(T + 1, V)`` from before its tokens to behind them, read
    anew: one row at a time, unpadded, without a cache."""
    answers = model._generate(list(zip(rows, find_beginnings([row.ids for row in rows]), strict=True)))
    logits = []
    for row, answer in zip(rows, answers, strict=True):
        ids = torch.tensor([[*row.ids, *answer.ids]])
        logits.append(model.model(input_ids=ids, use_cache=False).logits[0, len(row.ids) - 1 :].float())
    return answers, logits


def rows_of(model: ScoredHF, instances: Sequence[Instance]) -> list[Any]:
    return [model._text_row(i, r) for i, r in model._read(list(instances))]


def check_against_float64(answers: Sequence[Answer], logits: Sequence[torch.Tensor]) -> None:
    for row, answer in enumerate(answers):
        expected = [float(logits[row][t].double().log_softmax(-1)[token]) for t, token in enumerate(answer.ids)]
        assert list(answer.logprobs) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("size", [1, 8])
@pytest.mark.parametrize("until", [["\n"], ["e", "):"], []])
def test_logprobs_equal_float64_of_the_same_logits(model: ScoredHF, size: int, until: list[str]) -> None:
    """Left padding, stops inside a token, rows that finished early."""
    rows = rows_of(model, questions(until=until))
    found: list[Answer] = []
    for i in range(0, len(rows), size):
        answers, logits = answer_and_read(model, rows[i : i + size])
        check_against_float64(answers, logits)
        found += answers
    assert len({len(a.ids) for a in found}) > 3 or not until
    if until == ["e", "):"]:
        assert any(a.straddle for a in found)
        assert any(not a.straddle for a in found)
    assert all("".join(a.pieces) == a.text and len(a.pieces) == len(a.ids) == len(a.steps) for a in found)


@pytest.mark.parametrize("size", [1, 8])
def test_penalties_change_the_choice_but_not_the_record(penalised: ScoredHF, size: int) -> None:
    rows = rows_of(penalised, questions(until=[]))
    surprises = 0
    for i in range(0, len(rows), size):
        answers, logits = answer_and_read(penalised, rows[i : i + size])
        check_against_float64(answers, logits)
        surprises += sum(int(logits[r][t].argmax()) != k for r, a in enumerate(answers) for t, k in enumerate(a.ids))
    # The penalty did choose otherwise than the logits alone, and those tokens have their raw log-probability.
    assert surprises > 10
    assert penalised.get_model_info()["generation_config"]["repetition_penalty"] == 1.5


def test_the_stop_has_its_own_logprob(model: ScoredHF) -> None:
    [row] = rows_of(model, questions(["import os\n"]))
    [answer], logits = answer_and_read(model, [row])
    assert (answer.stop, answer.straddle) == ("stop_string", False)
    newline = model.encoder.encode("\n")
    assert len(newline) == 1
    expected = float(logits[0][len(answer.ids)].double().log_softmax(-1)[newline[0]])
    assert answer.stop_logprob == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("kind", "top"), [("entropy", None), ("topk:5", 5)])
def test_entropy_and_margin_equal_float64(assets: Path, kind: str, top: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_CHUNK", 10_000)  # two rows at a time
    model = ScoredHF(pretrained=str(assets / "fim"), record=kind)
    answers, logits = answer_and_read(model, rows_of(model, questions(PROMPTS[:5])))
    check_against_float64(answers, logits)
    for row, answer in enumerate(answers):
        for t, step in enumerate(answer.steps):
            p = logits[row][t].double().softmax(-1).sort(descending=True).values
            assert step.entropy == pytest.approx(float(-(p[:top] * p[:top].log()).sum()), abs=1e-5)
            assert step.margin == pytest.approx(float(p[0] - p[1]), abs=1e-5)
    [candidate] = traces(model.generate_until(questions(["import os\n"])))
    assert candidate.info["entropy_kind"] == ("full" if top is None else "topk:5")


def test_logits_of_minus_infinity_have_no_mass() -> None:
    logits = torch.tensor([[0.0, 0.0, float("-inf")]])
    [[logprob, entropy, margin]] = recorder._measured(logits, torch.tensor([1]), Detail()).tolist()
    assert (logprob, entropy, margin) == pytest.approx((-0.6931472, 0.6931472, 0.0), abs=1e-6)


def test_confident_tokens_keep_their_digits() -> None:
    # log(1 + 2 exp(-9)): summing over a strided dimension loses half of it.
    logits = torch.full((4, 151_936), -30.0)
    logits[:, 7], logits[:, 8:10] = 0.0, -9.0
    found = recorder._measured(logits, torch.tensor([7] * 4), None)[:, 0].double()
    expected = logits.double().log_softmax(-1)[:, 7]
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-7)


def test_f1_greedy_is_greedy_and_never_from_warped_scores(assets: Path, tmp_path: Path) -> None:
    """A checkpoint that asks for sampling (as chat models do) is still decoded greedily, its NLL untempered."""
    shutil.copytree(assets / "fim", tmp_path / "chat")
    # hot enough that sampling, if it happened, would not choose the best token of every step by chance
    config = {"do_sample": True, "temperature": 3.0, "top_k": 50, "top_p": 0.95, "eos_token_id": 0}
    (tmp_path / "chat" / "generation_config.json").write_text(json.dumps(config))
    model = ScoredHF(pretrained=str(tmp_path / "chat"), batch_size=4)
    answers, logits = answer_and_read(model, rows_of(model, questions(PROMPTS[:4])))
    check_against_float64(answers, logits)
    assert all(int(logits[r][t].argmax()) == k for r, a in enumerate(answers) for t, k in enumerate(a.ids))
    assert model.get_model_info()["generation_config"]["temperature"] == 3.0


def test_f3_tokens_are_counted_as_generated(model: ScoredHF, assets: Path) -> None:
    """Never by tokenising the answer's text again, stripped or not: that gives other counts."""
    hot = ScoredHF(pretrained=str(assets / "fim"), temperature=2.0, seed=3)
    candidates = traces(hot.generate_until(questions()))
    again = [len(hot.encoder.encode(c.raw)) for c in candidates]
    stripped = [len(hot.encoder.encode(c.raw.strip())) for c in candidates]
    counts = [len(c.logprobs or ()) for c in candidates]
    assert counts != again
    assert counts != stripped
    for candidate in candidates:
        assert len(candidate.tokens or ()) == len(candidate.logprobs or ()) == len(candidate.info["token_ids"])
        assert "".join(candidate.tokens or ()) == candidate.raw


def test_one_row_of_logits_is_kept(model: ScoredHF, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[float] = []

    class Watched(recorder.Recorder):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            chosen = super().__call__(input_ids, scores)
            kept = [v for k, v in vars(self).items() if isinstance(v, torch.Tensor) and k != "_measured"]
            held.append(sum(v.numel() for v in kept) / scores.numel())
            assert self._measured.numel() <= 2 * 256 * len(scores)  # of the token, and of the end
            return chosen

    monkeypatch.setattr("lm_eval_ensemble.harness.scored_lm.Recorder", Watched)
    answer_and_read(model, rows_of(model, questions(until=[])))
    assert max(held) <= 1.0


class TestSamples:
    """Answers drawn beside the greedy one."""

    def draw(self, assets: Path, size: int = 8, count: int = 3, order: int = 1) -> list[Completion]:
        model = ScoredHF(pretrained=str(assets / "fim"), batch_size=size, n_samples=count, sample_temperature=0.7, seed=11)
        return [a for a in model.generate_until(questions(PROMPTS[:4])[::order])[::order] if isinstance(a, Completion)]

    @staticmethod
    def texts(answers: Sequence[Completion], count: int) -> list[list[str]]:
        return [[s.candidate.raw for s in a.trace.candidates[1 : count + 1]] for a in answers if a.trace]

    def test_the_greedy_answer_is_unchanged(self, assets: Path, model: ScoredHF) -> None:
        assert list(self.draw(assets)) == model.generate_until(questions(PROMPTS[:4]))

    def test_streams_belong_to_the_document_and_sample(self, assets: Path) -> None:
        """Not to the batch, the order, or how many samples were asked for."""
        first = self.texts(self.draw(assets), 2)
        assert self.texts(self.draw(assets, size=3, order=-1), 2) == first
        assert self.texts(self.draw(assets, count=2), 2) == first
        assert len({text for row in first for text in row}) > 4

    def test_their_logprobs_are_untempered(self, assets: Path, model: ScoredHF) -> None:
        [answer] = self.draw(assets)[:1]
        assert answer.trace is not None
        for scored in answer.trace.candidates[1:]:
            ids = [*model.tok_encode(PROMPTS[0]), *scored.candidate.info["token_ids"]]
            start = len(model.tok_encode(PROMPTS[0]))
            with torch.no_grad():
                logits = model.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
            expected = [float(logits[i - 1, ids[i]]) for i in range(start, len(ids))]
            assert list(scored.candidate.logprobs or ()) == pytest.approx(expected, abs=1e-4)
            assert scored.candidate.sample > 0


def test_p_true_is_one_more_prompt_that_ends_with_the_answer(assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the context is: what is cut off is its beginning, never the answer (fault F6 of earlier code)."""
    model = ScoredHF(pretrained=str(assets / "fim"), p_true=True, max_length=160)
    asked = questions(["import os\n"], max_gen_toks=8)
    asked[0].doc["context"] = "Long ago. " * 200
    spans: list[Any] = []
    score = model.token_logprobs

    def watched(asked: Sequence[Any]) -> Sequence[Sequence[float]]:
        spans.extend(asked)
        return score(asked)

    monkeypatch.setattr(model, "token_logprobs", watched)
    [candidate] = traces(model.generate_until(asked))
    true, false = (model.encoder.decode(span.ids) for span in spans)
    shared = (
        f"Proposed Answer: {candidate.raw.strip()}\nIs the proposed answer:\n (A) True\n (B) False\nThe proposed answer is:"
    )
    assert true.endswith(f"{shared} (A)")
    assert false.endswith(f"{shared} (B)")
    a, b = (sum(row) for row in score(spans))
    assert candidate.info["p_true"] == pytest.approx(2.718281828459045**a / (2.718281828459045**a + 2.718281828459045**b))
    assert all(len(span.ids) <= 160 for span in spans)


def test_long_prompts_lose_their_beginning_and_say_so(assets: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = ScoredHF(pretrained=str(assets / "fim"), max_length=64)
    prompt = "x = 1\n" * 100 + "Question: who?"
    asked = questions([prompt, "y = "], max_gen_toks=8)
    asked[0].doc["question"] = "who?"
    with caplog.at_level("WARNING"):
        long, short = traces(model.generate_until(asked))
    assert long.info["trimmed_prefix"] == len(model.tok_encode(prompt)) - 56
    assert "trimmed_prefix" not in short.info
    assert "1 of 2 prompts are longer than the context (64 tokens, of which the answer may take 8)" in caplog.text
    assert "the question itself is kept" in caplog.text


def test_records_of_gaps_hold_the_pieces_too(model: ScoredHF, toy: Sequence[dict[str, Any]]) -> None:
    """As members of an ensemble have them."""
    gap = InfillRequest(toy[0]["prefix"], toy[0]["suffix"], cut="line", max_new_tokens=16)
    trace = alone(model.propose([gap])[0]).trace
    assert trace is not None
    [found] = json.loads(json.dumps(record(toy[0], [trace]), allow_nan=False))["candidates"]
    assert "".join(found["tokens"]) == found["raw"]
    assert len(found["tokens"]) == len(found["logprobs"]) == len(found["token_ids"]) > 0
