"""Strangers that ask and do not read: their replies are counted, and in the end they are cut."""

import asyncio
import gc
import json
import socket
import subprocess
import sys
import time
import weakref
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from calling import serve
from loops import LOOPS, needs_proc, settle, until
from msgpack import packb
from peers import LOOPBACK, OUR_HELLO, dial_raw, frame_up, pair, raw_pair

import distributed_comm as dc
from distributed_comm._serialize import compression
from distributed_comm._serialize.compression import compress
from distributed_comm._wire.budget import ALLOWANCE

KIB, MIB = 1024, 1024 * 1024
GAP = 0.4
BUDGET = 8 * MIB
LIMITED = dc.CommOptions(limits=dc.Limits(untrusted_memory=BUDGET))
HASTY = dc.CommOptions(
    limits=dc.Limits(untrusted_memory=BUDGET), timeouts=dc.Timeouts(gap=GAP, close=0.3)
)
BRIEF = dc.CommOptions(limits=dc.Limits(untrusted_memory=BUDGET), timeouts=dc.Timeouts(close=0.1))
TESTS = Path(__file__).parent

schemes = pytest.mark.parametrize("address", [LOOPBACK, "unix://", "certified://127.0.0.1:0"])
pytestmark = pytest.mark.usefixtures("certified")


def budget_of(comm):
    return comm.channel.budget


def call(op, **arguments):
    """Return the bytes of a request, as a stranger writes it by hand."""
    return frame_up(packb({"op": op, **arguments}))


async def stuck(comm):
    """Wait until nothing that is sent on a comm moves any more."""
    before = None
    while before != (before := comm.stats()) or not comm.channel.out.unsent:
        await settle(200)


async def write_on(comm, size=10_000):
    while True:
        await comm.write(bytes(size))


# -- what waits is counted ------------------------------------------------------------------------


@schemes
@pytest.mark.parametrize("size", [100, 300_000])
def test_what_a_stranger_has_not_read_is_counted_until_it_has(run, address, size):
    async def main():
        async with pair(address) as (client, server):
            writing = asyncio.create_task(write_on(server, size))
            await stuck(server)
            queued, used = server.channel.out.unsent, budget_of(server).used
            assert queued > 200 * KIB or size > 200 * KIB
            # beside it: what was sent of a long buffer, and what TLS has encrypted
            assert queued - ALLOWANCE <= used <= queued + size + 600 * KIB
            writing.cancel()
            await asyncio.wait([writing])
            last = asyncio.create_task(server.write("the last"))
            while await client.read() != "the last":
                pass
            await last
            await until(lambda: not budget_of(server).used)

    run(main())


