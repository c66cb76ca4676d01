"""The corpus: which files, and the gaps cut out of them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from lm_eval_ensemble.errors import DataError
from scripts.tiny_corpus import (
    Corpus,
    CorpusFile,
    functions,
    list_digest,
    load_corpus,
    read_file_list,
    select_files,
    write_file_list,
)

MODULE = '''\
"""A module."""


def area(width, height):
    """Return the area of a rectangle."""
    if width < 0 or height < 0:
        raise ValueError("negative side")
    return width * height


def tiny():
    pass
'''


@pytest.fixture(scope="module")
def selection() -> list[CorpusFile]:
    return select_files(["stdlib"])


def test_selection_leaves_out_tests_and_holds_out_some(selection: list[CorpusFile]) -> None:
    assert all(not {"test", "tests", "site-packages"} & set(Path(file.path).parts) for file in selection)
    held_out = sum(file.split == "held_out" for file in selection)
    assert 0.01 < held_out / len(selection) < 0.1
    assert len({file.path for file in selection}) == len(selection)
    assert not any(Path(file.path).is_absolute() for file in selection)


def test_selection_is_repeatable(selection: list[CorpusFile]) -> None:
    assert list_digest(select_files(["stdlib"])) == list_digest(selection)


def test_file_list_round_trips_and_notices_changes(selection: list[CorpusFile], tmp_path: Path) -> None:
    path = tmp_path / "corpus.json"
    write_file_list(path, selection[:5])
    assert read_file_list(path) == selection[:5]
    path.write_text(path.read_text().replace('"train"]', '"held_out"]', 1))
    with pytest.raises(DataError, match="the list states"):
        read_file_list(path)


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"path": "no_such_module.py"}])
def test_a_file_that_is_not_the_listed_one_is_refused(selection: list[CorpusFile], change: dict[str, str]) -> None:
    wrong = replace(selection[0], split="train", **change)
    with pytest.raises(DataError, match="is not the listed one"):
        load_corpus([wrong], "train")


def test_functions_skip_short_ones_and_point_behind_the_docstring() -> None:
    (snippet,) = functions(MODULE)
    assert snippet.lines[0] == "def area(width, height):\n"
    assert snippet.lines[snippet.body] == "    if width < 0 or height < 0:\n"


def test_long_docstrings_are_shortened() -> None:
    docstring = '    """First line.\n\n' + "    More words about it.\n" * 90 + '    """\n'
    source = "def long(value):\n" + docstring + "    value += 1\n    return value\n"
    (snippet,) = functions(source)
    assert snippet.lines == (
        "def long(value):\n",
        '    """First line.\n',
        "\n",
        "    More words about it.\n",
        '    """\n',
        "    value += 1\n",
        "    return value\n",
    )
    assert snippet.lines[snippet.body] == "    value += 1\n"


def test_text_that_is_not_python_has_no_functions() -> None:
    assert list(functions("print 'old'\n")) == []


def test_gaps_are_pieces_of_the_text_and_depend_on_the_seed_alone() -> None:
    corpus = Corpus([MODULE])
    gaps = [corpus.gap(random.Random(seed)) for seed in range(200)]
    for gap in gaps:
        assert gap.middle
        assert gap.prefix + gap.middle + gap.suffix in MODULE
    assert gaps == [corpus.gap(random.Random(seed)) for seed in range(200)]
    single = sum(gap.middle.count("\n") == 1 and gap.middle.endswith("\n") for gap in gaps)
    assert 100 < single < 180  # 70 % of 200, less what starts in mid-line, more what is one line by chance
