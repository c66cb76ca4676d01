"""``--model ensemble-ppl``: several models fill the gap, the answer with the lower perplexity is kept."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from lm_eval_ensemble.harness.member import as_member, build_lm, find_kinds
from lm_eval_ensemble.harness.requests import to_requests
from lm_eval_ensemble.harness.scored_lm import ScoredHF
from lm_eval_ensemble.scoring import DEFAULT_RULE, Scorers, parse_rule
from lm_eval_ensemble.selection import make_selector
from lm_eval_ensemble.selection.routing import parse_route
from lm_eval_ensemble.store import Remembered, open_store
from lm_eval_ensemble.types import InfillRequest

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

        self._shelf = Shelf(
            {member.name: functools.partial(build, member) for member in config.members}, config.load == "one-at-a-time"
        )
        models = {name: self._member(name) for name in self._shelf.builders}
        self.members = [Remembered(model, self.store) if self.store else model for model in models.values()]
        self.scorers = Scorers(
            causal=next((models[name] for name, kind in kinds.items() if _is(kind, ScoredHF)), None),
            diffusion=next((models[name] for name, kind in kinds.items() if _is(kind, DiffusionInfill)), None),
        )
        self.settings = ensemble.Settings(
            rule=rule,
            selector=config.selector,
            selector_file=config.selector_file,
            prefer=config.prefer,
            samples=config.samples,
            seed=seed,
            route=config.route,
            concurrent=not self._shelf.one,
        )

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The winner of every gap, as ``Completion`` with the whole record as its trace."""
        asked = to_requests(requests)
        self._refuse_greedy_others(asked)
        completions = ensemble.run(asked, self.members, self.scorers, self.settings)
        if self.store is not None:
            logger.info("%s: %d candidates reused, %d added.", self.store.path, self.store.reused, self.store.added)
        return list(completions)

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        if getattr(cache_hook, "dbdict", None) is not None:
            raise HostError(
                "--use_cache stores answers under their prompt alone: after any change of members, decoding or score it "
                "would serve the old answers. Run ensemble-ppl without it: candidates are kept by store=PATH (on by default), "
                "a killed run goes on where it stopped."
            )
        super().set_cache_hook(cache_hook)

    def get_model_info(self) -> dict[str, Any]:
        store = self.store and {"path": str(self.store.path), "reused": self.store.reused, "added": self.store.added}
        return {"ensemble": {**self.config.model_dump(mode="json"), "score": self.settings.rule, "store": store or "off"}}

    def _member(self, name: str) -> Any:
        """A member, or what stands for it where only one model is in memory at a time.

        Each is loaded now in both cases: what is wrong with the last must not show after hours of the first.
        """
        if not self._shelf.one:
            return self._shelf.get(name)
        stand_in = LazyModel(name, self._shelf)
        _ = stand_in.wants_partner, stand_in.offers, stand_in.device, getattr(stand_in, "resumes", False)
        return stand_in

    def _rule(self) -> str:
        """The score asked for, else the default, else what the kinds of members allow."""
        kinds = {member.model for member in self.config.members}
        if self.config.score:
            return self.config.score
        available = {SCORED: "fim", DIFFUSION: "onepass"}
        names = [score for kind, score in available.items() if kind in kinds]
        if not names:
            raise ConfigError(
                "$.members: none of them can score; expected at least one hf-scored or diffusion-infill member to judge "
                "the candidates."
            )
        return DEFAULT_RULE if len(names) == 2 else names[0]

    def _refuse_identical_samples(self) -> None:
        """:raises ConfigError: a member of ours decodes greedily and several samples are asked for."""
        for member in self.config.members if self.config.samples > 1 else ():
            if member.model in (DIFFUSION, SCORED) and (member.args.get("greedy") or not member.args.get("temperature")):
                raise ConfigError(self._all_the_same(member.name))

    def _refuse_greedy_others(self, requests: Sequence[InfillRequest]) -> None:
        """The same for other LMs, whose settings are only known with the requests; nothing is generated yet."""
        if self.settings.samples == 1:
            return
        for member in self.members:
            draws = getattr(getattr(member, "member", member), "draws", None)
            if draws is not None and not all(map(draws, requests)):
                raise ConfigError(self._all_the_same(member.name))

    def _all_the_same(self, name: str) -> str:
        return (
            f"samples={self.config.samples}: member {name!r} decodes greedily, so its samples would all be the same. Set "
            "temperature= above 0."
        )


def _rule_faults(arguments: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with score, selector and route; text is all they may be, which the settings themselves check."""
    score, selector, route = (arguments.get(name) for name in ("score", "selector", "route"))
    members = _names(arguments.get("members"))
    checks: list[Callable[[], Any]] = []
    if score and isinstance(score, str):
        checks.append(lambda: parse_rule(score))
    if isinstance(selector, str):
        file = arguments.get("selector_file")
        checks.append(lambda: make_selector(selector, file if isinstance(file, str) else None, members))
    if isinstance(route, str) and members:
        checks.append(lambda: parse_route(route, members))
    for check in checks:
        try:
            check()
        except ConfigError as error:
            yield f"$.{error}"


def _names(members: Any) -> list[str]:
    """Names of members as they were typed, as far as they are names."""
    rows = members if isinstance(members, list | tuple) else ()
    return [str(row["name"]) for row in rows if isinstance(row, Mapping) and "name" in row]


def _is(kind: Any, wanted: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, wanted)
