"""Makes our models and tasks known to lm_eval."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import sys
import time
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any

from lm_eval_ensemble.config import run_name
from lm_eval_ensemble.data import tasks_folder
from lm_eval_ensemble.errors import EnsembleError
from lm_eval_ensemble.startup import load_extensions

__all__ = ["HOOKS", "MODELS", "register"]

_LATER = 3.0  # seconds that the errors of all processes but the first wait

#: registered name -> where the class lives; lm_eval imports it when the name is used, not before.
MODELS = {
    "ensemble-ppl": "lm_eval_ensemble.harness.ensemble_lm:EnsemblePPL",
    "diffusion-infill": "lm_eval_ensemble.harness.diffusion_lm:DiffusionInfill",
    "hf-scored": "lm_eval_ensemble.harness.scored_lm:ScoredHF",
    "local-completions-scored": "lm_eval_ensemble.harness.server_lm:ScoredCompletions",
    "rescored": "lm_eval_ensemble.harness.rescored_lm:Rescored",
}


def add_models(module: ModuleType) -> None:
    """After ``lm_eval.models``: registering earlier would hide every built-in model."""
    from lm_eval.api import registry

    _plain_errors()
    # Our messages appear like lm_eval's own, at the verbosity it was asked for.
    logging.getLogger("lm_eval_ensemble").parent = logging.getLogger("lm_eval")
    if not hasattr(registry, "load_plugins"):  # later releases read our entry points by themselves
        for name, target in MODELS.items():
            if name not in registry.model_registry:
                registry.model_registry.register(name, target=target)
    load_extensions()


def add_tasks(module: ModuleType) -> None:
    """After ``lm_eval.tasks.manager``: every ``TaskManager`` also looks into our folder, before the user's own."""
    original = module.TaskManager.__init__
    if getattr(original, "of_lm_eval_ensemble", False):
        return

    @functools.wraps(original)
    def with_our_tasks(self: Any, verbosity: Any = None, include_path: Any = None, *args: Any, **kwargs: Any) -> None:
        given = include_path if isinstance(include_path, list | tuple) else [include_path] if include_path else []
        original(self, verbosity, [str(tasks_folder()), *given], *args, **kwargs)
        from lm_eval_ensemble.harness.command import KNOWN_TASKS

        KNOWN_TASKS[:] = self.all_tasks

    with_our_tasks.of_lm_eval_ensemble = True  # type: ignore[attr-defined]
    module.TaskManager.__init__ = with_our_tasks


def add_care(module: ModuleType) -> None:
    """After ``lm_eval._cli.run``, which only the command imports: foreseen errors in one line, and a good end."""
    from lm_eval_ensemble.harness import command

    _plain_errors()
    if not getattr(module.Run._execute, "of_lm_eval_ensemble", False):
        execute = command.around(module.Run._execute)
        execute.of_lm_eval_ensemble = True  # type: ignore[attr-defined]
        module.Run._execute = staticmethod(execute)


def add_checks(module: ModuleType) -> None:
    """After ``lm_eval.config.evaluate_config``: what was typed is checked before the tasks' index and the models are loaded."""
    from lm_eval_ensemble.harness import command

    if not getattr(module.EvaluatorConfig.from_cli, "of_lm_eval_ensemble", False):
        method = command.checked(module.EvaluatorConfig.from_cli)
        method.of_lm_eval_ensemble = True  # type: ignore[attr-defined]
        module.EvaluatorConfig.from_cli = staticmethod(method)


def add_names(module: ModuleType) -> None:
    """After ``lm_eval.loggers.evaluation_tracker``: results of a model of ours without ``pretrained=`` are named after its
    checkpoints, in the place of a random name."""
    tracker = module.GeneralConfigTracker
    original = tracker.log_experiment_args
    if getattr(original, "of_lm_eval_ensemble", False):
        return

    @functools.wraps(original)
    def with_our_names(self: Any, model_source: str, model_args: Any, *args: Any, **kwargs: Any) -> None:
        original(self, model_source, model_args, *args, **kwargs)
        if tracker._get_model_name(model_args) is None:
            from lm_eval.utils import sanitize_model_name, simple_parse_args_string

            given = simple_parse_args_string(model_args) if isinstance(model_args, str) else model_args
            if (name := run_name(model_source, given or {})) is None:
                return
            self.model_name = name
            self.model_name_sanitized = sanitize_model_name(self.model_name)

    with_our_names.of_lm_eval_ensemble = True  # type: ignore[attr-defined]
    tracker.log_experiment_args = with_our_names
    from lm_eval_ensemble.harness import command

    module.EvaluationTracker.save_results_aggregated = command.noted(module.EvaluationTracker.save_results_aggregated)


def add_references(module: ModuleType) -> None:
    """After ``lm_eval.evaluator``: the references of a user's own gaps are judged before a model is loaded."""
    from lm_eval_ensemble.harness import file_task

    if not getattr(module.simple_evaluate, "of_lm_eval_ensemble", False):
        judged = file_task.judged_first(module.simple_evaluate)
        judged.of_lm_eval_ensemble = True  # type: ignore[attr-defined]
        module.simple_evaluate = judged  # type: ignore[attr-defined]


def add_logging(module: ModuleType) -> None:
    """After ``lm_eval.loggers.wandb_logger``: a run opened with ``--wandb_args`` also gets our tables, figures and plots."""
    from lm_eval_ensemble.harness import wandb_log

    wandb_log.extend(module.WandbLogger)


HOOKS: dict[str, Callable[[ModuleType], None]] = {
    "lm_eval.evaluator": add_references,
    "lm_eval._cli.run": add_care,
    "lm_eval.config.evaluate_config": add_checks,
    "lm_eval.models": add_models,
    "lm_eval.tasks.manager": add_tasks,
    "lm_eval.loggers.evaluation_tracker": add_names,
    "lm_eval.loggers.wandb_logger": add_logging,
}


def register() -> None:
    """Register now, for ``python -m lm_eval_ensemble`` and for use as a library. Calling it twice changes nothing."""
    for name, hook in HOOKS.items():
        hook(importlib.import_module(name))


def _plain_errors() -> None:
    """Show our own errors, and those of lm_eval that can be foreseen, as their message: a traceback through lm_eval tells a
    user nothing.

    ``LM_EVAL_ENSEMBLE_TRACEBACK=1`` brings it back. Other exceptions are left to whoever handled them before.
    """
    from lm_eval_ensemble.harness.command import foreseen

    before = sys.excepthook
    if getattr(before, "of_lm_eval_ensemble", False):
        return

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, EnsembleError) and not os.environ.get("LM_EVAL_ENSEMBLE_TRACEBACK"):
            if int(os.environ.get("RANK") or 0) > 0:
                # What all processes of a run have to say, the first one says; the launcher then ends the others.
                time.sleep(_LATER)
            print(f"lm_eval_ensemble: {kind.__name__}: {error}", file=sys.stderr)
        elif not os.environ.get("LM_EVAL_ENSEMBLE_TRACEBACK") and (line := foreseen(error)) is not None:
            print(f"lm_eval: {line}", file=sys.stderr)
        else:
            before(kind, error, trace)

    show.of_lm_eval_ensemble = True  # type: ignore[attr-defined]
    sys.excepthook = show
