"""The plain-data code: what goes round, what stays behind, what is refused."""

from __future__ import annotations

import decimal
import fractions
import json
import math
import os
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_ensemble.execution import wire
from lm_eval_ensemble.execution.wire import Channel, ClosedError, MalformedError, NotPlainError, decode, encode

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=1 << 61)
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(st.characters(exclude_categories=()))  # lone surrogates too
    | st.binary()
    | st.fractions()
    | st.decimals(allow_nan=False)
)
_KEYS = st.recursive(_SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner) | st.tuples(inner) | st.sets(_KEYS, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=20,
)


def _types(value: Any) -> Any:
    """The shape of a value in types, which ``==`` does not compare (1 == True == 1.0)."""
    if isinstance(value, dict):
        return [(_types(key), _types(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [_types(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(str(type(item)) for item in value)
    return type(value)


@given(_VALUES)
def test_every_plain_value_goes_round(value: Any) -> None:
    back = decode(json.loads(json.dumps(encode(value))))
    assert back == value
    assert _types(back) == _types(value)


def test_special_floats_go_round() -> None:
    back = decode(json.loads(json.dumps(encode([math.nan, math.inf, -0.0]))))
    assert math.isnan(back[0])
    assert back[1] == math.inf
    assert math.copysign(1, back[2]) == -1


class Liar(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__

    def __int__(self) -> int:
        raise AssertionError("must not be asked")


def test_subclasses_arrive_as_their_base_without_being_asked() -> None:
    assert encode(Liar(5)) == 5
    assert type(encode([Liar(5)])[0]) is int


def test_other_values_stay_with_their_owner() -> None:
    kept: list[object] = []

    def keep(value: object) -> int:
        kept.append(value)
        return len(kept) - 1

    assert encode([1, object()], keep) == [1, {"o": 0}]
    with pytest.raises(NotPlainError):
        encode([1, object()])


@pytest.mark.parametrize(
    "value", [[0] * (wire.MAX_ITEMS + 1), 1 << (wire.MAX_BITS + 1)], ids=["too many items", "too many bits"]
)
def test_values_beyond_the_limits_stay(value: object) -> None:
    assert encode(value, lambda _: 7) == {"o": 7}


def test_values_that_hold_themselves_stay() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert encode(loop, lambda _: 7) == {"o": 7}


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"t": 1},
        {"t": [1], "s": [1]},
        {"s": [[1]]},
        {"d": [1]},
        {"d": [[[1], 2]]},
        {"c": ["1", "2"]},
        {"F": [1, 0]},
        {"F": [1.5, 2]},
        {"D": "x"},
        {"D": 5},
        {"b": "zz"},
        {"i": "xyz"},
        {"i": 5},
        {"o": 0},
        {"o": "0"},
        {"pickle": "x"},
    ],
    ids=str,
)
def test_what_encode_never_writes_is_refused(message: Any) -> None:
    with pytest.raises(MalformedError):
        decode(message)


def test_deep_nesting_is_refused() -> None:
    message: Any = 1
    for _ in range(300):
        message = [message]
    with pytest.raises(MalformedError):
        decode(message)


def _pair(limit: int = 1 << 32) -> tuple[Channel, Channel]:
    first, second = os.pipe(), os.pipe()
    return Channel(first[0], second[1], limit), Channel(second[0], first[1], limit)


@given(st.text(st.characters(exclude_categories=())))
def test_frames_carry_any_text(text: str) -> None:
    here, there = _pair()
    here.send({"text": text})
    assert there.receive() == {"text": text}
    for fd in (here.read_fd, here.write_fd, there.read_fd, there.write_fd):
        os.close(fd)


def test_large_frames_arrive_whole() -> None:
    here, there = _pair()
    sender = threading.Thread(target=here.send, args=("x" * 5_000_000,))
    sender.start()
    assert len(there.receive()) == 5_000_000
    sender.join()


def test_a_frame_above_the_limit_is_not_read() -> None:
    here, there = _pair(limit=10)
    here.send("x" * 50)
    with pytest.raises(MalformedError, match="52 bytes"):
        there.receive()


def test_the_end_of_the_other_side_is_an_error_of_its_own() -> None:
    here, there = _pair()
    os.close(here.write_fd)
    with pytest.raises(ClosedError):
        there.receive()
    os.close(here.read_fd)
    with pytest.raises(ClosedError):
        there.send(1)


def test_types_without_json_form_keep_their_value() -> None:
    assert decode(encode(fractions.Fraction(1, 3))) == fractions.Fraction(1, 3)
    assert str(decode(encode(decimal.Decimal("1.10")))) == "1.10"


def test_scalars_of_numpy_arrive_as_python_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    back = decode(encode([numpy.int64(3), numpy.float32(0.5), numpy.bool_(True)]))
    assert back == [3, 0.5, True]
    assert [type(item) for item in back] == [int, float, bool]
