"""A pickle's code runs only where its sender is trusted: wherever it lies, on each transport."""

import asyncio
import pickle
import socket
import sys
from contextlib import suppress
from pathlib import Path

import msgpack
import pytest
from loops import settle
from peers import OUR_HELLO, Raw, frame_up

import distributed_comm as dc
from distributed_comm._serialize.encode import dumps
from distributed_comm._serialize.settings import DumpOptions
from distributed_comm._transports import unix_sockets
from distributed_comm._wire.hello import Hello

pack = msgpack.packb
KEY, ANOTHER = "our key", "another's key"


class Touch:
    """Its pickle, when it is opened, leaves a mark in the file system."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def as_pickled(bomb, wrap=lambda marker: marker):
    header = {"pickled-obj": bomb, "compression": [], "num-sub-frames": 0}
    return [pack(wrap({"__Pickled__": 1})), pack(header)]


def as_serialized(bomb, wrap=lambda marker: marker):
    header = {"serializer": "pickle", "writeable": [], "num-sub-frames": 1}
    return [pack(wrap({"__Serialized__": 1})), pack(header), bomb]


def nested(marker):
    return [{"a": [{"b": [marker]}]}]


def error_reply(marker):
    return {"status": "uncaught-error", "exception": marker, "traceback": None}


#: How a Dask peer says it, written from the format's description, and how one of ours does.
DASKS = {
    "frame 0": as_pickled,
    "nested": lambda bomb: as_pickled(bomb, nested),
    "an error reply": lambda bomb: as_pickled(bomb, error_reply),
    "Serialize": as_serialized,
    "Serialize, nested": lambda bomb: as_serialized(bomb, nested),
    "Serialize in an error reply": lambda bomb: as_serialized(bomb, error_reply),
}
OURS = {"frame 0": None, "nested": nested, "an error reply": error_reply, "a key": lambda x: {x: 1}}
PLACES = [("Dask's", place) for place in DASKS] + [("ours", place) for place in OURS]


def frames_of(dialect, place, mark):
    if dialect == "Dask's":
        return DASKS[place](pickle.dumps(Touch(mark)))
    wrap = OURS[place] or (lambda inner: inner)
    return dumps(wrap(Touch(mark)), DumpOptions(trusted=True, typed=True))


posix = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")
ADDRESSES = {
    "tcp": lambda folder: "tcp://127.0.0.1:0",
    "sentinel": lambda folder: "sentinel://127.0.0.1:0",
    "unix": lambda folder: f"unix://{folder}/socket",
}
TRANSPORTS = ["tcp", "sentinel", pytest.param("unix", marks=posix)]


def as_if_of_another_user(monkeypatch, trusted):
    if not trusted:
        monkeypatch.setattr(unix_sockets, "uid_is_ours", lambda uid: False)


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize(("dialect", "place"), PLACES)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_in_a_message(run, kernels, monkeypatch, tmp_path, transport, dialect, place, trusted):
    mark = tmp_path / "mark"
    if dialect == "Dask's":
        monkeypatch.setattr(Hello, "typed", False)
    as_if_of_another_user(monkeypatch, trusted)

    async def main():
        served = asyncio.get_running_loop().create_future()
        address = ADDRESSES[transport](tmp_path)
        async with dc.listen(address, served.set_result, key=KEY) as listener:
            other = KEY if trusted else ANOTHER
            client = await dc.connect(listener.contact_address, key=other)
            server = await served
            assert (client.trusted, server.trusted) == (trusted, trusted)
            for sender, reader in ((client, server), (server, client)):
                await check(sender.channel, reader)
            client.abort()
            server.abort()

    async def check(channel, reader):
        channel.send(frames_of(dialect, place, mark))
        channel.send([pack("the next")])
        if trusted:
            await reader.read()
            assert mark.exists()
            mark.unlink()
        else:
            with pytest.raises(dc.UntrustedError, match="holds a pickle"):
                await reader.read()
            assert not mark.exists()
        assert await reader.read() == "the next"

    run(main())


BASE = {"compression": None, "python": [3, 11, 7], "pickle-protocol": 5}


def hellos(bomb):
    """Yield hellos with a pickle somewhere, as bytes of the length framing."""
    header = {"pickled-obj": bomb, "compression": [], "num-sub-frames": 0}
    sub = {"serializer": "pickle", "writeable": [], "num-sub-frames": 1}
    markers = ({"__Pickled__": 1}, {"__Serialized__": 1})
    for marker, rest in zip(markers, ([pack(header)], [pack(sub), bomb]), strict=True):
        yield frame_up(pack(marker), *rest)
        yield frame_up(pack(marker))
        for key in (*BASE, "distributed_comm", "new"):
            yield frame_up(pack(BASE | {key: marker}), *rest)
            yield frame_up(pack(BASE | {key: marker}))
        yield frame_up(pack(BASE | {"distributed_comm": {"nonce": marker}}))
        yield frame_up(pack(BASE | {"distributed_comm": {"new": bomb}}))
    yield frame_up(bomb)


@pytest.mark.parametrize("trusted", [None, True])
@pytest.mark.parametrize("transport", ["tcp", pytest.param("unix", marks=posix)])
def test_in_the_hello(run, kernels, tmp_path, transport, trusted):
    """Nobody's is opened there, not even where everybody is trusted."""
    mark = tmp_path / "mark"

    async def main():
        comms = []
        address = ADDRESSES[transport](tmp_path)
        kwargs = {"trusted": trusted, "key": KEY}
        async with dc.listen(address, comms.append, **kwargs) as listener:
            for hello in hellos(pickle.dumps(Touch(mark))):
                raw = Raw(dial(listener.contact_address))
                await raw.send(hello)
                with suppress(EOFError, ConnectionResetError):  # most are cut at once
                    await raw.read_message()
                await settle()
                raw.close()
        await settle()
        for comm in comms:  # a marker under an unknown key is only an odd map
            comm.abort()

    run(main())
    assert not mark.exists()


def dial(address):
    if address.startswith("unix"):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address.removeprefix("unix://"))
        return sock
    return socket.create_connection(dc.get_address_host_port(address))


@pytest.mark.parametrize("accepts", [True, False])
def test_in_place_of_the_proof(run, kernels, tmp_path, accepts):
    """A peer that has not proven anything yet gets nothing opened, however fast it is."""
    mark = tmp_path / "mark"
    hello = BASE | {"distributed_comm": {"version": 1, "nonce": bytes(32), "endpoint": ""}}
    bomb = frame_up(*as_pickled(pickle.dumps(Touch(mark))))
    data = frame_up(pack(hello)) + bomb if accepts else OUR_HELLO + bomb

    async def main():
        comms = []
        async with dc.listen("tcp://127.0.0.1:0", comms.append, key=KEY) as listener:
            raw = Raw(dial(listener.contact_address))
            await raw.send(data)
            await raw.read_message()
            if accepts:
                assert await raw.is_cut()
                assert comms == []
            else:
                await settle()
                with pytest.raises(dc.UntrustedError):
                    await comms[0].read()
                comms[0].abort()
            raw.close()

    run(main())
    assert not mark.exists()
