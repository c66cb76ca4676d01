"""Likelihoods of the diffusion member: of a middle between two texts, and of the host's continuations."""

from __future__ import annotations

from collections.abc import Sequence

from lm_eval.api.instance import Instance

from lm_eval_ensemble.batching import Batcher
from lm_eval_ensemble.config import DiffusionConfig
from lm_eval_ensemble.diffusion import likelihood
from lm_eval_ensemble.diffusion.likelihood import LikelihoodBound, MaskedRow, Reading, Row
from lm_eval_ensemble.diffusion.model import MaskedDiffusionModel
from lm_eval_ensemble.errors import HostError
from lm_eval_ensemble.harness.base import InfillLM
from lm_eval_ensemble.tokens import PlainEncoder, fit_window

__all__ = ["LikelihoodLM"]


class LikelihoodLM(InfillLM):
    """The functions of ``diffusion.likelihood``, batched: memory goes by masked rows of one length, not by documents."""

    name: str
    config: DiffusionConfig
    network: MaskedDiffusionModel
    encoder: PlainEncoder
    window: int
    seed: int
    _batcher: Batcher

    def onepass_logprobs(self, rows: Sequence[Row]) -> list[list[float]]:
        """See ``diffusion.likelihood``: nats per token, one forward per row."""
        return likelihood.onepass_logprobs(self.network, rows, forward=self._read_masked)

    def chain_logprobs(self, rows: Sequence[Row]) -> list[list[float]]:
        """See ``diffusion.likelihood``: nats per token, n forwards per row."""
        return likelihood.chain_logprobs(self.network, rows, forward=self._read_masked)

    def pseudo_logprobs(self, rows: Sequence[Row]) -> list[list[float]]:
        """See ``diffusion.likelihood``: nats per token, n forwards per row."""
        return likelihood.pseudo_logprobs(self.network, rows, forward=self._read_masked)

    def elbo(self, rows: Sequence[Row], *, samples: int = 16, names: Sequence[tuple[object, ...]]) -> list[LikelihoodBound]:
        """See ``diffusion.likelihood``: nats per sequence, with standard error; ``samples`` forwards per row at most."""
        return likelihood.elbo(self.network, rows, samples=samples, seed=self.seed, names=names, forward=self._read_masked)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of each continuation after its context (nats), and whether the model would write it greedily.

        ``likelihood=chain``: the exact left-to-right chain with the continuation as the gap and nothing behind it; greedy
        means that every token is the best one of its conditional. ``likelihood=elbo:K``: the bound by K masked sets; greedy
        means that every token is the best one with the whole continuation masked (one forward more).

        The continuation's number of tokens is given to the model, as everywhere in masked diffusion.
        """
        rows = [self._continuation(*request.args) for request in requests]
        rule, _, samples = self.config.likelihood.partition(":")
        if rule == "chain":
            chains = likelihood.chain_readings(self.network, rows, forward=self._read_masked)
            found = [(sum(r.logprob for r in chain), all(r.is_best for r in chain)) for chain in chains]
        else:
            # One name for all continuations of a context: those of one length are compared on the same masked sets.
            names = [(self.name, request.args[0]) for request in requests]
            estimates = self.elbo(rows, samples=int(samples), names=names)
            onepass = likelihood.onepass_readings(self.network, rows, forward=self._read_masked)
            found = [(e.value, all(r.is_best for r in o)) for e, o in zip(estimates, onepass, strict=True)]
        for request, answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        raise HostError(
            f"{type(self).__name__} has no likelihood of running text: masked diffusion scores a gap of a known number of "
            "tokens. Use --model hf-scored for loglikelihood_rolling; multiple-choice tasks (loglikelihood) work here."
        )

    def _continuation(self, context: str, continuation: str) -> Row:
        # The harness's convention for all models: spaces at the end of a context belong to the continuation.
        bare = context.rstrip()
        middle = self.encoder.encode(context[len(bare) :] + continuation, opening=not bare)
        if len(middle) >= self.window:
            raise HostError(
                f"{self.name}: a continuation of {len(middle)} tokens does not fit the context of {self.window} tokens. "
                "Raise max_length, or choose a task with shorter answers."
            )
        kept = fit_window(self.encoder.encode(bare, opening=True), [], self.window - len(middle))
        return kept.prefix, middle, []

    def _read_masked(self, rows: Sequence[MaskedRow]) -> list[Sequence[Reading]]:
        return self._batcher.run(
            rows,
            lambda row: row.length,
            lambda batch: likelihood.read_masked(self.network, batch),
            title=f"{self.name}: scoring",
            quiet=self.rank > 0,
        )
