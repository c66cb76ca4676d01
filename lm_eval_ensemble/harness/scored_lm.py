"""``--model hf-scored``: stock ``hf`` that also records the log-probability of every token it generates (``recorder``).

On request it draws samples of every answer beside the greedy one, and asks itself whether the answer is true (``ptrue``). In
infilling tasks it builds the fill-in-the-middle prompt itself, as ids, so that sentinels spelt in user code stay
text. Generation is transformers' own ``generate``; greedy answers equal those of ``--model hf``.

Letters: B = rows, T = generated tokens, V = vocabulary.
"""

from __future__ import annotations

import functools
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from transformers import LogitsProcessorList, StoppingCriteriaList

from lm_eval_ensemble.batching import Batcher, starting_size
from lm_eval_ensemble.config import SCORED, Decoding, ScoredConfig, asset_path, parse_settings, with_preset
from lm_eval_ensemble.errors import ConfigError, missing_weights
from lm_eval_ensemble.fim import LAYOUTS, MOVED, FimLayout, layout_for, layout_named
from lm_eval_ensemble.harness.base import Kept, alone, default_device, default_dtype, own_cache, refuse_cached_repeats
from lm_eval_ensemble.harness.beginnings import Beginning, find_beginnings, learns_prompts
from lm_eval_ensemble.harness.memory import peak_memory
from lm_eval_ensemble.harness.ptrue import probability_true, true_pairs
from lm_eval_ensemble.harness.quantized import QuantizedHF
from lm_eval_ensemble.harness.ranks import HOST_RUN, OneOfSeveral, join_ranks
from lm_eval_ensemble.harness.reading import SpanReader, pad_left
from lm_eval_ensemble.harness.recorder import Answer, Detail, Ending, Recorder, Step, read_answer
from lm_eval_ensemble.harness.requests import Draw, is_infill, resolve, tell_settings, tell_trims, to_requests
from lm_eval_ensemble.members.base import Followed, Ledger, Member
from lm_eval_ensemble.members.identity import checkpoint_identity, identified, versions
from lm_eval_ensemble.sampling import row_uniforms
from lm_eval_ensemble.scoring.base import Span
from lm_eval_ensemble.tokens import PlainEncoder, count_within, pack
from lm_eval_ensemble.types import Candidate, Completion, Cut, InfillRequest, normalise
from lm_eval_ensemble.values import Quantizable

__all__ = ["ScoredHF"]

