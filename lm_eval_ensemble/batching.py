"""Running rows in batches: longest first, halving when memory runs out, results in the order they were given."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

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
    ) -> list[Result]:
        """``work`` on every batch; out-of-memory halves the batch and goes on.

        The most costly rows come first, so that memory runs out at once or not at all, and rows of similar length
        share a batch.
        """
        order = sorted(range(len(items)), key=lambda i: (-cost(items[i]), i))
        results: list[Result | None] = [None] * len(items)
        done = 0
        hidden = quiet or not title or not sys.stderr.isatty()
        with tqdm(total=len(items), desc=title, disable=hidden, leave=True) as bar:
            while done < len(order):
                chosen = order[done : done + self.size]
                outputs = self._attempt([items[i] for i in chosen], work)
                if outputs is None:
                    continue
                for i, output in zip(chosen, outputs, strict=True):
                    results[i] = output
                done += len(chosen)
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
