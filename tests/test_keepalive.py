"""A peer that is gone without a word is noticed, and one that is only busy, or slow, is not cut."""

import asyncio
import ctypes
import signal
import socket
import struct
import subprocess
import sys
import time
from importlib import import_module

import msgpack
import pytest
from loops import settle, until
from peers import DASK_HELLO, LOOPBACK, OUR_HELLO, frame_up, pack, pair, raw_pair

import distributed_comm as dc

MIB = 1024 * 1024
KEEPALIVE = 0.2
WATCHFUL = dc.CommOptions(timeouts=dc.Timeouts(keepalive=KEEPALIVE, close=0.5))
IMPATIENT = dc.CommOptions(timeouts=dc.Timeouts(keepalive=KEEPALIVE, gap=KEEPALIVE, close=0.5))
PING, PONG = frame_up(b"\xc7\x01\xbc\x02"), frame_up(b"\xc7\x01\xbc\x03")

linux = pytest.mark.skipif(sys.platform != "linux", reason="asks the system for what only it tells")
each_peer = pytest.mark.parametrize("hello", [DASK_HELLO, OUR_HELLO], ids=["dask", "ours"])


def clock() -> float:
    return asyncio.get_running_loop().time()


def vanish(sock: socket.socket) -> None:
    """Have the system drop every packet for a socket, as if its machine had lost power."""
    program = struct.pack("HBBI", 0x06, 0, 0, 0)  # a filter of one instruction: accept 0 bytes
    code = ctypes.create_string_buffer(program)
    attach = 26  # SO_ATTACH_FILTER
    sock.setsockopt(socket.SOL_SOCKET, attach, struct.pack("HP", 1, ctypes.addressof(code)))


async def fill(comm: dc.Comm, count: int = 20) -> None:
    for number in range(count):
        await comm.write((number, bytes(MIB)))


# Pings


def test_a_ping_is_answered_whether_or_not_anybody_reads(run, kernels):
    async def main():
        async with raw_pair() as (raw, comm):
            await raw.send(PING)
            assert await raw.read_exactly(len(PONG)) == PONG
            await raw.send(pack(1) + PING + pack(2))
            assert await raw.read_exactly(len(PONG)) == PONG
            assert [await comm.read(), await comm.read()] == [1, 2]
            assert comm.stats()["messages_received"] == 2

    run(main())


def test_a_ping_is_answered_between_messages_and_not_within_one(run):
    async def main():
        async with raw_pair() as (raw, comm):
            writing = asyncio.create_task(comm.write(bytes(8 * MIB)))
            await settle()
            await raw.send(PING)
            assert len(await raw.read_message()) == 8 * MIB
            await raw.send(PING)
            assert await raw.read_exactly(len(PONG)) == PONG
            await writing

    run(main())


def test_who_pings_and_does_not_read_takes_no_memory(run):
    async def main():
        async with raw_pair() as (raw, comm):
            writing = asyncio.create_task(fill(comm))
            await until(lambda: comm.stats()["messages_sent"] > 1)
            before = comm.stats()["bytes_received"]
            for _ in range(200):
                await raw.send(PING * 1_000)
            expected = before + 200_000 * len(PING)
            await until(lambda: comm.stats()["bytes_received"] == expected)
            # the pongs would have been 5 MB
            assert comm.channel.out.unsent < dc.Limits().high_water + 2 * MIB
            comm.abort()
            with pytest.raises(dc.CommClosedError):
                await writing

    run(main())


def test_an_idle_peer_of_ours_is_pinged_and_a_plain_dask_peer_never(run):
    async def main():
        async with (
            raw_pair(options=WATCHFUL) as (ours, _),
            raw_pair(DASK_HELLO, options=WATCHFUL) as (
                dasks,
                comm,
            ),
        ):
            start = clock()
            for _ in range(3):
                assert await ours.read_exactly(len(PING)) == PING
            assert 2.5 * KEEPALIVE < clock() - start < 30 * KEEPALIVE
            await comm.write("nothing but this")
            assert await dasks.read_message() == "nothing but this"

    run(main())


def test_idle_comms_of_ours_stay_open_and_see_no_pings(run):
    async def main():
        async with pair(options=WATCHFUL) as (client, server):
            bytes_before = server.stats()["bytes_received"]
            await until(lambda: server.stats()["bytes_received"] > bytes_before)
            await asyncio.sleep(5 * KEEPALIVE)
            assert server.stats()["messages_received"] == 0
            await client.write("still here")
            assert await server.read() == "still here"

    run(main())


# A peer that is gone


@linux
def test_an_idle_peer_of_ours_that_is_gone_is_noticed(run):
    async def main():
        async with raw_pair(options=WATCHFUL) as (raw, comm):
            vanish(raw.sock)
            start = clock()
            with pytest.raises(dc.CommClosedError, match=r"nothing was acknowledged for 0\.2 s"):
                await comm.read()
            assert 1.8 * KEEPALIVE < clock() - start < 30 * KEEPALIVE

    run(main())


