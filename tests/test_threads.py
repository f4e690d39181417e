"""Messages that are encoded and decoded in a thread: whole, in order, and nobody waits in vain."""

import asyncio
import contextvars
import gc
import threading
from contextlib import asynccontextmanager
from functools import partial

import numpy as np
import pytest
from loops import settle, until
from peers import pair

import distributed_comm as dc
from distributed_comm import _comm, _push
from distributed_comm._loops import threads

MIB = 1024**2
LONG = bytes(11 * MIB)  # past what the loop pickles itself

mark = contextvars.ContextVar("mark", default="nothing")


class Gate:
    """A place where a thread of the library waits for the test."""

    def __init__(self):
        self.reached = threading.Event()
        self.open = threading.Event()
        self.threads = set()
        self.marks = []

    def passed(self):
        if threading.current_thread() is threading.main_thread():
            return  # the loop tries first, and leaves it to a thread
        self.threads.add(threading.get_ident())
        self.marks.append(mark.get())
        self.reached.set()
        assert self.open.wait(20)


gates = {}  # by name, for what is unpickled has no other way to find one


@pytest.fixture(autouse=True)
def gate():
    """Two gates: one where a message is pickled, one where it is unpickled."""
    gates.update(out=Gate(), into=Gate())
    yield gates
    for each in gates.values():
        each.open.set()
    gates.clear()


class Slow:
    """An object that waits at the gates; it is long, so both happen in a thread."""

    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        gates["out"].passed()
        return arrive, (self.number, LONG)


def arrive(number, load):
    gates["into"].passed()
    return (number, len(load))


class Bad(Slow):
    def __reduce__(self):
        gates["out"].passed()
        if threading.current_thread() is threading.main_thread():
            return arrive, (self.number, LONG)
        raise RuntimeError("cannot be pickled after all")


def fail(_load):
    raise RuntimeError("cannot be opened after all")


class BadThere:
    def __reduce__(self):
        return fail, (LONG,)


@asynccontextmanager
async def trusting():
    async with pair(trusted=(True, True)) as both:
        yield both


def opened(*names):
    for name in names:
        gates[name].open.set()


async def reached(name):
    await until(gates[name].reached.is_set)


# -- writing ----------------------------------------------------------------------------


def test_order_is_kept_among_long_writes_and_short_ones_behind_them(run):
    async def main():
        opened("out", "into")
        async with trusting() as (client, server):
            messages = [Slow(0), "a", Slow(1), Slow(2), "b", {"c": 1}, Slow(3), "d"]
            writing = [asyncio.create_task(client.write(message)) for message in messages]
            arrived = [await server.read() for _ in messages]
            await asyncio.gather(*writing)
            short = [m for m in arrived if not isinstance(m, tuple)]
            assert short == ["a", "b", {"c": 1}, "d"]
            assert [arrived.index((n, len(LONG))) for n in range(4)] == [0, 2, 3, 6]
            await client.write("after")  # on the short way again
            assert await server.read() == "after"

    run(main())


def test_the_loop_runs_while_a_thread_encodes_and_decodes(run):
    async def main():
        async with trusting() as (client, server):
            writing = asyncio.create_task(client.write(Slow(1)))
            await reached("out")
            await server.write("meanwhile")
            assert await client.read() == "meanwhile"
            opened("out")
            reading = asyncio.create_task(server.read())
            await reached("into")
            await server.write("again")
            assert await client.read() == "again"
            opened("into")
            assert await reading == (1, len(LONG))
            await writing
            assert threading.get_ident() not in gates["out"].threads | gates["into"].threads

    run(main())


def test_a_write_that_is_cancelled_in_a_thread_goes_out_whole(run):
    async def main():
        async with trusting() as (client, server):
            writing = asyncio.create_task(client.write(Slow(1)))
            await reached("out")
            for _ in range(3):  # however often
                writing.cancel()
                await settle()
                assert not writing.done()
            opened("out", "into")
            with pytest.raises(asyncio.CancelledError):
                await writing
            assert await server.read() == (1, len(LONG))
            await client.write("after")
            assert await server.read() == "after"

    run(main())


