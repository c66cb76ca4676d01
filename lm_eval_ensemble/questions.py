"""The question sets: where their rows come from, which of them are asked, and which are shown as examples.

A question is a dict with ``task_id, question, context, title, references, answerable, target``: ``context`` is the text it is
to be answered from and ``title`` the article of that ("" if there is none), ``references`` the accepted answers, ``target`` the
answer shown when the question is an example. Questions without an answer have no references and the target ``unanswerable``.

Which questions: they are put in the order of the sha256 of their text, a shuffle anybody can redo. The last five are the
examples and are never asked; the first 400 are asked, or ``n_docs`` of them, or all.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval_ensemble.data import Source, find_rows
from lm_eval_ensemble.errors import ConfigError, DataError, did_you_mean
from lm_eval_ensemble.metrics.answers import normalise
from lm_eval_ensemble.problems import files_of, read_file

__all__ = [
    "DEFAULT_COUNT",
    "QUESTION_SETS",
    "SHOTS",
    "UNANSWERABLE",
    "QuestionSet",
    "choose",
    "load_questions",
    "own_questions",
]

logger = logging.getLogger(__name__)

Question = dict[str, Any]
#: how many questions are asked, and how many are kept back as examples.
DEFAULT_COUNT, SHOTS = 400, 5
UNANSWERABLE = "unanswerable"
_MOST_TOKENS = 5
_RAW = "https://raw.githubusercontent.com/"


@dataclass(frozen=True)
class QuestionSet:
    """``rows``: how many the published file has. No sources: only the user has the file."""

    name: str
    rows: int | None = None
    sources: tuple[Source, ...] = ()


QUESTION_SETS: dict[str, QuestionSet] = {
    s.name: s
    for s in (
        QuestionSet(
            "triviaqa",
            3000,
            (
                Source(
                    "triviaqa/validation_subset3000.jsonl.gz",
                    "de5c084448c121f4df87bfc2d89a7c1f7d49c5dbbfa07b4a09abca21973c812a",
                    None,
                ),
                Source(
                    "triviaqa/triviaqa_sm_sub.jsonl",
                    "e3e8222e94cae291d7ab132e59f09c4f51580ed3e23639cf29c2926b4c8284e9",
                    _RAW + "mosaicml/llm-foundry/8c8dd48f72168c5d51e2f7b151595892a8fba43d/"
                    "scripts/eval/local_data/world_knowledge/triviaqa_sm_sub.jsonl",
                ),
            ),
        ),
        QuestionSet(
            "squad_v2",
            11873,
            (
                Source(
                    "squad_v2/validation.jsonl.gz",
                    "617461798802c952c37eeddf7afb9153c6d344cb8233bad5c9042f6e9f7fe97c",
                    None,
                ),
                Source(
                    "squad_v2/dev-v2.0.json",
                    "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8",
                    _RAW + "rajpurkar/SQuAD-explorer/e0c66cfec263165fb3c15cb76a22175e371b71d7/dataset/dev-v2.0.json",
                ),
            ),
        ),
        QuestionSet(
            "nq_open",
            3610,
            (
                Source(
                    "nq_open/NQ-open.dev.jsonl.gz",
                    "70d8a86519bb3dcebc5b5574a96d2daaf3099c5e760cfbca39f5bc3b2e7b0c24",
                    None,
                ),
                Source(
                    "nq_open/NQ-open.dev.jsonl",
                    "f15567f38099f3615f5b8a685c0aef449c11ad90d3da3735e8d1b98115b40616",
                    _RAW + "google-research-datasets/natural-questions/fb26a3073b1fe636c97302890a27b491d6530130/"
                    "nq_open/NQ-open.dev.jsonl",
                ),
            ),
        ),
        QuestionSet(
            "svamp",
            1000,
            (
                Source("svamp/SVAMP.jsonl.gz", "b7055973d041ba3d1d9136cb418da2c03be7aa39351c587992f7a0a2dfaca338", None),
                Source(
                    "svamp/SVAMP.json",
                    "5be77703a6d891ae476d7c082787ad361392aa02453b132516cdd5f4e7934e3e",
                    _RAW + "arkilpatel/SVAMP/689d7ccac74b9983a2ac7cc3b264f441b99e7c53/SVAMP.json",
                ),
            ),
        ),
        QuestionSet("bioasq"),
    )
}


def load_questions(name: str, data_dir: str | None = None) -> list[Question]:
    """All questions of a set that can be judged, in published order, each once.

    :param name: a key of ``QUESTION_SETS``.
    :param data_dir: folder with local copies; default ``LM_EVAL_ENSEMBLE_DATA``.
    :raises DataError: unknown name; a file that is not the published one; a set of which only the user has the file.
    """
    if name not in QUESTION_SETS:
        raise DataError(f"Unknown question set {name!r}.{did_you_mean(name, QUESTION_SETS)}")
    asked = QUESTION_SETS[name]
    if not asked.sources:
        raise DataError(
            f"Question set {name!r} may not be passed on; its makers give it to registered users. Download it there and name "
            'the file: --metadata \'{"file": "PATH"}\'.'
        )
    flat = [row for value in find_rows(name, asked.sources, data_dir) for row in _expanded(value)]
    if len(flat) != asked.rows:
        raise DataError(f"Question set {name!r}: found {len(flat)} rows, expected {asked.rows}.")
    return _judgeable(flat, f"question set {name!r}")


def own_questions(file: Any) -> list[Question]:
    """The same of files of the user's own: SQuAD, TriviaQA, NQ, NQ-open, SVAMP or BioASQ as published, or rows with
    ``question``, ``answers`` (a list) and perhaps ``context``, ``title``, ``id``.

    :param file: a path, a list of paths, or a folder, as for ``problems.load_problems``.
    :raises DataError: no such file; a row of another shape.
    """
    paths = files_of(file)
    flat = [row for path in paths for value in read_file(path) for row in _expanded(value)]
    return _judgeable(flat, ", ".join(map(str, paths)))


def _judgeable(flat: Sequence[Any], where: str) -> list[Question]:
    found: dict[tuple[str, str], Question] = {}
    for index, row in enumerate(flat):
        question = _question(row, index, where)
        if question is not None:
            found.setdefault((question["question"], question["context"]), question)
    if not found:
        raise DataError(f"{where}: none of its {len(flat)} rows is a question that can be judged.")
    if len(found) < len(flat):
        logger.info("%s: %d of %d rows are asked; the others repeat one or have no answer.", where, len(found), len(flat))
    return list(found.values())


def choose(
    questions: Sequence[Question], count: int | None, unanswerable: bool = False, shots: int = SHOTS
) -> tuple[list[Question], list[Question]]:
    """The examples and the questions that are asked.

    :param count: how many are asked; None: all but the examples.
    :param unanswerable: also those without an answer.
    :raises ConfigError: more were asked for than there are.
    """
    usable = sorted((q for q in questions if unanswerable or q["answerable"]), key=_place)
    if len(usable) <= shots:
        raise DataError(f"Found {len(usable)} questions, expected more than the {shots} that are shown as examples.")
    examples, rest = usable[len(usable) - shots :], usable[: len(usable) - shots]
    if count is not None and not 1 <= count <= len(rest):
        raise ConfigError(
            f"--metadata n_docs={count}: expected 1 to {len(rest)} (the set less {shots} examples), or full=true."
        )
    return examples, rest[:count]


def _place(question: Question) -> tuple[str, str]:
    text: str = question["question"]
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(), question["task_id"]


def _expanded(value: Any) -> Iterator[Any]:
    """The rows inside a published file that nests them: SQuAD's articles, BioASQ's ``questions``, TriviaQA's ``Data``."""
    if isinstance(value, Mapping) and isinstance(value.get("questions"), list):
        yield from value["questions"]
    elif isinstance(value, Mapping) and isinstance(value.get("Data"), list):
        yield from value["Data"]
    elif isinstance(value, Mapping) and isinstance(value.get("data"), list):
        for entry in value["data"]:
            if not isinstance(entry, Mapping) or "paragraphs" not in entry:
                yield entry
                continue
            for paragraph in entry["paragraphs"]:
                title = entry.get("title")
                yield from ({**qa, "context": paragraph["context"], "title": title} for qa in paragraph["qas"])
    else:
        yield value


