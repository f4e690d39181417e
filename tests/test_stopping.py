"""A listener that stops right behind a `connect`: greeted diallers stay, others do not."""

import asyncio
import subprocess
import sys
from dataclasses import replace

import pytest
from loops import until
from peers import LOOPBACK, OUR_HELLO, dial_raw

import distributed_comm as dc
from distributed_comm._connection import accept as module

each_address = pytest.mark.parametrize(
    "address",
    ["inproc://", "unix://", *(f"{s}://127.0.0.1:0" for s in ("tcp", "certified", "sentinel"))],
)
each_key = pytest.mark.parametrize("keys", [("", ""), ("k", "k"), ("k", ""), ("k", "other")])


@each_address
@each_key
def test_a_connect_that_has_returned_is_an_established_connection(run, address, keys, certified):
    async def main():
        served = asyncio.get_running_loop().create_future()
        async with dc.listen(address, served.set_result, key=keys[0]) as listener:
            comm = await dc.connect(listener.contact_address, key=keys[1])
        await comm.write("there")
        other = await served
        assert await other.read() == "there"
        await other.write("and back")
        assert await comm.read() == "and back"
        await asyncio.gather(comm.close(), other.close())

    run(main())


DIALLER = """
import asyncio, sys
import distributed_comm as dc

async def main():
    while address := (await asyncio.to_thread(sys.stdin.readline)).strip():
        comm = await dc.connect(address, timeout=10)
        print("connected", flush=True)
        await comm.write("there")
        assert await comm.read() == "and back"
        await comm.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("address", [LOOPBACK, "unix://"])
@pytest.mark.parametrize("key", ["", "k"])
def test_nor_does_one_of_30_from_another_process_fail(run, address, key, monkeypatch):
    monkeypatch.setenv("DISTRIBUTED_COMM_KEY", key)

    async def main(process):
        for _ in range(30):
            served = asyncio.get_running_loop().create_future()
            async with dc.listen(address, served.set_result) as listener:
                print(listener.contact_address, file=process.stdin, flush=True)
                line = await asyncio.to_thread(process.stdout.readline)
            assert line == "connected\n"
            other = await served
            assert await other.read() == "there"
            await other.write("and back")
            await other.close()
        process.stdin.close()
        assert await asyncio.to_thread(process.wait) == 0

    command = [sys.executable, "-c", DIALLER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        try:
            run(main(process))
        finally:
            process.kill()


def test_a_peer_that_has_our_hello_has_the_time_of_a_handshake(run):
    timeouts = replace(dc.Timeouts(), handshake=0.3)

    async def main():
        served = asyncio.get_running_loop().create_future()
        async with (
            dc.listen(
                LOOPBACK, served.set_result, options=dc.CommOptions(timeouts=timeouts)
            ) as listener,
            dial_raw(listener) as late,
            dial_raw(listener) as silent,
        ):
            for raw in (late, silent):
                await raw.read_message()
            listener.stop()
            await late.send(OUR_HELLO)
            server = await served
            began = asyncio.get_running_loop().time()
            assert await silent.is_cut()
            assert asyncio.get_running_loop().time() - began < 3
            server.abort()

    run(main())


def test_a_peer_that_was_told_nothing_is_gone_at_once(run, monkeypatch):
    monkeypatch.setattr(module, "COURTESY", 1000)

    async def main():
        listener = await dc.listen(LOOPBACK, pytest.fail)
        async with dial_raw(listener) as raw:
            await until(lambda: listener._handshakes)
            listener.stop()
            assert await raw.is_cut()

    run(main())


@each_address
@each_key
def test_a_server_that_closes_takes_its_leave_of_who_has_just_come(run, address, keys, certified):
    async def main():
        server = dc.Server(key=keys[0])
        server.listen(address)
        async with server:
            comm = await dc.connect(server.address, key=keys[1])
        with pytest.raises(dc.CommClosedError) as caught:
            await comm.read()
        assert caught.value.clean
        await comm.close()

    run(main())