def test_a_write_that_is_cancelled_before_a_thread_has_begun_is_not_sent(run, monkeypatch):
    pool = threads.Pool("test", 1)
    monkeypatch.setattr(_comm, "TRUSTED", pool)

    async def main():
        opened("out", "into")
        busy = threading.Event()
        async with trusting() as (client, server):
            pool.submit(partial(busy.wait, 20))
            writing = asyncio.create_task(client.write(Slow(1)))
            behind = asyncio.create_task(client.write("behind"))
            await settle()
            assert not writing.done()
            writing.cancel()
            await settle()
            assert writing.cancelled()
            busy.set()
            await behind
            assert await server.read() == "behind"
            assert not gates["out"].reached.is_set()

    run(main())


def test_memory_is_not_used_after_a_cancelled_write(run):
    async def main():
        async with trusting() as (client, server):
            load = np.ones(32 * MIB, "u1")
            message = [Slow(1), load]
            writing = asyncio.create_task(client.write(message))
            await reached("out")
            writing.cancel()
            opened("out", "into")
            with pytest.raises(asyncio.CancelledError):
                await writing
            load[:] = 2
            _, arrived = await server.read()
            assert arrived.min() == arrived.max() == 1

    run(main())


def test_a_write_that_is_cancelled_in_its_turn_is_not_sent(run):
    async def main():
        async with trusting() as (client, server):
            first = asyncio.create_task(client.write(Slow(1)))
            await reached("out")
            second = asyncio.create_task(client.write("second"))
            third = asyncio.create_task(client.write("third"))
            await settle()
            second.cancel()
            await settle()
            assert second.cancelled()
            opened("out", "into")
            assert await server.read() == (1, len(LONG))
            assert await server.read() == "third"
            await asyncio.gather(first, third)

    run(main())


def test_a_timeout_around_a_write_is_a_timeout(run):
    async def write(comm):
        async with asyncio.timeout(0.01):
            asyncio.get_running_loop().call_later(0.1, opened, "out", "into")
            await comm.write(Slow(1))

    async def main():
        async with trusting() as (client, server):
            with pytest.raises(TimeoutError):
                await write(client)
            assert asyncio.current_task().cancelling() == 0
            assert await server.read() == (1, len(LONG))

    run(main())


@pytest.mark.parametrize("cancel", [False, True])
def test_an_error_in_the_thread_leaves_the_comm_usable(run, cancel):
    async def main():
        async with trusting() as (client, server):
            writing = asyncio.create_task(client.write(Bad(1)))
            await reached("out")
            if cancel:
                writing.cancel()
                await settle()
            opened("out", "into")
            with pytest.raises(TypeError, match="cannot be pickled after all"):
                await writing
            await client.write(Slow(2))
            await client.write("after")
            assert [await server.read() for _ in range(2)] == [(2, len(LONG)), "after"]

    run(main())


# -- reading ----------------------------------------------------------------------------


def test_a_read_that_is_cancelled_in_a_thread_loses_nothing(run):
    async def main():
        opened("out")
        async with trusting() as (client, server):
            await asyncio.gather(client.write(Slow(1)), client.write("behind"))
            for _ in range(3):
                reading = asyncio.create_task(server.read())
                await reached("into")
                await settle()
                reading.cancel()
                await settle()
                assert reading.cancelled()
            opened("into")
            assert await server.read() == (1, len(LONG))
            assert await server.read() == "behind"
            assert len(gates["into"].marks) == 1  # it was opened once

    run(main())