logger = logging.getLogger(__name__)
#: settings of a generation config that choose a cache of their own, or count steps from the end of the prompt.
_COUNTED = ("cache_implementation", "min_length", "min_new_tokens", "begin_suppress_tokens", "exponential_decay_length_penalty")
_RECORDS = ("record", "n_samples", "sample_temperature", "p_true")


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt as ids, and how to answer it. ``layout`` is None for plain text."""

    request: InfillRequest
    ids: Sequence[int]
    draw: Draw
    layout: str | None
    trims: dict[str, int]
    doc: Mapping[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> tuple[Draw, tuple[str, ...], Cut, str | None]:
        """Rows of one batch share all of this."""
        return (self.draw, self.request.until, self.request.cut, self.layout)


class ScoredHF(OneOfSeveral, QuantizedHF, Member):
    """``hf`` with token log-probabilities. Takes all arguments of ``hf``, and ``layout``, ``preset``, ``temperature``,
    ``top_p``, ``max_new_tokens``, ``greedy``, ``seed``, ``record``, ``n_samples``, ``sample_temperature``, ``p_true``,
    ``load_in_8bit``, ``load_in_4bit``, ``quantization``."""

    def __init__(
        self,
        pretrained: str = "",
        name: str = SCORED,
        preset: str | None = None,
        **arguments: Any,
    ) -> None:
        arguments = with_preset({"preset": preset, "pretrained": pretrained, **arguments}, SCORED, f"$.{name}")
        pretrained = arguments.pop("pretrained")
        if not pretrained:
            raise ConfigError(f"$.{name}.pretrained: missing, expected a checkpoint (or preset=tiny).")
        checked = {key: arguments.pop(key) for key in ScoredConfig.model_fields if key in arguments}
        self.name = name
        self.decoding = own = parse_settings(ScoredConfig, {"pretrained": pretrained, **checked}, f"$.{name}")
        chosen_layout = layout_named(own.layout) if own.layout else None
        if "fim" in arguments:
            raise ConfigError(f"$.{name}.fim: {MOVED}")
        self.ask_for(own.quantized_to, arguments)
        split = arguments.get("tp_plan") is not None
        if not split:
            join_ranks(own.device)
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
                f"$.{name}: {error}. Arguments are those of --model hf, and layout, preset, "
                f"{', '.join([*Decoding.model_fields, *_RECORDS, *Quantizable.model_fields])}."
            ) from error
        self._others = arguments
        HOST_RUN.enter(self)
        if not split:
            # Every process, one share. hf does so only where several GPUs are visible, and numbers them within a machine.
            self.join(own.device)
        self.encoder = PlainEncoder(self.tokenizer)
        self.layout: FimLayout | None = chosen_layout or layout_for(path, self.encoder)
        self.end_id = self.encoder.text_end_id(int(self.eot_token_id))
        self._detail = Detail.parse(own.record)
        self.seed = torch.initial_seed() if self.decoding.seed is None else self.decoding.seed
        # Padding would stand between an adapter's own tokens and the prompt, and numbers hang on the batch.
        together = 1 if learns_prompts(self.model) else starting_size(own.batch_size, self.device, own.max_batch_size)
        self._batcher = Batcher(together)
        self._told_unseen, self._peaks = False, dict[str, float]()
        self._closing_id = self.layout.end_id(self.encoder, self.end_id) if self.layout else self.end_id
        self._reader = SpanReader(self.model, self._pad_id, self.device)

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
        kept, found = Kept(self.cache_hook, requests), list[str]()
        # What a model thinks of its answers it is asked when all of them are there.
        size = kept.part if self.decoding.p_true else max(len(rows), 1)
        for start in range(0, len(rows), size):
            found += kept.finish(start, self._complete(rows[start : start + size], start, kept))
        return found

    def _complete(self, rows: Sequence[_Prompt], start: int, kept: Kept) -> list[Completion]:
        """The answers to the rows from number ``start`` on, each kept as soon as nothing is missing."""
        final = not (self.decoding.p_true or self.decoding.n_samples)
        with peak_memory(self.name, self.device, self._peaks):
            answers = self._answer(rows, Followed(lambda i, found: kept.give(start, i, alone(found[0]))) if final else None)
        if self.decoding.p_true:
            answers = self._judge_themselves(rows, answers)
        samples = self._sample(rows, lambda i, drawn: kept.give(start, i, alone(answers[i], drawn)))
        return [alone(answer, samples.get(i, ())) for i, answer in enumerate(answers)]

    def propose(self, requests: Sequence[InfillRequest], ledger: Ledger | None = None) -> list[Candidate]:
        """One filled gap per request; each batch is added to the ledger as soon as it is finished."""
        self.forget_prompts()
        return self._answer([self._gap_row(request) for request in requests], ledger)

    def fingerprint(self) -> dict[str, Any] | None:
        """Everything that decides an answer, beside the request; None if nobody can say which weights these are. Batch size
        is not in it; the kind of device is."""
        place = (str(self._others.get("revision", "main")), str(self._others.get("subfolder") or ""))
        weights = checkpoint_identity(str(self.pretrained), *place)
        bits = {"quantization": self.quantization} if self.quantization else {}
        indifferent = {"pretrained", "layout", "batch_size", "max_batch_size", "device", "seed", *Quantizable.model_fields}
        return weights and {
            "model": SCORED,
            "weights": weights,
            **bits,
            "settings": self.decoding.model_dump(exclude=indifferent),
            "others": identified(self._others),
            "layout": None if self.layout is None else self.layout.model_dump(exclude={"source"}),
            "stream": [self.name, self.seed],
            "computed": [torch.device(self.device).type, str(self.model.dtype), self.window],
            "versions": versions("torch", "transformers"),
            "ends": "cut",  # what is written of an answer ends where the cut rule is decided
        }

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        own_cache(cache_hook, self.fingerprint() or {"settings": self.decoding.model_dump(), **self._others})
        super().set_cache_hook(cache_hook)

    def relevant(self, request: InfillRequest) -> InfillRequest:
        """Without what this model does not look at: the prompt text, the reference, the hint."""
        return replace(request, context="", reference=None, hint=None)

    def token_logprobs(self, spans: Sequence[Span]) -> Sequence[Sequence[float]]:
        """Log-probability (nats, untempered, float32) of each token ``ids[start:]`` given all before it; batched."""
        return self._reader.read(spans, self._batcher, title=f"{self.name}: scoring", quiet=self.rank > 0)

    def keep_prompts(self) -> None:
        """From now on the prompts of proposals are kept, for scoring other members' candidates without reading them again."""
        self._reader.memory.wanted = True

    def forget_prompts(self) -> None:
        """Frees what is kept of the prompts."""
        self._reader.memory.clear()

    def _read(self, instances: Sequence[Instance]) -> list[tuple[Instance, InfillRequest]]:
        gaps = iter(to_requests([i for i in instances if is_infill(i)]))
        texts = iter(to_requests([i for i in instances if not is_infill(i)], plain=True))
        return [(i, next(gaps if is_infill(i) else texts)) for i in instances]

    def check_gaps(self) -> None:
        """:raises ConfigError: this model cannot be asked for a middle: no layout, or one its tokenizer does not bear out."""
        self._gap_row(InfillRequest("", ""))

    def _gap_row(self, request: InfillRequest) -> _Prompt:
        if self.layout is None:
            chat = bool(getattr(self.tokenizer, "chat_template", None))
            raise ConfigError(
                f"{self.name}: the tokenizer of {self.pretrained!r} has no fill-in-the-middle tokens of a known layout "
                f"({', '.join(name for name in LAYOUTS if name != 'chat')}). "
                + ("It has a chat template: layout=chat asks in words. Or use" if chat else "Use")
                + " a model trained to fill in the middle, or describe its layout: layout=FILE.yaml."
            )
        chosen = resolve(self.decoding, request)
        prompt = self.layout.encode(self.encoder, request.prefix, request.suffix, self._room(chosen))
        return _Prompt(request, pack(prompt.ids), chosen, self.layout.name, prompt.window.trims)

    def _text_row(self, instance: Instance, request: InfillRequest) -> _Prompt:
        chosen = resolve(self.decoding, request)
        ids = self.tok_encode(instance.args[0])
        room = self._room(chosen)
        trims = {"trimmed_prefix": len(ids) - room} if len(ids) > room else {}
        return _Prompt(
            request, pack(ids[-room:]), chosen, None, trims, instance.doc if isinstance(instance.doc, Mapping) else {}
        )

    def _tell_trims(self, rows: Sequence[_Prompt]) -> None:
        """One line on prompts that lost their beginning, and one on gaps that are not seen whole."""
        gaps = [bool(row.trims) for row in rows if row.layout is not None]
        tell_trims(self.name, sum(gaps), len(gaps), self.window)
        trimmed = [row for row in rows if row.layout is None and row.trims]
        if not trimmed:
            return
        questions = [(row, str(row.doc.get("question", "")).strip()) for row in trimmed]
        lost = sum(bool(question) and question not in self.tok_decode(list(row.ids)) for row, question in questions)
        texts = sum(row.layout is None for row in rows)
        logger.warning(
            "%s: %d of %d prompts are longer than the context (%d tokens, of which the answer may take %d) and lose their "
            "beginning%s. Counted as trimmed_prefix in the records; fewer examples (--num_fewshot) make room.",
            self.name,
            len(trimmed),
            texts,
            self.window,
            trimmed[0].draw.max_new_tokens,
            f"; {lost} of them a part of the question too" if lost else "; the question itself is kept",
        )

    def _judge_themselves(self, rows: Sequence[_Prompt], answers: Sequence[Candidate]) -> list[Candidate]:
        """The answers to questions, each with p(True) in its info."""
        asked = [i for i, row in enumerate(rows) if row.layout is None and row.doc.get("question")]
        pairs = [pair for i in asked for pair in true_pairs(rows[i].doc, answers[i].text.strip())]
        encoded = [self._encode_pair(*pair) for pair in pairs]
        spans = [Span([*ids, *end][-self.window :], min(len(ids), self.window - len(end))) for ids, end in encoded]
        logprobs = iter(map(sum, self.token_logprobs(spans)))
        found = {i: probability_true(next(logprobs), next(logprobs)) for i in asked}
        return [replace(a, info={**a.info, "p_true": found[i]}) if i in found else a for i, a in enumerate(answers)]

    def _sample(
        self, rows: Sequence[_Prompt], done: Callable[[int, Sequence[Candidate]], None]
    ) -> dict[int, Sequence[Candidate]]:
        """``n_samples`` further answers of every text row: row number -> candidates, ``sample`` counted from 1.

        :param done: is told the answers of a row as soon as all are there.
        """
        count, drawn = self.decoding.n_samples, dict[int, Sequence[Candidate]]()
        if not count:
            return {}
        texts = [i for i, row in enumerate(rows) if row.layout is None]
        asked = []
        for i in texts:
            chosen = replace(rows[i].draw, temperature=self.decoding.sample_temperature, top_p=1.0)
            request = rows[i].request
            numbers = range(request.sample * count + 1, (request.sample + 1) * count + 1)
            # A stream of its own, so that asking for more samples changes none of the earlier ones.
            asked += [replace(rows[i], draw=chosen, request=replace(request, sample=n)) for n in numbers]

        def finish(number: int, found: Sequence[Candidate]) -> None:
            i = texts[number]
            drawn[i] = [replace(candidate, sample=n + 1) for n, candidate in enumerate(found)]
            done(i, drawn[i])

        self._answer(asked, Followed(finish, count), doing="sampling")
        return drawn

    def _room(self, chosen: Draw) -> int:
        room = self.window - chosen.max_new_tokens
        if room < 8:
            raise ConfigError(
                f"{self.name}: max_new_tokens={chosen.max_new_tokens} leaves {room} of {self.window} tokens for the prompt. "
                "Lower max_new_tokens (or --gen_kwargs max_gen_toks=), or raise max_length."
            )
        return room

    def _answer(self, rows: Sequence[_Prompt], ledger: Ledger | None = None, doing: str = "generating") -> list[Candidate]:
        ledger = Ledger() if ledger is None else ledger
        if self.rank == 0 and doing == "generating":
            more = {"layout": next((row.layout for row in rows if row.layout), None), "peft": self._others.get("peft")}
            tell_settings(self.name, self.decoding.pretrained, self.decoding, [row.draw for row in rows], more)
            self._tell_trims(rows)
        groups: dict[Any, list[int]] = defaultdict(list)
        for i, row in enumerate(rows):
            groups[row.group].append(i)
        for members in groups.values():
            note = functools.partial(self._note, ledger, rows, members)
            self._batcher.run(
                list(zip([rows[i] for i in members], find_beginnings([rows[i].ids for i in members]), strict=True)),
                lambda row: row[1].rank,
                self._generate,
                title=f"{self.name}: {doing}",
                quiet=self.rank > 0,
                known={j for j, i in enumerate(members) if i in ledger},
                done=note,
                left_out=self._recall if self._can_drop else None,
            )
        return [ledger[i] for i in range(len(rows))]

    def _note(self, ledger: Ledger, rows: Sequence[_Prompt], members: Sequence[int], found: Mapping[int, Answer]) -> None:
        ledger.add({members[j]: self._candidate(rows[members[j]], answer) for j, answer in found.items()})

    def _recall(self, batch: Sequence[tuple[_Prompt, Beginning]]) -> None:
        """Notes the prompts of a batch whose answers are known, for scoring others'."""
        self._reader.memory.note([(row.ids, own) for row, own in batch])

    @torch.no_grad()
    def _generate(self, batch: Sequence[tuple[_Prompt, Beginning]]) -> list[Answer]:
        """One batch, by ``generate``: again and again where rows that have ended can be dropped in between."""
        rows = [row for row, _ in batch]
        first = rows[0]
        width, count = max(len(row.ids) for row in rows), first.draw.max_new_tokens
        ids, mask = pad_left([row.ids for row in rows], self._pad_id, self.device)
        uniforms = None
        if first.draw.temperature > 0:
            names = [(self.name, *row.request.key) for row in rows]
            uniforms = row_uniforms(self.seed, names, count, [1] * len(rows))[:, :, 0]
        stops, strings = self._stops(first)
        # Plain prompts are read as stock hf reads them, gaps to the letter.
        opening, until, cut = first.layout is None, (*first.request.until, *self._fence(first)), first.request.cut
        lender, memory, cache = self._reader.lender, self._reader.memory, None
        prompts, copied = [(row.ids, own) for row, own in batch], None
        if self._can_drop:
            cache = lender.lend([own for _, own in batch], [len(row.ids) for row in rows]) or lender.fresh()
            lent = cache.get_seq_length()
        found: list[tuple[list[int], list[Step]]] = [([], []) for _ in rows]
        left = list(range(len(rows)))
        while left and count > 0:
            ending = Ending(self.encoder, len(left), width, stops, strings, opening, cut, spare=cache is not None)
            drawn = uniforms[left, -count:] if uniforms is not None else None
            with Recorder(
                self.model, first.draw.temperature, first.draw.top_p, drawn, self._detail, self._closing_id
            ) as recorder:
                output = self.model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=count,
                    do_sample=False,
                    num_beams=1,
                    eos_token_id=sorted(stops),
                    pad_token_id=self._pad_id,
                    use_cache=True,
                    logits_processor=LogitsProcessorList([recorder]),
                    stopping_criteria=StoppingCriteriaList([ending]),
                    **lender.named(cache),
                )
            if cache is not None and copied is None:
                copied = memory.copy(prompts, cache, lent)
            new = output[:, ids.shape[1] :]
            self._tell_unseen(recorder)
            for i, tokens, steps in zip(left, new.tolist(), recorder.finish(new), strict=True):
                found[i][0].extend(tokens)
                found[i][1].extend(steps)
            kept = [place for place, done in enumerate(ending.done) if not done]
            left, count = [left[place] for place in kept], count - new.shape[1]
            if cache is None:
                break
            chosen = torch.tensor(kept, dtype=torch.long, device=output.device)
            ids, mask = output[chosen], torch.cat([mask, torch.ones_like(new)], 1)[chosen]
            cache.batch_select_indices(chosen)
        if copied is not None:
            memory.note(prompts, copied)  # not before the end: a batch that memory runs out in is another one after it
        return [self._read_answer(tokens, steps, stops, until, opening, cut) for tokens, steps in found]

    @property
    def _can_drop(self) -> bool:
        """Whether generation may go on with a part of a batch: the model remembers keys and values alone, and nothing in its
        generation config counts from the end of the prompt."""
        counts = (
            "cache_implementation",
            "min_length",
            "min_new_tokens",
            "begin_suppress_tokens",
            "exponential_decay_length_penalty",
        )
        config = self.model.generation_config
        return self._reader.obstacle is None and not any(getattr(config, name, None) for name in counts)

    def _read_answer(self, ids: list[int], steps: list[Step], *how: Any) -> Answer:
        return read_answer(self.encoder, ids, steps, *how)

    def _tell_unseen(self, recorder: Recorder) -> None:
        if not recorder.raw and not self._told_unseen:
            self._told_unseen = True
            logger.warning(
                "%s: the model's logits could not be read directly; the log-probabilities are those after the penalties of its "
                "generation config (%s).",
                self.name,
                self._generation_config() or "none",
            )

    def get_model_info(self) -> dict[str, Any]:
        """That of ``hf``, and what decides the numbers of a record."""
        found: dict[str, Any] = super().get_model_info()
        own = {name: getattr(self.decoding, name) for name in _RECORDS}
        return {
            **found,
            "model_type": getattr(self.model.config, "model_type", None),
            "generation_config": self._generation_config(),
            "logprobs_of": "raw logits, untempered, float32",
            "batch_size": self._batcher.size,
            "processes": self.world_size,
            "peak_memory_mib": self._peaks,
            **own,
        }

    def _generation_config(self) -> dict[str, Any]:
        """What of the checkpoint's generation config differs from the defaults (repetition_penalty, ...). Sampling and beams
        among it are not followed."""
        found = self.model.generation_config.to_diff_dict()
        return {k: v for k, v in found.items() if k not in ("transformers_version", "_from_model_config")}

    def _stops(self, row: _Prompt) -> tuple[set[int], list[str]]:
        """Stops as ids where they are control tokens (their text vanishes in decoding), as strings otherwise."""
        configured = self.model.generation_config.eos_token_id
        ids = {
            int(self.eot_token_id),
            *(configured if isinstance(configured, list) else [configured] if configured is not None else []),
        }
        if row.layout is not None and self.layout is not None:
            ids.update([self.end_id, *self.layout.stop_ids(self.encoder)])
        strings = self._fence(row)
        for text in row.request.until:
            found = self.encoder.token_id(text)
            if found is not None and found in self.encoder.control_ids:
                ids.add(found)
            elif text:
                strings.append(text)
        return ids, strings

    def _fence(self, row: _Prompt) -> list[str]:
        """What closes the answer to a chat, whose prompt opened it."""
        return ["```"] if row.layout is not None and self.layout is not None and self.layout.chat else []

    def _candidate(self, row: _Prompt, answer: Answer) -> Candidate:
        written, cleaned = answer.text, dict[str, Any]()
        if row.layout is not None and self.layout is not None and self.layout.chat:
            request = row.request
            written, taken = self.layout.clean(written, request.prefix, request.suffix, request.cut, opened=True)
            cleaned["cleaned"] = list(taken)
        text = normalise(written, row.request.cut)
        info: dict[str, Any] = {
            "stop": answer.stop,
            "straddle": answer.straddle,
            "token_ids": answer.ids,
            **row.trims,
            **cleaned,
        }
        if answer.stop_logprob is not None:
            info["stop_logprob"] = answer.stop_logprob
        if row.layout is not None:
            info["layout"] = row.layout
            if (end := self._end_logprob(row, answer, text)) is not None:
                info["end_logprob"] = end  # these log-probabilities are those the score `fim` asks for (scoring.passes)
        if self._detail is not None:
            info["entropy"] = [step.entropy for step in answer.steps]
            info["margin"] = [step.margin for step in answer.steps]
            info["entropy_kind"] = self._detail.kind
        return Candidate(self.name, text, written, logprobs=answer.logprobs, tokens=answer.pieces, info=info)

    def _end_logprob(self, row: _Prompt, answer: Answer, text: str) -> float | None:
        """Log-probability of the layout's end token behind ``text``, as generation saw it; None unless generation was the very
        pass that scores the text: an untrimmed prompt, raw logits, and the tokens that the text is encoded to."""
        if row.trims or self._told_unseen:
            return None
        count = count_within(answer.pieces, len(text))
        if "".join(answer.pieces[:count]) != text or self.encoder.encode(text) != list(answer.ids[:count]):
            return None
        step = answer.steps[count] if count < len(answer.steps) else answer.after
        return None if step is None else step.closing

    @property
    def _pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else self.end_id
