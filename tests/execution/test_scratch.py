"""The scratch folder: emptied whatever a guest left in it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lm_eval_ensemble.execution import Judge, scratch
from tests.execution.helpers import LINUX, job, needs_layers


def test_clear_empties_but_keeps_the_folder(tmp_path: Path) -> None:
    inode = tmp_path.stat().st_ino
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("x")
    (tmp_path / ".1").write_text("a name that clear itself would use")
    (tmp_path / "closed").mkdir(mode=0)
    scratch.clear(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert tmp_path.stat().st_ino == inode


def test_clear_does_not_follow_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (outside / "kept").write_text("x")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    (inside / "file").symlink_to(outside / "kept")
    (inside / "loop").symlink_to("loop")
    scratch.clear(str(inside))
    assert (outside / "kept").read_text() == "x"
    assert outside.stat().st_mode & 0o777 == 0o755


def test_clear_copes_with_nesting_beyond_any_path_length(tmp_path: Path) -> None:
    here = os.getcwd()  # noqa: PTH109
    try:
        os.chdir(tmp_path)
        for _ in range(1000):
            os.mkdir("nested")  # noqa: PTH102
            os.chdir("nested")
    finally:
        os.chdir(here)
    scratch.clear(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_create_takes_the_first_place_that_can_be_written(tmp_path: Path) -> None:
    folder = Path(scratch.create(str(tmp_path)))
    assert folder.parent == tmp_path.resolve()
    assert folder.stat().st_mode & 0o777 == 0o700
    scratch.remove(str(folder))
    assert not folder.exists()
    elsewhere = Path(scratch.create(str(tmp_path / "missing")))
    assert elsewhere.parent != tmp_path
    elsewhere.rmdir()


@needs_layers
@pytest.mark.parametrize(
    "act",
    [
        "    for n in range(100):\n        with open(str(n), 'wb') as file: file.write(bytes(1 << 20))\n",
        "    for n in range(100_000): open(str(n), 'w').close()\n",
        "    import os\n    file = os.open('a', os.O_CREAT | os.O_RDWR)\n    os.posix_fallocate(file, 0, 1 << 20)\n",
    ],
    ids=["100 MB in small files", "100,000 files", "fallocate"],
)
def test_the_folder_of_a_guest_is_bounded(act: str) -> None:
    body = f"    try:\n{textwrap.indent(act, '    ')}    except OSError:\n        return 'refused'\n    return 'done'\n"
    with Judge(1, 20.0, progress=False) as judge:
        if not any(layer.startswith("scratch limit") for layer in judge.layers):
            pytest.skip("only root may mount a folder here")
        found = judge.run(
            [
                job(body, test="def check(c):\n    assert c(1) == 'refused'\n"),
                job("    open('n', 'w').write('x')\n    return x + 1\n"),
            ]
        )
    assert [v.why for v in found] == ["", ""]


def _may_mount() -> bool:
    return LINUX and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _may_mount(), reason="mounting a small folder is for root")
@pytest.mark.parametrize("options", ["size=1m", "nr_inodes=30"])
def test_a_small_temporary_folder_that_a_job_fills(options: str, tmp_path: Path) -> None:
    """In a mount namespace of its own: TMPDIR is small, one job writes all it can, the others are right."""
    code = f"""
import tempfile; tempfile.tempdir = {str(tmp_path)!r}
from lm_eval_ensemble.execution import Job, judge
fill = "    try:\\n        while True: x.append(open(str(len(x)), 'wb').write(bytes(9999)))\\n    except OSError: return 7\\n"
use = "    open('n', 'w').write('y' * 9999)\\n    return 7  # "
test = "def check(c):\\n    assert c([]) == 7\\n"
jobs = [Job("def f(x):\\n", body, "", test, "f") for body in [fill, *(use + str(n) for n in range(30))]]
print([v.why for v in judge(jobs, workers=2, timeout=20.0, progress=False) if not v.passed])
"""
    command = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o {options} none "$1" && exec "$2" -c "$3"', "sh"]
    done = subprocess.run([*command, str(tmp_path), sys.executable, code], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr[-2000:]


@pytest.mark.skipif(not _may_mount(), reason="mounting a small folder is for root")
def test_a_temporary_folder_without_room_is_one_clear_message(tmp_path: Path) -> None:
    code = f"import tempfile; tempfile.tempdir = {str(tmp_path)!r}\nfrom lm_eval_ensemble.execution import judge\njudge([])\n"
    command = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o nr_inodes=1 none "$1" && exec "$2" -c "$3"', "sh"]
    done = subprocess.run([*command, str(tmp_path), sys.executable, code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "SandboxError: The judge needs a folder for temporary files and cannot make one: No space left" in done.stderr
    assert "sandbox=off" not in done.stderr


@pytest.mark.skipif(not LINUX or os.geteuid() != 0, reason="changes to another user")
def test_a_limit_on_processes_is_named() -> None:
    """As another user, since the limit does not bind root; one that may read these sources wherever they are."""
    code = "from lm_eval_ensemble.execution import judge\njudge([])\n"
    reading = "+dac_override,+dac_read_search"
    command = ["setpriv", "--reuid", "61234", "--regid", "61234", "--clear-groups", "--inh-caps", reading]
    command += ["--ambient-caps", reading, "prlimit", "--nproc=1", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "HOME": "/tmp"}, cwd="/")
    assert "SandboxError" in done.stderr, done.stderr[-2000:]
    assert "ulimit -u" in done.stderr
