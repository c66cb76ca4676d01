"""What the learned selector may look at: at most six numbers per candidate, none of which knows the answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from lm_eval_ensemble.errors import ConfigError, did_you_mean
from lm_eval_ensemble.problems import compiles
from lm_eval_ensemble.selection.base import Case, score_of

__all__ = ["DEFAULT_FEATURES", "FORBIDDEN", "MOST", "TEXT_FEATURES", "check_features", "feature"]

MOST = 6
DEFAULT_FEATURES = ("fim", "onepass", "causal", "log_bytes", "compiles", "preferred")

#: name -> why it is refused.
FORBIDDEN = {
    "canonical_solution": "it is the answer",
    "reference": "it is the answer",
    "middle": "it is the answer",
    "target": "it is the answer",
    "oracle_length": "it is the length of the answer",
    "length": "under length=oracle it is the length of the answer",
    "length_agreement": "under length=oracle the diffusion member has the length of the answer, so agreement with it tells it",
    "row_forwards": "under length=oracle it follows the length of the answer",
    "verdict": "it is the outcome that is to be predicted",
    "right": "it is the outcome that is to be predicted",
    "why": "it is the outcome that is to be predicted",
    "task_id": "it names the document, whose answer could be learned by heart",
    "doc_id": "it names the document, whose answer could be learned by heart",
    "problem": "it names the program, whose answers could be learned by heart",
}


def _log_bytes(case: Case, index: int) -> float:
    return math.log1p(len(case.candidates[index].candidate.text.encode("utf-8", "surrogatepass")))


def _compiles(case: Case, index: int) -> float:
    return float(compiles(case.program(index)) is not False)


def _preferred(case: Case, index: int) -> float:
    return float(case.candidates[index].candidate.member == case.prefer)


def _repeats_line(case: Case, index: int) -> float:
    """1 if the text is the last line before the gap or the first one after it."""
    text = case.candidates[index].candidate.text.strip()
    before, after = case.prefix.rstrip().rpartition("\n")[2], case.suffix.lstrip().partition("\n")[0]
    return float(bool(text) and text in (before.strip(), after.strip()))


#: features that are no recorded score.
TEXT_FEATURES: dict[str, Callable[[Case, int], float]] = {
    "log_bytes": _log_bytes,
    "compiles": _compiles,
    "preferred": _preferred,
    "repeats_line": _repeats_line,
}


def feature(case: Case, index: int, name: str) -> float | None:
    """The number of one candidate: a text feature, or a recorded score (nats); None if undefined."""
    if name in TEXT_FEATURES:
        return TEXT_FEATURES[name](case, index)
    value = score_of(case.candidates[index], name)
    return value if value is None or math.isfinite(value) else None


def check_features(names: Iterable[str], scores: Iterable[str]) -> tuple[str, ...]:
    """The names, if they may be used.

    :param scores: the scores that are recorded.
    :raises ConfigError: a forbidden or unknown feature, one twice, or more than six.
    """
    found, known = tuple(names), {*TEXT_FEATURES, *scores}
    faults = []
    for name in found:
        if name in FORBIDDEN:
            faults.append(f"features: {name!r} is refused: {FORBIDDEN[name]}.")
        elif name not in known:
            faults.append(f"features: {name!r} is not a feature.{did_you_mean(name, known)}")
    if len(set(found)) != len(found):
        faults.append("features: each may be named once.")
    if not 1 <= len(found) <= MOST:
        faults.append(f"features: got {len(found)}, expected 1 to {MOST}: there are only a few hundred rows to learn from.")
    if faults:
        raise ConfigError("\n".join(faults))
    return found