@schemes
@pytest.mark.parametrize("how", ["abort", "close", "peer", "cancel"])
def test_it_is_given_back_however_it_ends(run, address, how):
    array = np.ones(MIB // 8)  # borrowed

    async def write_arrays(comm):
        while True:
            await comm.write(array)

    async def main():
        async with pair(address, options=BRIEF) as (client, server):
            budget = budget_of(server)
            writing = asyncio.create_task(write_arrays(server))
            await stuck(server)
            assert server.channel.out.unsent - ALLOWANCE <= budget.used
            if how == "abort":
                server.abort()
            elif how == "close":
                await server.close()
            elif how == "peer":
                client.abort()
            else:
                writing.cancel()
                await asyncio.wait([writing])
                assert budget.used >= server.channel.out.unsent  # the copy
                array[:] = 2
                while budget.used:
                    assert await client.read() == pytest.approx(1)
            await asyncio.gather(writing, return_exceptions=True)
            await until(lambda: not budget.used)

    run(main())


def test_what_tls_has_encrypted_is_counted_although_nothing_is_queued(run):
    async def main():
        unpinged = dc.CommOptions(timeouts=dc.Timeouts(keepalive=1_000))
        async with pair("certified://127.0.0.1:0", options=unpinged) as (client, server):
            channel = server.channel
            written = 0
            while not channel.stream.ahead:
                await server.write("x" * 60_000)
                written += 1
                await settle(20)
                channel.out.fresh = True  # as behind a request
            assert not channel.out.unsent
            assert channel.stream.ahead - ALLOWANCE <= budget_of(server).used
            for _ in range(written):
                await client.read()
            await until(lambda: not budget_of(server).used)

    run(main())


def test_it_is_given_back_with_a_loop_that_was_closed():
    """Nobody tells a connection that its loop is gone."""
    kept = []

    async def main():
        served = asyncio.get_running_loop().create_future()
        async with dc.listen(LOOPBACK, served.set_result, trusted=False) as listener:
            client = await dc.connect(listener.contact_address, trusted=False)
        server = await served
        for _ in range(100):
            server.channel.send([bytes(100 * KIB)])
        kept.append(budget_of(server))
        assert kept[0].used > MIB
        assert not client.closed()

    with pytest.warns(ResourceWarning):
        asyncio.run(main())
    gc.collect()
    assert not kept[0].used


def test_a_dialler_counts_nothing_of_what_it_sends(run):
    async def main():
        async with pair(options=(LIMITED, dc.CommOptions())) as (client, server):
            writing = asyncio.create_task(client.write(bytes(15 * MIB)))
            await until(lambda: client.channel.out.unsent)
            assert budget_of(client).used == 0
            client.abort()
            await asyncio.gather(writing, return_exceptions=True)
            assert server.trusted is False

    run(main())


def test_a_trusted_peer_is_not_in_it(run):
    async def main():
        async with pair(trusted=(True, True), options=LIMITED) as (client, server):
            writing = asyncio.create_task(server.write(bytes(20 * MIB)))
            assert len(await client.read()) == 20 * MIB
            await writing
            assert budget_of(server) is None

    run(main())


# -- what does not fit ----------------------------------------------------------------------------


class Handlers:
    """Replies of each kind, of a given size."""

    def plain(self, size):
        return bytes(size)

    async def later(self, size):
        await asyncio.sleep(0)
        return bytes(size)

    def array(self, size):
        return np.zeros(size, "u1")

    async def by_hand(self, comm, size):
        await comm.write(bytes(size))
        return dc.NO_REPLY

    async def items(self, size):
        yield b"first"
        yield bytes(size)

    def fail(self, size):
        raise ValueError("x" * size)


def handlers():
    own = Handlers()
    return {name: getattr(own, name) for name in vars(Handlers) if not name.startswith("_")}


@schemes
@pytest.mark.parametrize("op", ["plain", "later", "array", "by_hand"])
def test_a_reply_that_does_not_fit_is_an_error_and_the_connection_goes_on(run, address, op):
    async def main():
        async with serve(handlers(), address, options=LIMITED) as (server, remote):
            assert len(await remote[op](size=3 * MIB)) == 3 * MIB
            with pytest.raises(dc.RemoteError, match=r"1000\d+ bytes does not fit .*8388608"):
                await remote[op](size=10_000_000)
            assert len(await remote[op](size=3 * MIB)) == 3 * MIB
            assert await remote.echo(data=1) == 1
            assert server.incoming_comms_open == 1
            (listener,) = server.listeners
            await until(lambda: not listener._budget.used)

    run(main())


@pytest.mark.parametrize("op", ["get", "get_later"])
def test_a_reply_that_does_not_fit_is_free_at_once(run, op):
    """Not when the collector comes by: by then others have asked for as much."""
    replies = []

    def get():
        array = np.zeros(10 * MIB, "u1")
        replies.append(weakref.ref(array))
        return array

    async def get_later():
        await asyncio.sleep(0)
        return get()

    async def main():
        gc.disable()
        try:
            async with serve({"get": get, "get_later": get_later}, options=LIMITED) as (_, remote):
                with pytest.raises(dc.RemoteError, match="does not fit"):
                    await remote[op]()
                await remote.echo(data=1)
                assert replies[0]() is None
        finally:
            gc.enable()

    run(main())


def test_an_item_that_does_not_fit_ends_its_stream_with_an_error(run):
    async def main():
        async with serve(handlers(), options=LIMITED) as (_, remote):
            stream = remote["items"].stream(size=10 * MIB)
            assert await anext(stream) == b"first"
            with pytest.raises(dc.RemoteError, match="does not fit"):
                await anext(stream)

    run(main())


def test_the_error_of_a_handler_that_does_not_fit_is_a_shorter_one(run):
    async def main():
        async with (
            serve(handlers(), options=LIMITED) as (server, _),
            dial_raw(server.address) as raw,
        ):
            (listener,) = server.listeners
            await raw.send(OUR_HELLO)
            await raw.read_message()
            listener._budget.change(BUDGET)
            await raw.send(call("echo", data=1) + call("fail", size=15_000) + call("echo", data=2))
            assert await raw.read_message() == 1
            error = await raw.read_message()
            assert error["status"] == "uncaught-error"
            assert await raw.read_message() == 2
            listener._budget.change(-BUDGET)

    run(main())


def test_small_calls_are_answered_where_others_have_used_up_everything(run):
    async def main():
        async with serve({}, options=LIMITED) as (server, remote):
            (listener,) = server.listeners
            listener._budget.change(BUDGET)
            assert await remote.echo(data="x" * 60_000) == "x" * 60_000
            async with dial_raw(server.address) as raw:
                await raw.send(OUR_HELLO)
                await raw.read_message()
                for _ in range(10):
                    await raw.send(call("echo", data="y" * 100) * 30)
                    for _ in range(30):
                        assert await raw.read_message() == "y" * 100
            listener._budget.change(-BUDGET)

    run(main())


# -- crowds ---------------------------------------------------------------------------------------


@asynccontextmanager
async def crowd(server, number, data):
    """Yield so many strangers that have asked and do not read."""
    async with AsyncExitStack() as stack:
        asking = []
        for _ in range(number):
            raw = await stack.enter_async_context(dial_raw(server.address, SO_RCVBUF=4096))
            asking.append(asyncio.create_task(raw.send(OUR_HELLO + data)))
        yield
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)


