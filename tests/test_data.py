from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lm_eval_ensemble import data
from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.execution.files import Row, _documents, sets_of


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No folder, no cache, no network."""
    monkeypatch.delenv(data.DATA_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.usefixtures("nowhere")
def test_missing_data_names_every_place_and_what_to_set() -> None:
    with pytest.raises(DataError) as error:
        data.load_documents("single-line")
    text = str(error.value)
    for part in ("LM_EVAL_ENSEMBLE_DATA (not set)", "raw.githubusercontent.com", "HF_HUB_OFFLINE", "infill_toy"):
        assert part in text


@pytest.mark.usefixtures("nowhere")
def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        data.load_documents("santacoder-py", str(tmp_path))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / data.SETS["single-line"].sources[0].path
    path.parent.mkdir()
    path.write_bytes(b"not the file")
    with pytest.raises(DataError, match="sha256 is"):
        data.load_documents("single-line", str(tmp_path))


def test_unknown_sets_name_the_nearest() -> None:
    with pytest.raises(DataError, match="Did you mean 'single-line'"):
        data.load_documents("singel-line")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server on loopback that serves one file."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "rows.jsonl").write_bytes(b'{"a": 1}\n{"a": "\xc2\x85"}\n')

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{web.server_port}/rows.jsonl"
        web.shutdown()


def test_a_download_is_checked_and_kept(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    content = (tmp_path / "www" / "rows.jsonl").read_bytes()
    source = data.Source("set/rows.jsonl", hashlib.sha256(content).hexdigest(), server)
    assert data._download(source) == content
    (tmp_path / "www" / "rows.jsonl").unlink()
    assert data._download(source) == content
    assert [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()] == ["rows.jsonl"]
    # A line separator inside a string is no end of line.
    assert [row["a"] for row in data.read_rows(content, "rows.jsonl")] == [1, "\x85"]


def test_a_wrong_download_is_refused(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(DataError, match="expected 00"):
        data._download(data.Source("set/rows.jsonl", "0" * 64, server))


def test_an_installed_copy_of_the_benchmark_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "human_eval_infilling").mkdir()
    (tmp_path / "human_eval_infilling" / "__init__.py").touch()
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "HumanEval-SingleLineInfilling.jsonl.gz"
    file.touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert data._installed_copy(data.SETS["single-line"]) == file


@pytest.mark.data
@pytest.mark.parametrize("name", data.SETS)
def test_real_sets_have_the_published_shape(name: str) -> None:
    documents = data.load_documents(name)
    assert len(documents) == data.SETS[name].rows
    assert len({d["task_id"] for d in documents}) == len(documents)
    assert all(d["problem"].startswith("HumanEval/") for d in documents)
    if documents[0]["cut"] == "line":
        assert all(d["middle"].endswith("\n") and d["middle"].count("\n") == 1 for d in documents)
        assert all(d["prefix"].endswith("\n") for d in documents)


@pytest.mark.data
def test_the_parquet_file_gives_the_same_rows() -> None:
    import os

    santacoder = data.SETS["santacoder-py"]
    folder = Path(os.environ[data.DATA_VARIABLE])
    rows = data.read_rows((folder / santacoder.sources[1].path).read_bytes(), santacoder.sources[1].path)
    python = [santacoder.document(row) for row in rows if row["language"] == "py"]
    assert python == data.load_documents("santacoder-py")


@pytest.mark.data
def test_ids_that_languages_share_are_judged_as_python(tmp_path: Path) -> None:
    java = {d["task_id"] for d in data.load_documents("santacoder-java")}
    shared = next(d for d in data.load_documents("santacoder-py") if d["task_id"] in java)
    row = Row(0, 1, shared["task_id"], shared["middle"])
    assert _documents([row], tmp_path, sets_of()) == {row.task_id: shared}
    assert _documents([row], tmp_path, sets_of("santacoder_fim_java"))[row.task_id]["test"] == ""


def test_toy_documents_are_whole(toy: list[dict[str, str]]) -> None:
    assert {d["task_id"].split("/")[-1].rstrip("0123456789") for d in toy} == {"line", "block", "span"}
    sources = {d["problem"]: set() for d in toy}  # type: dict[str, set[str]]
    for d in toy:
        sources[d["problem"]].add(d["prefix"] + d["middle"] + d["suffix"])
    assert all(len(programs) == 1 for programs in sources.values())
