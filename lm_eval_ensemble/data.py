"""The infill data sets: where their rows come from, and the one shape every document has.

A document is a dict with ``task_id, problem, prefix, suffix, middle, cut`` and, where answers can be
executed, ``test, entry_point`` (empty strings otherwise). ``problem`` names the cluster: documents cut from
the same program are not independent. ``prefix + middle + suffix`` is the whole program.

Rows are looked for in this order: the folder given (``--metadata data_dir=`` or ``LM_EVAL_ENSEMBLE_DATA``),
an installed copy of OpenAI's ``human_eval_infilling`` (from its repository), the public origin at a pinned
revision. Every file is checked against its sha256.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lm_eval_ensemble.errors import DataError, did_you_mean

__all__ = [
    "DATA_VARIABLE",
    "SETS",
    "DataSet",
    "Source",
    "check_document",
    "fetch",
    "find_file",
    "find_rows",
    "load_documents",
    "on_disk",
    "read_rows",
    "tasks_folder",
]

DATA_VARIABLE = "LM_EVAL_ENSEMBLE_DATA"
_OPENAI = "https://raw.githubusercontent.com/openai/human-eval-infilling/88062ff9859c875d04db115b698ed4b0f0395170/data/"
# The Hub's parquet file, byte for byte, in a repository whose revision can be pinned.
_SANTACODER = (
    "https://raw.githubusercontent.com/QwenLM/Qwen2.5-Coder/d5ead97fea36bca3744e1a4c49e882f6fa2f406a/"
    "qwencoder-eval/base/benchmarks/fim-bench/hm_fim/data/train.parquet"
)

Document = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """One file that holds a data set: its path under the data folder, its sha256, and its public address (None: it has none
    of its own, as a file that was cut out of a published one)."""

    path: str
    sha256: str
    url: str | None


@dataclass(frozen=True)
class DataSet:
    """``sources`` in order of preference; ``document`` turns a raw row into a document.

    ``language`` picks the rows of a file that holds several. ``executed``: the documents carry tests.
    """

    name: str
    rows: int
    sources: tuple[Source, ...]
    document: Callable[[Mapping[str, Any]], Document]
    language: str | None = None
    executed: bool = True


def _humaneval(cut: str) -> Callable[[Mapping[str, Any]], Document]:
    def document(row: Mapping[str, Any]) -> Document:
        return {
            "task_id": row["task_id"],
            "problem": "/".join(row["task_id"].split("/")[1:3]),
            "prefix": with_newline(row["prompt"]) if cut == "line" else row["prompt"],
            "suffix": row["suffix"],
            "middle": with_newline(row["canonical_solution"]) if cut == "line" else row["canonical_solution"],
            "cut": cut,
            "test": row["test"],
            "entry_point": row["entry_point"],
        }

    return document


def _santacoder(row: Mapping[str, Any]) -> Document:
    # The builder joined lines with "\n" and kept no newline at either end of the blanked line; only python
    # rows carry tests our judge can run.
    match = re.fullmatch(r"humaneval-HumanEval_(\d+)_(.+)\.json-L\d+", row["name"])
    if match is None:
        raise DataError(
            f"santacoder_fim: name {row['name']!r} is not of the form 'humaneval-HumanEval_<n>_<function>.json-L<k>'; "
            "the file is not the published one."
        )
    return {
        "task_id": row["name"],
        "problem": f"HumanEval/{match[1]}",
        "prefix": with_newline(row["prompt"]),
        "suffix": row["suffix"],
        "middle": with_newline(row["canonical_solution"]),
        "cut": "line",
        "test": row["tests"] if row["language"] == "py" else "",
        "entry_point": match[2] if row["language"] == "py" else "",
    }


def _openai(name: str, rows: int, file: str, sha256: str, cut: str) -> DataSet:
    source = Source(f"human-eval-infilling/{file}", sha256, _OPENAI + file)
    return DataSet(name, rows, (source,), _humaneval(cut))


_SANTACODER_PYTHON = Source(
    "santacoder-fim/santacoder-fim-py.jsonl.gz", "352e44d92446fe843d53e8b069c519f21b43d0c04de85d4a8f0357a6172a6e8a", None
)
_SANTACODER_ALL = Source(
    "santacoder-fim/train.parquet", "54d62b5a4f1554ca3f7ab65f901fe1fecdb3eaebac28ebd52a90397c9239c6d9", _SANTACODER
)


def _santacoder_set(language: str, rows: int, *sources: Source) -> DataSet:
    return DataSet(f"santacoder-{language}", rows, sources, _santacoder, language, executed=language == "py")


SETS: dict[str, DataSet] = {
    s.name: s
    for s in (
        _openai(
            "single-line",
            1033,
            "HumanEval-SingleLineInfilling.jsonl.gz",
            "1277073e7ddce163ef68598c2bca777f688a53df99422f097e37362090f88e1f",
            "line",
        ),
        _openai(
            "multi-line",
            5815,
            "HumanEval-MultiLineInfilling.jsonl.gz",
            "2f341612eee1d35da1357a4f365e0c0b3ba6e2b62eb491e88aaefa4855af0349",
            "none",
        ),
        _openai(
            "random-span",
            1640,
            "HumanEval-RandomSpanInfilling.jsonl.gz",
            "b4f330d8a8ff97bf85d9def497dffcae4d741e506449386a877236e422e33e8d",
            "none",
        ),
        _openai(
            "random-span-light",
            164,
            "HumanEval-RandomSpanInfillingLight.jsonl.gz",
            "1432250ecac0cb56e6f97f8faf0970419ef892a98fda7e1f5aa4c4b87209b760",
            "none",
        ),
        _santacoder_set("py", 1043, _SANTACODER_PYTHON, _SANTACODER_ALL),
        _santacoder_set("java", 1780, _SANTACODER_ALL),
        _santacoder_set("js", 1969, _SANTACODER_ALL),
    )
}


def with_newline(text: str) -> str:
    """``text`` ended by a newline; unchanged if it has one."""
    return text if text.endswith("\n") else text + "\n"


def tasks_folder() -> Path:
    """Where the task definitions lie: inside the package in a wheel, beside it in a checkout."""
    inside = Path(__file__).parent / "tasks"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "tasks"


def check_document(
    document: Mapping[str, Any], task: str = "", columns: Sequence[str] = ("prefix", "suffix", "middle")
) -> None:
    """Whether the columns that a task reads are there, and are text; with a ``test`` also its ``entry_point``.

    :raises DataError: names the task, the document and every column at fault.
    """
    tested = ("test", "entry_point") if document.get("test") and "prefix" in columns else ()
    faults = []
    for column in dict.fromkeys((*columns, *tested)):
        if column not in document:
            faults.append(f"column {column!r} is missing")
        elif not isinstance(value := document[column], str):
            faults.append(f"column {column!r} is {type(value).__name__}, expected text")
        elif not _is_unicode(value):
            faults.append(f"column {column!r} is not valid Unicode (half of a surrogate pair)")
    if faults:
        where = f"Task {task!r}, document" if task else "Document"
        raise DataError(
            f"{where} {document.get('task_id', '(no task_id)')!r}: {'; '.join(faults)}. Columns: "
            f"{', '.join(sorted(map(str, document))) or 'none'}."
        )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def load_documents(name: str, data_dir: str | None = None) -> list[Document]:
    """The documents of a set (or ``infill_toy``) in published order.

    :param name: a key of ``SETS``, or ``infill_toy``.
    :param data_dir: folder with local copies, laid out as in ``Source.path``; default ``LM_EVAL_ENSEMBLE_DATA``.
    :raises DataError: unknown name; file damaged; found nowhere (names every place that was tried).
    """
    if name == "infill_toy":
        return _toy_documents()
    if name not in SETS:
        raise DataError(f"Unknown data set {name!r}.{did_you_mean(name, [*SETS, 'infill_toy'])}")
    data_set = SETS[name]
    rows = find_rows(name, data_set.sources, data_dir, _installed_copy(data_set))
    if data_set.language:
        rows = [row for row in rows if row["language"] == data_set.language]
    if len(rows) != data_set.rows:
        raise DataError(f"Data set {name!r}: found {len(rows)} rows, expected {data_set.rows}.")
    return [_document(data_set, index, row) for index, row in enumerate(rows)]


def _document(data_set: DataSet, index: int, row: Mapping[str, Any]) -> Document:
    try:
        return data_set.document(row)
    except KeyError as error:
        columns = ", ".join(sorted(row))
        raise DataError(f"Data set {data_set.name!r}, row {index}: column {error} is missing. Columns: {columns}.") from None


def on_disk(name: str, data_dir: str | None = None) -> bool:
    """Whether ``load_documents`` would find a set without the network."""
    if name == "infill_toy":
        return (tasks_folder() / "infill_toy" / "problems.yaml").is_file()
    return find_file(name, data_dir) is not None


def find_file(name: str, data_dir: str | None = None) -> Path | None:
    """The file that ``load_documents`` would read for a set, without the network; None if there is none."""
    folder, sources = data_dir or os.environ.get(DATA_VARIABLE), SETS[name].sources
    places = [Path(folder).expanduser() / source.path for source in sources] if folder else []
    if (copy := _installed_copy(SETS[name])) is not None:
        places.append(copy)
    places += [_cache_folder() / source.path for source in sources if source.url]
    return next((place for place in places if place.is_file()), None)


def find_rows(
    name: str, sources: Sequence[Source], data_dir: str | None = None, installed: Path | None = None
) -> list[dict[str, Any]]:
    """The raw rows of a set, from the first place that has one of its files.

    :raises DataError: a file is damaged; nothing was found (names every place that was tried).
    """
    folder, tried = data_dir or os.environ.get(DATA_VARIABLE), []
    if folder:
        for source in sources:
            path = Path(folder).expanduser() / source.path
            if path.is_file():
                return read_rows(_checked(path.read_bytes(), source, str(path)), source.path)
            tried.append(f"{path} (no such file)")
    else:
        tried.append(f"{DATA_VARIABLE} (not set)")
    if installed is not None:
        return read_rows(_checked(installed.read_bytes(), sources[0], str(installed)), installed.name)
    for source in sources:
        if source.url is None:
            continue
        try:
            return read_rows(_download(source), source.path)
        except (OSError, urllib.error.URLError) as error:
            tried.append(f"{source.url} ({error})")
    lines = "\n  ".join(tried)
    raise DataError(
        f"Data set {name!r} was not found. Tried:\n  {lines}\nSet {DATA_VARIABLE} (or --metadata data_dir=...) to a "
        f"folder that holds {sources[0].path}, or run `--tasks infill_toy`, which needs no data."
    )


def _installed_copy(data_set: DataSet) -> Path | None:
    """The file in an installed ``human_eval_infilling``: its repository keeps ``data/`` beside the package."""
    spec = importlib.util.find_spec("human_eval_infilling")
    name = Path(data_set.sources[0].path).name
    for location in (spec.submodule_search_locations or []) if spec else []:
        for folder in (Path(location).parent / "data", Path(location) / "data"):
            if (folder / name).is_file():
                return folder / name
    return None


def _checked(content: bytes, source: Source, where: str) -> bytes:
    found = hashlib.sha256(content).hexdigest()
    if found != source.sha256:
        raise DataError(
            f"{where}: sha256 is {found}, expected {source.sha256}. The file is damaged or not the published one; "
            "fetch it again."
        )
    return content


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lm_eval_ensemble" / "data"


def _download(source: Source) -> bytes:
    """The file from the cache or its public address. Honours the Hub's offline switches."""
    if source.url is None:
        raise OSError("no public address")
    for switch in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        if os.environ.get(switch, "").lower() in ("1", "true", "yes", "on") and not (_cache_folder() / source.path).is_file():
            raise OSError(f"not tried: {switch} is set")
    return fetch(source, _cache_folder())


