"""What a score is, and what computing one takes.

A model is asked once per candidate for a *statistic* (token log-probabilities); scores are pure functions of it.
All scores are negative log-likelihoods, so lower is better; natural logarithms, temperature 1, float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from lm_eval_ensemble.errors import ConfigError, did_you_mean
from lm_eval_ensemble.fim import FimLayout
from lm_eval_ensemble.tokens import PlainEncoder

__all__ = [
    "DIFFUSION_PASSES",
    "PER_BYTE",
    "PER_SEQUENCE",
    "PER_TOKEN",
    "CausalScorer",
    "DiffusionScorer",
    "Model",
    "Pass",
    "Row",
    "Score",
    "Scorers",
    "Span",
    "Statistic",
    "can_run",
    "mean_nll",
    "per_token_family",
]

Pass = Literal["sequence", "fim", "prior", "onepass", "chain", "elbo"]
Unit = Literal["nats per token", "nats per sequence", "bits per byte", "nats"]
PER_TOKEN: Unit = "nats per token"
PER_SEQUENCE: Unit = "nats per sequence"
PER_BYTE: Unit = "bits per byte"
WORST: Unit = "nats"

#: ids of prefix, middle and suffix.
Row = tuple[Sequence[int], Sequence[int], Sequence[int]]

#: passes of a diffusion model; the others are those of an autoregressive one.
DIFFUSION_PASSES: frozenset[Pass] = frozenset({"onepass", "chain", "elbo"})


@dataclass(frozen=True, slots=True)
class Span:
    """Token ids, of which ``ids[start:]`` are to be scored given everything before; ``start`` is at least 1."""

    ids: Sequence[int]
    start: int


@dataclass(frozen=True, slots=True)
class Statistic:
    """Log-probabilities (nats) one pass gives.

    ``middle``: of the middle's tokens; ``after``: of what follows them in that pass (the suffix for ``sequence``, the stop
    token for ``fim``, nothing otherwise); ``end``: of the end of text where ``sequence`` has no suffix. ``size`` is the
    middle's number of UTF-8 bytes. An estimate (``elbo``) is one number for all ``tokens``, with its standard error in nats.
    """

    middle: Sequence[float]
    after: Sequence[float] = ()
    end: Sequence[float] = ()
    size: int = 0
    tokens: int | None = None
    stderr: float | None = None


class CausalScorer(Protocol):
    """An autoregressive model that can score: ``end_id`` ends an answer, ``window`` is its context in tokens."""

    @property
    def encoder(self) -> PlainEncoder: ...
    @property
    def layout(self) -> FimLayout | None: ...
    @property
    def end_id(self) -> int: ...
    @property
    def window(self) -> int: ...

    def token_logprobs(self, spans: Sequence[Span]) -> Sequence[Sequence[float]]: ...


class DiffusionScorer(Protocol):
    """A masked-diffusion model that can score; ``window`` is its context in tokens. Models that can also compute the
    scores ``chain`` and ``elbo`` have ``chain_logprobs`` and ``elbo`` (``diffusion.likelihood``)."""

    @property
    def encoder(self) -> PlainEncoder: ...
    @property
    def window(self) -> int: ...

    def onepass_logprobs(self, rows: Sequence[Row]) -> Sequence[Sequence[float]]: ...


Model = CausalScorer | DiffusionScorer


def can_run(model: Any, name: Pass) -> bool:
    """Whether a model can run a pass."""
    if name in DIFFUSION_PASSES:
        return hasattr(model, "elbo" if name == "elbo" else f"{name}_logprobs")
    return hasattr(model, "token_logprobs") and (name != "fim" or model.layout is not None)


@dataclass(frozen=True)
class Scorers:
    """The models that score. ``causal`` and ``diffusion`` are those of plain score names (``fim``), ``named`` those of
    names with a model (``fim@judge``): members, and models that only judge."""

    causal: CausalScorer | None = None
    diffusion: DiffusionScorer | None = None
    named: Mapping[str, Model] = field(default_factory=dict)

    def label(self, name: Pass, scorer: str | None) -> str | None:
        """``scorer``, or None if that is the model of plain names: a pass is not run twice under two names."""
        return None if scorer is not None and self.named.get(scorer) is self._default(name) else scorer

    def model(self, name: Pass, scorer: str | None) -> Model:
        """The model that runs a pass.

        :raises ConfigError: there is none.
        """
        kind = "a diffusion-infill" if name in DIFFUSION_PASSES else "an hf-scored"
        needed = f"{kind} model{' with a FIM layout' if name == 'fim' else ''}"
        if scorer is None:
            model = self._default(name)
            if model is None or not can_run(model, name):
                raise ConfigError(
                    f"score needs the pass {name!r}: found no {needed.partition(' ')[2].replace('model', 'member')} in this "
                    "ensemble. Add one, or choose another score."
                )
            return model
        if scorer not in self.named:
            raise ConfigError(f"score names the model {scorer!r}, which is not here.{did_you_mean(scorer, self.named)}")
        model = self.named[scorer]
        if not can_run(model, name):
            raise ConfigError(
                f"score needs the pass {name!r} under {scorer!r}: expected {needed}. Choose another score or model."
            )
        return model

    def _default(self, name: Pass) -> Model | None:
        return self.diffusion if name in DIFFUSION_PASSES else self.causal


@dataclass(frozen=True)
class Score:
    """A named score. ``needs`` are the passes whose statistics ``compute`` takes, in order; ``unit`` says per what.

    ``divisor`` is the number of tokens a mean is taken over (None for other scores); ``free`` scores are recorded whenever
    their passes have run, the others when they are named themselves.
    """

    name: str
    needs: tuple[Pass, ...]
    unit: Unit
    compute: Callable[..., float | None]
    summary: str
    divisor: Callable[..., int] | None = None
    free: bool = True


def mean_nll(logprobs: Sequence[float]) -> float | None:
    """Mean negative log-likelihood, nats per token; None for no tokens."""
    return -sum(logprobs) / len(logprobs) if logprobs else None


def per_token_family(
    name: str, needs: Pass, parts: Callable[[Statistic], Sequence[float]], summary: str, worst: bool = True
) -> tuple[Score, ...]:
    """A score per token, and its companions from the same log-probabilities: ``_sum`` (nats), ``_byte`` (bits per UTF-8
    byte of the candidate, which compares across tokenizers) and ``_worst`` (nats of the least likely token).

    :param parts: the log-probabilities that are summed; empty where the score is undefined.
    :param worst: False for a pass without log-probabilities of single tokens.
    """

    def count(statistic: Statistic) -> int:
        return statistic.tokens or len(parts(statistic))

    def total(statistic: Statistic) -> float | None:
        found = parts(statistic)
        return -sum(found) if found else None

    def mean(statistic: Statistic) -> float | None:
        value = total(statistic)
        return None if value is None else value / count(statistic)

    def byte(statistic: Statistic) -> float | None:
        value = total(statistic)
        return None if value is None or not statistic.size else value / (statistic.size * math.log(2))

    def least(statistic: Statistic) -> float | None:
        return -min(parts(statistic), default=math.nan) if parts(statistic) else None

    family = [
        Score(name, (needs,), PER_TOKEN, mean, summary, divisor=count),
        Score(f"{name}_byte", (needs,), PER_BYTE, byte, f"{summary}; per byte"),
        Score(f"{name}_sum", (needs,), PER_SEQUENCE, total, f"{summary}; sum", free=False),
    ]
    if worst:
        family.append(Score(f"{name}_worst", (needs,), WORST, least, f"{summary}; least likely token"))
    return tuple(family)
