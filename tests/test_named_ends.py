"""Errors about a message name both ends of the connection, and stay what they are."""

import asyncio
import pickle
import threading

import pytest
from messages import Point
from msgpack import packb
from peers import LOOPBACK, OUR_HELLO, frame_up, pair, raw_pair

import distributed_comm as dc

LONG = bytes(11 * 1024**2)  # opened in a thread


class Closed:
    def __init__(self):
        self.lock, self.long = threading.Lock(), LONG


class ClosedThere:
    """Long, and opens nowhere."""

    def __reduce__(self):
        return int, ("x" * len(LONG),)


def ends_of(comm):
    return f" ({comm.local_address} -> {comm.peer_address})"


def check(error, kind, comm, cause=None):
    assert type(error) is kind
    assert str(error).endswith(ends_of(comm))
    assert str(error).count(" -> ") == 1
    assert isinstance(error.__cause__, cause or type(None))
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (kind, str(error))


async def raised(call):
    with pytest.raises(Exception) as info:  # noqa: PT011 - looked at by who asks
        await call
    return info.value


@pytest.mark.parametrize("address", [LOOPBACK, "unix://@named-ends"])
def test_what_cannot_be_sent(run, address):
    async def main():
        async with pair(address, trusted=(True, False)) as (client, server):
            for obj in (threading.Lock(), Closed()):
                error = await raised(client.write({"x": obj}))
                check(error, dc.UnserializableError, client, TypeError)
            check(await raised(server.write(Point(1))), dc.UntrustedError, server)
            with pytest.raises(dc.UntrustedError) as info:
                server.send(Point(1))
            check(info.value, dc.UntrustedError, server)

    run(main())


async def pushed(comm):
    """Push the next message; raise what comes with it."""
    came = asyncio.get_running_loop().create_future()

    def receive(_message, error):
        comm.push(None)
        came.set_exception(error)

    comm.push(receive)
    return await came


def test_what_cannot_be_opened_by_inproc(run):
    async def main():
        async with pair("inproc://") as (client, server):
            await client.write(dc.Serialized({"serializer": "nobody's"}, []))
            check(await raised(server.read()), dc.MessageError, server, ValueError)

    run(main())


@pytest.mark.parametrize("take", [lambda comm: comm.read(), pushed], ids=["read", "pushed"])
def test_what_cannot_be_opened(run, take):
    async def main():
        async with pair(trusted=(True, False)) as (client, server):
            await client.write(Point(1))
            check(await raised(take(server)), dc.UntrustedError, server)
            await client.write(threading.Lock(), on_error="message")
            check(await raised(take(server)), dc.UnserializableError, server)
            await client.write("next")
            assert await server.read() == "next"
        async with pair(trusted=(True, True)) as (client, server):
            writing = asyncio.create_task(client.write(ClosedThere()))
            check(await raised(take(server)), dc.MessageError, server, ValueError)
            await writing
        async with raw_pair(OUR_HELLO) as (raw, server):
            await raw.send(frame_up(packb("x") + b"x"))
            check(await raised(take(server)), dc.MessageError, server, ValueError)

    run(main())
