"""The law of a run's files: every command counts the same documents and prints the same number for the same thing.

It holds on sound runs, and on every damaged one: a line that one command leaves out, all leave out, and all say so.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble.cli import main
from tests.report.helpers import FIXTURES

Line = dict[str, Any]
Damage = Callable[[list[Line]], Any]


@dataclass
class Said:
    """What one command prints of one run: documents, score, members and bounds (shares), and its words on stderr."""

    documents: int
    score: float | None = None
    others: dict[str, float] = field(default_factory=dict)
    n: dict[str, int] = field(default_factory=dict)
    p: dict[str, float] = field(default_factory=dict)


def run(*arguments: str) -> tuple[str, str]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        main(list(arguments))
    return out.getvalue(), err.getvalue()


def by_compare(folder: Path, words: dict[str, str]) -> Said:
    out, words["compare"] = run("compare", str(folder), "--members", "--format", "json")
    (table,) = json.loads(out)["tasks"]
    first, *rows = table["rows"]
    names = {row["label"].rpartition("/")[2]: row for row in rows}
    others = {name: row["score"] for name, row in names.items()}
    tests = {name: row["contrast"]["p"] for name, row in names.items() if row["contrast"]}
    return Said(first["n"], first["score"], others, {name: row["n"] for name, row in names.items()}, tests)


def by_report(folder: Path, words: dict[str, str]) -> Said:
    out, words["report"] = run("report", str(folder), "--format", "json")
    figures = json.loads(out)[0]["figures"]
    members = figures.get("members", {})
    entries = {**members, **{name: figures[name] for name in ("oracle", "floor") if name in figures}}
    others = {name: entry["value"] for name, entry in entries.items()}
    tests = {name: entry["ensemble_minus_member"]["p"] for name, entry in members.items()}
    counted = {name: entry["n"] for name, entry in entries.items()}
    return Said(figures["n"], figures.get("score", {}).get("value"), others, counted, tests)


def by_page(folder: Path, words: dict[str, str]) -> Said:
    path = folder / "page.html"
    run("report", str(folder), "--html", str(path))
    blocks = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    (task,) = [block for block in map(json.loads, blocks) if "documents" in block]
    values = [document["v"] for document in task["documents"]]
    return Said(len(values), sum(values) / len(values))


def by_export(folder: Path, words: dict[str, str]) -> Said:
    out, words["export"] = run("report", str(folder), "--export", "jsonl")
    (path,) = folder.rglob("samples_*")
    last = json.loads(path.read_text().splitlines()[-1])
    repeats = len((last.get("selection") or {}).get("completions", [None]))
    return Said(len(out.splitlines()) // repeats)


def by_plots(folder: Path, words: dict[str, str]) -> Said:
    from lm_eval_ensemble.plots.gallery import read

    told: list[str] = []
    found = read([folder], told)
    words["plots"] = "\n".join(told)
    if found.analyses:
        return Said(found.analyses[0].accuracy.n, found.analyses[0].accuracy.value)
    (report,) = found.runs
    return Said(len(report.rows), report.figures["score"]["value"])


def by_select(folder: Path, words: dict[str, str]) -> Said:
    out, words["select"] = run("select", str(folder), "--format", "json", "--selectors", "argmin")
    (task,) = json.loads(out)["tasks"]
    others = {**task["members"], "oracle": task["oracle"], "floor": task["floor"]}
    primary = next(row for row in task["rows"] if row["primary"])
    tests = {} if primary["p"] is None else {task["best_member"]: primary["p"]}
    # It counts choices: a document that was completed several times has as many.
    counted = task["members_n"] if task["n"] == task["documents"] else {}
    return Said(task["documents"], primary["score"]["value"], others, counted, tests)


def by_uncertainty(folder: Path, words: dict[str, str]) -> Said:
    path = folder / "uncertainty.json"
    _, words["uncertainty"] = run("uncertainty", str(folder), "--draws", "0", "--json", str(path))
    (task,) = json.loads(path.read_text())["runs"]
    return Said(task["accuracy"]["n"], task["accuracy"]["value"])


EVERYBODY = [by_compare, by_report, by_page, by_export, by_plots]


def agree(folder: Path) -> tuple[Said, dict[str, str]]:
    """What all commands say of a run; the test fails where two of them disagree."""
    (path,) = folder.rglob("samples_*")
    text = path.read_text()
    readers: list[Callable[[Path, dict[str, str]], Said]] = list(EVERYBODY)
    readers += [by_select] if '"pass@1_oracle"' in text else []
    readers += [by_uncertainty] if '"uncertainty"' in text else []
    words: dict[str, str] = {}
    said = {read.__name__: read(folder, words) for read in readers}
    first = said["by_compare"]
    for name, other in said.items():
        assert (name, other.documents) == (name, first.documents)
        if other.score is not None:
            assert other.score == pytest.approx(first.score, abs=6e-6), name
        pairs: list[tuple[dict[str, Any], dict[str, Any], str]]
        pairs = [(first.others, other.others, "value"), (first.n, other.n, "n"), (first.p, other.p, "p")]
        for ours, theirs, what in pairs:
            for key in ours.keys() & theirs.keys():
                assert theirs[key] == pytest.approx(ours[key], abs=6e-6), (name, what, key)
    # A line that is left out is told by everybody who speaks, in the same words.
    spoken = {name: sorted(re.findall(r"[^/]*, line .*", told)) for name, told in words.items()}
    assert {name: lines for name, lines in spoken.items() if lines != spoken["compare"]} == {}
    return first, words


SOUND = ["ensemble", "repeats", "fim", "dllm", "hf", "questions"]


@pytest.mark.parametrize("name", SOUND)
def test_on_a_sound_run_all_commands_say_the_same(tmp_path: Path, name: str) -> None:
    shutil.copytree(FIXTURES / name, tmp_path / "run")
    said, words = agree(tmp_path / "run")
    (path,) = (tmp_path / "run").rglob("samples_*")
    assert said.documents == len(path.read_text().splitlines())
    assert set(words.values()) == {""}


def _again(lines: list[Line], **changes: Any) -> None:
    lines.insert(3, {**copy.deepcopy(lines[1]), **changes})


def _drop(lines: list[Line], place: int, *path: Any) -> None:
    inner: Any = lines[place]
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]


def _put(lines: list[Line], place: int, value: Any, *path: Any) -> None:
    inner: Any = lines[place]
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value


CANDIDATE = ("selection", "candidates", 0)
#: what was done to a run -> how many of its documents count afterwards, one of 15 being touched.
DAMAGED: dict[str, tuple[Damage, int]] = {
    "a line twice": (lambda lines: _again(lines), 15),
    "a number twice, another content": (lambda lines: _again(lines, doc_hash="other"), 16),
    "two documents of one content": (lambda lines: _put(lines, 2, lines[1]["doc_hash"], "doc_hash"), 15),
    "the first line is of another filter": (lambda lines: lines.insert(0, {**copy.deepcopy(lines[0]), "filter": "other"}), 15),
    "the first line has no record": (lambda lines: _drop(lines, 0, "selection"), 14),
    "a line has no record": (lambda lines: _drop(lines, 4, "selection"), 14),
    "a record is null": (lambda lines: _put(lines, 4, None, "selection"), 14),
    "a record is empty": (lambda lines: _put(lines, 4, {}, "selection"), 14),
    "a candidate has no scores": (lambda lines: _drop(lines, 4, *CANDIDATE, "scores"), 14),
    "a candidate has no raw text": (lambda lines: _drop(lines, 4, *CANDIDATE, "raw"), 14),
    "a candidate has no right": (lambda lines: _drop(lines, 4, *CANDIDATE, "right"), 14),
    "a score is a text": (lambda lines: _put(lines, 4, "low", *CANDIDATE, "scores", "fim"), 14),
    "right is a number": (lambda lines: _put(lines, 4, 1, *CANDIDATE, "right"), 14),
    "no such winner": (lambda lines: _put(lines, 4, 9, "selection", "winner_index"), 14),
    "a length mode is a list": (lambda lines: _put(lines, 4, ["oracle"], *CANDIDATE, "length_mode"), 15),
    "a run is a text": (lambda lines: _put(lines, 4, "first", *CANDIDATE, "run"), 15),
    "a run is below 0": (lambda lines: _put(lines, 4, -1, *CANDIDATE, "run"), 15),
    "no rule": (lambda lines: _drop(lines, 4, "selection", "rule"), 14),
    "the row is gone": (lambda lines: _drop(lines, 4, "pass@1"), 15),
    "the row is null": (lambda lines: _put(lines, 4, None, "pass@1"), 14),
    "the row is a text": (lambda lines: _put(lines, 4, "many", "pass@1"), 14),
    "the row contradicts": (lambda lines: _put(lines, 4, 1 - lines[4]["pass@1"], "pass@1"), 14),
    "a member's row contradicts": (lambda lines: _put(lines, 4, 1 - lines[4]["pass@1_fim"], "pass@1_fim"), 15),
    "a member's row is gone": (lambda lines: _drop(lines, 4, "pass@1_fim"), 15),
    "no number": (lambda lines: _drop(lines, 4, "doc_id"), 14),
    "a member was not asked": (lambda lines: _one_member(lines[0]), 15),
    "no gap was answered by all members": (lambda lines: list(map(_one_member, lines)), 15),
    "no document": (lambda lines: _drop(lines, 4, "doc"), 15),
    "lines are missing": (lambda lines: lines.__delitem__(slice(9, None)), 9),
    "another order": (lambda lines: lines.reverse(), 15),
}


def _one_member(line: Line) -> None:
    """As after a route: the winner's member alone was asked."""
    kept = line["selection"]
    kept["candidates"] = [kept["candidates"][kept["winner_index"]]]
    kept["winner_index"] = 0
    for row in [name for name in line if name.startswith(("pass@1_", "exact_match_", "pick_rate", "log_ppl"))]:
        if row != "exact_match_first_line":
            del line[row]


