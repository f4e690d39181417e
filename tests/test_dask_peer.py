"""Dask itself at the other end: its comms over real sockets, its Scheduler."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from loops import until
from messages import PLAIN, Point, tag
from scheduling import scheduler

import distributed_comm as dc
from distributed_comm._wire.hello import local_hello

distributed = pytest.importorskip("distributed")
protocol = pytest.importorskip("distributed.protocol")

LOOPBACK = "tcp://127.0.0.1:0"


class Protocol:
    """Arrives as the number of the pickle protocol that it was sent with."""

    def __reduce_ex__(self, number):
        return int, (number,)


# -- over sockets ---------------------------------------------------------------------


async def echo(comm):
    """Send back what a Dask comm reads, until its peer closes."""
    try:
        while True:
            await comm.write(await comm.read())
    except distributed.comm.CommClosedError:
        await comm.close()
    finally:
        comm.abort()


@asynccontextmanager
async def ours_to_dask(handle=echo, **kwargs) -> AsyncIterator[dc.Comm]:
    """Yield our comm, connected to a listener of Dask's."""
    async with (
        distributed.comm.listen(LOOPBACK, handle) as listener,
        await dc.connect(listener.contact_address, **kwargs) as comm,
    ):
        yield comm


@asynccontextmanager
async def dask_to_ours(*, trusted=False, **kwargs):
    """Yield a comm of Dask's and the comm of ours that serves it."""
    served = asyncio.get_running_loop().create_future()
    async with dc.listen(LOOPBACK, served.set_result, trusted=trusted) as listener:
        theirs = await distributed.comm.connect(listener.contact_address, **kwargs)
        ours = await served
    try:
        yield theirs, ours
    finally:
        ours.abort()
        theirs.abort()


@pytest.fixture(params=["ours connects", "dask connects"])
def exchange(request, run):
    """Send messages from our side to Dask's and back; return what arrived."""

    async def ours_first(messages):
        async with ours_to_dask(trusted=True) as comm:
            return [(await comm.write(msg), await comm.read())[1] for msg in messages]

    async def dask_first(messages):
        async with dask_to_ours(trusted=True) as (theirs, ours):
            serving = asyncio.ensure_future(echo(theirs))
            arrived = [(await ours.write(msg), await ours.read())[1] for msg in messages]
            await ours.close()
            await serving
            return arrived

    chosen = ours_first if request.param == "ours connects" else dask_first
    return lambda *messages: run(chosen(messages))


def test_plain_messages_go_there_and_back(exchange):
    assert [tag(msg) for msg in exchange(*PLAIN)] == [tag(msg) for msg in PLAIN]


def test_large_bytes_go_there_and_back(exchange):
    msg = {"large": bytes(range(256)) * 40 * 1024, "array": np.arange(1 << 20)}
    (arrived,) = exchange(msg)
    assert arrived["large"] == msg["large"]
    assert np.array_equal(arrived["array"], msg["array"])


def test_objects_go_there_and_back(exchange):
    msg = [Point(1), {"n": {1}, "arrays": [np.eye(3), np.array([])]}, range(3)]
    point, values, numbers = exchange(msg)[0]
    assert (point, values["n"], numbers) == (Point(1), {1}, range(3))
    assert np.array_equal(values["arrays"][0], np.eye(3))


def test_an_object_in_serialize_arrives_opened(run):
    async def main():
        async with dask_to_ours(trusted=True) as (theirs, ours):
            await theirs.write({"op": "x", "data": protocol.to_serialize(Point(3))})
            assert await ours.read() == {"op": "x", "data": Point(3)}

    run(main())


@pytest.mark.parametrize("trusted", [True, False])
def test_arrays_arrive_and_a_family_that_is_not_known_is_named(run, trusted):
    async def main():
        async with dask_to_ours(trusted=trusted) as (theirs, ours):
            await theirs.write({"data": protocol.to_serialize(np.arange(3))})
            await theirs.write({"data": protocol.to_serialize({"a": [np.arange(3)]})})
            await theirs.write({"data": protocol.Serialized({"serializer": "new"}, [])})
            await theirs.write("next")
            assert np.array_equal((await ours.read())["data"], np.arange(3))
            assert np.array_equal((await ours.read())["data"]["a"][0], np.arange(3))
            with pytest.raises(dc.MessageError, match="unknown serializer 'new', expected one of"):
                await ours.read()
            assert await ours.read() == "next"

    run(main())


