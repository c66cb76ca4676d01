"""Every fill-in-the-middle family, on a tiny random checkpoint with its control tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.fim import LAYOUTS, find_layout
from lm_eval_ensemble.harness.scored_lm import ScoredHF
from lm_eval_ensemble.scoring.base import Pass, Span
from lm_eval_ensemble.scoring.passes import PassJob, run_pass
from lm_eval_ensemble.tokens import count_within
from lm_eval_ensemble.types import InfillRequest
from tests.harness.families import FAMILIES, save_checkpoint

PIECES = ["return a", "    return x\n", " a", "\n\n  b", "", " ", "naïve = '☃'\n", "<FILL_ME> ▁<SUF>[PREFIX]<s>", "a  b"]


def drawn_stops(name: str) -> list[str]:
    """The stops that the random models draw: the end of text, the family's end or first token, another token."""
    layout = LAYOUTS[name]
    return [FAMILIES[name].eos, layout.end or layout.tokens[0], layout.tokens[1]]


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, assets: Path) -> tuple[str, str]:
    """The family's name, and the folder."""
    folder = tmp_path_factory.mktemp("families") / f"{request.param}-tiny"
    return request.param, save_checkpoint(FAMILIES[request.param], folder, assets, drawn_stops(request.param))


@pytest.fixture(scope="module")
def model(checkpoint: tuple[str, str]) -> ScoredHF:
    return load(checkpoint)


def load(checkpoint: tuple[str, str], **arguments: Any) -> ScoredHF:
    name, folder = checkpoint
    # The suffix-first order of CodeLlama is by name only; all others are found by the folder's name and tokens.
    chosen = name if name == "codellama-spm" else None
    return ScoredHF(pretrained=folder, layout=chosen, temperature=1.0, max_new_tokens=24, seed=3, **arguments)


def test_prompt_ids_are_the_published_layout(checkpoint: tuple[str, str], model: ScoredHF) -> None:
    name, folder = checkpoint
    assert model.layout is LAYOUTS[name]
    ids = model._gap_row(InfillRequest("def f(", "return a + b")).ids
    assert "".join(model.tokenizer.convert_ids_to_tokens(ids)) == FAMILIES[name].prompt
    if name != "codellama-spm":
        assert find_layout(folder) is LAYOUTS[name]


def test_pieces_of_programs_come_back_unchanged(model: ScoredHF) -> None:
    for piece in PIECES:
        ids = model.encoder.encode(piece)
        # Sentencepiece writes a space as this character, and cannot tell the two apart.
        assert model.encoder.decode(ids) in (piece, piece.replace("▁", " "))
        assert not set(ids) & model.encoder.control_ids


def watch(monkeypatch: pytest.MonkeyPatch, model: ScoredHF, stops: set[int]) -> list[list[int]]:
    """Check every answer against the generated ids: it ends before the first of ``stops``, and nothing follows.

    :returns: the ids, filled while the model answers.
    """
    read, seen = model._read_answer, list[list[int]]()

    def checked(tokens: list[int], *rest: Any) -> Any:
        answer = read(tokens, *rest)
        end = next((i for i, token in enumerate(tokens) if token in stops), len(tokens))
        assert answer.text == model.encoder.decode(tokens[:end])
        assert len(answer.logprobs) == end
        assert answer.stop == ("stop_token" if end < len(tokens) else "length")
        seen.append(tokens)
        return answer

    monkeypatch.setattr(model, "_read_answer", checked)
    return seen


def test_answers_end_at_a_stop_in_any_batch(
    monkeypatch: pytest.MonkeyPatch, checkpoint: tuple[str, str], model: ScoredHF
) -> None:
    name = checkpoint[0]
    requests = [InfillRequest(f"def f({i}):\n" * (i + 1), "    return a + b\n", "t", i) for i in range(16)]
    stops = {model.tokenizer.convert_tokens_to_ids(token) for token in drawn_stops(name)}
    batched = load(checkpoint, batch_size=4)
    ids, _ = watch(monkeypatch, model, stops), watch(monkeypatch, batched, stops)
    alone, together = model.propose(requests), batched.propose(requests)
    assert [(a.raw, a.info["stop"]) for a in alone] == [(a.raw, a.info["stop"]) for a in together]
    assert {a.info["layout"] for a in alone} == {name}
    # Each of the stops ended some answer, not only the model's own end of text; rows of a batch ended at different steps.
    assert stops <= {token for row in ids for token in row}
    assert len({len(a.logprobs or ()) for a in alone}) > 3


def last_of(model: ScoredHF, name: Pass, text: str) -> str:
    """The token behind a middle that a pass reads last, where nothing follows the gap."""
    seen: list[Span] = []

    class Spy:
        encoder, layout, window, end_id = model.encoder, model.layout, model.window, model.end_id

        def token_logprobs(self, spans: Sequence[Span]) -> list[list[float]]:
            seen.extend(spans)
            return [[0.0] * (len(span.ids) - span.start) for span in spans]

    spy: Any = Spy()
    run_pass(name, spy, [PassJob(InfillRequest("def f(", ""), text)])
    return str(model.tokenizer.convert_ids_to_tokens(seen[0].ids[-1]))


