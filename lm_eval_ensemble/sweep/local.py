"""Cells as processes on this machine, several at once if asked."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

from lm_eval_ensemble.sweep.attempt import Children, How, run_cell
from lm_eval_ensemble.sweep.board import Board, facts_of
from lm_eval_ensemble.sweep.cells import Cell
from lm_eval_ensemble.sweep.locks import CellLock, owner
from lm_eval_ensemble.sweep.machine import gpu_memory, shares
from lm_eval_ensemble.sweep.results import finished

__all__ = ["run_here"]

_WAIT = 0.3
_RETAKE = 2.0  # seconds between looks at cells that others work on


def run_here(board: Board, how: How, jobs: int, children: Children) -> None:
    """Run the chosen cells that are not done; returns when all ended, or when told to stop.

    A cell that another sweep works on comes last: by then it may be done.
    """
    gpus = shares(jobs, os.environ.get("CUDA_VISIBLE_DEVICES"), list(gpu_memory()))
    free = deque(range(jobs))
    waiting = deque(cell for cell in board.chosen if board.states[cell.digest] != "done")
    running: dict[Future[dict[str, Any]], tuple[Cell, int, CellLock]] = {}
    told: set[str] = set()
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        while (waiting or running) and not (children.stop.is_set() and not running):
            while free and not children.stop.is_set() and (taken := _take(waiting, board, told)):
                cell, lock = taken
                if _done_meanwhile(cell, board):
                    lock.release()
                    continue
                try:
                    cell.write(board.output)
                except OSError as error:
                    lock.release()
                    board.ended(cell, _broken(error))
                    continue
                slot = free.popleft()
                board.started(cell)
                facts, own = facts_of(cell, board.grid), replace(how, gpus=gpus[slot])
                future = pool.submit(run_cell, cell.folder(board.output), facts, own, children, lock.fd)
                running[future] = (cell, slot, lock)
            if not running:
                children.stop.wait(_RETAKE if waiting else 0)
                continue
            for future in wait(running, timeout=_WAIT, return_when=FIRST_COMPLETED).done:
                cell, slot, lock = running.pop(future)
                lock.release()
                free.append(slot)
                fault = future.exception()
                # A full disk, say: the cell's misfortune, and its record may not have been written.
                board.ended(cell, _broken(fault) if fault else future.result())


def _take(waiting: deque[Cell], board: Board, told: set[str]) -> tuple[Cell, CellLock] | None:
    """The next cell nobody else works on, with its lock; None if there is none now."""
    for _ in range(len(waiting)):
        cell = waiting.popleft()
        lock = CellLock(cell.folder(board.output))
        try:
            free = lock.take()
        except OSError as error:
            board.ended(cell, _broken(error))
            continue
        if free:
            return cell, lock
        waiting.append(cell)
        if cell.digest not in told:
            told.add(cell.digest)
            board.states[cell.digest] = "running"
            board.say(f"running {cell.name}  ({owner(cell.folder(board.output))}; others first, then its results are taken)")
    return None


def _broken(fault: BaseException) -> dict[str, Any]:
    return {"state": "failed", "error": f"{type(fault).__name__}: {fault}"}


def _done_meanwhile(cell: Cell, board: Board) -> bool:
    if not finished(cell.folder(board.output), cell.resolved(board.output)):
        return False
    board.adopt(cell)
    board.ended(cell, cell.record(board.output))
    return True
