"""What a model thought of the tokens it generated: raw log-probabilities, beside transformers' own ``generate``.

``generate`` shows a logits processor the scores *after* the penalties of a checkpoint's generation config (a repetition penalty
of 1.05 ships with some instruction-tuned models) and, when it samples, before its warpers. What is recorded here comes from the
model's output itself, read by a forward hook: untempered, unpenalised, float32.

Memory is one row of logits, ``(B, V)``, however long the answers are. Letters: B = rows, V = vocabulary, K = alternatives.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from lm_eval_ensemble.sampling import draw, nucleus
from lm_eval_ensemble.tokens import PlainEncoder, count_within
from lm_eval_ensemble.types import Cut

__all__ = ["Answer", "Detail", "Ending", "Recorder", "Step", "read_answer"]

#: a first line, its end, and something behind it.
_DECIDED = re.compile(r"\S[^\n]*\n\s*[^\s\ufffd]")
#: a text that reaches over the end of a line.
_LINE = re.compile(r"\S[^\n]*\n")

#: elements of the vocabulary that are worked on at once: temporary rows stay small beside the logits themselves.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Detail:
    """What is recorded beside the log-probability: nothing, the entropy of the whole distribution, or that of the best K
    tokens (a lower bound, as their probabilities are not renormalised)."""

    top: int | None = None

    @classmethod
    def parse(cls, record: str | None) -> Detail | None:
        """``entropy`` or ``topk:K``, as ``ScoredConfig.record`` has checked."""
        if record is None:
            return None
        return cls(int(record.partition(":")[2])) if record.startswith("topk") else cls()

    @property
    def kind(self) -> str:
        return "full" if self.top is None else f"topk:{self.top}"


@dataclass(frozen=True)
class Step:
    """One generated token: log-probability (nats), and on request entropy (nats) and margin (p1 - p2); ``closing`` is the
    log-probability that the token which ends an answer had in its place."""

    logprob: float
    entropy: float | None = None
    margin: float | None = None
    closing: float | None = None


class Recorder(LogitsProcessor):  # type: ignore[misc]
    """Chooses the next token of every row and records its raw log-probability. Use as a context around ``generate``.

    Greedy rows leave the choice to ``generate`` (which is told not to sample); with ``uniforms`` ``(B, steps)`` the choice is
    made here by inverse transform, since sampling of its own would draw all rows from one stream. ``closing_id``: the token
    whose log-probability is recorded at every step beside that of the token chosen.
    """

    def __init__(
        self, model: Any, temperature: float = 0.0, top_p: float = 1.0, uniforms: torch.Tensor | None = None,
        detail: Detail | None = None, closing_id: int | None = None,
    ) -> None:  # fmt: skip
        # The hook must sit on the module whose forward `generate` calls; adapters wrap it.
        self._module = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.temperature, self.top_p, self.uniforms, self.detail = temperature, top_p, uniforms, detail
        self.closing_id = closing_id
        self._seen: torch.Tensor | None = None
        self._raw: torch.Tensor | None = None
        # All steps in one block, which grows rarely: a small tensor left behind by every step would split the heap between the
        # large ones, and the process would grow by half a row of logits a step.
        self._measured = torch.empty(0)
        self._done = 0
        self._steps = 0
        #: False if the model's own output could not be seen, so that the scores of ``generate`` were recorded.
        self.raw = True

    def __enter__(self) -> Recorder:
        self._hook = self._module.register_forward_hook(self._see)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._hook.remove()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """``scores`` ``(B, V)`` as processed by ``generate``; returns what it chooses the best token from."""
        if self._raw is not None:
            self._measure(input_ids[:, -1])
        seen, self._seen = self._seen, None
        self.raw = self.raw and seen is not None and seen.shape == scores.shape
        self._raw = seen.to(scores.device) if seen is not None and seen.shape == scores.shape else scores
        # `generate` may run one step more than it keeps; what that one draws does not matter.
        step = min(self._steps, self.uniforms.shape[1] - 1) if self.uniforms is not None else 0
        self._steps += 1
        if self.uniforms is None:
            return scores
        chosen, _, _ = draw(nucleus(scores, self.temperature, self.top_p), self.uniforms[:, step].to(scores.device))
        return torch.full_like(scores, float("-inf")).scatter_(1, chosen[:, None], 0.0)

    def finish(self, generated: torch.Tensor) -> list[list[Step]]:
        """The steps of every row.

        :param generated: ``(B, T)``, the new tokens. ``generate`` may have run one step more than it kept.
        """
        if self._raw is not None and self._done < generated.shape[1]:
            self._measure(generated[:, self._done])
        self._raw = self._seen = None
        rows = self._measured[: generated.shape[1]].transpose(0, 1).tolist()
        return [[self._step(values) for values in row] for row in rows]

    def _step(self, values: Sequence[float]) -> Step:
        entropy, margin = (None, None) if self.detail is None else values[1:3]
        return Step(values[0], entropy, margin, None if self.closing_id is None else values[-1])

    def _see(self, module: Any, arguments: Any, output: Any) -> None:
        logits = getattr(output, "logits", None)
        if logits is not None:
            # A view of a whole prompt's logits would keep all of them alive.
            self._seen = logits[:, -1] if logits.shape[1] == 1 else logits[:, -1].clone()

    def _measure(self, tokens: torch.Tensor) -> None:
        assert self._raw is not None
        raw, self._raw = self._raw, None
        size = max(_CHUNK // raw.shape[-1], 1)
        pieces = [
            _measured(raw[i : i + size], tokens[i : i + size], self.detail, self.closing_id) for i in range(0, len(raw), size)
        ]
        if self._done >= len(self._measured):
            room = torch.empty(max(256, len(self._measured)), len(tokens), pieces[0].shape[1])
            room = room.to(pieces[0].device)
            self._measured = torch.cat([self._measured, room]) if self._done else room
        self._measured[self._done] = torch.cat(pieces)
        self._done += 1


def _measured(logits: torch.Tensor, tokens: torch.Tensor, detail: Detail | None, closing_id: int | None = None) -> torch.Tensor:
    """``(B, 1)``: log-probability of ``tokens`` ``(B,)`` under ``logits`` ``(B, V)``; with detail two columns more, and one
    more at the end for ``closing_id``.

    Shifted by the maximum before anything is summed, over a contiguous last dimension: confident tokens keep their digits.
    """
    shifted = logits.float().contiguous()
    shifted = shifted - shifted.amax(-1, keepdim=True)
    chosen = shifted.gather(-1, tokens.to(shifted.device)[:, None])[:, 0]
    closing = [] if closing_id is None else [shifted[:, closing_id].clone()]
    if detail is None:
        log_total = shifted.exp_().sum(-1, keepdim=True).log()
        return torch.stack([chosen, *closing], -1) - log_total
    width = min(detail.top or 2, shifted.shape[-1])
    best = shifted.topk(max(width, 2), -1).values if shifted.shape[-1] > 1 else shifted
    masses = shifted.exp()
    total = masses.sum(-1, keepdim=True)
    log_total = total.log()
    if detail.top is None:
        # A logit of minus infinity has no mass; its product must be 0, not NaN.
        entropy = log_total[:, 0] - (masses * shifted.clamp_min(-1e4)).sum(-1) / total[:, 0]
    else:
        top = best[:, :width] - log_total
        entropy = -(top.exp() * top).sum(-1)
    probabilities = (best - log_total).exp()
    margin = probabilities[:, 0] - (probabilities[:, 1] if best.shape[-1] > 1 else 0.0)
    return torch.stack([chosen - log_total[:, 0], entropy, margin, *(one - log_total[:, 0] for one in closing)], -1)


@dataclass(frozen=True)
class Answer:
    """The tokens before the stop, and how the answer ended: ``stop_token``, ``stop_string``, ``cut`` or ``length``.

    ``pieces`` joined are ``text``. ``straddle``: a stop string begins inside the last token, which counts in full.
    ``stop_logprob``: of the stop token, or of the tokens that complete the stop string; None where the answer was cut off at
    its full length or a straddling token holds a part of the stop. ``stop_id``: the stop token. ``after``: the step behind the
    last token of the answer, if there was one.
    """

    text: str
    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    steps: tuple[Step, ...]
    stop: str
    stop_logprob: float | None = None
    straddle: bool = False
    stop_id: int | None = None
    after: Step | None = None

    @property
    def logprobs(self) -> tuple[float, ...]:
        return tuple(step.logprob for step in self.steps)


def ends_at(text: str, cut: Cut, until: Sequence[str]) -> int | None:
    """How much of a growing text decides what the cut rule keeps of it, and that it drops something; None: not yet.

    A line is decided by its end, and something is dropped as soon as anything but space follows. What comes later changes
    neither the text after the cut nor anything that is told of the whole answer. (A character that is not complete yet reads
    as U+FFFD and decides nothing. A stop that holds a whole line could still take the line away: then nothing is decided.)
    """
    if cut != "line" or any(_LINE.search(stop) for stop in until):
        return None
    found = _DECIDED.search(text)
    return found.end() if found else None


class Ending(StoppingCriteria):  # type: ignore[misc]
    """Ends the rows of a batch that ``generate`` need not continue, by the rules of ``read_answer``.

    :param width: columns of the prompt. ``spare``: end the batch once no more than half of its rows (two at least) go on, so
        that the others can be dropped from it. ``done`` says which rows have ended.
    """

    def __init__(
        self, encoder: PlainEncoder, rows: int, width: int, stops: set[int], until: Sequence[str], opening: bool, cut: Cut,
        spare: bool,
    ) -> None:  # fmt: skip
        self.encoder, self.width, self.stops, self.until = encoder, width, stops, [stop for stop in until if stop]
        self.opening, self.cut, self.spare = opening, cut, spare
        self.done = [False] * rows
        # A stop ends in the newest token. Most characters take one token or less, none takes more than four.
        self._tail = 4 * max(map(len, self.until), default=0) + 8

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        for row, ids in enumerate(input_ids[:, self.width :].tolist()):
            self.done[row] = self.done[row] or ids[-1] in self.stops or self._complete(ids)
        left = self.done.count(False)
        over = self.spare and 2 <= 2 * left <= len(self.done)
        return torch.tensor([done or over for done in self.done], device=input_ids.device)

    def _complete(self, ids: Sequence[int]) -> bool:
        if self.cut != "none" and ends_at(self.encoder.decode(ids, self.opening), self.cut, self.until) is not None:
            return True
        # The tail is looked at first: to decode all of a long answer at every step takes long.
        tails = (ids[-self._tail :], ids) if self.until else ()
        return bool(tails) and all(self._holds_stop(self.encoder.decode(tail, self.opening)) for tail in tails)

    def _holds_stop(self, text: str) -> bool:
        return any(stop in text for stop in self.until)


def read_answer(
    encoder: PlainEncoder,
    ids: Sequence[int],
    steps: Sequence[Step],
    stops: set[int],
    until: Sequence[str] = (),
    opening: bool = False,
    cut: Cut = "none",
) -> Answer:
    """What of the generated ``ids`` is the answer. Rows of a batch go on until the last one is done, so there may be more.

    :param stops: ids that end an answer; ``until``: texts that do. Whichever comes first.
    :param opening: see ``PlainEncoder.decode``.
    :param cut: the rule that will be applied to the text; see ``ends_at``.
    """
    end = next((i for i, token in enumerate(ids) if token in stops), len(ids))
    pieces = encoder.pieces(ids[:end], opening)
    text = "".join(pieces)
    # Of several stops at one place the shortest is complete first.
    found = min(((text.find(stop), len(stop)) for stop in until if stop and stop in text), default=None)
    decided = ends_at(text, cut, until)
    if decided is not None and (found is None or decided < sum(found)):
        kept = count_within(pieces, decided)
        shown, after = pieces[:kept], steps[kept] if kept < len(steps) else None
        return Answer("".join(shown), tuple(ids[:kept]), tuple(shown), tuple(steps[:kept]), "cut", after=after)
    if found is None:
        kept_all = (text, tuple(ids[:end]), tuple(pieces), tuple(steps[:end]))
        if end == len(ids):
            return Answer(*kept_all, "length")
        return Answer(*kept_all, "stop_token", steps[end].logprob, stop_id=ids[end], after=steps[end])
    at, size = found
    kept, completed = count_within(pieces, at), count_within(pieces, at + size)
    straddle = sum(map(len, pieces[:kept])) > at
    shown = list(pieces[:kept])
    if straddle:
        shown[-1] = shown[-1][: at - sum(map(len, shown))]
    log_stop = None if straddle else sum(step.logprob for step in steps[kept:completed])
    told = (tuple(ids[:kept]), tuple(shown), tuple(steps[:kept]), "stop_string", log_stop, straddle)
    return Answer(text[:at], *told, after=steps[kept] if kept < len(steps) else None)
