"""Keys whose hashes a stranger has chosen are refused before a dict or a set is made of them."""

from enum import Enum
from itertools import islice, product

import msgpack
import numpy as np
import pytest
from peers import frame_up, pack, pair, raw_pair

import distributed_comm as dc
from distributed_comm._serialize import decode, embedded
from distributed_comm._serialize.decode import loads
from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.settings import DumpOptions, LoadOptions
from distributed_comm.errors import MessageError

from .feeding import within

STRANGERS = {typed: LoadOptions(typed=typed, most=None) for typed in (True, False)}
TRUSTED = {typed: LoadOptions(typed=typed, trusted=True) for typed in (True, False)}
REFUSED = (
    r"(keys or items of sets that are neither str nor bytes|so many items).* only a trusted peer"
)
TAG = b"\xc7\x00\xbd"
P = 2**61 - 1  # CPython's hash of a number is its remainder


def array(items):
    return b"\xdd" + len(items).to_bytes(4, "big") + b"".join(items)


def mapping(keys):
    return b"\xdf" + len(keys).to_bytes(4, "big") + b"".join(key + b"\xc0" for key in keys)


def tagged(sort, items):
    return array([TAG, bytes([sort]), *items])


def pack_all(items):
    return [*map(msgpack.packb, items)]


COLLIDING = list(islice(product((-1, -2), repeat=14), 6000))
assert len(set(map(hash, COLLIDING[:100]))) == 1

CRAFTED = {
    "tuples": pack_all(COLLIDING),
    "nested tuples": pack_all(((((key,), "a"),),) for key in COLLIDING),
    "integers": pack_all(n << 45 for n in range(20_000)),
    "integers behind honest ones": pack_all([*range(50_000), *(n << 45 for n in range(3_000))]),
    "floats": pack_all(float(n << 45) for n in range(20_000)),
    "timestamps": pack_all(msgpack.Timestamp(2**40 + n) for n in range(5_000)),
}
TAGGED = {
    "tagged tuples": [tagged(1, pack_all(key)) for key in COLLIDING],
    "long integers": [
        tagged(5, pack_all([(P * n).to_bytes(12, "little")])) for n in range(16, 8000)
    ],
    "frozensets": [
        tagged(3, pack_all((n * 400 + m) << 40 for m in range(400))) for n in range(400)
    ],
    "objects": [tagged(7, [msgpack.packb(n)]) for n in range(1, 400)],
}


class Vast(Enum):
    VAST = 2**70


HONEST = {
    "consecutive": range(60_000),
    "with gaps": [n for n in range(100, 60_000) if n % 4],
    "numbers": [n * 977 for n in range(4_000)],
    "floats": [n / 7 for n in range(4_000)],
    "tuples": [("x", n, n + 1) for n in range(600)],
    "text": [str(n) for n in range(50_000)],
}


@pytest.fixture
def undecoded(monkeypatch):
    """Let nothing be decoded."""
    for module, name in (
        (decode, "unpackb"),
        (decode, "decode"),
        (decode, "decode_dasks"),
        (embedded, "unpackb"),
    ):
        monkeypatch.delattr(module, name)


