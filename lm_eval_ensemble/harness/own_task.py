"""What all our tasks share: names in ``--metadata`` and flags of lm_eval checked, rows that the documents themselves bring.

The flags are those that choose documents, and ``--cache_requests``; lm_eval would fail with them deep inside, or quietly do
something else.
"""

from __future__ import annotations

import difflib
import logging
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from lm_eval_ensemble import config as settings_of_models
from lm_eval_ensemble.errors import ConfigError, HostError, did_you_mean
from lm_eval_ensemble.runs.load import UNMEASURED

__all__ = ["OwnTask", "check_counts", "refuse_misspelt", "refuse_unread", "tell_misspelt"]

logger = logging.getLogger(__name__)

#: how alike two names must be (difflib's ratio): no argument of lm_eval's models or of ours comes as near to a task's setting.
_ALIKE = 0.75
_told: set[tuple[str, tuple[str, ...]]] = set()
#: the tasks of this process that are still in use.
_tasks: weakref.WeakSet[OwnTask] = weakref.WeakSet()


class OwnTask(ConfigurableTask):  # type: ignore[misc]
    """A task whose rows come from the whole answer of a document (``rows_of``), and are known when answers are there."""

    #: what ``--metadata`` can set.
    known: ClassVar[Collection[str]] = ()
    #: tasks of this class, in the plural.
    what: ClassVar[str] = ""
    #: why lm_eval's cache of requests would serve those of another run.
    uncacheable: ClassVar[str] = ""

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        settings = dict(config or {})
        settings.pop("class", None)
        # download() and doc_to_text() run inside super().__init__ and need these.
        self.meta: dict[str, Any] = dict(settings.get("metadata") or {})
        tell_misspelt(self.meta, self.known)
        self.prepare(settings)
        # Any value keeps lm_eval from looking our metrics up (and from asking the network for them).
        settings["process_results"] = _computed_here
        super().__init__(config=settings)
        self._rows: dict[str, None] = {}
        _tasks.add(self)

    def prepare(self, settings: dict[str, Any]) -> None:
        """Read what ``settings`` and ``self.meta`` say, before lm_eval does; ``settings`` may be changed."""

    @property
    def predicts_only(self) -> bool:
        """Whether nothing is measured (``--predict_only``)."""
        return UNMEASURED in self._metric_fn_list

    def build_all_requests(self, **arguments: Any) -> None:
        refuse_unread(self.meta, [type(task) for task in _tasks])
        samples: Any = arguments.get("samples")
        check_counts(self.config.task, len(self.eval_docs), arguments.get("limit"), samples, arguments.get("world_size", 1))
        if arguments.get("cache_requests"):
            logger.warning("%s: --cache_requests is ignored, %s.", self.config.task, self.uncacheable)
            arguments["cache_requests"] = False
        super().build_all_requests(**arguments)
        # lm_eval counts the documents chosen by --samples from 0; random streams go by the number in the set.
        for instance in self._instances if samples is not None else ():
            instance.metadata = (instance.task_name, samples[instance.doc_id], instance.repeats)

    def apply_filters(self) -> list[Instance] | None:
        # With several processes lm_eval asks for the last document of a short share once more, to even them out: the first
        # answers count.
        for instance in self._instances:
            del instance.resps[instance.repeats or 1 :]
        return self.filter_answers()

    def filter_answers(self) -> list[Instance] | None:
        """lm_eval's own filters."""
        filtered: list[Instance] | None = super().apply_filters()
        return filtered

    def process_results(self, doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
        # lm_eval's mark of a run that measures nothing.
        rows = {UNMEASURED: None, **self.kept_of(doc, results[0])} if self.predicts_only else self.rows_of(doc, results[0])
        self._rows.update(dict.fromkeys(name for name in rows if name != UNMEASURED))
        return rows

    def kept_of(self, doc: Mapping[str, Any], answer: Any) -> dict[str, Any]:
        """What is kept of a document's answer beside its text where nothing is measured, to measure it later."""
        return {}

    def rows_of(self, doc: Mapping[str, Any], answer: Any) -> dict[str, Any]:
        """The rows of a document."""
        raise NotImplementedError

    def aggregation(self) -> dict[str, Callable[..., Any]]:
        return {**super().aggregation(), **{name: self.aggregation_of(name) for name in self._rows}}

    def aggregation_of(self, name: str) -> Callable[..., Any]:
        """How the values of a row become one."""
        raise NotImplementedError

    def higher_is_better(self) -> dict[str, bool]:
        return {**super().higher_is_better(), **self.directions(self._rows)}

    def directions(self, names: Iterable[str]) -> Mapping[str, bool]:
        """Whether higher values of a row are better, for the rows that have a direction."""
        raise NotImplementedError


def _computed_here(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
    raise AssertionError("OwnTask.process_results computes the rows")


def check_counts(
    task: str, total: int, limit: int | None = None, samples: Sequence[int] | None = None, world_size: int = 1
) -> None:
    """Whether ``--limit`` and ``--samples`` leave documents to every process, in the order lm_eval numbers them.

    :param total: documents of the task.
    :raises HostError: names the flag, what was given, and what to give.
    """
    if samples is not None:
        fitting = all(type(i) is int and 0 <= i < total for i in samples)
        if not samples or not fitting or list(samples) != sorted(set(samples)):
            # lm_eval takes the documents in the order of the set but numbers them in the order given.
            raise HostError(
                f"--samples for {task}: got {str(samples)[:80]}, expected document numbers from 0 to {total - 1}, at least "
                "one, ascending, each once."
            )
    elif limit is not None and limit < 1:
        raise HostError(f"--limit for {task}: got {limit}, which leaves no document; expected 1 or more (or no --limit).")
    count = total if samples is None and limit is None else min(total, len(samples) if samples else limit or total)
    if count < world_size:
        raise HostError(f"{task}: {count} documents for {world_size} processes; expected at least one for each.")


def refuse_unread(given: Iterable[str], kinds: Collection[type[OwnTask]]) -> None:
    """Whether some task of the run reads every name in ``--metadata`` that a task of ours can read: without it the run would
    be of other documents, or by another rule, than was asked for.

    Names that an LM of ours takes too may be meant for it: lm_eval puts its arguments among the metadata of the task.

    :param kinds: the classes of the run's tasks.
    :raises ConfigError: names the setting, and the tasks that read it.
    """
    readers: dict[str, list[str]] = {}
    for kind in _all_kinds(OwnTask):
        for name in set(kind.known).difference(getattr(kind.__mro__[1], "known", ())):
            readers.setdefault(name, []).append(kind.what)
    of_models = {name for kind in vars(settings_of_models).values() for name in getattr(kind, "model_fields", ())}
    for name in given:
        if name in readers and name not in of_models and not any(name in kind.known for kind in kinds):
            raise ConfigError(
                f"--metadata {name}: only {' and '.join(readers[name])} read it, and this run has none; it would be without "
                "effect. Leave it out, or choose such a task."
            )


def _all_kinds(kind: type[OwnTask]) -> list[type[OwnTask]]:
    """The classes of ours below a class, at any depth; those of other packages have no ``what`` of their own."""
    found = []
    for below in kind.__subclasses__():
        found += [below] if "what" in vars(below) else []
        found += _all_kinds(below)
    return found


def tell_misspelt(given: Iterable[str], known: Collection[str]) -> None:
    """Warn, once per process, about names in ``--metadata`` that look like a known one and are none.

    They cannot be refused: lm_eval puts the arguments of the model, whatever it is, among the metadata of the task.
    """
    for name in map(str, given):
        if _is_misspelt(name, known) and (place := (name, tuple(sorted(known)))) not in _told:
            _told.add(place)
            logger.warning("--metadata %s: not a setting of the task, and without effect.%s", name, did_you_mean(name, known))


def refuse_misspelt(typed: Iterable[str]) -> None:
    """The same of names that were typed, no argument of a model among them, for all tasks of ours: ``fil`` beside a task
    that reads no ``file`` would be passed over as ``file`` must not be.

    :raises ConfigError: one looks like a known one and is none.
    """
    known = frozenset[str]().union(*(kind.known for kind in _all_kinds(OwnTask)))
    for name in typed:
        if _is_misspelt(name, known):
            raise ConfigError(f"--metadata {name}: not a setting of our tasks.{did_you_mean(name, known)}")


def _is_misspelt(name: str, known: Collection[str]) -> bool:
    alike = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1, cutoff=_ALIKE)
    return name not in known and bool(alike)
