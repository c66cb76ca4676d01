"""``--model ensemble-ppl``: several models fill the gap, the answer with the lower perplexity is kept."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook

from lm_eval_ensemble import ensemble
from lm_eval_ensemble.config import (
    DIFFUSION,
    REFINE,
    SCORED,
    EnsembleConfig,
    MemberConfig,
    RefineConfig,
    parse_settings,
)
from lm_eval_ensemble.diffusion.algorithms import find_algorithm
from lm_eval_ensemble.errors import ConfigError, HostError
from lm_eval_ensemble.fim import MOVED, layout_named
from lm_eval_ensemble.harness.base import InfillLM, cached_answers, default_device
from lm_eval_ensemble.harness.loading import LazyModel, Shelf
from lm_eval_ensemble.harness.member import build_member, find_kinds
from lm_eval_ensemble.harness.memory import peak_memory
from lm_eval_ensemble.harness.ranks import machine
from lm_eval_ensemble.harness.refine_member import RefineMember
from lm_eval_ensemble.harness.requests import to_requests
from lm_eval_ensemble.harness.scorers import answering_scorers, build_scorers, check_scorers
from lm_eval_ensemble.members.base import Ledger, Member
from lm_eval_ensemble.scoring import DEFAULT_RULE, check_terms, parse_rule, parse_terms
from lm_eval_ensemble.scoring.rules import is_score
from lm_eval_ensemble.selection import make_selector, spec_scores
from lm_eval_ensemble.selection.routing import Router, parse_route
from lm_eval_ensemble.selection.spec import read_scores
from lm_eval_ensemble.store import open_store
from lm_eval_ensemble.types import Candidate, Completion, InfillRequest

__all__ = ["EnsemblePPL"]

logger = logging.getLogger(__name__)


class EnsemblePPL(InfillLM):
    """Arguments in ``EnsembleConfig``; no arguments mean ``preset=paper``."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(arguments.get("device"))
        # Settings first: a misspelt name must not cost the loading of two models.
        self.config = config = self.check(arguments)
        kinds, rule = find_kinds((*config.members, *config.scorers)), _rule(config)
        names = [member.name for member in config.members]
        self._refuse_split()
        self._device = torch.device(default_device(config.device))
        seed = torch.initial_seed() if config.seed is None else config.seed
        self.store = open_store(config.store, machine())
        host = {"batch_size": config.batch_size, "max_batch_size": config.max_batch_size, "device": str(self._device)}

        def build(member: MemberConfig) -> Member:
            return build_member(kinds[member.name], member, host, seed, config.store)

        rows = [row for row in (*config.members, *config.scorers) if row.model != REFINE]
        self._shelf = Shelf({row.name: functools.partial(build, row) for row in rows}, config.load == "one-at-a-time")
        self._models = models = {row.name: self._model(row.name) for row in rows}
        for row in config.members:
            if row.model == REFINE:
                own = parse_settings(RefineConfig, row.args)
                models[row.name] = RefineMember(row.name, own, models[own.of], seed)
        self.members: list[Member] = [models[name] for name in names]
        for row in config.members:
            if row.model == SCORED:
                models[row.name].check_gaps()  # refused now, not when the others have answered all gaps
        self.scorers = build_scorers(models, kinds)
        extra = _extra_scores(config)
        check_terms(self.scorers, rule, extra)
        # A model that leaves memory between answering and scoring can keep nothing.
        self._keep = [] if self._shelf.one else answering_scorers(self.scorers, self.members, rule, extra)
        for model in self._keep:
            model.keep_prompts()
        self.settings = ensemble.Settings(
            rule=rule,
            selector=config.selector,
            selector_file=config.selector_file,
            prefer=config.prefer,
            samples=config.samples,
            seed=seed,
            route=config.route,
            concurrent=not self._shelf.one,
            extra_scores=extra,
            token_scores=config.record == "token_scores",
        )

    @staticmethod
    def check(arguments: Mapping[str, Any]) -> EnsembleConfig:
        """The settings, checked as far as they can be without loading a model.

        :raises ConfigError: names what is wrong.
        """
        config = EnsembleConfig.from_arguments(arguments, _rule_faults(arguments))
        find_kinds((*config.members, *config.scorers))
        check_scorers(config, _rule(config))
        names = [member.name for member in config.members]
        make_selector(config.selector, config.selector_file, names)
        if config.route:
            _refuse_lonely(config, parse_route(config.route, names))
        _refuse_identical_samples(config)
        _refuse_layouts(config)
        return config

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The winner of every gap, as ``Completion`` with the whole record as its trace."""
        asked = to_requests(requests)
        self._refuse_greedy_others(asked)
        completions = self.answer(asked)
        if self.store is not None:
            logger.info("%s: %d candidates reused, %d added.", self.store.path, self.store.reused, self.store.added)
        return list(completions)

    def answer(self, requests: Sequence[InfillRequest]) -> list[Completion]:
        try:
            return ensemble.run(requests, self.members, self.scorers, self.settings, self._ask)
        finally:
            for model in self._keep:
                model.forget_prompts()

    def _ask(self, member: Member, requests: Sequence[InfillRequest]) -> list[Candidate]:
        """What the store has of a member's candidates, and the others generated; its peak memory is noted."""
        with peak_memory(member.name, member.device, self._peaks):
            return self.store.ask(member, requests) if self.store else member.propose(requests)

    def propose(self, requests: Sequence[InfillRequest], ledger: Ledger | None = None) -> list[Candidate]:
        """The winners, for an ensemble that has this one among its members.

        :raises HostError: a gap has several winners.
        """
        completions = self.answer(requests)
        if any(len(completion.runs) > 1 for completion in completions):
            raise HostError(
                f"Member {self.name!r} answers with several runs (length=fixed-mean), whose scores are averaged; inside "
                "another ensemble there is nothing to average. Use another length policy there."
            )
        return [replace(run.chosen, member=self.name) for completion in completions for run in completion.runs]

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        if cached_answers(cache_hook) is not None:
            raise HostError(
                "--use_cache stores answers under their prompt alone: after any change of members, decoding or score it "
                "would serve the old answers. Run ensemble-ppl without it: candidates are kept by store=PATH (on by default), "
                "a killed run goes on where it stopped."
            )
        super().set_cache_hook(cache_hook)

    def get_model_info(self) -> dict[str, Any]:
        store = self.store and {"path": str(self.store.path), "reused": self.store.reused, "added": self.store.added}
        # Not the device that was asked for: lm_eval's command always asks for a GPU.
        host = {"store": store or "off", "device": str(self._device)}
        own = {**self.config.model_dump(mode="json"), "score": self.settings.rule, **host}
        return {
            "ensemble": own,
            "processes": self.world_size,
            "peak_memory_mib": self._peaks,
            "model_footprint_mib": self._told("footprint_mib"),
            "quantization": self._told("quantization"),
            "diffusion_family": self._told("diffusion_family"),
        }

    def _told(self, fact: str) -> dict[str, Any]:
        """What the models that have such a fact say, by name."""
        found = {name: getattr(model, fact) for name, model in self._models.items()}
        return {name: value for name, value in found.items() if value is not None}

    def _model(self, name: str) -> Any:
        """A model, or what stands for it where only one is in memory at a time.

        Each is loaded now in both cases: what is wrong with the last must not show after hours of the first.
        """
        return LazyModel(name, self._shelf) if self._shelf.one else self._shelf.get(name)

    def _refuse_split(self) -> None:
        """:raises ConfigError: a model that all processes compute together, where each has documents of its own."""
        for row in (*self.config.members, *self.config.scorers) if self.world_size > 1 else ():
            if row.args.get("tp_plan") is not None:
                raise ConfigError(
                    f"$.members: {row.name!r} has tp_plan={row.args['tp_plan']!r}, which makes all {self.world_size} "
                    "processes compute one model together, but in an ensemble each has documents of its own. Use "
                    "parallelize=True, which spreads a model over the GPUs of one process."
                )

    def _refuse_greedy_others(self, requests: Sequence[InfillRequest]) -> None:
        """The same for other LMs, whose settings are only known with the requests; nothing is generated yet."""
        if self.settings.samples == 1:
            return
        for row, member in zip(self.config.members, self.members, strict=True):
            if row.model not in (DIFFUSION, SCORED, REFINE) and not all(map(member.draws, requests)):
                raise ConfigError(_all_the_same(self.config, member.name))


