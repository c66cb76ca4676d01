"""The pipeline: ask every member, score every answer, keep one. Start reading here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lm_eval_ensemble.members.base import Member
from lm_eval_ensemble.scoring import DEFAULT_RULE, Scorers, score_all
from lm_eval_ensemble.selection import SELECTORS, Case
from lm_eval_ensemble.types import Candidate, Completion, InfillRequest, Scored, Selection, split_runs

__all__ = ["Settings", "run"]


@dataclass(frozen=True)
class Settings:
    """``rule`` names the score (lower wins), ``selector`` the function that compares, ``prefer`` the member that wins a
    tie, ``samples`` the number of candidates per member, ``seed`` the random stream of selectors that draw."""

    rule: str = DEFAULT_RULE
    selector: str = "argmin"
    prefer: str | None = None
    samples: int = 1
    seed: int = 0


def run(requests: Sequence[InfillRequest], members: Sequence[Member], scorers: Scorers, settings: Settings) -> list[Completion]:
    """Fill every gap.

    1. Ask the members that need nobody else, then those that want a partner's answer as a hint.
    2. Gather each request's candidates.
    3. Score every distinct (request, text) once, by every score the members can compute.
    4. Select one candidate per request, a pure function over the recorded scores.
    5. Return the winner's text with the whole record as its trace.
    """
    # 1) propose
    asked = [sample for request in requests for sample in _samples(request, settings.samples)]
    proposals: dict[str, list[Candidate]] = {}
    hints: list[str] | None = None
    for member in sorted(members, key=lambda m: m.wants_partner):
        hinted = [r.with_hint(h) for r, h in zip(asked, hints, strict=True)] if hints and member.wants_partner else asked
        proposals[member.name] = member.propose([replace(r, variant=v) for r in hinted for v in range(member.offers)])
        if hints is None and not member.wants_partner:
            hints = [candidate.text for candidate in proposals[member.name][:: member.offers]]

    # 2) gather, in the order the members were given
    gathered: list[tuple[Candidate, ...]] = []
    for i in range(len(requests)):
        found = []
        for member in members:
            each = settings.samples * member.offers
            own = proposals[member.name][i * each : (i + 1) * each]
            found += [replace(candidate, sample=k) for k, candidate in enumerate(own)]
        gathered.append(tuple(found))

    # 3) score
    pairs = [(request, c.text) for request, proposed in zip(requests, gathered, strict=True) for c in proposed]
    scores = iter(score_all(scorers, pairs, settings.rule))

    # 4) select, 5) return
    completions = []
    for request, proposed in zip(requests, gathered, strict=True):
        scored = tuple(Scored(candidate, next(scores)) for candidate in proposed)
        runs = []
        for part in split_runs(scored):
            case = Case(part, settings.rule, settings.prefer, request.prefix, request.suffix, request.key, settings.seed)
            winner, reason = SELECTORS[settings.selector](case)
            how = {"selector": settings.selector, "prefer": settings.prefer}
            runs.append(Selection(part, winner, reason, settings.rule, how))
        completions.append(Completion(runs[0].chosen.text, runs[0], tuple(runs)))
    return completions


def _samples(request: InfillRequest, count: int) -> list[InfillRequest]:
    """``count`` requests with random streams of their own; repeats of a document stay apart."""
    return [replace(request, sample=request.sample * count + k) for k in range(count)]
