"""A connection that breaks, anywhere: an error in good time, and nothing left behind."""

import asyncio
import logging
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from loops import settle
from peers import LOOPBACK, TERMS, check_echo, echo, pack
from proxy import Proxy, Way

import distributed_comm as dc

MIB = 1024 * 1024


@asynccontextmanager
async def through_a_proxy(
    out: Way | None = None, back: Way | None = None, options: dc.CommOptions | None = None
) -> AsyncIterator[tuple[Proxy, dc.Comm, dc.Comm]]:
    """Yield a proxy between two comms, and both of them."""
    served = asyncio.get_running_loop().create_future()
    async with (
        dc.listen(LOOPBACK, served.set_result, options=options) as listener,
        Proxy(listener.contact_address, out or Way(), back or Way()) as proxy,
    ):
        client = await dc.connect(proxy.address, timeout=10, options=options)
        server = await served
        try:
            yield proxy, client, server
        finally:
            client.abort()
            server.abort()


# A reset

MESSAGES = {"small": "x" * 100, "large": bytes(300_000)}
PLACES = {
    "between messages": ("small", 0),
    "in the prelude": ("small", 7),
    "in the lengths": ("small", 20),
    "in a frame": ("small", 60),
    "in a large frame": ("large", 200_000),
}


@pytest.mark.parametrize(("kind", "offset"), PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("reading", ["waiting", "later"])
def test_a_reset_is_an_error_with_its_cause_at_once(run, kernels, caplog, kind, offset, reading):
    async def main():
        async with through_a_proxy() as (proxy, client, server):
            proxy.out.after = proxy.out.passed + len(TERMS + pack("first")) + offset
            reads = [asyncio.create_task(read_two(server))] if reading == "waiting" else []
            await settle()
            await client.write("first")
            second = asyncio.create_task(client.write(MESSAGES[kind]))
            async with asyncio.timeout(1):
                first, error = await (reads[0] if reads else read_two(server))
                with pytest.raises(dc.CommClosedError):
                    await client.read()
            assert first == "first"
            assert "the connection was lost" in str(error)
            assert f"{server.local_address} -> {server.peer_address}" in str(error)
            assert isinstance(error.__cause__, ConnectionResetError)
            assert not error.clean
            assert client.closed()
            assert server.closed()
            await asyncio.wait([second])
            second.exception()

    async def read_two(comm):
        first = await comm.read()
        with pytest.raises(dc.CommClosedError) as caught:
            await comm.read()
        return first, caught.value

    caplog.set_level(logging.INFO)
    run(main())
    assert [r for r in caplog.records if r.levelno > logging.INFO] == []


@pytest.mark.parametrize("after", [0, 7, 20, 50])
def test_a_reset_in_the_hello_that_we_wait_for_is_tried_again(run, caplog, after):
    async def main():
        async with dc.listen(LOOPBACK, echo) as listener:
            async with Proxy(listener.contact_address, back=Way(after=after)) as proxy:
                with pytest.raises(OSError, match="Timed out trying to connect") as caught:
                    await dc.connect(proxy.address, timeout=0.3)
                assert isinstance(caught.value.__cause__, dc.CommClosedError)
                assert isinstance(caught.value.__cause__.__cause__, ConnectionResetError)
                connecting = asyncio.create_task(check_echo(proxy.address))
                await asyncio.sleep(0.1)
                proxy.back.after = float("inf")
                await connecting
            await check_echo(listener.contact_address)

    caplog.set_level(logging.INFO)
    run(main())
    assert [r for r in caplog.records if r.levelno > logging.INFO] == []


@pytest.mark.parametrize("after", [0, 7, 20, 50])
def test_a_reset_in_our_hello_is_an_error_at_the_latest_of_the_first_read(run, caplog, after):
    """Both sides greet at once, so who connects may be done by then."""

    async def main():
        async with dc.listen(LOOPBACK, echo) as listener:
            async with Proxy(listener.contact_address, Way(after=after)) as proxy:
                for _ in range(10):
                    with pytest.raises(OSError, match=r"lost|Timed out"):
                        await connect_and_read(proxy.address)
            await check_echo(listener.contact_address)

    async def connect_and_read(address):
        async with await dc.connect(address, timeout=0.3) as comm:
            await comm.read()

    caplog.set_level(logging.INFO)
    run(main())
    assert [r for r in caplog.records if r.levelno > logging.INFO] == []


# A way that is slow, late or in pieces, and one that swallows everything

WAYS = {
    "late": {"delay": 0.02},
    "slow": {"rate": 1_000_000.0, "piece": 10_000},
    "bytewise": {"piece": 1},
    "in odd pieces": {"piece": 1_021},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_messages_arrive_whole_and_in_order_however_they_travel(run, kernels, way):
    size = 2_000 if way.get("piece") == 1 else 200_000
    messages = [{"number": n, "data": bytes([n]) * (n % 3 * size // 2)} for n in range(6)]

    async def main():
        async with through_a_proxy(Way(**way), Way(**way)) as (_, client, server):
            answering = asyncio.create_task(echo(server))
            writing = asyncio.gather(*map(client.write, messages))
            assert [await client.read() for _ in messages] == messages
            await writing
            await client.close()
            await answering

    run(main())


def test_a_handshake_that_is_swallowed_ends_in_time_on_both_sides(run, caplog):
    options = dc.CommOptions(timeouts=dc.Timeouts(handshake=0.2))

    async def main():
        async with dc.listen(LOOPBACK, echo, options=options) as listener:
            swallowing = Way(after=30, then="swallow")
            async with Proxy(listener.contact_address, swallowing, swallowing) as proxy:
                clock = asyncio.get_running_loop().time
                start = clock()
                with pytest.raises(
                    OSError, match=r"Timed out .* after 0\.3 s: it is connected, and"
                ):
                    await dc.connect(proxy.address, timeout=0.3)
                assert clock() - start < 3
            await check_echo(listener.contact_address)

    caplog.set_level(logging.INFO, "distributed_comm")
    run(main())
    assert any("a handshake failed" in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize("size", [100, 3 * MIB])
def test_a_message_that_is_swallowed_halfway_is_an_error_in_time(run, size):
    options = dc.CommOptions(timeouts=dc.Timeouts(gap=0.2))

    async def main():
        async with through_a_proxy(options=options) as (proxy, client, server):
            proxy.out.after = proxy.out.passed + size // 2
            proxy.out.then = "swallow"
            writing = asyncio.create_task(client.write(bytes(size)))
            async with asyncio.timeout(2):
                with pytest.raises(dc.CommClosedError, match="stopped inside a message"):
                    await server.read()
            await asyncio.wait([writing])
            writing.exception()

    run(main())


# A process that is killed

STREAM = """
import asyncio, sys, distributed_comm as dc

async def main():
    comm = await dc.connect(sys.argv[1])
    for number in range(3):
        await comm.write(number)
    await asyncio.Event().wait()

dc.run(main())
"""


def test_a_stream_whose_sender_was_killed_between_two_messages_ends_in_an_error(run, caplog):
    async def main():
        served = asyncio.get_running_loop().create_future()
        async with dc.listen(LOOPBACK, served.set_result) as listener:
            command = [sys.executable, "-c", STREAM, listener.contact_address]
            with subprocess.Popen(command) as process:  # noqa: ASYNC220
                try:
                    comm = await served
                    arrived = []
                    with pytest.raises(dc.CommClosedError) as caught:
                        await read_and_kill(comm, arrived, process)
                finally:
                    process.kill()
            assert arrived == [0, 1, 2]
            ends = re.escape(f"{comm.local_address} -> {comm.peer_address}")
            assert re.fullmatch(rf"the connection was lost: .*: {ends}", str(caught.value))
            assert not caught.value.clean
            assert comm.closed()

    async def read_and_kill(comm, arrived, process):
        async for number in comm:
            arrived.append(number)
            if number == 2:
                process.kill()

    run(main())
    assert [r for r in caplog.records if r.levelno > logging.INFO] == []
