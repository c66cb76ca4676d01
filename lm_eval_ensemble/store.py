"""Candidates that outlive a run: a killed run goes on where it stopped, a changed one starts afresh.

One sqlite file (WAL), one JSON record per candidate. The key is a hash of all that decides an answer: the member's
fingerprint, the request (with sample and variant, which name the random stream), and the version of our own code. Batch size is
not part of it (it moves log-probabilities by about 1e-6); the kind of device is. Every record has a checksum. In a run of
several machines each has a file of its own, with a rollback journal (WAL needs memory they share), and reads all of them.

The store never stops a run that has begun: where it cannot be read or written, one warning says so and the run goes on
without it. A file that is not ours is refused at the start and left as it is; only a damaged store of ours is set aside.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from lm_eval_ensemble import __version__
from lm_eval_ensemble.errors import ConfigError
from lm_eval_ensemble.members.base import Ledger, Member
from lm_eval_ensemble.types import Candidate, InfillRequest

__all__ = ["ALGORITHM", "STORE_VARIABLE", "Store", "default_path", "open_store"]

#: raise it with every change of our code that changes answers: decoding, prompts, windows, lengths, random streams.
ALGORITHM = 1
#: a path, or ``off``: what ``store=`` is where it is not given.
STORE_VARIABLE = "LM_EVAL_ENSEMBLE_STORE"

_FORMAT, _OURS = 1, 0x6C656E73  # user_version and application_id of the file
_SQLITE = b"SQLite format 3\0"  # how a file of sqlite begins; bytes 68 to 71 are its application_id
_NOT_OURS = "store={}: {}, which is left as it is; expected a new file or one of our stores. Give another path, or store=off."
_PATIENCE = 30.0  # seconds to wait for another process that writes
_inherited: list[sqlite3.Connection] = []

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


def default_path() -> str:
    """``$LM_EVAL_ENSEMBLE_STORE``, else ``lm_eval_ensemble/candidates.sqlite`` in the user's cache folder."""
    return os.environ.get(STORE_VARIABLE) or str(_cache_path())


def _cache_path() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "lm_eval_ensemble", "candidates.sqlite")


def open_store(setting: str | None = None, machine: int | None = None) -> Store | None:
    """The store at a path (None: the default one); None if the setting is ``off`` or the file cannot be used.

    :param machine: the number of this machine in a run of several, which gives it a file of its own.
    :raises ConfigError: the file is something else than a store.
    """
    path = setting or default_path()
    if path == "off":
        return None
    store = Store(Path(path).expanduser(), machine)
    return store if store.usable else None


