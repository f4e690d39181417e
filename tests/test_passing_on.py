"""What a comm with deserialize=False passes on: unopened, and byte by byte, across dialects."""

import asyncio
import pickle
import sys
from array import array
from contextlib import asynccontextmanager

import numpy as np
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import Point, plain, tag
from peers import LOOPBACK, pair
from scipy import sparse
from unpickling import no_unpickling

import distributed_comm as dc
from distributed_comm._serialize.decode import loads
from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.settings import DumpOptions, LoadOptions
from distributed_comm._serialize.type_registry import pickled_class

distributed = pytest.importorskip("distributed")
protocol = pytest.importorskip("distributed.protocol")

CLOSED = {typed: LoadOptions(typed=typed, deserialize=False) for typed in (True, False)}
DUMPS = {typed: DumpOptions(typed=typed) for typed in (True, False)}
#: The items of a set come in an order of their own.
without_sets = plain.filter(lambda msg: "'set'," not in repr(tag(msg)))

OBJECTS = [
    Point(1),
    b"",
    b"short",
    bytes(5000),
    np.arange(3),
    np.arange(9999.0),
    np.array([{1}, None]),
    [np.arange(3), {"a": (np.eye(2), [b"x"])}],
    {"a": [1, 2], "b": (3, {4})},
    "text",
    lambda: None,
    (i for i in ()),
]
dask_objects = st.one_of(
    st.sampled_from(OBJECTS).map(protocol.Serialize),
    st.sampled_from(OBJECTS[:-1]).map(protocol.ToPickle),
    without_sets.filter(lambda msg: "SafeUUID" not in repr(msg)),
)


def pass_on(frames, *dialects):
    """Read the frames and write them on, by each dialect in turn; return the last frames."""
    typed = False
    for following in dialects:
        msg = loads(frames, CLOSED[typed])
        typed = following
        frames = [bytes(frame) for frame in dumps(msg, DUMPS[typed])]
    return frames


@given(
    messages=st.lists(dask_objects, max_size=4),
    size=st.sampled_from([None, 1000]),
    compression=st.sampled_from([None, "lz4", "zlib"]),
)
def test_what_dask_wrote_is_the_same_after_any_way_through_ours(
    kernels, messages, size, compression
):
    context = {"compression": compression}
    frames = protocol.dumps({"m": messages}, frame_split_size=size, context=context)
    frames = [bytes(frame) for frame in frames]
    with no_unpickling():
        for dialects in ([False], [True, False], [True, True, False], [False, True, False]):
            assert pass_on(frames, *dialects) == frames


@given(
    messages=st.lists(
        st.one_of(
            st.sampled_from(OBJECTS[:-1]),
            st.sampled_from(OBJECTS[:-1]).map(dc.Serialize),
            st.sampled_from(OBJECTS[:-1]).map(dc.ToPickle),
            without_sets,
        ),
        max_size=4,
    )
)
def test_what_ours_wrote_is_the_same_after_another_of_ours(kernels, messages):
    frames = dumps({"m": messages}, DumpOptions(trusted=True, typed=True))
    frames = [bytes(frame) for frame in frames]
    with no_unpickling():
        msg = loads(frames, CLOSED[True])
        assert [bytes(frame) for frame in dumps(msg, DUMPS[True])] == frames


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"pickled-obj": "text"},
        {"pickled-obj": None},
        {"pickled-obj": 5},
        {"pickled-obj": b"N.", "x": {1: [2]}},
        {"pickled-obj": b"N.", "compression": []},
    ],
)
def test_a_header_that_makes_no_sense_is_passed_on_as_well(kernels, header):
    frames = dumps({"a": dc.Pickled(header, []), "b": dc.Serialized(header, [b"x"])})
    assert pass_on(frames, True, False) == frames


# -- types that our peers tell each other by name -------------------------------------------


@pytest.mark.parametrize("name", ["numpy.ndarray", "bytearray", "xml.dom.minidom.Element"])
def test_the_pickle_of_a_class_is_made_from_its_name_and_nothing_is_imported(name):
    before = set(sys.modules)
    made = pickled_class(name)
    assert set(sys.modules) == before
    cls = pickle.loads(made)
    assert f"{cls.__module__}.{cls.__name__}".removeprefix("builtins.") == name


@pytest.mark.parametrize("name", [
    None, 5, b"numpy.ndarray", "", ".", "numpy.", ".ndarray", "a..b", "os.system\n(S'x'\ntR",
    "os\nsystem\n(S'id'\ntR.x", "a b.c", "a.b\r",
])  # fmt: skip
def test_of_what_is_no_name_none_is_made(name):
    assert pickled_class(name) is None
    header = {"serializer": "dask", "type": name, "sub-header": {}}
    frames = dumps(dc.Serialized(header, [b""]))
    assert b"type-serialized" not in frames[1]


