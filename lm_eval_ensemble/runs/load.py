"""Result folders of ``lm_eval``, ours or anybody's: which runs are there, what tells them apart, the lines of their samples.

A run is a results file (JSON with ``results`` and ``configs``) and, per task, a file of samples beside it. The layouts of all
releases since 0.4.1 are read: ``results_DATE.json`` with ``samples_TASK_DATE.jsonl`` (or ``.json``, a list), and
``results.json`` with ``MODEL_ARGS_TASK.jsonl``. What cannot be read is told and left out; the rest is used.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lm_eval_ensemble.errors import DataError

__all__ = [
    "NO_METRICS",
    "UNJUDGED",
    "UNMEASURED",
    "TaskRun",
    "first_few",
    "identities",
    "labels",
    "load_runs",
    "runs_in",
    "short_label",
]

#: what stands among the results and is no metric: of ``--predict_only`` its mark, and the record of what is to be judged.
UNMEASURED, UNJUDGED = "bypass", "unjudged"
NO_METRICS = ("alias", "selection", "uncertainty", UNMEASURED, UNJUDGED)
_DATE = re.compile(r"_(\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}\.\d+)\.json$")
#: so many faults of one file are told one by one.
_TOLD = 5
_SCALAR = {"true": True, "false": False, "none": None}
#: arguments of a model that say where and how fast it runs, not what it answers.
_OPERATIONAL = ("device", "batch_size", "max_batch_size", "parallelize", "num_concurrent", "max_retries", "timeout", "store")
#: settings of lm_eval's own, beside the model's, that make it another run.
_HOST_SETTINGS = ("model_dtype", "model_revision", "gen_kwargs", "limit", "random_seed", "numpy_seed", "torch_seed")
#: the same, which results files hold beside the ``config``; of a chat template and a system prompt their hashes.
_PROMPT_SETTINGS = ("chat_template_sha", "system_instruction_sha", "fewshot_as_multiturn")
#: what a task's metadata hold beside what was set with ``--metadata``: of the task's file, of the machine, of what came of it.
_NO_METADATA = (
    *("version", "config_source", "data_dir", "executed_in", "judged_later", "prompt_layout", "references_that_fail"),
    "judge_workers",
    *_OPERATIONAL,
)


@dataclass(frozen=True)
class TaskRun:
    """One task of one run.

    ``model_source`` is the name given to ``--model``, ``model_name`` the label of the checkpoint (``--model_args
    pretrained=``). ``config`` is the run's (``model_args`` always a mapping), ``task_config`` the task's. ``results`` maps
    metric to value, ``filters`` likewise for filters other than the first one; standard errors are those of lm_eval.
    ``samples_path`` is None where the run was made without ``--log_samples``. ``run_seconds`` is the wall-clock time of the
    whole command, loading and judging included, ``run_documents`` the documents of all its tasks together.
    ``first_filter`` is the filter whose metrics stand in ``results``. ``asked`` is what was set for this task alone: the
    examples in the prompt, ``--metadata``, ``--samples``; ``documents_hash`` is lm_eval's of the documents and prompts that
    were asked, empty where there is none. ``cell`` is the name that ``sweep`` gave the run, which tells settings of one
    checkpoint apart, ``grid`` that of its grid; empty for other runs. ``older`` counts earlier runs of the same settings in
    the same folder that measured something. ``groups`` are the groups of tasks that were asked for with it, each with its
    tasks. ``scored_config`` is the ``config`` of the run that wrote the texts, where this one has scored them
    (``lm-eval-ensemble score``); empty elsewhere.
    """

    task: str
    model_name: str
    model_source: str
    config: Mapping[str, Any]
    task_config: Mapping[str, Any]
    results: Mapping[str, Any]
    results_path: Path
    samples_path: Path | None
    date: str
    filters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    n_samples: int | None = None
    versions: Mapping[str, Any] = field(default_factory=dict)
    higher_is_better: Mapping[str, Any] = field(default_factory=dict)
    run_seconds: float | None = None
    run_documents: int | None = None
    first_filter: str = "none"
    asked: Mapping[str, str] = field(default_factory=dict)
    documents_hash: str = ""
    cell: str = ""
    grid: str = ""
    older: int = 0
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    scored_config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_measured(self) -> bool:
        """Whether anything was measured; with ``--predict_only`` (lm_eval's metric ``bypass``) nothing is."""
        return any(name not in NO_METRICS and "_stderr" not in name for name in self.results)

    @property
    def quantization(self) -> str:
        """What the weights of the model that ran were quantised to (``bnb-int8``); empty for an ordinary one."""
        loaded = self.config.get("quantization")
        name = loaded.get("name") if isinstance(loaded, Mapping) else None
        return name if isinstance(name, str) else ""

    @cached_property
    def settings(self) -> Mapping[str, str]:
        """Name -> value, as text, of what was set and can change an answer: two runs of one task that agree in all of it are
        repetitions of one another. ``pretrained``, ``model`` and ``bits`` stand first. What the writer of scored texts was set
        to and their scorer was not, stands as ``texts.NAME``; nested ones as ``members.fim.args.NAME``."""

        def set_in(config: Mapping[str, Any]) -> dict[str, Any]:
            given = _arguments(config.get("model_args"))
            return dict(_leaves({name: value for name, value in given.items() if name not in (*_OPERATIONAL, "pretrained")}))

        found = {"pretrained": self.model_name, "model": self.model_source, "bits": self.quantization, "cell": self.cell}
        arguments, written = set_in(self.config), set_in(self.scored_config)
        arguments |= {f"texts.{name}": value for name, value in written.items() if arguments.get(name) != value}
        both = {**self.scored_config, **self.config}
        host = {name: both.get(name) for name in _HOST_SETTINGS}
        # False where lm_eval was told so and None where it was not are one setting; hashes are told by their beginning.
        host |= {name.removesuffix("_sha"): str(both.get(name) or "")[:8] for name in _PROMPT_SETTINGS}
        told = {**arguments, **dict(_leaves(host))}
        return found | {name: _as_text(value) for name, value in told.items() if value not in (None, "")}

    def metrics(self, filter_name: str | None = None) -> Mapping[str, Any]:
        """Metric -> value of the results, for a filter (the first one by default)."""
        return self.results if filter_name in (None, self.first_filter) else self.filters.get(str(filter_name), {})

    def lines(self, told: dict[int, str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """The samples in the order of the file, one per document and filter, each with the number of its line (of its entry,
        where the file is one list), counted from 1.

        :param told: takes the fault of each damaged line, by its number.
        :raises DataError: the run has no samples.
        """
        if self.samples_path is None:
            raise DataError(
                f"{self.results_path}: found no samples of {self.task}, expected samples_{self.task}_{self.date}.jsonl beside "
                "it. Run lm_eval with --log_samples."
            )
        for number, text in _entries(self.samples_path, told):
            try:
                sample = json.loads(_encodable(text)) if isinstance(text, str) else text
                fault = None if isinstance(sample, dict) and "doc_id" in sample else "not an object with doc_id"
            except (ValueError, RecursionError) as error:
                fault = f"not JSON ({error})"
            if fault is None:
                yield number, sample
                continue
            told[number] = f"{self.samples_path}, line {number}: {fault}; expected a sample of lm_eval. The line is left out."


def load_runs(paths: Sequence[str | Path]) -> tuple[list[TaskRun], list[str]]:
    """The runs found in results files or folders (searched through), and what could not be read.

    Of several runs of one task with the same settings in one folder the newest is kept, and counts the others. The order is
    that of ``paths``, then in a sweep's folder that of its grid, then of model and task.

    :raises DataError: a path does not exist, or nothing at all could be read.
    """
    loaded: list[TaskRun] = []
    problems: list[str] = []
    for path in map(Path, paths):
        newest: dict[tuple[Any, ...], TaskRun] = {}
        for file in _results_files(path):
            for run in _read(file, problems, asked=path.is_file()):
                place = (file.parent, run.task, run.documents_hash, _items(run.asked), _items(run.settings))
                before = newest.get(place)
                if before is None:
                    newest[place] = run
                else:
                    last, other = (run, before) if before.date < run.date else (before, run)
                    newest[place] = replace(last, older=before.older + other.is_measured)
        order = _grid_order(path)
        loaded += sorted(
            newest.values(),
            key=lambda run: (_place(run, order), run.model_name, run.model_source, str(run.results_path), run.task),
        )
    distinct = list({(run.results_path.resolve(), run.task): run for run in loaded}.values())
    if not distinct:
        shown = ", ".join(map(str, paths))
        told = "".join(f"\n{problem}" for problem in problems)
        raise DataError(f"{shown}: found no results of lm_eval. Give a results file or the folder of --output_path.{told}")
    return distinct, problems


def _grid_order(folder: Path) -> dict[str, int]:
    """The folders of a sweep's cells in the order of its grid, by its manifest; its first run is the baseline of its table."""
    try:
        cells = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["cells"]
        return {Path(str(cell["config"])).parent.name: number for number, cell in enumerate(cells)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _place(run: TaskRun, order: Mapping[str, int]) -> int:
    return next((order[part] for part in run.results_path.parts if part in order), len(order))


def identities(runs: Sequence[TaskRun]) -> list[int]:
    """A number for each run, the same for all tasks of one model under one setting: what tests, baselines and pairs go by.

    Folders of one setting are one model that was run task by task, unless they share a task: then they are repetitions. What
    was set for one task tells runs apart where one folder has the same task twice.
    """

    def folder_of(run: TaskRun) -> tuple[Any, ...]:
        return (_items(run.settings), run.results_path.parent)

    times = Counter((folder_of(run), run.task) for run in runs)
    bundles: dict[tuple[Any, ...], list[int]] = {}
    for i, run in enumerate(runs):
        own = (run.documents_hash, _items(run.asked)) if times[folder_of(run), run.task] > 1 else ()
        bundles.setdefault((*folder_of(run), own), []).append(i)
    tasks_of: dict[tuple[Any, int], set[str]] = {}
    numbers: dict[tuple[Any, int], int] = {}
    found = [0] * len(runs)
    for (settings, *_), places in bundles.items():
        tasks = {runs[i].task for i in places}
        repetition = next(k for k in range(len(runs)) if not tasks & tasks_of.get((settings, k), set()))
        tasks_of.setdefault((settings, repetition), set()).update(tasks)
        number = numbers.setdefault((settings, repetition), len(numbers))
        for i in places:
            found[i] = number
    return found


def short_label(run: TaskRun) -> str:
    """A short name of the run: that of its cell of a sweep, else that of its checkpoint (of a path the last part) and what its
    weights were quantised to."""
    if run.cell:
        return run.cell
    short = _parts(run)[-1]
    return f"{short} {run.quantization}" if run.quantization else short


def labels(runs: Sequence[TaskRun]) -> list[str]:
    """A name for each run that says what differs, the same for all tasks of one model: where names clash, more of the path,
    then the kind of model, its arguments and lm_eval's, what was set for the task, the folder, the date; a number where nothing
    differs."""
    owners = identities(runs)
    names = [short_label(run) for run in runs]
    for detail in _details(runs):
        for name in [name for name, count in Counter(names).items() if count > 1]:
            places = [i for i, other in enumerate(names) if other == name]
            if len({owners[i] for i in places}) < 2:
                continue
            # One detail per model: the first of its tasks speaks for all.
            told = {owners[i]: detail(runs[i], [runs[j] for j in places]) for i in reversed(places)}
            if len(set(told.values())) > 1:
                for i in places:
                    said = told[owners[i]]
                    names[i] = said if detail is _more_of_the_path else f"{name} ({said})" if said else name
    for name in [name for name, count in Counter(names).items() if count > 1]:
        order = list(dict.fromkeys(owners[i] for i, other in enumerate(names) if other == name))
        if len(order) > 1:
            names = [f"{n} #{order.index(o) + 1}" if n == name else n for n, o in zip(names, owners, strict=True)]
    return names


def first_few(told: Sequence[str], where: object) -> list[str]:
    """The faults of one file for people: up to five, then their number."""
    more = len(told) - _TOLD
    return [*told[:_TOLD], *([f"{where}: {more} more lines like these."] if more > 0 else [])]


def runs_in(content: Mapping[str, Any], file: Path, problems: list[str]) -> Iterator[TaskRun]:
    """The tasks of the content of a results file; samples are looked for beside ``file``."""
    results, configs, config = (_mapping(content.get(name)) for name in ("results", "configs", "config"))
    counts = [_mapping(count).get("effective") for count in _mapping(content.get("n-samples")).values()]
    documents = sum(count for count in counts if isinstance(count, int))
    source = str(content.get("model_source") or config.get("model") or "?")
    arguments = _arguments(config.get("model_args"))
    cell = _cell(file)
    groups = _groups(_mapping(content.get("group_subtasks")), configs)
    for task in configs:
        values = results.get(task)
        if not isinstance(values, dict):
            problems.append(f"{file}: results of task {task!r} are missing; the task is left out.")
            continue
        task_config = _mapping(configs[task])
        by_filter = _by_filter(values)
        first = next(iter(by_filter), "none")
        count = _mapping(_mapping(content.get("n-samples")).get(task))
        yield TaskRun(
            task=task,
            model_name=str(content.get("model_name") or arguments.get("pretrained") or source),
            model_source=source,
            config={**{name: content.get(name) for name in _PROMPT_SETTINGS}, **config, "model_args": arguments},
            task_config=task_config,
            results=by_filter.get(first, {}),
            results_path=file,
            samples_path=_samples_file(file, task, config.get("model_args")),
            date=_date(content, file),
            filters={name: metrics for name, metrics in by_filter.items() if name != first},
            n_samples=effective if isinstance(effective := count.get("effective"), int) else None,
            versions={key: content.get(key) for key in ("lm_eval_version", "transformers_version", "git_hash")},
            higher_is_better=_mapping(_mapping(content.get("higher_is_better")).get(task)),
            run_seconds=_seconds(content.get("total_evaluation_time_seconds")),
            run_documents=documents or None,
            first_filter=first,
            asked=_asked(content, task, arguments),
            documents_hash=str(_mapping(content.get("task_hashes")).get(task) or ""),
            cell=str(cell.get("label") or ""),
            grid=str(cell.get("grid") or ""),
            groups={name: tasks for name, tasks in groups.items() if task in tasks},
            scored_config=_mapping(content.get("scored_config")),
        )


def _entries(path: Path, told: dict[int, str]) -> Iterator[tuple[int, Any]]:
    """(number, text) of the lines that are not blank; of a file that is one list, as lm_eval 0.4.2 wrote them, its entries."""
    number = 0
    try:
        # What is no UTF-8 stays visible as such, in its line; replaced, it would be another text.
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            first = file.readline()
            lines: Iterable[str] = itertools.chain([first], file)
            if first.lstrip().startswith("["):
                content = "".join(lines)
                with contextlib.suppress(ValueError, RecursionError):
                    yield from enumerate(json.loads(_encodable(content)), 1)
                    return
                lines = io.StringIO(content)
            for number, line in enumerate(lines, 1):
                if line and not line.isspace():
                    yield number, line
    except OSError as error:
        place = f" beyond line {number}" if number else ""
        told[number + 1] = f"{path}: cannot be read{place} ({error.strerror})."


def _encodable(text: str) -> str:
    """The text itself. :raises ValueError: it holds bytes that are no UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("it holds bytes that are no UTF-8") from None
    return text


def _results_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder. Give a results file or the folder of --output_path.")
    return sorted(file for file in path.rglob("*.json") if _DATE.search(file.name) or file.name == "results.json")


def _read(file: Path, problems: list[str], asked: bool) -> Iterator[TaskRun]:
    """The tasks of one results file. Other JSON files of a folder are passed over unless they look like results."""
    ours = asked or file.name.startswith("results_")
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        if ours or file.name == "results.json":
            problems.append(f"{file}: not a results file of lm_eval ({error}); it is left out.")
        return
    content = content if isinstance(content, dict) else {}
    results, configs, config = (content.get(name) for name in ("results", "configs", "config"))
    if not (isinstance(results, dict) and isinstance(configs, dict) and isinstance(config, dict)):
        if ours:
            problems.append(
                f"{file}: found no 'results', 'configs' and 'config'; expected a results file of lm_eval. Left out."
            )
        return
    yield from runs_in(content, file, problems)


def _samples_file(file: Path, task: str, arguments: Any) -> Path | None:
    """The samples of a task beside a results file, by the names that lm_eval's releases have given them."""
    if match := _DATE.search(file.name):
        names = [f"samples_{task}_{match.group(1)}.jsonl", f"samples_{task}_{match.group(1)}.json"]
    else:
        names = [f"{re.sub('[/=]', '__', str(arguments or ''))}_{task}.jsonl"]
    return next((path for name in names if (path := file.parent / name).is_file()), None)


def _date(content: Mapping[str, Any], file: Path) -> str:
    """Of the file's name, else of its content (seconds since 1970)."""
    if match := _DATE.search(file.name):
        return match.group(1)
    seconds = _seconds(content.get("date"))
    try:
        return (
            ""
            if seconds is None
            else datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H-%M-%S.0")
        )
    except (OverflowError, OSError, ValueError):
        return ""


def _cell(file: Path) -> Mapping[str, Any]:
    """What ``sweep`` wrote of a run, two folders up: lm_eval puts results into one named after the model."""
    try:
        return _mapping(json.loads((file.resolve().parent.parent / "cell.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}


def _groups(given: Mapping[str, Any], tasks: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Group -> its tasks, those of groups within it among them; lm_eval writes a task as a group of nothing."""

    def leaves(name: str, above: tuple[str, ...] = ()) -> Iterator[str]:
        if name in tasks:
            yield name
        inner = given.get(name)
        for child in inner if isinstance(inner, list) and name not in above else ():
            yield from leaves(str(child), (*above, name))

    return {name: tuple(dict.fromkeys(leaves(name))) for name in given if name not in tasks}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _seconds(value: Any) -> float | None:
    """lm_eval writes the time as text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _by_filter(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """``{"pass@1,none": 0.2}`` as ``{"none": {"pass@1": 0.2}}``."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        metric, comma, name = key.partition(",")
        if comma:
            found.setdefault(name, {})[metric] = value
    return found


def _arguments(given: Any) -> dict[str, Any]:
    """Model arguments as a mapping: lm_eval stores what was typed, a mapping or ``a=1,b=x``."""
    if isinstance(given, Mapping):
        return dict(given)
    found: dict[str, Any] = {}
    for part in str(given or "").split(","):
        name, equals, value = part.partition("=")
        if equals:
            found[name.strip()] = _SCALAR.get(value.lower(), value)
    return found


def _asked(content: Mapping[str, Any], task: str, arguments: Mapping[str, Any]) -> dict[str, str]:
    """What was set for one task, by name; lm_eval puts the arguments of the model among the task's metadata."""
    task_config = _mapping(_mapping(content.get("configs")).get(task))
    given = dict(_leaves(_mapping(task_config.get("metadata"))))
    known = dict(_leaves(arguments))
    found = {name: value for name, value in given.items() if name not in _NO_METADATA and known.get(name) != value}
    count = _mapping(_mapping(content.get("n-samples")).get(task))
    asked, whole = count.get("effective"), count.get("original")
    limited = _mapping(content.get("config")).get("limit") is not None
    if not limited and isinstance(asked, int) and isinstance(whole, int) and asked < whole:
        found["documents"] = f"{asked} of {whole}"
    found["shots"] = _mapping(content.get("n-shot")).get(task, task_config.get("num_fewshot"))
    return {name: _as_text(value) for name, value in found.items() if value not in (None, "")}


def _items(settings: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(settings.items()))


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings by the path to each, ``gen_kwargs.top_p``; entries of a list by their names, if each has its own."""
    if isinstance(value, Mapping):
        inner = list(value.items())
    elif isinstance(value, list):
        names = [name for child in value if isinstance(name := _mapping(child).get("name"), str)]
        inner = list(zip(names, value, strict=True)) if len(set(names)) == len(value) else list(enumerate(value))
    else:
        yield place, value
        return
    for name, child in inner:
        yield from _leaves(child, f"{place}.{name}" if place else str(name))


def _parts(run: TaskRun) -> list[str]:
    """The checkpoint's name, of a path its parts. Names on the Hub have one slash at most."""
    name = " ".join(run.model_name.split()).rstrip("/")
    return name.split("/") if name.startswith(("/", ".", "~")) or name.count("/") > 1 else [name]


def _more_of_the_path(run: TaskRun, among: Sequence[TaskRun]) -> str:
    """As many parts of the checkpoint's path as tell it from the others, and what its weights were quantised to."""
    if run.cell:
        return run.cell
    others = [_parts(other) for other in among if other.model_name != run.model_name]
    own = _parts(run)
    count = next((k for k in range(1, len(own)) if all(own[-k:] != other[-k:] for other in others)), len(own))
    return "/".join(own[-count:]) + (f" {run.quantization}" if run.quantization else "")


def _details(runs: Sequence[TaskRun]) -> Iterator[Callable[[TaskRun, Sequence[TaskRun]], str]]:
    """Each says one thing of a run, in the order in which people ask for them."""
    yield _more_of_the_path
    yield lambda run, among: str(run.scored_config.get("model") or run.model_source)
    yield _differing
    yield lambda run, among: run.model_source
    yield _asked_differently
    yield lambda run, among: run.results_path.resolve().parent.parent.name
    yield lambda run, among: run.results_path.resolve().parent.name
    yield lambda run, among: run.date


def _differing(run: TaskRun, among: Sequence[TaskRun]) -> str:
    """The settings that are not the same in all runs, as ``name=value``."""
    # The argument says what came of it.
    said = ["pretrained", "model", *(["model_dtype"] if len({other.settings.get("dtype") for other in among}) > 1 else [])]
    own = _told_apart(run.settings, [other.settings for other in among], said)
    return ", ".join(f"{name.removeprefix('members.').replace('.args.', '.')}={value}" for name, value in own.items())


def _asked_differently(run: TaskRun, among: Sequence[TaskRun]) -> str:
    """What was set for the task and is not the same in all runs."""
    own = _told_apart(run.asked, [other.asked for other in among], [])
    return ", ".join(f"{value}-shot" if name == "shots" else f"{name}={value}" for name, value in own.items())


def _told_apart(own: Mapping[str, str], all_of: Sequence[Mapping[str, str]], said: Sequence[str]) -> dict[str, str]:
    """The settings that differ, shortened; what a run leaves to its default is not named."""
    names = dict.fromkeys(name for other in all_of for name in other)
    differing = [name for name in names if name not in said and len({other.get(name) for other in all_of}) > 1]
    return {name: _shortened(own[name]) for name in differing if own.get(name)}


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