def test_a_pickle_of_dask_needs_trust_and_the_comm_goes_on(run):
    async def main():
        async with dask_to_ours() as (theirs, ours):
            await theirs.write({"data": Point(1)})
            await theirs.write({"data": protocol.to_serialize(Point(1))})
            await theirs.write("next")
            for _ in range(2):
                with pytest.raises(dc.UntrustedError):
                    await ours.read()
            assert await ours.read() == "next"

    run(main())


def test_our_error_is_a_type_error_at_dask(run):
    async def main():
        async with dask_to_ours(trusted=True) as (theirs, ours):
            await ours.write({"data": threading.Lock()}, on_error="message")
            with pytest.raises(TypeError, match=r"cannot pickle an object of type _thread\.lock"):
                await theirs.read()

    run(main())


# -- hello ------------------------------------------------------------------------------


def test_dask_gets_our_capabilities_and_goes_on(run):
    async def main():
        async with dask_to_ours() as (theirs, ours):
            capabilities = dict(theirs.remote_info["distributed_comm"])
            assert len(capabilities.pop("limits")) == 2
            assert capabilities == local_hello().capabilities
            assert theirs.handshake_options == {"pickle-protocol": 5, "compression": None}
            assert ours.extra_info["peer"].capabilities is None

    run(main())


def test_pickles_go_in_the_protocol_that_a_scheduler_asks_for(run):
    async def main():
        overrides = {"pickle-protocol": 4, "compression": None}
        async with dask_to_ours(trusted=True, handshake_overrides=overrides) as (theirs, ours):
            await ours.write([Protocol(), np.arange(5)])
            number, array = await theirs.read()
            assert number == 4
            assert array.tolist() == [0, 1, 2, 3, 4]
        async with dask_to_ours(trusted=True) as (theirs, ours):
            await ours.write(Protocol())
            assert await theirs.read() == 5

    run(main())


# -- the end ----------------------------------------------------------------------------


def test_a_comm_that_dask_closes_ends_cleanly(run):
    async def main():
        async with dask_to_ours() as (theirs, ours):
            await theirs.write("last")
            await theirs.close()
            assert [msg async for msg in ours] == ["last"]

    run(main())


def test_a_comm_that_we_close_ends_for_dask(run):
    async def main():
        async with dask_to_ours() as (theirs, ours):
            await ours.write("last")
            closing = asyncio.ensure_future(ours.close())
            assert await theirs.read() == "last"
            with pytest.raises(distributed.comm.CommClosedError):
                await theirs.read()
            await closing

    run(main())


CHILD = """
import asyncio, sys
import distributed.comm

async def main():
    comm = await distributed.comm.connect(sys.argv[1])
    await comm.write(await comm.read())
    await comm.write(bytes(1 << 26))
    await comm.read()

asyncio.run(main())
"""


def test_a_dask_process_that_is_killed_inside_a_message_is_no_clean_end(run):
    async def main():
        served = asyncio.get_running_loop().create_future()
        async with dc.listen(LOOPBACK, served.set_result) as listener:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", CHILD, listener.contact_address
            )
            ours = await served
            await ours.write({"plain": {1, 2}})
            assert await ours.read() == {"plain": {1, 2}}
            so_far = ours.stats()["bytes_received"]
            await until(lambda: ours.stats()["bytes_received"] > so_far)
            child.kill()
            with pytest.raises(dc.CommClosedError) as info:
                await ours.read()
            assert not info.value.clean
            await child.wait()
            ours.abort()

    run(main())


# -- a Scheduler ------------------------------------------------------------------------


def test_a_live_scheduler_answers_us(run):
    async def main():
        async with scheduler() as their, await dc.connect(their.address) as comm:
            await comm.write({"op": "identity", "reply": True})
            answer = await comm.read()
            assert answer["type"] == "Scheduler"
            assert answer["address"] == their.address

    run(main())
