"""The bytes of tls://: in any pieces, ended one way or another, and little of them in memory."""

import asyncio
import hashlib
import json
import os
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from statistics import median

import pytest
from certificates import ca_text, issue, secure, texts
from feeding import peak_of_memory
from loops import LOOPS, needs_proc, settle, until
from peers import DASK_HELLO, GOODBYE, OUR_HELLO, echo, pack, port_of
from proxy import Proxy, Way

import distributed_comm as dc
from distributed_comm._tls.stream import AHEAD

LOOPBACK = "tls://127.0.0.1:0"
MIB = 1024 * 1024


@asynccontextmanager
async def raw_pair(hello=OUR_HELLO, *, limit=2**16, options=None):
    """Yield the streams of a dialler that speaks TLS by hand, and the comm that serves it."""
    served = asyncio.get_running_loop().create_future()
    async with dc.listen(
        LOOPBACK, served.set_result, security=secure(), options=options
    ) as listener:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port_of(listener), ssl=secure().connecting, limit=limit
        )
        writer.write(hello)
        await reader.readexactly(int.from_bytes(await reader.readexactly(8), "little"))
        comm = await served
    try:
        yield reader, writer, comm
    finally:
        comm.abort()
        writer.transport.abort()
        await settle()


# -- pieces ------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 2, 5, 29, 1000, 16_383, 16_406, 50_000])
def test_records_may_come_in_any_pieces(run, kernels, piece):
    messages = [b"", "text", list(range(100)), bytes(range(256)) * (30 if piece < 1000 else 2000)]

    async def main():
        async with (
            dc.listen(LOOPBACK, echo, security=secure()) as listener,
            Proxy(f"tcp://127.0.0.1:{port_of(listener)}") as proxy,
        ):
            proxy.out, proxy.back = Way(piece=piece), Way(piece=piece)
            address = proxy.address.replace("tcp:", "tls:")
            async with await dc.connect(address, security=secure()) as comm:
                for message in messages:
                    await comm.write(message)
                assert [await comm.read() for _ in messages] == messages

    run(main())


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 16_385, 65_536, AHEAD - 1, AHEAD, 3 * MIB])
def test_messages_around_the_size_of_a_record_and_of_what_is_encrypted_ahead(run, size):
    payload = hashlib.shake_128(b"seed").digest(size)

    async def main():
        async with (
            dc.listen(LOOPBACK, echo, security=secure()) as listener,
            await dc.connect(listener.contact_address, security=secure()) as comm,
        ):
            for message in (payload, [payload, bytearray(payload), payload]):
                await comm.write(message)
                assert await comm.read() == message

    run(main())


def test_many_records_of_one_byte_and_messages_across_records(run):
    """A peer may cut its bytes into records as it likes."""
    message = pack({"x": 21})

    async def main():
        async with raw_pair() as (_, writer, comm):
            for byte in message + message:
                writer.write(bytes([byte]))
            writer.write(message * 1000)
            for _ in range(1002):
                assert await comm.read() == {"x": 21}

    run(main())


# -- the end -----------------------------------------------------------------------------


def test_closing_says_goodbye_and_ends_tls(run):
    async def main():
        async with raw_pair() as (reader, writer, comm):
            closing = asyncio.create_task(comm.close())
            assert (await reader.read()).endswith(GOODBYE)
            assert reader.at_eof()  # an end without close_notify would have raised
            writer.close()
            await closing

    run(main())


@pytest.mark.parametrize("notify", [True, False])
@pytest.mark.parametrize(
    ("hello", "clean"), [(DASK_HELLO, True), (OUR_HELLO, False)], ids=["dask", "ours"]
)
def test_the_end_of_a_peer_that_said_no_goodbye(run, hello, clean, notify):
    """With close_notify or without, as Dask ends: what counts is the goodbye."""

    async def main():
        async with raw_pair(hello) as (_, writer, comm):
            writer.write(pack("last"))
            await writer.drain()
            if notify:
                writer.close()
            else:
                await settle()
                descriptor = os.dup(writer.get_extra_info("socket").fileno())
                with socket.socket(fileno=descriptor) as sock:
                    sock.shutdown(socket.SHUT_WR)
            assert await comm.read() == "last"
            with pytest.raises(dc.CommClosedError) as caught:
                await comm.read()
            assert caught.value.clean is clean

    run(main())


