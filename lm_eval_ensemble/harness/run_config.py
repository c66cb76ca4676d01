"""Whether lm_eval would take a configuration: its keys, the model and its arguments, the tasks. No weights, no network.

``python -m lm_eval_ensemble.harness.run_config`` reads a JSON list of configurations and answers with the faults of each,
so that a caller need not hold torch in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import io
import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.registry import get_model
from lm_eval.config.evaluate_config import DICT_KEYS, EvaluatorConfig
from lm_eval.tasks import TaskManager

from lm_eval_ensemble.config import DIFFUSION, ENSEMBLE, SCORED, DiffusionConfig, ScoredConfig, with_preset
from lm_eval_ensemble.errors import ConfigError, HostError, did_you_mean
from lm_eval_ensemble.faults import faults_of
from lm_eval_ensemble.harness import plugin

__all__ = ["check_runs"]

#: a fault: the dotted path of the setting ("" for none), and what is wrong.
Fault = tuple[str, str]

#: what ``hf`` passes on to transformers' ``from_pretrained``, whose signature names few of them (transformers 5).
_WEIGHTS = (
    *("adapter_kwargs", "attn_implementation", "cache_dir", "code_revision", "config", "device_map", "experts_implementation"),
    *("force_download", "generation_config", "ignore_mismatched_sizes", "key_mapping", "local_files_only", "low_cpu_mem_usage"),
    *("max_memory", "offload_buffers", "output_loading_info", "proxies", "state_dict", "token", "torch_dtype", "tp_size"),
    *("use_kernels", "use_safetensors", "variant", "weights_only"),
)
_NAMING = ("peft", "delta", "pretrained", "model", "path", "engine")


def check_runs(configs: Sequence[Mapping[str, Any]]) -> list[list[Fault]]:
    """What is wrong with each configuration; an empty list where nothing is."""
    plugin.register()
    index = _Tasks()
    return [list(dict.fromkeys(_faults(config, index))) for config in configs]


def _faults(config: Mapping[str, Any], index: _Tasks) -> Iterator[Fault]:
    known = {field.name for field in dataclasses.fields(EvaluatorConfig)} - {"config"}
    unknown = [str(key) for key in config if key not in known]
    yield from ((key, f"not a key of lm_eval's configuration.{_near(key, known)}") for key in unknown)
    for key in set(DICT_KEYS) & set(config):
        if not isinstance(config[key], Mapping):
            yield key, f"got {config[key]!r}, expected a mapping of names to values."
    yield from _value_faults(config)
    yield from _model_faults(config)
    yield from index.faults(config)
    if not unknown:
        try:
            # What lm_eval itself refuses; its remarks about --limit are not for here.
            with contextlib.redirect_stdout(io.StringIO()):
                EvaluatorConfig(**{**config, "trust_remote_code": False})._configure()
        except (ValueError, TypeError, AttributeError) as error:
            yield "", f"lm_eval refuses the configuration: {error}"


def _value_faults(config: Mapping[str, Any]) -> Iterator[Fault]:
    """Values that lm_eval would take, and fail with later or quietly do something else."""
    if config.get("log_samples") is not True:
        yield "log_samples", f"got {config.get('log_samples')!r}, expected true: the table is made from the samples."
    if config.get("predict_only"):
        yield "predict_only", "nothing would be scored, so there is no table to make. Leave it out."
    limit = config.get("limit")
    if limit is not None and not (_is_number(limit) and (0 < limit < 1 or (limit >= 1 and limit == int(limit)))):
        yield "limit", f"got {limit!r}, expected a number of documents from 1, or a share between 0 and 1."
    size = str(config.get("batch_size", 1))
    if not re.fullmatch(r"auto(:[0-9]+)?|0*[1-9][0-9]*", size):
        yield "batch_size", f"got {size}, expected a whole number >= 1, or auto."
    if config.get("use_cache") not in (None, True, False):
        yield (
            "use_cache",
            f"got {config['use_cache']!r}: cells would share answers, whose keys hold the prompt and nothing of the model. "
            "Expected true, which gives every cell a file of its own.",
        )
    if config.get("use_cache") and config.get("model") == ENSEMBLE:
        yield "use_cache", f"{ENSEMBLE} refuses it; its candidates are kept by store= in model_args (on by default)."
    if (path := config.get("include_path")) is not None and not Path(str(path)).is_dir():
        yield "include_path", f"no folder {path}."


def _model_faults(config: Mapping[str, Any]) -> Iterator[Fault]:
    name, arguments = config.get("model"), config.get("model_args")
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        return
    try:
        kind = get_model(name)
    except (ValueError, KeyError):
        yield "model", f"{name!r} is not registered in lm_eval.{did_you_mean(name, _model_names())}"
        return
    except ImportError as error:
        yield "model", f"{name} cannot be imported: {error}"
        return
    if name == ENSEMBLE:
        yield from _ensemble_faults(kind, arguments)
    elif name == DIFFUSION:
        yield from _diffusion_faults(arguments)
    elif name == SCORED:
        yield from _scored_faults(kind, arguments, "model_args")
    else:
        yield from _signature_faults(kind, arguments, "model_args")


def _ensemble_faults(kind: Any, arguments: Mapping[str, Any]) -> Iterator[Fault]:
    try:
        checked = kind.check(arguments)
    except (ConfigError, HostError) as error:
        yield from (_ours(line) for line in str(error).splitlines())
        return
    for group in ("members", "scorers"):
        for i, member in enumerate(getattr(checked, group)):
            where = f"model_args.{group}[{i}].args"
            if member.model == SCORED:
                yield from _scored_faults(get_model(SCORED), member.args, where)
            elif member.model not in (DIFFUSION, ENSEMBLE, "refine"):
                yield from _signature_faults(get_model(member.model), member.args, where)


def _diffusion_faults(arguments: Mapping[str, Any]) -> Iterator[Fault]:
    try:
        given = with_preset(arguments, DIFFUSION)
    except ConfigError as error:
        yield _ours(str(error))
        return
    own = {name: value for name, value in given.items() if name != "name"}
    yield from (_ours(line) for line in faults_of(DiffusionConfig, own, "$"))


def _scored_faults(kind: Any, arguments: Mapping[str, Any], where: str) -> Iterator[Fault]:
    """Of our settings by their class, of the others by the signature of ``hf``."""
    try:
        given = with_preset(arguments, SCORED)
    except ConfigError as error:
        yield f"{where}.preset", str(error).partition(": ")[2]
        return
    fields = {k: v for k, v in given.items() if k in ScoredConfig.model_fields}
    for line in faults_of(ScoredConfig, fields, where):
        path, _, told = line.partition(": ")
        yield path, told
    own = {"name", "preset", *ScoredConfig.model_fields}
    yield from _signature_faults(kind, {k: v for k, v in arguments.items() if k not in own}, where, own)
    if isinstance(wanted := given.get("quantization"), dict):
        from lm_eval_ensemble.harness.quantized import check_mapping

        try:
            check_mapping(wanted, where)
        except ConfigError as error:
            for line in str(error).splitlines():
                path, _, told = line.partition(": ")
                yield path, told
    if (layout := arguments.get("layout")) is not None:
        from lm_eval_ensemble.fim import layout_named

        try:
            layout_named(layout)
        except ConfigError as error:
            yield f"{where}.layout", str(error)


def _signature_faults(
    kind: Any, arguments: Mapping[str, Any], where: str, more: set[str] | frozenset[str] = frozenset()
) -> Iterator[Fault]:
    """Names that no constructor of the class takes. Where the last of them takes anything, only ``hf`` is known to
    hand it on, and to whom."""
    from lm_eval.models.huggingface import HFLM

    known, open_end = set(more), True
    for owner in kind.__mro__:
        if "__init__" not in vars(owner) or owner is object:
            continue
        parameters = inspect.signature(owner.__init__).parameters.values()
        known |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"self"}
        open_end = any(p.kind is p.VAR_KEYWORD for p in parameters)
        if not open_end or owner is HFLM:
            break
    if issubclass(kind, HFLM):
        known |= set(_WEIGHTS)
    for name in arguments:
        if name not in known and (not open_end or issubclass(kind, HFLM)):
            yield f"{where}.{name}", f"not an argument of {kind.__name__}.{_near(str(name), known)}"
    if issubclass(kind, HFLM) and "pretrained" not in {*arguments, *more}:
        yield f"{where}.pretrained", "missing, expected a checkpoint."
    elif not issubclass(kind, HFLM) and where == "model_args" and not any(key in arguments for key in _NAMING):
        yield where, f"none of {', '.join(_NAMING)}: lm_eval would invent a name for the folder of the results."


def _near(found: str, known: Iterable[str]) -> str:
    """The known name that may have been meant; all where none is near."""
    near = difflib.get_close_matches(found, sorted(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else did_you_mean(found, known)


def _model_names() -> list[str]:
    from lm_eval.api.registry import model_registry

    return [str(name) for name in model_registry]


def _ours(line: str) -> Fault:
    """``$.steps: got 0`` as a fault of ``model_args.steps``."""
    path, colon, told = line.partition(": ")
    if colon and path.startswith("$") and " " not in path:
        return "model_args" + path[1:], told
    return "model_args", line


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class _Tasks:
    """The indexes of tasks, built when they are needed: ours takes a millisecond, lm_eval's own ten seconds."""

    def __init__(self) -> None:
        self._built: dict[tuple[str | None, bool], TaskManager] = {}

    def faults(self, config: Mapping[str, Any]) -> Iterator[Fault]:
        """Tasks that do not exist, and those that execute code without leave."""
        path = config.get("include_path")
        for name in config.get("tasks") or ():
            entries = self._entries(str(name), path if isinstance(path, str) else None)
            if not entries:
                ours = self._manager(path if isinstance(path, str) else None, False).all_tasks
                yield "tasks", f"{name!r} is not a task of lm_eval.{did_you_mean(str(name), ours)}"
            if not config.get("confirm_run_unsafe_code") and any((entry.cfg or {}).get("unsafe_code") for entry in entries):
                yield "tasks", f"{name} executes code that models wrote; set confirm_run_unsafe_code: true in defaults."

    def _entries(self, name: str, path: str | None) -> list[Any]:
        if name.endswith(".yaml"):
            from lm_eval.tasks._index import TaskIndex

            found = TaskIndex.entry_from_path(Path(name)) if Path(name).is_file() else None
            return [found] if found else []
        for defaults in (False, True):
            manager = self._manager(path, defaults)
            if names := manager.match_tasks([name]):
                return [manager.task_index[found] for match in names for found in self._leaves(manager, match)]
        return []

    def _leaves(self, manager: TaskManager, name: str) -> Iterator[str]:
        """The tasks of a group, and the group."""
        yield name
        inner = (manager.task_index[name].cfg or {}).get("task")
        for child in inner if isinstance(inner, list) else ():
            if isinstance(child, str) and child in manager.task_index:
                yield from self._leaves(manager, child)

    def _manager(self, path: str | None, defaults: bool) -> TaskManager:
        if (path, defaults) not in self._built:
            self._built[path, defaults] = TaskManager(include_path=path, include_defaults=defaults)
        return self._built[path, defaults]


def main() -> None:
    """Configurations on stdin, faults on the last line of stdout."""
    logging.disable(logging.CRITICAL)
    configs = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        found = check_runs(configs)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
