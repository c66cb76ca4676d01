"""The published files by a web server on loopback: fetched once, checked, and told when they are not what they should be."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lm_eval_ensemble import data
from scripts import fetch_data


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[data.Source]]:
    """Three published files: a good one, one that is another by now, and one that is gone."""
    (tmp_path / "www").mkdir()
    for name in ("good.jsonl", "changed.jsonl"):
        (tmp_path / "www" / name).write_text(name)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path / "www"))) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        digests = {"good": hashlib.sha256(b"good.jsonl").hexdigest(), "changed": "0" * 64, "gone": "0" * 64}
        url = f"http://127.0.0.1:{web.server_port}"
        found = [data.Source(f"set/{name}.jsonl", digest, f"{url}/{name}.jsonl") for name, digest in digests.items()]
        monkeypatch.setattr(fetch_data, "published", lambda: found)
        yield found
        web.shutdown()


def test_what_is_published_has_an_address_and_a_digest() -> None:
    found = fetch_data.published()
    assert len({source.path for source in found}) == len(found) == 9
    assert all(source.url and source.url.startswith("https://") and len(source.sha256) == 64 for source in found)


def test_files_are_kept_and_those_that_are_not_the_published_ones_told(
    sources: list[data.Source], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    assert fetch_data.main([str(folder)]) == 1
    good, changed, gone, total = capsys.readouterr().out.splitlines()
    assert good == "set/good.jsonl: 10 bytes, sha256 right"
    assert changed.startswith("set/changed.jsonl: NOT fetched")
    assert "expected 000" in changed
    assert "404" in gone
    assert total == f"1 of 3 files are in {folder}."
    assert [path.name for path in folder.rglob("*.*")] == ["good.jsonl"]

    assert fetch_data.main([str(folder)]) == 1
    assert capsys.readouterr().out.splitlines()[0].endswith("(was there)")


def test_without_a_folder_it_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch_data.main([]) == 2
    assert "scripts.fetch_data FOLDER" in capsys.readouterr().out