@pytest.mark.parametrize("asked", ["calls", "stream"])
def test_a_crowd_that_asks_and_does_not_read_stays_within_the_budget(run, asked):
    """Nobody is cut for it: replies wait for their readers, and requests for replies."""

    async def stream():
        while True:
            yield b"x" * 2_000

    requests = call("stream")
    if asked == "calls":
        requests = call("make", source=2_000) * 60

    async def main():
        limits = dc.Limits(untrusted_memory=BUDGET)
        options = dc.CommOptions(limits=limits)
        async with serve({"stream": stream, "make": bytes}, options=options) as (server, remote):
            (listener,) = server.listeners
            for sock in listener._sockets:  # else the system would keep most of it
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
            async with crowd(server, 150, requests):
                await until(lambda: server.incoming_comms_open == 150)
                sent = -1
                while sent != (sent := total(server)):
                    await settle(100)
                    assert listener._budget.used <= BUDGET
                unsent = sum(each.comm.channel.out.unsent for each in server._servings)
                assert unsent > BUDGET // 4
                assert unsent <= listener._budget.used + 150 * ALLOWANCE
                assert server.incoming_comms_open == 150
                assert await remote.echo(data="still there") == "still there"
            await until(lambda: server.incoming_comms_open == 1)
            await until(lambda: not listener._budget.used)

    run(main())


def total(server):
    return sum(serving.comm.stats()["bytes_sent"] for serving in server._servings)


SERVER = """
import asyncio, json, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import distributed_comm as dc
from loops import LOOPS

def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024

async def main():
    options = dc.CommOptions(limits=dc.Limits(untrusted_memory={budget}))
    server = dc.Server({{"make": bytes}}, trusted=False, options=options)
    server.listen({address!r})
    async with server:
        async with dc.rpc(server.address, trusted=False) as remote:
            for _ in range(3):
                await remote.echo(data=bytes(1_000_000))
        print(json.dumps([server.address, peak()]), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            used = server.listeners[0]._budget.used
            print(json.dumps([used, peak(), server.incoming_comms_open]), flush=True)

with asyncio.Runner(loop_factory=LOOPS[{loop!r}]) as runner:
    runner.run(main())
"""


