"""Compression between two hosts: agreed on in the hello, worth it or left, bounded for the reader.

On one machine two loopback addresses count as two hosts.
"""

import asyncio
import sys
import threading
import zlib
from contextlib import asynccontextmanager

import dask
import lz4.block
import numpy as np
import pytest
import zstandard
from feeding import peak_of_memory
from loops import until
from messages import Point
from msgpack import packb
from peers import OUR_HELLO, frame_up, pair, raw_pair

import distributed_comm as dc
from distributed_comm._serialize import compression
from distributed_comm._serialize.compression import available
from distributed_comm._serialize.decode import loads
from distributed_comm._serialize.offload import MOST, Lengthy
from distributed_comm._serialize.settings import LoadOptions

distributed = pytest.importorskip("distributed")
protocol = pytest.importorskip("distributed.protocol")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is an address there")

CODECS = ["lz4", "zstd", "snappy", "zlib"]
ELSEWHERE = "tcp://127.0.0.2:0"
MIB = 1024 * 1024
SMALL = MIB // 8
#: To an 8th or less, and not to less than a 30th, which strangers are not sent.
EASY = np.zeros(MIB // 8)
EASY[::18] = np.random.default_rng(0).random(len(EASY[::18]))
HARD = np.frombuffer(np.random.default_rng(1).bytes(MIB), "u1")


#: For what is compressed to much less than that.
DENSE = {"max_growth": 2**20, "max_work": 2**40}
DENSELY = dc.CommOptions(limits=dc.Limits(untrusted_growth=2**20, untrusted_work=2**40))


def wanting(codec):
    return dc.CommOptions(compression=codec)


async def size_of(array, sender, receiver, wrap=dc.Serialize):
    """Return how many bytes the message takes that an array arrives in."""
    before = receiver.stats()["bytes_received"]
    await sender.write({"x": wrap(array)})
    assert np.array_equal((await receiver.read())["x"], array)
    return receiver.stats()["bytes_received"] - before


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("codec", [*CODECS, "auto"])
def test_what_shrinks_is_compressed_on_the_way_to_another_host(run, codec, trusted):
    async def main():
        options = wanting(codec)
        async with pair(ELSEWHERE, trusted=(trusted, trusted), options=options) as ends:
            for sender, receiver in (ends, ends[::-1]):
                assert await size_of(EASY, sender, receiver) < SMALL
                assert await size_of(EASY, sender, receiver, lambda array: array) < SMALL
                assert await size_of(HARD, sender, receiver) > MIB

    run(main())


@pytest.mark.parametrize("wrap", [dc.ToPickle, dc.Serialize, lambda array: array])
def test_buffers_of_pickles_are_compressed_too(run, wrap):
    async def main():
        async with pair(ELSEWHERE, trusted=(True, True)) as (client, server):
            for obj in (EASY, Point(EASY), {"deep": [EASY]}):
                before = server.stats()["bytes_received"]
                await client.write([wrap(obj)])
                (arrived,) = await server.read()
                assert repr(arrived) == repr(obj)
                assert server.stats()["bytes_received"] - before < SMALL

    run(main())


@pytest.mark.parametrize(
    ("address", "client", "server", "compressed"),
    [
        ("tcp://127.0.0.1:0", "auto", "auto", False),
        (ELSEWHERE, "auto", "auto", True),
        (ELSEWHERE, "lz4", "auto", True),
        (ELSEWHERE, "zstd", "auto", True),
        (ELSEWHERE, "auto", "snappy", True),
        (ELSEWHERE, "lz4", "zstd", False),
        (ELSEWHERE, "zlib", "auto", False),
        (ELSEWHERE, None, "auto", False),
        (ELSEWHERE, "auto", None, False),
    ],
)
def test_both_sides_have_to_want_the_codec_and_be_on_two_hosts(
    run, address, client, server, compressed
):
    async def main():
        async with pair(address, options=(wanting(client), wanting(server))) as ends:
            for sender, receiver in (ends, ends[::-1]):
                assert (await size_of(EASY, sender, receiver) < SMALL) == compressed

    run(main())


def test_a_codec_that_is_not_there_is_named_before_anything_is_opened(run):
    async def main():
        with pytest.raises(ValueError, match=r"compression='lzma', expected None or one of: auto"):
            dc.listen(ELSEWHERE, lambda comm: None, options=wanting("lzma"))
        async with dc.listen(ELSEWHERE, lambda comm: comm.abort()) as listener:
            with pytest.raises(ValueError, match=r"compression='lzma'"):
                await dc.connect(listener.contact_address, options=wanting("lzma"))

    assert available() == tuple(CODECS)
    run(main())


# -- with Dask ----------------------------------------------------------------------------


@asynccontextmanager
async def dask_pair(theirs, ours):
    """Yield a comm of Dask's, and the comm of ours that serves it from another host."""
    served = []
    with dask.config.set({"distributed.comm.compression": theirs}):
        async with dc.listen(
            ELSEWHERE, served.append, trusted=True, options=wanting(ours)
        ) as listener:
            comm = await distributed.comm.connect(listener.contact_address)
            await until(lambda: served)
    try:
        yield comm, served[0]
    finally:
        served[0].abort()
        comm.abort()


@pytest.mark.parametrize(
    ("theirs", "ours", "agreed"),
    [
        ("lz4", "lz4", "lz4"),
        ("zstd", "zstd", "zstd"),
        ("zlib", "zlib", "zlib"),
        ("snappy", "snappy", "snappy"),
        ("lz4", "auto", "lz4"),
        ("auto", "auto", "lz4"),
        ("zstd", "auto", None),
        ("lz4", "zstd", None),
        (None, "auto", None),
        ("lz4", None, None),
    ],
)
def test_dask_and_we_agree_on_a_codec_and_read_each_other(run, theirs, ours, agreed):
    async def main():
        async with dask_pair(theirs, ours) as (dask_comm, our_comm):
            assert dask_comm.handshake_options["compression"] == agreed
            for wrap in (protocol.to_serialize, protocol.ToPickle):
                before = our_comm.stats()["bytes_received"]
                await dask_comm.write({"x": wrap(EASY)})
                assert np.array_equal((await our_comm.read())["x"], EASY)
                taken = our_comm.stats()["bytes_received"] - before
                assert (taken < SMALL) == bool(agreed)
            for wrap in (dc.to_serialize, dc.ToPickle):
                taken = await our_comm.write({"x": wrap(EASY)})
                assert np.array_equal((await dask_comm.read())["x"], EASY)
                assert (taken < SMALL) == bool(agreed)

    run(main())


# -- bombs ----------------------------------------------------------------------------------

LIMIT = 4 * MIB
BOMBS = {
    "zlib": zlib.compress(bytes(16 * LIMIT), 9),
    "lz4": lz4.block.compress(bytes(16 * LIMIT)),
    "zstd": zstandard.ZstdCompressor().compress(bytes(16 * LIMIT)),
}


def bomb(codec, count=1, family="dask"):
    """Return the frames of a message that is as long, so many times, as a limit does not allow."""
    header = {"num-sub-frames": count, "compression": [codec] * count}
    if family == "dask":
        header |= {"serializer": "dask", "type": "bytes", "sub-header": {}}
    elif family == "pickle":
        header |= {"serializer": "pickle", "writeable": [True] * (count - 1)}
    else:
        header |= {"pickled-obj": b"N."}
    marker = "__Pickled__" if family == "message" else "__Serialized__"
    return [packb({marker: 1}), packb(header), *[BOMBS[codec]] * count]


@pytest.mark.parametrize("family", ["dask", "pickle", "message"])
@pytest.mark.parametrize("codec", BOMBS)
def test_a_bomb_is_refused_and_takes_no_more_than_the_limit(kernels, codec, family):
    frames = bomb(codec, 2, family)
    options = LoadOptions(trusted=family != "dask", max_message=LIMIT, most=None)
    with peak_of_memory() as peak, pytest.raises(dc.MessageError, match="limit of"):
        loads(frames, options)
    # what inflates grows; a bytearray reserves an eighth more than it touches for that
    assert peak[0] <= LIMIT + MIB + (LIMIT // 8 if codec == "zlib" else 0)


@pytest.mark.parametrize("codec", BOMBS)
def test_many_objects_share_what_a_message_may_become(kernels, codec):
    frame = zlib.compress(bytes(LIMIT // 3))
    header = packb(
        {
            "serializer": "dask",
            "type": "bytes",
            "sub-header": {},
            "num-sub-frames": 1,
            "compression": ["zlib"],
        }
    )
    for count, refused in ((3, False), (4, True)):
        refer = [{"__Serialized__": 1 + 2 * number} for number in range(count)]
        frames = [packb(refer), *[header, frame] * count]
        options = LoadOptions(max_message=LIMIT, most=None, **DENSE)
        if refused:
            with pytest.raises(dc.MessageError, match="limit of"):
                loads(frames, options)
        else:
            assert sum(map(len, loads(frames, options))) == LIMIT // 3 * 3


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("codec", BOMBS)
def test_over_a_comm_a_bomb_is_refused_and_the_comm_goes_on(run, codec, trusted):
    options = dc.CommOptions(limits=dc.Limits(message=LIMIT))

    async def main():
        async with raw_pair(OUR_HELLO, options=options, trusted=trusted) as (raw, comm):
            await raw.send(frame_up(*bomb(codec)))
            with pytest.raises(dc.MessageError, match="limit of"):
                await comm.read()
            await raw.send(frame_up(packb("next")))
            assert await comm.read() == "next"

    run(main())


def compressed(data, codec="zstd", **header):
    """Return the frames of a message of one object, whose one frame is compressed."""
    header = {"serializer": "dask", "type": "bytearray", "sub-header": {}} | header
    header |= {"num-sub-frames": 1, "compression": [codec]}
    _, library = compression._load(codec)
    frame = compression.CODECS[codec].compress(library, data)
    return [packb({"__Serialized__": 1}), packb(header), bytes(frame)]


@pytest.mark.parametrize("codec", CODECS)
def test_of_a_stranger_a_message_becomes_no_more_than_all_strangers_may_hold(run, codec):
    """Nothing but the cap of a whole message, half of this machine's memory, bounds a friend's."""
    limits = dc.Limits(untrusted_memory=LIMIT, untrusted_growth=2**20, untrusted_work=2**40)
    # what is beside the content: frames, a copy of lz4's library, what zlib's bytearray grows ahead
    fits = LIMIT // 2 - 64 * 1024

    async def main():
        options = dc.CommOptions(limits=limits)
        for trusted in (True, False):
            async with raw_pair(OUR_HELLO, options=options, trusted=trusted) as (raw, comm):
                for size, opened in ((fits, True), (LIMIT + 1, trusted), (4 * LIMIT, trusted)):
                    await raw.send(frame_up(*compressed(bytes(size), codec)))
                    if opened:
                        assert len(await comm.read()) == size
                    else:
                        with pytest.raises(dc.MessageError, match=r"untrusted_memory"):
                            await comm.read()

    run(main())


@pytest.mark.parametrize(("message", "expected"), [(LIMIT, LIMIT), (None, 256 * MIB)])
def test_by_default_that_is_256_mebibytes_and_never_more_than_a_message(run, message, expected):
    async def main():
        options = dc.CommOptions(limits=dc.Limits(message=message))
        async with pair(trusted=(True, False), options=options) as (client, server):
            assert server._load_options.max_message == expected
            assert client._load_options.max_message == message

    run(main())


@pytest.fixture
def opened(monkeypatch):
    """What is decompressed: the size, and whether in a thread."""
    done = []

    def note(name):
        codec = compression.CODECS[name]

        def decompress(*arguments):
            content = codec.decompress(*arguments)
            done.append((len(content), threading.current_thread() is not threading.main_thread()))
            return content

        return compression.Codec(codec.library, codec.compress, decompress)

    for name in CODECS:
        monkeypatch.setitem(compression.CODECS, name, note(name))
    return done


@pytest.mark.parametrize("header", [
    {"serializer": "pickle"},
    {"type": "nobody.Knows"},
    {"serializer": "nobody's"},
    {"is-collection": True, "sub-headers": [{"serializer": "msgpack"}, {"serializer": "pickle"}]},
    {"is-collection": True, "sub-headers": [{"type": "nobody.Knows", "serializer": "dask"}]},
    {"is-collection": True, "sub-headers": 5},
])  # fmt: skip
def test_what_would_be_refused_is_not_decompressed(kernels, opened, header):
    frames = compressed(bytes(MIB), **header)
    with pytest.raises((dc.UntrustedError, dc.MessageError)):
        loads(frames, LoadOptions())
    with pytest.raises(dc.UnserializableError, match="expected one of"):
        loads(frames[:1] + compressed(b"")[1:], LoadOptions(deserializers=("msgpack",)))
    assert opened == []


@pytest.mark.parametrize("trusted", [True, False])
def test_dasks_collections_are_opened_as_before(kernels, opened, trusted):
    inner = ([EASY], EASY)  # which Dask serializes one by one
    theirs = protocol.dumps(
        {"x": protocol.Serialize([EASY, inner])}, context={"compression": "zlib"}
    )
    arrived, (deep, other) = loads([bytes(f) for f in theirs], LoadOptions(trusted=trusted))["x"]
    for array in (arrived, *deep, other):
        assert np.array_equal(array, EASY)
    assert [size for size, _ in opened] == [EASY.nbytes] * 3


ZEROS = {
    "dtype": (0, "|u1"), "shape": (MOST + 1,), "strides": (1,), "writeable": (True,)
}  # fmt: skip


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("header", [
    {},
    {"type": "numpy.ndarray", "sub-header": ZEROS},
], ids=["copied", "at once"])  # fmt: skip
@pytest.mark.parametrize("push", [False, True])
def test_what_becomes_long_is_decompressed_in_a_thread_and_once(run, opened, codec, header, push):
    async def main():
        async with raw_pair(OUR_HELLO, options=DENSELY) as (raw, comm):
            await raw.send(frame_up(*compressed(bytes(MOST + 1), codec, **header)))
            if push:
                arrived = asyncio.Queue()
                comm.push(lambda message, _: arrived.put_nowait(message))
                message = await arrived.get()
            else:
                message = await comm.read()
            assert len(message) == MOST + 1
            assert opened == [(MOST + 1, True)]

    run(main())


def test_what_becomes_short_is_decompressed_where_it_came(run, opened):
    async def main():
        async with raw_pair(OUR_HELLO, options=DENSELY) as (raw, comm):
            await raw.send(frame_up(*compressed(bytes(MOST))))
            assert len(await comm.read()) == MOST
            assert opened == [(MOST, False)]

    run(main())


def test_the_objects_of_a_message_share_what_the_loop_decompresses():
    refer, header, frame = compressed(bytes(MOST // 2))
    frames = [packb([{"__Serialized__": n} for n in (1, 3, 5)]), *[header, frame] * 3]
    assert len(loads([refer, header, frame], LoadOptions(**DENSE))) == MOST // 2
    with pytest.raises(Lengthy) as info:
        loads(frames, LoadOptions(**DENSE))
    assert len(info.value.opened) == 2
    assert len(loads(frames, LoadOptions(most=None, **DENSE), info.value.opened)) == 3


def test_frames_that_were_left_as_they_are_count_for_nothing():
    _, packed, frame = compressed(bytes(MIB))
    plain = packb(
        {"serializer": "dask", "type": "bytearray", "sub-header": {}}
        | {"compression": [None], "num-sub-frames": 1}
    )
    left = [plain, bytearray(MOST // 2)]
    refer = packb([{"__Serialized__": n} for n in (1, 3, 5, 7)])
    arrived = loads([refer, *left * 3, packed, frame], LoadOptions(max_message=2 * MIB, **DENSE))
    assert [*map(len, arrived)] == [MOST // 2] * 3 + [MIB]


@pytest.mark.parametrize("codec", ["zstd", "snappy", "zlib"])  # lz4's library makes a copy
def test_what_is_decompressed_is_held_once(kernels, codec):
    frames = compressed(bytes(LIMIT), codec)
    loads(frames, LoadOptions(**DENSE))  # loads the library
    with peak_of_memory() as peak:
        arrived = loads(frames, LoadOptions(**DENSE))
    assert len(arrived) == LIMIT
    assert peak[0] <= LIMIT + LIMIT // 8 + 2 * MIB