def _question(row: Any, index: int, where: str) -> Question | None:
    """One row in our shape, or None if no answer to it could be judged (each accepted answer is empty once normalised).

    :raises DataError: the row has none of the known shapes.
    """
    try:
        reader = next(read for columns, read in _READERS if columns <= set(row))
        text, context, answers = reader(row)
        references = list(dict.fromkeys(str(answer) for answer in answers))
        names = [
            str(row[key])
            for key in ("id", "question_id", "QuestionId", "example_id", "ID", "task_id")
            if row.get(key) is not None
        ]
    except (StopIteration, KeyError, TypeError, AttributeError):
        found = ", ".join(sorted(map(str, row))) if isinstance(row, Mapping) else type(row).__name__
        raise DataError(
            f"{where}, row {index}: found {found or 'nothing'}; expected question and answers (a list of text), or the "
            "columns of SQuAD, TriviaQA, NQ, NQ-open, SVAMP or BioASQ."
        ) from None
    judged = [reference for reference in references if normalise(reference)]
    if not str(text).strip() or (references and not judged):
        return None
    return {
        "task_id": names[0] if names else f"{index:05d}",
        "question": str(text).strip(),
        "context": str(context or "").strip(),
        # Titles of questions without a text are names of anything.
        "title": str(row.get("problem") or (row.get("title") if context else None) or "").strip(),
        "references": judged,
        "answerable": bool(judged),
        "target": judged[0] if judged else UNANSWERABLE,
    }


