"""Messages of strangers whose decoding would take longest, each as long as it is accepted.

The bounds are those of docs/security.md: 50 ms and 0.2 s for each MiB of CPU, never more than
50 ms on the event loop, and 100 bytes of memory for each byte and 1 MiB.
"""

import struct
from contextlib import suppress
from time import thread_time

import msgpack
import pytest
from calling import serve
from peers import frame_up, pack, raw_pair

import distributed_comm as dc
from distributed_comm import _kernels
from distributed_comm._serialize.decode import loads
from distributed_comm._serialize.offload import Lengthy
from distributed_comm._serialize.settings import LoadOptions
from distributed_comm.errors import MessageError

from .fuzz.costing import spend

MIB = 1024 * 1024
LONGEST = 16 * MIB  # of frame 0
#: Seconds for which a message may keep the event loop.
AT_ONCE = 0.050
TAG = b"\xc7\x00\xbd"

compiled = pytest.mark.skipif(
    _kernels.kind != "compiled", reason="the time is promised of the compiled kernels"
)


def array(item, count):
    return b"\xdd" + struct.pack(">I", count) + item * count


def text(content):
    return msgpack.packb(content)


def inline(header, *frames):
    return b"\x93" + TAG + b"\x09" + msgpack.packb(msgpack.packb([header, *frames]))


NDARRAY = {"serializer": "dask", "type": "numpy.ndarray"}
ITEMS = {
    "small integers": b"\x05",
    "integers": b"\xce\xff\xff\xff\xff",
    "long integers": b"\xcf" + b"\xff" * 8,
    "floats": b"\xcb\x3f\xf1\x23\x45\x67\x89\xab\xcd",
    "letters": b"\xa1a",
    "other letters": text("é"),
    "words": text("a" * 31),
    "other words": text("€" * 10),
    "emojis": text("😀" * 7),
    "long text": text("a" * MIB),
    "long text that is not ASCII": text("aé" * (MIB // 2)),
    "bytes": b"\xc4\x01a",
    "long bytes": b"\xc6" + struct.pack(">I", MIB) + bytes(MIB),
    "empty lists": b"\x90",
    "lists in lists": b"\x91\x91\x91\x90",
    "deep lists": b"\x91" * 499 + b"\x90",
    "empty maps": b"\x80",
    "maps": b"\x81\xa1a\x01",
    "maps in maps": b"\x81\xa1a\x80",
    "maps of numbers": b"\x81\x01\x01",
    "deep maps": b"\x81\xa1a" * 499 + b"\x80",
    "empty extensions": b"\xc7\x00\x05",
    "extensions": b"\xd4\x05a",
    "timestamps": b"\xd7\xff" + bytes(8),
}
TYPED = {
    "tuples": b"\x92" + TAG + b"\x01",
    "sets": b"\x93" + TAG + b"\x02\x05",
    "frozensets": (b"\x93" + TAG + b"\x03") * 50 + b"\x01",
    "integers beyond 64 bits": b"\x93" + TAG + b"\x05\xc4\x09" + b"\x01" * 9,
    "members": b"\x95"
    + TAG
    + b"\x04"
    + b"".join(map(text, ("socket", "AddressFamily", "AF_INET"))),
    "objects": inline({"serializer": "msgpack"}, b"\x01"),
    "arrays": inline(
        NDARRAY | {"sub-header": {"dtype": (0, "<f8"), "shape": (1,), "strides": (8,)}}, bytes(8)
    ),
}
OF_DASK = {
    "marked sets": msgpack.packb({"__Set__": True, "as-list": [1]}),
    "marked members": msgpack.packb(
        {"__Enum__": True, "name": "AF_INET", "__module__": "socket", "__name__": "AddressFamily"}
    ),
}
EVERY = [(name, item, typed) for name, item in ITEMS.items() for typed in (True, False)]
EVERY += [(name, item, True) for name, item in TYPED.items()]
EVERY += [(name, item, False) for name, item in OF_DASK.items()]


def longest(item, typed):
    """Return the longest array of an item that a stranger may send."""
    options = LoadOptions(typed=typed, most=None)
    most, refused = 1, LONGEST // len(item) + 1
    while refused - most > most // 50 + 1:
        count = (most + refused) // 2
        try:
            loads([array(item, count)], options)
            most = count
        except MessageError:
            refused = count
    return array(item, most)


def on_the_loop(data, options):
    """Return the seconds that the loop works on a message, the median of three."""
    found = []
    for _ in range(3):
        start = thread_time()
        with suppress(MessageError, Lengthy):
            loads([data], options)
        found.append(thread_time() - start)
    return sorted(found)[1]


@compiled
@pytest.mark.parametrize("whole", [False, True], ids=["longest", "too long"])
@pytest.mark.parametrize(("name", "item", "typed"), EVERY, ids=lambda value: str(value)[:20])
def test_no_message_of_a_stranger_keeps_the_loop(name, item, typed, whole):
    data = array(item, LONGEST // len(item) - 1) if whole else longest(item, typed)
    assert on_the_loop(data, LoadOptions(typed=typed)) <= AT_ONCE


@compiled
@pytest.mark.parametrize(("name", "item", "typed"), EVERY, ids=lambda value: str(value)[:20])
def test_nor_takes_more_than_its_bytes_allow(name, item, typed):
    for data in (longest(item, typed), array(item, LONGEST // len(item) - 1)):
        for most in (None, 10 * MIB):

            def attempt(data=data, most=most):
                with suppress(MessageError, Lengthy):
                    loads([data], LoadOptions(typed=typed, most=most))

            spend(len(data), attempt)


@pytest.mark.parametrize("name", ["empty extensions", "maps in maps", "empty maps"])
def test_a_server_refuses_16_mib_of_them_and_goes_on(run, name):
    async def main():
        async with raw_pair() as (raw, comm):
            data = array(ITEMS[name], LONGEST // len(ITEMS[name]) - 5)
            await raw.send(frame_up(data) + pack("next"))
            with pytest.raises(dc.MessageError, match="so many items"):
                await comm.read()
            assert await comm.read() == "next"

    run(main())


def test_a_limit_lets_more_through(run):
    message = [[]] * 200_000
    options = dc.CommOptions(limits=dc.Limits(untrusted_work=100_000_000))

    async def main():
        async with serve(options=options) as (server, _):
            async with dc.rpc(server.address, trusted=False, options=options) as remote:
                assert await remote.echo(data=message) == message
            async with dc.rpc(server.address, trusted=False) as remote:
                with pytest.raises(dc.MessageError, match=r"so many items.*only a trusted peer"):
                    await remote.echo(data=message)

    run(main())


def test_honest_messages_of_a_stranger_arrive():
    """As the pages name them: these are what a stranger may at least send in one message."""
    rows = [{"id": n, "name": f"row {n}", "score": n / 7} for n in range(10_000)]
    messages = [
        list(range(300_000)),
        [7] * 900_000,
        [n / 7 for n in range(300_000)],
        [[]] * 60_000,
        rows,
        {f"key {n}": n for n in range(50_000)},
        ["text"] * 200_000,
        "é" * 4_000_000,
        "a" * 15_000_000,
        {n * 977: n for n in range(4_000)},
    ]
    for message in messages:
        data = msgpack.packb(message)
        assert loads([data], LoadOptions(typed=True)) == message
