"""``--model diffusion-infill``: a masked-diffusion model that fills gaps."""

from __future__ import annotations

import functools
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook

from lm_eval_ensemble.batching import Batcher, starting_size
from lm_eval_ensemble.config import DIFFUSION, DiffusionConfig, asset_path, parse_settings, with_preset
from lm_eval_ensemble.data import with_newline
from lm_eval_ensemble.diffusion.algorithms import find_algorithm
from lm_eval_ensemble.diffusion.decode import Canvas, fill
from lm_eval_ensemble.diffusion.grow import check_growing, grow, most_steps
from lm_eval_ensemble.diffusion.length import Length, LengthPolicy
from lm_eval_ensemble.diffusion.model import MaskedDiffusionModel, pad_right
from lm_eval_ensemble.diffusion.schedules import auto_steps
from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.harness.base import alone, default_device, default_dtype, own_cache
from lm_eval_ensemble.harness.lengths import LengthFinder, find_bias, offered
from lm_eval_ensemble.harness.ranks import own_gpus
from lm_eval_ensemble.harness.refill_lm import RefillLM
from lm_eval_ensemble.harness.requests import Draw, mixed_requests, resolve, tell_settings, tell_trims
from lm_eval_ensemble.members.base import Ledger
from lm_eval_ensemble.members.identity import checkpoint_identity, versions
from lm_eval_ensemble.sampling import row_uniforms
from lm_eval_ensemble.tokens import Window, count_within, fit_window, pack
from lm_eval_ensemble.types import RUN, Candidate, Completion, InfillRequest, normalise

