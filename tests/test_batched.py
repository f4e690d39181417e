"""BatchedSend: nothing lost, few writes, and a writer that is slowed down."""

import asyncio
import logging
import sys
import threading
from contextlib import asynccontextmanager

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from calling import dial, serve
from loops import settle, until
from peers import pair

import distributed_comm as dc
from distributed_comm._serialize.size_estimate import LOOKS, estimate


@asynccontextmanager
async def batched_to(comm, interval="1 ms", **kwargs):
    batched = dc.BatchedSend(interval, **kwargs)
    batched.start(comm)
    try:
        yield batched
    finally:
        batched.abort()


async def read_all(comm):
    return [message async for batch in comm for message in batch]


def test_every_message_arrives_once_in_order_in_few_batches(run):
    async def main():
        async with pair() as (client, server), batched_to(client, "5 ms") as batched:
            for number in range(5_000):
                batched.send(number)
                if number % 100 == 0:
                    await asyncio.sleep(0)
            reading = asyncio.ensure_future(read_all(server))
            await batched.close()
            assert await reading == list(range(5_000))
            assert batched.message_count == 5_000
            assert 1 <= batched.batch_count < 100
            assert 0 <= client.stats()["bytes_sent"] - batched.byte_count < 300  # hello, goodbye
            assert batched.closed()
            assert client.closed()

    run(main())


def test_there_is_at_most_one_write_an_interval(run):
    async def main():
        clock = asyncio.get_running_loop().time
        async with pair() as (client, server), batched_to(client, "20 ms") as batched:
            times = []

            async def read():
                times.extend([clock() async for _ in server])

            reading = asyncio.ensure_future(read())
            end = clock() + 0.2
            while clock() < end:
                batched.send("x")
                await asyncio.sleep(0.001)
            await batched.close()
            await reading
            assert 2 <= len(times) <= 12  # the last is sent by close, without waiting

    run(main())


def test_close_does_not_wait_for_the_interval(run):
    async def main():
        async with pair() as (client, server), batched_to(client, "100 s") as batched:
            batched.send(1)
            reading = asyncio.ensure_future(read_all(server))
            await until(lambda: not batched.waiting)
            batched.send(2)
            await batched.close()
            assert await reading == [1, 2]

    run(main())


def test_the_first_message_after_a_pause_is_sent_at_once(run):
    async def main():
        async with pair() as (client, server), batched_to(client, "1 s") as batched:
            batched.send("x")
            async with asyncio.timeout(0.5):
                assert await server.read() == ["x"]

    run(main())


def test_who_awaits_send_waits_for_a_slow_reader(run):
    async def main():
        async with pair() as (client, server), batched_to(client, limit=100) as batched:
            sent = 0

            async def flood():
                nonlocal sent
                for sent in range(3_000):  # noqa: B007
                    await batched.send(bytes(10_000))

            flooding = asyncio.ensure_future(flood())
            seen = -1
            while seen != sent:  # until it stands still
                seen = sent
                await asyncio.sleep(0.05)
            assert batched.waiting <= 201
            assert not flooding.done()
            reading = asyncio.ensure_future(read_all(server))
            await flooding
            await batched.close()
            assert len(await reading) == 3_000

    run(main())


class SlowComm:
    """Writes a batch each time that it is let go."""

    def __init__(self):
        self.may_write = asyncio.Semaphore(0)

    async def write(self, _batch, _serializers=None):
        await self.may_write.acquire()
        return 1

    at_once = 2**30
    loss = None

    def closed(self):
        return False

    def abort(self):
        pass


def test_who_waits_for_room_waits_until_there_is_some(run):
    async def main():
        comm = SlowComm()
        async with batched_to(comm, "1 ms", limit=2) as batched:
            batched.send(1, 2, 3)
            await settle()
            waiting = asyncio.ensure_future(batched.drain())
            await settle()
            batched.send(*range(10))  # while the first three are written
            comm.may_write.release()
            await until(lambda: batched.waiting == 10)
            await settle()
            assert not waiting.done()
            comm.may_write.release()
            await waiting
            assert batched.waiting == 0

    run(main())


def test_who_never_waits_is_stopped(run):
    async def main():
        batched = dc.BatchedSend("1 ms", limit=10)
        batched.send(*range(100))
        with pytest.raises(dc.LocalProtocolError, match="100 messages are unsent"):
            batched.send(1)

    run(main())


def test_what_was_sent_before_the_start_goes_first(run):
    async def main():
        async with pair() as (client, server):
            batched = dc.BatchedSend(1)
            batched.send(1, 2)
            batched.start(client)
            with pytest.raises(dc.LocalProtocolError, match="already"):
                batched.start(client)
            batched.send(3)
            assert await server.read() == [1, 2, 3]
            batched.abort()

    run(main())