Read = Callable[[Mapping[str, Any]], tuple[Any, Any, Sequence[Any]]]


def _texts(answer: Any) -> list[Any]:
    """Accepted answers in any of their published forms: a text, a list, ``{"text": [...]}``, ``{"value", "aliases"}``."""
    if isinstance(answer, Mapping):
        if "text" in answer:
            return list(answer["text"])
        # Where the answer itself is empty once normalised, the aliases are those of something else.
        return [answer["value"], *(answer.get("aliases", []) if normalise(str(answer["value"])) else [])]
    if isinstance(answer, str | int | float):
        return [answer]
    return [text for item in answer for text in _texts(item)]


def _squad(row: Mapping[str, Any]) -> tuple[Any, Any, Sequence[Any]]:
    answers = row["answers"]
    if isinstance(answers, list) and all(isinstance(a, Mapping) for a in answers):  # dev-v2.0.json
        answers = {"text": [answer["text"] for answer in answers]}
    return row["question"], row.get("context"), [] if row.get("is_impossible") else _texts(answers)


def _foundry(row: Mapping[str, Any]) -> tuple[Any, Any, Sequence[Any]]:
    question = str(row["context"]).removeprefix("Question: ").removesuffix("\nAnswer:")
    return question, "", [row["answer"], *row["aliases"]]


def _svamp(row: Mapping[str, Any]) -> tuple[Any, Any, Sequence[Any]]:
    body, number = str(row["Body"]).strip(), float(row["Answer"])
    text = f"{body}{'' if body.endswith(('.', '?', '!')) else '.'} {str(row['Question']).strip()}"
    return text, "", [f"{number:.0f}" if number.is_integer() else f"{number:g}"]


def _triviaqa(row: Mapping[str, Any]) -> tuple[Any, Any, Sequence[Any]]:
    """As its makers publish it (triviaqa-unfiltered, triviaqa-rc); the Hub has the same under other names."""
    answer = row["Answer"]
    return row["Question"], "", _texts({"value": answer["Value"], "aliases": answer.get("Aliases", [])})


def _nq(row: Mapping[str, Any]) -> tuple[Any, Any, Sequence[Any]]:
    """Short answers of Natural Questions: spans of tokens of the page (``document_tokens``, or ``document_text`` where the file
    is the simplified one), yes and no. Questions without one, and answers of more than five tokens, are passed over, as
    NQ-open does (Lee et al. 2019)."""
    if "document_tokens" in row:
        tokens = ["" if token["html_token"] else token["token"] for token in row["document_tokens"]]
    else:
        tokens = ["" if word.startswith("<") else word for word in row["document_text"].split(" ")]
    spans = [tokens[a["start_token"] : a["end_token"]] for note in row["annotations"] for a in note["short_answers"]]
    words = [" ".join(filter(None, span)) for span in spans if sum(map(bool, span)) <= _MOST_TOKENS]
    words += [note["yes_no_answer"].lower() for note in row["annotations"] if note["yes_no_answer"] in ("YES", "NO")]
    return (row["question_text"], "", words) if words else ("", "", [])


def _bioasq(row: Mapping[str, Any]) -> tuple[Any, Any, Sequence[Any]]:
    """Factoid questions: their exact answers are accepted. Others have none in a few words, and are passed over."""
    if row.get("type", "factoid") != "factoid":
        return "", "", []
    return row["body"], "", _texts(row["exact_answer"])


#: the columns that tell a shape, and its reader; the first that fits is taken.
_READERS: tuple[tuple[set[str], Read], ...] = (
    ({"Body", "Question", "Answer"}, _svamp),
    ({"Question", "Answer"}, _triviaqa),
    ({"question_text", "annotations"}, _nq),
    ({"body", "type"}, _bioasq),
    ({"body", "exact_answer"}, _bioasq),
    ({"question", "answers"}, _squad),
    ({"question", "answer"}, lambda row: (row["question"], row.get("context"), _texts(row["answer"]))),
    ({"context", "answer", "aliases"}, _foundry),
)
