"""The lengths of all gaps of a call, found together: rows of the same first-step forward, whichever document they are of."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lm_eval_ensemble.batching import Batcher
from lm_eval_ensemble.diffusion.confidence import BIAS_FILE, Bias, Probe, fingerprint, newline_ids, read_signals
from lm_eval_ensemble.diffusion.length import SEARCH_CAP, Length, LengthPolicy, Search
from lm_eval_ensemble.diffusion.model import MaskedDiffusionModel
from lm_eval_ensemble.selection import Case, argmin
from lm_eval_ensemble.tokens import PlainEncoder, fit_window
from lm_eval_ensemble.types import Candidate, Completion, InfillRequest, Scored, Selection, split_runs

__all__ = ["COMMITTED", "LengthFinder", "find_bias", "offered"]

#: the score by which a diffusion model alone chooses among its own fills, as it stands in the record.
COMMITTED = "committed"

logger = logging.getLogger(__name__)


def find_bias(policy: LengthPolicy, network: MaskedDiffusionModel, given: str | None, folder: str) -> Bias | None:
    """The bias a policy needs: the file given, else the one in the checkpoint's folder, else none, with a warning.

    :raises ConfigError: the file belongs to another model.
    """
    beside = Path(folder) / BIAS_FILE
    if given or (policy.needs_confidence and beside.is_file()):
        return Bias.load(Path(given) if given else beside, fingerprint(network.model))
    if policy.needs_confidence:
        logger.warning(
            "length=%s: no length bias is known for %s, and its raw confidence prefers short gaps. Fit one: lm-eval-ensemble "
            "fit-length MODEL --code FOLDER --output bias.json, then length_bias=bias.json.",
            policy.mode,
            folder,
        )
    return None


@dataclass(frozen=True)
class LengthFinder:
    """``find`` gives one length per request. Each depends on its own request only, never on the others."""

    policy: LengthPolicy
    network: MaskedDiffusionModel
    encoder: PlainEncoder
    window: int
    batcher: Batcher
    bias: Bias | None
    name: str
    quiet: bool = False

    def find(self, requests: Sequence[InfillRequest], limits: Sequence[int]) -> list[Length]:
        """One length per request, at most the request's limit.

        :raises ConfigError: a request lacks what the policy needs.
        """
        asked = [self.policy.candidates(r, self._count, limit) for r, limit in zip(requests, limits, strict=True)]
        values: list[dict[int, float]] = [{} for _ in requests]
        searches: list[Search | None] = [None] * len(requests)
        wanted = [choice.lengths if len(choice.lengths) > 1 else [] for choice in asked]
        if self.policy.mode == "search":
            searches = [Search(min(self.policy.limit, limit, SEARCH_CAP)) for limit in limits]
            wanted = [search.wanted for search in searches if search]
        while any(wanted):
            new = self._values(requests, wanted)
            for known, found, search in zip(values, new, searches, strict=True):
                known.update(found)
                if search and found:
                    search.tell(found)
            wanted = [search.wanted if search else [] for search in searches]
        return [
            Length(choice.best(known) if known else choice.lengths[0], choice.mode, len(known))
            for choice, known in zip(asked, values, strict=True)
        ]

    @functools.cached_property
    def _newlines(self) -> torch.Tensor:
        return newline_ids(self.network)

    def _count(self, text: str) -> int:
        return len(self.encoder.encode(text))

    def _values(self, requests: Sequence[InfillRequest], wanted: Sequence[Sequence[int]]) -> list[dict[int, float]]:
        """Per request, length -> score; all in common batches."""
        probes, owners = [], []
        for i, (request, lengths) in enumerate(zip(requests, wanted, strict=True)):
            if not lengths:
                continue
            prefix, suffix = self.encoder.encode(request.prefix), self.encoder.encode(request.suffix)
            for length in lengths:
                fitted = fit_window(prefix, suffix, self.window - length)
                probes.append(Probe(fitted.prefix, fitted.suffix, length))
                owners.append(i)
        found = self.batcher.run(
            probes,
            lambda probe: probe.tokens,
            lambda batch: read_signals(self.network, batch, self._newlines),
            title=f"{self.name}: lengths",
            quiet=self.quiet,
        )
        out: list[dict[int, float]] = [{} for _ in requests]
        for i, probe, signals in zip(owners, probes, found, strict=True):
            table = self.bias.tables[requests[i].cut] if self.bias else None
            # Another batch moves floats by about 1e-6; rounding keeps such a difference from deciding a tie.
            out[i][probe.length] = round(table.score(signals, probe.length) if table else signals.confidence, 4)
        return out


def offered(candidates: Sequence[Candidate]) -> Completion:
    """The answer of a diffusion model alone, of several fills of one gap.

    Of the fills of ``grid`` it keeps the likeliest: lowest negative log-probability of the tokens when they were committed
    (``committed``, nats per sequence, whatever the length), blank texts last. Those of ``fixed-mean`` are runs of their own.
    All of them stand in the record.
    """
    scored = [Scored(replace(c, sample=n), {COMMITTED: _committed(c)}) for n, c in enumerate(candidates)]
    runs = tuple(Selection(part, *argmin(Case(part, COMMITTED)), COMMITTED) for part in split_runs(scored))
    return Completion(runs[0].chosen.text, runs[0], runs)


def _committed(candidate: Candidate) -> float | None:
    return -sum(candidate.logprobs) if candidate.logprobs else None
