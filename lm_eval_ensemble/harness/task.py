"""One task class for all infilling sets. It works alike with stock models (plain strings) and with ours.

``--metadata`` (a JSON object) sets: ``data_dir``; ``cut`` (``none`` turns the single-line cut off); ``layout`` (of the
prompt text for stock models: a name, or a file of your own); ``repeats`` and ``k`` (pass@k); ``judge_timeout`` (seconds),
``judge_workers``, ``sandbox`` (strict, auto, off), ``sandbox_command``, ``judge`` (``split``; ``together`` and ``auto`` for
tests that need more than plain values; ``reference`` runs OpenAI's own checker), and of documents of the user's own
``strict`` (stop where the reference of a gap fails its own tests, which else leaves the gap out).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import datasets
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean

from lm_eval_ensemble.data import SETS, Document, check_document, load_documents
from lm_eval_ensemble.errors import ConfigError, HostError
from lm_eval_ensemble.fim import LAYOUTS, MOVED, FimLayout, find_layout, layout_named, leftovers
from lm_eval_ensemble.harness.base import NO_CHAT
from lm_eval_ensemble.harness.judging import JudgeSettings, check_judge, judge_all
from lm_eval_ensemble.harness.own_task import OwnTask
from lm_eval_ensemble.harness.ranks import HOST_RUN
from lm_eval_ensemble.harness.references import failing
from lm_eval_ensemble.problems import documents_of, load_problems, name_problems
from lm_eval_ensemble.runs import rows as infill
from lm_eval_ensemble.runs.samples import unjudged_record
from lm_eval_ensemble.types import Candidate, Completion, Cut, Scored, Selection, normalise

__all__ = ["InfillTask", "as_selections", "ks_of", "own_judge", "row_aggregation"]

logger = logging.getLogger(__name__)

#: Share of a member's answers above which their fate is worth a word.
_OFTEN = 0.1


class InfillTask(OwnTask):
    """``dataset_name`` in the YAML names the set in ``lm_eval_ensemble.data``. A YAML with ``dataset_path`` (or
    ``dataset_kwargs: {data_files: ...}``) brings documents of its own, with the columns of ``problems``; ``process_docs``
    may make these of others."""

    known = frozenset(
        (
            *("data_dir", "cut", "layout", "repeats", "k"),
            *("judge", "judge_timeout", "judge_workers", "sandbox", "sandbox_command", "strict"),
        )
    )
    what = "infilling tasks"
    uncacheable = "its key does not contain the prompt layout"

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(config)
        self._partial: frozenset[str] = frozenset()
        self._judged: dict[int, Instance] = {}
        self._ks()

    def prepare(self, settings: dict[str, Any]) -> None:
        self.layout, self._guessed = self._find_layout()
        # Documents of the user's own, whose tests may be of any style, and wrong.
        self.brings_own = type(self).own_documents is not InfillTask.own_documents or _names_own(settings)
        self.judge = own_judge(self.meta) if self.brings_own else JudgeSettings.from_metadata(self.meta)
        if not isinstance(self.meta.get("strict", False), bool):
            raise ConfigError(f"--metadata strict={self.meta['strict']!r}: expected true or false.")
        settings["repeats"] = self._repeats(settings)
        settings["generation_kwargs"] = {"until": list(self.layout.stops), **settings.get("generation_kwargs", {})}

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not self.brings_own and not self.config.dataset_name:
            raise ConfigError(
                f"{self.config.task}: names no documents. Its YAML wants dataset_name (a set of ours: {', '.join(SETS)}), or "
                "dataset_path and dataset_kwargs, as load_dataset of the library datasets takes them."
            )
        own = self.own_documents() if self.brings_own else None
        documents = load_documents(self.config.dataset_name, self.meta.get("data_dir")) if own is None else own
        cut = self.meta.get("cut", "auto")
        if cut not in ("auto", "none"):
            raise ConfigError(f"--metadata cut={cut!r}: expected 'none' (off) or nothing (the rule of each set).")
        if cut == "none":
            documents = [{**document, "cut": "none"} for document in documents]
        self.dataset = {self.config.test_split: datasets.Dataset.from_list(documents)}

    def own_documents(self) -> list[Document]:
        """The documents of a task that brings its own.

        :raises DataError: a row lacks what a gap needs.
        """
        name, split, kwargs = self.config.task, self.config.test_split, dict(self.config.dataset_kwargs or {})
        if self.config.dataset_path or callable(self.config.custom_dataset):
            super().download(kwargs)
            if split not in self.dataset:
                raise ConfigError(f"{name}: test_split {split!r} is not there; found {', '.join(map(repr, self.dataset))}.")
            rows = self.dataset[split] if self.config.process_docs is None else self.config.process_docs(self.dataset[split])
            self.config.process_docs = None  # lm_eval would do it again
            documents = documents_of(rows, f"{name} ({self.config.dataset_path})", name)
            name_problems(documents)
        else:
            files = kwargs["data_files"]
            files = files.get(split) if isinstance(files, Mapping) else files
            documents = load_problems(files, f"{name}: dataset_kwargs.data_files")
        if not self.config.unsafe_code and any(document["test"] for document in documents):
            logger.warning("%s: its tests are not run; a YAML that includes executed_yaml runs them.", name)
            documents = [{**document, "test": "", "entry_point": ""} for document in documents]
        return documents

    def doc_to_text(self, doc: Mapping[str, Any], doc_to_text: Any = None) -> str:
        """The prompt for models that are given text; ours build theirs from the document."""
        check_document(doc, self.config.task)
        return self.layout.render(doc["prefix"], doc["suffix"])

    def doc_to_target(self, doc: Mapping[str, Any], doc_to_target: Any = None) -> str:
        return str(doc["middle"])

    def build_all_requests(self, **arguments: Any) -> None:
        if arguments.get("apply_chat_template"):
            if HOST_RUN.lm is not None:
                raise HostError(NO_CHAT)
            if not self.layout.chat:
                logger.warning(
                    "%s: the fill-in-the-middle prompt is wrapped in a conversation (--apply_chat_template). A model without a "
                    'layout is asked in words by --metadata \'{"layout": "chat"}\'.',
                    self.config.task,
                )
        elif self.layout.chat and HOST_RUN.lm is None:
            logger.warning(
                "%s: layout=%s asks in words, but the words are no conversation without --apply_chat_template.",
                self.config.task,
                self.layout.name,
            )
        if self.brings_own and self.config.unsafe_code and not self.predicts_only:
            self._leave_out_failing()
        super().build_all_requests(**arguments)
        if self.config.unsafe_code and not self.predicts_only:
            check_judge(self.judge)  # now, not when hours of generation are done
        if self._guessed and HOST_RUN.lm is None:
            logger.warning(
                "%s: no fill-in-the-middle layout is known for pretrained=%r; the prompts use that of %r. A wrong layout "
                'costs several points: set it with --metadata \'{"layout": "NAME"}\' (%s).',
                self.config.task,
                self.meta.get("pretrained"),
                self.layout.name,
                ", ".join(LAYOUTS),
            )

    def _leave_out_failing(self) -> None:
        """Ask only gaps whose own reference passes their tests; the others are counted in the results."""
        split = self.config.test_split
        documents = list(self.dataset[split])
        failed = failing(self.config.task, documents, self.judge, self.meta.get("strict", False))
        if HOST_RUN.lm is not None:  # a reference that passes here and fails there is asked in no process
            failed = {name: why for told in HOST_RUN.lm.all_told(failed) for name, why in told.items()}
        kept = [document for document in documents if document["task_id"] not in failed]
        self.dataset = datasets.DatasetDict({split: datasets.Dataset.from_list(kept)})
        self.config.metadata = {**(self.config.metadata or {}), "references_that_fail": len(failed)}

    def filter_answers(self) -> list[Instance] | None:
        """Judge all candidates of all documents together (with ``--predict_only`` none), and put the verdicts into the
        completions' traces."""
        kept = [[s for r in i.resps for s in as_selections(r, i.doc, self.layout)] for i in self._instances]
        candidates = [
            (instance.doc, scored)
            for instance, selections in zip(self._instances, kept, strict=True)
            for selection in selections
            for scored in selection.candidates
        ]
        _tell_repetition(self.config.task, self.config.repeats, kept)
        _tell_leftovers(self.config.task, [scored.candidate for _, scored in candidates])
        _tell_truncation(self.config.task, [scored.candidate for _, scored in candidates])
        judged = [scored for _, scored in candidates]
        # The task's metadata is saved with the results.
        self.config.metadata = {**(self.config.metadata or {}), "prompt_layout": self.layout.name}
        if not self.predicts_only:
            judged, self.config.metadata["executed_in"] = judge_all(candidates, self.judge, self.config.task)
        verdicts = iter(judged)
        kinds: set[frozenset[str]] = set()
        for instance, selections in zip(self._instances, kept, strict=True):
            found = [replace(s, candidates=tuple(next(verdicts) for _ in s.candidates)) for s in selections]
            completions = [Completion(s.chosen.text, s) for s in found]
            # lm_eval keeps answers to the end, as text: the records without verdicts are of no more use, those with them
            # until the rows are made of them.
            instance.resps = list(map(str, instance.resps))
            instance.filtered_resps["none"] = answer = completions[0] if len(completions) == 1 else completions
            self._judged[id(answer)] = instance
            if not self.predicts_only:
                kinds.add(frozenset(infill.document_rows(instance.doc, found, self._ks())))
        if kinds:
            self._agree_on_rows(kinds)
        return None

    def _agree_on_rows(self, kinds: set[frozenset[str]]) -> None:
        """The rows that only some documents have (after a route, say) are None in the others, here and in every process:
        lm_eval takes the rows that the first process met, and asks all processes for each."""
        if HOST_RUN.lm is not None:
            kinds = kinds.union(*HOST_RUN.lm.all_told(kinds))
        self._partial = frozenset[str]().union(*kinds).difference(frozenset.intersection(*kinds))

    def rows_of(self, doc: Mapping[str, Any], answer: Any) -> dict[str, Any]:
        rows = infill.document_rows(doc, self._selections(doc, answer), self._ks())
        return rows | dict.fromkeys(sorted(self._partial - rows.keys()))

    def kept_of(self, doc: Mapping[str, Any], answer: Any) -> dict[str, Any]:
        """All candidates, for ``lm-eval-ensemble judge`` and ``score``; plain text stands in the line anyway."""
        selections = self._selections(doc, answer)
        return {} if selections[0].members == ("",) else unjudged_record(selections)

    def _selections(self, doc: Mapping[str, Any], answer: Any) -> list[Selection]:
        """The traces of an answer, which is plain text from here on: lm_eval keeps it to the end."""
        completions = [answer] if isinstance(answer, Completion) else answer
        found = [s for completion in completions for s in as_selections(completion, doc, self.layout)]
        if (instance := self._judged.pop(id(answer), None)) is not None:
            texts = list(map(str, completions))
            instance.filtered_resps["none"] = texts[0] if isinstance(answer, Completion) else texts
        return found

    def aggregation_of(self, name: str) -> Callable[..., Any]:
        return row_aggregation(name, name in self._partial)

    def directions(self, names: Iterable[str]) -> Mapping[str, bool]:
        return infill.directions(names)

    def _find_layout(self) -> tuple[FimLayout, bool]:
        """The layout, and whether it was guessed: the one asked for, else that of the checkpoint (``fim`` of ensemble-ppl)."""
        if (asked := self.meta.get("layout")) is not None:
            return layout_named(str(asked)), False
        if "fim" in self.meta and HOST_RUN.lm is None:
            raise ConfigError(f"--metadata fim={self.meta['fim']!r}: {MOVED}")
        for model in (self.meta.get("fim"), self.meta.get("pretrained")):
            if isinstance(model, str) and (found := find_layout(model)):
                return found, False
        return LAYOUTS["qwen"], True

    def _repeats(self, settings: Mapping[str, Any]) -> int:
        repeats = self.meta.get("repeats", settings.get("repeats") or 1)
        if not isinstance(repeats, int) or repeats < 1:
            raise ConfigError(f"--metadata repeats={repeats!r}: expected a whole number of at least 1.")
        return repeats

    def _ks(self) -> list[int]:
        return ks_of(self.meta, self.config.repeats)


