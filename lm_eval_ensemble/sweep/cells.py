"""From a grid to its cells: every combination as the complete configuration of one run of lm_eval."""

from __future__ import annotations

import copy
import fnmatch
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lm_eval_ensemble.config import DIFFUSION, ENSEMBLE, SCORED, asset_path
from lm_eval_ensemble.errors import ConfigError, did_you_mean
from lm_eval_ensemble.sweep.files import read_json, write_text
from lm_eval_ensemble.sweep.grid import RESERVED, Grid, ModelEntry

__all__ = ["Cell", "Override", "chosen", "make_cells"]

#: what lm_eval names the folder of a run after, in its order.
NAMING = ("peft", "delta", "pretrained", "model", "path", "engine")
_OURS = (ENSEMBLE, DIFFUSION, SCORED)
_SHORT = 40


@dataclass(frozen=True)
class Override:
    """A setting from outside the grid: the path in the configuration, its value, and where it was said."""

    path: tuple[str, ...]
    value: Any
    place: str


@dataclass(frozen=True)
class Cell:
    """One run. ``config`` is complete but for the folder it writes to; ``places`` say where each setting was written
    (dotted path -> file and path there); ``choices`` are its values on the axes of the grid, ``outside`` those of overrides."""

    model: str
    task: str
    choices: tuple[tuple[str, Any], ...]
    config: Mapping[str, Any]
    places: Mapping[str, str] = field(compare=False, repr=False)
    outside: tuple[tuple[str, Any], ...] = ()

    @property
    def digest(self) -> str:
        """Names the configuration: any change of any setting gives another."""
        text = json.dumps(self.config, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def differs(self) -> str:
        """Its choices for people."""
        return ", ".join(f"{name}={_shown(value)}" for name, value in self.choices)

    @property
    def label(self) -> str:
        """Names it in tables, where the task stands elsewhere. With what was overridden: a folder may hold a quick look
        (``--limit``) beside the whole."""
        return " ".join([self.model, *(f"{name}={_shown(value)}" for name, value in (*self.choices, *self.outside))])

    @property
    def name(self) -> str:
        """One word, safe in file names."""
        parts = [self.model, *(f"{name}={_shown(value)}" for name, value in self.choices), self.task]
        return "__".join(re.sub(r"[^A-Za-z0-9_.+=-]+", "-", part)[: 2 * _SHORT] for part in parts)[:160]

    @property
    def folder_name(self) -> str:
        return f"{self.name}__{self.digest}"

    def folder(self, output: Path) -> Path:
        return output / self.folder_name

    def resolved(self, output: Path) -> dict[str, Any]:
        """What lm_eval gets: with its folder, and with paths for models that do not know ``asset:``."""
        folder = self.folder(output).resolve()
        found = {**self.config, "output_path": str(folder)}
        if found.get("use_cache") is True:
            found["use_cache"] = str(folder / "answers")
        elif found.get("use_cache") is False:
            del found["use_cache"]
        if found["model"] not in _OURS:
            arguments = found["model_args"].items()
            found["model_args"] = {k: asset_path(v) if isinstance(v, str) else v for k, v in arguments}
        return found

    def write(self, output: Path) -> Path:
        """The configuration as a file: ``lm_eval --config FILE`` runs it."""
        path = self.folder(output) / "config.yaml"
        text = self._text(output)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
        return path

    def edited(self, output: Path) -> Path | None:
        """The configuration on disk, if somebody changed it by hand: it is not what the cell was run with."""
        path = self.folder(output) / "config.yaml"
        try:
            return None if yaml.safe_load(path.read_text(encoding="utf-8")) == yaml.safe_load(self._text(output)) else path
        except FileNotFoundError:
            return None
        except (OSError, ValueError, yaml.YAMLError):
            return path

    def _text(self, output: Path) -> str:
        return yaml.safe_dump(self.resolved(output), sort_keys=False, allow_unicode=True)

    def record(self, output: Path) -> dict[str, Any]:
        """What is known of its runs."""
        return read_json(self.folder(output) / "cell.json")


def make_cells(grid: Grid, overrides: Sequence[Override] = ()) -> list[Cell]:
    """Every combination that is not left out, model by model.

    :raises ConfigError: two cells are the same run, an axis is none, or an exclusion excludes nothing.
    """
    faults: list[str] = []
    cells: list[Cell] = []
    excluded = [0] * len(grid.file.exclude)
    faults += _exclusion_faults(grid)
    for entry, place in zip(grid.models, grid.places, strict=True):
        axes = {**grid.file.grid, **entry.grid}
        shorts = _short_names(axes)
        for values in itertools.product(*axes.values()):
            chosen_values = dict(zip(axes, values, strict=True))
            for task in grid.file.tasks:
                hits = [i for i, rule in enumerate(grid.file.exclude) if _excludes(rule, entry.name, task, chosen_values)]
                for i in hits:
                    excluded[i] += 1
                if not hits:
                    cells.append(_cell(grid, entry, place, task, chosen_values, shorts, overrides, faults))
    faults += [
        f"{grid.path}: $.exclude[{i}]: leaves nothing out; no combination has all of it."
        for i, count in enumerate(excluded)
        if not count and not faults
    ]
    if not cells:
        faults.append(f"{grid.path}: $.exclude: nothing is left.")
    faults += _same(grid, cells, overrides)
    if faults:
        raise ConfigError("\n".join(dict.fromkeys(faults)))
    return cells


def chosen(cells: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """The cells whose name matches one of the patterns (``*`` and ``?``; a bare word also inside a name).

    :raises ConfigError: a pattern matches nothing.
    """
    if not patterns:
        return list(cells)
    for pattern in patterns:
        if not any(_fits(cell, pattern) for cell in cells):
            raise ConfigError(f"--only {pattern}: no cell.{did_you_mean(pattern, [cell.name for cell in cells])}")
    return [cell for cell in cells if any(_fits(cell, pattern) for pattern in patterns)]


def _fits(cell: Cell, pattern: str) -> bool:
    whole = any(c in pattern for c in "*?[")
    return fnmatch.fnmatchcase(cell.name, pattern) or (not whole and pattern in cell.folder_name)


def _cell(
    grid: Grid,
    entry: ModelEntry,
    place: tuple[str, str],
    task: str,
    axes: Mapping[str, Any],
    shorts: Mapping[str, str],
    overrides: Sequence[Override],
    faults: list[str],
) -> Cell:
    config: dict[str, Any] = {}
    places: dict[str, str] = {}
    for path, value in _leaves(grid.file.defaults):
        _put(config, path, value, f"{grid.path}: $.defaults.{'.'.join(path)}", places, faults)
    for path, value in _leaves(entry.settings):
        _put(config, path, value, f"{place[0]}: {place[1]}.{'.'.join(path)}", places, faults)
    for name, value in axes.items():
        owner = f"{place[0]}: {place[1]}.grid" if name in entry.grid else f"{grid.path}: $.grid"
        if (first := name.split(".")[0]) in RESERVED:
            faults.append(f"{owner}.{name}: not an axis; {RESERVED[first]}.")
        for path, leaf in _leaves_of(value, tuple(name.split("."))):
            _put(config, path, leaf, f"{owner}.{'.'.join(path)}", places, faults)
    for override in overrides:
        for path, leaf in _leaves_of(override.value, override.path):
            _put(config, path, leaf, override.place, places, faults)
    if not isinstance(config.get("model"), str):
        faults.append(f"{place[0]}: {place[1]}.model: missing, expected a model of lm_eval such as hf or ensemble-ppl.")
    arguments = config.setdefault("model_args", {})
    if isinstance(arguments, dict) and config.get("model") in _OURS and not any(name in arguments for name in NAMING):
        # Beside a preset it is only the label of the output folder; without one lm_eval invents a random name.
        arguments["pretrained"] = entry.name
    config.setdefault("log_samples", True)
    ordered: dict[str, Any] = {key: config[key] for key in ("model", "model_args") if key in config}
    config = {**ordered, "tasks": [task], **{k: v for k, v in config.items() if k not in ordered}}
    choices = tuple((shorts[name], value) for name, value in axes.items())
    outside = tuple((override.path[-1], override.value) for override in overrides)
    return Cell(entry.name, task, choices, config, {"tasks": f"{grid.path}: $.tasks", **places}, outside)


def _leaves(settings: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in settings.items():
        yield from _leaves_of(value, (*above, str(key)))


def _leaves_of(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping) and value:
        yield from _leaves(value, path)
    else:
        yield path, value


def _put(
    config: dict[str, Any], path: tuple[str, ...], value: Any, place: str, places: dict[str, str], faults: list[str]
) -> None:
    here = config
    for depth, part in enumerate(path[:-1]):
        inner = here.get(part)
        if inner is None or (not isinstance(inner, dict) and depth):
            inner = here[part] = {}
        elif not isinstance(inner, dict):
            faults.append(f"{place}: {part} is {inner!r}, which has no settings inside.")
            return
        here = inner
    if not (value == {} and isinstance(here.get(path[-1]), dict)):
        here[path[-1]] = copy.deepcopy(value)  # what one cell adds to it is not for the others
    places[".".join(path)] = place
    for depth in range(1, len(path)):
        inner = ".".join(path[depth:])
        places.setdefault(".".join(path[:depth]), place.removesuffix(f".{inner}"))


def _short_names(axes: Mapping[str, Any]) -> dict[str, str]:
    """``temperature`` for ``model_args.temperature``, unless another axis ends alike."""
    ends = [name.rpartition(".")[2] for name in axes]
    return {name: end if ends.count(end) == 1 else name for name, end in zip(axes, ends, strict=True)}


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    if len(text) <= _SHORT:
        return text
    return f"{text[: _SHORT - 9]}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _exclusion_faults(grid: Grid) -> Iterator[str]:
    known = {"model", "task", *grid.file.grid, *(name for entry in grid.models for name in entry.grid)}
    for i, rule in enumerate(grid.file.exclude):
        if not rule:
            yield f"{grid.path}: $.exclude[{i}]: empty, which would leave out everything."
        for name in rule:
            if name not in known:
                yield f"{grid.path}: $.exclude[{i}].{name}: not an axis.{did_you_mean(str(name), known)}"


def _excludes(rule: Mapping[str, Any], model: str, task: str, axes: Mapping[str, Any]) -> bool:
    """Whether a combination has all that the rule names; a list stands for any of its values."""
    for name, wanted in rule.items():
        values = wanted if isinstance(wanted, list) else [wanted]
        if name in ("model", "task"):
            own = model if name == "model" else task
            if not any(fnmatch.fnmatchcase(own, str(value)) for value in values):
                return False
        elif name not in axes or axes[name] not in values:
            return False
    return True


def _same(grid: Grid, cells: Sequence[Cell], overrides: Sequence[Override]) -> Iterator[str]:
    seen: dict[str, Cell] = {}
    for cell in cells:
        first = seen.setdefault(cell.digest, cell)
        if first is not cell:
            why = f" ({', '.join(o.place for o in overrides)} may set what an axis varies)" if overrides else ""
            yield f"{grid.path}: {first.name} and {cell.name} are the same run{why}; they must differ in a setting."
