"""Which files of a code base gaps are cut from: written by hand, by its owners, without secrets."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lm_eval_ensemble.errors import DataError

__all__ = ["LANGUAGES", "CodeFile", "CodeFiles", "find_secret", "find_sources"]

#: ending -> language.
LANGUAGES = {
    f".{ending}": language
    for language, endings in {
        "python": "py",
        "javascript": "js jsx mjs",
        "typescript": "ts tsx",
        "java": "java",
        "go": "go",
        "rust": "rs",
        "c": "c h",
        "cpp": "cc cpp hpp",
        "csharp": "cs",
        "ruby": "rb",
        "php": "php",
        "swift": "swift",
        "kotlin": "kt",
        "scala": "scala",
        "shell": "sh",
        "lua": "lua",
        "julia": "jl",
        "r": "r",
    }.items()
    for ending in endings.split()
}
#: folders of others' code, of environments, and of what a build made.
_FOREIGN = frozenset(
    (
        *("vendor", "vendored", "_vendor", "vendors", "third_party", "third-party", "thirdparty", "extern", "external"),
        *("node_modules", "bower_components", "site-packages", "dist-packages", "Pods"),
        *("dist", "build", "target", "out", "env", "venv", "virtualenv"),
    )
)
_MADE = re.compile(
    r"@generated|\bdo not (?:edit|modify)\b|\b(?:auto-?|automatically |machine[- ])generated\b|\bgenerated (?:by|from|with)\b"
    r"|\bthis file (?:is|was) generated\b",
    re.IGNORECASE,
)
_MADE_NAME = re.compile(r"_pb2(?:_grpc)?\.py$|\.min\.js$|[._]generated\.\w+$|\.pb\.(?:go|cc|h)$")
_HEAD = 10  # lines in which a file says that it was generated
_LARGEST, _LONGEST_LINE = 1_000_000, 2_000
# Forms that the providers of keys publish, and names to which a secret is given.
_SECRETS = (
    re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY"),
    re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{30,}|glpat-[\w-]{20}|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36})"),
    re.compile(r"\b(?:sk-[\w-]{20,}|[sr]k_live_\w{16,}|xox[abposr]-[\w-]{10,}|AIza[\w-]{35}|SG\.[\w-]{16,}\.[\w-]{16,})"),
    re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"),
    re.compile(r"\b\w+://[^\s/:@'\"{}<>$]+:[^\s/:@'\"{}<>$%]{4,}@"),
)
_GIVEN = re.compile(
    r"(?:passw(?:or)?d|passphrase|secret|api_?key|access_?key|auth_?token|private_?key|credentials?)\w*[\"']?\s*(?:[:=]|:=|=>)\s*"
    r"[\"']([^\"'\s]{8,})[\"']",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class CodeFile:
    """One file: ``path`` relative to its root (with the root's name), and its text with plain newlines."""

    path: str
    text: str
    language: str


@dataclass
class CodeFiles:
    """The files, in order, and why others were left out: reason -> their paths (of a secret with the line)."""

    files: list[CodeFile] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, path: str, why: str) -> None:
        self.left_out.setdefault(why, []).append(path)


def find_sources(paths: Sequence[Path]) -> CodeFiles:
    """The code files of folders (and files named one by one), sorted; links are not followed.

    :raises DataError: there is no such path, or no file of a known language.
    """
    found, seen = CodeFiles(), set[str]()
    for root in paths:
        if not root.exists():
            raise DataError(f"{root}: no such file or folder.")
        for path in [root] if root.is_file() else _walk(root, root, found):
            name = path.name if path == root else f"{root.resolve().name}/{path.relative_to(root).as_posix()}"
            text = _text(path, name, found)
            if text is None:
                continue
            digest = hashlib.sha256(text.encode()).hexdigest()
            if digest in seen:
                found.leave_out(name, "a copy of another file")
                continue
            seen.add(digest)
            found.files.append(CodeFile(name, text, LANGUAGES[path.suffix.lower()]))
    if not found.files:
        told = "; ".join(f"{len(names)} {why}" for why, names in found.left_out.items())
        raise DataError(
            f"{', '.join(map(str, paths))}: no file of code to use{f' ({told})' if told else ''}. "
            f"Known endings: {', '.join(LANGUAGES)}."
        )
    return found


def _walk(folder: Path, root: Path, found: CodeFiles) -> Iterator[Path]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.is_symlink() or entry.name.startswith(".") or entry.name == "__pycache__":
            continue
        if entry.is_dir():
            # An environment of Python, whatever its name.
            if entry.name in _FOREIGN or entry.name.endswith(".egg-info") or (path / "pyvenv.cfg").exists():
                found.leave_out(
                    f"{root.resolve().name}/{path.relative_to(root).as_posix()}/", "folders of others' or built code"
                )
            else:
                yield from _walk(path, root, found)
        elif path.suffix.lower() in LANGUAGES:
            yield path


def _text(path: Path, name: str, found: CodeFiles) -> str | None:
    """The text of a file, or None and a reason."""
    if path.suffix.lower() not in LANGUAGES:
        found.leave_out(name, "of no known language")
        return None
    try:
        if path.stat().st_size > _LARGEST:
            found.leave_out(name, "larger than 1 MB")
            return None
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        found.leave_out(name, "not readable as UTF-8")
        return None
    if not text.strip():
        return None
    lines = text.split("\n")
    if _MADE_NAME.search(path.name) or _says_so(lines[:_HEAD]) or max(map(len, lines)) > _LONGEST_LINE:
        found.leave_out(name, "generated")
        return None
    if line := find_secret(text):
        found.leave_out(f"{name}:{line}", "with what may be a secret")
        return None
    return text


def _says_so(head: Sequence[str]) -> bool:
    """Whether a comment at the top says that a program wrote the file."""
    return any(_MADE.search(line) for line in head if re.match(r"\s*(?:#|//|/?\*|--|;|<!--)", line))


def find_secret(text: str) -> int:
    """The number of the first line that looks like a secret (a key, a password in an address or given to a name); 0: none."""
    places = [match.start() for pattern in _SECRETS if (match := pattern.search(text))]
    places += [match.start() for match in _GIVEN.finditer(text) if _looks_random(match[1])]
    return text.count("\n", 0, min(places)) + 1 if places else 0


def _looks_random(value: str) -> bool:
    """Letters and digits, of 3 bits a character or more: no word, and no name of an option."""
    counts = Counter(value)
    entropy = -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
    return entropy >= 3.0 and any(c.isdigit() for c in value) and any(c.isalpha() for c in value)
