"""Discovery: plain lm_eval in a fresh interpreter, with the hook and without."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.harness import plugin

LIST = """
from lm_eval.tasks import TaskManager
from lm_eval.api.registry import get_model
import lm_eval.models
from lm_eval.api import registry
names = [n for n in ("infill_toy", "humaneval_infill", "santacoder_fim") if n in TaskManager(include_defaults=False).all_tasks]
ours = ("ensemble-ppl", "diffusion-infill", "hf-scored", "local-completions-scored", "rescored")
print(names, [n for n in ours if n in registry.model_registry])
"""


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


FOUND = f"{['infill_toy', 'humaneval_infill', 'santacoder_fim']} {list(plugin.MODELS)}"


def test_plain_lm_eval_finds_models_and_tasks() -> None:
    assert python(LIST) == FOUND


def test_the_hook_can_be_turned_off_and_registered_by_hand() -> None:
    assert python(LIST, LM_EVAL_ENSEMBLE_AUTOLOAD="0") == "[] []"
    by_hand = "from lm_eval_ensemble.harness.plugin import register; register(); register()\n" + LIST
    assert python(by_hand, LM_EVAL_ENSEMBLE_AUTOLOAD="0") == FOUND


NAMES = """
from lm_eval.loggers import EvaluationTracker
tracker = EvaluationTracker().general_config_tracker
named = []
for args in ({"dllm": "org/a", "fim": "/models/b"}, "preset=tiny", {"preset": "tiny", "pretrained": "own"}, "dllm=a,fim=c d"):
    tracker.log_experiment_args("ensemble-ppl", args, None, "", False)
    named.append(tracker.model_name_sanitized)
tracker.log_experiment_args("hf", {"fim": "b"}, None, "", False)
print(named, len(tracker.model_name))
"""


def test_results_of_an_ensemble_are_named_after_its_models() -> None:
    assert python(NAMES) == "['a+b', 'tiny', 'own', 'a+c d'] 8"  # another model's random name has eight letters


def test_it_steps_aside_where_the_host_loads_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.api import registry

    class Refuses(dict[str, Any]):
        def register(self, *_: Any, **__: Any) -> None:
            raise AssertionError("registered")

    monkeypatch.setattr(registry, "load_plugins", lambda group, target: [], raising=False)
    monkeypatch.setattr(registry, "model_registry", Refuses())
    plugin.add_models(SimpleNamespace())  # type: ignore[arg-type]


def test_entry_points_name_the_same_classes() -> None:
    from importlib.metadata import entry_points

    found = {e.name: e.value for e in entry_points(group="lm_eval.models") if e.value.startswith("lm_eval_ensemble")}
    assert found == plugin.MODELS


def test_the_users_folder_comes_after_ours_and_wins() -> None:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False, include_path=None)
    assert "infill_toy" in manager.all_tasks


def test_errors_of_ours_are_shown_without_a_traceback() -> None:
    code = "import lm_eval.models\nfrom lm_eval_ensemble.errors import ConfigError\nraise ConfigError('score=x is not a score')"
    for environment, lines in (({}, 1), ({"LM_EVAL_ENSEMBLE_TRACEBACK": "1"}, 4)):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
        )
        assert done.returncode == 1
        assert "ConfigError: score=x is not a score" in done.stderr
        assert ("Traceback" in done.stderr) == (lines > 1)


def test_only_our_errors_are_caught() -> None:
    assert not issubclass(ValueError, ConfigError)


def test_the_fallback_command_runs_lm_eval() -> None:
    command = [sys.executable, "-m", "lm_eval_ensemble", "run", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--model_args" in done.stdout
