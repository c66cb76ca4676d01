"""The accounting of ``benchmarks/scale.py``: parts add up, nothing counts twice, every instrument has its place."""

from __future__ import annotations

import importlib
import itertools
import threading

import pytest

from benchmarks.scale import check_shared, grouped, shares, synthetic, table
from benchmarks.scale_run import PARTS, PHASES, Split


class Clock:
    """Wall time that moves by hand; processor time is half of it."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> tuple[float, float]:
        return self.at, self.at / 2

    def work(self, seconds: float) -> None:
        self.at += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def split(clock: Clock) -> Split:
    return Split("rest", now=clock)


def test_inner_parts_are_taken_out_of_outer_ones(clock: Clock, split: Split) -> None:
    inner = split.wrap(lambda: clock.work(4), "ours: inner")

    def body() -> None:
        clock.work(1)
        inner()
        clock.work(2)

    clock.work(8)
    split.wrap(body, "ours: outer")()
    clock.work(16)
    split.charge()
    assert split.spent == {"rest": [24, 12], "ours: outer": [3, 1.5], "ours: inner": [4, 2]}


def test_recursion_and_errors_leave_the_sum_whole(clock: Clock, split: Split) -> None:
    def fail(depth: int) -> None:
        clock.work(1)
        if depth == 0:
            raise ValueError("the bottom")
        again(depth - 1)

    again = split.wrap(fail, "ours: deep")
    with pytest.raises(ValueError, match="the bottom"):
        again(3)
    clock.work(5)
    split.charge()
    assert split.spent == {"rest": [5, 2.5], "ours: deep": [4, 2]}


def test_the_same_forward_belongs_to_the_phase_that_is_open(clock: Clock, split: Split) -> None:
    forward = split.wrap(lambda: clock.work(1), ": forwards")
    generate = split.wrap(lambda: [forward(), forward()], "ours: members", "generate fim")
    score = split.wrap(lambda: [generate(), forward()], "ours: around scoring", "score")
    forward()
    score()
    forward()
    wall = {name: value[0] for name, value in split.spent.items() if value[0]}
    assert wall == {"lm_eval: loading models": 2, "generate fim: forwards": 2, "score: forwards": 1}


def test_other_threads_are_not_charged(clock: Clock, split: Split) -> None:
    other = split.wrap(lambda: clock.work(3), "ours: other")

    def body() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    split.wrap(body, "judge: executing")()
    assert {name: value[0] for name, value in split.spent.items()} == {"rest": 0, "judge: executing": 3}


def test_shares_by_hand() -> None:
    parts = {
        "generate dllm: forwards": 40.0,
        "generate dllm: decoding": 4.0,
        "generate fim: forwards": 20.0,
        "generate fim: decoding": 1.0,
        "score: forwards": 10.0,
        "score: padding and reading logits": 5.0,
        "judge: executing": 15.0,
        "ours: store": 2.0,
        "ours: tokenising": 3.0,
        "lm_eval: task index": 95.0,
        "unaccounted": 5.0,
    }
    assert sum(grouped(parts).values()) == sum(parts.values())
    found = shares(parts)
    assert found == pytest.approx({"ours": 0.05, "without_judge": 5 / 85, "with_decoding": 15 / 100, "unaccounted": 0.025})
    rows = [line.split("|") for line in table(parts, parts, 10).splitlines()]
    values = {row[1].strip(): float(row[2]) for row in rows[2:]}
    assert values["**ours**"] == 5.0
    assert values["all"] == sum(parts.values()) == sum(v for name, v in values.items() if name.startswith("**"))


def test_processes_that_do_not_share_the_documents_give_no_rate() -> None:
    check_shared([12], 12)
    check_shared([7, 6], 13)
    with pytest.raises(SystemExit, match=r"2 processes were to share 12 documents, but worked on \[12, 12\]"):
        check_shared([12, 12], 12)


def test_a_part_of_no_group_is_an_error() -> None:
    with pytest.raises(KeyError):
        grouped({"elsewhere: something": 1.0})


@pytest.mark.parametrize(("module", "owner", "name", "part"), PARTS)
def test_every_instrument_has_its_place(module: str, owner: str | None, name: str, part: str) -> None:
    place = importlib.import_module(module)
    assert callable(getattr(getattr(place, owner) if owner else place, name))
    if not part.startswith(":"):
        grouped({part: 1.0})


def test_phases_are_parts_and_parts_are_named_once() -> None:
    places = [entry[:3] for entry in PARTS]
    assert set(PHASES) <= set(places)
    assert len(set(places)) == len(places)
    for phase in PHASES.values():
        grouped({f"{phase}: forwards": 1.0})


def test_synthetic_documents_are_all_different_and_can_be_solved() -> None:
    documents = synthetic(60)
    for one, other in itertools.combinations(documents, 2):
        assert (one["prefix"], one["suffix"]) != (other["prefix"], other["suffix"])
    for document in documents[:3]:
        space: dict[str, object] = {}
        program = document["prefix"] + document["middle"] + document["suffix"] + document["test"]
        exec(f"{program}check({document['entry_point']})\n", space)
    assert 600 < sum(len(d["prefix"] + d["suffix"]) for d in documents) / 60 < 900
