"""Gaps of the user's own: files of rows in any of the usual shapes, as documents of ``data``.

A row has ``prefix, suffix, middle`` and, if there, ``test, entry_point, problem, cut, language, task_id``. HumanEval's names
are read too: ``prompt`` is the prefix, ``canonical_solution`` the middle, and a missing suffix is empty. Lines end in a newline
alone, as in what models write and ``gaps`` cuts.

What a row leaves out: ``cut`` is ``line`` where the middle is one line that ends in a newline (and no HumanEval function's
whole body), else ``none``; ``language`` is
python; ``problem`` is shared by the gaps of one program, for they are not independent; ``entry_point`` is the function or class
of the program that the test names.
"""

from __future__ import annotations

import argparse
import ast
import csv
import difflib
import functools
import gzip
import io
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval_ensemble.data import Document, check_document, read_rows
from lm_eval_ensemble.errors import ConfigError, DataError

__all__ = [
    "COLUMNS",
    "LONGEST",
    "add_problems_option",
    "compiles",
    "documents_of",
    "files_of",
    "load_problems",
    "name_problems",
    "read_file",
    "title",
]

COLUMNS = ("prefix", "suffix", "middle", "test", "entry_point", "problem", "cut", "language", "task_id")
#: names of other formats -> ours; the first that a row has is taken.
_ALSO = {
    "prefix": ("prefix", "prompt"),
    "middle": ("middle", "canonical_solution"),
    "task_id": ("task_id", "id"),
    "test": ("test", "tests"),
    "language": ("language", "lang"),
}
#: likeness from which a column that is none of ours is one of ours misspelt.
_ALIKE = 0.83
#: characters; a longer file is not compiled. The longest file of the known data sets has under 6,000.
LONGEST = 200_000
_ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
#: runs a test that is the text of doctests.
_DOCTEST = """import doctest
examples = doctest.DocTestParser().get_doctest({text!r}, globals(), "test", None, 0)
told = []
assert not doctest.DocTestRunner(verbose=False).run(examples, out=told.append).failed, "".join(told)
"""
_DEFINED = re.compile(r"^(?:(?:async\s+)?def|class)\s+(\w+)", re.MULTILINE)


def add_problems_option(parser: argparse.ArgumentParser) -> None:
    """``--problems``, of the commands that read a file of completions."""
    parser.add_argument(
        "--problems",
        metavar="FILE",
        action="append",
        default=[],
        help="your own problems (or HumanEval, EvalPlus) instead: a file or folder as for infill_file; may be repeated",
    )


def load_problems(file: Any, setting: str = "--metadata file") -> list[Document]:
    """The gaps of a file, of several files, or of all files of a folder, in order.

    :param file: a path, or a list of paths: JSON lines, JSON, CSV or Parquet, perhaps gzipped, or a folder of such files.
    :param setting: where the path was given, for messages.
    :returns: documents with ``language`` beside the columns of ``data``; ``test`` is "" where there is none.
    :raises ConfigError: no path. :raises DataError: no such file; a file or a row of another shape (with its number).
    """
    paths = files_of(file, setting)
    names = _names(paths)
    found = {path: documents_of(read_file(path), str(path), names[path]) for path in paths}
    seen = Counter(document["task_id"] for documents in found.values() for document in documents)
    for path, documents in found.items():
        own = Counter(document["task_id"] for document in documents)
        if (twice := own.most_common(1)) and twice[0][1] > 1:
            raise DataError(f"{path}: task_id {twice[0][0]!r} stands in {twice[0][1]} rows; every gap needs an id of its own.")
        for document in documents:
            if seen[document["task_id"]] > 1:  # in another file too
                document["task_id"] = f"{names[path]}/{document['task_id']}"
    documents = [document for own in found.values() for document in own]
    if not documents:
        raise DataError(f"{', '.join(map(str, paths))}: holds no gap.")
    name_problems(documents)
    return documents