@needs_proc
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("op", ["echo", "make"])
def test_strangers_that_ask_for_much_and_do_not_read_take_no_more_than_the_budget(loop, op):
    budget, size, number = 64 * MIB, 15 * MIB, 12
    requests = {"make": call("make", source=size), "echo": call("echo", data=bytes(size))}
    script = SERVER.format(folder=str(TESTS), budget=budget, address=LOOPBACK, loop=loop)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}

    async def ask():
        with subprocess.Popen([sys.executable, "-c", script], **pipes) as process:  # noqa: ASYNC220
            address, before = json.loads(process.stdout.readline())

            def look():
                print("?", file=process.stdin, flush=True)
                return json.loads(process.stdout.readline())

            async with AsyncExitStack() as stack:
                for _ in range(number):
                    raw = await stack.enter_async_context(dial_raw(address))
                    with suppress(ConnectionError):  # where even the request does not fit any more
                        await raw.send(OUR_HELLO + requests[op])
                    look()
                async with dc.rpc(address, trusted=False) as remote:
                    assert await remote.echo(data="still there") == "still there"
                used, peak, number_open = look()
                assert 2 * size < used <= budget
                assert number_open >= number or op == "echo"
            process.stdin.close()
            # beside the budget one message is being decoded and encoded: in a few copies
            print(f"{op} on {loop}: {(peak - before) / MIB:.0f} MiB")
            assert peak - before < budget + 5 * size

    asyncio.run(ask())


# -- slow readers ---------------------------------------------------------------------------------


@schemes
@pytest.mark.parametrize("size", [1_000, 5 * MIB])
def test_a_stranger_that_takes_nothing_is_cut(run, address, size):
    async def main():
        async with pair(address, options=HASTY) as (_, server):
            budget = budget_of(server)
            start = time.monotonic()
            with pytest.raises(dc.CommClosedError, match=r"took nothing .* for 0\.4 s") as caught:
                await write_on(server, size)
            assert 0.9 * GAP < time.monotonic() - start < 20 * GAP
            assert "is not trusted" in str(caught.value)
            assert not budget.used

    run(main())


@schemes
def test_a_trusted_peer_that_takes_nothing_is_not(run, address):
    async def main():
        async with pair(address, trusted=(True, True), options=HASTY) as (client, server):
            writing = asyncio.create_task(write_on(server, 100_000))
            await stuck(server)
            await asyncio.sleep(4 * GAP)
            assert not writing.done()
            assert not server.closed()
            for _ in range(100):
                assert len(await client.read()) == 100_000
            writing.cancel()
            await asyncio.wait([writing])

    run(main())


def test_a_stranger_that_leaves_a_few_bytes_unread_is_not(run):
    async def main():
        async with pair(options=HASTY) as (client, server):
            for _ in range(20):
                await server.write("x" * 1_000)
            await asyncio.sleep(4 * GAP)
            for _ in range(20):
                assert await client.read() == "x" * 1_000

    run(main())


def test_but_it_keeps_no_place_that_others_need(run):
    """Too little for the budget, so nothing else ends it; a call that it has open would."""
    options = dc.CommOptions(
        limits=dc.Limits(untrusted_connections=4), timeouts=dc.Timeouts(gap=GAP)
    )

    async def main():
        async with (
            serve({"give": bytes}, options=options) as (server, _),
            AsyncExitStack() as stack,
        ):
            server.listeners[0]._sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            for _ in range(2):
                raw = await stack.enter_async_context(dial_raw(server.address, SO_RCVBUF=2048))
                raw.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else calls bunch
                await raw.send(OUR_HELLO)
                await until(lambda raw=raw: channel_of(server, raw))
                channel = channel_of(server, raw)
                while not channel.out.unsent:
                    await raw.send(call("give", source=500))
                    await settle(50)
                assert not channel.out.held
                await until(lambda channel=channel: channel.out.stalled)
                assert channel.is_idle()
                assert not channel.closed()
            for _ in range(4):
                async with dc.rpc(server.address, trusted=False) as remote:
                    assert await remote.echo(data=1) == 1

    run(main())


def channel_of(server, raw):
    """Return the server's channel to this peer; None before there is one."""
    here = f":{raw.sock.getsockname()[1]}"
    found = (each.comm for each in server._servings if each.comm.peer_address.endswith(here))
    return next((comm.channel for comm in found), None)


def test_a_stranger_that_was_idle_is_not_cut_for_what_has_just_been_queued(run):
    """Beats at which nothing waits do not count."""

    async def main():
        async with pair(options=HASTY) as (client, server):
            channel = server.channel
            await server.write("the terms go in front of this")
            await client.read()
            for _ in range(20):
                channel.keepalive.look()
            channel.out.fresh = False  # as behind a message of the same turn
            channel.send([bytes(20_000)])
            assert channel.out.unsent
            channel.keepalive.look()
            assert not server.closed()
            assert len(await client.channel.read()) == 1

    run(main())