def ks_of(meta: Mapping[str, Any], repeats: int) -> list[int]:
    """k of the pass@k rows, beside 1: those asked for, else the usual ones and the number of repeats.

    :raises ConfigError: no such number.
    """
    asked = meta.get("k", [10, 100, repeats, meta.get("samples", 1)])
    values = asked if isinstance(asked, list | tuple) else [asked]
    if not all(isinstance(k, int) and k >= 1 for k in values):
        raise ConfigError(f"--metadata k={asked!r}: expected a whole number of at least 1, or a list of them.")
    return sorted(set(values))


def own_judge(meta: Mapping[str, Any]) -> JudgeSettings:
    """The judge of the user's own documents, whose tests may be of any style."""
    return JudgeSettings.from_metadata({"judge": "auto", **meta})


def _names_own(settings: Mapping[str, Any]) -> bool:
    files = (settings.get("dataset_kwargs") or {}).get("data_files")
    return bool(settings.get("dataset_path") or settings.get("custom_dataset") or files)


def as_selections(answer: str, doc: Mapping[str, Any], layout: FimLayout) -> Sequence[Selection]:
    """The trace of one of our completions (of every run, if it has several), or a record of a plain string, cut by the
    same rule.

    :param layout: of the prompt a plain string answers.
    """
    if isinstance(answer, Completion) and answer.trace is not None:
        return answer.runs
    cut: Cut = "line" if doc.get("cut") == "line" else "none"
    written, taken = layout.clean(str(answer), doc["prefix"], doc["suffix"], cut)
    text = normalise(written, cut)
    info = {"layout": layout.name, **({"cleaned": list(taken)} if layout.chat else {})}
    return [Selection((Scored(Candidate("", text, written, info=info), {}),), 0, "single", "none")]


