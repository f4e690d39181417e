"""A loop polls instead of sleeping: behind each message where asked, and through handshakes."""

import asyncio
import os

import pytest
from calling import LOOPBACK, serve
from loops import settle
from peers import pair

import distributed_comm as dc
from distributed_comm.transports import polling
from distributed_comm.transports.polling import STEP, poller_of

POLLING = dc.CommOptions(busy_poll=1.0)


class Clock:
    """A clock that stands until it is told to go on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(polling, "clock", clock)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    return clock


def is_awake():
    return poller_of(asyncio.get_running_loop()).awake


async def go_on(clock, seconds):
    clock.now += seconds
    await settle(3)


def test_a_loop_polls_behind_each_message_and_then_sleeps(run, clock):
    async def main():
        async with pair(options=POLLING) as (client, server):
            await go_on(clock, 1.01)
            assert not is_awake()
            await client.write("there")
            await go_on(clock, 0.99)
            assert is_awake()
            assert await server.read() == "there"
            await go_on(clock, 0.02)  # since it was sent, but not since it came
            assert is_awake()
            await go_on(clock, 1.01)
            assert not is_awake()

    run(main())


def test_who_only_receives_polls_too(run, clock):
    async def main():
        async with pair(options=(None, POLLING)) as (client, server):
            await go_on(clock, 1.01)
            await client.write("there")
            assert await server.read() == "there"
            await settle()  # the reader ran inside the callback
            await go_on(clock, 0.99)
            assert is_awake()
            await go_on(clock, 0.02)
            assert not is_awake()

    run(main())


def test_by_default_it_polls_through_a_handshake_and_no_longer(run, clock):
    async def main():
        async with pair() as (client, server):
            assert is_awake()
            await go_on(clock, STEP * 1.01)
            assert not is_awake()
            await client.write("there")
            assert await server.read() == "there"
            assert not is_awake()

    run(main())


def test_not_where_there_is_one_core(run, clock, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)

    async def main():
        async with pair():
            assert not is_awake()

    run(main())


def test_not_for_another_host(run, clock):
    async def main():
        async with dc.listen("tcp://0.0.0.0:0", lambda comm: comm.abort(), key="k") as listener:
            _, port = dc.get_address_host_port(listener.listen_address)
            # the system dials it from 127.0.0.1
            async with await dc.connect(f"tcp://127.0.0.2:{port}", key="k") as comm:
                assert not comm.same_host
                assert not is_awake()

    run(main())


def test_a_stranger_who_stalls_keeps_nobody_awake(run, clock):
    async def main():
        async with dc.listen(LOOPBACK, lambda comm: comm.abort()) as listener:
            address = dc.get_address_host_port(listener.contact_address)
            _, writer = await asyncio.open_connection(*address)
            for byte in bytes.fromhex("01 00 00 00 00 00 00 00"):
                writer.write(bytes([byte]))
                await settle()
                await go_on(clock, STEP * 1.01)
                assert not is_awake()
            writer.close()
            await writer.wait_closed()

    run(main())


@pytest.mark.parametrize("scheme", ["tcp://127.0.0.1:0", "unix://"])
def test_messages_and_calls_are_as_ever(run, scheme):
    options = dc.CommOptions(busy_poll=50e-6)

    async def main():
        async with pair(scheme, options=options) as (client, server):
            large = bytes(5_000_000)
            for message in [1, {"a": [None]}, large]:
                writing = asyncio.create_task(client.write(message))
                assert await server.read() == message
                await writing
        async with serve({"add": lambda x, y: x + y}, scheme, options=options) as (_, remote):
            sums = await asyncio.gather(*(remote.add(x=n, y=1) for n in range(100)))
            assert sums == list(range(1, 101))

    run(main())
