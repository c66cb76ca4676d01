"""The grid file: which models, which tasks, which further settings. Strict: all its faults come in one message."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lm_eval_ensemble.errors import ConfigError, DataError, did_you_mean
from lm_eval_ensemble.faults import faults_of

__all__ = ["Grid", "GridFile", "ModelEntry", "find_grid", "grids_folder", "load_grid", "shipped_grids"]

#: settings that a cell gets from the sweep, whatever else is said.
RESERVED = {
    "tasks": "the grid's tasks: go there",
    "output_path": "every cell has a folder of its own",
    "config": "a cell is such a file",
}
_Axis = Annotated[tuple[Any, ...], Field(min_length=1)]


def _dotted(axes: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    for name, values in axes.items():
        if not all(name.split(".")):
            raise ValueError(f"dotted settings such as model_args.temperature (got {name!r})")
        if any(value in values[:i] for i, value in enumerate(values)):
            raise ValueError(f"values that differ ({name} has one twice)")
    return axes


class ModelEntry(BaseModel):
    """One model. What is not named here is a key of lm_eval's configuration, and comes before that of ``defaults``."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+=-]+$")]
    model: str | None = None
    model_args: dict[str, Any] = {}
    grid: dict[str, _Axis] = {}

    _check = field_validator("grid")(_dotted)

    @property
    def settings(self) -> dict[str, Any]:
        """Its part of the configuration of a run."""
        own = {"model": self.model} if self.model is not None else {}
        return {**own, "model_args": self.model_args, **(self.model_extra or {})}


class CellSelection(BaseModel):
    """Which models and tasks to take from the included grid: patterns of their names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[str, ...] = ("*",)
    tasks: tuple[str, ...] = ("*",)


class GridFile(BaseModel):
    """The file as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = ""
    include: str | None = None
    select: CellSelection = CellSelection()
    defaults: dict[str, Any] = {}
    models: tuple[ModelEntry, ...] = ()
    tasks: tuple[str, ...] = ()
    grid: dict[str, _Axis] = {}
    exclude: tuple[dict[str, Any], ...] = ()
    unchecked: tuple[str, ...] = ()
    table: Literal["compare", "uncertainty", "auto"] = "auto"

    _check = field_validator("grid")(_dotted)


@dataclass(frozen=True)
class Grid:
    """A grid file with what it includes. ``places`` say where each model stands: the file, and its path there."""

    name: str
    path: Path
    digest: str
    file: GridFile
    places: tuple[tuple[str, str], ...]

    @property
    def models(self) -> tuple[ModelEntry, ...]:
        return self.file.models


