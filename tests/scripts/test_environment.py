"""The environment of the doors: what the lock holds, and what a person is told when it cannot be set up."""

from __future__ import annotations

import re
import sys
from importlib.metadata import distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from scripts import environment
from scripts.environment import Environment, SetupError

ROOT = Path(__file__).resolve().parent.parent.parent
LINES = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]


def test_the_lock_holds_exact_versions_and_nothing_of_a_machine() -> None:
    for line in LINES:
        assert re.fullmatch(r"[a-z0-9.-]+==[0-9][\w.]*( ; .+)?", line), line
    names = {line.partition("==")[0] for line in LINES}
    assert not {name for name in names if name.startswith(("torch==", "nvidia", "cuda", "triton"))}
    assert "torch" not in names


def asked() -> list[Requirement]:
    """What the package and its development ask for."""
    found = [Requirement(text) for text in requires("lm_eval_ensemble") or ()]
    extras = ("", "api", "dev", "docs", "plots", "quantization", "sweep")
    return [r for r in found if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in extras)]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_every_python_gets_each_package_that_is_asked_for_once_and_in_its_range(python: str) -> None:
    here = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    found: dict[str, str] = {}
    for requirement in map(Requirement, LINES):
        if requirement.marker is None or requirement.marker.evaluate(here):
            assert requirement.name not in found, requirement.name
            found[requirement.name] = str(requirement.specifier)[2:]
    for requirement in asked():
        name = re.sub(r"[-_.]+", "-", requirement.name.lower())
        if name not in ("torch", "lm-eval-ensemble"):
            assert requirement.specifier.contains(found[name]), f"{requirement} but {found[name]}"


def test_every_upper_bound_says_why() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    bounded = [line for line in text.splitlines() if re.search(r'"[\w-]+>=[\d.]+,<', line)]
    assert {line.split(">=")[0].strip(' "') for line in bounded} == {"lm-eval", "transformers"}
    assert all("  # " in line for line in bounded)


def test_the_tests_run_on_what_is_locked() -> None:
    """In the environment that ``make test`` sets up; those of test-lowest and test-latest hold other versions."""
    stamp = Path(sys.prefix) / "installed"
    if not stamp.is_file() or not stamp.read_text().startswith("locked "):
        return
    here = {re.sub(r"[-_.]+", "-", d.name.lower()): d.version for d in distributions()}
    for requirement in map(Requirement, LINES):
        if requirement.marker is None or requirement.marker.evaluate():
            assert here[requirement.name] == str(requirement.specifier)[2:]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("ERROR: Could not find a version\nNewConnectionError(...): Temporary failure in name resolution", "cannot be reached"),
        ("WARNING: Location '/x' is ignored: it is neither\nERROR: ResolutionImpossible: for help", "PIP_FIND_LINKS"),
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "The disk is full"),
        ("ERROR: No matching distribution found for torch==2.13.0", "make TORCH="),
        (
            "noise\nERROR: No matching distribution found for furo==1\n",
            "It said: ERROR: No matching distribution found for furo",
        ),
    ],
)
def test_why_pip_failed_is_said_in_words(said: str, told: str) -> None:
    assert told in environment.cause(said)


def test_an_old_python_is_told_which_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    with pytest.raises(SetupError, match=r"Python 3\.9\.18 runs this .* 3\.10 or newer .* make PYTHON="):
        environment.main(["locked"])


@pytest.mark.parametrize("beside", [[], ["pyvenv.cfg"]], ids=["a folder", "a broken environment"])
def test_a_folder_with_other_things_is_left_alone(tmp_path: Path, beside: list[str]) -> None:
    for name in ["thesis.txt", *beside]:
        (tmp_path / name).write_text("years of work")
    with pytest.raises(SetupError, match=r"holds something else than an environment \(thesis\.txt\)"):
        Environment(str(tmp_path), "torch").install("locked")
    assert (tmp_path / "thesis.txt").is_file()


def test_a_file_or_a_dead_link_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("/nowhere")
    for name in ("file", "link"):
        with pytest.raises(SetupError, match=rf"{name} is a file or a link and no folder"):
            Environment(str(tmp_path / name), "torch").install("locked")


def test_a_broken_environment_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its Python is a link to one that is gone. Everything up to pip is real; pip has no index, and that is what is told: of
    torch, or of pip itself where Python comes with an old one (3.11.2 with 23.0)."""
    folder = tmp_path / "with a blank" / ".venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text("home = /gone\n")
    (folder / "bin" / "python").symlink_to("/gone/python")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.chdir(ROOT)
    with pytest.raises(SetupError, match=r"pip could not install (torch|pip)\. .* The whole log: .*install\.log"):
        Environment(str(folder), "torch==2.13.0").install("locked")
    assert "is broken (its Python or its pip does not run) and is made anew" in capsys.readouterr().err
    assert (folder / "bin" / "python").exists()


def test_another_python_than_the_folders_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ".venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    with pytest.raises(SetupError, match=r"holds Python 3\.1\d, but .* is 3\.14"):
        Environment(str(folder), "torch").install("locked")


def test_a_finished_environment_is_recognised_and_a_changed_lock_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_text("a==1\n")
    found = Environment(str(tmp_path / ".venv"), "torch")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    found.python.symlink_to(sys.executable)
    found.stamp.write_text(found._wanted("locked"))
    monkeypatch.setattr(found, "_pip", lambda *_: pytest.fail("nothing was to be installed"))
    found.install("locked")
    (tmp_path / "requirements.lock").write_text("a==2\n")
    asked: list[str] = []
    monkeypatch.setattr(found, "_pip", lambda title, _: asked.append(title))
    found.install("locked")
    assert asked == ["torch", "what requirements.lock lists", "the package itself"]
