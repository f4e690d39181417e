"""Objects to frames and back: what arrives as what, and what cannot be sent."""

import gc
import sys
import tracemalloc
import uuid
from collections import OrderedDict, defaultdict, namedtuple
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from enum import Enum, Flag, IntEnum

import pytest
from hypothesis import given
from messages import plain, tag
from msgpack import packb

from distributed_comm._serialize.decode import loads
from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.settings import DumpOptions, LoadOptions
from distributed_comm._serialize.wrappers import MARKERS, Pickled, Serialized
from distributed_comm.errors import UnserializableError, UntrustedError

DUMPS = {True: DumpOptions(trusted=True), False: DumpOptions()}
LOADS = {True: LoadOptions(trusted=True), False: LoadOptions()}


class Direction(Flag):
    UP = 1
    LEFT = 2


class Outer:
    class Nested(Enum):
        ONE = "one"


class HashableDict(dict):
    __hash__ = object.__hash__


def there_and_back(obj, trusted=True):
    return loads(dumps(obj, DUMPS[trusted]), LOADS[trusted])


@pytest.mark.parametrize("trusted", [True, False])
@given(msg=plain)
def test_plain_values_arrive_equal(kernels, trusted, msg):
    assert tag(there_and_back(msg, trusted)) == tag(msg)


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ([1, [2]], (1, (2,))),
        (namedtuple("Point", "x y")(1, 2), (1, 2)),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (defaultdict(list, a=1), {"a": 1}),
        (IntEnum("Number", "ONE").ONE, 1),
        (Enum("Word", {"ONE": "one"}, type=str).ONE, "one"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"abcd")[1:3], b"bc"),
        (memoryview(b"abcd").cast("H"), b"abcd"),
    ],
)
def test_an_instance_of_a_subclass_arrives_as_its_base(sent, received):
    arrived = there_and_back(sent, trusted=False)
    assert arrived == received
    assert type(arrived) is type(received)


def test_a_namedtuple_arrives_as_a_tuple_where_no_pickle_may_be_sent():
    point = namedtuple("Point", "x y")((1, 2), [3])
    arrived = loads(dumps({"at": point}, DumpOptions(typed=True)), LoadOptions(typed=True))
    assert arrived == {"at": ((1, 2), [3])}
    assert type(arrived["at"]) is tuple


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**100])
def test_an_integer_beyond_64_bits_goes_as_a_pickle(number):
    assert there_and_back([number]) == (number,)
    with pytest.raises(UntrustedError, match="an integer beyond 64 bits"):
        dumps([number])


def test_an_enum_member_of_a_module_needs_no_pickle():
    assert len(dumps(uuid.SafeUUID.unsafe)) == 1
    assert there_and_back({uuid.SafeUUID.unsafe}, trusted=False) == {uuid.SafeUUID.unsafe}


@pytest.mark.parametrize("member", [Direction.UP | Direction.LEFT, Direction(0), Outer.Nested.ONE])
def test_an_enum_member_without_a_place_in_a_module_goes_as_a_pickle(member):
    assert there_and_back([member]) == (member,)
    with pytest.raises(UntrustedError, match=type(member).__name__):
        dumps([member])


def test_a_member_of_a_local_enum_goes_with_its_class():
    class Local(Enum):
        ONE = "one"

    arrived = there_and_back(Local.ONE)
    assert (arrived.name, arrived.value) == ("ONE", "one")


# -- what the format reserves, or cannot hold ---------------------------------------


@pytest.mark.parametrize("marker", MARKERS)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: inner,
        lambda inner: [0, inner],
        lambda inner: (0, inner),
        lambda inner: {"data": inner},
        lambda inner: {"data": inner, "beside": {1, 2}, "text": "__Set__"},
        lambda inner: {HashableDict(inner)},
        lambda inner: {(1, HashableDict(inner)): 1},
    ],
)
def test_a_marker_as_a_key_is_refused_wherever_it_stands(kernels, wrap, marker):
    with pytest.raises(ValueError, match=f"a dict with the key .*'{marker}'"):
        dumps(wrap({marker: 1}), DUMPS[True])


@pytest.mark.parametrize("marker", MARKERS)
def test_a_marker_elsewhere_than_as_a_key_is_text(kernels, marker):
    msg = {"a": marker, "b": {marker, 1}, marker.encode(): (marker,), f"{marker}x": marker * 2}
    assert there_and_back(msg, trusted=False) == msg


def nested(levels):
    msg = 0
    for _ in range(levels):
        msg = [msg]
    return msg


def containing_itself():
    msg = []
    msg.append(msg)
    return msg


@pytest.mark.parametrize(
    "msg", [nested(1100), containing_itself(), "\ud800", memoryview(b"abcd")[::2]]
)
def test_what_the_format_cannot_hold_is_a_value_error(msg):
    with pytest.raises(ValueError, match="the message cannot be encoded"):
        dumps(msg)