def _rule(config: EnsembleConfig) -> str:
    """The score asked for, else the default, else what the kinds of members allow."""
    kinds = {member.model for member in config.members}
    if config.score:
        return config.score
    available = {SCORED: "fim", DIFFUSION: "onepass"}
    names = [score for kind, score in available.items() if kind in kinds]
    if not names:
        raise ConfigError(
            "$.members: none of them can score; expected at least one hf-scored or diffusion-infill member to judge "
            "the candidates."
        )
    return DEFAULT_RULE if len(names) == 2 else names[0]


def _extra_scores(config: EnsembleConfig) -> str:
    """The further scores that were asked for, and those that the selector reads. Others are not computed: a score that nobody
    reads costs as much as one that decides."""
    own = read_scores(config.selector, config.selector_file)
    known = [name for name in own if all(is_score(part) for part in name.split("+"))]
    return "+".join(dict.fromkeys(part for name in (config.extra_scores, *known) if name for part in name.split("+")))


def _refuse_lonely(config: EnsembleConfig, router: Router) -> None:
    """:raises ConfigError: the rule sends gaps to a member that needs another's answer, and nobody else is asked."""
    rows, faults = {row.name: row for row in config.members}, []
    for name in router.members:
        length = str(rows[name].args.get("length"))
        if rows[name].model == REFINE:
            faults.append(f"$.route: {name!r} corrects another member's answer, but no other is asked. Route to another.")
        elif rows[name].model == DIFFUSION and "ar" in re.split(r"[:,+]", length):
            faults.append(
                f"$.route: {name!r} has length={length}, but no partner is asked. Use length=search, length=oracle or "
                "length=fixed:N."
            )
    if faults:
        raise ConfigError("\n".join(faults))