__all__ = ["DiffusionInfill"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Gap:
    request: InfillRequest
    window: Window
    length: Length
    draw: Draw

    @property
    def ending(self) -> bool:
        """True if nothing follows the gap: end-of-text may be drawn, and ends the answer."""
        return not self.request.suffix

    @property
    def tokens(self) -> int:
        return len(self.window.prefix) + self.length.tokens + len(self.window.suffix)


@dataclass(frozen=True)
class _Fill:
    tokens: list[int]
    logprobs: list[float]
    row_forwards: int
    finished: int
    steps: int
    history: list[list[int | None]] | None


class DiffusionInfill(RefillLM):
    """Fills the middle between a prefix and a suffix, or continues a text; arguments in ``DiffusionConfig``."""

    def __init__(self, name: str = DIFFUSION, preset: str | None = None, **arguments: Any) -> None:
        super().__init__(arguments.get("device"))
        self.name = name
        given = with_preset({"preset": preset, **arguments}, DIFFUSION, f"$.{name}")
        self.config = parse_settings(DiffusionConfig, given, f"$.{name}")
        self._device = torch.device(default_device(self.config.device))
        self.network = MaskedDiffusionModel.load(
            asset_path(self.config.pretrained),
            dtype=default_dtype(self.config.dtype, self._device.type),
            device=str(self._device),
            revision=self.config.revision,
            trust_remote_code=self.config.trust_remote_code,
            family=self.config.family,
            peft=self.config.peft,
            attn_implementation=self.config.attn_implementation,
            device_map=self.config.device_map,
            gpus=own_gpus() if self.world_size > 1 else None,
            mask_token=self.config.mask_token,
            shift=self.config.shift,
        )
        self._device = self.network.device
        self.encoder, self.diffusion_family = self.network.encoder, self.network.facts
        if getattr(self.network.model, "hf_quantizer", None) is not None:  # its files say so; nobody can ask for it here
            from lm_eval_ensemble.harness.quantized import read_quantized

            self.quantization = (found := read_quantized(self.network.model)) and found.record()
        self.window = self.config.max_length or self.network.max_positions
        if self.network.places is not None and self.window > self.network.places:
            raise ConfigError(
                f"{name}: max_length={self.window}, but the model has places for {self.network.places} tokens. Give "
                f"max_length={self.network.places}."
            )
        limit = min(self.config.max_new_tokens or 512, self.window - 1)
        self.policy = LengthPolicy.parse(self.config.length, limit)
        self.offers, self.wants_partner = self.policy.offers, self.policy.wants_partner
        if self.policy.mode == "expand":
            check_growing(self.network.expand_id, self.config.alg)
        self.seed = torch.initial_seed() if self.config.seed is None else self.config.seed
        self._batcher = Batcher(starting_size(self.config.batch_size, self._device, self.config.max_batch_size))
        self.lengths = LengthFinder(
            self.policy,
            self.network,
            self.encoder,
            self.window,
            self._batcher,
            find_bias(self.policy, self.network, self.config.length_bias, asset_path(self.config.pretrained)),
            self.name,
            quiet=self.rank > 0,
        )
        self._warned = False
        if self.config.protocol and getattr(self.network.model.config, "pad_token_id", None) is not None:
            logger.warning(
                "%s: with this checkpoint's pad_token_id the program of protocol=%s attends causally in every batch whose rows "
                "differ in length; here attention stays bidirectional.",
                self.name,
                self.config.protocol,
            )

    resumes = True

    def to_requests(self, instances: Sequence[Instance]) -> list[InfillRequest]:
        """Gaps are filled; the prompts of other tasks are continued, as a gap that nothing follows."""
        return mixed_requests(instances)

    def fingerprint(self) -> dict[str, Any] | None:
        """Everything that decides an answer, beside the request; None if nobody can say which weights these are. Batch size
        is not in it; the kind of device is. None also under ``protocol``: there a row depends on the others of its batch."""
        if self.config.protocol:
            return None
        weights = checkpoint_identity(asset_path(self.config.pretrained), self.config.revision)
        adapter = checkpoint_identity(self.config.peft) if self.config.peft else {}
        if adapter is None:
            return None
        return weights and {
            "model": DIFFUSION,
            "weights": weights,
            **({"adapter": adapter} if adapter else {}),
            "settings": self.config.model_dump(
                exclude={"pretrained", "peft", "length_bias", "batch_size", "max_batch_size", "device", "seed"}
            ),
            "length_bias": asdict(self.lengths.bias) if self.lengths.bias else None,
            "stream": [self.name, self.seed],
            "computed": [self._device.type, str(self.network.model.dtype), self.window],
            "versions": versions("torch", "transformers"),
        }

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        own_cache(cache_hook, self.fingerprint() or self.config.model_dump())
        super().set_cache_hook(cache_hook)

    def relevant(self, request: InfillRequest) -> InfillRequest:
        """Without the prompt text, and without the reference or the hint where the length does not come from it."""
        by_reference = self.policy.mode == "oracle" or (self.policy.mode == "auto" and request.reference is not None)
        by_hint = self.policy.wants_partner and not by_reference
        return replace(
            request,
            context="",
            reference=request.reference if by_reference else None,
            hint=request.hint if by_hint else None,
        )

    def propose(self, requests: Sequence[InfillRequest], ledger: Ledger | None = None) -> list[Candidate]:
        """One filled gap per request; each batch is added to the ledger as soon as it is finished."""
        ledger = Ledger() if ledger is None else ledger
        draws = [resolve(self.config, request, self.policy.limit) for request in requests]
        if self.rank == 0:
            settings = {name: getattr(self.config, name) for name in ("steps", "alg", "protocol", "peft")}
            tell_settings(
                self.name, self.config.pretrained, self.config, draws, {**settings, "length": self.config.length or "auto"}
            )
        lengths = self._find_lengths(requests, draws, ledger)
        rows = [self._plan(*found) for found in zip(requests, lengths, draws, strict=True)]
        if self.rank == 0:
            tell_trims(self.name, sum(bool(row.window.trims) for row in rows), len(rows), self.window)
        groups: dict[tuple[float, float], list[int]] = defaultdict(list)
        for i, row in enumerate(rows):
            groups[row.draw.temperature, row.draw.top_p].append(i)
        for members in groups.values():
            note = functools.partial(self._note, ledger, rows, members)
            self._batcher.run(
                [rows[i] for i in members],
                # The published code takes rows as they come, and there a row depends on its batch.
                lambda row: 0 if self.config.protocol else row.tokens,
                self._fill,
                title=f"{self.name}: filling",
                quiet=self.rank > 0,
                known={j for j, i in enumerate(members) if i in ledger},
                done=note,
            )
        return [ledger[i] for i in range(len(rows))]

    def _note(self, ledger: Ledger, rows: Sequence[_Gap], members: Sequence[int], found: Mapping[int, _Fill]) -> None:
        ledger.add({members[j]: self._candidate(rows[members[j]], fill) for j, fill in found.items()})

    def get_model_info(self) -> dict[str, Any]:
        settings = {**self.config.model_dump(), "device": str(self._device)}
        own = {"diffusion_infill": settings, "model_dtype": str(self.network.model.dtype)}
        own |= {"diffusion_family": self.diffusion_family, "quantization": self.quantization}
        return {**own, "processes": self.world_size, "peak_memory_mib": self._peaks}

    def _find_lengths(self, requests: Sequence[InfillRequest], draws: Sequence[Draw], ledger: Ledger) -> list[Length]:
        """Of gaps that are filled already the length stands in their candidate; the others are looked for together."""
        todo = [i for i in range(len(requests)) if i not in ledger]
        asked = [_as_published(requests[i]) if self.config.protocol else requests[i] for i in todo]
        new = self.lengths.find(asked, [draws[i].max_new_tokens for i in todo])
        found = dict(zip(todo, new, strict=True))
        return [found[i] if i in found else _recorded_length(ledger[i]) for i in range(len(requests))]

    def complete(self, candidates: Sequence[Candidate]) -> Completion:
        """The one fill, or for a length policy of several their record (``harness.lengths.offered``)."""
        return alone(candidates[0]) if len(candidates) == 1 else offered(candidates)

    def _plan(self, request: InfillRequest, length: Length, draw: Draw) -> _Gap:
        length = self._open_ended(request, length, draw)
        if length.mode == "oracle" and not self._warned:
            self._warned = True
            logger.warning(
                "%s is told the true length of every gap (length=oracle), which leaks part of the answer; the mode stands "
                "in the results. Use length=ar or length=fixed:N for a fair comparison.",
                self.name,
            )
        most = self._most(draw) if self.policy.mode == "expand" else length.tokens
        window = fit_window(self.encoder.encode(request.prefix), self.encoder.encode(request.suffix), self.window - most)
        window = replace(window, prefix=pack(window.prefix), suffix=pack(window.suffix))
        return _Gap(request, window, length, draw)

    def _open_ended(self, request: InfillRequest, length: Length, draw: Draw) -> Length:
        """A text to continue, of which nothing is known, gets the room it may take: end-of-text ends it."""
        if self.policy.mode != "auto" or request.suffix or request.reference is not None or request.hint is not None:
            return length
        return Length(max(min(draw.max_new_tokens, self.window // 2), 1), "limit")

    def _most(self, draw: Draw) -> int:
        """Tokens that a growing canvas may have."""
        return max(min(self.policy.limit, draw.max_new_tokens), 1)

    def _fill(self, rows: Sequence[_Gap]) -> list[_Fill]:
        if self.policy.mode == "expand":
            return self._grow(rows)
        sizes = [row.length.tokens for row in rows]
        steps = [auto_steps(size) if self.config.steps == "auto" else int(self.config.steps) for size in sizes]
        draw, alg, alg_temp = rows[0].draw, self.config.alg, self.config.alg_temp
        uniforms = order = None
        if draw.temperature > 0:
            uniforms = row_uniforms(self.seed, [(self.name, *row.request.key) for row in rows], steps, sizes)
        if find_algorithm(alg, alg_temp).needs_order(alg_temp):
            order = row_uniforms(self.seed, [(self.name, "order", *row.request.key) for row in rows], steps, sizes)
        filled = fill(
            self.network,
            self._canvas(rows, sizes),
            alg=alg,
            steps=steps,
            temperature=draw.temperature,
            top_p=draw.top_p,
            uniforms=uniforms,
            order=order,
            alg_temp=alg_temp,
            early_commit=self.config.early_commit,
            history=self.config.history,
            protocol=self.config.protocol,
        )
        histories: Sequence[Any] = filled.history or [None] * len(rows)
        return [_Fill(*found) for found in zip(*filled[:4], steps, histories, strict=True)]

    def _grow(self, rows: Sequence[_Gap]) -> list[_Fill]:
        draw, most = rows[0].draw, self.policy.limit
        uniforms = None
        if draw.temperature > 0:
            names = [(self.name, *row.request.key) for row in rows]
            uniforms = row_uniforms(self.seed, names, most_steps(most), [most] * len(rows))
        spans = grow(
            self.network,
            [(row.window.prefix, row.window.suffix) for row in rows],
            first=self.policy.fixed,
            limits=[self._most(row.draw) for row in rows],
            alg=self.config.alg,
            temperature=draw.temperature,
            top_p=draw.top_p,
            uniforms=uniforms,
        )
        return [
            _Fill(
                [token for token in span.tokens if token is not None],
                span.logprobs,
                span.forwards,
                span.forwards,
                span.forwards,
                span.states if self.config.history else None,
            )
            for span in spans
        ]

    def _canvas(self, rows: Sequence[_Gap], sizes: Sequence[int]) -> Canvas:
        mask = self.network.mask_id
        pad = self.network.pad_id if self.config.protocol else mask
        texts = [[*row.window.prefix, *([mask] * row.length.tokens), *row.window.suffix] for row in rows]
        ids, lengths = pad_right(texts, pad, self._device)
        if self.config.protocol:
            lengths = torch.full_like(lengths, ids.shape[1])  # pads are ordinary context
        starts = torch.tensor([len(row.window.prefix) for row in rows], device=self._device)
        ending = torch.tensor([row.ending for row in rows], device=self._device)
        return Canvas(ids, lengths, starts, torch.tensor(sizes, device=self._device), ending=ending)

    def _candidate(self, row: _Gap, fill: _Fill) -> Candidate:
        tokens, logprobs, stop, extra = fill.tokens, fill.logprobs, "length", {}
        end = next((i for i, token in enumerate(tokens) if token in self.network.end_ids), None) if row.ending else None
        if end is not None:
            extra, stop = {"stop_logprob": logprobs[end]}, "stop_token"
            tokens, logprobs = tokens[:end], logprobs[:end]
        pieces = self.encoder.pieces(tokens)
        raw = "".join(pieces)
        cut = min((raw.find(text) for text in row.request.until if text and text in raw), default=-1)
        if cut >= 0:
            raw, stop, extra = raw[:cut], "stop_string", {}
            kept = count_within(pieces, cut)
            logprobs = logprobs[:kept]
            pieces = [*pieces[: kept - 1], raw[sum(map(len, pieces[: kept - 1])) :]] if kept else []
        info: dict[str, Any] = {"family": self.network.family.name, "shift": self.network.shift}
        info |= {"length_mode": row.length.mode, "length": len(fill.tokens), "stop": stop, **extra}
        info |= {"steps": fill.steps, "row_forwards": fill.row_forwards, "length_forwards": row.length.forwards}
        info |= {**row.window.trims, **({RUN: row.request.variant} if self.policy.is_averaged else {})}
        info |= {"protocol": self.config.protocol} if self.config.protocol else {}
        info |= {} if fill.history is None else {"history": fill.history}
        text = normalise(raw, row.request.cut)
        if self.config.protocol:
            # The published program keeps all that was filled, and leaves a newline aside that the data do not have.
            text = with_newline(raw) if _is_bare(row.request) else raw
        return Candidate(self.name, text, raw, logprobs=tuple(logprobs), tokens=tuple(pieces), info=info)


def _is_bare(request: InfillRequest) -> bool:
    """Whether the published data have no newline at the end of the middle: SantaCoder's, to which ours adds it."""
    return request.task.startswith("santacoder_fim")


def _as_published(request: InfillRequest) -> InfillRequest:
    """With the middle that the published program counts."""
    bare = request.reference is not None and _is_bare(request)
    return replace(request, reference=str(request.reference).removesuffix("\n")) if bare else request


def _recorded_length(candidate: Candidate) -> Length:
    info = candidate.info
    return Length(int(info["length"]), str(info["length_mode"]), int(info["length_forwards"]))