@linux
@each_peer
@pytest.mark.parametrize("size", [10, 8 * MIB])
def test_a_peer_that_is_gone_is_noticed_while_something_is_sent_to_it(run, hello, size):
    async def main():
        async with raw_pair(hello, options=WATCHFUL) as (raw, comm):
            await raw.send(pack("before"))
            await asyncio.sleep(2 * KEEPALIVE)  # that nothing was sent for long is no sign
            vanish(raw.sock)
            start = clock()
            writing = asyncio.create_task(comm.write(bytes(size)))
            assert await comm.read() == "before"
            with pytest.raises(dc.CommClosedError, match=r"nothing was acknowledged") as caught:
                await comm.read()
            assert 0.9 * KEEPALIVE < clock() - start < 20 * KEEPALIVE  # the kernel counts jiffies
            assert not caught.value.clean
            if size > MIB:
                with pytest.raises(dc.CommClosedError, match=r"nothing was acknowledged"):
                    await writing
            await asyncio.wait([writing])

    run(main())


@linux
def test_a_peer_that_had_closed_its_window_and_is_gone_is_noticed(run):
    """For the probes of the window are not acknowledged either, three in a row."""

    async def main():
        async with raw_pair(DASK_HELLO, options=WATCHFUL, SO_RCVBUF=4096) as (raw, comm):
            writing = asyncio.create_task(fill(comm))
            await asyncio.sleep(KEEPALIVE)
            assert not writing.done()
            vanish(raw.sock)
            with pytest.raises(dc.CommClosedError, match="nothing was acknowledged"):
                await writing

    run(main())


# A peer that is alive


@each_peer
def test_a_trusted_peer_that_does_not_read_is_never_cut(run, hello):
    async def main():
        options = {"trusted": True, "options": IMPATIENT, "SO_RCVBUF": 4096}
        async with raw_pair(hello, **options) as (raw, comm):
            writing = asyncio.create_task(fill(comm))
            await asyncio.sleep(5 * KEEPALIVE)
            assert not writing.done()
            assert not comm.closed()
            for number in range(20):
                while (frames := await raw.read_frames()) == [PING[24:]]:
                    pass  # one that waited behind the messages before it
                assert msgpack.unpackb(frames[0])[0] == number
            await writing

    run(main())


def test_trusted_comms_whose_owners_do_not_read_are_never_cut(run):
    async def main():
        async with pair(trusted=(True, True), options=IMPATIENT) as (client, server):
            writing = asyncio.gather(fill(client), fill(server))
            await asyncio.sleep(5 * KEEPALIVE)
            assert not writing.done()
            for comm in (client, server):
                assert [(await comm.read())[0] for _ in range(20)] == list(range(20))
            await writing

    run(main())


STOPPED = """
import asyncio, sys, distributed_comm as dc

async def main():
    async with await dc.connect(sys.argv[1]) as comm:
        await comm.write(await comm.read())

dc.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="stops a process")
def test_a_peer_whose_process_is_stopped_is_not_cut_and_goes_on(run):
    async def main():
        served = asyncio.get_running_loop().create_future()
        async with dc.listen(LOOPBACK, served.set_result, options=WATCHFUL) as listener:
            command = [sys.executable, "-c", STOPPED, listener.contact_address]
            with subprocess.Popen(command) as process:  # noqa: ASYNC220
                try:
                    async with await served as comm:
                        process.send_signal(signal.SIGSTOP)
                        await comm.write("there")
                        await asyncio.sleep(5 * KEEPALIVE)
                        assert not comm.closed()
                        process.send_signal(signal.SIGCONT)
                        assert await comm.read() == "there"
                finally:
                    process.kill()

    run(main())


def test_nobody_is_cut_because_our_own_loop_was_blocked(run):
    async def main():
        async with pair(options=WATCHFUL) as (client, server):
            for number in range(2):
                await client.write(number)
                time.sleep(2 * KEEPALIVE)  # noqa: ASYNC251
                assert await server.read() == number

    run(main())


# The end of a peer whose messages nobody reads


async def write_on(comm: dc.Comm) -> None:
    while True:
        await comm.write("x")
        await asyncio.sleep(0.01)


def unacknowledged(sock):
    """Return how many bytes have been sent that are not at the other end."""
    fcntl, termios = import_module("fcntl"), import_module("termios")  # not on Windows
    (size,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
    return size


@linux
@pytest.mark.parametrize("how", ["closed", "reset"])
@pytest.mark.parametrize("options", [None, WATCHFUL], ids=["at once", "a beat later"])
def test_the_end_is_known_though_reading_has_paused(run, how, options):
    async def main():
        async with raw_pair(options=options) as (raw, comm):
            size = 400_000
            message = pack(bytes(size))
            for _ in range(4):
                await raw.send(message)
            await until(lambda: comm.stats()["messages_received"] == 3)
            await until(lambda: not unacknowledged(raw.sock))  # a reset would discard them
            assert not comm.closed()
            if how == "reset":
                raw.reset()
            else:
                raw.close()
            async with asyncio.timeout(1):
                await until(comm.closed)
            if options:
                with pytest.raises(dc.CommClosedError):  # for a writer, too
                    await write_on(comm)
            for _ in range(4):
                assert await comm.read() == bytes(size)
            with pytest.raises(dc.CommClosedError, match=r"lost|sending failed"):
                await comm.read()

    run(main())


@linux
def test_who_closes_behind_messages_that_nobody_reads_has_closed_for_writers_too(run):
    async def main():
        async with pair(options=WATCHFUL) as (client, server):
            for number in range(4):
                await client.write((number, bytes(300_000)))
            await until(lambda: server.stats()["messages_received"] == 4)
            assert not server.closed()
            await client.close()
            assert server.closed()
            await asyncio.sleep(KEEPALIVE)
            with pytest.raises(dc.CommClosedError, match="closed by the peer"):
                await server.write(1)
            assert [message[0] async for message in server] == [0, 1, 2, 3]

    run(main())
