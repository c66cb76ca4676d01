"""Scoring candidates: which passes a run needs, each run once per distinct candidate, and every score they give."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lm_eval_ensemble.scoring.base import Model, Pass, Scorers, Statistic
from lm_eval_ensemble.scoring.passes import PassJob, run_pass
from lm_eval_ensemble.scoring.rules import Term, apply_rule, parse_rule, parse_terms
from lm_eval_ensemble.scoring.scores import SCORES
from lm_eval_ensemble.types import Candidate, InfillRequest

__all__ = ["Pair", "Sheet", "check_terms", "score_all"]

logger = logging.getLogger(__name__)

Pair = tuple[InfillRequest, str]
#: a pass and the model that runs it (None: the model of plain names).
_Run = tuple[Pass, str | None]


@dataclass(frozen=True, slots=True)
class Sheet:
    """What is known about one candidate.

    ``values``: score name -> number (lower is better), None where undefined; the rule's value under the rule's name.
    ``facts``, as JSON: ``bytes`` (UTF-8, of the text); ``score_tokens``, what each mean was divided by, so that sums can be had
    from means; ``stderr`` of estimates, in the score's unit; ``token_scores`` on request, per pass the log-probabilities of
    ``middle``, ``after`` and ``end``.
    """

    values: Mapping[str, float | None]
    facts: Mapping[str, Any] = field(default_factory=dict)


def score_all(
    scorers: Scorers,
    pairs: Sequence[Pair],
    rule: str,
    *,
    extra: str = "",
    token_scores: bool = False,
    written: Sequence[Candidate] | None = None,
) -> list[Sheet]:
    """Every score the passes of this run give, for every (request, text).

    The passes are those that ``rule`` and ``extra`` need. Each runs once per distinct pair, however many scores use it.

    :param extra: further scores, joined by ``+``.
    :param written: the candidates the texts come from, one per pair; a model then need not read its own again.
    :raises ConfigError: no model for a score.
    """
    terms = [*parse_rule(rule), *(parse_terms(extra, "extra_scores") if extra else ())]
    runs = _runs(scorers, terms)
    keys = [(request.prefix, request.suffix, text) for request, text in pairs]
    authors: dict[tuple[str, str, str], list[Candidate]] = {key: [] for key in keys}
    for key, candidate in zip(keys, written or (), strict=False):
        authors[key].append(candidate)
    requests = {key: request for key, (request, _) in zip(keys, pairs, strict=True)}
    jobs = [PassJob(requests[key], key[2], tuple(found)) for key, found in authors.items()]
    logger.debug("scoring %d distinct candidates of %d: %s", len(jobs), len(keys), ", ".join(map(_title, runs)))
    # All passes of a model together, for only one model may be in memory; the diffusion model first, which was asked last.
    order = list(dict.fromkeys(map(id, runs.values())))
    done = {run: run_pass(run[0], runs[run], jobs) for run in sorted(runs, key=lambda run: -order.index(id(runs[run])))}
    statistics = {run: done[run] for run in runs}
    sheets = {}
    for i, key in enumerate(authors):
        own = {run: found[i] for run, found in statistics.items()}
        values = _values(scorers, own, terms)
        values[rule] = apply_rule(values, rule)
        sheets[key] = Sheet(values, _facts(own, jobs[i].text, token_scores))
    return [sheets[key] for key in keys]


def check_terms(scorers: Scorers, *rules: str) -> None:
    """:raises ConfigError: a score without a model."""
    _runs(scorers, [term for rule in rules if rule for term in parse_terms(rule)])


def _runs(scorers: Scorers, terms: Sequence[Term]) -> dict[_Run, Model]:
    wanted: dict[_Run, Model] = {}
    for term in terms:
        for name in term.score.needs:
            label = scorers.label(name, term.scorer)
            wanted[name, label] = scorers.model(name, label)
    return wanted


def _values(scorers: Scorers, own: Mapping[_Run, Statistic | None], terms: Sequence[Term]) -> dict[str, float | None]:
    """Free scores of every pass that ran, and the scores that were asked for under the names that were typed."""
    values: dict[str, float | None] = {}
    for label in dict.fromkeys(label for _, label in own):
        for score in SCORES.values():
            if score.free and all((name, label) in own for name in score.needs):
                values[_named(score.name, label)] = _compute(score, own, label)
    for term in terms:
        values[term.name] = _compute(term.score, own, *(scorers.label(n, term.scorer) for n in term.score.needs[:1]))
    return values


def _compute(score: Any, own: Mapping[_Run, Statistic | None], label: str | None) -> float | None:
    statistics = [own[name, label] for name in score.needs]
    return None if any(statistic is None for statistic in statistics) else score.compute(*statistics)


def _facts(own: Mapping[_Run, Statistic | None], text: str, token_scores: bool) -> dict[str, Any]:
    divisors, errors, tokens = {}, {}, {}
    for (name, label), statistic in own.items():
        if statistic is None:
            continue
        for score in SCORES.values():
            if score.divisor and score.needs == (name,):
                divisors[_named(score.name, label)] = count = score.divisor(statistic)
                if statistic.stderr is not None:
                    errors[_named(score.name, label)] = statistic.stderr / count
        if token_scores and statistic.tokens is None:
            parts = {"middle": statistic.middle, "after": statistic.after, "end": statistic.end}
            tokens[_named(name, label)] = {part: list(found) for part, found in parts.items() if found}
    facts: dict[str, Any] = {"bytes": len(text.encode("utf-8", "surrogatepass")), "score_tokens": divisors}
    return {**facts, **({"stderr": errors} if errors else {}), **({"token_scores": tokens} if token_scores else {})}


def _named(name: str, label: str | None) -> str:
    return name if label is None else f"{name}@{label}"


def _title(run: _Run) -> str:
    return _named(*run)
