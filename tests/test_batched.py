"""BatchedSend: nothing lost, few writes, and a writer that is slowed down."""

import asyncio
import logging
import threading
from contextlib import asynccontextmanager

import pytest
from calling import dial, serve
from loops import settle, until
from peers import pair

import distributed_comm as dc


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

    accepts = 2**30
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
        async with pair() as (client, _), batched_to(client) as batched:
            batched.send(bytes(50_000_000))  # which nobody reads
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