@pytest.mark.parametrize("keys", CRAFTED.values(), ids=CRAFTED)
@pytest.mark.parametrize("options", STRANGERS.values(), ids=["typed", "of Dask"])
def test_a_map_of_chosen_keys_is_not_decoded(kernels, undecoded, options, keys):
    for data in (mapping(keys), array([mapping(keys[: len(keys) // 2]), mapping(keys)])):
        with pytest.raises(MessageError, match=REFUSED):
            loads([data], options)


@pytest.mark.parametrize("items", (CRAFTED | TAGGED).values(), ids=CRAFTED | TAGGED)
def test_nor_are_a_set_and_a_map_between_our_peers(kernels, undecoded, items):
    for data in (tagged(2, items), tagged(3, items), mapping(items)):
        with pytest.raises(MessageError, match=REFUSED):
            loads([data], STRANGERS[True])


@pytest.mark.parametrize("items", CRAFTED.values(), ids=CRAFTED)
def test_a_set_of_dasks_is_not_made(kernels, monkeypatch, items):
    monkeypatch.setattr(decode, "set", None, raising=False)
    entries = [msgpack.packb("__Set__") + b"\xc3", msgpack.packb("as-list") + array(items)]
    for order in (entries, entries[::-1]):
        with pytest.raises(MessageError, match=REFUSED):
            loads([b"\x82" + b"".join(order)], STRANGERS[False])


def test_the_sets_of_a_message_count_together(kernels):
    items = array(pack_all(n << 45 for n in range(1_500)))
    one = b"\x82" + msgpack.packb("__Set__") + b"\xc3" + msgpack.packb("as-list") + items
    assert len(loads([array([one] * 7)], STRANGERS[False])) == 7
    with pytest.raises(MessageError, match=REFUSED):
        loads([array([one] * 9)], STRANGERS[False])


def test_many_brief_parts_count_together(kernels):
    brief = mapping(pack_all(COLLIDING[:56]))
    assert len(brief) < 1024
    header = msgpack.packb({"serializer": "msgpack"})
    one = tagged(9, [msgpack.packb(b"\x92" + header + msgpack.packb(brief))])
    assert len(loads([array([one] * 20)], STRANGERS[True])) == 20
    with pytest.raises(MessageError, match=REFUSED):
        loads([array([one] * 200)], STRANGERS[True])


def test_sets_of_dasks_with_what_cannot_collide_arrive(kernels):
    """Timestamps weigh what they do as keys of a map; members of enums have names."""
    times = {msgpack.Timestamp(n) for n in range(200)}
    items = array(pack_all(times))
    frame = b"\x82" + msgpack.packb("__Set__") + b"\xc3" + msgpack.packb("as-list") + items
    assert loads([frame], STRANGERS[False]) == times
    assert loads(dumps({Vast.VAST}, DumpOptions()), STRANGERS[False]) == {Vast.VAST}


def with_header(header, *frames):
    return [msgpack.packb({"__Serialized__": 1}), header, *frames]


@pytest.mark.parametrize("keys", CRAFTED.values(), ids=CRAFTED)
def test_headers_and_objects_are_looked_through_too(kernels, keys):
    fine = {"serializer": "msgpack", "num-sub-frames": 1}
    for frames in (with_header(mapping(keys)), with_header(msgpack.packb(fine), mapping(keys))):
        with pytest.raises(MessageError, match=REFUSED):
            loads(frames, STRANGERS[False])
    packed = msgpack.packb([fine, mapping(keys)])
    with pytest.raises(MessageError, match=REFUSED):
        loads([tagged(9, [msgpack.packb(packed)])], STRANGERS[True])


def collection(kind, subs, frames=(), **more):
    header = {"is-collection": True, "type-serialized": kind, "sub-headers": subs}
    header |= {"frame-lengths": [len(frames) // max(len(subs), 1)] * len(subs)}
    return header | {"num-sub-frames": len(frames)} | more


@pytest.mark.parametrize("keys", CRAFTED.values(), ids=CRAFTED)
def test_so_are_the_keys_of_a_collection(kernels, keys):
    empty = msgpack.packb(collection("list", []))[1:]
    entry = msgpack.packb("key")
    subs = array([bytes([0x80 + 6]) + empty + entry + key for key in keys])
    header = msgpack.packb(collection("dict", [], **{"frame-lengths": [0] * len(keys)}))
    header = header.replace(b"sub-headers\x90", b"sub-headers" + subs)
    with pytest.raises(MessageError, match=REFUSED):
        loads(with_header(header), STRANGERS[False])


def test_and_the_items_of_one(kernels, monkeypatch):
    monkeypatch.setitem(embedded.COLLECTIONS, "set", None)
    frames = pack_all(COLLIDING[:1300])
    header = collection("set", [{"serializer": "msgpack"}] * len(frames), frames)
    with pytest.raises(MessageError, match=REFUSED):
        loads(with_header(msgpack.packb(header), *frames), STRANGERS[False])


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("keys", HONEST.values(), ids=HONEST)
def test_honest_ones_arrive(kernels, typed, keys):
    for message in (dict.fromkeys(keys, 0), set(keys)):
        assert loads(dumps(message, DumpOptions(typed=typed)), STRANGERS[typed]) == message


def test_objects_of_ours_may_be_keys(kernels):
    keys = {np.int64(n) for n in range(60)} | {frozenset({n, "a"}) for n in range(300)}
    assert loads(dumps(keys, DumpOptions(typed=True)), STRANGERS[True]) == keys


@pytest.mark.parametrize("typed", [True, False])
def test_a_trusted_peer_may_send_any(kernels, typed):
    keys = [n << 20 for n in range(50_000)]
    for message in (dict.fromkeys(keys), set(keys)):
        assert loads(dumps(message, DumpOptions(typed=typed)), TRUSTED[typed]) == message
        with pytest.raises(MessageError, match=REFUSED):
            loads(dumps(message, DumpOptions(typed=typed)), STRANGERS[typed])


def test_a_comm_refuses_them_and_goes_on(run, kernels):
    async def main():
        async with raw_pair() as (raw, comm), pair() as (client, server):
            for data in (mapping(CRAFTED["tuples"]), mapping(CRAFTED["integers"])):
                await raw.send(frame_up(data) + pack("next"))
                with pytest.raises(dc.MessageError, match=REFUSED):
                    await comm.read()
                assert await comm.read() == "next"
            await client.write(set(COLLIDING))
            with pytest.raises(dc.MessageError, match=REFUSED):
                await server.read()
            await client.write(dict.fromkeys(range(20_000)))
            assert await server.read() == dict.fromkeys(range(20_000))

    run(main())


# -- collections within each other --------------------------------------------------------


def test_collections_within_each_other_copy_no_frames(kernels):
    count = 20_000
    header = collection("list", [])
    for _ in range(200):
        header = collection("list", [header]) | {"frame-lengths": [count]}
    header["num-sub-frames"] = count
    frames = with_header(msgpack.packb(header), *[b""] * count)
    size = sum(16 + len(frame) for frame in frames)

    def attempt():
        arrived = loads(frames, STRANGERS[False])
        for _ in range(200):
            (arrived,) = arrived
        assert arrived == []

    within(10 * size, attempt)
