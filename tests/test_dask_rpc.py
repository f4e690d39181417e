"""Dask at the other end of a call: its Scheduler and Server answer us, its rpc calls us."""

import asyncio

import numpy as np
import pytest
from calling import LOOPBACK, serve
from scheduling import scheduler
from test_remote_errors import Demanding, Refused, refuse

import distributed_comm as dc

distributed = pytest.importorskip("distributed")
core = pytest.importorskip("distributed.core")
protocol = pytest.importorskip("distributed.protocol")


async def total(comm, array, scale=1):
    await asyncio.sleep(0)
    return {"sum": int(array.sum()) * scale, "array": array * scale}


def demand():
    raise Demanding("this", "that")


HANDLERS = {
    "total": total,
    "add": lambda x, y: x + y,
    "refuse": refuse,
    "demand": demand,
}


# -- our rpc, their server ------------------------------------------------------------------------


def test_a_scheduler_answers_our_rpc(run):
    async def main():
        async with scheduler() as their, dc.rpc(their.address, trusted=True) as remote:
            identity = await remote.identity()
            assert identity["type"] == "Scheduler"
            assert identity["address"] == their.address
            assert "host" in await remote.versions()
            assert await remote.echo(data={"a": {1, 2}}) == {"a": {1, 2}}
            answers = await asyncio.gather(*(remote.echo(data=i) for i in range(20)))
            assert answers == list(range(20))

    run(main())


def test_a_scheduler_answers_us_without_trust_as_far_as_it_is_plain(run):
    async def main():
        async with scheduler() as their, dc.rpc(their.address) as remote:
            assert (await remote.identity())["type"] == "Scheduler"
            with pytest.raises(dc.RemoteError, match="unexpected keyword argument 'bad'"):
                await remote.identity(bad=1)
            assert remote._own.open == 1

    run(main())


def test_a_server_of_dask_takes_arguments_and_returns_or_raises(run):
    async def main():
        async with core.Server(HANDLERS) as their:
            await their.listen(LOOPBACK)
            async with dc.rpc(their.address, trusted=True) as remote:
                array = np.arange(1_000_000)
                answer = await remote.total(array=array, scale=2)
                assert answer["sum"] == 2 * array.sum()
                assert np.array_equal(answer["array"], 2 * array)
                with pytest.raises(Refused) as info:
                    await remote.refuse(what="you")
                assert (info.value.args, info.value.code) == (("you",), 404)
                assert "in refuse" in str(last_cause(info.value))
                with pytest.raises(Exception, match="this and that"):
                    await remote.demand()
                assert remote._own.open == 1

    run(main())


def last_cause(error):
    while error.__cause__ is not None:
        error = error.__cause__
    return error


# -- their rpc, our server ------------------------------------------------------------------------


def test_their_rpc_calls_our_server(run):
    async def main():
        async with serve(HANDLERS, trusted=True) as (server, _), core.rpc(server.address) as their:
            assert (await their.identity())["id"] == server.id
            assert await their.add(x=1, y=2) == 3
            array = np.arange(1_000_000)
            answer = await their.total(array=array)
            assert answer["sum"] == array.sum()
            assert np.array_equal(answer["array"], array)
            answers = await asyncio.gather(*(their.add(x=i, y=0) for i in range(20)))
            assert answers == list(range(20))

    run(main())


def test_their_rpc_raises_what_our_handler_raised(run):
    async def main():
        async with serve(HANDLERS, trusted=True) as (server, _), core.rpc(server.address) as their:
            for _ in range(3):
                with pytest.raises(Refused) as info:
                    await their.refuse(what="you")
                assert (info.value.args, info.value.code) == (("you",), 404)
                assert info.value.__notes__ == ["a note"]
            with pytest.raises(Exception, match="this and that"):
                await their.demand()
            with pytest.raises(ValueError, match="no op 'nowhere'"):
                await their.nowhere()
            with pytest.raises(TypeError, match="missing a required argument"):
                await their.add(x=1)

    run(main())


def test_their_rpc_gets_text_from_a_server_that_does_not_trust_it(run):
    async def main():
        async with serve(HANDLERS) as (server, _), core.rpc(server.address) as their:
            with pytest.raises(Exception, match="Refused: you") as info:
                await their.refuse(what="you")
            assert type(info.value) is Exception
            assert await their.add(x=1, y=2) == 3

    run(main())


def test_their_pool_and_serializers_work_with_our_server(run):
    async def main():
        async with (
            serve(HANDLERS, trusted=True) as (server, _),
            core.ConnectionPool(limit=2, serializers=["pickle", "msgpack"]) as pool,
        ):
            their = pool(server.address)
            answers = await asyncio.gather(*(their.add(x=i, y=0) for i in range(20)))
            assert answers == list(range(20))

    run(main())


def test_their_batched_stream_reaches_our_stream_handlers(run):
    async def main():
        got = []
        arrived = asyncio.Event()

        def note(x, extra=None):
            got.append(x)
            if x == 99:
                arrived.set()

        async with serve(HANDLERS, trusted=True, stream_handlers={"note": note}) as (server, _):
            comm = await core.connect(server.address)
            await comm.write({"op": "connection_stream", "reply": False})
            batched = distributed.batched.BatchedSend("1ms")
            batched.start(comm)
            for x in range(100):
                batched.send({"op": "note", "x": x})
            await arrived.wait()
            assert got == list(range(100))
            await batched.close()

    run(main())