def test_a_message_that_cannot_be_sent_is_left_out_alone(run, caplog):
    async def main():
        async with pair() as (client, server), batched_to(client) as batched:
            batched.send("before", threading.Lock(), "after")
            reading = asyncio.ensure_future(read_all(server))
            with pytest.raises(dc.UntrustedError, match="lock"):
                await batched.close()
            await batched.close()  # it was said
            assert await reading == ["before", "after"]
            (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
            assert "lock" in record.getMessage()

    run(main())


def test_after_the_peer_has_gone_sending_says_so(run):
    async def main():
        async with pair() as (client, server), batched_to(client, limit=5) as batched:
            server.abort()
            await until(client.closed)
            with pytest.raises(dc.CommClosedError, match="sends no more"):
                batched.send(1)
            await batched.close()
        async with pair() as (client, server), batched_to(client, limit=5) as batched:
            waiting = batched.send(*range(20))
            client.abort()
            with pytest.raises(dc.CommClosedError, match="20 were not sent"):
                await waiting

    run(main())


def test_closing_is_bounded(run):
    async def main():
        async with pair(trusted=(True, True)) as (client, _), batched_to(client) as batched:
            batched.send(bytes(50_000_000))  # nobody reads it; a trusted peer may send so much
            with pytest.raises(TimeoutError):
                await batched.close(timeout=0.05)
            assert client.closed()

    run(main())


def test_a_server_calls_a_stream_handler_for_each_message(run):
    async def main():
        got = []
        done = asyncio.Event()

        async def later(x, who):
            await asyncio.sleep(0)
            got.append((who, x))

        handlers = {"note": lambda x, who: got.append((who, x)), "later": later, "done": done.set}
        async with serve(stream_handlers=handlers) as (server, _), dial(server) as comm:
            await comm.write({"op": "connection_stream", "extra": {"who": "me"}, "reply": False})
            async with dc.BatchedSend("1 ms") as batched:
                batched.start(comm)
                for x in range(10):
                    batched.send({"op": ("note", "later")[x % 2], "x": x})
                batched.send({"op": "close-stream"})
                await until(comm.closed)
            assert got == [("me", x) for x in range(10)]

    run(main())


def test_a_message_that_no_stream_handler_takes_ends_the_stream(run, caplog):
    async def main():
        async with serve() as (server, _), dial(server) as comm:
            await comm.write({"op": "connection_stream", "reply": False})
            await comm.write({"op": "unknown"})
            with pytest.raises(dc.CommClosedError, match=r"which says: .*: no op 'unknown'"):
                await comm.read()
            assert [record.levelname for record in caplog.records] == ["WARNING"]

    run(main())


def test_closing_after_abort_cancels_nobody(run):
    async def main():
        async with serve({}) as (server, _), dc.BatchedSend("1ms") as batched:
            batched.start(await dc.connect(server.address))
            batched.send({"op": "x"})
            batched.abort()
        assert batched.closed()
        return "went on"

    assert run(main()) == "went on"


# -- bytes ----------------------------------------------------------------------------------

MIB = 1024 * 1024


@pytest.mark.parametrize("trusted", [False, True], ids=["stranger", "trusted"])
def test_a_backlog_is_no_message_that_its_receiver_would_refuse(run, trusted):
    """Neither in bytes, nor in steps that decoding takes, nor in frames."""
    limits = dc.CommOptions(
        limits=dc.Limits(message=MIB // 2, frames=30, untrusted_header=MIB // 4)
    )
    record = {f"key {number}": "x" * 30 for number in range(60)}

    async def main():
        async with (
            pair(options=(None, limits), trusted=(trusted, trusted)) as (client, server),
            batched_to(client) as batched,
        ):
            messages = [record] * 1_000 + [np.arange(5_000)] * 100 + list(range(999))
            for message in messages:
                batched.send(message)
            reading = asyncio.ensure_future(read_all(server))
            await batched.close()
            read = await reading
            assert len(read) == len(messages)
            assert read[:1_000] == messages[:1_000]
            assert all(map(np.array_equal, read[1_000:1_100], messages[1_000:1_100]))
            assert read[1_100:] == messages[1_100:]

    run(main())


def test_what_is_too_long_for_the_receiver_is_left_out_alone_and_told(run):
    options = dc.CommOptions(limits=dc.Limits(message=MIB))

    async def main():
        async with (
            pair(options=(None, options)) as (client, server),
            batched_to(client) as batched,
        ):
            reading = asyncio.ensure_future(read_all(server))
            batched.send(1, bytes(2 * MIB), 2)
            await until(lambda: not batched.waiting)
            with pytest.raises(dc.MessageError, match=r"accepts at most 1048576"):
                batched.send(3)
            batched.send(4)  # it was told once
            await batched.close()
            assert await reading == [1, 2, 4]

    run(main())


def test_the_number_of_those_left_out_is_in_the_error(run):
    async def main():
        async with pair() as (client, server), batched_to(client) as batched:
            reading = asyncio.ensure_future(read_all(server))
            batched.send(*[threading.Lock()] * 3, "x")
            with pytest.raises(dc.UntrustedError) as caught:
                await batched.close()
            assert "has left out 3 messages" in caught.value.__notes__[-1]
            assert await reading == ["x"]

    run(main())


def test_who_awaits_send_has_little_more_than_the_limit_unsent(run):
    async def main():
        limit = 4 * MIB
        async with pair() as (client, server), batched_to(client, limit_bytes=limit) as batched:
            most = 0

            async def flood():
                nonlocal most
                for _ in range(100):
                    room = batched.send({"data": [bytearray(MIB), "text"]})
                    most = max(most, batched.waiting_bytes)
                    await room

            flooding = asyncio.ensure_future(flood())
            await settle(100)
            assert not flooding.done()
            reading = asyncio.ensure_future(read_all(server))
            await flooding
            assert limit < most <= limit + MIB + 1_000
            await batched.close()
            assert len(await reading) == 100

    run(main())


def test_who_never_waits_is_stopped_at_ten_times_the_bytes(run):
    async def main():
        batched = dc.BatchedSend("1 ms", limit_bytes=MIB)
        batched.send(bytes(20 * MIB))  # a single message may always be sent
        with pytest.raises(dc.LocalProtocolError, match="times the limit_bytes of 1048576"):
            batched.send(1)
        assert batched.waiting == 1
        batched.abort()
        batched = dc.BatchedSend("1 ms", limit_bytes=MIB)
        for _ in range(10):
            batched.send(memoryview(bytes(MIB - 1_000)))
        with pytest.raises(dc.LocalProtocolError):
            batched.send(bytes(MIB))
        batched.abort()

    run(main())


def test_a_long_backlog_does_not_wait_for_the_interval(run):
    async def main():
        async with pair() as (client, server), batched_to(client, "100 s") as batched:
            reading = asyncio.ensure_future(read_all(server))
            for _ in range(20):
                await batched.send(bytes(MIB))
            await until(lambda: batched.waiting_bytes < MIB)
            batched.send("x")
            await settle()
            assert batched.waiting == 1  # little waits for it
            await batched.close()
            assert len(await reading) == 21

    run(main())


@pytest.mark.parametrize(
    "value",
    [("x", 1, 0), {1, 2, 3}, [(1, 2)] * 50, [{}] * 30, np.arange(3), {"a": {}, "b": {}}],
    ids=repr,
)
def test_what_a_stranger_may_send_one_by_one_it_may_send_in_batches(run, value):
    """Decoding many small values takes more steps than their bytes say."""

    async def main():
        async with pair() as (client, server), batched_to(client) as batched:
            reading = asyncio.ensure_future(read_all(server))
            for _ in range(3_000):
                await batched.send(value)
            await batched.close()
            assert len(await reading) == 3_000

    run(main())


# -- what was not delivered -----------------------------------------------------------------


@pytest.mark.parametrize("place", ["tcp://127.0.0.1:0", "inproc://"], ids=["tcp", "inproc"])
def test_close_says_that_the_connection_was_lost(run, place):
    async def main():
        async with pair(place) as (client, server), batched_to(client) as batched:
            batched.send("x")
            assert await server.read() == ["x"]
            server.abort()
            await until(client.closed)
            with pytest.raises(dc.CommClosedError, match="what was sent last may be lost"):
                await batched.close()
            await batched.close()

    run(main())


def test_close_says_that_the_peer_was_gone_before_all_was_taken(run):
    """Even if all had been written before."""

    async def main():
        async with pair() as (client, server), batched_to(client) as batched:
            for size in (1_200_000, 300_000):  # the server reads the first, and no more
                batched.send("x" * size)
                await until(lambda: not batched.waiting)
            await until(lambda: server.channel.inbox.paused)
            closing = asyncio.ensure_future(batched.close())
            await settle()
            assert not closing.done()
            server.abort()
            with pytest.raises(dc.CommClosedError, match="may be lost"):
                await closing

    run(main())


def test_an_error_while_messages_wait_says_how_many(run):
    async def main():
        async with pair() as (client, server), batched_to(client) as batched:
            batched.send(*[bytes(MIB)] * 50)
            await until(lambda: client.channel.out.unsent)
            server.abort()
            await until(batched.closed)
            await until(batched._task.done)
            with pytest.raises(dc.CommClosedError, match=r"sends no more; \d+ were not sent: "):
                batched.send(1)
            with pytest.raises(dc.CommClosedError, match="sends no more"):
                batched.send(1)
            await batched.close()

    run(main())


def test_close_says_so_if_it_was_never_started(run):
    async def main():
        batched = dc.BatchedSend("1 ms")
        batched.send(1)
        with pytest.raises(dc.CommClosedError, match="was never started; 1 were not sent"):
            await batched.close()

    run(main())


@pytest.mark.parametrize("end", ["close", "abort", "abort before the first step"])
def test_nobody_waits_for_room_that_never_comes(run, end):
    async def main():
        async with pair() as (client, _):
            batched = dc.BatchedSend("1 ms", limit=1)
            if "step" in end:
                batched.start(client)
            batched.send(1, 2, 3)
            waiting = asyncio.ensure_future(batched.drain())
            if "step" not in end:
                await asyncio.sleep(0)
            if end == "close":
                with pytest.raises(dc.CommClosedError, match="never started"):
                    await batched.close()
            else:
                batched.abort()
            with pytest.raises(dc.CommClosedError, match="3 were not sent"):
                await waiting

    run(main())


@pytest.mark.parametrize("how", ["cancelled", "timeout"])
def test_close_says_what_a_cancelled_sender_has_left(run, how):
    async def main():
        async with pair() as (client, _), batched_to(client) as batched:
            batched.send(*[np.zeros(MIB, "u1")] * 30)  # of which nobody reads one
            await until(lambda: client.channel.out.unsent)
            if how == "cancelled":
                batched._task.cancel()
            else:
                with pytest.raises(TimeoutError):
                    await batched.close(timeout=0.01)
            with pytest.raises(dc.CommClosedError, match=r"\d+ were not sent"):
                await batched.close()

    run(main())


def test_a_peer_that_closes_in_order_is_no_error(run):
    async def main():
        async with pair() as (client, server), batched_to(client) as batched:
            batched.send(1)
            assert await server.read() == [1]
            await server.close()
            await until(client.closed)
            await batched.close()

    run(main())


async def fail_behind(client, server):
    async with dc.BatchedSend("1 ms") as batched:
        batched.start(client)
        server.abort()
        await until(client.closed)
        raise ZeroDivisionError


def test_a_failing_body_is_not_hidden_by_what_close_has_to_say(run):
    async def main():
        async with pair() as (client, server):
            with pytest.raises(ZeroDivisionError):
                await fail_behind(client, server)

    run(main())


def test_a_server_that_cannot_open_a_batch_tells_its_sender(run):
    """Its limits on decoding are its own, and not told."""
    options = dc.CommOptions(limits=dc.Limits(untrusted_depth=20))
    nested = []
    for _ in range(50):
        nested = [nested]

    async def main():
        async with serve(stream_handlers={"note": print}, options=options) as (server, _):
            comm = await dc.connect(server.address)
            await comm.write({"op": "connection_stream", "reply": False})
            batched = dc.BatchedSend("1 ms")
            batched.start(comm)
            batched.send({"op": "note", "x": nested})
            await until(comm.closed)
            with pytest.raises(dc.CommClosedError, match=r"which says: .*levels"):
                batched.send(1)
            await batched.close()

    run(main())


# -- the estimate ---------------------------------------------------------------------------


class Held:
    def __init__(self, data):
        self.data = data


class Refuses:
    @property
    def nbytes(self):
        raise OSError


@pytest.mark.parametrize(
    "make",
    [
        bytes,
        bytearray,
        lambda size: memoryview(bytes(size)),
        lambda size: np.zeros(size, "u1"),
        lambda size: [bytes(100)] * (size // 100),
        lambda size: dict.fromkeys(range(size // 1_000), "x" * 1_000),
        lambda size: {"a": {"b": [(bytes(size),)]}},
        lambda size: Held(np.zeros(size, "u1")),
        lambda size: Held([Held(bytes(size))]),
        lambda size: pd.DataFrame({"x": np.zeros(size // 8)}),
        lambda size: scipy.sparse.csr_matrix(np.ones((size // 12000, 1000))),
        lambda size: dc.Serialize(bytes(size)),
        lambda size: dc.Serialized({}, [bytes(size)]),
    ],
)
def test_an_estimate_is_about_right(make):
    size = 1_200_000
    assert 0.5 * size < estimate(make(size)) < 2 * size


def test_an_estimate_is_quick_and_never_fails():
    class Never:
        def __iter__(self):
            raise AssertionError

    deep = []
    for _ in range(100_000):
        deep = [deep]
    wide = [[[0] * 1_000] * 1_000] * 1_000
    circular = {}
    circular["self"] = [circular] * 10
    for odd in (deep, wide, circular, Refuses(), Never(), [Refuses()] * 10, {Refuses(): Never()}):
        calls = 0

        def count(*_):
            nonlocal calls
            calls += 1

        sys.setprofile(count)
        try:
            assert estimate(odd) > 0
        finally:
            sys.setprofile(None)
        assert calls < 10 * LOOKS
    while deep:
        deep = deep.pop()
