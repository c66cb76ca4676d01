"""Two checkpoints are the same only if their files are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lm_eval_ensemble.members import identity
from lm_eval_ensemble.members.identity import checkpoint_identity, identified, versions


def checkpoint(folder: Path, weights: bytes = b"weights" * 100) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_a_copy_elsewhere_is_the_same_checkpoint(tmp_path: Path) -> None:
    a, b = checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b")
    (b / "notes.md").write_text("not part of the model")
    assert checkpoint_identity(str(a)) == checkpoint_identity(str(b)) is not None


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "modeling.py", "chat.jinja"])
def test_any_file_that_matters_makes_another(tmp_path: Path, name: str) -> None:
    folder = checkpoint(tmp_path / "a")
    before = checkpoint_identity(str(folder))
    # The same size, and the same time of change.
    (folder / name).write_bytes(b"Weights" * 100)
    assert checkpoint_identity(str(folder)) != before


def test_a_subfolder_is_looked_into(tmp_path: Path) -> None:
    (tmp_path / "step2").mkdir()
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "step2" / "model.safetensors"
    weights.write_bytes(b"one")
    first = checkpoint_identity(str(tmp_path), subfolder="step2")
    assert first == checkpoint_identity(str(tmp_path / "step2")) != checkpoint_identity(str(tmp_path))
    weights.write_bytes(b"two")
    assert checkpoint_identity(str(tmp_path), subfolder="step2") != first


def test_large_files_are_known_by_size_time_and_both_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_WHOLE", 10)
    monkeypatch.setattr(identity, "_END", 4)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"head" + b"middle" * 9 + b"tail")
    os.utime(weights, ns=(1, 1))
    before = checkpoint_identity(str(weights))
    for content, time in ((b"Head" + b"middle" * 9 + b"tail", 1), (b"head" + b"middle" * 9 + b"Tail", 1)):
        weights.write_bytes(content)
        os.utime(weights, ns=(time, time))
        assert checkpoint_identity(str(weights)) != before
    weights.write_bytes(b"head" + b"middle" * 9 + b"tail")
    os.utime(weights, ns=(1, 1))
    assert checkpoint_identity(str(weights)) == before
    os.utime(weights, ns=(2, 2))
    assert checkpoint_identity(str(weights)) != before


def test_a_hub_checkpoint_is_known_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789" * 4
    repository = tmp_path / "models--someone--model"
    snapshot = checkpoint(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = {"hub": "models--someone--model", "commit": commit}
    assert checkpoint_identity(str(snapshot)) == found
    assert checkpoint_identity("someone/model") == found
    assert checkpoint_identity("someone/other") is None
    assert checkpoint_identity("no repository at all") is None


def test_paths_among_arguments_are_replaced_by_what_lies_there(tmp_path: Path) -> None:
    folder = str(checkpoint(tmp_path / "a"))
    given = {"peft": folder, "dtype": "float32", "list": [folder, 1], "nested": {"x": None}, "url": "http://x/" + "y" * 5000}
    found = identified(given)
    assert found["peft"] == found["list"][0] == checkpoint_identity(folder)
    assert (found["dtype"], found["list"][1], found["nested"], found["url"]) == ("float32", 1, {"x": None}, given["url"])


def test_versions() -> None:
    assert versions("pydantic", "no-such-package")["no-such-package"] is None
