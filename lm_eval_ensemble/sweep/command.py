"""``lm-eval-ensemble sweep GRID``: grid -> cells -> checked configurations -> runs -> manifest and table."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval_ensemble.errors import ConfigError, DataError, EnsembleError, did_you_mean
from lm_eval_ensemble.sweep.attempt import Children, How
from lm_eval_ensemble.sweep.board import Board, state_of
from lm_eval_ensemble.sweep.cells import Cell, Override, chosen, make_cells
from lm_eval_ensemble.sweep.grid import Grid, find_grid, load_grid, shipped_grids
from lm_eval_ensemble.sweep.local import run_here
from lm_eval_ensemble.sweep.overrides import PREFIX, from_environment, limit_of
from lm_eval_ensemble.sweep.table import cells_table, results_tables

__all__ = ["add_arguments", "check_cells", "main", "placed"]

_DEFAULTS: dict[str, Any] = {"retries": 2, "backoff": 10.0, "jobs": 1, "processes": 1, "launcher": "local"}
_LAUNCHERS = ("local", "slurm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("grid", metavar="GRID", nargs="?", help="a YAML file, or the name of a grid that ships (--list)")
    parser.add_argument("--output", metavar="DIR", help="where all goes (default: sweeps/NAME_OF_THE_GRID)")
    parser.add_argument("--dry-run", action="store_true", help="check every cell, print one line for each, run nothing")
    parser.add_argument(
        "--only", nargs="+", action="extend", default=[], metavar="PATTERN", help="only cells with such a name (* and ?)"
    )
    parser.add_argument("--limit", metavar="N", help="only so many documents per task: a quick look, in folders of its own")
    parser.add_argument("--retries", type=int, metavar="N", help="further attempts after a failure that may pass (default: 2)")
    parser.add_argument(
        "--backoff", type=float, metavar="SECONDS", help="before the second attempt, doubled for each further one (default: 10)"
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="cells that run at once, each on its share of the GPUs (default: 1)"
    )
    parser.add_argument(
        "--processes", type=int, metavar="N", help="processes per cell, by torch.distributed.run (default: 1, without it)"
    )
    parser.add_argument("--launcher", choices=_LAUNCHERS, help="where cells run (default: local)")
    parser.add_argument(
        "--slurm",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="parameters of submitit: timeout_min, slurm_partition, gpus_per_node, cpus_per_task, mem_gb, nodes, ...; "
        "cluster=local runs the jobs on this machine",
    )
    parser.add_argument("--list", action="store_true", help="print the grids that ship")


def main(arguments: argparse.Namespace) -> int:
    """0 if all chosen cells are done, 1 if one is not, 128 + its number after a signal."""
    if arguments.list:
        return _list()
    if arguments.grid is None:
        raise ConfigError("GRID is missing: give a YAML file, or the name of a grid that ships (--list).")
    grid = load_grid(find_grid(arguments.grid))
    overrides, options = from_environment()
    if arguments.limit is not None:
        overrides = [o for o in overrides if o.path != ("limit",)]
    told = {o.place: o.value for o in overrides}
    told |= {f"{PREFIX}{name.upper()}": value for name, value in options.items() if getattr(arguments, name) is None}
    options = _options(arguments, options)
    if arguments.limit is not None:
        overrides.append(Override(("limit",), limit_of(arguments.limit), "--limit"))
    cells = make_cells(grid, overrides)
    asked = chosen(cells, arguments.only)
    output = Path(options.get("output") or Path("sweeps", grid.name))
    if output.exists() and not output.is_dir():
        raise ConfigError(f"--output {output}: found a file, expected a folder.")
    for place, value in told.items():
        print(f"{place}={value} overrides the grid")
    faults = check_cells(grid, asked)
    if arguments.dry_run:
        _dry_run(grid, asked, output)
    if faults:
        raise ConfigError("\n".join(faults))
    if arguments.dry_run:
        return 0
    launcher = _launcher(arguments, options)
    try:
        output.mkdir(parents=True, exist_ok=True)
        return _sweep(Board(grid, cells, asked, output, told), options, launcher)
    except BrokenPipeError:  # nobody reads the output any more
        raise
    except OSError as error:
        raise DataError(
            f"--output {output}: cannot be written ({error}). Finished cells are kept: give the same command again when it can."
        ) from None


def _list() -> int:
    for name, path in shipped_grids().items():
        grid = load_grid(path)
        print(f"{name:<28}{len(make_cells(grid)):>3} cells  {' '.join(grid.file.description.split())}")
    return 0


def _options(arguments: argparse.Namespace, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The command's own options: command line, then environment, then defaults; checked."""
    typed = {name: getattr(arguments, name) for name in (*_DEFAULTS, "output")}
    found = {**_DEFAULTS, **variables, **{name: value for name, value in typed.items() if value is not None}}
    faults = []
    for name, least in (("retries", 0), ("jobs", 1), ("processes", 1)):
        if type(found[name]) is not int or found[name] < least:
            faults.append(f"--{name}: got {found[name]!r}, expected a whole number >= {least}.")
    if isinstance(found["backoff"], bool) or not isinstance(found["backoff"], int | float) or not 0 <= found["backoff"] < 1e6:
        faults.append(f"--backoff: got {found['backoff']!r}, expected seconds >= 0.")
    if found["launcher"] not in _LAUNCHERS:
        faults.append(f"--launcher: got {found['launcher']!r}.{did_you_mean(str(found['launcher']), _LAUNCHERS)}")
    if arguments.slurm and found["launcher"] != "slurm":
        faults.append("--slurm: has no meaning without --launcher slurm.")
    if faults:
        raise ConfigError("\n".join(faults))
    return found


