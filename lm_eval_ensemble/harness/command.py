"""What stands around a run of the command ``lm_eval`` with a model or a task of ours: faults are told before anything is
loaded, an interrupt says how to go on, and the last lines say what the table means.

Loaded at every start of ``lm_eval``, so it imports nothing heavy until something is checked. Other runs are left alone, but for
the errors of lm_eval that can be foreseen, which are one line.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval_ensemble.config import (
    DIFFUSION,
    ENSEMBLE,
    SCORED,
    DiffusionConfig,
    EnsembleConfig,
    ScoredConfig,
    asset_path,
    parse_settings,
    with_preset,
)
from lm_eval_ensemble.errors import ConfigError, HostError, did_you_mean, no_such_folder

__all__ = ["KNOWN_TASKS", "SAVED", "around", "checked", "foreseen", "noted"]

_FIRST = "0"
#: the names of tasks in the index that was built last.
KNOWN_TASKS: list[str] = []


class Saved:
    """What the run of this process has saved, for its last lines: filled by lm_eval's tracker."""

    def __init__(self) -> None:
        self.ours = False
        self.results: Mapping[str, Any] | None = None
        self.samples: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
        self.folder: Path | None = None
        self.lost: str | None = None


SAVED = Saved()


# ---- before


def checked(from_cli: Callable[..., Any]) -> Callable[..., Any]:
    """``EvaluatorConfig.from_cli`` that also checks what would only be found after the index of tasks and the models are
    loaded, or after everything was generated."""

    @functools.wraps(from_cli)
    def method(*arguments: Any) -> Any:
        config = from_cli(*arguments)
        names = config.tasks.split(",") if isinstance(config.tasks, str) else [str(task) for task in config.tasks or ()]
        own = _own_tasks(names)
        SAVED.ours = config.model in (ENSEMBLE, DIFFUSION, SCORED) or bool(own)
        if SAVED.ours:
            _refuse_unsafe(own, config.confirm_run_unsafe_code)
            # lm_eval has put the arguments of the model among the metadata; those are not meant.
            typed = [str(name) for name in config.metadata or {} if name not in (config.model_args or {})]
            if typed and own.keys() >= set(names):  # a task from elsewhere may read anything
                _check_metadata(typed, own)
            _check_settings(str(config.model), config.model_args or {})
            if config.output_path and os.environ.get("RANK", _FIRST) == _FIRST:
                check_output(Path(config.output_path))
        return config

    return method


@dataclass(frozen=True)
class _OwnYaml:
    """Whether a task or group of ours executes what models wrote, and the classes of its tasks, as ``module.Class``."""

    executes: bool
    kinds: frozenset[str]


def _own_tasks(names: Iterable[str]) -> dict[str, _OwnYaml]:
    """The tasks and groups of ours among these."""
    from lm_eval_ensemble.data import tasks_folder

    found: dict[str, _OwnYaml] = {}
    folder = Path(str(tasks_folder()))
    for name in names:
        file = folder / name / f"{name}.yaml"
        if not file.is_file():
            continue
        content = _with_includes(file)
        if "group" in content:
            parts = _own_tasks(part for part in content.get("task", ()) if isinstance(part, str)).values()
            found[name] = _OwnYaml(any(part.executes for part in parts), frozenset().union(*(part.kinds for part in parts)))
        else:
            found[name] = _OwnYaml(bool(content.get("unsafe_code")), frozenset([str(content["class"])]))
    return found


def _with_includes(file: Path) -> dict[str, Any]:
    import yaml

    # Tags are functions and classes, which are not called here.
    content = dict(yaml.safe_load(re.sub(r"!function\s+", "", file.read_text(encoding="utf-8"))))
    include = content.pop("include", None)
    return content if include is None else {**_with_includes(file.parent / str(include)), **content}


def _check_metadata(typed: Sequence[str], own: Mapping[str, _OwnYaml]) -> None:
    """:raises ConfigError: a name in ``--metadata`` that none of these tasks reads."""
    import importlib

    from lm_eval_ensemble.harness import file_task, question_task  # noqa: F401 (all that read metadata must be known)
    from lm_eval_ensemble.harness.own_task import refuse_misspelt, refuse_unread

    paths = [path.rpartition(".") for task in own.values() for path in task.kinds]
    kinds = [getattr(importlib.import_module(module), name) for module, _, name in paths]
    refuse_unread(typed, kinds)
    refuse_misspelt(typed)