def fetch(source: Source, folder: Path) -> bytes:
    """The content of a file that has a public address; it is kept under ``folder``, and read there the next time.

    :raises DataError: what is there, or what the address gives, is not the published file.
    :raises OSError: the address gives nothing, or the folder cannot be written.
    """
    path = folder / source.path
    if path.is_file():
        return _checked(path.read_bytes(), source, str(path))
    with urllib.request.urlopen(str(source.url), timeout=60) as response:
        content = _checked(response.read(), source, str(source.url))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and moved, so that two ranks downloading at once never see half a file.
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as part:
        part.write(content)
    Path(part.name).replace(path)
    return content


def read_rows(content: bytes, name: str) -> list[dict[str, Any]]:
    """The rows of a file's content: parquet, JSON lines, or one JSON value (a list of rows, or a single row).

    :param name: of the file; a ``.gz`` at its end is undone first.
    :raises ValueError: not in that form; of JSON lines it names the line.
    """
    if name.endswith(".parquet"):
        import pyarrow.parquet

        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
        return rows
    text = gzip.decompress(content) if name.endswith(".gz") else content
    if name.removesuffix(".gz").endswith(".json"):
        value = json.loads(text)
        return value if isinstance(value, list) else [value]
    # By newline only: a question may hold other line separators.
    return [_row(line, number) for number, line in enumerate(text.split(b"\n"), 1) if line.strip()]


def _row(line: bytes, number: int) -> Any:
    """:raises ValueError: no JSON; names the line of the file."""
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"line {number}: {error}") from None


def _toy_documents() -> list[Document]:
    """``infill_toy``: each problem is a program, its tests, and the middles cut out of it."""
    path = tasks_folder() / "infill_toy" / "problems.yaml"
    documents = []
    for problem in yaml.safe_load(path.read_text(encoding="utf-8")):
        for index, gap in enumerate(problem["gaps"]):
            source, middle = problem["source"], gap["middle"]
            if source.count(middle) != 1:
                raise DataError(
                    f"{path}: {problem['name']}, gap {index}: its middle occurs {source.count(middle)} times in the "
                    "source, expected exactly once."
                )
            prefix, suffix = source.split(middle)
            documents.append(
                {
                    "task_id": f"infill_toy/{problem['name']}/{gap['kind']}{index}",
                    "problem": problem["name"],
                    "prefix": prefix,
                    "suffix": suffix,
                    "middle": middle,
                    "cut": "line" if gap["kind"] == "line" else "none",
                    "test": problem["test"],
                    "entry_point": problem["name"],
                }
            )
    return documents
