"""Imported by a ``.pth`` line at every interpreter start, so that plain ``lm_eval`` finds our models and tasks.

It installs an import hook and imports nothing else: the modules below are waited for, and only then does
``harness.plugin`` run. ``LM_EVAL_ENSEMBLE_AUTOLOAD=0`` turns it off.
"""

import os
import sys

_WAITED_FOR = {
    "lm_eval.evaluator",
    "lm_eval._cli.run",
    "lm_eval.config.evaluate_config",
    "lm_eval.models",
    "lm_eval.tasks.manager",
    "lm_eval.loggers.evaluation_tracker",
    "lm_eval.loggers.wandb_logger",
}


class _Hook:
    """A finder that lets the real finders work and adds one call after the module has run."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN206
        if name not in _WAITED_FOR:
            return None
        _WAITED_FOR.discard(name)
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_then_register(module):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
            run(module)
            from lm_eval_ensemble.harness import plugin

            plugin.HOOKS[name](module)

        spec.loader.exec_module = run_then_register  # type: ignore[method-assign]
        return spec


if os.environ.get("LM_EVAL_ENSEMBLE_AUTOLOAD", "1") != "0":
    sys.meta_path.insert(0, _Hook)
