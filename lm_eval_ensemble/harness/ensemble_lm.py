"""``--model ensemble-ppl``: several models fill the gap, the answer with the lower perplexity is kept."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook

from lm_eval_ensemble import ensemble
from lm_eval_ensemble.config import DIFFUSION, SCORED, EnsembleConfig, MemberConfig
from lm_eval_ensemble.errors import ConfigError, HostError
from lm_eval_ensemble.harness.base import InfillLM, default_device
from lm_eval_ensemble.harness.diffusion_lm import DiffusionInfill
from lm_eval_ensemble.harness.loading import LazyModel, Shelf
from lm_eval_ensemble.harness.member import ForeignMember, as_member, build_lm, find_kinds
from lm_eval_ensemble.harness.requests import to_requests
from lm_eval_ensemble.harness.scored_lm import ScoredHF
from lm_eval_ensemble.scoring import DEFAULT_RULE, Scorers, parse_rule
from lm_eval_ensemble.selection import make_selector
from lm_eval_ensemble.selection.routing import parse_route
from lm_eval_ensemble.store import Remembered, open_store
from lm_eval_ensemble.types import Completion, InfillRequest

__all__ = ["EnsemblePPL"]

logger = logging.getLogger(__name__)


class EnsemblePPL(InfillLM):
    """Arguments in ``EnsembleConfig``; no arguments mean ``preset=paper``."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        # Settings first: a misspelt name must not cost the loading of two models.
        self.config = config = EnsembleConfig.from_arguments(arguments, _rule_faults(arguments))
        kinds = find_kinds(config.members)
        rule = self._rule()
        if config.route:
            parse_route(config.route, [member.name for member in config.members])
        self._refuse_identical_samples()
        self._device = torch.device(default_device(config.device))
        seed = torch.initial_seed() if config.seed is None else config.seed
        self.store = open_store(config.store)
        host = {"batch_size": config.batch_size, "max_batch_size": config.max_batch_size, "device": str(self._device)}

        def build(member: MemberConfig) -> Any:
            return as_member(member, build_lm(kinds[member.name], member, host, seed, config.store), seed)

        one = config.load == "one-at-a-time"
        self._shelf = Shelf({member.name: functools.partial(build, member) for member in config.members}, one)
        # Each is loaded now, also one at a time: what is wrong with the last must not show after hours of the first.
        models = {name: self._shelf.get(name) for name in self._shelf.builders} if not one else self._checked()
        self.members = [Remembered(model, self.store) if self.store else model for model in models.values()]
        self.scorers = Scorers(
            causal=next((models[m.name] for m in config.members if _is(kinds[m.name], ScoredHF)), None),
            diffusion=next((models[m.name] for m in config.members if _is(kinds[m.name], DiffusionInfill)), None),
        )
        self.settings = ensemble.Settings(
            rule, config.selector, config.selector_file, config.prefer, config.samples, seed, config.route, concurrent=not one
        )

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The winner of every gap, as ``Completion`` with the whole record as its trace."""
        asked = to_requests(requests)
        self._refuse_greedy_foreigners(asked)
        completions = ensemble.run(asked, self.members, self.scorers, self.settings)
        if self.store is not None:
            logger.info("%s: %d candidates reused, %d added.", self.store.path, self.store.reused, self.store.added)
        return list(completions)
