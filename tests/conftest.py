"""Shared fixtures: the embedded pair, loaded once, and small checkpoints saved by the tests."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.warned import Watch

# Before any library reads them: nothing in the tests reaches a hub.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Nor do they read or fill the candidates of the account that runs them.
os.environ["LM_EVAL_ENSEMBLE_STORE"] = "off"

# Programs that a test starts find this checkout, and lm_eval indexes our tasks alone (site/sitecustomize.py).
_FIRST = [str(Path(__file__).parent / "site"), str(Path(__file__).parent.parent)]
_GIVEN = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder and folder not in _FIRST]
os.environ["PYTHONPATH"] = os.pathsep.join([*_FIRST, *_GIVEN])

DATA = os.environ.get("LM_EVAL_ENSEMBLE_DATA")


def pytest_configure(config: pytest.Config) -> None:
    sys.warnoptions.append("always")  # as if asked for: what is hidden from users is not hidden from the tests
    config.pluginmanager.register(Watch())
    if not hasattr(config, "workerinput"):  # pytest's first process, not those that it shares the tests among
        config.add_cleanup(_keep_warm())


def _keep_warm() -> Callable[[], None]:
    """Start the process that runs every ``lm_eval`` of the tests (site/warm.py); returns what ends it."""
    folder = tempfile.TemporaryDirectory(prefix="warm")
    address = str(Path(folder.name) / "socket")
    # torchao is not seen there either (site/sitecustomize.py).
    environment = {**os.environ, "PYTEST_CURRENT_TEST": "all of them"}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        command = [sys.executable, str(Path(__file__).parent / "site" / "warm.py"), str(listener.fileno())]
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])
    os.environ["LM_EVAL_ENSEMBLE_TESTS_WARM"] = address

    def end() -> None:
        process.communicate()
        folder.cleanup()

    return end


#: Files that take longest begin first, so that no worker is left with one of them at the end.
_LONGEST = (
    "test_docs",
    "test_distributed",
    "test_hostile",
    "test_kinds",
    "test_canonical",
    "test_task",
    "test_scale_commands",
    "test_pool",
    "test_ensemble_lm",
    "test_wandb_log",
    "test_flags",
    "test_sweep",
    "test_files",
    "test_question_task",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on the real data sets skip, with the reason, where the folder is not set or lacks the file that they name."""
    for item in items:
        if (asked := item.get_closest_marker("data")) is None:
            continue
        missing = [name for name in asked.args if DATA and not Path(DATA, name).exists()]
        if not DATA:
            item.add_marker(pytest.mark.skip(reason="LM_EVAL_ENSEMBLE_DATA is not set"))
        elif missing:
            item.add_marker(pytest.mark.skip(reason=f"LM_EVAL_ENSEMBLE_DATA has no {missing[0]}, which is published nowhere"))
    items.sort(key=lambda item: next((i for i, name in enumerate(_LONGEST) if item.path.stem.startswith(name)), len(_LONGEST)))


@pytest.fixture(scope="session", autouse=True)
def _machine_told_once() -> None:
    """Every run of lm_eval ends with a description of the machine, for which pip lists the packages: half a second each."""
    from torch.utils import collect_env

    collect_env.get_pretty_env_info = functools.cache(collect_env.get_pretty_env_info)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def assets() -> Path:
    import lm_eval_ensemble

    return Path(lm_eval_ensemble.__file__).parent / "assets" / "tiny"


@pytest.fixture(scope="session")
def tokenizer(assets: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(assets / "fim")


@pytest.fixture(scope="session")
def diffusion() -> Any:
    from lm_eval_ensemble.harness.diffusion_lm import DiffusionInfill

    return DiffusionInfill(preset="tiny", batch_size=8)


@pytest.fixture(scope="session")
def scored() -> Any:
    from lm_eval_ensemble.harness.scored_lm import ScoredHF

    return ScoredHF(preset="tiny", batch_size=8)


@pytest.fixture(scope="session")
def toy() -> list[dict[str, Any]]:
    from lm_eval_ensemble.data import load_documents

    return load_documents("infill_toy")
