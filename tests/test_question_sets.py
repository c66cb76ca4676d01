"""Question sets: every published shape is read, the choice is anybody's to redo, and examples are never asked."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from lm_eval_ensemble import data
from lm_eval_ensemble.errors import ConfigError, DataError
from lm_eval_ensemble.questions import QUESTION_SETS, choose, load_questions, own_questions

SQUAD = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": "Ada was born in London.",
                    "qas": [
                        {"id": "a", "question": " Where was Ada born? ", "answers": [{"text": "London", "answer_start": 16}]},
                        {"id": "b", "question": "When?", "answers": [], "is_impossible": True},
                    ],
                }
            ]
        }
    ]
}
BIOASQ = {
    "questions": [
        {"id": "q1", "type": "factoid", "body": "Which gene?", "exact_answer": [["BRCA1", "brca 1"], ["BRCA2"]]},
        {"id": "q2", "type": "summary", "body": "Why?", "ideal_answer": ["Because."]},
    ]
}


def write(path: Path, value: Any) -> str:
    """As JSON, or JSON lines for a list of rows; gzipped where the name says so."""
    lines = path.name.removesuffix(".gz").endswith(".jsonl")
    if path.suffix == ".csv":
        path.write_text(value)
        return str(path)
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in value) if lines else json.dumps(value)
    path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())
    return str(path)


NQ_SIMPLE = {"example_id": 7, "question_text": "who wrote it", "document_text": "<P> Ada Lovelace wrote it . </P>"}
NQ_TOKENS = [{"token": word, "html_token": word.startswith("<")} for word in NQ_SIMPLE["document_text"].split(" ")]  # type: ignore[attr-defined]
NQ_NONE: dict[str, Any] = {"short_answers": [], "yes_no_answer": "NONE"}
#: the dev file, of five annotators: an answer with a tag in it, a yes; no short answer; a no; one of seven tokens.
NQ = [
    {
        "example_id": 1,
        "question_text": "who wrote it",
        "document_tokens": NQ_TOKENS,
        "annotations": [
            {**NQ_NONE, "short_answers": [{"start_token": 0, "end_token": 3}]},
            {**NQ_NONE, "yes_no_answer": "YES"},
        ],
    },
    {"example_id": 2, "question_text": "why", "document_tokens": NQ_TOKENS, "annotations": [NQ_NONE]},
    {"example_id": 3, "question_text": "is it", "document_tokens": [], "annotations": [{**NQ_NONE, "yes_no_answer": "NO"}]},
    {
        "example_id": 4,
        "question_text": "long",
        "document_tokens": NQ_TOKENS[1:6] * 2,
        "annotations": [{**NQ_NONE, "short_answers": [{"start_token": 0, "end_token": 7}]}],
    },
]
SVAMP = ("He had 3. How many?", "", ["51"])
TEXT = "Ada was born in London."
SHAPES: list[tuple[str, Any, list[Any]]] = [
    ("squad.json", SQUAD, [("Where was Ada born?", TEXT, ["London"]), ("When?", TEXT, [])]),
    (
        "hub.jsonl.gz",
        [{"id": "1", "context": "c", "question": "q?", "answers": {"text": ["x", "x", "y"]}}],
        [("q?", "c", ["x", "y"])],
    ),
    ("bioasq.json", BIOASQ, [("Which gene?", "", ["BRCA1", "brca 1", "BRCA2"])]),
    ("nq.jsonl", [{"question": "who", "answer": ["Bob", "Bobby"]}], [("who", "", ["Bob", "Bobby"])]),
    (
        "trivia.jsonl",
        [{"question": "who?", "answer": {"value": "X\x85", "aliases": ["Y", "the"]}}],
        [("who?", "", ["X\x85", "Y"])],
    ),
    # The answer itself cannot be judged, so its aliases are not believed.
    (
        "alias.jsonl",
        [{"question": "a?", "answer": {"value": "(a", "aliases": ["lib"]}}, {"question": "b?", "answer": "B"}],
        [("b?", "", ["B"])],
    ),
    ("foundry.jsonl", [{"context": "Question: who?\nAnswer:", "answer": "X", "aliases": ["Y"]}], [("who?", "", ["X", "Y"])]),
    ("svamp.json", [{"ID": 1, "Body": "He had 3", "Question": "How many?", "Answer": 51.0}], [SVAMP]),
    (
        "triviaqa-rc.json",
        {"Data": [{"Question": "Who?", "QuestionId": "q0", "Answer": {"Value": "X", "Aliases": ["Y"], "Type": "FreeForm"}}]},
        [("Who?", "", ["X", "Y"])],
    ),
    ("nq-dev.jsonl.gz", NQ, [("who wrote it", "", ["Ada Lovelace", "yes"]), ("is it", "", ["no"])]),
    (
        "simplified.jsonl",
        [{**NQ_SIMPLE, "annotations": [{"short_answers": [{"start_token": 1, "end_token": 3}], "yes_no_answer": "NONE"}]}],
        [("who wrote it", "", ["Ada Lovelace"])],
    ),
    ("own.csv", "question,answers\nq?,x\n", [("q?", "", ["x"])]),
    ("half.json", [{"ID": 1, "Body": "Well?", "Question": "How many?", "Answer": 2.5}], [("Well? How many?", "", ["2.5"])]),
    ("own.jsonl", [{"question": "q", "answers": ["x", "y"], "context": None}] * 2, [("q", "", ["x", "y"])]),
]


@pytest.mark.parametrize(("name", "content", "expected"), SHAPES, ids=[name for name, _, _ in SHAPES])
def test_every_shape_is_read(tmp_path: Path, name: str, content: Any, expected: list[Any]) -> None:
    found = own_questions(write(tmp_path / name, content))
    assert [(q["question"], q["context"], q["references"]) for q in found] == expected
    for question in found:
        assert question["answerable"] == bool(question["references"])
        assert question["target"] == (question["references"][0] if question["references"] else "unanswerable")


def questions(count: int) -> list[dict[str, Any]]:
    return [
        {"task_id": str(i), "question": f"q{i}?", "context": "", "references": ["x"] * (i % 3 > 0), "answerable": i % 3 > 0}
        for i in range(count)
    ]


def test_the_lowest_digests_are_asked_and_the_highest_shown() -> None:
    examples, asked = choose(questions(90), 20)
    answerable = [q for q in questions(90) if q["answerable"]]
    order = sorted(answerable, key=lambda q: hashlib.sha256(q["question"].encode()).hexdigest())
    assert asked == order[:20]
    assert examples == order[-5:]


def test_examples_are_never_asked() -> None:
    for unanswerable, total in ((False, 60), (True, 90)):
        examples, asked = choose(questions(90), None, unanswerable)
        assert len(asked) == total - 5
        assert not {q["task_id"] for q in examples} & {q["task_id"] for q in asked}


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="n_docs=56: expected 1 to 55"):
        choose(questions(90), 56)
    with pytest.raises(DataError, match="Found 4 questions"):
        choose(questions(6), None)


def test_faults_name_the_place(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Did you mean 'triviaqa'"):
        load_questions("trivia")
    with pytest.raises(DataError, match="no such file"):
        own_questions(str(tmp_path / "none.json"))
    with pytest.raises(DataError, match=r"row 1: found answer, text; expected question and answers"):
        own_questions(write(tmp_path / "a.jsonl", [{"question": "q", "answer": "a"}, {"text": "", "answer": ""}]))
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        own_questions(str(tmp_path / "b.json"))
    with pytest.raises(DataError, match=r"Download it there and name the file: --metadata"):
        load_questions("bioasq")


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(data.DATA_VARIABLE, str(tmp_path))
    (tmp_path / "svamp").mkdir()
    write(tmp_path / "svamp" / "SVAMP.json", [{"ID": "1", "Body": "b", "Question": "q", "Answer": 1.0}])
    with pytest.raises(DataError, match=r"SVAMP\.json: sha256 is .* not the published one"):
        load_questions("svamp")
    assert [q["target"] for q in own_questions(str(tmp_path / "svamp" / "SVAMP.json"))] == ["1"]


@pytest.mark.data
@pytest.mark.parametrize(("name", "asked"), [("triviaqa", 2999), ("squad_v2", 11862), ("nq_open", 3608), ("svamp", 1000)])
def test_published_sets(name: str, asked: int) -> None:
    """Less the rows that repeat a question with its text, and TriviaQA's one without a judgeable answer."""
    found = load_questions(name)
    assert len(found) == asked
    assert QUESTION_SETS[name].rows is not None
    assert len({q["task_id"] for q in found}) == asked
    assert all(q["answerable"] for q in found) == (name != "squad_v2")


@pytest.mark.data
def test_the_400_are_fixed() -> None:
    """These are the questions figures are quoted for; another choice is another task version."""
    for name, unanswerable, first in (
        ("triviaqa", False, "254dadb3e1e4331c"),
        ("squad_v2", False, "1cb243363d8f8ea1"),
        ("squad_v2", True, "ed6dd378d4513af3"),
    ):
        examples, asked = choose(load_questions(name), 400, unanswerable)
        digest = hashlib.sha256("\n".join(q["question"] for q in [*examples, *asked]).encode()).hexdigest()
        assert digest[:16] == first