def check_cells(grid: Grid, cells: Sequence[Cell], own_process: bool = True) -> list[str]:
    """What is wrong with the configurations, each fault once, by its place in the grid file.

    :param own_process: checking needs lm_eval and torch, whose memory this process would keep (and pass on to the peak of
        its children, as Linux counts it).
    """
    configs = [{**cell.config, "output_path": cell.folder_name} for cell in cells]
    if own_process:
        command = [sys.executable, "-m", "lm_eval_ensemble.harness.run_config"]
        # Nothing is looked up on the Hub: what is not here is a matter of the run.
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        given = json.dumps(configs, default=str)
        done = subprocess.run(command, input=given, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise EnsembleError(
                f"the configurations could not be checked: {last}\n`lm-eval-ensemble doctor` says what is missing."
            )
        found = json.loads(done.stdout.strip().splitlines()[-1])
    else:
        from lm_eval_ensemble.harness.run_config import check_runs

        found = check_runs(configs)
    told: dict[str, list[str]] = {}
    for cell, faults in zip(cells, found, strict=True):
        for path, text in faults:
            if not any(path == name or path.startswith(f"{name}.") for name in grid.file.unchecked):
                told.setdefault(f"{placed(grid, cell, path)}: {text}", []).append(cell.name)
    return [line if len(names) < len(cells) else f"{line} (every cell)" for line, names in told.items()]


def placed(grid: Grid, cell: Cell, path: str) -> str:
    """Where a setting of a cell was written: its own place, or that of the nearest setting around it."""
    around = path
    while around and around not in cell.places:
        # a.b[0].c, a.b[0], a.b, a
        cut = max(around.rfind("."), around.rfind("["))
        around = around[:cut] if cut > 0 else ""
    if not around:
        return f"{grid.path}: {cell.name}" + (f": {path}" if path else "")
    return cell.places[around] + path[len(around) :]


def _dry_run(grid: Grid, cells: Sequence[Cell], output: Path) -> None:
    names = [max(len(cell.name) for cell in cells), max(len(_model(cell)) for cell in cells)]
    tasks = max(len(cell.task) for cell in cells)
    for cell in cells:
        state, remark = state_of(cell, output)
        columns = [f"{cell.name:<{names[0]}}", f"{_model(cell):<{names[1]}}", f"{cell.task:<{tasks}}", cell.differs or "-"]
        print("  ".join([*columns, state + (f" ({remark})" if remark else "")]))
    counts = f"{len(cells)} cells, {len({cell.model for cell in cells})} models, {len({cell.task for cell in cells})} tasks"
    print(f"{grid.path}: {counts}; output: {output}")


def _model(cell: Cell) -> str:
    """The checkpoint, how it is held, and the kind of model."""
    arguments = cell.config["model_args"] if isinstance(cell.config["model_args"], Mapping) else {}
    name = next((str(arguments[key]) for key in ("pretrained", "model", "preset") if key in arguments), "?")
    bits = next((f" {bits}-bit" for bits in (8, 4) if arguments.get(f"load_in_{bits}bit")), "")
    if not bits and arguments.get("quantization"):
        bits = f" {arguments['quantization']}"
    return f"{name}{bits} ({cell.config.get('model')})"


def _launcher(arguments: argparse.Namespace, options: Mapping[str, Any]) -> Any:
    """The submitter of ``--launcher slurm``, checked before anything is written; None to run here."""
    if options["launcher"] == "local":
        return None
    from lm_eval_ensemble.sweep.slurm import Submitter

    return Submitter.parse(arguments.slurm)


def _sweep(board: Board, options: Mapping[str, Any], submitter: Any) -> int:
    how = How(options["retries"], float(options["backoff"]), options["processes"])
    children, caught = Children(), list[int]()
    done = sum(board.states[cell.digest] == "done" for cell in board.chosen)
    board.say(f"{board.output}: {len(board.chosen)} cells, {done} done already")
    for cell in board.chosen:
        if board.states[cell.digest] == "done" and (path := cell.edited(board.output)):
            board.say(f"{path}: was changed since the cell was run, which is not run again. Settings are changed in the grid.")
    try:
        with _signals(children, caught):
            if submitter is not None:
                submitter.run(board, how, options["jobs"], children)
            else:
                run_here(board, how, options["jobs"], children)
    finally:
        board.close()
        board.save()
    print(f"\n{cells_table(board)}")
    files: list[Path] = []
    if not caught:  # who stops it waits for the prompt, not for statistics
        text, files, problems = results_tables(board)
        if text:
            print(f"\n{text}")
        for problem in problems:
            print(problem, file=sys.stderr)
    return _verdict(board, files, caught, submitter)


def _verdict(board: Board, files: Sequence[Path], caught: Sequence[int], submitter: Any) -> int:
    states = [board.states[cell.digest] for cell in board.chosen]
    failed = [cell for cell in board.chosen if board.states[cell.digest] == "failed"]
    written = ", ".join(map(str, [board.output / "manifest.json", *files]))
    print(f"\n{states.count('done')} of {len(states)} cells done; {written}")
    for cell in failed:
        print(f"failed: {cell.name}: {board.errors.get(cell.digest)}\n        {cell.folder(board.output) / 'log.txt'}")
    if caught:
        left = submitter.left_running() if submitter is not None else "No cell is running."
        print(f"Stopped by {signal.Signals(caught[0]).name}. {left} The same command goes on where it stopped.")
        return 128 + caught[0]
    if len(states) != states.count("done"):
        print("The same command tries again what is not done.")
        return 1
    return 0


@contextlib.contextmanager
def _signals(children: Children, caught: list[int]) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end the children and then the sweep; a second one does not wait for them."""
    import threading

    def stop(number: int, frame: object) -> None:
        caught.append(number)
        children.stop.set()
        # Not here: the handler runs between two steps of the main thread, which may hold a lock.
        threading.Thread(target=children.end if len(caught) == 1 else children.kill, daemon=True).start()

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, and jobs in the background of a plain sh
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
