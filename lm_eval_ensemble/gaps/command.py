"""``lm-eval-ensemble gaps SRC``: the gaps are drawn, written, and counted."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval_ensemble.errors import ConfigError, DataError, counted, did_you_mean
from lm_eval_ensemble.gaps.places import KINDS, Place, Program
from lm_eval_ensemble.gaps.sources import CodeFiles, find_sources
from lm_eval_ensemble.problems import compiles

__all__ = ["Made", "add_arguments", "cut_gaps", "main"]

_NAMED = 3  # paths of a reason that are told


@dataclass(frozen=True)
class Made:
    """The rows, for ``infill_file``, and the files they come from. ``compiling``: of how many rows of Python prefix, middle and
    suffix are a program, and of how many."""

    rows: tuple[Mapping[str, Any], ...]
    sources: CodeFiles
    wanted: int

    @property
    def compiling(self) -> tuple[int, int]:
        told = [compiles(row["prefix"] + row["middle"] + row["suffix"], row["language"]) for row in self.rows]
        return told.count(True), len(told) - told.count(None)

    def as_text(self) -> str:
        files = len({row["problem"] for row in self.rows})
        found = Counter(row["kind"] for row in self.rows)
        kinds = {kind: found[kind] for kind in KINDS if kind in found}
        languages = Counter(row["language"] for row in self.rows)
        compiling, programs = self.compiling
        lines = [
            f"{counted(len(self.rows), 'gaps')} of {counted(files, 'files')}: {_counted(kinds)} ({_counted(languages)})",
            f"{counted(len(self.sources.files), 'files')} read"
            + "".join(f"; left out: {len(names)} {why} ({_few(names)})" for why, names in self.sources.left_out.items()),
        ]
        if len(self.rows) < self.wanted:
            lines.insert(1, f"{self.wanted} were asked for: there are no more that overlap no other and say something")
        if programs:
            rest = "; the others lost the beginning or end of a long statement" if compiling < programs else ""
            lines.append(f"{compiling} of {programs} references compile{rest}")
        return "\n".join(lines)


def cut_gaps(
    paths: Sequence[Path],
    kinds: Sequence[str] = tuple(KINDS),
    count: int = 200,
    seed: int = 0,
    max_prefix: int = 6000,
    max_suffix: int = 3000,
) -> Made:
    """Draw gaps from code, the kinds in turn, as many of each as there are.

    No line is in two gaps, and no two gaps are of one text. The same files and settings give the same gaps.

    :param max_prefix: characters; see ``Program.window``.
    :raises DataError: no code, or nothing to cut out of it.
    """
    sources = find_sources(paths)
    programs = list(_programs(sources))
    stream = random.Random(seed)
    drawn: dict[str, list[tuple[int, Place]]] = {kind: [] for kind in kinds}
    for number, program in enumerate(programs):
        for place in program.places(kinds):
            drawn[place.kind].append((number, place))
    for places in drawn.values():
        stream.shuffle(places)
    taken: set[tuple[int, int]] = set()
    texts: set[str] = set()
    rows: list[dict[str, Any]] = []
    while len(rows) < count and any(drawn.values()):
        for places in drawn.values():
            while places and len(rows) < count:
                number, place = places.pop()
                lines = {(number, line) for line in range(place.first, place.last + 1)}
                text = programs[number].text[place.start : place.end].strip()
                if text in texts or not taken.isdisjoint(lines):
                    continue
                texts.add(text)
                taken |= lines
                rows.append(_row(programs[number], place, max_prefix, max_suffix))
                break
    if not rows:
        raise DataError(
            f"{', '.join(map(str, paths))}: nothing to cut out ({counted(len(sources.files), 'files')}, "
            f"kinds {', '.join(kinds)})."
        )
    return Made(tuple(sorted(rows, key=lambda row: (row["problem"], row["line"]))), sources, count)


def _programs(sources: CodeFiles) -> Iterator[Program]:
    for source in list(sources.files):
        try:
            yield Program(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            sources.files.remove(source)
            sources.leave_out(source.path, "no program of this Python")


def _row(program: Program, place: Place, max_prefix: int, max_suffix: int) -> dict[str, Any]:
    prefix, suffix = program.window(place, max_prefix, max_suffix)
    middle, path = program.text[place.start : place.end], program.source.path
    return {
        "task_id": f"{path}:{place.first}:{place.kind}",
        "problem": path,
        "prefix": prefix,
        "middle": middle,
        "suffix": suffix,
        "cut": "line" if place.kind == "line" and middle.endswith("\n") else "none",
        "language": program.source.language,
        "kind": place.kind,
        "line": place.first,
    }


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``lm-eval-ensemble gaps``."""
    parser.add_argument("sources", metavar="SRC", nargs="+", type=Path, help="folders or files of code")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSON lines to write, e.g. gaps.jsonl")
    parser.add_argument(
        "--kinds",
        default=",".join(KINDS),
        help="which, joined by commas (default: %(default)s); span, body and arguments are cut in Python only",
    )
    parser.add_argument("--count", type=int, default=200, help="how many in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default: %(default)s)")
    parser.add_argument("--max_prefix", type=int, default=6000, help="characters before a gap (default: %(default)s)")
    parser.add_argument("--max_suffix", type=int, default=3000, help="characters behind a gap (default: %(default)s)")


def main(arguments: argparse.Namespace) -> int:
    """Write the file; say what is in it, what was left out, and how to go on."""
    kinds = [kind.strip() for kind in arguments.kinds.split(",") if kind.strip()]
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"--kinds {kind}: no such kind.{did_you_mean(kind, KINDS)}")
    if not kinds or min(arguments.count, arguments.max_prefix, arguments.max_suffix) < 1:
        raise ConfigError(
            "--kinds, --count, --max_prefix and --max_suffix: expected at least one kind, and numbers of at least 1."
        )
    if arguments.output.suffix != ".jsonl":  # a source given by mistake would be overwritten, a .csv not be read back
        raise ConfigError(f"--output {arguments.output}: expected a name that ends in .jsonl, for JSON lines are written.")
    made = cut_gaps(arguments.sources, kinds, arguments.count, arguments.seed, arguments.max_prefix, arguments.max_suffix)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made.rows)
    try:
        arguments.output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output {arguments.output}: cannot be written ({error.strerror}).") from None
    named = json.dumps({"file": str(arguments.output)})
    sys.stdout.write(
        f"{arguments.output}: {made.as_text()}\n"
        f"next: lm_eval --model hf-scored --model_args pretrained=MODEL --tasks infill_file --metadata '{named}' "
        "--output_path out --log_samples\n"
    )
    return 0
