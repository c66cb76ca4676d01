"""Which of the loaded models score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval_ensemble.config import DIFFUSION, SCORED, EnsembleConfig
from lm_eval_ensemble.errors import ConfigError, did_you_mean
from lm_eval_ensemble.harness.diffusion_lm import DiffusionInfill
from lm_eval_ensemble.harness.scored_lm import ScoredHF
from lm_eval_ensemble.scoring import Scorers, parse_terms
from lm_eval_ensemble.scoring.base import DIFFUSION_PASSES

__all__ = ["answering_scorers", "build_scorers", "check_scorers"]


def build_scorers(models: Mapping[str, Any], kinds: Mapping[str, Any]) -> Scorers:
    """Members and judges by name; plain score names mean the first autoregressive and the first diffusion model.

    :param kinds: the LM class of each; the model itself may not be loaded.
    """

    def named(*wanted: type) -> dict[str, Any]:
        return {name: lm for name, lm in models.items() if isinstance(kinds[name], type) and issubclass(kinds[name], wanted)}

    causal, diffusion = named(ScoredHF), named(DiffusionInfill)
    return Scorers(
        causal=next(iter(causal.values()), None),
        diffusion=next(iter(diffusion.values()), None),
        named=named(ScoredHF, DiffusionInfill),
    )


def answering_scorers(scorers: Scorers, members: Sequence[Any], rule: str, extra: str) -> list[Any]:
    """The members that score others' candidates behind the very prompt that they answer themselves (the pass ``fim``)."""
    terms = [*parse_terms(rule), *(parse_terms(extra, "extra_scores") if extra else ())]
    models = [scorers.model("fim", term.scorer) for term in terms if "fim" in term.score.needs]
    return [member for member in members if any(member is model for model in models)]


def check_scorers(config: EnsembleConfig, rule: str) -> None:
    """Whether every score has a model that can compute it, before any is loaded.

    :raises ConfigError: names every score at fault.
    """
    kinds = {row.name: row.model for row in (*config.members, *config.scorers) if row.model in (DIFFUSION, SCORED)}
    faults = []
    for setting, text in (("score", rule), ("extra_scores", config.extra_scores)):
        for term in parse_terms(text, setting) if text else ():
            needed = DIFFUSION if term.score.needs[0] in DIFFUSION_PASSES else SCORED
            if term.scorer is None and needed not in kinds.values():
                faults.append(f"$.{setting}: {term.name!r} needs a {needed} member; there is none. Add one, or another score.")
            elif term.scorer is not None and term.scorer not in kinds:
                faults.append(f"$.{setting}: {term.name!r} names no model that can score.{did_you_mean(term.scorer, kinds)}")
            elif term.scorer is not None and kinds[term.scorer] != needed:
                faults.append(
                    f"$.{setting}: {term.name!r} needs a {needed} model, and {term.scorer!r} is {kinds[term.scorer]}. Choose "
                    "another score or model."
                )
    if faults:
        raise ConfigError("\n".join(faults))