class Store:
    """A file of candidates; several threads and several processes of a machine may use it at the same time.

    ``reused`` and ``added`` count candidates of this run. What the file lacks is looked up in those of other machines beside it
    (``candidates.machine0.sqlite``, ...), which are only read.
    """

    def __init__(self, path: Path, machine: int | None = None) -> None:
        self._base = path
        self.path = path if machine is None else path.with_name(f"{path.stem}.machine{machine}{path.suffix}")
        self._journal = "WAL" if machine is None else "DELETE"
        self.reused = self.added = 0
        self._fingerprints: weakref.WeakKeyDictionary[Member, dict[str, Any] | None] = weakref.WeakKeyDictionary()
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._given_up = self._used = False
        self._owner = os.getpid()

    @property
    def usable(self) -> bool:
        """True if the file can be read and written (it is created if need be)."""
        return self._attempt(lambda connection: True, False)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and self._owner != os.getpid():
                _inherited.append(self._connection)  # to close it in a forked child would harm the parent's
            elif self._connection is not None:
                self._connection.close()
            self._connection = None

    def __del__(self) -> None:
        self.close()

    def read(self, keys: Sequence[str]) -> dict[str, Candidate]:
        """The candidates stored under these keys, without a member's name; damaged records are left out."""
        found = _sound(self._attempt(lambda connection: _select(connection, keys), []), self.path)
        for path in self._others():
            if missing := [key for key in keys if key not in found]:
                found |= _sound(_look_up(path, missing), path)
        return found

    def _others(self) -> list[Path]:
        """The files of other machines, and that of runs on one, if this is not it."""
        known = re.compile(rf"{re.escape(self._base.stem)}(\.machine\d+)?{re.escape(self._base.suffix)}")
        try:
            found = [path for path in self._base.parent.iterdir() if known.fullmatch(path.name)]
        except OSError:  # a folder that may be entered but not listed, a network that is away
            return []
        return sorted(path for path in found if path != self.path and path.is_file())

    def write(self, rows: Mapping[str, Candidate]) -> None:
        """Store candidates: when this returns, other processes see them and a kill cannot undo it."""
        records = [(key, record := _encode(candidate), _checksum(key, record)) for key, candidate in rows.items()]

        def insert(connection: sqlite3.Connection) -> int:
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany("INSERT OR REPLACE INTO candidates VALUES (?, ?, ?)", records)
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
            return len(records)

        added = self._attempt(insert, 0)
        with self._lock:
            self.added += added

    def ask(self, member: Member, requests: Sequence[InfillRequest]) -> list[Candidate]:
        """A member's candidates, one per request. Those that are not here are generated, in the batches that a run without a
        store has, and kept batch by batch."""
        if member not in self._fingerprints:
            self._fingerprints[member] = member.fingerprint()
        fingerprint = self._fingerprints[member]
        if fingerprint is None:
            return list(member.propose(requests))
        keys = _keys(fingerprint, [member.relevant(request) for request in requests])
        page = _Page(self, keys, member.name)
        known = len(page)
        self.reused += known
        if known:
            unseen = " What runs behind a server cannot be seen: store=off asks it again." if fingerprint.get("server") else ""
            logger.info("%s: %d of %d candidates come from %s.%s", member.name, known, len(keys), self.path, unseen)
        if member.resumes:
            return list(member.propose(requests, page))
        for start in range(0, len(requests), member.chunk):
            numbers = range(start, min(start + member.chunk, len(requests)))
            if any(i not in page for i in numbers):
                found = member.propose([requests[i] for i in numbers])
                page.add(dict(zip(numbers, found, strict=True)))
        return [page[i] for i in range(len(requests))]

    def count(self) -> int:
        """Number of stored candidates."""
        return int(self._attempt(lambda c: c.execute("SELECT count(*) FROM candidates").fetchone()[0], 0))

    def _attempt(self, work: Callable[[sqlite3.Connection], Result], otherwise: Result) -> Result:
        """What ``work`` gives. A damaged file is set aside and a new one begun; a place that cannot be used is given up."""
        with self._lock:
            for _ in range(2):
                if self._given_up:
                    return otherwise
                try:
                    if self._owner != os.getpid():
                        self.close()
                    if self._connection is None:
                        self._connection, self._owner = _connect(self.path, self._journal), os.getpid()
                        self._used = True
                    return work(self._connection)
                except ConfigError as error:
                    if not self._used:
                        raise
                    self._give_up(error)  # what was a store when the run began is something else now
                except (sqlite3.OperationalError, OSError) as error:
                    self._give_up(error)
                except sqlite3.DatabaseError as error:
                    self._set_aside(error)
            self._give_up("damaged again")
            return otherwise

    def _give_up(self, reason: object) -> None:
        if not self._given_up:
            logger.warning(
                "The store %s cannot be used (%s); the run goes on without it and cannot be resumed.", self.path, reason
            )
        self._given_up = True
        self.close()

    def _set_aside(self, reason: object) -> None:
        """Rename the damaged file, unless another process has done so already."""
        self.close()
        try:
            with open(f"{self.path}.lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not _is_damaged(self.path, self._journal):
                    return
                number = next(n for n in range(1, 10**6) if not Path(f"{self.path}.damaged-{n}").exists())
                for ending in ("", "-wal", "-shm"):
                    with contextlib.suppress(FileNotFoundError):
                        Path(f"{self.path}{ending}").replace(f"{self.path}.damaged-{number}{ending}")
        except (OSError, sqlite3.OperationalError, ConfigError) as error:
            self._give_up(error)
            return
        logger.warning(
            "The store %s is damaged (%s): it was set aside as %s.damaged-%d, and a new one is begun.",
            *(self.path, reason, self.path.name, number),
        )


class _Page(Ledger):
    """A ledger that begins with what the store has, and writes there what is added."""

    def __init__(self, store: Store, keys: Sequence[str], member: str) -> None:
        super().__init__()
        self._store, self._keys, self._member = store, keys, member
        stored = store.read(list(dict.fromkeys(keys)))
        self.update({i: replace(stored[key], member=member) for i, key in enumerate(keys) if key in stored})

    def add(self, found: Mapping[int, Candidate]) -> None:
        # A run uses what it stores, so that a resumed run cannot see anything else (a tuple in info becomes a list).
        new = {i: _decode(_encode(candidate)) or candidate for i, candidate in found.items() if i not in self}
        self._store.write({self._keys[i]: candidate for i, candidate in new.items()})
        super().add({i: replace(candidate, member=self._member) for i, candidate in new.items()})


def _keys(fingerprint: Mapping[str, Any], requests: Sequence[InfillRequest]) -> list[str]:
    member = _digest({"code": [__version__, ALGORITHM], "member": fingerprint})
    return [_digest({"member": member, **asdict(request)}) for request in requests]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()


def _checksum(key: str, record: str) -> str:
    return hashlib.sha256(f"{key} {record}".encode()).hexdigest()[:16]


def _encode(candidate: Candidate) -> str:
    record = {name: getattr(candidate, name) for name in ("text", "raw", "logprobs", "tokens")}
    return json.dumps({**record, "info": dict(candidate.info)})


def _decode(record: str) -> Candidate | None:
    """A record as a candidate without a member's name; None if it is none."""
    try:
        value = json.loads(record)
        logprobs = None if value["logprobs"] is None else tuple(value["logprobs"])
        # All candidates are kept to the end: what they have in common is one object.
        tokens = None if value["tokens"] is None else tuple(map(sys.intern, value["tokens"]))
        text, raw, info = str(value["text"]), str(value["raw"]), {sys.intern(k): v for k, v in value["info"].items()}
        return Candidate("", text, raw, logprobs=logprobs, tokens=tokens, info=info)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _select(connection: sqlite3.Connection, keys: Sequence[str]) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    for start in range(0, len(keys), 500):
        part = list(keys[start : start + 500])
        query = f"SELECT key, record, checksum FROM candidates WHERE key IN ({','.join('?' * len(part))})"
        rows += connection.execute(query, part).fetchall()
    return rows


def _sound(rows: Sequence[tuple[str, str, str]], path: Path) -> dict[str, Candidate]:
    """The candidates of the rows whose checksum is right."""
    found = {}
    for key, record, checksum in rows:
        candidate = _decode(record) if checksum == _checksum(key, record) else None
        if candidate is None:
            logger.warning("%s holds a damaged record: it is not used, the candidate is generated again.", path)
        else:
            found[key] = candidate
    return found


def _look_up(path: Path, keys: Sequence[str]) -> list[tuple[str, str, str]]:
    """Rows of another machine's file, which may be written meanwhile; nothing if it cannot be read."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_PATIENCE)) as found:
            known = [found.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
            return _select(found, keys) if known == [_OURS, _FORMAT] else []
    except sqlite3.Error as error:
        logger.warning("%s cannot be read (%s): candidates of that machine are generated again.", path, error)
        return []


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(100)


def _is_ours(path: Path) -> bool:
    """Whether a file that cannot be read as a store is one of ours: by the mark in its header, or by its place."""
    return path == _cache_path() or _head(path)[68:72] == _OURS.to_bytes(4, "big")


def _is_damaged(path: Path, journal: str) -> bool:
    try:
        _connect(path, journal).close()
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        return True
    return False


def _connect(path: Path, journal: str = "WAL") -> sqlite3.Connection:
    """The file, checked as a whole, with its table.

    :raises sqlite3.OperationalError: the place cannot be used.
    :raises sqlite3.DatabaseError: the file is a store of ours, and damaged.
    :raises ConfigError: it is something else.
    """
    if path.is_file() and path.stat().st_size and not _head(path).startswith(_SQLITE) and not _is_ours(path):
        # Before sqlite sees it: it takes a very short file for an empty one.
        raise ConfigError(_NOT_OURS.format(path, "found a file that is no database"))
    path.parent.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    while True:
        connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, path, journal)
            return connection
        except BaseException as error:
            connection.close()
            fault = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
            if fault and not _is_ours(path):
                raise ConfigError(_NOT_OURS.format(path, f"found a damaged database that is not ours ({error})")) from None
            # Two processes that begin a new file: sqlite refuses one of them at once instead of letting it wait.
            if (
                not (isinstance(error, sqlite3.OperationalError) and "locked" in str(error))
                or time.monotonic() > begin + _PATIENCE
            ):
                raise
        time.sleep(0.05)


def _prepare(connection: sqlite3.Connection, path: Path, journal: str) -> None:
    def pragma(name: str) -> Any:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]

    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if (owner := pragma("application_id")) != _OURS and (tables or owner):
        raise ConfigError(_NOT_OURS.format(path, "found a database of another program"))
    if (verdict := pragma("quick_check(1)")) != "ok":
        raise sqlite3.DatabaseError(verdict)
    if tables and pragma("user_version") != _FORMAT:
        raise sqlite3.DatabaseError("it was written in the format of another release")
    if not tables:
        # First of all, and into the file itself: by this a damaged store is known as ours.
        connection.execute(f"PRAGMA application_id={_OURS}")
    pragma(f"journal_mode={journal}")
    connection.execute("PRAGMA synchronous=NORMAL")
    if not tables:
        connection.execute(f"PRAGMA user_version={_FORMAT}")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS candidates "
            "(key TEXT PRIMARY KEY, record TEXT NOT NULL, checksum TEXT NOT NULL) WITHOUT ROWID"
        )
