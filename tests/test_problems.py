"""Files of a user's own gaps: every usual shape, and what a row leaves out."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble.errors import ConfigError, DataError
from lm_eval_ensemble.problems import compiles, load_problems, title
from lm_eval_ensemble.questions import own_questions

GAP = {"prefix": "def f(x):\n", "middle": "    return x\n", "suffix": ""}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_what_a_row_leaves_out(tmp_path: Path) -> None:
    (document,) = load_problems(str(write(tmp_path / "gaps.jsonl", GAP)))
    assert document == {
        "task_id": "gaps/1",
        "problem": "gaps/1",
        **GAP,
        "cut": "line",
        "language": "python",
        "test": "",
        "entry_point": "",
    }


@pytest.mark.parametrize(
    ("middle", "cut"), [("    return x\n", "line"), ("    return x", "none"), ("    y = x\n    return y\n", "none")]
)
def test_one_line_with_its_newline_is_cut(middle: str, cut: str, tmp_path: Path) -> None:
    (document,) = load_problems(write(tmp_path / "g.jsonl", {**GAP, "middle": middle}))
    assert document["cut"] == cut


def test_every_kind_of_file_says_the_same(tmp_path: Path) -> None:
    rows = [{**GAP, "task_id": "a"}, {**GAP, "prefix": "def g(x):\n", "task_id": "b", "test": "assert g(1) == 1\n"}]
    lines = write(tmp_path / "g.jsonl", *rows)
    (tmp_path / "g.json").write_text(json.dumps(rows))
    (tmp_path / "g.jsonl.gz").write_bytes(gzip.compress(lines.read_bytes()))
    with open(tmp_path / "g.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["task_id", *GAP, "test"])
        writer.writeheader()
        writer.writerows(rows)
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"test": None, **row} for row in rows]), tmp_path / "g.parquet")
    expected = load_problems(lines)
    assert [document["entry_point"] for document in expected] == ["", "g"]
    for name in ("g.json", "g.jsonl.gz", "g.csv", "g.parquet"):
        assert load_problems(str(tmp_path / name)) == expected, name


def test_humaneval_as_published(tmp_path: Path) -> None:
    row = {"task_id": "HumanEval/0", "prompt": "def f(x):\n", "canonical_solution": "    return x\n", "entry_point": "f"}
    (document,) = load_problems(write(tmp_path / "h.jsonl", {**row, "test": "def check(candidate):\n    assert True\n"}))
    assert (document["prefix"], document["suffix"], document["middle"]) == ("def f(x):\n", "", "    return x\n")
    assert document["task_id"] == "HumanEval/0"
    # Another body that is right may have more lines.
    assert document["cut"] == "none"
    with pytest.raises(DataError) as caught:
        load_problems(write(tmp_path / "plus.jsonl", *[{**row, "base_input": [[1]], "plus_input": [[2]]}] * 5))
    assert "row 1 (and 4 others): has inputs instead of a test" in str(caught.value)
    assert str(caught.value).count("inputs") == 1


def test_gaps_of_one_program_are_one_problem(tmp_path: Path) -> None:
    lines = ["def f(x):\n", "    y = x\n", "    return y\n"]
    rows = [{"prefix": "".join(lines[:i]), "middle": lines[i], "suffix": "".join(lines[i + 1 :])} for i in (1, 2)]
    found = load_problems(write(tmp_path / "g.jsonl", *rows, GAP))
    assert [document["problem"] for document in found] == ["g/1", "g/1", "g/3"]


def test_several_files_and_a_folder(tmp_path: Path) -> None:
    one, other = (
        write(tmp_path / "one.jsonl", {**GAP, "task_id": "a"}),
        write(tmp_path / "other.jsonl", {**GAP, "task_id": "a"}),
    )
    found = load_problems([str(one), str(other)])
    assert [document["task_id"] for document in found] == ["one/a", "other/a"]
    assert load_problems(tmp_path) == found
    assert title([str(one), str(other)]) == "one+other"
    assert title(str(tmp_path / "my gaps.jsonl.gz")) == "my-gaps"


@pytest.mark.parametrize(
    ("program", "test", "entry"),
    [
        ("def a(): pass\ndef b(x):\n", "assert b(1) == a()", "b"),
        ("class Stack:\n    def push(self, x):\n", "Stack().push(1)", "Stack"),
        ("def a(x):\n", "def check(candidate): ...", "a"),
        ("x = ", "assert True", ""),
    ],
)
def test_the_entry_point_is_what_the_test_names(program: str, test: str, entry: str, tmp_path: Path) -> None:
    (document,) = load_problems(write(tmp_path / "g.jsonl", {"prefix": program, "middle": "1", "suffix": "\n", "test": test}))
    assert document["entry_point"] == entry


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prefix": "a"}, "row 1: has no middle; expected prefix, suffix, middle"),
        ([], "row 1: found list, expected an object"),
        ({**GAP, "middle": " \n"}, "its middle is blank"),
        ({**GAP, "cut": "lines"}, "cut is 'lines', expected 'line' or 'none'"),
        ({**GAP, "cut": "line", "middle": "a\nb\n"}, "cut is 'line', but"),
        ({**GAP, "suffix": 3}, "column 'suffix' is int, expected text"),
        ({**GAP, "test": 3}, r"'g/1': column 'test' is int, expected text\. Columns"),
        ({"prefix": "a", "middle": "b", "sufix": "c"}, "column 'sufix' is none that is read. Did you mean 'suffix'?"),
        ({**GAP, "Tests": "assert f(1)"}, "column 'Tests' is none that is read. Did you mean 'tests'?"),
    ],
)
def test_a_faulty_row_is_named(row: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load_problems(write(tmp_path / "g.jsonl", row))


def test_columns_of_ones_own_stay(tmp_path: Path) -> None:
    row = {**GAP, "lang": "Go", "author": "me", "text": "a", "tests_": None, "suffixe": "the right one is there"}
    (document,) = load_problems(write(tmp_path / "g.jsonl", row))
    assert document["language"] == "go"


def test_files_of_one_name_give_ids_that_differ(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "g.jsonl", GAP)
    write(tmp_path / "b" / "g.json", [GAP])
    for paths, expected in (
        ([tmp_path / "b"], ["g.json/1", "g.jsonl/1"]),
        ([tmp_path / "a" / "g.jsonl", tmp_path / "b"], ["a/g.jsonl/1", "b/g.json/1", "b/g.jsonl/1"]),
    ):
        assert [document["task_id"] for document in load_problems(paths)] == expected


def test_lines_of_code_end_in_a_newline_alone(tmp_path: Path) -> None:
    windows = {name: text.replace("\n", "\r\n") for name, text in GAP.items()}
    (document,) = load_problems(write(tmp_path / "g.jsonl", windows))
    assert {name: document[name] for name in GAP} == GAP
    assert document["cut"] == "line"


@pytest.mark.parametrize(
    ("test", "is_doctest"),
    [
        (">>> f(1)\n1\n", True),
        ("The same:\n\n    >>> f(1)\n    1\n", True),
        ('"""\n>>> f(1)\n1\n"""\n', True),
        ('assert f("""\n>>> a\n""")\n', False),
    ],
)
def test_the_text_of_doctests(test: str, is_doctest: bool, tmp_path: Path) -> None:
    (document,) = load_problems(write(tmp_path / "g.jsonl", {**GAP, "test": test}))
    assert ("import doctest" in document["test"]) is is_doctest
    if is_doctest:
        exec(document["test"], {"f": lambda x: x})
        with pytest.raises(AssertionError, match="Got"):
            exec(document["test"], {"f": lambda x: x + 1})


def test_faulty_files_are_named(tmp_path: Path) -> None:
    write(tmp_path / "gaps.jsonl", GAP)
    with pytest.raises(DataError, match=r"gap\.jsonl: no such file\. Did you mean gaps\.jsonl\?"):
        load_problems(str(tmp_path / "gap.jsonl"))
    (tmp_path / "torn.jsonl").write_text('{"prefix": ""}\n{"prefix": ')
    with pytest.raises(DataError, match=r"torn\.jsonl: cannot be read \(line 2, column 12: Expecting value\)"):
        load_problems(str(tmp_path / "torn.jsonl"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no file that ends in"):
        load_problems(str(tmp_path / "empty"))
    with pytest.raises(DataError, match="stands in 2 rows"):
        load_problems(write(tmp_path / "twice.jsonl", {**GAP, "task_id": "a"}, {**GAP, "task_id": "a"}))
    with pytest.raises(ConfigError, match="expected the path of a file"):
        load_problems(3)


@pytest.mark.parametrize(("name", "separator", "told"), [("a.csv", ";", "semicolons"), ("a.tsv", "\t", "tabs")])
def test_other_separators_than_commas_are_named(name: str, separator: str, told: str, tmp_path: Path) -> None:
    rows = [["question", "answers"], ["Who?", "me"]]
    (tmp_path / name).write_text("".join(separator.join(row) + "\n" for row in rows))
    for load in (load_problems, own_questions):
        with pytest.raises(DataError, match=rf"{name}: its columns are separated by {told}, expected commas\. Save it"):
            load(str(tmp_path / name))


def test_compiles() -> None:
    assert compiles("x = 1\n") is True
    assert compiles("return 1\n") is False  # parsed, but no program
    assert compiles("x = \0") is False
    assert compiles("(" * 5000) is False
    assert compiles("let x = 1;", "javascript") is None
