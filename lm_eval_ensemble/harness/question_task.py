"""One task class for all question sets: how well does a model know when its answer is wrong?

``dataset_name`` in the YAML names the set in ``lm_eval_ensemble.questions``; ``dataset_kwargs`` says how it is asked:
``prompt`` (``short``, or ``brief``: the documents'), ``context`` (whether the text to answer from is shown) and
``unanswerable`` (whether questions without an answer are asked).

``--metadata`` (a JSON object) sets: ``data_dir``; ``file`` (the questions of the user's own); ``n_docs`` (400) or ``full``;
of a file five questions are examples and are not asked, which the log says, and ``--num_fewshot 0`` asks all;
``context`` (false: do not show it); ``experiment_lot``, a name for the tables of ``lm-eval-ensemble uncertainty``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import datasets
from lm_eval.api.metrics import mean

from lm_eval_ensemble.errors import ConfigError, DataError, HostError
from lm_eval_ensemble.harness.own_task import OwnTask
from lm_eval_ensemble.metrics.answer_scores import free_scores
from lm_eval_ensemble.metrics.uncertainty import Estimate, auroc
from lm_eval_ensemble.problems import title
from lm_eval_ensemble.questions import DEFAULT_COUNT, SHOTS, choose, load_questions, own_questions
from lm_eval_ensemble.runs.answer import answer_record, is_right
from lm_eval_ensemble.runs.samples import problem_of

__all__ = ["QuestionFile", "UncertaintyTask"]

logger = logging.getLogger(__name__)

# Repeated before every question, as in the documents' runs.
_BRIEF = (
    "Answer the following question with a brief, concise answer. Use only a few words or a short phrase, not a full sentence.\n"
)
#: the score whose AUROC has an interval in the table, and a second AUROC for questions without an answer.
_MAIN = "g_nll"


class UncertaintyTask(OwnTask):
    """Short answers, generated greedily; accuracy for any model, and AUROC for models that tell log-probabilities."""

    what = "question tasks"
    known = frozenset(("data_dir", "file", "n_docs", "full", "context", "experiment_lot"))
    uncacheable = "its key does not say which questions"
    _told = False

    def prepare(self, settings: dict[str, Any]) -> None:
        asked = dict(settings.get("dataset_kwargs") or {})
        self.brief = asked.get("prompt") == "brief"
        self.shows_context = bool(asked.get("context")) and self.meta.get("context", True) is not False
        self.asks_unanswerable = bool(asked.get("unanswerable"))

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        own = self.meta.get("file")
        questions = load_questions(self.config.dataset_name, self.meta.get("data_dir")) if own is None else own_questions(own)
        if self.shows_context and not any(question["context"] for question in questions):
            raise DataError(
                f"{self.config.task}: its questions are answered from a text, and {self.config.dataset_name} as published here "
                "has none. Name a file that has (rows with question, context, answers; for TriviaQA the split 'unmodified' of "
                'TimoImhof/TriviaQA-in-SQuAD-format): --metadata \'{"file": "PATH"}\', or ask without: '
                "--metadata '{\"context\": false}'."
            )
        # Not part of the document, so that runs made before it was recorded keep their documents' hashes.
        self.titles = {_key(question): question.pop("title") for question in questions}
        self.questions = questions
        usable = sum(self.asks_unanswerable or question["answerable"] for question in questions)
        # How many examples are asked for is not known yet; of a file with few questions some are left to ask.
        self._choose(SHOTS if own is None else min(SHOTS, max(0, usable - 1)))

    def _choose(self, shots: int) -> None:
        examples, asked = choose(self.questions, self._count(), self.asks_unanswerable, shots)
        self.dataset = {"test": datasets.Dataset.from_list(asked), "examples": datasets.Dataset.from_list(examples)}

    def _count(self) -> int | None:
        count, full = self.meta.get("n_docs"), self.meta.get("full", False)
        if not isinstance(full, bool) or (full and count is not None):
            raise ConfigError(f"--metadata full={full!r}, n_docs={count!r}: expected full=true, or a number n_docs, not both.")
        if count is not None and (type(count) is not int or count < 1):
            raise ConfigError(f"--metadata n_docs={count!r}: expected a whole number of at least 1.")
        if count is None and self.meta.get("file"):
            full = True  # a file of the user's own is asked as it is
        return None if full else count or DEFAULT_COUNT

    def doc_to_text(self, doc: Mapping[str, Any], doc_to_text: Any = None) -> str:
        context = f"Context: {doc['context']}\n" if self.shows_context and doc["context"] else ""
        return f"{_BRIEF if self.brief else ''}{context}Question: {doc['question']}\nAnswer:"

    def doc_to_target(self, doc: Mapping[str, Any], doc_to_target: Any = None) -> str:
        return str(doc["target"])

    def build_all_requests(self, **arguments: Any) -> None:
        shots, examples, own = self.config.num_fewshot or 0, self.dataset["examples"], self.meta.get("file") is not None
        if shots > len(examples):
            less = f" of {len(self.questions)}; --num_fewshot 0 asks them all" if own else ""
            raise HostError(
                f"--num_fewshot {shots} for {self.config.task}: {len(examples)} questions are kept back as examples{less}."
            )
        if own and not shots:
            self._choose(0)
        elif own:
            logger.info(
                "%s: %d questions of the file are shown as examples (%d) or kept for that, and not asked; --num_fewshot 0 asks "
                "them all:%s",
                self.config.task,
                len(examples),
                shots,
                "".join(f"\n  {example['task_id']}: {example['question'][:80]}" for example in examples),
            )
        super().build_all_requests(**arguments)

    def rows_of(self, doc: Mapping[str, Any], answer: Any) -> dict[str, Any]:
        record = answer_record(doc, answer, self.titles.get(_key(doc), ""))
        right = bool(is_right(record))
        rows: dict[str, Any] = {
            "accuracy": float(right),
            "f1": record["f1"],
            "em": float(record["em"]),
            "rougeL": record["rougeL"],
            "empty_rate": float(not record["answer"]),
            "uncertainty": record,
        }
        if record["logprobs"] is None:
            self._tell_what_is_missing()
        else:
            rows |= {f"{name}_rate": float(bool(record[key])) for name, key in _RATES.get(record["source"], {}).items()}
            rows |= self._pairs(record, right, problem_of(doc, record))
        return rows

    def _pairs(self, record: Mapping[str, Any], right: bool, problem: Hashable) -> dict[str, list[Any]]:
        """Per score what its AUROC is made of: the score and whether the answer is wrong (as lists: they go to JSON), for its
        interval also what the question was cut from."""
        scores = {name: _rounded(value) for name, value in free_scores(record).items() if _is_told(name, record)}
        pairs: dict[str, list[Any]] = {f"auroc_{name}": [value, float(not right)] for name, value in scores.items()}
        pairs |= {f"auroc_{_MAIN}{end}": [scores[_MAIN], float(not right), problem] for end in ("_low", "_high")}
        if self.asks_unanswerable:
            pairs[f"auroc_unanswerable_{_MAIN}"] = [scores[_MAIN], float(not record["answerable"])]
        return pairs

    def _tell_what_is_missing(self) -> None:
        if not self._told:
            self._told = True
            logger.warning(
                "%s: this model returns plain text, so there is accuracy but no uncertainty. For that run --model hf-scored "
                "(a checkpoint), local-completions-scored (a server with logprobs) or rescored (any model with loglikelihood).",
                self.config.task,
            )

    def directions(self, names: Iterable[str]) -> dict[str, bool]:
        return {name: not name.endswith("_rate") for name in names}

    def aggregation_of(self, name: str) -> Callable[..., Any]:
        if name == "uncertainty":
            return _with_logprobs
        if not name.startswith("auroc_"):
            aggregation: Callable[..., Any] = mean  # lm_eval gives a standard error to its own mean only
            return aggregation

        def area(pairs: Sequence[Sequence[Any]]) -> float | None:
            clusters = [(i,) if pair[2:] in ([], [None]) else pair[2] for i, pair in enumerate(map(list, pairs))]
            found = auroc([pair[0] for pair in pairs], [bool(pair[1]) for pair in pairs], clusters)
            if name in (f"auroc_{_MAIN}", f"auroc_unanswerable_{_MAIN}"):
                self._tell_about(name, found)
            return found.low if name.endswith("_low") else found.high if name.endswith("_high") else found.value

        return area

    def _tell_about(self, name: str, found: Estimate) -> None:
        if found.reason:
            logger.warning("%s: %s: %s (n = %d).", self.config.task, name, found.reason, found.n)
        if found.excluded:
            logger.warning("%s: %s leaves out %d documents without a score.", self.config.task, name, found.excluded)
        if found.high is not None and found.high < 0.5:
            logger.warning(
                "%s: the interval of %s, %.3f to %.3f, lies under 0.5: the model is surest where it is wrong, or answers and "
                "references do not belong together.",
                self.config.task,
                name,
                found.low,
                found.high,
            )


class QuestionFile(UncertaintyTask):
    """``qa_file``: questions of the user's own; with ``unanswerable`` also those that have no answer."""

    known = UncertaintyTask.known - {"data_dir"} | {"unanswerable"}
    what = "qa_file"

    def prepare(self, settings: dict[str, Any]) -> None:
        if "file" not in self.meta:
            raise ConfigError('qa_file asks your own questions: name their file, --metadata \'{"file": "questions.jsonl"}\'.')
        if not isinstance(self.meta.get("unanswerable", False), bool):
            raise ConfigError(f"--metadata unanswerable={self.meta['unanswerable']!r}: expected true or false.")
        super().prepare(settings)
        self.asks_unanswerable = self.meta.get("unanswerable", False)

    @property
    def task_name(self) -> str:
        """Runs of two files side by side are two tasks."""
        return f"{self.config.task}_{title(self.meta['file'])}"

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().download(dataset_kwargs, **kwargs)
        self.shows_context = self.meta.get("context", True) is not False and any(q["context"] for q in self.questions)


#: rows that only models with log-probabilities have -> the entry of the record that is counted; by who can tell: a server does
#: not say that it cut a prompt, a second pass not even how the answer ended.
_ENDS = {"truncated": "truncated", "straddle": "straddle"}
_RATES: dict[str, dict[str, str]] = {"generation": {**_ENDS, "trimmed": "trimmed_prefix"}, "server": _ENDS, "loglikelihood": {}}


def _is_told(name: str, record: Mapping[str, Any]) -> bool:
    """Whether this run records what the score is made of; the same for all documents of a model."""
    if name.endswith("_entropy"):
        return record["entropy"] is not None
    if name == "mean_margin":
        return record["margin"] is not None
    if name == "p_true":
        return record["p_true"] is not None
    return record["source"] != "loglikelihood" or name in (_MAIN, "length_tokens", "length_chars")


def _key(question: Mapping[str, Any]) -> tuple[str, str]:
    return str(question["task_id"]), str(question["question"])


def _with_logprobs(records: Sequence[Mapping[str, Any]]) -> int:
    """How many answers came with log-probabilities."""
    return sum(record["logprobs"] is not None for record in records)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 7)
