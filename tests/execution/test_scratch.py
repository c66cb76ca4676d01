"""The scratch folder: emptied whatever a guest left in it."""

from __future__ import annotations

import os
from pathlib import Path

from lm_eval_ensemble.execution import scratch


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