def _tell_repetition(task: str, repeats: int, kept: Sequence[Sequence[Selection]]) -> None:
    """Answers that were drawn greedily are the same each time."""
    texts = [{tuple(scored.candidate.text for scored in s.candidates) for s in selections} for selections in kept]
    if repeats > 1 and texts and all(len(own) == 1 for own in texts):
        logger.warning(
            "%s: the %d repeats of every document are the same text, so pass@k says no more than pass@1. Greedy decoding "
            "repeats itself: set a temperature, or leave repeats out.",
            task,
            repeats,
        )


def _tell_leftovers(task: str, candidates: Sequence[Candidate]) -> None:
    """What stands in answers beside code: taken away and counted in a chat, else the reason why so many are wrong."""
    for member in dict.fromkeys(candidate.member for candidate in candidates):
        own = [candidate for candidate in candidates if candidate.member == member]
        who = f"{task}, {member}" if member else task
        if cleaned := sum(bool(candidate.info.get("cleaned")) for candidate in own):
            logger.info(
                "%s: of %d of %d answers a Markdown fence or control tokens were taken away (layout=chat).",
                who,
                cleaned,
                len(own),
            )
        found = Counter(name for c in own if "cleaned" not in c.info for name in leftovers(c.text))
        if found:
            count = sum("cleaned" not in c.info and bool(leftovers(c.text)) for c in own)
            logger.warning(
                "%s: %d of %d answers hold what is no code (%s). An instruction-tuned model is asked in words, and its "
                "answers are cleaned, by layout=chat.",
                who,
                count,
                len(own),
                ", ".join(f"{'Markdown fence' if name == 'fence' else name} {n}" for name, n in found.most_common(4)),
            )


def _tell_truncation(task: str, candidates: Sequence[Candidate]) -> None:
    """A model that seldom stops is no worse at code than its score says: its answers run into the suffix."""
    for member in dict.fromkeys(candidate.member for candidate in candidates):
        own = [candidate for candidate in candidates if candidate.member == member]
        count = sum(candidate.was_truncated for candidate in own)
        if count > _OFTEN * len(own):
            logger.warning(
                "%s, %s: %d of %d answers ended at the limit of tokens, neither by the model nor by a cut of the task: "
                "most are wrong for it. Raise max_new_tokens if gaps are longer than that; many instruction-tuned models "
                "do not stop at the end of a gap, however high it is.",
                *(task, member, count, len(own)),
            )


def row_aggregation(name: str, partial: bool = False) -> Callable[..., Any]:
    """How the values of a row become one: lm_eval's mean, or one of ours.

    :param partial: some documents do not have the row.
    """
    if name == "selection":
        return infill.selection_accuracy
    if name == "unjudged":
        return len
    if name in ("length_mode", "layout", "judge"):
        return infill.single_value
    # lm_eval gives a standard error to its own mean only.
    aggregation: Callable[..., Any] = infill.mean_defined if partial or name.startswith("log_ppl_") else mean
    return aggregation
