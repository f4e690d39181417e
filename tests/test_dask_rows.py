"""Every way in which Dask says something in its frames: read as it means it, and written so.

The rows are those of the tables in docs/wire-format.md: markers, keys of the headers, and what
is serialized item by item.
"""

import numpy as np
import pytest
from messages import Point, exact
from msgpack import packb, unpackb
from unpickling import no_unpickling

from distributed_comm._serialize.decode import loads
from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.settings import DumpOptions, LoadOptions
from distributed_comm._serialize.wrappers import Serialize, ToPickle
from distributed_comm.errors import UnserializableError, UntrustedError

core = pytest.importorskip("distributed.core")
protocol = pytest.importorskip("distributed.protocol")

TRUSTING, TRUSTED = DumpOptions(trusted=True), LoadOptions(trusted=True)


def arrive(frames):
    """Return frames as a comm brings them: all but the first writable."""
    return [bytes(frames[0]), *map(bytearray, frames[1:])]


def header_of(frames, index=1):
    return unpackb(frames[index], strict_map_key=False)


def theirs(msg, trusted=True, **options):
    """Read what Dask writes; return its frames, too."""
    frames = protocol.dumps(msg, on_error="raise", **options)
    return loads(arrive(frames), LoadOptions(trusted=trusted)), frames


def ours(msg, trusted=True, **options):
    """Have Dask read what we write; return our frames, too."""
    frames = dumps(msg, DumpOptions(trusted=trusted, **options))
    return protocol.loads(arrive(frames)), frames


def same(one, other):
    return repr(one) == repr(other)


# -- markers in frame 0 -----------------------------------------------------------------

MARKED = {
    "a set": {1, "two"},
    "sets in sets' places": {"a": {(1, 2)}, "b": [{3}, set()]},
    "a member of an enum": core.Status.running,
    "members as keys": {core.Status.closed: {core.Status.init}},
    "a pickle": Point(1),
    "pickles as keys and in sets": {Point(1): {Point((2,))}},
    "a pickle with buffers": Point(np.arange(100)),
    "everything": [{core.Status.running}, Point({1}), {"x": ({2}, [Point(2)])}],
}


def as_tuples(obj):
    """Lists of frame 0 arrive as tuples."""
    if isinstance(obj, list | tuple):
        return tuple(map(as_tuples, obj))
    if isinstance(obj, dict):
        return {key: as_tuples(value) for key, value in obj.items()}
    return obj


@pytest.mark.parametrize("name", MARKED)
def test_each_marker_is_read_and_written(kernels, name):
    msg = MARKED[name]
    for way in (theirs, ours):
        assert same(way(msg)[0], as_tuples(msg))


@pytest.mark.parametrize("name", MARKED)
def test_the_bytes_are_dasks_but_for_how_we_pickle(kernels, name):
    their_frames, our_frames = theirs(MARKED[name])[1], ours(MARKED[name])[1]
    assert our_frames[0] == their_frames[0]
    assert len(our_frames) == len(their_frames)


@pytest.mark.parametrize("wrapped", [protocol.Serialize, protocol.ToPickle])
@pytest.mark.parametrize(
    "obj", [Point([1, (2,)]), [1, (2, {3})], np.arange(5), "text", None, 2**70]
)
def test_each_wrapper_is_read_and_written(kernels, wrapped, obj):
    """What is in it stays what it is, lists too."""
    wrap = {protocol.Serialize: Serialize, protocol.ToPickle: ToPickle}[wrapped]
    assert same(theirs({"x": [wrapped(obj), wrapped(obj)]})[0], {"x": (obj, obj)})
    assert same(ours({"x": [wrap(obj), wrap(obj)]})[0], {"x": (obj, obj)})


# -- keys of the headers ----------------------------------------------------------------


def test_num_sub_frames_and_the_family_pickle(kernels):
    for way, wrap in ((theirs, protocol.Serialize), (ours, Serialize)):
        arrived, frames = way([wrap(Point(np.arange(9))), wrap(Point(1)), "end"])
        header = header_of(frames)
        assert header["serializer"] == "pickle"
        assert header["num-sub-frames"] == 2
        assert header["writeable"] == [True]
        assert header_of(frames, 4)["num-sub-frames"] == 1
        assert same(arrived, (Point(np.arange(9)), Point(1), "end"))