def test_more_frames_than_a_reader_takes_are_refused_here(kernels):
    msg = [2**64, 2**65, {1}]
    with pytest.raises(ValueError, match=r"3 frames, .* exceed the limit of 2"):
        dumps(msg, DumpOptions(trusted=True, max_frames=2))
    assert len(dumps(msg, DumpOptions(trusted=True, max_frames=3))) == 3


def test_the_deepest_message_that_is_sent_is_read_by_a_stranger(kernels):
    assert repr(there_and_back(nested(511), trusted=False)).count("(") == 511


# -- one encoder after the other ----------------------------------------------------


class Reentrant:
    def __reduce__(self):
        return str, (repr(there_and_back([{"inner"}, Direction.UP, 2**70])),)


@pytest.mark.parametrize("bad", [(i for i in ()), nested(1100), {"__Set__": 1}])
def test_a_message_that_failed_leaves_nothing_behind(bad):
    for options in DUMPS.values():
        with suppress(ValueError, TypeError):
            dumps([{1}, Reentrant(), 2**70, bad], options)
    assert dumps([{1}]) == [packb([{"__Set__": True, "as-list": [1]}])]


def test_trust_of_one_comm_is_not_lent_to_another():
    assert len(dumps([2**64], DUMPS[True])) == 2
    with pytest.raises(UntrustedError):
        dumps([2**64], DUMPS[False])


def test_a_message_may_be_encoded_inside_of_another():
    inner = "({'inner'}, <Direction.UP: 1>, 1180591620717411303424)"
    assert there_and_back([Reentrant(), {1}, Reentrant()]) == (inner, {1}, inner)


def test_threads_encode_at_the_same_time():
    def encode(number):
        return there_and_back([{number}, 2**64 + number, [Reentrant()]])[:2]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(encode, range(400)))
    finally:
        sys.setswitchinterval(interval)
    assert results == [({number}, 2**64 + number) for number in range(400)]


@pytest.mark.parametrize("msg", [bytes(8 << 20), [bytes(8 << 20), nested(1100)]])
def test_the_memory_of_a_large_message_is_freed_without_the_collector(msg):
    gc.disable()
    tracemalloc.start()
    try:
        with suppress(ValueError):
            dumps(msg)
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()
        gc.enable()


# -- options ------------------------------------------------------------------------


def test_what_is_passed_on_unopened_is_sent_as_it_came(kernels):
    header = {
        "num-sub-frames": 2,
        "serializer": "dask",
        "compression": ["lz4", None],
        "key": {1: 2},
    }
    frames = [
        packb([{"__Pickled__": 1}, {"a": {"__Serialized__": 4}}, {"__Serialized__": 7}]),
        *(packb({"pickled-obj": b"", "compression": [None], "num-sub-frames": 2}), b"one", b""),
        *(packb(header), b"two", bytearray(b"three")),
        packb({"serializer": "error", "num-sub-frames": 0}),
    ]
    for trusted in (True, False):
        msg = loads(frames, LoadOptions(trusted=trusted, deserialize=False))
        assert list(map(type, (msg[0], msg[1]["a"], msg[2]))) == [Pickled, Serialized, Serialized]
        assert dumps(msg, DUMPS[trusted]) == frames
    assert repr(msg[1]["a"]) == "<Serialized dask 2 frames of 8 bytes>"


def test_a_family_that_was_not_named_is_not_used():
    with pytest.raises(UnserializableError, match=r"none of .'msgpack',. takes .* builtins.range"):
        dumps([range(3)], DumpOptions(trusted=True, serializers=("msgpack",)))
    assert len(dumps([range(3)], DumpOptions(trusted=True, serializers=("dask", "pickle")))) == 2
    with pytest.raises(UnserializableError, match=r"'pickle', expected one of .'msgpack',"):
        loads(dumps(range(3), DUMPS[True]), LoadOptions(trusted=True, deserializers=("msgpack",)))
    header = packb({"serializer": "pickle", "num-sub-frames": 1})
    with pytest.raises(UnserializableError, match=r"'pickle', expected one of .'msgpack',"):
        loads(
            [packb({"__Serialized__": 1}), header, b"N."],
            LoadOptions(trusted=True, deserializers=("msgpack",)),
        )


@pytest.mark.parametrize(
    ("options", "obj", "match"),
    [
        (DumpOptions(trusted=True), (i for i in ()), "cannot pickle .* builtins.generator"),
        (DumpOptions(trusted=True, serializers=()), range(3), "none of .* takes"),
        (DumpOptions(), range(3), "builtins.range can only be sent as a pickle"),
    ],
)
def test_an_error_goes_to_the_reader_where_that_was_asked_for(options, obj, match):
    with pytest.raises(TypeError, match=match):
        dumps(["x", obj], options)
    frames = dumps(["x", obj], replace(options, on_error="message"))
    with pytest.raises(UnserializableError, match=match):
        loads(frames, LOADS[False])
