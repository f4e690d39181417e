"""What everybody has forgotten is gone: a comm at once, a loop with the next collection."""

import asyncio
import gc
import socket
import subprocess
import sys
import weakref

import pytest
from loops import LOOPS, settle
from peers import LOOPBACK

import distributed_comm as dc
from distributed_comm._transports import ip_sockets as sockets


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