@pytest.mark.parametrize("writeable", [True, False])
def test_writeable(kernels, writeable):
    for way, wrap in ((theirs, protocol.Serialize), (ours, Serialize)):
        array = np.arange(9)
        array.flags.writeable = writeable
        arrived, frames = way(wrap(Point(array)))
        assert header_of(frames)["writeable"] == [writeable]
        assert arrived.x.flags.writeable == writeable


def test_the_smallest_header_that_dask_accepts(kernels):
    header = {"serializer": "pickle", "writeable": [], "num-sub-frames": 1}
    frames = [packb({"__Serialized__": 1}), packb(header), b"K\x05."]
    assert protocol.loads(frames) == loads(frames, TRUSTED) == 5


def test_the_family_dask(kernels):
    for way, wrap in ((theirs, protocol.Serialize), (ours, Serialize)):
        for trusted in (True, False):
            arrived, frames = way({"x": wrap(np.eye(3, 4).T)}, trusted)
            header = header_of(frames)
            assert header["serializer"] == "dask"
            assert header["type"] == "numpy.ndarray"
            assert {"type-serialized", "sub-header", "num-sub-frames"} <= header.keys()
            assert np.array_equal(arrived["x"], np.eye(4, 3))


def test_type_serialized_is_not_opened_for_a_stranger(kernels):
    header = {"serializer": "dask", "type": "numpy.ndarray2", "num-sub-frames": 0, "sub-header": {}}
    frames = [packb({"__Serialized__": 1}), packb(header | {"type-serialized": b"cos\nsystem\n."})]
    with (
        no_unpickling(),
        pytest.raises(ValueError, match=r"'numpy\.ndarray2', which is not registered here"),
    ):
        loads(frames)


def test_the_family_msgpack(kernels):
    msg = {"a": [1, (2.5, None)], "b": b"x"}
    for trusted in (True, False):
        arrived, frames = theirs(protocol.Serialize([msg]), trusted, serializers=["msgpack"])
        assert same(arrived, [as_tuples(msg)])
        arrived, frames = ours(Serialize(msg), trusted, serializers=("msgpack",))
        assert header_of(frames)["serializer"] == "msgpack"
        assert same(arrived, as_tuples(msg))


@pytest.mark.parametrize("trusted", [True, False])
def test_the_family_error(kernels, trusted):
    frames = protocol.dumps({"x": [protocol.Serialize(i for i in ())]})
    assert header_of(frames)["serializer"] == "error"
    assert len(frames) == 4  # the message, and the traceback
    with pytest.raises(UnserializableError, match=r"of type generator\\nTraceback"):
        loads(frames, LoadOptions(trusted=trusted))
    frames = dumps({"x": [Serialize(i for i in ())]}, DumpOptions(trusted=True, on_error="message"))
    assert header_of(frames)["serializer"] == "error"
    with pytest.raises(TypeError, match=r"cannot pickle an object of type builtins\.generator"):
        protocol.loads(frames)


@pytest.mark.parametrize("codec", ["lz4", "zstd", "snappy", "zlib"])
@pytest.mark.parametrize("obj", [np.zeros(5000), Point(np.zeros(5000)), bytes(50_000)])
def test_compression(kernels, codec, obj):
    for wrapped, wrap in ((protocol.Serialize, Serialize), (protocol.ToPickle, ToPickle)):
        if wrapped is protocol.ToPickle and isinstance(obj, bytes):
            continue  # lies in the pickle, which is in the header
        arrived, frames = theirs([wrapped(obj)], context={"compression": codec})
        assert codec in header_of(frames)["compression"]
        assert same(arrived, (obj,))
        arrived, frames = ours([wrap(obj)], compression=codec)
        assert codec in header_of(frames)["compression"]
        assert same(arrived, (obj,))