def files_of(file: Any, setting: str = "--metadata file") -> list[Path]:
    """The files that are meant: those of a folder by name.

    :raises ConfigError: no path was given. :raises DataError: there is no such file, or none of a known kind.
    """
    given = list(file) if isinstance(file, list | tuple) else [file]
    if not given or not all(isinstance(one, str | Path) and str(one) for one in given):
        raise ConfigError(f"{setting}: found {file!r}, expected the path of a file (or a list of paths).")
    paths: list[Path] = []
    for one in given:
        path = Path(one).expanduser()
        if path.is_dir():
            inside = sorted(entry for entry in path.iterdir() if entry.is_file() and entry.name.endswith(_all_endings()))
            if not inside:
                raise DataError(f"{setting} {path}: the folder holds no file that ends in {', '.join(_ENDINGS)} (or .gz).")
            paths += inside
        elif path.is_file():
            paths.append(path)
        else:
            beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            near = difflib.get_close_matches(path.name, beside, n=1)
            raise DataError(f"{setting} {path}: no such file.{f' Did you mean {near[0]}?' if near else ''}")
    return list(dict.fromkeys(paths))


def title(file: Any) -> str:
    """A name for the set: the names of its files, or of the folder, as far as a task's name may hold them."""
    given = list(file) if isinstance(file, list | tuple) else [file]
    names = [re.sub(r"[^\w.+-]+", "-", _stem(Path(str(one)).expanduser().resolve())) for one in given]
    return "+".join(dict.fromkeys(names))[:80]


def _all_endings() -> tuple[str, ...]:
    return (*_ENDINGS, *(ending + ".gz" for ending in _ENDINGS))


