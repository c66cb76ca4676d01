"""Running rows in batches: longest first, halving when memory runs out, results in the order they were given."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Container, Sequence
from typing import Any, TypeVar

from lm_eval_ensemble.progress import ProgressBar

__all__ = ["Batcher", "starting_size"]

logger = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")

#: where ``batch_size=auto`` starts: large on a GPU, where the row count is what costs; small on a CPU, where it is not.
_AUTO_GPU, _AUTO_CPU = 64, 16


def starting_size(batch_size: int | str | None, device: Any, maximum: int | None = None) -> int:
    """The first batch size to try: a number as given, or where ``auto`` starts on this device."""
    if batch_size is None:
        return 1
    text = str(batch_size)
    if text.startswith("auto"):
        start = _AUTO_CPU if "cpu" in str(device) else _AUTO_GPU
        return min(start, maximum) if maximum else start
    return max(int(text), 1)


class Batcher:
    """Splits work into batches and remembers the size that fits into memory."""

    def __init__(self, size: int) -> None:
        self.size = size

    def run(
        self,
        items: Sequence[Item],
        cost: Callable[[Item], int],
        work: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        title: str = "",
        quiet: bool = False,
        known: Container[int] = (),
        done: Callable[[dict[int, Result]], None] | None = None,
        left_out: Callable[[Sequence[Item]], None] | None = None,
    ) -> list[Result]:
        """``work`` on every batch; out-of-memory halves the batch and goes on.

        The most costly rows come first, so that memory runs out at once or not at all, and rows of similar length
        share a batch.

        :param known: numbers of items that need no result. They keep their place: the batches are those of a run that
            knows nothing, and only batches of known items alone are left out. Floats move by about 1e-6 with the shape of
            a batch, so a resumed run gives the same numbers only in the same batches.
        :param done: is told the new results of each batch, by number of the item, as soon as they are there.
        :param left_out: is told the items of each batch that was left out.
        :returns: one result per item; None for items of batches that were left out.
        """
        order = sorted(range(len(items)), key=lambda i: (-cost(items[i]), i))
        results: list[Result | None] = [None] * len(items)
        start = 0
        with ProgressBar(len(items), title, shown=bool(title) and not quiet) as bar:
            while start < len(order):
                chosen = order[start : start + self.size]
                if any(i not in known for i in chosen):
                    outputs = self._attempt([items[i] for i in chosen], work)
                    if outputs is None:
                        continue
                    found = dict(zip(chosen, outputs, strict=True))
                    for i, output in found.items():
                        results[i] = output
                    if done is not None:
                        done({i: output for i, output in found.items() if i not in known})
                elif left_out is not None:
                    left_out([items[i] for i in chosen])
                start += len(chosen)
                bar.update(len(chosen))
        return results  # type: ignore[return-value]

    def _attempt(self, batch: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[Result]]) -> Sequence[Result] | None:
        """The results of one batch, or None if it did not fit and the size was halved."""
        from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

        try:
            return work(batch)
        except (RuntimeError, MemoryError) as error:
            fits_less = isinstance(error, MemoryError) or should_reduce_batch_size(error)
            if not fits_less or len(batch) == 1:
                raise
            self.size = max(len(batch) // 2, 1)
            logger.warning("Out of memory with %d rows at once; going on with %d.", len(batch), self.size)
        # Outside the except block: the traceback holds the tensors that filled the memory.
        gc.collect()
        clear_device_cache()
        return None
