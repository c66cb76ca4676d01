"""``--model ensemble-ppl``: several models fill the gap, the answer with the lower perplexity is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook

from lm_eval_ensemble import ensemble
from lm_eval_ensemble.config import DIFFUSION, SCORED, EnsembleConfig
from lm_eval_ensemble.errors import ConfigError, HostError, did_you_mean
from lm_eval_ensemble.harness.base import InfillLM, default_device
from lm_eval_ensemble.harness.member import ForeignMember, build_lm, find_kinds
from lm_eval_ensemble.harness.requests import to_requests
from lm_eval_ensemble.harness.scorers import build_scorers, check_scorers
from lm_eval_ensemble.scoring import DEFAULT_RULE, check_terms, parse_rule, parse_terms
from lm_eval_ensemble.selection import SELECTORS

__all__ = ["EnsemblePPL"]


class EnsemblePPL(InfillLM):
    """Arguments in ``EnsembleConfig``; no arguments mean ``preset=paper``."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        # Settings first: a misspelt name must not cost the loading of two models.
        self.config = EnsembleConfig.from_arguments(arguments, _rule_faults(arguments))
        kinds = find_kinds((*self.config.members, *self.config.scorers))
        rule = self._rule()
        check_scorers(self.config, rule)
        self._refuse_identical_samples()
        self._device = torch.device(default_device(self.config.device))
        seed = torch.initial_seed() if self.config.seed is None else self.config.seed
        host = {
            "batch_size": self.config.batch_size,
            "max_batch_size": self.config.max_batch_size,
            "device": str(self._device),
        }
        models = {}
        for member in self.config.members:
            seeded = {"seed": seed} if member.model in (DIFFUSION, SCORED) else {}
            models[member.name] = build_lm(kinds[member.name], member, {**host, **seeded})
        self.members = [lm if hasattr(lm, "propose") else ForeignMember(name, lm) for name, lm in models.items()]
        for judge in self.config.scorers:
            models[judge.name] = build_lm(kinds[judge.name], judge, host)
        self.scorers = build_scorers(models)
        check_terms(self.scorers, rule, self.config.extra_scores)
        self.settings = ensemble.Settings(
            rule,
            self.config.selector,
            self.config.prefer,
            self.config.samples,
            seed,
            self.config.extra_scores,
            self.config.record == "token_scores",
        )

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The winner of every gap, as ``Completion`` with the whole record as its trace."""
        return list(ensemble.run(to_requests(requests), self.members, self.scorers, self.settings))

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        if getattr(cache_hook, "dbdict", None) is not None:
            raise HostError(
                "--use_cache stores answers under their prompt alone: after any change of members, decoding or score it "
                "would serve the old answers. Run ensemble-ppl without it."
            )
        super().set_cache_hook(cache_hook)

    def get_model_info(self) -> dict[str, Any]:
        return {"ensemble": {**self.config.model_dump(mode="json"), "score": self.settings.rule}}

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
        if self.config.samples == 1:
            return
        for member in self.config.members:
            if member.model in (DIFFUSION, SCORED) and (member.args.get("greedy") or not member.args.get("temperature")):
                raise ConfigError(
                    f"samples={self.config.samples}: member {member.name!r} decodes greedily, so its samples would all be "
                    "the same. Set temperature= above 0."
                )


def _rule_faults(arguments: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with score and selector; text is all they may be, which the settings themselves check."""
    score, selector, extra = arguments.get("score"), arguments.get("selector"), arguments.get("extra_scores")
    if isinstance(selector, str) and selector not in SELECTORS:
        yield f"$.selector: {selector!r} is not a selector.{did_you_mean(selector, SELECTORS)}"
    if score and isinstance(score, str):
        try:
            parse_rule(score)
        except ConfigError as error:
            yield f"$.{error}"
    if extra and isinstance(extra, str):
        try:
            parse_terms(extra, "extra_scores")
        except ConfigError as error:
            yield f"$.{error}"