@pytest.mark.parametrize("turns", range(5))
def test_a_read_that_is_cancelled_as_its_message_comes_loses_nothing(run, monkeypatch, turns):
    pool = threads.Pool("test", 1)
    monkeypatch.setattr(_push, "TRUSTED", pool)

    async def main():
        opened("out")
        async with trusting() as (client, server):
            writing = asyncio.create_task(client.write(Slow(1)))
            reading = asyncio.create_task(server.read())
            await reached("into")
            await writing
            opened("into")
            behind = threading.Event()
            pool.submit(behind.set)  # so the message is on its way to the loop
            assert behind.wait(20)
            await settle(turns)
            reading.cancel()
            await asyncio.wait([reading])
            message = await server.read() if reading.cancelled() else reading.result()
            assert message == (1, len(LONG))

    run(main())


def test_a_second_reader_is_refused_while_a_thread_decodes(run):
    async def main():
        opened("out")
        async with trusting() as (client, server):
            writing = asyncio.create_task(client.write(Slow(1)))
            reading = asyncio.create_task(server.read())
            await reached("into")
            with pytest.raises(dc.LocalProtocolError, match="another task is reading"):
                await server.read()
            opened("into")
            assert await reading == (1, len(LONG))
            await writing

    run(main())


def test_a_message_that_cannot_be_opened_is_one_error_and_the_next_can_be_read(run):
    async def main():
        opened("out", "into")
        async with trusting() as (client, server):
            writing = asyncio.create_task(client.write(BadThere()))
            with pytest.raises(dc.MessageError, match="cannot be opened after all"):
                await server.read()
            await writing
            await client.write("after")
            assert await server.read() == "after"

    run(main())


# -- both -------------------------------------------------------------------------------


def test_the_context_of_the_caller_is_seen_in_both_threads(run):
    async def write(comm):
        mark.set("the writer's")
        await comm.write(Slow(1))

    async def read(comm):
        mark.set("the reader's")
        return await comm.read()

    async def main():
        opened("out", "into")
        async with trusting() as (client, server):
            await asyncio.gather(write(client), read(server))
            assert set(gates["out"].marks) == {"the writer's"}
            assert gates["into"].marks == ["the reader's"]
            assert mark.get() == "nothing"

    run(main())


@pytest.mark.parametrize("how", ["close", "abort"])
def test_an_end_while_a_thread_encodes_fails_the_writes(run, how):
    async def main():
        async with trusting() as (client, server):
            writing = asyncio.create_task(client.write(Slow(1)))
            await reached("out")
            behind = asyncio.create_task(client.write("behind"))
            await settle()
            if how == "close":
                await client.close()
            else:
                client.abort()
            opened("out", "into")
            for task in (writing, behind):
                with pytest.raises(dc.CommClosedError, match="by this side"):
                    await task
            with pytest.raises(dc.CommClosedError):
                await server.read()

    run(main())


@pytest.mark.parametrize("how", ["close", "abort"])
@pytest.mark.parametrize("cancel", [False, True])
def test_what_a_thread_decodes_is_still_read_after_the_end(run, how, cancel):
    async def main():
        opened("out")
        async with trusting() as (client, server):
            writing = asyncio.create_task(client.write(Slow(1)))
            reading = asyncio.create_task(server.read())
            await reached("into")
            await writing
            if cancel:
                reading.cancel()
                await settle()
            if how == "close":
                await server.close()
            else:
                server.abort()
            opened("into")
            if not cancel:
                assert await reading == (1, len(LONG))
            else:
                assert await server.read() == (1, len(LONG))
            with pytest.raises(dc.CommClosedError):
                await server.read()

    run(main())


def test_a_comm_may_be_forgotten_while_a_thread_decodes_something_bad(run):
    """Nobody asks for the error, and nobody complains that nobody did."""

    async def main():
        opened("out")
        async with trusting() as (client, server):
            writing = asyncio.create_task(client.write(BadThere()))
            reading = asyncio.create_task(server.read())
            await writing
            await settle(50)
            reading.cancel()
            await asyncio.wait([reading])
            server.abort()
            del server, reading
            gc.collect()

    run(main())
