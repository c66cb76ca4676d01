"""Flags of lm_eval, checked alike by all our tasks: those that choose documents, and the names in ``--metadata``."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterable, Sequence

from lm_eval.api.instance import Instance

from lm_eval_ensemble.errors import HostError, did_you_mean

__all__ = ["check_counts", "drop_padding", "number_by_set", "tell_misspelt"]

logger = logging.getLogger(__name__)

#: how alike two names must be (difflib's ratio): no argument of lm_eval's models or of ours comes as near to a task's setting.
_ALIKE = 0.75
_told: set[tuple[str, tuple[str, ...]]] = set()


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


def drop_padding(instances: Sequence[Instance]) -> None:
    """With several processes lm_eval asks for the last document of a short share once more, to even them out: the first
    answers count."""
    for instance in instances:
        del instance.resps[instance.repeats or 1 :]


def tell_misspelt(given: Iterable[str], known: Collection[str]) -> None:
    """Warn, once per process, about names in ``--metadata`` that look like a known one and are none.

    They cannot be refused: lm_eval puts the arguments of the model, whatever it is, among the metadata of the task.
    """
    for name in map(str, given):
        alike = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1, cutoff=_ALIKE)
        if name not in known and alike and (place := (name, tuple(sorted(known)))) not in _told:
            _told.add(place)
            logger.warning("--metadata %s: not a setting of the task, and without effect.%s", name, did_you_mean(name, known))


def number_by_set(instances: Sequence[Instance], samples: Sequence[int] | None) -> None:
    """lm_eval counts the documents chosen by ``--samples`` from 0; random streams go by the number in the set."""
    for instance in instances if samples else ():
        assert samples is not None
        instance.metadata = (instance.task_name, samples[instance.doc_id], instance.repeats)
