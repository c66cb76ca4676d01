"""``--model hf-scored``: stock ``hf`` that also records the log-probability of every token it generates.

In infilling tasks it builds the fill-in-the-middle prompt itself, as ids, so that sentinels spelt in user code stay
text. Generation is transformers' own ``generate``; greedy answers equal those of ``--model hf``.

Letters: B = rows, T = generated tokens, V = vocabulary.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import PartialState
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils_hf import stop_sequences_criteria
from transformers import LogitsProcessor, LogitsProcessorList

from lm_eval_ensemble.batching import Batcher, starting_size
from lm_eval_ensemble.config import SCORED, Decoding, ScoredConfig, asset_path, parse_settings, preset_settings
from lm_eval_ensemble.errors import ConfigError, missing_weights
from lm_eval_ensemble.fim import LAYOUTS, FimLayout, layout_for, layout_named
from lm_eval_ensemble.harness.base import alone, default_device, default_dtype, live_models, refuse_cached_repeats
from lm_eval_ensemble.harness.reading import SpanReader, pad_left
from lm_eval_ensemble.harness.requests import Draw, is_infill, resolve, to_requests
from lm_eval_ensemble.members.base import Ledger
from lm_eval_ensemble.members.identity import checkpoint_identity, identified, versions
from lm_eval_ensemble.sampling import draw, nucleus, row_uniforms
from lm_eval_ensemble.scoring.base import Span
from lm_eval_ensemble.tokens import PlainEncoder
from lm_eval_ensemble.types import Candidate, InfillRequest, normalise

__all__ = ["ScoredHF"]


@dataclass(frozen=True)
class _Row:
    """A prompt as ids, and how to answer it. ``layout`` is None for plain text."""

    request: InfillRequest
    ids: list[int]
    draw: Draw
    layout: str | None
    trims: dict[str, int]

    @property
    def group(self) -> tuple[Draw, tuple[str, ...], str | None]:
        """Rows of one batch share all of this."""
        return (self.draw, self.request.until, self.layout)


@dataclass(frozen=True)
class _Answer:
    """Tokens before the stop, their log-probabilities (nats), and how the answer ended: ``stop_token``,
    ``stop_string`` or ``length``. ``canonical``: the layout's end token ended it, and the text gives the same tokens back."""

    text: str
    logprobs: tuple[float, ...]
    stop: str
    stop_logprob: float | None
    canonical: bool = False


class _Recorder(LogitsProcessor):  # type: ignore[misc]
    """Chooses the next token of every row and records its untempered log-probability, one ``(B, V)`` row at a time.

    ``generate`` then runs greedily over the choice: its own sampling would draw all rows from one stream.
    """

    def __init__(self, temperature: float, top_p: float, uniforms: torch.Tensor | None) -> None:
        self.temperature, self.top_p, self.uniforms = temperature, top_p, uniforms
        self.logprobs: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.uniforms is None:
            logits = scores.float()
            self.logprobs.append(logits.amax(-1) - logits.logsumexp(-1))
            return scores
        step = self.uniforms[:, len(self.logprobs)].to(scores.device)
        chosen, _, logprobs = draw(nucleus(scores, self.temperature, self.top_p), step)
        self.logprobs.append(logprobs)
        return torch.full_like(scores, float("-inf")).scatter_(1, chosen[:, None], 0.0)


