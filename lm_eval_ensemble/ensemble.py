"""The pipeline: ask every member, score every answer, keep one. Start reading here."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from lm_eval_ensemble.members.base import Member
from lm_eval_ensemble.scoring import DEFAULT_RULE, Scorers, score_all
from lm_eval_ensemble.selection import Case, make_selector
from lm_eval_ensemble.selection.routing import parse_route
from lm_eval_ensemble.types import RUN, Candidate, Completion, InfillRequest, Scored, Selection, split_runs

__all__ = ["Settings", "by_device", "run", "score_candidates"]

#: what members proposed: member -> number of the gap -> its candidates.
Proposals = dict[str, dict[int, list[Candidate]]]
Ask = Callable[[Member, Sequence[InfillRequest]], list[Candidate]]


@dataclass(frozen=True)
class Settings:
    """``rule`` names the score (lower wins), ``selector`` the function that compares and ``selector_file`` what it was fitted
    to, ``prefer`` the member that wins a tie, ``samples`` the number of candidates per member, ``seed`` the random stream of
    selectors that draw. ``route`` is a rule that picks one member per gap before anything is generated; ``concurrent`` lets
    members on different devices work at the same time. ``extra_scores`` are further scores to record, ``token_scores`` says
    whether to record those of single tokens."""

    rule: str = DEFAULT_RULE
    selector: str = "argmin"
    selector_file: str | None = None
    prefer: str | None = None
    samples: int = 1
    seed: int = 0
    route: str | None = None
    concurrent: bool = True
    extra_scores: str = ""
    token_scores: bool = False


def propose(member: Member, requests: Sequence[InfillRequest]) -> list[Candidate]:
    """What the member proposes now."""
    return member.propose(requests)


def run(
    requests: Sequence[InfillRequest],
    members: Sequence[Member],
    scorers: Scorers,
    settings: Settings,
    ask: Ask = propose,
) -> list[Completion]:
    """Fill every gap.

    1. Route: which members are asked for which gap (all of them, unless there is a rule).
    2. Ask the members that need nobody else, then those that want a partner's answer as a hint.
    3. Gather each request's candidates, in the order the members were given.
    4. Score every distinct (request, text) once, by every score the members can compute.
    5. Select one candidate per request, a pure function over the recorded scores.
    6. Return the winner's text with the whole record as its trace.

    :param ask: how a member is asked, where some of its candidates are known already, say.
    """
    # 1) route
    names = [member.name for member in members]
    select = make_selector(settings.selector, settings.selector_file, names)
    router = parse_route(settings.route, names) if settings.route else None
    routed = [[router.choose(request)] if router else names for request in requests]

    # 2) propose
    proposals: Proposals = {}
    for needy in (False, True):
        asked = [member for member in members if member.wants_partner == needy]
        hints = _hints(proposals, names, settings.samples) if needy else {}
        fill = functools.partial(_fill, proposals, requests, routed, hints, settings.samples, ask)
        _side_by_side(by_device(asked) if settings.concurrent else [asked], fill)

    # 3) gather
    gathered = [tuple(c for name in names for c in proposals[name].get(i, ())) for i in range(len(requests))]

    # 4) score
    pairs = [(request, c) for request, proposed in zip(requests, gathered, strict=True) for c in proposed]
    found = iter(score_candidates(scorers, pairs, settings))

    # 5) select, 6) return
    how = {"selector": settings.selector, "prefer": settings.prefer, **({"route": settings.route} if router else {})}
    completions = []
    for request, proposed in zip(requests, gathered, strict=True):
        runs = []
        for part in split_runs([next(found) for _ in proposed]):
            case = Case(part, settings.rule, settings.prefer, request.prefix, request.suffix, request.key, settings.seed)
            winner, reason = select(case)
            runs.append(Selection(part, winner, reason, settings.rule, how))
        completions.append(Completion(runs[0].chosen.text, runs[0], tuple(runs)))
    return completions


def _fill(
    proposals: Proposals,
    requests: Sequence[InfillRequest],
    routed: Sequence[Sequence[str]],
    hints: Mapping[tuple[int, int], str],
    count: int,
    ask: Ask,
    member: Member,
) -> None:
    """A member's candidates for the gaps routed to it. Every sample has a random stream of its own, and repeats of a
    document stay apart."""
    gaps = [i for i, chosen in enumerate(routed) if member.name in chosen]
    asked = [
        replace(requests[i], sample=requests[i].sample * count + k, variant=v, hint=hints.get((i, k), requests[i].hint))
        for i in gaps
        for k in range(count)
        for v in range(member.offers)
    ]
    found = ask(member, asked) if asked else []
    each = count * member.offers
    proposals[member.name] = {
        i: [replace(c, sample=n) for n, c in enumerate(found[j * each : (j + 1) * each])] for j, i in enumerate(gaps)
    }


def _hints(proposals: Proposals, names: Sequence[str], count: int) -> dict[tuple[int, int], str]:
    """(gap, sample) -> the text of the first member that answered, its first variant.

    A fill of one run (``length=fixed-mean``) is nobody's hint: the answer to it would stand beside the fills of all runs.
    """
    hints: dict[tuple[int, int], str] = {}
    for name in (name for name in names if name in proposals):
        for gap, candidates in proposals[name].items():
            for k, first in enumerate(candidates[:: len(candidates) // count]):
                if RUN not in first.info:
                    hints.setdefault((gap, k), first.text)
    return hints


def by_device(members: Sequence[Member]) -> list[list[Member]]:
    """Members that share a device work one after another, the groups at the same time. Members that do not say where they
    run share a group."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        device = str(member.device)
        groups.setdefault({"cuda": "cuda:0", "cpu:0": "cpu"}.get(device, device), []).append(member)
    return list(groups.values())


def _side_by_side(groups: Sequence[Sequence[Member]], fill: Callable[[Member], None]) -> None:
    """``fill`` for the members of each group in turn, the groups in threads of their own; the first error is raised when
    all groups have ended."""
    errors: list[Exception] = []

    def work(group: Sequence[Member]) -> None:
        try:
            for member in group:
                fill(member)
        except Exception as error:
            errors.append(error)

    # Daemons, so that an interrupt of the main thread ends the program.
    threads = [threading.Thread(target=work, args=(group,), daemon=True) for group in groups[1:]]
    for thread in threads:
        thread.start()
    work(groups[0] if groups else ())
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def score_candidates(
    scorers: Scorers, pairs: Sequence[tuple[InfillRequest, Candidate]], settings: Settings, *, foreign: bool = False
) -> list[Scored]:
    """Every candidate with all the scores the settings ask for, in order.

    :param foreign: the candidates come from elsewhere: a member of the same name may be another model, so no model takes what
        was recorded for its own.
    """
    sheets = score_all(
        scorers,
        [(request, candidate.text) for request, candidate in pairs],
        settings.rule,
        extra=settings.extra_scores,
        token_scores=settings.token_scores,
        written=None if foreign else [candidate for _, candidate in pairs],
    )
    return [Scored(c, sheet.values, facts=sheet.facts) for (_, c), sheet in zip(pairs, sheets, strict=True)]
