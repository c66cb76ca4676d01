"""lm_eval's ``Instance`` as our ``InfillRequest``, and the decoding settings that apply to it."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lm_eval.api.instance import Instance

from lm_eval_ensemble.config import Decoding, HostDecoding, parse_settings
from lm_eval_ensemble.errors import DataError
from lm_eval_ensemble.fim import parse_prompt
from lm_eval_ensemble.types import InfillRequest

__all__ = ["Draw", "is_infill", "mixed_requests", "resolve", "tell_settings", "tell_trims", "to_requests"]

logger = logging.getLogger(__name__)


def is_infill(instance: Instance) -> bool:
    """True if the document (or, for tasks that are not ours, the prompt) has a prefix and a suffix."""
    return _gap(instance) is not None


def to_requests(instances: Sequence[Instance], plain: bool = False) -> list[InfillRequest]:
    """One request per instance. lm_eval hands a repeated document over as the same object several times; the count
    of earlier occurrences becomes ``sample``. What it adds to even out the shares of several processes, a document once more,
    is the same request again.

    :param plain: take the prompt as text to continue (an empty suffix) instead of asking for a gap.
    :raises DataError: the task has no gap to fill.
    """
    seen: Counter[tuple[str, int]] = Counter()
    given: dict[int, list[InfillRequest]] = defaultdict(list)
    requests: list[InfillRequest] = []
    for instance in instances:
        earlier = given[id(instance)]
        if len(earlier) >= max(instance.repeats or 1, 1):
            requests.append(earlier[0])
            earlier.append(earlier.pop(0))
            continue
        gap = (instance.args[0], "") if plain else _gap(instance)
        # The number in the data set: with --samples it differs from instance.doc_id (InfillTask.build_all_requests).
        task, doc_id = instance.task_name or "", instance.metadata[1] or 0
        if gap is None:
            raise DataError(_no_gap(task, doc_id, instance))
        options = dict(instance.args[1] or {}) if len(instance.args) > 1 else {}
        asked = parse_settings(HostDecoding, options, "--gen_kwargs")
        doc = instance.doc if isinstance(instance.doc, Mapping) else {}
        middle = doc.get("middle", doc.get("canonical_solution"))
        requests.append(
            InfillRequest(
                prefix=gap[0],
                suffix=gap[1],
                task=task,
                doc_id=doc_id,
                sample=seen[task, doc_id],
                reference=middle if isinstance(middle, str) else None,
                cut="line" if doc.get("cut") == "line" else "none",
                until=asked.until or (),
                max_new_tokens=asked.max_gen_toks or asked.max_new_tokens,
                context=instance.args[0],
                options=options,
            )
        )
        earlier.append(requests[-1])
        seen[task, doc_id] += 1
    return requests


def mixed_requests(instances: Sequence[Instance]) -> list[InfillRequest]:
    """Gaps where there are any; other prompts as text to continue, of which no reference is known."""
    gaps = iter(to_requests([i for i in instances if is_infill(i)]))
    texts = iter(to_requests([i for i in instances if not is_infill(i)], plain=True))
    return [next(gaps) if is_infill(i) else replace(next(texts), reference=None) for i in instances]


def _gap(instance: Instance) -> tuple[str, str] | None:
    doc = instance.doc if isinstance(instance.doc, Mapping) else {}
    prefix, suffix = doc.get("prefix", doc.get("prompt")), doc.get("suffix")
    if isinstance(prefix, str) and isinstance(suffix, str):
        return prefix, suffix
    return parse_prompt(instance.args[0]) if instance.args and isinstance(instance.args[0], str) else None


def _no_gap(task: str, doc_id: int, instance: Instance) -> str:
    found = sorted(map(str, instance.doc)) if isinstance(instance.doc, Mapping) else []
    lacking = [name for name in ("prefix", "suffix") if name not in found]
    what = f"no column {' and no column '.join(map(repr, lacking))}" if lacking else "a prefix or suffix that is no text"
    return (
        f"Task {task!r}, document {doc_id}: found no gap to fill ({what}; columns: {', '.join(found) or 'none'}); expected a "
        "document with 'prefix' and 'suffix' (or a fill-in-the-middle prompt). Use --model hf-scored or hf for tasks that are "
        "not infilling."
    )


@dataclass(frozen=True)
class Draw:
    """How one request is decoded; temperature 0 is greedy."""

    temperature: float
    top_p: float
    max_new_tokens: int


_told: set[str] = set()


def tell_settings(name: str, checkpoint: str, own: Decoding, draws: Iterable[Draw], more: Mapping[str, object]) -> None:
    """One line, once, on how a member decodes: what its own settings, ``--gen_kwargs`` and the task came to.

    :param more: what else decides, by name.
    """
    for draw in dict.fromkeys(draws):
        parts = ["greedy" if not draw.temperature else f"temperature {draw.temperature:g}, top_p {draw.top_p:g}"]
        parts.append(f"at most {draw.max_new_tokens} new tokens")
        parts += [f"{key} {value}" for key, value in more.items() if value is not None]
        hosts = [field for field in ("temperature", "max_new_tokens") if getattr(own, field) is None]
        hosts = [field for field in hosts if not (field == "temperature" and own.greedy)]
        source = f" ({' and '.join(hosts)} by --gen_kwargs and the task)" if hosts else ""
        line = f"{name}: {checkpoint}, {', '.join(parts)}{source}."
        if line not in _told:
            _told.add(line)
            logger.info(line)


def tell_trims(name: str, trimmed: int, gaps: int, window: int) -> None:
    """One line on gaps of which a member does not see all."""
    if trimmed:
        logger.warning(
            "%s: %d of %d gaps are longer than the context (%d tokens with the answer) and lose the start of the prefix or the "
            "end of the suffix; scores may be lower for it (row trimmed_rate). max_length= widens the context of a model that "
            "was trained with more.",
            name,
            trimmed,
            gaps,
            window,
        )


_warned: set[str] = set()


def resolve(own: Decoding, request: InfillRequest, default_tokens: int = 256) -> Draw:
    """The member's own setting first, then ``--gen_kwargs`` and the task's YAML (lm_eval has merged them already)."""
    asked = parse_settings(HostDecoding, request.options, "--gen_kwargs")
    sampled = asked.do_sample is True or (asked.do_sample is None and bool(asked.temperature))
    hosts = (1.0 if asked.temperature is None else asked.temperature) if sampled else 0.0
    temperature = 0.0 if own.greedy else hosts if own.temperature is None else own.temperature
    top_p = own.top_p if own.top_p is not None else asked.top_p or 1.0
    tokens = own.max_new_tokens or request.max_new_tokens or default_tokens
    if sampled and temperature != hosts:
        _warn_once(
            f"--gen_kwargs asks for temperature {hosts:g}; the member's own setting ({temperature:g}) comes first. "
            "Set temperature= in --model_args to change it."
        )
    return Draw(temperature, top_p, tokens)


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        logger.warning(message)
