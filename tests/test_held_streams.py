"""Streams of handlers that close the connection themselves: only what is complete looks so."""

import asyncio
from contextlib import suppress

import pytest

import distributed_comm as dc

ADDRESSES = ["tcp://127.0.0.1:0", "inproc://"]


async def with_block(comm, end):
    async with comm:
        await comm.write(1)
        await end()


async def with_finally(comm, end):
    try:
        await comm.write(1)
        await end()
    finally:
        await comm.close()


async def with_swallowed(comm, end):
    with suppress(asyncio.CancelledError):
        await comm.write(1)
        await end()
    await comm.close()


async def consume(remote, got):
    async for item in remote.feed.stream():
        got.append(item)


def serving(hold, end):
    async def feed(comm):
        await hold(comm, end)

    return dc.Server([feed])


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("hold", [with_block, with_finally, with_swallowed])
def test_a_held_stream_that_a_closing_server_cuts_is_not_complete(run, hold, address, trusted):
    async def main():
        begun, got = asyncio.Event(), []

        async def end():
            begun.set()
            await asyncio.Event().wait()

        server = serving(hold, end)
        await server.listen(address, trusted=trusted)
        async with dc.rpc(server.address, trusted=trusted) as remote:
            consuming = asyncio.ensure_future(consume(remote, got))
            await begun.wait()
            await server.close(grace=0.4)
            with pytest.raises(dc.RemoteError, match="took longer than the grace"):
                await consuming
        assert got == [1]

    run(main())


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("hold", [with_block, with_finally])
@pytest.mark.parametrize("fails", [True, False])
def test_a_held_stream_ends_as_its_handler_does(run, hold, address, fails):
    async def main():
        got = []

        async def end():
            if fails:
                raise ValueError("half way")

        server = serving(hold, end)
        await server.listen(address)
        async with server, dc.rpc(server.address) as remote:
            if fails:
                with pytest.raises((ValueError, dc.RemoteError), match="half way"):
                    await consume(remote, got)
            else:
                await consume(remote, got)
        assert got == [1]

    run(main())


def test_a_held_stream_whose_handler_handles_its_exception_is_complete(run):
    async def feed(comm):
        with suppress(ValueError):
            async with comm:
                await comm.write(1)
                raise ValueError("no more")

    async def main():
        server, got = dc.Server([feed]), []
        await server.listen("tcp://127.0.0.1:0")
        async with server, dc.rpc(server.address) as remote:
            await consume(remote, got)
        assert got == [1]

    run(main())
