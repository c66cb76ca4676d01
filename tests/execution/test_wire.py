"""The plain-data code: what goes round, what stays behind, what is refused."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import math
import os
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_ensemble.execution import wire
from lm_eval_ensemble.execution.plain import Keep, Writer
from lm_eval_ensemble.execution.rebuild import Reader, Snapshot, write_back
from lm_eval_ensemble.execution.wire import Channel, ClosedError, MalformedError, NotPlainError


def _refuse(value: Any) -> Any:
    raise NotPlainError(type(value).__name__)


def encode(value: Any, keep: Keep = _refuse, *, strict: bool = False) -> Any:
    return Writer(keep, strict=strict).write(value)


def decode(message: Any) -> Any:
    return Reader().read(message)


def _pair(limit: int = 1 << 32) -> tuple[Channel, Channel]:
    first, second = os.pipe(), os.pipe()
    return Channel(first[0], second[1], limit), Channel(second[0], first[1], limit)


def _through_json(message: Any) -> Any:
    here, there = _pair()
    sender = threading.Thread(target=here.send, args=(message,))
    sender.start()
    received = there.receive()
    sender.join()
    for fd in (here.read_fd, here.write_fd, there.read_fd, there.write_fd):
        os.close(fd)
    return received


_ZONES = st.none() | st.just(datetime.timezone.utc) | st.just(datetime.timezone(datetime.timedelta(hours=-3)))
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
    | st.dates()
    | st.timedeltas()
    | st.datetimes(timezones=_ZONES)
    | st.times(timezones=_ZONES)
    | st.sampled_from([..., NotImplemented, int, ValueError, type(None), range(2, 9, 3)])
)
_KEYS = st.recursive(_SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=4)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner)
        | st.sets(_KEYS, max_size=4)
        | st.dictionaries(_KEYS, inner, max_size=4)
        | st.dictionaries(_KEYS, inner, max_size=4).map(collections.OrderedDict)
        | st.dictionaries(_KEYS, inner, max_size=4).map(lambda items: collections.defaultdict(list, items))
        | st.lists(_KEYS, max_size=4).map(collections.Counter)
        | st.lists(inner).map(lambda items: collections.deque(items, 5))
        | st.binary().map(bytearray)
    ),
    max_leaves=20,
)


def _types(value: Any) -> Any:
    """The shape of a value in types, which ``==`` does not compare (1 == True == 1.0)."""
    if isinstance(value, dict):
        return type(value), [(_types(key), _types(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple, collections.deque)):
        return type(value), [_types(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(str(type(item)) for item in value)
    return type(value)


@given(_VALUES)
def test_every_plain_value_goes_round(value: Any) -> None:
    back = decode(_through_json(encode(value)))
    assert back == value
    assert _types(back) == _types(value)


def test_special_floats_go_round() -> None:
    back = decode(_through_json(encode([math.nan, math.inf, -0.0])))
    assert math.isnan(back[0])
    assert back[1] == math.inf
    assert math.copysign(1, back[2]) == -1


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


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

    def keep(value: object) -> dict[str, int]:
        kept.append(value)
        return {"o": len(kept) - 1}

    assert encode([1, object()], keep) == [1, {"o": 0}]
    with pytest.raises(NotPlainError):
        encode([1, object()])


@pytest.mark.parametrize("value", [bytes(wire.MAX_REPLY // 2 + 1), _nested(wire.MAX_DEPTH + 1)], ids=["large", "deep"])
def test_values_beyond_the_limits_stay(value: object) -> None:
    assert encode([value], lambda _: {"o": 7}) == {"o": 7}


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: (inner,), lambda inner: {1: inner}])
def test_values_as_deep_as_the_limit_travel(wrap: Any) -> None:
    deep: Any = 0
    for _ in range(wire.MAX_DEPTH):
        deep = wrap(deep)
    assert decode(_through_json(encode(deep))) == deep


def test_aliases_and_loops_survive() -> None:
    row = [0]
    loop: list[Any] = [row, row]
    loop.append(loop)
    back = decode(_through_json(encode(loop)))
    assert back[0] is back[1]
    assert back[2] is back


def test_a_refused_value_takes_no_numbers() -> None:
    shared = [1]
    writer = Writer(lambda _: {"o": 0})
    assert writer.write([shared, _nested(wire.MAX_DEPTH + 1)]) == {"o": 0}
    reader = Reader()
    first, again = (reader.read(writer.write(shared)) for _ in range(2))
    assert first is again
    assert first == [1]


def test_the_judge_sends_nothing_that_is_not_exactly_plain() -> None:
    Point = collections.namedtuple("Point", "x")
    values: list[Any] = [Liar(5), Point(1), lambda: 0, iter([1]), collections.defaultdict(lambda: 0)]
    for value in values:
        with pytest.raises(NotPlainError):
            encode([value], strict=True)
    assert Reader(functions=True).read(encode(len, strict=True)) is len


def test_a_guest_cannot_hand_out_functions() -> None:
    with pytest.raises(NotPlainError):
        encode(len)
    for message in ({"L": "eval"}, {"L": "len"}, {"T": "type"}, {"T": "eval"}):
        with pytest.raises(MalformedError):
            decode(message)


def test_two_lone_surrogates_are_not_a_character() -> None:
    assert decode(_through_json(encode("\ud83d\ude00"))) != "\U0001f600"


def test_what_a_call_changed_is_written_into_the_same_objects() -> None:
    inner: list[Any] = [1]
    argument: list[Any] = [inner, {2}, {"k": 3}, bytearray(b"4"), collections.deque([5])]
    ours = Writer(_refuse, strict=True)
    theirs = Reader()
    theirs.read(_through_json(ours.write(argument)))
    there = theirs.objects[0]
    snapshot = Snapshot(theirs.objects)
    assert snapshot.changed() == []
    there[0] += [there, there[0]]
    there[1].add(20)
    there[2]["k"] = there[0]
    there[3] += b"0"
    there[4].appendleft(there[1])
    writer = Writer(_refuse, objects=theirs.objects)
    result = writer.write(there[0])
    changes = [[number, writer.rewrite(value)] for number, value in snapshot.changed()]
    reader = Reader(objects=ours.objects)
    assert reader.read(_through_json(result)) is inner
    for number, content in _through_json(changes):
        write_back(ours.objects[number], reader.read(content))
    assert inner == [1, argument, inner]
    assert inner[1] is argument
    assert argument[1:4] == [{2, 20}, {"k": inner}, bytearray(b"40")]
    assert argument[4][0] is argument[1]


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
        {"N": "x"},
        {"N": 5},
        {"@": 0},
        {"@": -1},
        {"D": ["eval", []]},
        {"q": [-1, []]},
        {"da": [2020, 13, 1]},
        {"n": ["O", None, "00"]},
        {"n": ["<f8", [-1, 2], "00"]},
        {"T": ["int"]},
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
    for _ in range(900):
        message = [message]
    with pytest.raises(MalformedError):
        decode(message)


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


def test_scalars_and_arrays_of_numpy_keep_their_type() -> None:
    numpy = pytest.importorskip("numpy")
    scalars = [numpy.int64(3), numpy.float32(0.1), numpy.bool_(True), numpy.str_("a"), numpy.datetime64("2020-01-01")]
    back = decode(_through_json(encode(scalars)))
    assert back == scalars
    assert [*map(type, back)] == [*map(type, scalars)]
    for array in (numpy.arange(6.0).reshape(2, 3), numpy.array(5), numpy.array(["a", "bc"]), numpy.zeros((0, 2), "i2")):
        back = decode(_through_json(encode(array)))
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        assert (back == array).all()
    with pytest.raises(NotPlainError):
        encode(numpy.array([object()]))


def test_frames_arrive_however_the_stream_cuts_them() -> None:
    here, there = _pair()
    bodies = [b"1", b'"' + b"x" * 20_000 + b'"', b"[2]", b"null"]
    stream = b"".join(map(wire.framed, bodies))

    def write() -> None:
        for part in (stream[:1], stream[1:3], stream[3:9000], stream[9000:]):
            os.write(here.write_fd, part)
            time.sleep(0.01)

    sender = threading.Thread(target=write)
    sender.start()
    assert [there.receive_frame() for _ in bodies] == bodies
    sender.join()


@pytest.mark.parametrize("body", [b"", b" ", b"1 ", b"[1]]", b"{", b"\xff"])
def test_what_is_not_one_value_of_json_is_refused(body: bytes) -> None:
    here, there = _pair()
    here.send_frame(body)
    with pytest.raises(MalformedError):
        there.receive()