class ScoredHF(HFLM):  # type: ignore[misc]
    """``hf`` with token log-probabilities. Takes all arguments of ``hf``, and ``fim`` (layout), ``preset``, ``temperature``,
    ``top_p``, ``max_new_tokens``, ``greedy``, ``seed``."""

    def __init__(
        self,
        pretrained: str = "",
        name: str = SCORED,
        preset: str | None = None,
        fim: str | None = None,
        **arguments: Any,
    ) -> None:
        if preset:
            arguments = {**preset_settings(preset, SCORED), **arguments}
            pretrained = arguments.pop("pretrained")
        if not pretrained:
            raise ConfigError(f"$.{name}.pretrained: missing, expected a checkpoint (or preset=tiny).")
        checked = {key: arguments.pop(key) for key in ScoredConfig.model_fields if key in arguments}
        chosen_layout = layout_named(fim) if fim else None
        self.name = name
        self.decoding = own = parse_settings(ScoredConfig, {"pretrained": pretrained, **checked}, f"$.{name}")
        chosen = default_device(own.device)
        path = asset_path(own.pretrained)
        try:
            super().__init__(
                pretrained=path,
                device=chosen,
                dtype=default_dtype(own.dtype, torch.device(chosen).type),
                batch_size=own.batch_size or 1,
                max_batch_size=own.max_batch_size or 64,
                max_length=own.max_length,
                trust_remote_code=own.trust_remote_code,
                **arguments,
            )
        except OSError as error:
            raise missing_weights(path, error) from error
        except TypeError as error:
            raise ConfigError(
                f"$.{name}: {error}. Arguments are those of --model hf, and fim, preset, {', '.join(Decoding.model_fields)}."
            ) from error
        live_models.add(self)
        self._others = arguments
        self._join_ranks()
        self.encoder = PlainEncoder(self.tokenizer)
        self.layout: FimLayout | None = chosen_layout or layout_for(path, self.encoder)
        self.end_id = int(self.eot_token_id)
        self.seed = torch.initial_seed() if self.decoding.seed is None else self.decoding.seed
        self._batcher = Batcher(starting_size(own.batch_size, self.device, own.max_batch_size))
        self._closing_id = self.layout.end_id(self.encoder, self.end_id) if self.layout else self.end_id
        self._reader = SpanReader(self.model, self._pad_id, self.device)

    wants_partner = False
    offers = 1
    resumes = True

    @property
    def window(self) -> int:
        """Number of tokens the model can see."""
        return int(self.max_length)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers as ``Completion`` with their log-probabilities; gaps are filled, other prompts are continued."""
        read = self._read(requests)
        refuse_cached_repeats(self.cache_hook, [request for _, request in read])
        rows = [self._gap_row(r) if is_infill(i) else self._text_row(i, r) for i, r in read]
        completions = [alone(candidate) for candidate in self._answer(rows)]
        for instance, completion in zip(requests, completions, strict=True):
            self.cache_hook.add_partial("generate_until", instance.args, completion)
        return list(completions)

    def propose(self, requests: Sequence[InfillRequest], ledger: Ledger | None = None) -> list[Candidate]:
        """One filled gap per request; each batch is added to the ledger as soon as it is finished."""
        return self._answer([self._gap_row(request) for request in requests], ledger)

    def fingerprint(self) -> dict[str, Any] | None:
        """Everything that decides an answer, beside the request; None if nobody can say which weights these are. Batch size
        is not in it; the kind of device is."""
        weights = checkpoint_identity(str(self.pretrained), str(self._others.get("revision", "main")))
        return weights and {
            "model": SCORED,
            "weights": weights,
            "settings": self.decoding.model_dump(exclude={"pretrained", "batch_size", "max_batch_size", "device", "seed"}),
            "others": identified(self._others),
            "layout": None if self.layout is None else self.layout.model_dump(exclude={"source"}),
            "stream": [self.name, self.seed],
            "computed": [torch.device(self.device).type, str(self.model.dtype), self.window],
            "versions": versions("torch", "transformers"),
        }

    def relevant(self, request: InfillRequest) -> InfillRequest:
        """Without what this model does not look at: the prompt text, the reference, the hint."""
        return replace(request, context="", reference=None, hint=None)

    def token_logprobs(self, spans: Sequence[Span]) -> list[list[float]]:
        """Log-probability (nats, untempered, float32) of each token ``ids[start:]`` given all before it; batched."""
        return self._reader.read(spans, self._batcher, title=f"{self.name}: scoring", quiet=self.rank > 0)

    def _join_ranks(self) -> None:
        """hf takes its rank from the accelerator only where several GPUs are visible; elsewhere every process of a
        distributed run would answer every document."""
        state = PartialState()
        if self.world_size == 1 and state.num_processes > 1:
            from accelerate import Accelerator

            self.accelerator = Accelerator()
            self._rank, self._world_size = state.process_index, state.num_processes

    def _read(self, instances: Sequence[Instance]) -> list[tuple[Instance, InfillRequest]]:
        gaps = iter(to_requests([i for i in instances if is_infill(i)]))
        texts = iter(to_requests([i for i in instances if not is_infill(i)], plain=True))
        return [(i, next(gaps if is_infill(i) else texts)) for i in instances]

    def _gap_row(self, request: InfillRequest) -> _Row:
        if self.layout is None:
            raise ConfigError(
                f"{self.name}: the tokenizer of {self.pretrained!r} has no fill-in-the-middle tokens of a known layout "
                f"({', '.join(LAYOUTS)}). Use a model trained to fill in the middle, or describe its layout: fim=FILE.yaml."
            )
        chosen = resolve(self.decoding, request)
        prompt = self.layout.encode(self.encoder, request.prefix, request.suffix, self._room(chosen))
        return _Row(request, prompt.ids, chosen, self.layout.name, prompt.window.trims)

    def _text_row(self, instance: Instance, request: InfillRequest) -> _Row:
        chosen = resolve(self.decoding, request)
        ids = self.tok_encode(instance.args[0])
        room = self._room(chosen)
        trims = {"trimmed_prefix": len(ids) - room} if len(ids) > room else {}
        return _Row(request, ids[-room:], chosen, None, trims)

    def _room(self, chosen: Draw) -> int:
        room = self.window - chosen.max_new_tokens
        if room < 8:
            raise ConfigError(
                f"{self.name}: max_new_tokens={chosen.max_new_tokens} leaves {room} of {self.window} tokens for the prompt. "
                "Lower max_new_tokens (or --gen_kwargs max_gen_toks=), or raise max_length."
            )
        return room

    def _answer(self, rows: Sequence[_Row], ledger: Ledger | None = None) -> list[Candidate]:
        ledger = Ledger() if ledger is None else ledger
        groups: dict[Any, list[int]] = defaultdict(list)
        for i, row in enumerate(rows):
            groups[row.group].append(i)
        for members in groups.values():
            note = functools.partial(self._note, ledger, rows, members)
            self._batcher.run(
                [rows[i] for i in members],
                lambda row: len(row.ids),
                self._generate,
                title=f"{self.name}: generating",
                quiet=self.rank > 0,
                known={j for j, i in enumerate(members) if i in ledger},
                done=note,
            )
        return [ledger[i] for i in range(len(rows))]

    def _note(self, ledger: Ledger, rows: Sequence[_Row], members: Sequence[int], found: Mapping[int, _Answer]) -> None:
        ledger.add({members[j]: self._candidate(rows[members[j]], answer) for j, answer in found.items()})

    @torch.no_grad()
    def _generate(self, rows: Sequence[_Row]) -> list[_Answer]:
        first = rows[0]
        width, count = max(len(row.ids) for row in rows), first.draw.max_new_tokens
        ids, mask = pad_left([row.ids for row in rows], self._pad_id, self.device)
        uniforms = None
        if first.draw.temperature > 0:
            names = [(self.name, *row.request.key) for row in rows]
            uniforms = row_uniforms(self.seed, names, count, [1] * len(rows))[:, :, 0]
        recorder = _Recorder(first.draw.temperature, first.draw.top_p, uniforms)
        stops, strings = self._stops(first)
        output = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=sorted(stops),
            pad_token_id=self._pad_id,
            use_cache=True,
            logits_processor=LogitsProcessorList([recorder]),
            stopping_criteria=stop_sequences_criteria(self.tokenizer, strings, width, len(rows)) if strings else None,
        )
        logprobs = torch.stack(recorder.logprobs, 1).tolist()
        new = output[:, width:].tolist()
        # Plain prompts are read as stock hf reads them, gaps to the letter.
        opening = first.layout is None
        return [self._read_answer(t, p, stops, first.request.until, opening) for t, p in zip(new, logprobs, strict=True)]

    def _stops(self, row: _Row) -> tuple[set[int], list[str]]:
        """Stops as ids where they are control tokens (their text vanishes in decoding), as strings otherwise."""
        configured = self.model.generation_config.eos_token_id
        ids = {
            self.end_id,
            *(configured if isinstance(configured, list) else [configured] if configured is not None else []),
        }
        if row.layout is not None and self.layout is not None:
            ids.update(self.layout.stop_ids(self.encoder))
        strings = []
        for text in row.request.until:
            found = self.encoder.token_id(text)
            if found is not None and found in self.encoder.control_ids:
                ids.add(found)
            elif text:
                strings.append(text)
        return ids, strings

    def _read_answer(
        self, tokens: list[int], logprobs: list[float], stops: set[int], until: tuple[str, ...], opening: bool = False
    ) -> _Answer:
        end = next((i for i, token in enumerate(tokens) if token in stops), len(tokens))
        stopped = end < len(tokens)
        kept = tokens[:end]
        text = self.encoder.decode(kept, opening)
        cut = min((text.find(stop) for stop in until if stop and stop in text), default=-1)
        if cut < 0:
            if not stopped:
                return _Answer(text, tuple(logprobs[:end]), "length", None)
            canonical = tokens[end] == self._closing_id and self.encoder.encode(text, opening) == kept
            return _Answer(text, tuple(logprobs[:end]), "stop_token", logprobs[end], canonical)
        text = text[:cut]
        # The tokens that are needed to write what is left of the answer.
        needed = self.encoder.count_for(kept, cut, opening)
        return _Answer(text, tuple(logprobs[:needed]), "stop_string", None)

    def _candidate(self, row: _Row, answer: _Answer) -> Candidate:
        info: dict[str, Any] = {"stop": answer.stop, **row.trims}
        if answer.stop_logprob is not None:
            info["stop_logprob"] = answer.stop_logprob
        if row.layout is not None:
            info["layout"] = row.layout
            if answer.canonical and self.model.dtype == torch.float32 and not row.trims:
                info["fim_pass"] = True  # these log-probabilities are those the score `fim` asks for (scoring.passes)
        text = normalise(answer.text, row.request.cut)
        return Candidate(self.name, text, answer.text, logprobs=answer.logprobs, info=info)

    @property
    def _pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else self.end_id