@pytest.mark.parametrize("typed", [True, False])
def test_a_class_is_added_for_dask_alone_and_once(kernels, typed):
    frames = dumps([dc.Serialize(np.arange(3))], DumpOptions(typed=True))
    (arrived,) = loads(frames, CLOSED[True])
    sent = dumps([arrived], DUMPS[typed])
    assert b"type-serialized" in b"".join(sent) or typed
    (again,) = loads(sent, CLOSED[typed])
    assert dumps([again], DUMPS[typed]) == sent
    assert "type-serialized" not in arrived.header


# -- over comms -------------------------------------------------------------------------


@asynccontextmanager
async def relay(address, **kwargs):
    """Yield the address of one who opens nothing and hands on, there and back."""

    async def carry(here, there):
        async for message in here:
            await there.write(message)

    serving = []

    async def serve(comm):
        serving.append(asyncio.current_task())
        async with comm, await dc.connect(address, deserialize=False, **kwargs) as onward:
            back = asyncio.ensure_future(carry(onward, comm))
            await carry(comm, onward)
            await onward.close()
            await back

    async with dc.listen(LOOPBACK, serve, deserialize=False, **kwargs) as listener:
        yield listener.contact_address
        await asyncio.wait(serving)


async def echo_of_dask(comm):
    try:
        while True:
            await comm.write(await comm.read())
    except distributed.comm.CommClosedError:
        comm.abort()


def same(obj, other):
    return repr(obj) == repr(other)


@pytest.mark.parametrize("trusted", [True, False])
def test_from_dask_through_two_of_ours_to_dask_and_back(run, trusted):
    """Untrusted and trusted relays alike: their code never sees an object."""
    message = {
        "a": protocol.to_serialize(np.arange(9999.0)),
        "b": [protocol.ToPickle(Point(1)), {1, 2}],
        "c": protocol.to_serialize([np.arange(3), b"x"]),
        "d": Point(2),
    }

    async def main():
        async with (
            distributed.comm.listen(LOOPBACK, echo_of_dask, deserialize=False) as end,
            relay(end.contact_address, trusted=trusted) as second,
            relay(second, trusted=trusted) as first,
        ):
            comm = await distributed.comm.connect(first)
            with no_unpickling():
                await comm.write(message)
                arrived = await comm.read()
            await comm.close()
        assert np.array_equal(arrived["a"], np.arange(9999.0))
        assert arrived["b"] == (Point(1), {1, 2})
        assert same(arrived["c"], [np.arange(3), b"x"])
        assert arrived["d"] == Point(2)

    run(main())


@pytest.mark.parametrize("trusted", [True, False])
def test_ours_through_one_that_opens_nothing_to_dask(run, kernels, trusted):
    """Untrusted, too: what Dask needs the relay makes from names alone."""
    message = {
        "a": [dc.Serialize(np.arange(9999.0)), np.arange(3)],
        "b": dc.Serialize(np.ma.masked_array([1.0, 2.0], [True, False])),
        "c": [dc.Serialize(array("d", [1.5])), dc.Serialize(bytearray(b"x")), {1, 2}],
        "d": dc.Serialize(pyarrow.table({"a": [1, 2]})),
        "e": dc.Serialize(sparse.csr_matrix(np.eye(3))),
    }

    async def main():
        arrived = asyncio.get_running_loop().create_future()

        async def receive(comm):
            arrived.set_result(await comm.read())
            await comm.close()

        async with (
            distributed.comm.listen(LOOPBACK, receive) as end,
            relay(end.contact_address, trusted=trusted) as middle,
            await dc.connect(middle) as first,
        ):
            with no_unpickling():
                await first.write(message)
                got = await arrived
        assert same(got["a"], (np.arange(9999.0), np.arange(3)))
        assert same(got["b"], message["b"].data)
        assert same(got["c"], (array("d", [1.5]), bytearray(b"x"), {1, 2}))
        assert got["d"] == message["d"].data
        assert (got["e"] != message["e"].data).nnz == 0

    run(main())


@pytest.mark.parametrize("trusted", [True, False])
def test_ours_through_one_that_opens_nothing(run, kernels, trusted):
    message = [Point(1), dc.Serialize(np.arange(9999)), dc.ToPickle([(1,)]), np.float32(2), 2**90]

    async def main():
        async with (
            pair(trusted=(True, trusted), deserialize=(True, False)) as (first, middle),
            pair(trusted=(trusted, True), deserialize=(False, True)) as (onward, last),
        ):
            with no_unpickling():
                await first.write(message)
                await onward.write(await middle.read())
            arrived = await last.read()
            assert same(arrived, [Point(1), np.arange(9999), [(1,)], np.float32(2), 2**90])

    run(main())
