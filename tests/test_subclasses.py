"""Instances of subclasses of plain types: exactly between those who trust, else as their base."""

import enum
from collections import Counter, OrderedDict, defaultdict, namedtuple

import numpy as np
import pytest
from messages import Point, carry, exact
from peers import pair

from distributed_comm._serialize.decode import loads
from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.settings import DumpOptions, LoadOptions

Corner = namedtuple("Corner", "x y")


class Number(enum.IntEnum):
    ONE = 1
    HUGE = 2**70


class Word(enum.StrEnum):
    A = "a"


class Bits(enum.IntFlag):
    ONE = 1
    TWO = 2


class Text(str):
    __slots__ = ()


class Data(bytes):
    pass


class MoreData(bytearray):
    pass


class Items(list):
    pass


class Real(float):
    pass


class Whole(int):
    def __str__(self):
        return "misleading"


#: Instances of subclasses of plain types, and what they are without.
SUBCLASSES = [
    (Corner(1, [2]), (1, [2])),
    (Corner(1, Corner(2**80, ())), (1, (2**80, ()))),
    (OrderedDict(b=(1,), a=[2]), {"b": (1,), "a": [2]}),
    (OrderedDict({Corner(1, 2): Items([3])}), {(1, 2): [3]}),
    (defaultdict(list, a=[1]), {"a": [1]}),
    (Counter("aab"), {"a": 2, "b": 1}),
    (Text("text"), "text"),
    (Data(b"data"), b"data"),
    (Items([1, (2,)]), [1, (2,)]),
    (Real(2.5), 2.5),
    (Whole(5), 5),
    (Whole(2**70), 2**70),
    (Whole(-(2**64)), -(2**64)),
    (Bits.ONE | Bits.TWO, 3),
    (np.str_("text"), "text"),
    (np.bytes_(b"data"), b"data"),
]
#: These have a way without a pickle.
NAMED = [Number.ONE, Number.HUGE, Word.A, Bits.TWO, np.float64(2.5), np.float64("-0.0")]
PLACES = [lambda x: x, lambda x: [1, {"a": (x, [x])}], lambda x: {x: 1}, lambda x: {frozenset([x])}]


def hashable(obj):
    try:
        return hash(obj) is not None
    except TypeError:
        return False


def places(obj):
    return PLACES if hashable(obj) else PLACES[:2]


@pytest.mark.parametrize(("obj", "base"), SUBCLASSES, ids=repr)
def test_an_instance_of_a_subclass_arrives_exactly_or_as_its_base(kernels, obj, base):
    for place in places(obj):
        assert exact(carry(place(obj), typed=True, trusted=True)) == exact(place(obj))
        assert exact(carry(place(obj), typed=True, trusted=False)) == exact(place(base))


@pytest.mark.parametrize("obj", NAMED, ids=repr)
def test_what_has_a_name_arrives_exactly_to_strangers_too(kernels, obj):
    for place in PLACES:
        for trusted in (True, False):
            assert exact(carry(place(obj), typed=True, trusted=trusted)) == exact(place(obj))


@pytest.mark.parametrize("serializers", [(), ("msgpack",), ("dask",)])
def test_where_pickles_are_not_wanted_bases_go_too(kernels, serializers):
    options = DumpOptions(typed=True, trusted=True, serializers=serializers)
    for obj, base in SUBCLASSES:
        frames = dumps([obj], options)
        assert exact(loads(frames, LoadOptions(typed=True))) == exact([base])


def test_a_bytearray_arrives_as_bytes_unless_it_is_wrapped(kernels):
    for trusted in (True, False):
        arrived = carry([bytearray(b"a"), memoryview(b"b")], typed=True, trusted=trusted)
        assert exact(arrived) == exact([b"a", b"b"])
    assert exact(carry([MoreData(b"x")], typed=True, trusted=False)) == exact([b"x"])


def containing_itself(cls=list):
    obj = cls()
    obj.append(obj) if isinstance(obj, list) else obj.__setitem__("x", obj)
    return obj


def test_a_subclass_that_contains_itself_goes_as_a_pickle_or_is_a_value_error(kernels):
    for cls in (Items, OrderedDict):
        obj = containing_itself(cls)
        arrived = carry([obj], typed=True, trusted=True)[0]
        assert type(arrived) is cls
        assert (arrived[0] if cls is Items else arrived["x"]) is arrived
        with pytest.raises(ValueError, match="the message cannot be encoded"):
            dumps([obj], DumpOptions(typed=True))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "inproc://"])
@pytest.mark.parametrize("trusted", [True, False])
def test_over_each_transport_it_is_the_same(run, kernels, address, trusted):
    message = list(NAMED)
    if trusted:
        message += [obj for obj, _ in SUBCLASSES] + [Point([1]), range(3), 1j, int, Ellipsis]

    async def main():
        async with pair(address, trusted=(trusted, trusted)) as (client, server):
            for sender, receiver in ((client, server), (server, client)):
                await sender.write(message)
                assert exact(await receiver.read()) == exact(message)

    run(main())
