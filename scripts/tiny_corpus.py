"""The corpus of the embedded tiny pair: which files, which of them are held out, and how gaps are cut.

The files come from the Python that runs this: its standard library and four BSD packages that torch
installs. A file list with sha256 hashes fixes one selection; ``load_corpus`` refuses a Python whose files
differ from it, so equal lists mean equal training text.

Benchmarks are never read. SantaCoder-FIM's licence forbids training on it, and HumanEval is what the pair
is measured on.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import random
import sysconfig
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal

from lm_eval_ensemble.errors import DataError

__all__ = ["PACKAGES", "Corpus", "CorpusFile", "Gap", "functions", "load_corpus", "select_files", "write_file_list"]

Split = Literal["train", "held_out"]

STDLIB = "stdlib"
PACKAGES = ("networkx", "mpmath", "jinja2", "fsspec")
RULE = (
    "*.py of the standard library, then of networkx, mpmath, jinja2 and fsspec, 401 to 399,999 characters, UTF-8, "
    "without test files and folders, encodings, pydoc_data and lib2to3; a relative path that an earlier root "
    "already gave is left out. Held out: standard library files whose md5 of the relative path begins with a byte "
    "under 13."
)
_TEST_FOLDERS = {"test", "tests", "testing", "idle_test"}
_INSTALLED_FOLDERS = {"site-packages", "dist-packages", "__pycache__"}
_SKIPPED_FOLDERS = _TEST_FOLDERS | _INSTALLED_FOLDERS | {"encodings", "pydoc_data", "lib2to3"}
_HELD_OUT_BELOW = 13  # of 256 values of the digest's first byte: about 5 %
_MIN_FUNCTION, _MAX_FUNCTION = 80, 1600  # characters


@dataclass(frozen=True)
class CorpusFile:
    """One file: ``path`` is relative to the root of ``package``, ``sha256`` is of its bytes."""

    package: str
    path: str
    sha256: str
    split: Split


@dataclass(frozen=True)
class Snippet:
    """Consecutive lines of code; gaps are rather cut at or after line ``body``, behind a function's docstring."""

    lines: tuple[str, ...]
    body: int = 0


@dataclass(frozen=True)
class Gap:
    """``prefix + middle + suffix`` is a piece of corpus text."""

    prefix: str
    middle: str
    suffix: str


# ---------------------------------------------------------------- selection


def _root(package: str) -> Path:
    if package == STDLIB:
        return Path(sysconfig.get_paths()["stdlib"])
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"Corpus package {package!r} is not installed. Run: pip install {package}")
    return Path(next(iter(spec.submodule_search_locations)))


def _is_wanted(relative: Path) -> bool:
    return not (_SKIPPED_FOLDERS & set(relative.parts) or relative.name.startswith("test_"))


def _split_of(package: str, path: str) -> Split:
    first_byte = hashlib.md5(path.encode(), usedforsecurity=False).digest()[0]
    return "held_out" if package == STDLIB and first_byte < _HELD_OUT_BELOW else "train"


def _decode(content: bytes) -> str | None:
    """The text with ``\\n`` line ends and no tabs; None if it is not UTF-8."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text.replace("\r\n", "\n").replace("\r", "\n").expandtabs(4)


def select_files(packages: Sequence[str] = (STDLIB, *PACKAGES)) -> list[CorpusFile]:
    """Apply ``RULE`` to the Python that runs this; sorted within each package.

    Two of the standard library's files are written when Python is built (``_sysconfigdata*``,
    ``config-*/python-config.py``), so two builds of one version can give two digests.
    """
    selected = []
    seen = set()
    for package in packages:
        root = _root(package)
        for file in sorted(root.rglob("*.py")):
            relative = file.relative_to(root)
            if not _is_wanted(relative) or relative in seen:
                continue
            seen.add(relative)
            content = file.read_bytes()
            text = _decode(content)
            if text is None or not 400 < len(text) < 400_000:
                continue
            path = relative.as_posix()
            digest = hashlib.sha256(content).hexdigest()
            selected.append(CorpusFile(package, path, digest, _split_of(package, path)))
    return selected


def list_digest(files: Iterable[CorpusFile]) -> str:
    """One sha256 that names a selection: of its files in order, a line each."""
    lines = "".join("\t".join(astuple(file)) + "\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def write_file_list(path: Path, files: Sequence[CorpusFile]) -> None:
    """Write the selection with the versions it was made under; a line per file, so that changes can be read."""
    packages = sorted({file.package for file in files} - {STDLIB})
    head = {
        "rule": RULE,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "counts": {split: sum(file.split == split for file in files) for split in ("train", "held_out")},
        "sha256": list_digest(files),
        "columns": ["package", "path", "sha256", "split"],
    }
    rows = ",\n".join("  " + json.dumps(astuple(file)) for file in files)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(head, indent=1)[:-2] + f',\n "files": [\n{rows}\n ]\n}}\n', encoding="utf-8")


def read_file_list(path: Path) -> list[CorpusFile]:
    """Read what ``write_file_list`` wrote.

    :raises DataError: the rows do not have the digest the list states.
    """
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    files = [CorpusFile(*row) for row in document["files"]]
    if (found := list_digest(files)) != document["sha256"]:
        raise DataError(f"{path}: the rows have sha256 {found}, the list states {document['sha256']}. Write it anew.")
    return files


# ------------------------------------------------------------------ snippets


def functions(text: str) -> Iterator[Snippet]:
    """The functions of a module, dedented, in the order of ``ast.walk``; long docstrings are shortened."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in old code
            tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return
    lines = text.splitlines(keepends=True)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and (snippet := _function(node, lines)) is not None:
            yield snippet


