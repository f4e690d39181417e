"""Who keeps others waiting is cut in time, and nobody because our own loop was blocked."""

import asyncio
import logging
import re
import socket
import struct
import time
from contextlib import AsyncExitStack

import pytest
from loops import needs_proc, until
from peers import (
    DASK_HELLO,
    LOOPBACK,
    OUR_HELLO,
    check_echo,
    dial_raw,
    echo,
    pack,
    pair,
    raw_pair,
)

import distributed_comm as dc
from distributed_comm._loops.deadlines import Deadline, timeout_at

MIB = 1024 * 1024
#: A peer may stop inside a message for so many seconds.
GAP = 0.2
HASTY = dc.CommOptions(timeouts=dc.Timeouts(gap=GAP), limits=dc.Limits(message=1024 * MIB))
WHOLE = pack("x" * 1_000)


def clock() -> float:
    return asyncio.get_running_loop().time()


# A gap inside a message


@pytest.mark.parametrize(
    ("hello", "size"),
    [(DASK_HELLO, 1), *((OUR_HELLO, size) for size in (1, 16, 25, len(WHOLE) - 1))],
)
def test_a_peer_that_stops_inside_a_message_is_cut(run, hello, size):
    async def main():
        async with raw_pair(hello, options=HASTY) as (raw, comm):
            await raw.send(pack("before") + WHOLE[:size])
            start = clock()
            assert await comm.read() == "before"
            with pytest.raises(dc.CommClosedError) as caught:
                await comm.read()
            assert 0.9 * GAP < clock() - start < 10 * GAP
            ends = re.escape(f"{comm.local_address} -> {comm.peer_address}")
            text = r"the peer stopped inside a message: nothing came for 0\.2 s \(Timeouts\.gap\): "
            assert re.fullmatch(text + ends, str(caught.value))
            assert not caught.value.clean
            assert await raw.is_cut()

    run(main())


def test_messages_that_arrived_before_it_stay(run):
    async def main():
        async with raw_pair(options=HASTY) as (raw, comm):
            await raw.send(pack(1) + pack(2) + WHOLE[:-1])
            assert await raw.is_cut()
            assert [await comm.read(), await comm.read()] == [1, 2]
            with pytest.raises(dc.CommClosedError, match="stopped inside"):
                await comm.read()

    run(main())


def resident() -> int:
    """Return the bytes of memory that this process occupies."""
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) * 1024