def _stem(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    return next((name.removesuffix(ending) for ending in _ENDINGS if name.endswith(ending)), name)


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """The stem of each file, or as much more of its path as tells it from the others."""
    kinds: tuple[Callable[[Path], str], ...] = (_stem, lambda path: path.name, lambda path: f"{path.parent.name}/{path.name}")
    for kind in kinds:
        names = {path: kind(path) for path in paths}
        if len(set(names.values())) == len(paths):
            return names
    return {path: str(path) for path in paths}


def read_file(path: Path) -> list[Any]:
    """The rows of a file of the user's own: JSON lines, JSON, CSV or Parquet, perhaps gzipped.

    :raises DataError: it cannot be read.
    """
    try:
        content = path.read_bytes()
        if not path.name.removesuffix(".gz").endswith((".csv", ".tsv")):
            return read_rows(content, path.name)
        text = (gzip.decompress(content) if path.name.endswith(".gz") else content).decode("utf-8-sig")
        csv.field_size_limit(1 << 30)
        reader = csv.DictReader(io.StringIO(text, newline=""))
        rows, header = list(reader), ",".join(reader.fieldnames or [])
    except Exception as error:  # pyarrow and gzip have errors of their own
        text = " ".join(str(error).split())
        raise DataError(
            f"{path}: cannot be read ({text}). Expected JSON lines, JSON, CSV or Parquet, perhaps gzipped."
        ) from None
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if separator in header and "," not in header:
            raise DataError(
                f"{path}: its columns are separated by {name}, expected commas. Save it with commas, or as JSON lines."
            )
    return rows


def documents_of(rows: Iterable[Any], where: str, stem: str) -> list[Document]:
    """Rows as documents; ``problem`` is "" where a row names none.

    :raises DataError: names the first faulty rows, and what was expected.
    """
    documents, faults = [], dict[str, list[int]]()
    for number, row in enumerate(rows, 1):
        try:
            documents.append(_document(row, f"{stem}/{number}"))
        except DataError as error:
            faults.setdefault(str(error), []).append(number)
    if faults:
        told = [f"row {at[0]}{f' (and {len(at) - 1} others)' if len(at) > 1 else ''}: {why}" for why, at in faults.items()]
        more = f"\n  ... and {sum(map(len, list(faults.values())[3:]))} more rows" if len(told) > 3 else ""
        raise DataError("\n  ".join([f"{where}:", *told[:3]]) + more)
    return documents


def _document(row: Any, name: str) -> Document:
    if not isinstance(row, Mapping):
        raise DataError(f"found {type(row).__name__}, expected an object with prefix, suffix and middle.")
    given: dict[str, Any] = {}
    for column in COLUMNS:
        key = next((key for key in _ALSO.get(column, (column,)) if row.get(key) is not None), None)
        if key is not None:
            given[column] = row[key]
    for column in ("task_id", "problem"):
        if isinstance(given.get(column), int):
            given[column] = str(given[column])
    missing = [column for column in ("prefix", "middle") if column not in given]
    if missing:
        raise DataError(
            f"has no {' and no '.join(missing)}; expected prefix, suffix, middle (or HumanEval's prompt and "
            f"canonical_solution). Columns: {', '.join(sorted(map(str, row))) or 'none'}."
        )
    if "test" not in given and "base_input" in row:
        raise DataError(
            "has inputs instead of a test. EvalPlus publishes the same problems with a column test on the Hub "
            "(evalplus/humanevalplus)."
        )
    _refuse_misspelt(row, given)
    for column in ("prefix", "suffix", "middle"):
        if isinstance(given.get(column), str):
            given[column] = given[column].replace("\r\n", "\n")
    document = {
        "task_id": given.get("task_id", name),
        "problem": given.get("problem", ""),
        "prefix": given["prefix"],
        "suffix": given.get("suffix", ""),
        "middle": given["middle"],
        "cut": given.get("cut") or "",
        "language": given.get("language") or "python",
        "test": given.get("test", ""),
        "entry_point": given.get("entry_point", ""),
    }
    check_document(document, columns=tuple(document))
    if not document["middle"].strip():
        raise DataError("its middle is blank: there is nothing to fill in.")
    if document["cut"] not in ("", "line", "none"):
        raise DataError(f"cut is {document['cut']!r}, expected 'line' or 'none'.")
    middle = document["middle"]
    is_line = middle.endswith("\n") and middle.count("\n") == 1
    if document["cut"] == "line" and not is_line:
        raise DataError("cut is 'line', but its middle is not one line that ends in a newline; expected 'none' or nothing.")
    # The body of a HumanEval function may be one line; another that is right may be longer.
    is_body = "suffix" not in given and "middle" not in row
    document["cut"] = document["cut"] or ("line" if is_line and not is_body else "none")
    document["language"] = document["language"].lower()
    if document["test"].strip():
        document["entry_point"] = document["entry_point"] or _entry_point(document)
        if (examples := _examples(document["test"])) is not None:
            document["test"] = _DOCTEST.format(text=examples)
    else:
        document["test"] = document["entry_point"] = ""
    return document


def _refuse_misspelt(row: Mapping[Any, Any], given: Mapping[str, Any]) -> None:
    """Without a suffix or a test a gap is another one, so a column that may be meant for a missing one is a fault."""
    lacking = {name: column for column in COLUMNS if column not in given for name in _ALSO.get(column, (column,))}
    for key in row:
        if key not in COLUMNS and key not in lacking and row[key] is not None:
            near = difflib.get_close_matches(str(key).strip().lower(), lacking, n=1, cutoff=_ALIKE)
            if near:
                raise DataError(f"column {key!r} is none that is read. Did you mean {near[0]!r}? Rename it, or leave it out.")


def _examples(test: str) -> str | None:
    """The text of doctests, bare, between other words or as a docstring; None where the test is a program."""
    if not re.search(r"^\s*>>> ", test, re.MULTILINE):
        return None
    try:
        body = ast.parse(test).body
    except (SyntaxError, ValueError):
        return test
    match body:
        case [ast.Expr(ast.Constant(str(text)))]:
            return text
    return None


def _entry_point(document: Document) -> str:
    """The function or class at the top level that the test names; of several, the last that begins before the gap ends."""
    before = document["prefix"] + document["middle"]
    names = [found[1] for found in _DEFINED.finditer(before + document["suffix"])]
    tested = [name for name in names if re.search(rf"\b{re.escape(name)}\b", document["test"])]
    for choice in (tested, names):
        early = [name for name in choice if name in set(_DEFINED.findall(before))]
        if early or choice:
            return (early or choice[:1])[-1]
    return ""


def name_problems(documents: Sequence[Document]) -> None:
    """Gaps of one program that name no problem are one, in place."""
    first: dict[tuple[str, str], str] = {}
    for document in documents:
        if not document["problem"]:
            program = (document["prefix"] + document["middle"] + document["suffix"]).strip()
            document["problem"] = first.setdefault((document["language"], program), document["task_id"])


# The cache serves the selectors that look at one gap in turn; it holds few files, which may be long.
@functools.lru_cache(maxsize=64)
def compiles(program: str, language: str = "python") -> bool | None:
    """Whether the text is a program of the language (nothing is run). None for languages that we cannot tell, and for files
    that exceed what is looked at: then nothing is claimed."""
    if language not in ("python", "py") or len(program) > LONGEST:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(program, "<candidate>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):  # ValueError: null bytes, lone surrogates, integers of too many digits
        return False
    except (RecursionError, MemoryError, OverflowError):
        return None
    return True
