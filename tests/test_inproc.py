"""inproc://: what every comm promises, between tasks of a loop and between threads."""

import asyncio
import gc
import logging
import os
import random
import re
import threading
import weakref
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

import pytest
from loops import is_eager, settle, until

import distributed_comm as dc
from distributed_comm._transports import inproc
from distributed_comm._transports.inproc_ends import HIGH_WATER, LOW_WATER


class Here:
    """Runs the server's side in the test's own loop."""

    def __call__(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        return asyncio.ensure_future(work)

    def stop(self) -> None:
        pass


class Elsewhere:
    """Runs the server's side in another thread, on a loop of its own."""

    def __init__(self) -> None:
        self.loop = type(asyncio.get_running_loop())()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.close()

    def __call__(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Future[Any]":
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self.loop)
        return asyncio.wrap_future(future)

    def stop(self) -> None:
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(10)


@pytest.fixture(params=[Here, Elsewhere])
def place(request):
    return request.param


@asynccontextmanager
async def pair(place=Here, **kwargs) -> AsyncIterator[tuple[dc.Comm, dc.Comm, Any]]:
    """Yield a client, its server, and what runs the server's side; all of it ends with it."""
    there = place()
    served: Future[dc.Comm] = Future()

    async def listen():
        return await dc.listen("inproc://", served.set_result)

    try:
        listener = await there(listen())
        client = await dc.connect(listener.contact_address, **kwargs)
        server = await asyncio.wrap_future(served)
        listener.stop()
        try:
            yield client, server, there
        finally:
            client.abort()
            server.abort()
    finally:
        there.stop()


def names_both(comm: dc.Comm) -> str:
    return re.escape(f"{comm.local_address} -> {comm.peer_address}")


async def echo(comm):
    async for message in comm:
        await comm.write(message)
    await comm.close()


async def write_all(comm, messages):
    for message in messages:
        await comm.write(message)


async def read_all(comm):
    return [message async for message in comm]


# The end


def test_what_had_come_can_be_read_by_an_end_that_dismissed_its_peer(run, place):
    async def main():
        async with pair(place) as (client, server, there):
            for _ in range(3):
                await there(server.write("before"))
            await until(lambda: client.unread() == 3)
            client.dismiss("enough of it")
            assert [await client.read() for _ in range(3)] == ["before"] * 3
            with pytest.raises(dc.CommClosedError, match="enough of it"):
                await client.read()
            with pytest.raises(dc.CommClosedError, match="enough of it"):
                await there(server.read())

    run(main())


# Messages


def test_messages_are_the_very_objects(run, place):
    async def main():
        async with pair(place) as (client, server, there):
            for message in (object(), threading.Lock(), [1, {2: [3]}], lambda: None, None):
                assert await client.write(message) == 0
                assert await there(server.read()) is message
                await there(server.write(message, serializers=["x"], on_error="message"))
                assert await client.read(deserializers=["x"]) is message

    run(main())


def test_a_message_is_not_changed(run):
    async def main():
        async with pair() as (client, server, _):
            message = {"op": "x", "reply": True, "nested": [bytearray(b"y")]}
            await client.write(message)
            await server.read()
            assert message == {"op": "x", "reply": True, "nested": [bytearray(b"y")]}

    run(main())


def test_messages_arrive_in_order_both_ways(run, place):
    total = range(5_000)

    async def main():
        async with pair(place) as (client, server, there):
            echoing = there(echo(server))
            writing = asyncio.create_task(write_all(client, total))
            assert [await client.read() for _ in total] == list(total)
            await writing
            await client.close()
            await echoing

    run(main())


def test_round_trips_between_threads(run):
    """Every message finds the other side about to wait: no wake-up may be lost."""

    async def main():
        async with pair(Elsewhere) as (client, server, there):
            echoing = there(echo(server))
            for number in range(3_000):
                await client.write(number)
                assert await client.read() == number
            await client.close()
            await echoing

    run(main())


# Reading


def test_a_second_reader_is_refused_and_the_first_is_unharmed(run, place):
    async def main():
        async with pair(place) as (client, server, there):

            async def read_twice():
                first = asyncio.ensure_future(server.read())
                await settle()
                with pytest.raises(dc.LocalProtocolError, match="another task is reading from in"):
                    await server.read()
                return first

            first = await there(read_twice())
            await client.write("for the first")

            async def rest():
                return await first

            assert await there(rest()) == "for the first"

    run(main())


def test_a_second_reader_is_refused_while_the_first_gives_way(run):
    async def main():
        async with pair(Elsewhere) as (client, server, there):
            await there(write_all(server, range(10)))
            client._end.credit = 0
            first, second = (asyncio.create_task(client.read()) for _ in range(2))
            await asyncio.wait([second])
            assert isinstance(second.exception(), dc.LocalProtocolError)
            assert await first == 0

    run(main())


def test_a_cancelled_read_loses_nothing(run, place):
    chance = random.Random(1)
    total = 2_000

    async def write_slowly(comm):
        for number in range(total):
            await comm.write(number)
            if number % 3 == 0:
                await settle(chance.randrange(4))

    async def main():
        async with pair(place) as (client, server, there):
            writing = there(write_slowly(server))
            arrived, cancelled = [], 0
            while len(arrived) < total:
                reading = asyncio.create_task(client.read())
                await settle(chance.randrange(4))
                reading.cancel()
                try:
                    arrived.append(await reading)
                except asyncio.CancelledError:
                    cancelled += 1
            await writing
            assert arrived == list(range(total))
            assert cancelled > 20 or is_eager()

    run(main())


def test_a_read_cancelled_right_after_its_message_came_loses_nothing(run):
    async def main():
        async with pair() as (client, server, _):
            reading = asyncio.create_task(server.read())
            await settle()
            client._box.talks = False  # else the reader runs, and is done, within the write
            await client.write("kept")
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert await server.read() == "kept"

    run(main())


# Writing


def test_write_waits_while_too_much_is_unread(run, place):
    async def main():
        async with pair(place) as (client, server, there):
            messages = range(3 * HIGH_WATER)
            # in both directions at once: neither side reads
            writing = asyncio.create_task(write_all(client, messages))
            answering = there(write_all(server, messages))
            await until(lambda: client.stats()["messages_sent"] > HIGH_WATER)
            await until(lambda: server.stats()["messages_sent"] > HIGH_WATER)
            await settle(50)
            assert client.stats()["messages_sent"] == HIGH_WATER + 1
            assert server.stats()["messages_sent"] == HIGH_WATER + 1

            async def read_some(comm, count):
                return [await comm.read() for _ in range(count)]

            taken = HIGH_WATER - LOW_WATER
            assert await read_some(client, taken) == list(messages[:taken])
            assert not answering.done()
            await there(read_some(server, len(messages)))
            await writing
            assert await read_some(client, len(messages) - taken) == list(messages[taken:])
            await answering

    run(main())


def test_a_cancelled_write_was_handed_over_once(run, place):
    async def main():
        async with pair(place) as (client, server, there):
            await write_all(client, range(HIGH_WATER))
            for number in range(3):
                writing = asyncio.create_task(client.write(HIGH_WATER + number))
                await settle()
                assert not writing.done()
                writing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await writing
            await client.close()
            assert await there(read_all(server)) == list(range(HIGH_WATER + 3))

    run(main())


@pytest.mark.parametrize("ending", ["close", "abort", "their close", "their abort"])
def test_a_write_that_waits_ends_with_the_connection(run, place, ending):
    async def main():
        async with pair(place) as (client, server, there):
            await write_all(client, range(HIGH_WATER))
            writing = asyncio.create_task(client.write("one more"))
            await settle()
            if ending.startswith("their"):
                await there(leave(server, ending.removeprefix("their ")))
            else:
                await leave(client, ending)
            with pytest.raises(dc.CommClosedError, match=names_both(client)):
                await writing

    run(main())


async def leave(comm, how):
    if how == "close":
        await comm.close()
    else:
        comm.abort()


async def count_turns(work):
    """Return how often another task ran while this was done."""
    turns = 0

    async def tick():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    await work
    ticking.cancel()
    return turns


def test_a_task_that_never_waits_gives_way_once_in_a_thousand_messages(run):
    async def write_and_read(client, server):
        for number in range(5_000):  # each side writes what it then reads: nobody waits
            await client.write(number)
            await server.read()

    async def main():
        async with pair() as (client, server, _):
            assert 4 <= await count_turns(write_and_read(client, server)) <= 14

    run(main())


def test_two_tasks_that_talk_give_way_now_and_then(run, kernels):
    async def ask(client):
        for number in range(1_000):
            await client.write(number)
            assert await client.read() == number

    async def main():
        async with pair() as (client, server, _):
            answering = asyncio.create_task(echo(server))
            assert 8 <= await count_turns(ask(client)) <= 30
            await client.close()
            await answering

    run(main())


# The end


def test_a_comm_that_was_forgotten_with_its_failed_reader_is_collected(run):
    async def fail(comm):
        await comm.read()
        raise ValueError("failed")

    async def main():
        async with pair() as (client, server, _):
            reading = asyncio.create_task(fail(server))
            await settle()
            await client.write("message")
            with pytest.raises(ValueError, match="failed"):
                await reading
            forgotten = weakref.ref(server)
            gc.collect()
            return client, forgotten

    client, forgotten = run(main())
    gc.collect()
    assert forgotten() is None
    assert client.closed()


def test_a_read_that_is_closed_while_it_waits_harms_no_other(run):
    async def main():
        async with pair() as (client, server, _):
            reading = server.read()
            reading.send(None)
            reading.close()
            waiting = asyncio.create_task(server.read())
            await settle()
            await client.write("message")
            assert await waiting == "message"

    run(main())


def test_what_was_written_before_the_close_is_read_and_then_it_is_over(run, place):
    async def main():
        async with pair(place) as (client, server, there):
            await write_all(client, range(100))
            await client.close()
            await client.close()  # once is enough, twice does no harm
            assert server.closed()
            assert await there(read_all(server)) == list(range(100))
            for call in (server.read, lambda: server.write("too late")):
                with pytest.raises(dc.CommClosedError, match="closed by the peer") as caught:
                    await there(call())
                assert re.search(names_both(server), str(caught.value))
                assert caught.value.clean

    run(main())


def test_after_an_abort_what_had_arrived_is_read_and_then_comes_an_error(run, place):
    async def main():
        async with pair(place) as (client, server, there):
            await write_all(client, range(3))
            client.abort()
            client.abort()
            await client.close()
            assert [await there(server.read()) for _ in range(3)] == [0, 1, 2]
            with pytest.raises(dc.CommClosedError, match="aborted by the peer") as caught:
                await there(read_all(server))
            assert not caught.value.clean
            with pytest.raises(dc.CommClosedError, match="aborted by this side"):
                await client.read()

    run(main())


def test_the_first_reason_stays(run, place):
    async def main():
        async with pair(place) as (client, server, there):
            client.abort()
            await there(server.close())
            with pytest.raises(dc.CommClosedError, match="aborted by the peer") as caught:
                await there(server.read())
            assert not caught.value.clean

    run(main())


def test_after_its_own_close_a_comm_reads_no_more(run, place):
    async def main():
        async with pair(place) as (client, server, there):
            await there(server.write("unread"))
            await client.close()
            with pytest.raises(dc.CommClosedError, match="closed by this side"):
                await client.read()
            with pytest.raises(dc.CommClosedError, match="closed by this side"):
                await client.write("too late")
            assert await read_all(client) == []

    run(main())


@pytest.mark.parametrize("ending", ["close", "abort"])
def test_a_reader_that_waits_learns_of_the_end(run, place, ending):
    async def main():
        async with pair(place) as (client, server, there):
            reading, own = there(server.read()), asyncio.create_task(client.read())
            await settle()
            await leave(client, ending)
            for task in (reading, own):
                with pytest.raises(dc.CommClosedError):
                    await task

    run(main())


def test_closing_races_with_the_last_message_and_loses_nothing(run):
    async def main():
        there = Elsewhere()
        try:
            listener = await there(started("inproc://", write_and_close))
            for _ in range(300):
                async with await dc.connect(listener.contact_address) as client:
                    assert await read_all(client) == [1, 2]
            listener.stop()
        finally:
            there.stop()

    async def write_and_close(comm):
        async with comm:
            await comm.write(1)
            await comm.write(2)

    run(main())


async def started(address, handle_comm, **kwargs):
    return await dc.listen(address, handle_comm, **kwargs)


def test_a_forgotten_comm_warns_and_closes_the_other_side(run):
    async def main():
        served = asyncio.get_running_loop().create_future()
        async with dc.listen("inproc://", served.set_result) as listener:
            client = await dc.connect(listener.contact_address)
        await served
        reading = asyncio.create_task(client.read())
        await settle()
        forgotten = [served]
        del served, listener
        with pytest.warns(ResourceWarning, match="unclosed <InProc inproc://"):
            forgotten.clear()
        with pytest.raises(dc.CommClosedError, match="aborted by the peer"):
            await reading
        await client.close()

    run(main())


def test_a_comm_whose_peer_has_left_may_be_forgotten(run):
    async def main():
        async with pair() as (client, _, _):
            await client.close()

    run(main())


def test_a_peer_whose_loop_was_closed_is_lost(run):
    async def main():
        async with pair(Elsewhere) as (client, server, there):
            writing = there(server.write("before"))
            await writing
            there(server.read())  # waits until its loop is no more
            await until(lambda: server._box.waiting)
            there.stop()
            assert client.closed()
            for _ in range(2):
                with pytest.raises(dc.CommClosedError, match="its loop closed") as caught:
                    await client.write("too late")
                assert not caught.value.clean
            assert await client.read() == "before"
            with pytest.raises(dc.CommClosedError, match="its loop closed"):
                await client.read()
            with pytest.raises(OSError, match=r"after 0\.1 s"):
                await dc.connect(client.peer_address, timeout=0.1)

    run(main())


# One thread, one process


def test_use_from_another_thread_is_refused(run):
    async def main():
        async with pair() as (client, _, _):
            for work in (client.read(), client.write(1), client.close()):
                with pytest.raises(dc.LocalProtocolError, match="runs in another thread"):
                    await asyncio.to_thread(asyncio.run, work)
            assert not client.closed()
            await asyncio.to_thread(client.abort)
            assert client.closed()

    run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_leaves_the_parent_alone(run):
    async def main():
        async with (
            pair() as (client, server, _),
            dc.listen("inproc://forked", lambda comm: comm.abort()),
        ):
            child = os.fork()
            if not child:
                os._exit(misuse_in_child(client))
            assert await asyncio.to_thread(os.waitpid, child, 0) == (child, 0)
            await client.write("unharmed")
            assert await server.read() == "unharmed"

    def misuse_in_child(client) -> int:
        for work in (client.read(), client.write(1), client.close()):
            try:
                work.send(None)
            except dc.LocalProtocolError as exc:
                if "forked from" not in str(exc):
                    return 1
            else:
                return 2
        client.abort()
        return 3 if inproc._listeners else 0

    run(main())


# Addresses, connect and listen


def test_addresses_are_unique_and_name_host_and_process(run):
    async def main():
        async with (
            dc.listen("inproc://", print) as one,
            dc.listen("inproc://", print) as two,
        ):
            assert one.listen_address == one.contact_address != two.listen_address
            assert re.fullmatch(rf"inproc://[\d.]+/{os.getpid()}/\d+", one.listen_address)
            host = one.listen_address.removeprefix("inproc://").partition("/")[0]
            assert dc.get_address_host(one.listen_address) == host
            assert dc.get_address_host("inproc://name") == host
            assert dc.resolve_address(one.listen_address) == one.listen_address
            near = dc.get_local_address_for(one.listen_address)
            assert near not in {one.listen_address, two.listen_address}
            with pytest.raises(ValueError, match="no host and port"):
                dc.get_address_host_port(one.listen_address)
            assert repr(one) == f"<InProcListener {one.listen_address}>"

    run(main())


def test_a_name_can_be_listened_on_once(run):
    async def main():
        other = dc.listen("inproc://name", print)
        async with dc.listen("inproc://name", lambda comm: comm.abort()) as listener:
            with pytest.raises(OSError, match="inproc://name is in use"):
                await other.start()
            with pytest.raises(dc.LocalProtocolError, match="started already"):
                await listener.start()
            (await dc.connect("inproc://name")).abort()
        other.stop()
        async with other:
            assert other.listen_address == "inproc://name"

    run(main())


def test_an_address_of_a_closed_loop_is_free_again(run):
    asyncio.run(started("inproc://left behind", print))

    async def main():
        async with dc.listen("inproc://left behind", lambda comm: comm.abort()):
            (await dc.connect("inproc://left behind")).abort()

    run(main())


def test_an_address_of_another_process_is_final(run):
    host = dc.get_address_host("inproc://name")

    async def main():
        with pytest.raises(dc.FatalCommClosedError, match=rf"process 7 of .*{os.getpid()}"):
            await dc.connect(f"inproc://{host}/7/1")
        with pytest.raises(dc.FatalCommClosedError, match=r"of 192\.0\.2\.77"):
            await dc.connect(f"inproc://192.0.2.77/{os.getpid()}/1")
        with pytest.raises(ValueError, match="expected a location"):
            await dc.connect("inproc://")

    run(main())


def test_an_unknown_address_is_tried_again(run):
    async def main():
        with pytest.raises(OSError, match=r"after 0\.05 s: nobody listens on inproc://later"):
            await dc.connect("inproc://later", timeout=0.05)
        connecting = asyncio.create_task(dc.connect("inproc://later"))
        await settle()
        async with dc.listen("inproc://later", lambda comm: comm.abort()):
            (await connecting).abort()

    run(main())


def test_a_listener_that_stopped_meanwhile_serves_nobody(run):
    async def main():
        served = []
        async with dc.listen("inproc://", served.append) as listener:
            connecting = asyncio.create_task(dc.connect(listener.contact_address, timeout=0.05))
            if not is_eager():
                await asyncio.sleep(0)  # it has asked, and was not answered yet
            listener.stop()
            with pytest.raises(OSError, match=r"after 0\.05 s"):
                await connecting
        assert not served

    run(main())


def test_a_listener_whose_thread_is_busy_is_waited_for(run):
    async def main():
        there = Elsewhere()
        try:
            listener = await there(started("inproc://", echo))
            busy = threading.Event()
            there.loop.call_soon_threadsafe(busy.wait, 10)
            with pytest.raises(OSError, match=r"after 0\.05 s"):
                await dc.connect(listener.contact_address, timeout=0.05)
            busy.set()
            async with await dc.connect(listener.contact_address) as client:
                await client.write("x")
                assert await client.read() == "x"
            listener.stop()
            await there(settle())
        finally:
            there.stop()

    run(main())


def test_everything_is_accepted_that_bytes_would_need(run):
    async def main():
        more = {"deserialize": False, "trusted": False, "options": dc.CommOptions()}
        unknown = {"connection_args": {"ssl_context": None}}
        async with dc.listen("inproc://", echo, contact_host="x", **more, **unknown) as listener:
            async with await dc.connect(listener.contact_address, **more, **unknown) as client:
                assert client.trusted
            await settle()

    run(main())


def test_what_a_comm_tells_of_itself(run):
    async def main():
        async with pair(name="to the scheduler") as (client, server, _):
            here, there = client.local_address, client.peer_address
            assert (server.peer_address, server.local_address) == (here, there)
            assert repr(client) == f"<InProc to the scheduler {here} -> {there} open>"
            assert client.same_host
            assert server.trusted
            assert client.extra_info == {}
            await client.write(1)
            await client.write(2)
            await server.read()
            none = {"bytes_sent": 0, "bytes_received": 0}
            assert client.stats() == {"messages_sent": 2, "messages_received": 0, **none}
            assert server.stats() == {"messages_sent": 0, "messages_received": 1, **none}
            await server.close()
            assert repr(client) == f"<InProc to the scheduler {here} -> {there} closed>"

    run(main())


@pytest.mark.parametrize("kind", ["function", "coroutine function"])
def test_a_handler_that_fails_is_logged_and_its_comm_aborted(run, caplog, kind):
    def fail(comm):
        raise ValueError("on purpose")

    async def fail_later(comm):
        await comm.read()
        raise ValueError("on purpose")

    async def main():
        handler = fail if kind == "function" else fail_later
        async with dc.listen("inproc://", handler) as listener:
            client = await dc.connect(listener.contact_address)
            if kind != "function":
                await client.write("go")
            with pytest.raises(
                dc.CommClosedError, match="which says: its handler failed: ValueErr"
            ):
                await client.read()
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert "on purpose" in str(record.exc_info)

    run(main())