@pytest.mark.parametrize("size", [1000, 4096, 10_000])
def test_shards(kernels, size):
    array = np.random.default_rng(1).random((50, 40))
    for obj in (array, array.T, Point(array), [array, {"a": array}], array.tobytes()):
        arrived, frames = theirs({"x": protocol.Serialize(obj)}, frame_split_size=size)
        header = header_of(frames)
        assert len(header["split-offsets"]) == len(header["split-num-sub-frames"])
        assert sum(header["split-num-sub-frames"]) == header["num-sub-frames"] > 1
        assert same(arrived, {"x": obj})
    context = {"compression": "lz4"}
    zeros = np.zeros(40_000)
    arrived, _ = theirs(protocol.Serialize(zeros), frame_split_size=80_000, context=context)
    assert same(arrived, zeros)


# -- what is serialized item by item ----------------------------------------------------

COLLECTIONS = {
    "a list": [np.arange(3), np.float32(1), [np.eye(2)]],
    "a tuple": (np.arange(3), ("text", 5)),
    "a set": {b"one", b"two"},
    "a dict": {"a": np.arange(3), (1, "b"): [np.eye(2)], 3: None},
    "of empty ones": [np.arange(1), [], (), {}, set()],
    "deep": [[[[{"a": [(np.arange(2),)]}]]]],
    "of a dict whose keys msgpack does not have": {Point(1): np.arange(3)},
}


@pytest.mark.parametrize("name", COLLECTIONS)
def test_a_collection_stays_what_it_is(kernels, name):
    obj = COLLECTIONS[name]
    arrived, _ = theirs({"x": [protocol.Serialize(obj)]})
    assert same(exact_of(arrived["x"][0]), exact_of(obj))
    for compression in ("lz4", "zlib"):
        context = {"compression": compression}
        msg = protocol.Serialize([obj, np.zeros(9999)])
        arrived, frames = theirs(msg, frame_split_size=20_000, context=context)
        assert same(exact_of(arrived[0]), exact_of(obj))
        assert compression in header_of(frames)["compression"]


def exact_of(obj):
    return sorted(obj) if isinstance(obj, set) else obj


def test_the_keys_of_a_collection(kernels):
    _, frames = theirs(protocol.Serialize({"a": np.arange(3), "b": [np.eye(2), np.eye(3)]}))
    header = header_of(frames)
    assert header["is-collection"] is True
    assert header["type-serialized"] == "dict"
    assert header["frame-lengths"] == [1, 2]
    assert [sub["key"] for sub in header["sub-headers"]] == ["a", "b"]


def test_a_stranger_may_send_collections_without_pickles(kernels):
    obj = {"a": [np.arange(3), (b"x", bytearray(b"y"))]}
    arrived, _ = theirs(protocol.Serialize(obj), trusted=False)
    assert same(arrived, obj)
    with pytest.raises(UntrustedError, match="holds a pickle"):
        theirs(protocol.Serialize([np.arange(3), Point(1)]), trusted=False)


# -- what a message may combine ---------------------------------------------------------


def test_all_of_it_in_one_message(kernels):
    values = {
        "plain": [1, "two", b"three", None, -2.5, {(1, 2): {3}}],
        "status": core.Status.running,
        "array": np.arange(99),
        "point": Point([np.eye(2), (1,)]),
    }
    their_msg = {
        **values,
        "wrapped": [protocol.Serialize(values["array"]), protocol.ToPickle(values["point"])],
        "collection": protocol.Serialize([values["array"], {"p": values["point"]}]),
    }
    our_msg = their_msg | {
        "wrapped": [Serialize(values["array"]), ToPickle(values["point"])],
        "collection": Serialize([values["array"], {"p": values["point"]}]),
    }
    expected = as_tuples(values) | {
        "wrapped": (values["array"], values["point"]),
        "collection": [values["array"], {"p": values["point"]}],
    }
    assert same(theirs(their_msg)[0], expected)
    assert same(ours(our_msg)[0], expected)
    assert exact(ours(values["plain"])[0]) == exact(as_tuples(values["plain"]))
