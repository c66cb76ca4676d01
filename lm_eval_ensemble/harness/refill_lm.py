"""Writing the least likely tokens of a given middle anew: the diffusion model's part of a ``refine`` member."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from lm_eval_ensemble.config import RefineConfig
from lm_eval_ensemble.diffusion.decode import Canvas, fill
from lm_eval_ensemble.diffusion.likelihood import Row
from lm_eval_ensemble.diffusion.model import pad_right
from lm_eval_ensemble.diffusion.schedules import auto_steps
from lm_eval_ensemble.harness.likelihood_lm import LikelihoodLM
from lm_eval_ensemble.members.refine import weakest
from lm_eval_ensemble.sampling import row_uniforms
from lm_eval_ensemble.tokens import fit_window
from lm_eval_ensemble.types import InfillRequest

__all__ = ["RefillLM", "Refilled"]


class Refilled(NamedTuple):
    """text: the middle with its weakest tokens written anew; remasked: how many those were, of ``tokens``; row_forwards:
    rows that went through the model, those of finding the weakest included."""

    text: str
    remasked: int
    tokens: int
    row_forwards: int


@dataclass(frozen=True)
class _Refill:
    row: Row
    places: list[int]
    name: tuple[object, ...]


class RefillLM(LikelihoodLM):
    """A diffusion model that can also correct a middle."""

    def refill(
        self, requests: Sequence[InfillRequest], texts: Sequence[str], config: RefineConfig, seed: int
    ) -> list[Refilled]:
        """Each text with its weakest tokens written anew, between the request's prefix and suffix.

        A text without tokens, or without weak ones, or too long for the context, comes back unchanged.
        """
        rows = [self._row(request, text) for request, text in zip(requests, texts, strict=True)]
        todo = [i for i, row in enumerate(rows) if 0 < len(row[1]) < self.window]
        read = self.pseudo_logprobs if config.by == "pseudo" else self.onepass_logprobs
        logprobs = dict(zip(todo, read([rows[i] for i in todo]), strict=True))
        refills = {}
        for i in todo:
            if places := weakest(logprobs[i], config.fraction, config.threshold):
                refills[i] = _Refill(rows[i], places, (config.of, "refine", *requests[i].key))
        found = self._batcher.run(
            list(refills.values()),
            lambda refill: sum(map(len, refill.row)),
            functools.partial(self._refill, config=config, seed=seed),
            title=f"{self.name}: refining",
            quiet=self.rank > 0,
        )
        written = dict(zip(refills, found, strict=True))
        answers = []
        for i, (row, text) in enumerate(zip(rows, texts, strict=True)):
            reading = (len(row[1]) if config.by == "pseudo" else 1) if i in logprobs else 0
            if i not in written:
                answers.append(Refilled(text, 0, len(row[1]), reading))
                continue
            tokens, forwards = written[i]
            same = tokens == row[1]
            answers.append(
                Refilled(text if same else self.encoder.decode(tokens), len(refills[i].places), len(row[1]), reading + forwards)
            )
        return answers

    def _row(self, request: InfillRequest, text: str) -> Row:
        encode = self.encoder.encode
        middle = encode(text)
        window = fit_window(encode(request.prefix), encode(request.suffix), self.window - len(middle))
        return window.prefix, middle, window.suffix

    def _refill(self, refills: Sequence[_Refill], config: RefineConfig, seed: int) -> list[tuple[list[int], int]]:
        """Tokens and row-forwards of one batch."""
        device = self.network.device
        ids, lengths = pad_right([[i for part in r.row for i in part] for r in refills], self.network.mask_id, device)
        starts = torch.tensor([len(r.row[0]) for r in refills], device=device)
        sizes = [len(r.row[1]) for r in refills]
        fixed = torch.ones(len(refills), max(sizes), dtype=torch.bool, device=device)
        for row, refill in enumerate(refills):
            fixed[row, refill.places] = False
        asked = self.config.steps if config.steps is None else config.steps
        steps = [auto_steps(len(r.places)) if asked == "auto" else int(asked) for r in refills]
        uniforms = row_uniforms(seed, [r.name for r in refills], steps, sizes) if config.temperature > 0 else None
        filled = fill(
            self.network,
            Canvas(ids, lengths, starts, torch.tensor(sizes, device=device), fixed=fixed),
            steps=steps,
            temperature=config.temperature,
            top_p=config.top_p,
            uniforms=uniforms,
        )
        return list(zip(filled.tokens, filled.row_forwards, strict=True))
