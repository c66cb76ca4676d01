"""What every command begins with: a package of a stranger is found, a broken one is told and harms nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUNS = Path(__file__).resolve().parent / "fixtures" / "runs"
MODULE = """
from lm_eval.api.registry import register_model

from lm_eval_ensemble.scoring import SCORES, Score
from lm_eval_ensemble.selection import SELECTORS
from lm_eval_ensemble.selection.base import lowest

SCORES["opening"] = Score("opening", ("fim",), "nats per token", lambda s: -s.middle[0] if s.middle else None, "first token")
SELECTORS["briefest"] = lambda case: lowest(case, [float(len(s.candidate.text)) for s in case.candidates], "length")


def member():
    from lm_eval_ensemble.harness.base import InfillLM

    @register_model("strangers")
    class Stranger(InfillLM):
        pass


member()
"""
LOOK = """
import lm_eval.models
from lm_eval.api.registry import get_model
from lm_eval_ensemble.scoring import SCORES
print(get_model("strangers").__name__, "opening" in SCORES)
"""


@pytest.fixture
def stranger(tmp_path: Path) -> dict[str, str]:
    """An environment with an installed package that registers three things, and one that cannot be imported."""
    (tmp_path / "of_a_stranger.py").write_text(MODULE)
    for package, module in (("stranger", "of_a_stranger"), ("broken", "no_such_module")):
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[lm_eval_ensemble]\nmine = {module}\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment)


def test_a_command_ranks_the_selector_and_names_what_is_broken(stranger: dict[str, str]) -> None:
    done = run(stranger, "-m", "lm_eval_ensemble", "select", str(RUNS / "ensemble"))
    assert done.returncode == 0, done.stderr
    assert "briefest" in done.stdout
    assert "broken: its entry point mine = no_such_module cannot be imported (ModuleNotFoundError" in done.stderr
    assert "Traceback" not in done.stderr


def test_lm_eval_finds_the_member_and_the_score(stranger: dict[str, str]) -> None:
    done = run(stranger, "-c", LOOK)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["Stranger", "True"]


TALK = """
import warnings
from lm_eval_ensemble.harness.base import InfillLM
InfillLM("cpu")
warnings.warn_explicit("torch: this will move", FutureWarning, "torch/moves.py", 1)
"""


def test_users_do_not_see_deprecations_unless_they_ask(tmp_path: Path) -> None:
    (program := tmp_path / "block.py").write_text(TALK)
    silent = run({**os.environ}, str(program))
    assert (silent.returncode, "this will move" in silent.stderr) == (0, False)
    assert "FutureWarning: torch: this will move" in run({**os.environ}, "-W", "default", "-c", TALK).stderr
