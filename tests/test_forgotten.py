"""What everybody has forgotten is gone: a comm at once, a loop with the next collection."""

import asyncio
import gc
import socket
import subprocess
import sys
import weakref

import pytest
from loops import LOOPS, settle, until
from peers import LOOPBACK

import distributed_comm as dc
from distributed_comm._transports import ip_sockets as sockets
from distributed_comm._wire.states import CLOSED


async def talk(address):
    async def answer(comm):
        async with comm:
            await comm.write(await comm.read())

    async with (
        dc.listen(address, answer) as listener,
        await dc.connect(listener.contact_address) as comm,
    ):
        await comm.write(1)
        assert await comm.read() == 1


@pytest.mark.parametrize("options", [None, dc.CommOptions(busy_poll=1e-5)])
@pytest.mark.parametrize("address", [LOOPBACK, "inproc://"])
@pytest.mark.parametrize("loop_factory", LOOPS.values(), ids=LOOPS)
def test_a_loop_that_has_talked(loop_factory, address, options):
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(talk(address))
        loop = weakref.ref(runner.get_loop())
    del runner
    gc.collect()
    assert loop() is None


def test_a_comm_of_a_task_that_connected(run):
    async def main():
        async with dc.listen(LOOPBACK, lambda comm: comm.abort()) as listener:
            gc.collect()
            gc.disable()
            try:
                comm = await asyncio.create_task(dc.connect(listener.contact_address))
                await comm.close()
                forgotten = weakref.ref(comm)
                del comm
                await settle()
                assert forgotten() is None
            finally:
                gc.enable()

    run(main())


async def leave_alone(comm):
    pass


async def read_one(comm):
    await comm.read()


async def read_all(comm):
    for _ in range(3):
        await comm.read()


async def close(comm):
    await comm.close()


async def abort(comm):
    comm.abort()


async def push(comm):
    comm.push(lambda *_: None)


BUSY = dc.CommOptions(busy_poll=1e-5)


@pytest.mark.parametrize("options", [None, BUSY], ids=["", "busy"])
@pytest.mark.parametrize("last", [leave_alone, read_one, read_all, close, abort, push])
@pytest.mark.parametrize("address", [LOOPBACK, "unix://"])
def test_a_comm_whose_peer_has_left_messages_and_gone(run, address, last, options):
    """Whatever becomes of the messages: what waits refers to no connection."""

    async def main():
        comms = []
        arguments = {"trusted": True, "options": options}
        async with dc.listen(address, comms.append, **arguments) as listener:
            async with await dc.connect(listener.contact_address, **arguments) as client:
                for number in range(3):
                    await client.write(number)
                await until(lambda: comms and comms[0].unread() == 3)
            await until(lambda: comms[0].channel.connection.state is CLOSED)
            forgotten = [weakref.ref(comms[0].channel), weakref.ref(client.channel)]
            gc.collect()
            gc.disable()
            try:
                await last(comms.pop())
                del client
                await settle()
                assert [each() for each in forgotten] == [None, None]
            finally:
                gc.enable()

    run(main())


def test_a_dial_of_two_addresses_that_was_cancelled(run):
    async def main():
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as server:
            found = [(socket.AF_INET, server.getsockname())] * 2
            for turns in range(15):
                dialling = loop.create_task(sockets.dial(loop, found))
                await settle(turns)
                dialling.cancel()
                await asyncio.wait([dialling])
                if not dialling.cancelled():
                    dialling.result().close()
                gc.collect()  # complains of a socket that nobody closed
                await settle()

    run(main())


def test_the_long_test_itself():
    command = [sys.executable, "tests/soak.py", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert not done.stderr
    assert "failing" in done.stdout
    assert "server  MiB" in done.stdout
