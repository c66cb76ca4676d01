"""A score of the user's own: a file with one value per document, or a function of the record of an answer."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_ensemble.errors import ConfigError, DataError
from lm_eval_ensemble.values import function_of

if TYPE_CHECKING:
    from lm_eval_ensemble.uncertainty.answers import Answers

__all__ = ["OwnScore", "own_scores"]


@dataclass(frozen=True)
class OwnScore:
    """``values(answers)`` gives one value per answer, higher = less certain, None where there is none."""

    name: str
    spec: str
    values: Callable[[Answers], list[float | None]]
    one_run: bool = False


def own_scores(specs: Sequence[str]) -> tuple[OwnScore, ...]:
    """The scores that ``--score`` names: ``FILE.csv`` (columns ``document`` and ``value``) or ``module:function``.

    :raises ConfigError: no such file or function, or two scores of one name.
    :raises DataError: the file is of another form.
    """
    found = tuple(_of_file(Path(spec)) if spec.endswith(".csv") else _of_function(spec) for spec in specs)
    for i, own in enumerate(found):
        if own.name in {other.name for other in found[:i]}:
            raise ConfigError(f"--score {own.spec}: a score {own.name!r} was given before; call one of them by another name.")
    return found


def _of_function(spec: str) -> OwnScore:
    function = function_of(spec, "--score")

    def values(answers: Answers) -> list[float | None]:
        column = []
        for number, record in enumerate(answers.records):
            try:
                value = function(record)
                column.append(None if value is None else float(value))
            except Exception as error:  # somebody else's code fails in every way there is
                raise DataError(
                    f"--score {spec}: {type(error).__name__}: {error}, for answer {number} of {answers.path}; expected a "
                    "function of a record that returns a number (higher = less certain) or None."
                ) from error
        return column

    return OwnScore(spec.partition(":")[2], spec, values)


def _of_file(path: Path) -> OwnScore:
    known = _read(path)

    def values(answers: Answers) -> list[float | None]:
        if not answers.docs:
            raise DataError(f"--score {path}: {answers.path} tells no names of its documents.")
        # By lm_eval's number, or by the name that the data set gives them: whichever more rows of the file are.
        kinds = [[names[-1] for names in answers.docs], [names[0] for names in answers.docs]]
        names = max(kinds, key=lambda own: len(known.keys() & set(own)))
        if not known.keys() & set(names):
            raise DataError(
                f"--score {path}: none of its {len(known)} documents (the first: {next(iter(known))!r}) is one of "
                f"{answers.path}; expected its numbers (doc_id, as {kinds[1][0]}) or names (task_id, as {kinds[0][0]!r})."
            )
        if strange := [name for name in known if name not in set(names)]:
            raise DataError(
                f"--score {path}: {len(strange)} of its {len(known)} documents (the first: {strange[0]!r}) are none of "
                f"{answers.path}: it is of another run."
            )
        return [known.get(name) for name in names]

    return OwnScore(path.stem, str(path), values, one_run=True)


def _read(path: Path) -> dict[str, float | None]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"--score {path}: cannot be read ({error}); expected a CSV file with document and value.") from None
    if not rows or not {"document", "value"} <= rows[0].keys():
        found = ", ".join(map(str, rows[0])) if rows else "no rows"
        raise DataError(f"--score {path}: found {found}; expected a line document,value and one line per document.")
    known: dict[str, float | None] = {}
    for line, row in enumerate(rows, start=2):
        name = str(row["document"] or "").strip()
        if not name or name in known:
            raise DataError(f"--score {path}, line {line}: " + (f"{name!r} stands there again." if name else "no document."))
        known[name] = _number(row["value"], path, line)
    return known


def _number(text: Any, path: Path, line: int) -> float | None:
    """None for an empty cell; NaN and infinity are told with all others of the score."""
    if not str(text or "").strip():
        return None
    try:
        return float(text)
    except ValueError:
        raise DataError(f"--score {path}, line {line}: value is {text!r}, expected a number, or nothing.") from None
