"""What a score is, and what computing one takes.

A model is asked once per candidate for a *statistic* (token log-probabilities); scores are pure functions of it.
All scores are negative log-likelihoods in nats, so lower is better; natural logarithms, temperature 1, float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from lm_eval_ensemble.fim import FimLayout
from lm_eval_ensemble.tokens import PlainEncoder

__all__ = ["CausalScorer", "DiffusionScorer", "Pass", "Score", "Scorers", "Span", "Statistic", "mean_nll"]

Pass = Literal["sequence", "fim", "onepass"]


@dataclass(frozen=True)
class Span:
    """Token ids, of which ``ids[start:]`` are to be scored given everything before; ``start`` is at least 1."""

    ids: list[int]
    start: int


@dataclass(frozen=True)
class Statistic:
    """Log-probabilities (nats) one pass gives: of the middle's tokens, and of what follows them in that pass
    (the suffix for ``sequence``, the stop token for ``fim``, nothing for ``onepass``)."""

    middle: tuple[float, ...]
    after: tuple[float, ...] = ()


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

    def token_logprobs(self, spans: Sequence[Span]) -> list[list[float]]: ...


class DiffusionScorer(Protocol):
    """A masked-diffusion model that can score; ``window`` is its context in tokens."""

    @property
    def encoder(self) -> PlainEncoder: ...
    @property
    def window(self) -> int: ...

    def onepass_logprobs(self, rows: Sequence[tuple[list[int], list[int], list[int]]]) -> list[list[float]]: ...


@dataclass(frozen=True)
class Scorers:
    """The models that score, as far as the ensemble has them."""

    causal: CausalScorer | None = None
    diffusion: DiffusionScorer | None = None

    def passes(self) -> frozenset[Pass]:
        """The passes these models can run."""
        found: set[Pass] = set()
        if self.causal is not None:
            found.add("sequence")
            if self.causal.layout is not None:
                found.add("fim")
        if self.diffusion is not None:
            found.add("onepass")
        return frozenset(found)


@dataclass(frozen=True)
class Score:
    """A named score. ``needs`` is the pass it is computed from; ``unit`` says per what."""

    name: str
    needs: Pass
    unit: Literal["nats per token", "nats per sequence"]
    compute: Callable[[Statistic], float | None]
    summary: str


def mean_nll(logprobs: Sequence[float]) -> float | None:
    """Mean negative log-likelihood, nats per token; None for no tokens."""
    return -sum(logprobs) / len(logprobs) if logprobs else None


Statistics = Mapping[Pass, Statistic]
