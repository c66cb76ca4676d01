"""A selector by its name: ``argmin``, ``margin:0.1``, ``argmin[fim]``, ``sequence:veto,agreement,margin:0.05``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from lm_eval_ensemble.config import Strict, parse_settings
from lm_eval_ensemble.errors import ConfigError, did_you_mean
from lm_eval_ensemble.selection.base import Selector
from lm_eval_ensemble.selection.consensus import SIMILARITIES, minimum_risk
from lm_eval_ensemble.selection.fitted import FITTED, Numbers, weighted
from lm_eval_ensemble.selection.rules import (
    Rule,
    always,
    argmin,
    deciding,
    inverse,
    longest,
    margin,
    random,
    scored_by,
    sequence,
    shortest,
)
from lm_eval_ensemble.selection.static import agreement, veto

__all__ = [
    "BOUNDS",
    "SELECTORS",
    "VERSION",
    "SelectorFile",
    "build",
    "make_selector",
    "needs_file",
    "read_scores",
    "read_selector_file",
    "spec_scores",
]

VERSION = 1
BOUNDS = ("oracle", "floor")
_WRITE = "`lm-eval-ensemble select RUN --fit FILE` writes one."
#: selectors by name. Those with an argument, a sequence or fitted numbers are made by ``make_selector``.
SELECTORS: dict[str, Selector] = {
    "argmin": argmin,
    "veto": sequence(veto),
    "agreement": sequence(agreement),
    "inverse": inverse,
    "random": random,
    "longest": longest,
    "shortest": shortest,
    "mbr": minimum_risk(),
}
_FILTERS: dict[str, Rule] = {"veto": veto, "agreement": agreement}
_STEP = re.compile(r"(?P<name>[a-z_]+)(?:\[(?P<score>[^\[\]]+)\])?(?::(?P<argument>.+))?")


class SelectorFile(Strict):
    """What ``lm-eval-ensemble select RUN --fit FILE`` writes. ``origin`` says what the numbers were fitted on."""

    version: Literal[1]
    origin: Annotated[dict[str, Any], Field(min_length=1)]
    numbers: Numbers


def read_selector_file(path: str | Path) -> SelectorFile:
    """:raises ConfigError: the file is missing, no JSON, of another version or incomplete."""
    place = f"selector_file={str(path)!r}"
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{place}: cannot be read ({error}). Write one with `lm-eval-ensemble select RUN --fit FILE`."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{place}: not JSON ({error}). Write it anew with `lm-eval-ensemble select RUN --fit FILE`."
        ) from None
    if not isinstance(found, dict):
        raise ConfigError(f"{place}: expected an object with version, origin and numbers, found {type(found).__name__}.")
    if found.get("version") != VERSION:
        raise ConfigError(f"{place}: version {found.get('version')!r}, expected {VERSION}. Fit it again with this release.")
    return parse_settings(SelectorFile, found, f"{place}: $")


def make_selector(spec: str, file: str | None = None, members: Sequence[str] = ()) -> Selector:
    """The selector a setting names.

    ``NAME``, ``NAME:ARGUMENT``, ``NAME[SCORE]`` (another score than the run's), or ``sequence:RULE,RULE,...`` (``/`` may
    stand for the comma, which ``--model_args`` takes for itself).

    :param file: the selector file that fitted selectors read their numbers from.
    :param members: names of the members, to find a misspelt ``always:NAME`` or a file fitted for others before anything is
        generated; empty if unknown.
    :raises ConfigError: unknown name, argument out of range, numbers missing.
    """
    numbers = read_selector_file(file).numbers if file is not None else None
    return build(spec, numbers, members)


def build(spec: str, numbers: Numbers | None, members: Sequence[str]) -> Selector:
    """``make_selector`` with the numbers in hand."""
    name, _, rest = spec.strip().partition(":")
    if name != "sequence":
        return _one(spec.strip(), numbers, members)
    steps = [step.strip() for step in re.split(r"[,/]", rest)]
    if not all(steps):
        raise ConfigError(f"selector={spec!r}: a rule is missing. Example: sequence:veto,agreement,margin:0.05")
    rules: list[Rule] = []
    for i, step in enumerate(steps):
        if step in _FILTERS:
            rules.append(_FILTERS[step])
            continue
        rules.append(deciding(_one(step, numbers, members)))
        if i < len(steps) - 1:
            raise ConfigError(
                f"selector={spec!r}: {step!r} always decides, so {steps[i + 1]!r} after it would never be asked. Only "
                f"{' and '.join(_FILTERS)} leave something open; put them first."
            )
    return sequence(*rules)


def _one(step: str, numbers: Numbers | None, members: Sequence[str]) -> Selector:
    if step in SELECTORS:
        return SELECTORS[step]
    found = _STEP.fullmatch(step)
    if step in BOUNDS:
        raise ConfigError(f"selector={step!r} needs the verdicts, which a run does not have; `select` shows both bounds.")
    names = {*SELECTORS, *FITTED, *_WITH_ARGUMENT, "sequence"}
    if not found or found["name"] not in names:
        name = found["name"] if found else step
        raise ConfigError(f"selector={step!r}: {name!r} is not a selector.{did_you_mean(name, names)}")
    name, score, argument = found["name"], found["score"], found["argument"]
    if name == "weighted":
        selector = weighted(_numbers(step, name, numbers, members), _weights(step, argument))
    elif argument is not None:
        if name not in _WITH_ARGUMENT:
            raise ConfigError(f"selector={step!r}: {name} takes no argument, found {argument!r}.")
        selector = _WITH_ARGUMENT[name](step, argument, members)
    elif name in FITTED:
        if score:
            raise ConfigError(f"selector={step!r}: the selector file says which score {name} compares; leave [{score}] out.")
        selector = FITTED[name][1](_numbers(step, name, numbers, members))
    elif name in SELECTORS:
        selector = SELECTORS[name]
    else:
        raise ConfigError(f"selector={step!r}: an argument is missing, e.g. {_EXAMPLES[name]}")
    return scored_by(selector, score) if score else selector


def _numbers(step: str, name: str, numbers: Numbers | None, members: Sequence[str]) -> Numbers:
    if numbers is None:
        also = " (or say how much: margin:0.1)" if name == "margin" else ""
        raise ConfigError(f"selector={step!r} was fitted before: give selector_file=FILE{also}. {_WRITE}")
    own = getattr(numbers, FITTED[name][0])
    if own is None:
        raise ConfigError(f"selector={step!r}: the selector file has no numbers for it ($.numbers.{FITTED[name][0]}).")
    if name in ("centred", "znorm", "calibrated"):
        for member in members:
            if member not in own:
                raise ConfigError(f"selector={step!r}: nothing was fitted for member {member!r}.{did_you_mean(member, own)}")
    return numbers


def _margin(step: str, argument: str, members: Sequence[str]) -> Selector:
    try:
        threshold = float(argument)
    except ValueError:
        threshold = math.nan
    if not 0 <= threshold < math.inf:
        raise ConfigError(f"selector={step!r}: got {argument!r}, expected nats >= 0, e.g. margin:0.1")
    return margin(threshold)


def _always(step: str, argument: str, members: Sequence[str]) -> Selector:
    if members and argument not in members:
        raise ConfigError(f"selector={step!r}: {argument!r} is not a member.{did_you_mean(argument, members)}")
    return always(argument)


def _mbr(step: str, argument: str, members: Sequence[str]) -> Selector:
    if argument not in SIMILARITIES:
        raise ConfigError(f"selector={step!r}: {argument!r} is not a similarity.{did_you_mean(argument, SIMILARITIES)}")
    return minimum_risk(argument)


_WITH_ARGUMENT: dict[str, Callable[[str, str, Sequence[str]], Selector]] = {"margin": _margin, "always": _always, "mbr": _mbr}
_EXAMPLES = {"always": "always:NAME of a member", "sequence": "sequence:veto,agreement,margin:0.05"}


def _weights(step: str, argument: str | None) -> dict[str, float] | None:
    """``fim=2+onepass=1``: a weight per score; without ``=`` it is 1."""
    if argument is None:
        return None
    weights = {}
    for part in argument.split("+"):
        name, given, number = part.strip().partition("=")
        try:
            weights[name] = float(number) if given else 1.0
        except ValueError:
            weights[name] = math.nan
        if not name or not 0 < weights[name] < math.inf:
            raise ConfigError(f"selector={step!r}: got {part!r}, expected SCORE=WEIGHT with a weight > 0, e.g. fim=2+onepass=1")
    return weights


def spec_scores(spec: str) -> tuple[str, ...]:
    """The scores that a selector's name mentions (``argmin[fim]``), for whoever knows which scores exist."""
    return tuple(dict.fromkeys(re.findall(r"\[([^\[\]]+)\]", spec)))


def read_scores(spec: str, file: str | None = None) -> tuple[str, ...]:
    """The scores that a selector reads beside the run's: those it names, and those its file was fitted to."""
    found = [*spec_scores(spec)]
    for step in re.split(r"[,/]", spec.strip().removeprefix("sequence:")):
        name, _, argument = step.strip().partition(":")
        if name == "weighted":
            found += _weights(step, argument or None) or {}
    if file is not None and needs_file(spec):
        numbers = read_selector_file(file).numbers
        fitted = {"weighted": numbers.scores, "learned": numbers.learned}
        found += [numbers.rule, *(name for kind, own in fitted.items() if kind in spec for name in own or {})]
    return tuple(dict.fromkeys(found))


def needs_file(spec: str) -> bool:
    """Whether the selector reads fitted numbers."""
    steps = re.split(r"[,/]", spec.strip().removeprefix("sequence:"))
    names = [step.strip().partition("[")[0] for step in steps]
    return any((name in FITTED and name not in SELECTORS) or name.startswith("weighted:") for name in names)
