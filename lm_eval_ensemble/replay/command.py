"""``lm-eval-ensemble select RUN``: generate once, select many."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lm_eval_ensemble import __version__
from lm_eval_ensemble.errors import ConfigError, DataError, did_you_mean
from lm_eval_ensemble.replay.compare import Replay, compare
from lm_eval_ensemble.replay.plans import Teacher, fitting, make_plans
from lm_eval_ensemble.replay.render import as_json, as_markdown
from lm_eval_ensemble.replay.rows import NoRecordsError, Recorded, read_record
from lm_eval_ensemble.runs.load import TaskRun, labels, load_runs
from lm_eval_ensemble.runs.samples import without_collection
from lm_eval_ensemble.selection.base import score_of
from lm_eval_ensemble.selection.fit import FOLDS
from lm_eval_ensemble.selection.spec import VERSION

__all__ = ["add_arguments", "main", "select_runs"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", help="results file of lm_eval, or a folder with results")
    parser.add_argument(
        "--format", choices=["md", "json"], default="md", help="md: tables in percent; json: shares (default: md)"
    )
    parser.add_argument("--task", help="only these tasks, joined by commas (default: all that have records)")
    parser.add_argument("--rule", help="the score to compare, e.g. fim or fim+onepass (default: the run's)")
    parser.add_argument(
        "--measure", help="what counts as right: pass@1, exact_match, exact_match_first_line (default: the run's)"
    )
    parser.add_argument(
        "--baseline", metavar="MEMBER", help="gains over this member, named before looking (default: the best one here)"
    )
    parser.add_argument("--selectors", nargs="+", metavar="SELECTOR", help="only these, as in docs/selection.md (default: all)")
    parser.add_argument(
        "--selector",
        metavar="MODULE:FUNCTION",
        action="append",
        default=[],
        help="also a selector of your own, a function of a Case that returns the index of the winner",
    )
    parser.add_argument("--selector_file", metavar="FILE", help="numbers for the fitted selectors (default: cross-fitted)")
    parser.add_argument("--features", help="of the selector learned, joined by commas, at most six")
    parser.add_argument("--fit", metavar="FILE", help="fit on all HumanEval-Infilling records and write a selector file")


@without_collection()
def main(arguments: argparse.Namespace) -> int:
    """Print the tables; what could not be read goes to stderr. The exit status is 1 if something could not."""
    features = None if arguments.features is None else [name.strip() for name in arguments.features.split(",")]
    tasks = None if arguments.task is None else [name.strip() for name in arguments.task.split(",")]
    others: list[str] = []
    found, problems = select_runs(
        arguments.runs,
        tasks,
        arguments.rule,
        arguments.measure,
        arguments.selectors,
        arguments.selector_file,
        features,
        Path(arguments.fit) if arguments.fit else None,
        others,
        arguments.baseline,
        arguments.selector,
    )
    for problem in [*problems, *others]:
        print(f"lm-eval-ensemble: {problem}", file=sys.stderr)
    if arguments.format == "json":
        print(json.dumps({"tasks": [as_json(one) for one in found], "problems": problems}, indent=2, allow_nan=False))
    else:
        print("\n\n".join(as_markdown(one) for one in found))
        if arguments.fit:
            print(f"\nNumbers fitted on all HumanEval-Infilling records are in {arguments.fit}.")
    return 1 if problems else 0


def select_runs(
    paths: Sequence[str | Path],
    tasks: Sequence[str] | None = None,
    rule: str | None = None,
    measure: str | None = None,
    specs: Sequence[str] | None = None,
    file: str | None = None,
    features: Sequence[str] | None = None,
    fit: Path | None = None,
    others: list[str] | None = None,
    baseline: str | None = None,
    functions: Sequence[str] = (),
) -> tuple[list[Replay], list[str]]:
    """The comparison of every task of every run, and what could not be read.

    :param functions: selectors of the user's own, ``module:function``, beside the others.
    :param others: takes one line per sound run that has no candidates to choose from (another model, ``--predict_only``).
    :raises DataError: nothing could be read; ``ConfigError``: an unknown task, score or selector, or a fit that is refused.
    """
    runs, problems = load_runs(paths)
    records = _records(runs, rule, measure, problems, [] if others is None else others)
    wanted = records
    if tasks is not None:
        known = sorted({recorded.task for recorded in records})
        for task in tasks:
            if task not in known:
                raise ConfigError(f"--task {task!r}: the run has no records of it.{did_you_mean(task, known)}")
        wanted = [recorded for recorded in records if recorded.task in tasks]
    if fit is not None:
        _write(fit, wanted, rule, features)
    teachers = {id(recorded): Teacher(recorded, rule or recorded.rule, features) for recorded in records}
    names = dict(zip(map(id, records), labels([recorded.run for recorded in records]), strict=True))
    found = []
    for recorded in wanted:
        own = _teacher(recorded, records)
        teacher = None if own is None else teachers[id(own)]
        replay = _compare(recorded, rule, specs, file, teacher, baseline, functions)
        found.append(replace(replay, label=names[id(recorded)]))
    return found, problems


def _records(
    runs: Sequence[TaskRun], rule: str | None, measure: str | None, problems: list[str], others: list[str]
) -> list[Recorded]:
    """What can be read of each run; ``problems`` takes what cannot, ``others`` the runs without records."""
    records: list[Recorded] = []
    for run in runs:
        if run.samples_path is None:
            problems.append(f"{run.results_path}: no samples of {run.task} beside it; run lm_eval with --log_samples.")
            continue
        try:
            recorded = read_record(run, rule, measure)
            if not _is_scored(recorded) and all(len(choice.case.candidates) == 1 for choice in recorded.choices):
                raise NoRecordsError(
                    f"{run.samples_path}: one candidate a document, without a score, in {run.task} by {run.model_source}: "
                    "there is nothing to choose from."
                )
            records.append(recorded)
            problems += recorded.problems
        except NoRecordsError as error:
            others.append(str(error))
        except DataError as error:
            problems.append(str(error))
    if not records:
        raise DataError("\n".join(["Nothing to replay.", *problems, *others]))
    for recorded in records:
        if not _is_scored(recorded):
            raise ConfigError(
                f"--rule {recorded.choices[0].case.rule!r}: not a score that {recorded.task} recorded."
                f"{did_you_mean(recorded.choices[0].case.rule, recorded.scores)}"
            )
    return records


def _is_scored(recorded: Recorded) -> bool:
    """Whether any candidate has the score that decides."""
    rule = recorded.choices[0].case.rule
    return any(score_of(scored, rule) is not None for choice in recorded.choices for scored in choice.case.candidates)


def _compare(
    recorded: Recorded,
    rule: str | None,
    specs: Sequence[str] | None,
    file: str | None,
    teacher: Teacher | None,
    baseline: str | None,
    functions: Sequence[str],
) -> Replay:
    compared = rule or recorded.rule
    own = recorded.selector if compared == recorded.rule else f"{recorded.selector} as run"
    plans, left_out = make_plans(recorded, compared, specs, file, teacher, functions)
    return compare(recorded, plans, own, left_out, baseline)


def _teacher(recorded: Recorded, records: Sequence[Recorded]) -> Recorded | None:
    """The records to fit on: the task's own, but never SantaCoder's, which takes HumanEval-Infilling's of the same model under
    the same settings: another temperature gives other scores."""
    if not recorded.is_santacoder:
        return recorded
    same = [r for r in records if r.is_humaneval and r.members == recorded.members and _is_alike(r.run, recorded.run)]
    same.sort(key=lambda r: r.run.results_path != recorded.run.results_path)
    return next((r for r in same if r.task == "humaneval_infill"), next(iter(same), None))


def _is_alike(one: TaskRun, other: TaskRun) -> bool:
    """Whether both are the same model under the same settings; how many documents of each were asked is no matter."""
    return all(one.settings.get(name) == other.settings.get(name) for name in {*one.settings, *other.settings} - {"limit"})


def _write(path: Path, records: Sequence[Recorded], rule: str | None, features: Sequence[str] | None) -> None:
    """Fit on the HumanEval-Infilling records and write the selector file.

    :raises ConfigError: there are none, or they are of several models.
    """
    usable = [recorded for recorded in records if recorded.is_humaneval]
    if not usable:
        why = (
            "nothing is fitted on SantaCoder-FIM, whose licence forbids training on it"
            if any(recorded.is_santacoder for recorded in records)
            else f"found {', '.join(sorted({recorded.task for recorded in records}))}"
        )
        raise ConfigError(f"--fit: {why}; expected a run with HumanEval-Infilling (--tasks humaneval_infill).")
    if len({recorded.run.results_path for recorded in usable}) > 1:
        raise ConfigError(f"--fit: found {len(usable)} runs with HumanEval-Infilling; give one, for one set of members.")
    first = usable[0]
    compared = rule or first.rule
    joined = Recorded(
        first.run,
        tuple(choice for recorded in usable for choice in recorded.choices),
        first.measure,
        first.selector,
        first.rule,
        first.prefer,
        tuple(sorted({mode for recorded in usable for mode in recorded.length_modes})),
        sum(recorded.documents for recorded in usable),
    )
    content = {
        "version": VERSION,
        "origin": _origin(joined, [recorded.task for recorded in usable], compared),
        "numbers": fitting(joined, compared, features).numbers().model_dump(mode="json"),
    }
    try:
        path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--fit {str(path)!r}: cannot be written ({error}). Give a file in a folder that exists.") from None


def _origin(joined: Recorded, tasks: Sequence[str], rule: str) -> dict[str, Any]:
    return {
        "fitted_on": "HumanEval-Infilling",
        "tasks": list(tasks),
        "documents": joined.documents,
        "choices": len(joined.choices),
        "decisive": sum(choice.decisive for choice in joined.choices),
        "programs": len({choice.problem for choice in joined.choices}),
        "results": joined.run.results_path.name,
        "date": joined.run.date,
        "model": joined.run.model_name,
        "members": list(joined.members),
        "measure": joined.measure,
        "rule": rule,
        "length_modes": list(joined.length_modes),
        "folds_of_the_replay": FOLDS,
        "release": __version__,
    }
