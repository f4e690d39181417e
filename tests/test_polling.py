"""A loop polls instead of sleeping: behind each message where asked, and through handshakes."""

import asyncio
import math
import socket

import pytest
from calling import LOOPBACK, serve
from loops import settle, until
from peers import dial_raw, pack, pair, raw_pair

import distributed_comm as dc
from distributed_comm._loops import busy_poll as polling
from distributed_comm._loops.busy_poll import RETRY, STEP, USELESS
from distributed_comm._loops.loop_state import state_of

POLLING = dc.CommOptions(busy_poll=1.0)


class Clock:
    """A clock that stands until it is told to go on."""

    def __init__(self):
        self.now = 0.0
        self.lost = 0.0  # to other processes

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(polling, "clock", clock)
    monkeypatch.setattr(polling, "processor_time", lambda: clock.now - clock.lost)
    return clock


def is_awake():
    return state_of(asyncio.get_running_loop()).poller.awake


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


def test_not_for_another_host(run, clock):
    async def main():
        async with dc.listen("tcp://0.0.0.0:0", lambda comm: comm.abort(), key="k") as listener:
            _, port = dc.get_address_host_port(listener.listen_address)
            # the system dials it from 127.0.0.1
            async with await dc.connect(f"tcp://127.0.0.2:{port}", key="k") as comm:
                assert not comm.same_host
                assert not is_awake()

    run(main())


def test_who_has_sent_polls_for_the_answer(run, clock):
    async def main():
        async with raw_pair(options=POLLING) as (_, comm):
            await go_on(clock, 1.01)
            assert not is_awake()
            await comm.write("to somebody who never answers")
            await go_on(clock, 0.99)
            assert is_awake()
            await go_on(clock, 0.02)
            assert not is_awake()

    run(main())


def test_a_shorter_poll_does_not_end_a_longer_one(run, clock):
    async def main():
        poller = state_of(asyncio.get_running_loop()).poller
        poller.poll(1.0)
        poller.poll(0.1)
        await go_on(clock, 0.9)
        assert poller.awake
        await go_on(clock, 0.2)
        assert not poller.awake

    run(main())


# -- each step of a handshake


def test_a_dialler_polls_for_the_hello(run, clock):
    async def main():
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
            connecting = asyncio.create_task(dc.connect(address))
            await settle()
            assert is_awake()
            await go_on(clock, STEP * 1.01)
            assert not is_awake()
            connecting.cancel()
            await asyncio.wait([connecting])

    run(main())


@pytest.mark.parametrize("nonce", [{}, {"nonce": bytes(32)}], ids=["the end", "a proof"])
def test_a_listener_polls_behind_the_hello(run, clock, nonce):
    hello = {"python": (3, 11, 7), "pickle-protocol": 5}
    hello["distributed_comm"] = {"version": 1, **nonce}

    async def main():
        async with (
            dc.listen(LOOPBACK, lambda comm: comm.abort(), key="k") as listener,
            dial_raw(listener) as raw,
        ):
            await raw.send(pack(hello)[:-2])
            await raw.read_message()  # it has waited long enough
            await go_on(clock, STEP * 1.01)
            assert not is_awake()
            await raw.send(pack(hello)[-2:-1])
            await settle(50)
            assert not is_awake()  # a stranger who drips keeps nobody awake
            await raw.send(pack(hello)[-1:])
            await until(is_awake)
            await go_on(clock, STEP * 1.01)
            assert not is_awake()

    run(main())


def test_what_never_helps_is_left(run, clock):
    async def main():
        poller = state_of(asyncio.get_running_loop()).poller
        for _ in range(USELESS):
            poller.poll_for_step()
            assert poller.awake
            await go_on(clock, STEP * 1.01)  # and no other step came
        polled = []
        for _ in range(2 * RETRY):
            poller.poll_for_step()
            polled.append(poller.awake)
            await go_on(clock, STEP * 1.01)
        assert sum(polled) == 2  # to see whether it helps by now
        while not poller.awake:
            poller.poll_for_step()
        poller.poll_for_step()  # it does
        await go_on(clock, STEP * 1.01)
        poller.poll_for_step()
        assert poller.awake
        await go_on(clock, STEP * 1.01)

    run(main())


def test_a_core_that_others_want_is_left_to_them(run, clock):
    async def main():
        poller = state_of(asyncio.get_running_loop()).poller
        for _ in range(USELESS):
            poller.poll_for_step()
            poller.poll_for_step()
            assert poller.awake
            clock.lost += STEP * 0.3
            await go_on(clock, STEP * 1.01)
        poller.poll_for_step()
        assert not poller.awake

    run(main())


# -- limits


@pytest.mark.parametrize("seconds", [-1e-6, 1.1, math.inf, math.nan])
def test_nobody_polls_for_ever(seconds):
    with pytest.raises(ValueError, match="busy_poll="):
        dc.CommOptions(busy_poll=seconds)


def test_another_thread_wakes_nobody(run, clock):
    async def main():
        async with pair(options=POLLING) as (client, _):
            await go_on(clock, 1.01)
            with pytest.raises(dc.LocalProtocolError, match="another thread"):
                await asyncio.to_thread(asyncio.run, client.write("from elsewhere"))
            assert not is_awake()

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