def test_the_fim_score_ends_with_the_familys_token(checkpoint: tuple[str, str], model: ScoredHF) -> None:
    assert last_of(model, "fim", "a): return b") == (LAYOUTS[checkpoint[0]].end or FAMILIES[checkpoint[0]].eos)


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if not layout.end and not layout.chat])
def test_a_tuned_models_end_of_turn_is_not_the_end_of_a_middle(tmp_path: Path, assets: Path, name: str) -> None:
    base = FAMILIES[name]
    tuned = replace(base, eos="<|im_end|>", control=(*base.control, base.eos))
    folder = save_checkpoint(tuned, tmp_path / f"{name}-tiny-instruct", assets, [base.eos, "<|im_end|>"])
    model = load((name, folder))
    end, turn = model.tokenizer.convert_tokens_to_ids([base.eos, "<|im_end|>"])
    assert (model.end_id, model._closing_id, model.eot_token_id) == (end, end, turn)
    assert {end, turn} <= model._stops(model._gap_row(InfillRequest("def f(", "")))[0]
    answers = model.propose([InfillRequest(f"def f({i}", "", "t", i) for i in range(24)])
    read = run_pass("fim", model, [PassJob(InfillRequest(f"def f({i}", ""), a.text) for i, a in enumerate(answers)])
    written = [
        (a.info["end_logprob"], one.after[0]) for a, one in zip(answers, read, strict=True) if one and "end_logprob" in a.info
    ]
    assert written
    assert all(own == pytest.approx(again, abs=1e-3) for own, again in written)
    # A text that is read in order ends so, too. What ends an answer to a question is the checkpoint's business, as in stock hf.
    assert last_of(model, "sequence", "a): return b") == base.eos
    assert end not in model._stops(replace(model._gap_row(InfillRequest("def f(", "")), layout=None))[0]


def test_a_file_chooses_the_layout(tmp_path: Path, checkpoint: tuple[str, str]) -> None:
    name, folder = checkpoint
    first = LAYOUTS[name].tokens[0]
    path = tmp_path / "mine.yaml"
    path.write_text(f'parts: ["{first}", SUFFIX, "{first}", PREFIX]\n')
    model = ScoredHF(pretrained=folder, layout=str(path), max_new_tokens=8)
    assert model.propose([InfillRequest("a", "b")])[0].info["layout"] == "mine"
    tokens = model.tokenizer.convert_ids_to_tokens(model._gap_row(InfillRequest("def", "a")).ids)
    assert tokens == [first, "a", first, "def"]


def test_an_unknown_layout_is_refused_before_loading() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'codellama'"):
        ScoredHF(pretrained="nobody/no-such-model", layout="codelama")


def test_tasks_render_and_record_the_layout(evaluate: Callable[..., Any], scripted: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text('parts: ["<S>", SUFFIX, "<P>", PREFIX]\n')
    cases = {"bigcode/starcoder2-3b": "starcoder", "mistralai/Codestral-22B-v0.1": "codestral"}
    runs = [({"pretrained": model}, name) for model, name in cases.items()]
    runs += [({"layout": "codellama-spm", "pretrained": "x"}, "codellama-spm"), ({"layout": f"@{path}"}, "mine")]
    for metadata, name in runs:
        found = evaluate(scripted(lambda doc: ""), limit=2, metadata=metadata)
        assert found["configs"]["infill_toy"]["metadata"]["prompt_layout"] == name
        assert found["results"]["infill_toy"]["layout,none"] == name
        for sample in found["samples"]["infill_toy"]:
            assert sample["layout"] == name
            first = "<S>" if name == "mine" else LAYOUTS[name].tokens[0]
            assert sample["arguments"][0][0].startswith(first)


@pytest.mark.parametrize("opening", [False, True])
def test_pieces_join_to_the_text(model: ScoredHF, opening: bool) -> None:
    """Whatever was generated: bytes that are no character, control tokens, spaces a tokenizer drops at the beginning."""
    encoder = model.encoder
    drawn = torch.randint(0, encoder.vocabulary, (30, 12), generator=torch.Generator().manual_seed(1)).tolist()
    texts = [encoder.encode(text) for text in ("Zürich 🦜 x", " Paris", "日本", "a\n\n b")]
    for ids in [*drawn, *texts, []]:
        pieces = encoder.pieces(ids, opening)
        assert len(pieces) == len(ids)
        assert "".join(pieces) == encoder.decode(ids, opening)
        if ids:
            assert "".join(encoder._pieces_one_by_one(ids, encoder.decode(ids, opening), opening)) == "".join(pieces)


def test_a_character_of_several_tokens_is_kept_whole(model: ScoredHF) -> None:
    ids = model.encoder.encode("a🦜b")
    kept = count_within(model.encoder.pieces(ids), 2)
    assert model.encoder.decode(ids[:kept]) == "a🦜"