def _refuse_unsafe(own: Mapping[str, _OwnYaml], confirmed: bool) -> None:
    """:raises HostError: a task executes what models wrote, and nobody said that it may."""
    if (unsafe := [name for name, task in own.items() if task.executes]) and not confirmed:
        raise HostError(
            f"{', '.join(unsafe)}: executes code that models wrote (in a sandbox, docs/judge.md). If you want that, add "
            "--confirm_run_unsafe_code."
        )


def _check_settings(model: str, arguments: Mapping[str, Any]) -> None:
    """:raises ConfigError: what a model of ours would refuse, as far as it can be known without loading it."""
    if model == ENSEMBLE:
        config = EnsembleConfig.from_arguments(arguments)
        _refuse_missing((member.name, member.args) for member in (*config.members, *config.scorers))
        from lm_eval_ensemble.harness.ensemble_lm import EnsemblePPL

        EnsemblePPL.check(arguments)
    elif model in (DIFFUSION, SCORED):
        own = {name: value for name, value in with_preset(arguments, model, f"$.{model}").items() if name != "name"}
        _refuse_missing([(model, own)])
        if model == DIFFUSION:
            parse_settings(DiffusionConfig, own, f"$.{model}")
        else:
            scored = {name: value for name, value in own.items() if name in ScoredConfig.model_fields}
            parse_settings(ScoredConfig, {"pretrained": "", **scored}, f"$.{model}")


def _refuse_missing(members: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """:raises ConfigError: a checkpoint that is written as a path, where nothing is."""
    faults = [
        f"{name}: {no_such_folder(str(args[key]))}"
        for name, args in members
        for key in ("pretrained", "peft", "tokenizer")
        if isinstance(args.get(key), str) and is_missing_path(asset_path(str(args[key])))
    ]
    if faults:
        raise ConfigError("\n".join(faults))


def is_missing_path(name: str) -> bool:
    """Whether a name can only be a path (names on the Hub have one slash at most, and begin with a letter), and is none."""
    path = Path(name).expanduser()
    return (name.startswith(("/", ".", "~")) or name.count("/") > 1) and not path.exists()


def check_output(path: Path) -> None:
    """Whether lm_eval can write its results there: it would only warn, after everything was generated.

    :raises HostError: it cannot.
    """
    folder = path.parent if path.suffix == ".json" else path
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".lm_eval_ensemble_"):
            pass
    except OSError as error:
        raise HostError(
            f"--output_path {path}: nothing can be written there ({error.strerror}), so results would be lost. Give another "
            "folder."
        ) from None
    finally:
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()


# ---- after


def noted(save: Callable[..., Any]) -> Callable[..., Any]:
    """``EvaluationTracker.save_results_aggregated``, and what it saved noted for the last lines."""

    @functools.wraps(save)
    def method(self: Any, results: Any, samples: Any = None, *arguments: Any, **named: Any) -> Any:
        found = save(self, results, samples, *arguments, **named)
        SAVED.results, SAVED.samples = results, samples
        if self.output_path:
            path = Path(self.output_path)
            folder = path.parent if path.suffix == ".json" else path / str(self.general_config_tracker.model_name_sanitized)
            date = getattr(self, "date_id", None)
            SAVED.folder = folder
            if date is None or not any(folder.glob(f"*_{date}.json")):
                SAVED.lost = str(path)
        return found

    return method


def around(execute: Callable[[Any], None]) -> Callable[[Any], None]:
    """``Run._execute`` that ends well: after an interrupt, after results that could not be saved, and after a good run."""

    @functools.wraps(execute)
    def method(arguments: Any) -> None:
        try:
            execute(arguments)
        except KeyboardInterrupt:
            if not SAVED.ours:
                raise
            print(f"\nlm_eval_ensemble: {_interrupted()}", file=sys.stderr)
            sys.exit(130)
        if not SAVED.ours or SAVED.results is None:
            return
        if SAVED.lost is not None:
            raise HostError(f"--output_path {SAVED.lost}: lm_eval could not save the results (its warning stands above).")
        with contextlib.suppress(Exception):  # the run is done and saved: nothing here may turn it into a failure
            print("\n".join(_last_lines()))

    return method