@pytest.mark.parametrize("what", DAMAGED)
def test_on_a_damaged_run_all_commands_say_the_same(tmp_path: Path, what: str) -> None:
    damage, left = DAMAGED[what]
    shutil.copytree(FIXTURES / "ensemble", tmp_path / "run")
    (path,) = (tmp_path / "run").rglob("samples_*")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    before = len(lines)
    damage(lines)
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    said, words = agree(tmp_path / "run")
    assert (before, said.documents) == (15, left)
    if left < 15:
        assert all(what == "lines are missing" or ", line " in told for told in words.values())
    if what == "a member was not asked":
        member = ({"dllm", "fim"} - {lines[0]["selection"]["candidates"][0]["member"]}).pop()
        assert said.n[member] == 14


QUESTIONS: dict[str, tuple[Damage, int]] = {
    "a line twice": (lambda lines: _again(lines), 0),
    "two questions of one content": (lambda lines: _put(lines, 2, lines[1]["doc_hash"], "doc_hash"), 0),
    "a line has no record": (lambda lines: _drop(lines, 4, "uncertainty"), 1),
    "a log-probability above 0": (lambda lines: _put(lines, 4, [0.5], "uncertainty", "logprobs"), 1),
    "the row contradicts": (lambda lines: _put(lines, 4, 1 - lines[4]["accuracy"], "accuracy"), 1),
    "the record was changed": (lambda lines: _put(lines, 4, 1 - lines[4]["uncertainty"]["f1"], "uncertainty", "f1"), 1),
    "the row is gone": (lambda lines: _drop(lines, 4, "accuracy"), 0),
}


@pytest.mark.parametrize("what", QUESTIONS)
def test_on_a_damaged_run_of_questions_all_commands_say_the_same(tmp_path: Path, what: str) -> None:
    damage, lost = QUESTIONS[what]
    shutil.copytree(FIXTURES / "questions", tmp_path / "run")
    (path,) = (tmp_path / "run").rglob("samples_*")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    before = len(lines)
    damage(lines)
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    said, _ = agree(tmp_path / "run")
    assert said.documents == before - lost