def _refuse_layouts(config: EnsembleConfig) -> None:
    """:raises ConfigError: a layout that is none, or one under the name that is a model's here."""
    for group in ("members", "scorers"):
        for index, row in enumerate(getattr(config, group)):
            where = f"$.{group}[{index}].args"
            if row.model == SCORED and "fim" in row.args:
                raise ConfigError(f"{where}.fim: {MOVED}")
            if row.model == SCORED and (asked := row.args.get("layout")) is not None:
                try:
                    layout_named(asked)
                except ConfigError as error:
                    raise ConfigError(f"{where}.{error}") from None


def _refuse_identical_samples(config: EnsembleConfig) -> None:
    """:raises ConfigError: a member of ours draws nothing and several samples are asked for."""
    for member in config.members if config.samples > 1 else ():
        if member.model not in (DIFFUSION, SCORED):
            continue
        own = member.args
        if own.get("temperature") and not own.get("greedy"):
            continue
        if member.model == SCORED:
            raise ConfigError(_all_the_same(config, member.name))
        # The order in which positions are filled may be drawn even where tokens are not.
        order = own.get("alg_temp")
        if not find_algorithm(own.get("alg", "p2"), order).needs_order(order):
            raise ConfigError(f"{_all_the_same(config, member.name)} Or draw the order of positions: alg=origin.")


def _all_the_same(config: EnsembleConfig, name: str) -> str:
    return (
        f"samples={config.samples}: member {name!r} decodes greedily, so its samples would all be the same. Set "
        "temperature= above 0."
    )


def _rule_faults(arguments: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with score, extra_scores and selector; text is all they may be, which the settings themselves check."""
    score, extra, selector, file = (arguments.get(name) for name in ("score", "extra_scores", "selector", "selector_file"))
    checks: list[Callable[[], Any]] = []
    if score and isinstance(score, str):
        checks.append(lambda: parse_rule(score))
    if extra and isinstance(extra, str):
        checks.append(lambda: parse_terms(extra, "extra_scores"))
    if isinstance(selector, str):
        checks.append(lambda: make_selector(selector, file if isinstance(file, str) else None))
        checks += [functools.partial(parse_terms, name, "selector") for name in spec_scores(selector)]
    for check in checks:
        try:
            check()
        except ConfigError as error:
            yield f"$.{error}"
