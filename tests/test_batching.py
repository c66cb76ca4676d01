from __future__ import annotations

from collections.abc import Sequence

import pytest

from lm_eval_ensemble.batching import Batcher, starting_size


def test_results_come_in_the_order_given_and_costly_rows_first() -> None:
    seen: list[list[int]] = []

    def work(batch: Sequence[int]) -> list[int]:
        seen.append(list(batch))
        return [item * 10 for item in batch]

    assert Batcher(2).run([1, 3, 2], lambda item: item, work) == [10, 30, 20]
    assert seen == [[3, 2], [1]]


@pytest.mark.parametrize(
    "error",
    [RuntimeError("CUDA out of memory. Tried"), RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()],
)
def test_out_of_memory_halves_the_batch_and_goes_on(error: Exception) -> None:
    def work(batch: Sequence[int]) -> list[int]:
        if len(batch) > 2:
            raise error
        return list(batch)

    batcher = Batcher(8)
    assert batcher.run(list(range(9)), lambda item: 1, work) == list(range(9))
    assert batcher.size == 2


def test_one_row_that_does_not_fit_is_an_error() -> None:
    def work(batch: Sequence[int]) -> list[int]:
        raise RuntimeError("CUDA out of memory. Tried")

    with pytest.raises(RuntimeError, match="out of memory"):
        Batcher(4).run([1, 2, 3], lambda item: 1, work)


def test_other_errors_are_not_swallowed() -> None:
    def work(batch: Sequence[int]) -> list[int]:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape"):
        Batcher(4).run([1, 2], lambda item: 1, work)


def test_starting_sizes() -> None:
    assert [starting_size(s, "cpu") for s in (None, 4, "4", "auto", "auto:4")] == [1, 4, 4, 16, 16]
    assert starting_size("auto", "cuda:0", 8) == 8
