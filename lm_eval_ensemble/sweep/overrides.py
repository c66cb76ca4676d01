"""Settings from the environment and the command line, which come before those of a grid."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import yaml

from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.sweep.cells import Override
from lm_eval_ensemble.sweep.grid import RESERVED

__all__ = ["OPTIONS", "PREFIX", "from_environment", "limit_of"]

PREFIX = "LM_EVAL_ENSEMBLE_SWEEP_"
#: options of the command that have a variable too; every other name is a key of lm_eval's configuration.
OPTIONS = ("output", "retries", "backoff", "jobs", "processes", "launcher")


def from_environment(environment: Mapping[str, str] = os.environ) -> tuple[list[Override], dict[str, Any]]:
    """The settings of ``LM_EVAL_ENSEMBLE_SWEEP_*`` (``__`` goes one level down, values are YAML), and those of the command's
    own options. Whether lm_eval knows a setting is checked with the rest of the configuration.

    :raises ConfigError: a value is not YAML, or the setting is the sweep's own.
    """
    overrides, options, faults = [], {}, []
    for variable in sorted(name for name in environment if name.startswith(PREFIX)):
        path = tuple(variable.removeprefix(PREFIX).lower().split("__"))
        try:
            value = yaml.safe_load(environment[variable])
        except yaml.YAMLError as error:
            faults.append(f"{variable}: {environment[variable]!r} is not YAML ({' '.join(str(error).split())}).")
            continue
        if not all(path):
            faults.append(f"{variable}: expected {PREFIX}SETTING, or {PREFIX}SETTING__INNER for a setting inside another.")
        elif path[0] in OPTIONS and len(path) == 1:
            # A folder may be called 2026, or [a].
            options[path[0]] = environment[variable] if path[0] == "output" else value
        elif path[0] in (*RESERVED, "model", "models", "grid"):
            faults.append(f"{variable}: {path[0]} belongs to the grid; use --only, or a grid of your own.")
        else:
            overrides.append(Override(path, value, variable))
    if faults:
        raise ConfigError("\n".join(faults))
    return overrides, options


def limit_of(given: str) -> int | float:
    """``--limit``: a number of documents per task, or a share of them below 1.

    :raises ConfigError: neither.
    """
    try:
        value = float(given)
    except ValueError:
        value = 0.0
    if 0 < value < 1:
        return value
    if value >= 1 and value == int(value):
        return int(value)
    raise ConfigError(f"--limit {given}: expected a number of documents from 1, or a share between 0 and 1.")
