"""``--model diffusion-infill``: a masked-diffusion model that fills gaps."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lm_eval_ensemble.batching import Batcher, starting_size
from lm_eval_ensemble.config import DIFFUSION, DiffusionConfig, asset_path, parse_settings, preset_settings
from lm_eval_ensemble.diffusion.length import Length, LengthPolicy
from lm_eval_ensemble.diffusion.model import MaskedDiffusionModel, pad_right
from lm_eval_ensemble.diffusion.p2 import Canvas, p2
from lm_eval_ensemble.harness.base import default_device, default_dtype
from lm_eval_ensemble.harness.lengths import LengthFinder, find_bias, offered
from lm_eval_ensemble.harness.likelihood_lm import LikelihoodLM
from lm_eval_ensemble.harness.requests import Draw, resolve
from lm_eval_ensemble.sampling import row_uniforms
from lm_eval_ensemble.tokens import Window, fit_window
from lm_eval_ensemble.types import RUN, Candidate, Completion, InfillRequest, normalise

__all__ = ["DiffusionInfill"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Row:
    request: InfillRequest
    window: Window
    length: Length
    draw: Draw

    @property
    def tokens(self) -> int:
        return len(self.window.prefix) + self.length.tokens + len(self.window.suffix)


@dataclass(frozen=True)
class _Fill:
    tokens: list[int]
    logprobs: list[float]
    row_forwards: int


class DiffusionInfill(LikelihoodLM):
    """P2 decoding of the middle between a prefix and a suffix; arguments in ``DiffusionConfig``."""

    def __init__(self, name: str = DIFFUSION, preset: str | None = None, **arguments: Any) -> None:
        super().__init__()
        self.name = name
        base = preset_settings(preset, DIFFUSION) if preset else {}
        given = {k: v for k, v in arguments.items() if not (preset and k == "pretrained")}
        self.config = parse_settings(DiffusionConfig, {**base, **given}, f"$.{name}")
        self._device = torch.device(default_device(self.config.device))
        self.network = MaskedDiffusionModel.load(
            asset_path(self.config.pretrained),
            dtype=default_dtype(self.config.dtype, self._device.type),
            device=str(self._device),
            revision=self.config.revision,
            trust_remote_code=self.config.trust_remote_code,
            attn_implementation=self.config.attn_implementation,
            mask_token=self.config.mask_token,
            shift=self.config.shift,
        )
        self.encoder = self.network.encoder
        self.window = self.config.max_length or self.network.max_positions
        limit = min(self.config.max_new_tokens or 512, self.window - 1)
        self.policy = LengthPolicy.parse(self.config.length, limit)
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

    @property
    def offers(self) -> int:
        return self.policy.offers

    @property
    def wants_partner(self) -> bool:
        return self.policy.wants_partner

    def propose(self, requests: Sequence[InfillRequest]) -> list[Candidate]:
        """One filled gap per request."""
        draws = [resolve(self.config, request, self.policy.limit) for request in requests]
        lengths = self.lengths.find(requests, [draw.max_new_tokens for draw in draws])
        rows = [self._plan(*found) for found in zip(requests, lengths, draws, strict=True)]
        groups: dict[tuple[float, float], list[int]] = defaultdict(list)
        for i, row in enumerate(rows):
            groups[row.draw.temperature, row.draw.top_p].append(i)
        fills: dict[int, _Fill] = {}
        for members in groups.values():
            found = self._batcher.run(
                [rows[i] for i in members],
                lambda row: row.tokens,
                self._fill,
                title=f"{self.name}: filling",
                quiet=self.rank > 0,
            )
            fills.update(zip(members, found, strict=True))
        return [self._candidate(row, fills[i]) for i, row in enumerate(rows)]

    def get_model_info(self) -> dict[str, Any]:
        return {"diffusion_infill": self.config.model_dump(), "model_dtype": str(self.network.model.dtype)}

    def answer(self, requests: Sequence[InfillRequest]) -> list[Completion]:
        """Alone: the one fill, or for a length policy of several their record (``harness.lengths.offered``)."""
        return offered(requests, self.policy, self.propose)

    def _plan(self, request: InfillRequest, length: Length, draw: Draw) -> _Row:
        if length.mode == "oracle" and not self._warned:
            self._warned = True
            logger.warning(
                "%s is told the true length of every gap (length=oracle), which leaks part of the answer; the mode stands "
                "in the results. Use length=ar or length=fixed:N for a fair comparison.",
                self.name,
            )
        window = fit_window(
            self.encoder.encode(request.prefix), self.encoder.encode(request.suffix), self.window - length.tokens
        )
        return _Row(request, window, length, draw)

    def _fill(self, rows: Sequence[_Row]) -> list[_Fill]:
        mask = self.network.mask_id
        ids, lengths = pad_right(
            [[*row.window.prefix, *([mask] * row.length.tokens), *row.window.suffix] for row in rows],
            mask,
            self._device,
        )
        starts = torch.tensor([len(row.window.prefix) for row in rows], device=self._device)
        sizes = [row.length.tokens for row in rows]
        draw = rows[0].draw
        uniforms = None
        if draw.temperature > 0:
            names = [(self.name, *row.request.key) for row in rows]
            uniforms = row_uniforms(self.seed, names, self.config.steps, sizes)
        canvas = Canvas(ids, lengths, starts, torch.tensor(sizes, device=self._device))
        filled = p2(
            self.network,
            canvas,
            steps=self.config.steps,
            temperature=draw.temperature,
            top_p=draw.top_p,
            uniforms=uniforms,
        )
        return [_Fill(*row) for row in zip(*filled, strict=True)]

    def _candidate(self, row: _Row, fill: _Fill) -> Candidate:
        raw = self.encoder.decode(fill.tokens)
        logprobs = fill.logprobs
        cut = min((raw.find(stop) for stop in row.request.until if stop and stop in raw), default=-1)
        if cut >= 0:
            raw = raw[:cut]
            logprobs = logprobs[: self.encoder.count_for(fill.tokens, cut)]
        info = {"length_mode": row.length.mode, "length": row.length.tokens, "row_forwards": fill.row_forwards}
        info |= {"length_forwards": row.length.forwards, **row.window.trims}
        if self.policy.is_averaged:
            info[RUN] = row.request.variant
        return Candidate(self.name, normalise(raw, row.request.cut), raw, logprobs=tuple(logprobs), info=info)