def test_an_end_by_close_notify_alone_closes_the_connection(run):
    """A peer ends TLS, and keeps the TCP connection."""

    def talk(port):
        with (
            socket.create_connection(("127.0.0.1", port)) as sock,
            secure().connecting.wrap_socket(sock, server_hostname="localhost") as tls,
        ):
            tls.sendall(DASK_HELLO + pack("last"))
            assert tls.recv(MIB)  # their hello
            with pytest.raises(OSError, match="EOF"):  # no close_notify in return, but the end
                tls.unwrap()

    async def main():
        served = asyncio.get_running_loop().create_future()
        async with dc.listen(LOOPBACK, served.set_result, security=secure()) as listener:
            talking = asyncio.create_task(asyncio.to_thread(talk, port_of(listener)))
            comm = await served
            assert await comm.read() == "last"
            with pytest.raises(dc.CommClosedError) as caught:
                await comm.read()
            assert caught.value.clean
            await talking

    run(main())


# -- memory ------------------------------------------------------------------------------


def test_of_a_backlog_at_most_256_kib_are_encrypted(run):
    np = pytest.importorskip("numpy")
    size = 64 * MIB

    async def main():
        array = np.zeros(size, dtype="u1")
        async with raw_pair() as (_, writer, comm):
            writer.transport.pause_reading()
            with peak_of_memory() as found:
                writing = asyncio.create_task(comm.write(array))
                await until(lambda: comm.channel.out.unsent)  # a thread has encoded it
                await settle(200)
                assert not writing.done()
            assert comm.channel.stream.ahead <= AHEAD * 1.01
            writing.cancel()
            comm.abort()
            await asyncio.wait([writing])
        assert found[0] < 4 * AHEAD + MIB

    run(main())


PROGRAM = """
import asyncio, gc, json, sys
from itertools import pairwise
sys.path.insert(0, {folder!r})
import distributed_comm as dc
from loops import LOOPS

SECURITY = dc.Security(**json.load(sys.stdin))

def used():
    gc.collect()
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return sys.getallocatedblocks(), int(line.split()[1]) * 1024

async def echo(comm):
    async with comm:
        async for message in comm:
            await comm.write(message)

async def main():
    async with dc.listen("tls://127.0.0.1:0", echo, security=SECURITY) as listener:
        async def connect_and_close(times):
            for number in range(times):
                async with await dc.connect(listener.contact_address, security=SECURITY) as comm:
                    await comm.write(number)
                    assert await comm.read() == number
        found = [used()]
        for _ in range(4):
            await connect_and_close(500)
            found.append(used())
        print(json.dumps([[b - a for a, b in zip(*each)] for each in pairwise(found)]))

with asyncio.Runner(loop_factory=LOOPS[{loop!r}]) as runner:
    runner.run(main())
"""


@needs_proc
@pytest.mark.timeout(240)  # it takes 5 s where nothing else runs
@pytest.mark.parametrize("loop", LOOPS)
def test_connecting_and_closing_2000_times_takes_no_memory(loop, pytestconfig):
    """The first 500 warm up. A leak grows in each round; a new arena of the allocator, in one."""
    program = PROGRAM.format(folder=str(pytestconfig.rootpath / "tests"), loop=loop)
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps({"ca": ca_text(), **texts(issue())}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    objects, nbytes = zip(*json.loads(done.stdout)[1:], strict=True)
    assert median(objects) < 350  # one for each connection would be 500
    assert median(nbytes) < MIB // 4
    assert sum(nbytes) < 2 * MIB