def _function(node: ast.FunctionDef, lines: Sequence[str]) -> Snippet | None:
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    source = textwrap.dedent("".join(lines[start : node.end_lineno]))
    if not source.endswith("\n"):
        source += "\n"
    first = node.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    body = (first.end_lineno or first.lineno) - start if has_docstring else first.lineno - 1 - start
    if not source.isascii() or len(source) < _MIN_FUNCTION or source.count("\n") <= 2:
        return None
    if len(source) <= _MAX_FUNCTION:
        return Snippet(tuple(source.splitlines(keepends=True)), body)
    return _shortened(source.splitlines(keepends=True), body)


def _shortened(lines: list[str], body: int) -> Snippet | None:
    """A long function with the first two lines of its docstring; None where that does not make it short."""
    opening = next((i for i, line in enumerate(lines) if '"""' in line), None)
    if body <= 8 or opening is None or opening + 1 >= body:
        return None
    kept = min(opening + 3, body - 1)
    short = [*lines[:kept], '    """\n', *lines[body:]]
    text = "".join(short)
    if not _MIN_FUNCTION <= len(text) <= _MAX_FUNCTION or text.count('"""') != 2:
        return None
    return Snippet(tuple(short), kept + 1)


class Corpus:
    """Text to draw gaps from: whole files and the distinct functions in them."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.files = [text.splitlines(keepends=True) for text in texts]
        # Compared as text: Python's hash() of a str differs from process to process.
        self.functions = list(dict.fromkeys(snippet for text in texts for snippet in functions(text)))
        self._weights = [len(lines) for lines in self.files]

    def texts(self) -> Iterator[str]:
        """Everything once, functions first: what the tokenizer learns from."""
        for function in self.functions:
            yield "".join(function.lines)
        for lines in self.files:
            yield "".join(lines)

    def snippet(self, rng: random.Random) -> Snippet:
        """A function (60 %) or a window of 150 to 1150 characters of a file, files weighted by their lines."""
        if self.functions and rng.random() < 0.6:
            return rng.choice(self.functions)
        lines = rng.choices(self.files, self._weights)[0]
        wanted = rng.randint(150, 1150)
        start = rng.randrange(max(1, len(lines) - 5))
        window: list[str] = []
        size = 0
        for line in lines[start : start + 60]:
            if size >= wanted:
                break
            window.append(line if len(line) <= 160 else line[:159] + "\n")
            size += len(window[-1])
        return Snippet(tuple(window))

    def gap(self, rng: random.Random, single_line: float = 0.7) -> Gap:
        """Cut one whole line (probability ``single_line``), 2 to 4 lines (up to 0.85), or 1 to 60 characters."""
        while True:
            snippet = self.snippet(rng)
            if len(snippet.lines) < 3:
                continue
            kind = rng.random()
            if kind >= 0.85:
                return _cut_characters("".join(snippet.lines), rng)
            gap = _cut_lines(snippet, 1 if kind < single_line else rng.randint(2, 4), rng)
            if gap is not None:
                return gap


def _cut_lines(snippet: Snippet, count: int, rng: random.Random) -> Gap | None:
    lines = snippet.lines
    low = snippet.body if snippet.body < len(lines) and rng.random() < 0.9 else 0
    starts = [i for i in range(low, len(lines)) if lines[i].strip()]
    if not starts:
        return None
    start = rng.choice(starts)
    end = min(len(lines), start + count)
    return Gap("".join(lines[:start]), "".join(lines[start:end]), "".join(lines[end:]))


def _cut_characters(text: str, rng: random.Random) -> Gap:
    start = rng.randrange(len(text) - 2)
    end = min(len(text), start + rng.randint(1, 60))
    return Gap(text[:start], text[start:end], text[end:])


def load_corpus(files: Sequence[CorpusFile], split: Split) -> Corpus:
    """Read the files of one split.

    :raises DataError: a file is missing here, or is not the one the list names.
    """
    roots = {package: _root(package) for package in {file.package for file in files}}
    texts = []
    for file in files:
        if file.split != split:
            continue
        location = roots[file.package] / file.path
        content = location.read_bytes() if location.is_file() else b""
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise DataError(
                f"Corpus file {file.package}:{file.path} is not the listed one. Use the Python and package versions "
                "that the file list states, or write a new list with `python -m scripts.train_tiny corpus`."
            )
        text = _decode(content)
        assert text is not None  # select_files let it in
        texts.append(text)
    return Corpus(texts)