def test_one_that_leaves_little_unread_is_cut_where_a_writer_waits_for_it(run):
    """As when others have used up the budget: then a writer waits with less than is counted."""

    async def main():
        async with raw_pair(options=HASTY) as (_, server):
            budget = budget_of(server)
            while not server.channel.out.unsent:
                await server.write("x" * 1_000)
                await settle(50)
            assert not server.channel.out.held
            budget.change(BUDGET)
            with pytest.raises(dc.CommClosedError, match=r"took nothing .* for 0\.4 s"):
                await write_on(server, 500)
            budget.change(-BUDGET)

    run(main())


def test_a_stranger_that_reads_slowly_is_not(run):
    """So slowly that its socket never takes more: the system is asked how much is under way."""

    async def main():
        async with raw_pair(options=HASTY) as (raw, server):
            writing = asyncio.create_task(write_on(server, 5 * MIB))
            await stuck(server)
            taken = server.channel.out.taken
            loop = asyncio.get_running_loop()
            for _ in range(12):
                rest = 70_000  # more than a segment of the loopback device
                while rest:
                    rest -= len(await loop.sock_recv(raw.sock, rest))
                await asyncio.sleep(GAP / 3)
            assert not server.closed()
            assert server.channel.out.taken - taken <= 2 * MIB
            writing.cancel()
            await asyncio.wait([writing])

    run(main())


def test_a_dialler_does_not_cut_a_stranger_that_takes_nothing(run):
    """A server reads nothing while a long call runs, and who dialled it may wait for that."""

    async def main():
        async with pair(options=HASTY) as (client, server):
            writing = asyncio.create_task(write_on(client))
            await stuck(client)
            await asyncio.sleep(4 * GAP)
            assert not client.closed()
            assert not server.closed()
            writing.cancel()
            await asyncio.wait([writing])

    run(main())


# -- what is encoded in a thread ------------------------------------------------------------------

ELSEWHERE = "tcp://127.0.0.2:0"
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is an address there")
ZSTD = dc.CommOptions(compression="zstd", limits=dc.Limits(untrusted_memory=40 * MIB))


@on_linux
def test_a_reply_is_counted_while_it_waits_for_a_thread(run, monkeypatch):
    go = asyncio.Event()
    array = np.arange(3 * MIB) // 7  # 24 MiB

    async def main():
        loop = asyncio.get_running_loop()

        def wait_and_compress(*args):
            asyncio.run_coroutine_threadsafe(go.wait(), loop).result()
            return compress(*args)

        monkeypatch.setattr(compression, "compress", wait_and_compress)
        async with serve({"get": lambda: array}, ELSEWHERE, options=ZSTD) as (server, _):
            (listener,) = server.listeners
            async with (
                dc.rpc(server.address, trusted=False, options=ZSTD) as remote,
                dc.rpc(server.address, trusted=False, options=ZSTD) as other,
            ):
                first = asyncio.ensure_future(remote.get())
                await until(lambda: listener._budget.used)
                assert listener._budget.used == pytest.approx(array.nbytes, rel=0.01)
                with pytest.raises(dc.RemoteError, match="does not fit"):
                    await other.get()
                go.set()
                assert np.array_equal(await first, array)
                assert np.array_equal(await other.get(), array)
            await until(lambda: not listener._budget.used)

    run(main())


@on_linux
@pytest.mark.parametrize("codec", ["lz4", "zstd", "zlib"])
@pytest.mark.parametrize("trusted", [True, False])
def test_what_becomes_much_more_arrives_from_strangers_too(run, codec, trusted):
    """They send it as it is, because what becomes so much more is refused."""
    zeros = np.zeros(30 * MIB, "u1")

    async def main():
        options = dc.CommOptions(compression=codec)
        async with pair(ELSEWHERE, trusted=(trusted, trusted), options=options) as ends:
            for sender, receiver in (ends, ends[::-1]):
                before = receiver.stats()["bytes_received"]
                writing = asyncio.create_task(sender.write(zeros))
                assert np.array_equal(await receiver.read(), zeros)
                await writing
                came = receiver.stats()["bytes_received"] - before
                assert came < MIB if trusted else came > zeros.nbytes

    run(main())