def grids_folder() -> Path:
    """Where the shipped grids lie: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "grids"
    return inside if inside.is_dir() else package.parent / "grids"


def shipped_grids() -> dict[str, Path]:
    return {path.stem: path for path in sorted(grids_folder().glob("*.yaml"))}


def find_grid(given: str) -> Path:
    """A path, or the name of a grid that ships.

    :raises DataError: neither.
    """
    if (path := Path(given)).is_file():
        return path
    ships = shipped_grids()
    if given in ships:
        return ships[given]
    raise DataError(f"{given}: no such file, and no grid of that name ships.{did_you_mean(given, ships)}")


def load_grid(path: Path) -> Grid:
    """Read a grid file and what it includes.

    :raises ConfigError: names every fault of the file, one a line.
    """
    file, places = _read(path, ())
    faults = [f"{path}: $.{name}: missing, expected at least one." for name in ("models", "tasks") if not getattr(file, name)]
    names = [entry.name for entry in file.models]
    faults += [f"{path}: $.models: {name!r} stands there twice; names must differ." for name in _repeated(names)]
    faults += [f"{path}: $.tasks: {task!r} stands there twice." for task in _repeated(file.tasks)]
    for name, why in RESERVED.items():
        if name in file.defaults:
            faults.append(f"{path}: $.defaults.{name}: not a setting of a grid; {why}.")
        for entry, (where, place) in zip(file.models, places, strict=True):
            if name in (entry.model_extra or {}):
                faults.append(f"{where}: {place}.{name}: not a setting of a model; {why}.")
    if faults:
        raise ConfigError("\n".join(faults))
    content = file.model_dump(mode="json", exclude={"description", "include", "select"})
    digest = hashlib.sha256(repr(sorted(content.items())).encode()).hexdigest()
    return Grid(path.stem, path, digest, file, places)


def _read(path: Path, above: tuple[Path, ...]) -> tuple[GridFile, tuple[tuple[str, str], ...]]:
    content = _yaml(path)
    if faults := list(faults_of(GridFile, content, "$")):
        raise ConfigError("\n".join(f"{path}: {fault}" for fault in faults))
    try:
        file = GridFile.model_validate(content)
    except ValidationError as error:  # a fault that is told nowhere else
        raise ConfigError(f"{path}: {error}") from None
    places = tuple((str(path), f"$.models[{i}]") for i in range(len(file.models)))
    if file.include is None:
        if "select" in content:
            raise ConfigError(f"{path}: $.select: nothing to select from; expected an include beside it.")
        return file, places
    other = (path.parent / file.include).resolve()
    if not other.is_file() and file.include in (ships := shipped_grids()):
        other = ships[file.include].resolve()
    if not other.is_file():
        near = did_you_mean(file.include, shipped_grids())
        raise ConfigError(f"{path}: $.include: no file {other}, and no grid of that name ships.{near}")
    if other in (path.resolve(), *above):
        raise ConfigError(f"{path}: $.include: {other} includes this file.")
    base, base_places = _read(other, (path.resolve(), *above))
    return _joined(path, file, base, places, base_places)


def _joined(
    path: Path,
    file: GridFile,
    base: GridFile,
    places: tuple[tuple[str, str], ...],
    base_places: tuple[tuple[str, str], ...],
) -> tuple[GridFile, tuple[tuple[str, str], ...]]:
    """The included grid, cut to the selection; what the file itself says comes on top."""
    kept = [i for i, entry in enumerate(base.models) if _matches(entry.name, file.select.models)]
    tasks = tuple(task for task in base.tasks if _matches(task, file.select.tasks))
    for kind, patterns, names in (
        ("models", file.select.models, [entry.name for entry in base.models]),
        ("tasks", file.select.tasks, list(base.tasks)),
    ):
        for pattern in patterns:
            if names and not any(_matches(name, [pattern]) for name in names):
                raise ConfigError(f"{path}: $.select.{kind}: {pattern!r} is none.{did_you_mean(pattern, names)}")
    changes = {
        "description": file.description or base.description,
        "include": None,
        "select": CellSelection(),
        "defaults": merged(base.defaults, file.defaults),
        "models": (*(base.models[i] for i in kept), *file.models),
        "tasks": (*tasks, *(task for task in file.tasks if task not in tasks)),
        "grid": {**base.grid, **file.grid},
        "exclude": (*base.exclude, *file.exclude),
        "unchecked": tuple(dict.fromkeys([*base.unchecked, *file.unchecked])),
        "table": file.table if "table" in file.model_fields_set else base.table,
    }
    return base.model_copy(update=changes), (*(base_places[i] for i in kept), *places)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings are joined key by key, at every depth; anything else is replaced."""
    found = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
        found[key] = merged(found[key], value) if both else value
    return found


class _Loader(yaml.SafeLoader):
    """A key that stands twice is a fault: the parser would keep the last and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key that is a list or a mapping", key.start_mark)
            name = key.value
            if key.tag != "tag:yaml.org,2002:merge" and name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} stands there twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: found {type(content).__name__}, expected a mapping with models and tasks.")
    return {str(key): value for key, value in content.items()}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _repeated(names: Iterable[str]) -> list[str]:
    every = list(names)
    return sorted({name for name in every if every.count(name) > 1})
