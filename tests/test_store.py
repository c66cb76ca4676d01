"""The store: what it keeps, what it never serves, and what happens to it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble import store as module
from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.members.base import Ledger, Member
from lm_eval_ensemble.store import Store, default_path, open_store
from lm_eval_ensemble.types import Candidate, InfillRequest


class Counter(Member):
    """Answers with the number of the call; works through its requests two at a time, and may die on the way."""

    wants_partner, offers, resumes, name = False, 1, True, "counter"

    def __init__(self, dies_after: int = 10**6, **facts: Any) -> None:
        self.facts = {"weights": "abc", "dtype": "float32", "temperature": 0.6, **facts}
        self.left, self.batches = dies_after, [[0] * 0]

    def fingerprint(self) -> dict[str, Any] | None:
        return self.facts

    def propose(self, requests: Sequence[InfillRequest], ledger: Ledger | None = None) -> list[Candidate]:
        page = Ledger() if ledger is None else ledger
        for start in range(0, len(requests), 2):
            numbers = [i for i in (start, start + 1) if i < len(requests)]
            if all(i in page for i in numbers):
                continue
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            self.batches.append(numbers)
            page.add({i: self._answer(requests[i]) for i in numbers})
        return [page[i] for i in range(len(requests))]

    def _answer(self, request: InfillRequest) -> Candidate:
        text = f"{request.prefix}{request.sample}\n"
        return Candidate(self.name, text, text + "raw", logprobs=(-0.1, -1 / 3), tokens=("a", "b"), info={"pair": (1, 2)})


class Plain(Counter):
    """The same without a ledger: it is asked for some requests at a time."""

    resumes, chunk = False, 3

    def propose(self, requests: Sequence[InfillRequest], ledger: Ledger | None = None) -> list[Candidate]:
        self.batches.append(list(range(len(requests))))
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return [self._answer(request) for request in requests]


def asked(count: int = 5, **fields: Any) -> list[InfillRequest]:
    return [InfillRequest(f"p{i}\n", "s\n", "task", i, **fields) for i in range(count)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "candidates.sqlite"


def opened(path: Path) -> Store:
    store = open_store(str(path))
    assert store is not None
    return store


@pytest.mark.parametrize("kind", [Counter, Plain])
def test_what_was_finished_before_the_end_is_not_asked_again(path: Path, kind: type[Counter]) -> None:
    whole = kind().propose(asked())
    with pytest.raises(KeyboardInterrupt):
        opened(path).ask(kind(dies_after=1), asked())
    member, store = kind(), opened(path)
    found = store.ask(member, asked())
    done = 2 if kind is Counter else 3
    assert (store.reused, store.added) == (done, 5 - done)
    # The batches that are left are those of a run without a store.
    assert member.batches[1:] == ([[2, 3], [4]] if kind is Counter else [[0, 1]])
    assert [replace(c, info={}) for c in found] == [replace(c, info={}) for c in whole]
    # A run uses what it stores: JSON has no tuples.
    assert [c.info for c in found] == [{"pair": [1, 2]}] * 5


@pytest.mark.parametrize(
    "changed",
    [
        {"request": {"prefix": "other\n"}},
        {"request": {"suffix": "other\n"}},
        {"request": {"sample": 1}},
        {"request": {"variant": 1}},
        {"request": {"doc_id": 7}},
        {"request": {"cut": "line"}},
        {"request": {"until": ("\n",)}},
        {"request": {"max_new_tokens": 3}},
        {"request": {"options": {"temperature": 1.0}}},
        {"request": {"reference": "x"}},
        {"request": {"hint": "x"}},
        {"member": {"weights": "abd"}},
        {"member": {"dtype": "bfloat16"}},
        {"member": {"temperature": 0.7}},
        {"release": "99.0"},
        {"algorithm": module.ALGORITHM + 1},
    ],
    ids=str,
)
def test_any_change_asks_again(path: Path, changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    opened(path).ask(Counter(), asked(1))
    if "release" in changed:
        monkeypatch.setattr(module, "__version__", changed["release"])
    if "algorithm" in changed:
        monkeypatch.setattr(module, "ALGORITHM", changed["algorithm"])
    store = opened(path)
    request = replace(asked(1)[0], **changed.get("request", {}))
    store.ask(Counter(**changed.get("member", {})), [request])
    assert (store.reused, store.added, store.count()) == (0, 1, 2)


def test_what_a_member_does_not_look_at_changes_nothing(path: Path) -> None:
    class Blind(Counter):
        def relevant(self, request: InfillRequest) -> InfillRequest:
            return replace(request, reference=None, hint=None)

    store = opened(path)
    for fields in ({}, {"reference": "x"}, {"hint": "y"}):
        store.ask(Blind(), asked(1, **fields))
    assert (store.reused, store.added) == (2, 1)


def test_a_member_that_cannot_be_known_is_not_stored(path: Path) -> None:
    class Unknown(Counter):
        def fingerprint(self) -> None:
            return None

    store = opened(path)
    assert len(store.ask(Unknown(), asked())) == 5
    assert store.count() == 0


def test_odd_text_comes_back_as_it_was(path: Path) -> None:
    odd = Candidate("m", "\ud800 \x00 é \u2028\n", "'\"; DROP TABLE candidates", logprobs=(-0.0, -1e-320, -1 / 3))
    opened(path).write({"k": odd})
    found = opened(path).read(["k", "missing"])
    assert found == {"k": replace(odd, member="")}
    assert str(found["k"].logprobs) == str(odd.logprobs)


def damage_header(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 400)


def damage_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[1000:] = b"\xff" * (len(content) - 1000)
    path.write_bytes(content)


def another_format(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()


@pytest.mark.parametrize("damage", [damage_header, damage_pages, another_format])
def test_a_damaged_store_is_set_aside_with_a_message(
    path: Path, damage: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if damage is damage_header:  # nothing in the file says that it is ours, its place does
        monkeypatch.setenv("XDG_CACHE_HOME", str(path.parent))
        path = path.parent / "lm_eval_ensemble" / "candidates.sqlite"
    for number in (1, 2):
        first = opened(path)
        first.ask(Counter(), asked())
        first._attempt(lambda c: c.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall(), [])
        first.close()
        damage(path)
        store = opened(path)
        assert store.ask(Counter(), asked())
        assert (store.reused, store.added) == (0, 5)
        store.close()
        assert path.with_name(f"candidates.sqlite.damaged-{number}").exists()
        assert caplog.text.count("was set aside") == number
    path.unlink()


def test_a_store_that_is_damaged_while_it_is_used_does_not_end_the_run(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = opened(path)
    store.ask(Counter(), asked(1))
    store._attempt(lambda c: c.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall(), [])
    store.close()
    damage_pages(path)
    assert len(store.ask(Counter(), asked(3))) == 3
    assert "set aside" in caplog.text


@pytest.mark.parametrize(
    "record", ['{"text": "forged"}', "[]", "{", '{"text": "a", "raw": "a", "logprobs": 3, "tokens": null}']
)
@pytest.mark.parametrize("checked", [False, True])
def test_a_damaged_record_is_not_trusted(path: Path, record: str, checked: bool, caplog: pytest.LogCaptureFixture) -> None:
    store = opened(path)
    right = store.ask(Counter(), asked(2))
    key = store._attempt(lambda c: str(c.execute("SELECT key FROM candidates LIMIT 1").fetchone()[0]), "")
    checksum = module._checksum(key, record) if checked else "0" * 16
    store._attempt(lambda c: c.execute("UPDATE candidates SET record=?, checksum=? WHERE key=?", (record, checksum, key)), None)
    again = opened(path)
    assert again.ask(Counter(), asked(2)) == right
    assert (again.reused, again.added) == (1, 1)
    assert "damaged record" in caplog.text
    assert len(opened(path).read([key])) == 1


def test_a_place_that_cannot_be_used_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "folder.sqlite").mkdir()
    (tmp_path / "file").write_text("x")
    assert open_store(str(tmp_path / "folder.sqlite")) is None
    assert open_store(str(tmp_path / "file" / "candidates.sqlite")) is None
    assert caplog.text.count("cannot be used") == 2


def test_a_full_disk_is_one_warning_and_the_run_goes_on(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = opened(path)
    store._attempt(lambda c: c.execute("PRAGMA max_page_count=4").fetchall(), [])
    member = Counter()
    found = store.ask(member, [InfillRequest("p" * 3000 + str(i), "", "t", i) for i in range(20)])
    assert len(found) == 20
    assert caplog.text.count("cannot be used (database or disk is full)") == 1


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "bookmarks.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    with pytest.raises(ConfigError, match="database of another program"):
        open_store(str(other))
    assert [p.name for p in tmp_path.iterdir()] == ["bookmarks.sqlite"]


def _damaged_database(path: Path) -> bytes:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
        connection.executemany("INSERT INTO bookmarks VALUES (?)", [("u" * 500,)] * 50)
    connection.close()
    return path.read_bytes()[:5000]


@pytest.mark.parametrize(
    "content", [b"Dear reader,\n" * 300, b"x", b"x" * 600, bytes(4096), b"SQLite format 3\0", _damaged_database], ids=range(6)
)
def test_somebodys_file_is_refused_and_left_alone(tmp_path: Path, content: Any) -> None:
    document = tmp_path / "document.txt"
    content = content if isinstance(content, bytes) else content(document)
    document.write_bytes(content)
    with pytest.raises(ConfigError, match=r"document\.txt: found a .*left as it is.*store=off"):
        open_store(str(document))
    assert document.read_bytes() == content
    assert list(tmp_path.iterdir()) == [document]


def test_a_store_that_becomes_somebodys_file_does_not_end_the_run(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = opened(path)
    store.ask(Counter(), asked(1))
    store.close()
    path.write_text("mine")
    assert len(store.ask(Counter(), asked(3))) == 3
    assert caplog.text.count("cannot be used") == 1
    assert path.read_text() == "mine"


def test_threads_share_a_store(path: Path) -> None:
    store = opened(path)
    members = [Counter(name=f"m{n}") for n in range(4)]
    threads = [
        threading.Thread(
            target=store.ask,
            args=(
                member,
                asked(40),
            ),
        )
        for member in members
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (store.added, store.count()) == (160, 160)


def test_processes_share_a_store(path: Path) -> None:
    """Two begin the same new file at once; a third reads while they write."""
    code = (
        "import sys; from pathlib import Path\n"
        "from lm_eval_ensemble.store import Store\n"
        "from lm_eval_ensemble.types import Candidate\n"
        "store = Store(Path(sys.argv[1]))\n"
        "for i in range(60):\n"
        "    store.write({f'{sys.argv[2]}-{i}': Candidate('', 'x', 'x'), f'both-{i}': Candidate('', 'x', 'x')})\n"
        "assert store.added == 120, store.added\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(path), name], stderr=subprocess.PIPE, text=True) for name in "ab"
    ]
    reader = opened(path)
    while any(writer.poll() is None for writer in writers):
        reader.read(["both-0", "a-59"])
    assert [writer.communicate()[1] for writer in writers] == ["", ""]
    assert reader.count() == 180


@pytest.mark.parametrize("name", ["store", "a.b.sqlite", "a[1]*.db"])
def test_files_of_machines_are_found_under_any_name(tmp_path: Path, name: str) -> None:
    for other in ("other.machine0.sqlite", "other"):
        Store(tmp_path / other).write({"b": Candidate("", "x", "x")})
    Store(tmp_path / name, 12).write({"a": Candidate("", "x", "x")})
    assert set(Store(tmp_path / name).read(["a", "b"])) == set(Store(tmp_path / name, 0).read(["a", "b"])) == {"a"}


def test_machines_have_files_of_their_own_and_read_all(path: Path) -> None:
    """Two machines, then one, then three: nothing is generated twice where the files lie beside each other."""
    for machine, requests in ((0, asked(4)[::2]), (1, asked(4)[1::2])):
        store = Store(path, machine)
        assert store.usable
        store.ask(Counter(), requests)
        assert store.path == path.with_name(f"candidates.machine{machine}.sqlite")
        assert store._attempt(lambda c: str(c.execute("PRAGMA journal_mode").fetchone()[0]), "") == "delete"
        store.close()
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    assert set(before) == {"candidates.machine0.sqlite", "candidates.machine1.sqlite"}
    alone = opened(path)
    assert alone.ask(Counter(), asked(6)) == Store(path.with_name("new")).ask(Counter(), asked(6))
    assert (alone.reused, alone.added) == (4, 2)
    alone.close()
    third = Store(path, 2)
    third.ask(Counter(), asked(6))
    assert (third.reused, third.added) == (6, 0)
    assert {name: path.with_name(name).read_bytes() for name in before} == before


def test_another_machines_file_is_read_while_it_is_written(path: Path) -> None:
    writer, reader = Store(path, 0), Store(path, 1)
    writer.write({"a": Candidate("", "x", "x")})
    assert set(reader.read(["a", "b"])) == {"a"}
    writer.write({"b": Candidate("", "y", "y")})
    assert set(reader.read(["a", "b"])) == {"a", "b"}
    assert reader.count() == 0


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100])
def test_another_machines_file_that_cannot_be_read_is_left_alone(
    path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(path, 1)
    store.write({"a": Candidate("", "x", "x")})
    other = path.with_name("candidates.machine0.sqlite")
    other.write_bytes(content)
    path.with_name("candidates.machine0.sqlite.damaged-1").write_bytes(content)
    assert set(store.read(["a", "b"])) == {"a"}
    assert other.read_bytes() == content
    assert ("cannot be read" in caplog.text) == bool(content)


def test_a_forked_child_leaves_the_parents_connection_alone(path: Path) -> None:
    store = opened(path)
    store.write({"parent": Candidate("", "x", "x")})
    child = os.fork()
    if not child:
        try:
            store.write({"child": Candidate("", "y", "y")})
            store.close()
            os._exit(0 if store.count() == 2 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert set(store.read(["parent", "child"])) == {"parent", "child"}
    assert store.count() == 2


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LM_EVAL_ENSEMBLE_STORE", "off")
    assert open_store() is None
    monkeypatch.delenv("LM_EVAL_ENSEMBLE_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_path() == str(tmp_path / "lm_eval_ensemble" / "candidates.sqlite")
    assert open_store("off") is None


def test_records_are_json(path: Path) -> None:
    opened(path).ask(Counter(), asked(1))
    with sqlite3.connect(path) as connection:
        (record,) = connection.execute("SELECT record FROM candidates").fetchone()
    connection.close()
    assert set(json.loads(record)) == {"text", "raw", "logprobs", "tokens", "info"}


def test_a_folder_that_cannot_be_listed_does_not_stop_a_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refused)
    assert len(Store(path).ask(Counter(), asked(3))) == 3
    assert Store(path).count() == 3