def _interrupted() -> str:
    from lm_eval_ensemble.harness.base import kept_answers
    from lm_eval_ensemble.harness.ranks import HOST_RUN

    lm = HOST_RUN.lm
    if lm is None:
        return "interrupted before anything was generated."
    if (store := getattr(lm, "store", None)) is not None:
        kept: tuple[int, str] | None = (store.added + store.reused, str(store.path))
    else:
        kept = kept_answers(lm)
    if kept is None:
        return "interrupted. Nothing is kept: this model keeps its answers with --use_cache FILE, ensemble-ppl by itself."
    return f"interrupted. {kept[0]} answers are kept in {kept[1]}: the same command goes on where this one stopped."


def _last_lines() -> Iterator[str]:
    """Score, best member, oracle, verdict of every task, and what to do next."""
    from dataclasses import replace

    from lm_eval_ensemble.report.run import report_of
    from lm_eval_ensemble.report.text import closing
    from lm_eval_ensemble.runs.load import runs_in

    yield ""
    results = {key: value for key, value in (SAVED.results or {}).items() if key != "samples"}
    for run in runs_in(results, Path("results.json"), []):
        own = (SAVED.samples or {}).get(run.task)
        if own is None:
            continue
        lines = [(number, _plain(sample)) for number, sample in enumerate(own, 1)]
        yield from closing(report_of(replace(run, samples_path=Path("samples")), lines=lines).content)
    if SAVED.folder is not None and any("bypass,none" in rows for rows in results.get("results", {}).values()):
        yield f"Nothing was judged (--predict_only). To do so: lm-eval-ensemble judge {_quoted(SAVED.folder)}"
    elif SAVED.folder is not None and SAVED.samples is not None:
        yield f"More: lm-eval-ensemble report {_quoted(SAVED.folder)}"
    elif SAVED.samples is None:
        yield "For intervals, tests and every sample: --output_path FOLDER --log_samples, then lm-eval-ensemble report FOLDER"


def _plain(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample without its prompts, which no figure needs."""
    return {key: value for key, value in sample.items() if key not in ("arguments", "resps")}


def _quoted(path: Path) -> str:
    import shlex

    return shlex.quote(str(path))


# ---- errors of lm_eval


def foreseen(error: BaseException) -> str | None:
    """One line for an error of lm_eval about what was typed; None for all others."""
    text = " ".join(str(error).split())
    if isinstance(error, ValueError) and (found := re.match(r"Tasks not found: (.*)", text)):
        return _unknown_tasks(found[1])
    if isinstance(error, ValueError) and (found := re.match(r"Attempted to run task: (\S+) which is marked as unsafe", text)):
        return f"{found[1]} executes code that models wrote. If you want that, add --confirm_run_unsafe_code."
    if isinstance(error, ValueError) and (found := re.match(r"Attempted to load model '(.*?)', but no model", text)):
        from lm_eval.api.registry import model_registry

        return f"--model {found[1]}: no such model.{did_you_mean(found[1], map(str, model_registry))}"
    frames = traceback.extract_tb(error.__traceback__)
    typed = bool(frames) and re.search(r"lm_eval[/\\](_cli[/\\]|config[/\\]evaluate_config)", frames[-1].filename)
    if typed and isinstance(error, ValueError | TypeError | FileNotFoundError):
        return text
    return None


def _unknown_tasks(names: str) -> str:
    """With the nearest of all tasks; thousands of them are not listed."""
    import difflib

    told = []
    for name in (part.strip() for part in names.split(",")):
        near = difflib.get_close_matches(name, KNOWN_TASKS, n=3, cutoff=0.6)
        told.append(f"{name}: no such task." + (f" Did you mean {' or '.join(near)}?" if near else ""))
    return " ".join([*told, "All: lm_eval ls tasks"])
