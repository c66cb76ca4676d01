"""The wheel: what is in it, that plain lm_eval finds it, and that nothing stays after uninstalling."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import lm_eval_ensemble

ROOT = Path(__file__).resolve().parent.parent
VERSION = lm_eval_ensemble.__version__

FIND = """
import lm_eval.models
from lm_eval.api import registry
from lm_eval.tasks import TaskManager
print(sorted(n for n in ("ensemble-ppl", "hf-scored") if n in registry.model_registry),
      "infill_toy" in TaskManager(include_defaults=False).all_tasks)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with wheel and sdist, as ``make dist`` builds them."""
    if not (ROOT / "pyproject.toml").is_file():
        pytest.fail("run the tests from a checkout")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], check=True, cwd=ROOT, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """A fresh virtual environment with the wheel; the dependencies are seen through a path line."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    # A folder added by a .pth line is searched, but its own .pth files (an editable install of ours) are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(command, check=True)
    return python


def run(python: Path, *arguments: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([python, *arguments], capture_output=True, text=True, check=False, cwd=python.parent, env=clean)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_published_passes_twine_and_names_its_version(built: Path) -> None:
    files = sorted(path.name for path in built.iterdir())
    assert files == [f"lm_eval_ensemble-{VERSION}-py3-none-any.whl", f"lm_eval_ensemble-{VERSION}.tar.gz"]
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


def test_the_sdist_gives_the_same_wheel(built: Path, wheel: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*command, str(next(built.glob("*.tar.gz")))], check=True)
    again, first = (
        {info.filename: info.CRC for info in zipfile.ZipFile(path).infolist()} for path in (next(tmp_path.glob("*.whl")), wheel)
    )
    assert again == first


def test_the_wheel_holds_tasks_weights_presets_and_the_hook(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "lm_eval_ensemble_autoload.pth",
        "lm_eval_ensemble/py.typed",
        "lm_eval_ensemble/presets/tiny.yaml",
        *(f"lm_eval_ensemble/report/page/page.{kind}" for kind in ("html", "css", "js")),
        "lm_eval_ensemble/tasks/infill_toy/problems.yaml",
        "lm_eval_ensemble/tasks/humaneval_infill/humaneval_infill.yaml",
        *(f"lm_eval_ensemble/grids/{path.name}" for path in (ROOT / "grids").iterdir()),
        "lm_eval_ensemble/assets/tiny/mdm/model.safetensors",
        "lm_eval_ensemble/assets/tiny/fim/tokenizer.json",
    ):
        assert name in names
    assert not [n for n in names if n.startswith(("tests/", "tasks/", "grids/", "scripts/"))]


def test_plain_lm_eval_finds_the_wheel_and_judges_with_it(environment: Path) -> None:
    where = run(environment, "-c", "import lm_eval_ensemble; print(lm_eval_ensemble.__file__)")
    assert str(environment.parent.parent) in where
    assert run(environment, "-c", FIND).strip() == "['ensemble-ppl', 'hf-scored'] True"
    code = (
        "from lm_eval_ensemble.execution import Job, judge\n"
        "test = 'def check(c):\\n    assert c(1) == 2\\n'\n"
        "jobs = [Job('def f(x):\\n', f'    return x + {n}\\n', '', test, 'f') for n in (1, 2)]\n"
        "print([v.status for v in judge(jobs)])"
    )
    assert run(environment, "-c", code).strip() == "['pass', 'fail']"
    assert "uncertainty_families " in run(environment, "-m", "lm_eval_ensemble", "sweep", "--list")


def test_uninstalling_leaves_nothing(environment: Path) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(environment), "uninstall", "--quiet", "--yes", "lm_eval_ensemble"]
    subprocess.run(command, check=True)
    site = next(environment.parent.parent.glob("lib/python*/site-packages"))
    assert [p.name for p in site.rglob("*ensemble*")] == []
    code = "import lm_eval.models\nfrom lm_eval.api import registry\nprint('ensemble-ppl' in registry.model_registry)"
    assert run(environment, "-c", code).strip() == "False"