@needs_proc
def test_the_memory_of_a_frame_of_1_gib_that_stopped_is_given_back(run):
    announced, arrived = 1024 * MIB, 200 * MIB

    async def main():
        async with raw_pair(options=HASTY) as (raw, comm):
            start = resident()
            await raw.send(struct.pack("<3Q", 16 + announced, 1, announced))
            for _ in range(arrived // MIB):
                await raw.send(bytes(MIB))
            await until(lambda: comm.stats()["bytes_received"] > arrived)
            assert resident() - start > 0.5 * arrived
            with pytest.raises(dc.CommClosedError, match="stopped inside a message"):
                await comm.read()
            assert resident() - start < 80 * MIB  # of which 64 wait for the next large frame

    run(main())


def test_of_many_connections_those_are_cut_whose_peers_stopped(run):
    """More than one turn of the loop looks at."""

    async def main():
        served, count = [], 250
        async with (
            dc.listen(LOOPBACK, served.append, options=HASTY) as listener,
            AsyncExitStack() as held,
        ):
            peers = [await held.enter_async_context(dial_raw(listener)) for _ in range(count)]
            for number, raw in enumerate(peers):
                await raw.send(OUR_HELLO + pack(number) + WHOLE[: number % 2 * 50])
            await until(lambda: len(served) == count)
            await until(lambda: sum(comm.closed() for comm in served) == count // 2)
            await asyncio.sleep(2 * GAP)
            for comm in served:
                number = await comm.read()
                assert comm.closed() == bool(number % 2)
                comm.abort()

    run(main())


def test_a_peer_that_is_slow_is_not_cut(run):
    async def main():
        async with raw_pair(options=HASTY) as (raw, comm):
            message = pack("slow")
            for place in range(len(message)):
                await raw.send(message[place : place + 1])
                await asyncio.sleep(GAP / 5)
            assert await comm.read() == "slow"

    run(main())


def test_silence_between_messages_is_no_gap(run):
    async def main():
        async with pair(options=HASTY) as (client, server):
            await client.write("before")
            assert await server.read() == "before"
            await asyncio.sleep(3 * GAP)
            await client.write("behind")
            assert await server.read() == "behind"

    run(main())


def test_a_reader_that_pauses_inside_a_message_cuts_nobody(run):
    async def main():
        async with pair(options=HASTY) as (client, server):
            writing = asyncio.gather(*(client.write(bytes(9_999)) for _ in range(1_500)))
            await asyncio.sleep(4 * GAP)
            assert not writing.done()
            assert [len(await server.read()) for _ in range(1_500)] == [9_999] * 1_500
            await writing

    run(main())


# A crowd that wastes our time


def test_a_crowd_of_silent_and_slow_diallers_is_cut_in_time_and_disturbs_nobody(run, caplog):
    patience = 1.0
    options = dc.CommOptions(timeouts=dc.Timeouts(handshake=patience))

    async def trickle(raw):
        try:
            for byte in OUR_HELLO:
                await raw.send(bytes([byte]))
                await asyncio.sleep(patience / 4)
        except OSError:
            return

    async def main():
        async with dc.listen(LOOPBACK, echo, options=options) as listener, AsyncExitStack() as held:
            start = clock()
            crowd = [await held.enter_async_context(dial_raw(listener)) for _ in range(100)]
            trickling = [asyncio.create_task(trickle(raw)) for raw in crowd[::2]]
            before = clock()
            await check_echo(listener.contact_address)
            assert clock() - before < 1
            async with asyncio.timeout(10 * patience):
                assert all(await asyncio.gather(*(raw.is_cut() for raw in crowd)))
            assert clock() - start > 0.9 * patience
            await asyncio.gather(*trickling)
            await check_echo(listener.contact_address)

    caplog.set_level(logging.INFO, "distributed_comm")
    run(main())
    texts = [record.getMessage() for record in caplog.records]
    cut = [text for text in texts if "no hello came in time" in text]
    left_out = [int(text.split()[1]) for text in texts if "were left out" in text]
    assert 1 <= len(cut) < 100  # strangers cause few lines
    assert len(cut) + sum(left_out) == 100
    assert len(cut) + len(left_out) == len(texts)


# A loop that was blocked past a deadline


@pytest.mark.parametrize("where", ["a task", "a timer", "a reader"])
def test_a_deadline_looks_at_the_sockets_once_more(run, where):
    def block():
        time.sleep(0.1)
        far.send(b"x")

    async def main():
        loop, seen = asyncio.get_running_loop(), []
        near.setblocking(False)
        other.setblocking(False)
        loop.add_reader(near, lambda: seen.append(near.recv(1)))
        loop.add_reader(other, lambda: other.recv(1) and block())
        Deadline(loop, 0.05, lambda: seen.append("deadline"))
        if where == "a task":
            block()
        elif where == "a timer":
            loop.call_later(0.01, block)
        else:
            another.send(b"x")
        await until(lambda: "deadline" in seen)
        loop.remove_reader(near)
        loop.remove_reader(other)
        assert seen == [b"x", "deadline"]

    near, far = socket.socketpair()
    other, another = socket.socketpair()
    with near, far, other, another:
        run(main())


def test_a_deadline_is_late_by_no_more_than_a_few_turns(run):
    async def main():
        turns, due = 0, asyncio.Event()
        Deadline(asyncio.get_running_loop(), 0, due.set)
        while not due.is_set():
            turns += 1
            await asyncio.sleep(0)
        assert turns < 10

    run(main())


def test_a_deadline_can_be_put_off_and_cancelled(run):
    async def main():
        loop, called = asyncio.get_running_loop(), []
        first = Deadline(loop, 0.01, lambda: called.append(1))
        second = Deadline(loop, 0.01, lambda: called.append(2))
        first.cancel()
        await until(lambda: called)
        second.restart(0.01)
        await until(lambda: len(called) == 2)
        assert called == [2, 2]

    run(main())


def test_a_timeout_looks_at_the_sockets_once_more(run):
    async def main():
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            loop = asyncio.get_running_loop()
            with timeout_at(loop.time() + 0.05):
                receiving = asyncio.create_task(loop.sock_recv(near, 1))
                await asyncio.sleep(0)
                far.send(b"x")
                time.sleep(0.1)  # noqa: ASYNC251
                assert await receiving == b"x"
            with pytest.raises(TimeoutError), timeout_at(loop.time() + 0.01):
                await asyncio.Event().wait()
            with timeout_at(loop.time() + 0.01):
                pass
            await asyncio.sleep(0.03)

    run(main())


def test_a_hello_that_came_while_the_loop_was_blocked_is_a_hello(run):
    """To who dials; the listener's side is among the strangers."""

    async def main():
        with socket.create_server(("127.0.0.1", 0)) as server:
            host, port = server.getsockname()
            connecting = asyncio.create_task(dc.connect(f"tcp://{host}:{port}", timeout=2.5))
            server.setblocking(False)
            accepted, _ = await asyncio.get_running_loop().sock_accept(server)
            with accepted:
                await asyncio.sleep(0.02)
                accepted.send(OUR_HELLO)
                time.sleep(0.7)  # noqa: ASYNC251 - one attempt has 0.5
                comm = await connecting
                comm.abort()
                server.setblocking(False)
                with pytest.raises(BlockingIOError):
                    server.accept()  # there was one attempt

    run(main())


def test_the_rest_of_a_message_that_came_while_the_loop_was_blocked_is_read(run):
    async def main():
        async with raw_pair(options=HASTY) as (raw, comm):
            await raw.send(WHOLE[:-1])
            await asyncio.sleep(0.75 * GAP)
            raw.sock.send(WHOLE[-1:])
            time.sleep(2 * GAP)  # noqa: ASYNC251
            assert await comm.read() == "x" * 1_000

    run(main())
