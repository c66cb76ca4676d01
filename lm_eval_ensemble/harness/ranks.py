"""The processes of one run: which one this is, which GPU it has, and what lm_eval's evaluator asks of an LM across them.

Each process holds all models, and lm_eval deals out the documents (number ``rank``, ``rank + world_size``, ...). Nothing
passes between processes but finished samples, so they are joined by gloo: no GPU memory, any number of processes per GPU, and
no watchdog that ends the run while one process still generates or judges.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections import defaultdict
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState
from transformers.utils.logging import disable_progress_bar

from lm_eval_ensemble.errors import HostError
from lm_eval_ensemble.startup import hide_deprecations

__all__ = ["HOST_RUN", "HostRun", "OneOfSeveral", "detach", "join_ranks", "machine", "own_gpu", "own_gpus"]

#: how long a process waits for the others, which may generate and judge for hours more. One that dies ends the wait at once:
#: its connection closes.
_PATIENCE = timedelta(days=7)
#: what both launchers tell a process.
_TOLD = {"RANK", "LOCAL_RANK", "WORLD_SIZE"}


def join_ranks(device: str | None = None) -> PartialState:
    """The state of the processes that ``torch.distributed.run`` or ``accelerate launch`` started; of this one alone, if none
    did. The first call joins them.

    :param device: the device asked for; on a GPU machine ``cpu`` keeps the run off the GPUs.
    """
    if not os.environ.keys() >= _TOLD:
        return PartialState()
    # Without cpu=True accelerate sees a single process where there is no GPU, and every process would answer every document.
    cpu = device == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=cpu, backend="gloo", timeout=_PATIENCE)
    if state.process_index > 0:
        # One voice: the first process tells, the first one of another machine warns (of its disk, its sandbox), others fail.
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        ours = logging.getLogger("lm_eval_ensemble")
        ours.setLevel(logging.WARNING if state.local_process_index == 0 else logging.ERROR)
        disable_progress_bar()  # of weights that are loaded
    return state


def own_gpu() -> str:
    """The GPU of this process: in a run of several, that of its number on the machine, whatever lm_eval's ``--device`` says
    (``cuda:0`` by itself, to every process). Processes beyond the number of GPUs share."""
    state = PartialState()
    return f"cuda:{state.local_process_index % torch.cuda.device_count()}" if state.num_processes > 1 else "cuda"


def own_gpus() -> list[int]:
    """The GPUs over which this process may spread a model: all, or every n-th where n processes see the same ones."""
    count, shared = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    place = PartialState().local_process_index
    return [i for i in range(count) if i % min(shared, count) == place % min(shared, count)]


def machine() -> int | None:
    """The number of this machine in a run of several machines; None in a run on one."""
    total, local = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if not os.environ.keys() >= _TOLD or total <= local:
        return None
    return int(os.environ.get("GROUP_RANK", int(os.environ.get("RANK", 0)) // local))


def detach(lm: Any) -> None:
    """An LM inside another answers exactly what it is given: it waits for no other process, and its progress is shown by the
    first one only. Stock ``hf`` would take part in collectives of its own (``batch_size=auto``) and hang."""
    if hasattr(lm, "_world_size"):
        lm._rank, lm._world_size = PartialState().process_index, 1


class HostRun:
    """What this process knows of the run of lm_eval it is a part of: which LM of ours answers, if one does.

    lm_eval makes the LM first, then its tasks, and shows them no LM (``build_all_requests`` gets its rank and a chat template).
    But a task must know whether its prompt text is what a model reads: a layout that was guessed must then be told. So the LM
    enters here when it is made, and the tasks look here. It leaves with its last reference. LMs inside an ensemble are not the
    run's: the ensemble entered before them.
    """

    def __init__(self) -> None:
        self._lm: weakref.ref[OneOfSeveral] | None = None

    @property
    def lm(self) -> OneOfSeveral | None:
        return None if self._lm is None else self._lm()

    def enter(self, lm: OneOfSeveral) -> None:
        if self.lm is None:
            self._lm = weakref.ref(lm)


#: lm_eval evaluates one model at a time in a process.
HOST_RUN = HostRun()


class OneOfSeveral:
    """What lm_eval's evaluator calls across processes."""

    _rank: int
    _world_size: int

    def join(self, device: str | None = None) -> None:
        """Take part in the run; lm_eval then gives this process its share of the documents."""
        hide_deprecations()
        HOST_RUN.enter(self)
        state = join_ranks(device)
        self._rank, self._world_size = state.process_index, state.num_processes

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._world_size <= 1:
            return tensor
        return torch.cat([part.reshape(1) if part.ndim == 0 else part for part in self.all_told(tensor.cpu())])

    def all_told(self, value: Any) -> list[Any]:
        """What every process says, by its number."""
        found: list[Any] = [value] * self._world_size
        if self._world_size > 1:
            self._together(torch.distributed.all_gather_object, found, value)
        return found

    def gather_object(self, value: Any, dst: int = 0) -> list[Any] | None:
        if self._world_size <= 1:
            return [value]
        if isinstance(value, dict):
            # lm_eval asks every process for each row that the first one has, and stops with a KeyError where none of the
            # documents of one has it (answers without log-probabilities, say). Lists of samples pass as they are.
            value = {task: defaultdict(list, rows) if isinstance(rows, dict) else rows for task, rows in value.items()}
        found: list[Any] | None = [None] * self._world_size if self._rank == dst else None
        self._together(torch.distributed.gather_object, value, found, dst=dst)
        return found

    def barrier(self) -> None:
        if self._world_size > 1:
            self._together(torch.distributed.barrier)

    def _together(self, collective: Any, *arguments: Any, **options: Any) -> None:
        try:
            collective(*arguments, **options)
        except RuntimeError as error:
            raise HostError(
                f"Process {self._rank} of {self._world_size} waited for the others, and one of them has ended: its own message "
                "says why (above, or in the log of its machine). What ensemble-ppl has generated is in its "
                "store: the same command goes on there."
            ) from error
