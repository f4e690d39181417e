"""The memory of a stranger's message counts until somebody has it, whatever it becomes."""

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from threading import Event, current_thread

import pytest
from calling import dial, serve
from loops import settle, until
from peers import HEARS_REASONS, LOOPBACK, dial_raw, frame_up

import distributed_comm as dc
from distributed_comm import _push
from distributed_comm._connection.eviction import Crowd
from distributed_comm._loops import threads
from distributed_comm._serialize.offload import Lengthy
from distributed_comm._serialize.settings import LoadOptions
from distributed_comm._wire.budget import Budget, Hold
from distributed_comm.options import CommOptions, Limits

KIB, MIB = 1024, 1024 * 1024


def budget_of(server):
    """Return the budget of strangers of a server's only listener."""
    (listener,) = server.listeners
    return listener._budget


@asynccontextmanager
async def strangers(limits=None):
    """Yield two comms of one connection, of which neither side trusts the other."""
    accepted = asyncio.get_running_loop().create_future()
    options = CommOptions(limits=limits or Limits(), compression=None)
    async with dc.listen(LOOPBACK, accepted.set_result, trusted=False, options=options) as listener:
        client = await dc.connect(listener.contact_address, trusted=False)
        async with client, await accepted as server:
            yield client, server, listener._budget


@pytest.fixture
def blocked(monkeypatch):
    """Let messages of strangers wait in their thread for an event."""
    go_on, begun = Event(), Event()
    load = _push.loads

    def loads(frames, options, *more):
        if options.most is None:
            begun.set()
            assert go_on.wait(20)
        return load(frames, options, *more)

    monkeypatch.setattr(_push, "loads", loads)
    yield begun, go_on
    go_on.set()


def test_a_request_that_has_to_wait_is_not_decoded_before(run, monkeypatch):
    """Its frames are counted; what they become would be counted by nobody."""
    decoded = []
    load = _push.loads
    monkeypatch.setattr(
        _push, "loads", lambda frames, *more: decoded.append(1) or load(frames, *more)
    )

    async def main():
        free = asyncio.Event()

        async def wait(data=None):
            await free.wait()
            return len(data)

        async with serve({"wait": wait}) as (server, _), dial(server, trusted=False) as comm:
            for size in (1, 100 * KIB, 3):
                await comm.write({"op": "wait", "data": [7] * size})
            await until(lambda: budget_of(server).used > 100 * KIB)
            await settle()
            assert len(decoded) == 1
            free.set()
            assert [await comm.read() for _ in range(3)] == [1, 100 * KIB, 3]
            assert len(decoded) == 3
            assert budget_of(server).used == 0

    run(main())


def test_a_trusted_peers_requests_are_decoded_as_they_come(run):
    async def main():
        free = asyncio.Event()

        async def wait():
            await free.wait()

        async with serve({"wait": wait}, trusted=True) as (_, remote):
            calls = [asyncio.create_task(remote.wait()) for _ in range(3)]
            await settle()
            free.set()
            await asyncio.gather(*calls)

    run(main())


def test_what_is_decoded_on_the_loop_counts_meanwhile(run, monkeypatch):
    """A message of 100 kB that becomes 3 MB does not fit into what is left."""

    async def main():
        async with strangers(Limits(untrusted_memory=2 * MIB)) as (client, server, budget):
            await client.write([[1.5] * 30_000] * 2)  # 24 and 8 bytes each, and 9 that came
            with pytest.raises(dc.MessageError, match=r"Limits\.untrusted_memory"):
                await server.read()
            await client.write([1.5] * 10_000)
            assert await server.read() == [1.5] * 10_000
            assert budget.used == 0

    run(main())


@pytest.mark.parametrize("pushed", [False, True])
def test_what_a_thread_decodes_counts_until_somebody_has_it(run, blocked, pushed):
    begun, go_on = blocked
    data = dc.Serialize(bytes(12 * MIB))

    async def main():
        async with strangers() as (client, server, budget):
            writing = asyncio.create_task(client.write(data))
            got = asyncio.get_running_loop().create_future()
            if pushed:
                server.push(lambda message, _: got.done() or got.set_result(message))
            else:
                reading = asyncio.create_task(server.read())
                reading.add_done_callback(lambda done: got.set_result(done.result()))
            await until(begun.is_set)
            await until(lambda: budget.used >= 12 * MIB)
            go_on.set()
            assert await got == bytes(12 * MIB)
            assert budget.used == 0
            await writing
            if pushed:
                server.push(None)

    run(main())


def test_a_message_that_nobody_reads_any_more_is_given_back(run, blocked):
    begun, go_on = blocked

    async def main():
        async with strangers() as (client, server, budget):
            writing = asyncio.create_task(client.write(dc.Serialize(bytes(12 * MIB))))
            reading = asyncio.create_task(server.read())
            await until(begun.is_set)
            reading.cancel()
            server.abort()
            await asyncio.wait([reading, writing])
            go_on.set()
        del reading, writing, server, client
        await until(lambda: gc.collect() >= 0 and budget.used == 0)

    run(main())


def test_a_message_that_does_not_fit_is_an_error_and_the_next_one_arrives(run):
    async def main():
        async with strangers(Limits(untrusted_memory=20 * MIB)) as (client, server, budget):
            budget.change(7 * MIB)  # others'
            writing = asyncio.create_task(client.write(dc.Serialize(bytes(11 * MIB))))
            with pytest.raises(dc.MessageError, match=r"Limits\.untrusted_memory"):
                await server.read()
            await writing
            await client.write("next")
            assert await server.read() == "next"
            assert budget.used == 7 * MIB

    run(main())


def test_a_refusal_that_nobody_reads_is_no_error_of_the_loop(run):
    budget = Budget(10)

    async def main():
        options = LoadOptions(budget=budget)
        decoding = _push.Decoding.begin([bytes(11)], options, Lengthy([]), None)
        assert decoding.message.done()
        assert budget.used == 0

    run(main())


@pytest.mark.parametrize("why", ["refused", "turned away", "aborted"])
def test_what_came_right_behind_the_hello_of_one_that_did_not_stay_is_given_back(
    run, monkeypatch, why
):
    """Nobody will read it; and no collection of cycles is waited for."""
    trust = {"key": b"k" * 32, "require_trust": True} if why == "refused" else {"trusted": False}
    if why == "turned away":
        monkeypatch.setattr(Crowd, "settle", lambda *_: False)

    async def main():
        async with dc.listen(LOOPBACK, lambda comm: comm.abort(), **trust) as listener:
            gc.disable()
            try:
                async with dial_raw(listener) as raw:
                    await raw.send(HEARS_REASONS + 3 * frame_up(bytes(20 * KIB)))
                    await raw.is_cut()
                    assert listener._budget.used == 0
                await until(lambda: not listener._connections)
                assert listener._budget.used == 0
            finally:
                gc.enable()

    run(main())


def test_a_hold_is_given_back_once_and_also_when_it_is_forgotten():
    budget = Budget(100)
    hold = Hold(budget)
    hold.change(60)
    hold.change(-50)  # what is decoded is still there
    assert budget.used == 60
    with pytest.raises(ValueError, match="untrusted_memory"):
        hold.change(41)
    hold.release()
    hold.release()
    assert budget.used == 0
    hold.change(30)
    del hold
    assert budget.used == 0


# -- without threads ------------------------------------------------------------------------


@pytest.fixture
def no_threads(monkeypatch):
    """Let the system have no thread for anybody."""

    def submit(self, work):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads.ThreadPoolExecutor, "submit", submit)


def test_without_threads_a_strangers_long_message_is_an_error_and_the_next_arrives(run, no_threads):
    async def main():
        async with strangers() as (client, server, budget):
            writing = asyncio.create_task(client.write(dc.Serialize(bytes(12 * MIB))))
            with pytest.raises(dc.MessageError, match="can't start new thread"):
                await server.read()
            await writing
            await client.write("next")
            assert await server.read() == "next"
            assert budget.used == 0

    run(main())


def test_without_threads_trusted_peers_are_served_on_the_loop(run, no_threads):
    async def main():
        async with serve(trusted=True) as (_, remote):
            data = {"pickled": Payload(bytes(12 * MIB))}
            assert await remote.echo(data=data) == data
        assert await dc.resolve_address_async("tcp://localhost:1") == "tcp://127.0.0.1:1"

    run(main())


class Payload:
    """What only a pickle can hold."""

    def __init__(self, load):
        self.load = load

    def __eq__(self, other):
        return self.load == other.load

    __hash__ = None


def test_a_pool_is_bounded_named_and_made_anew_behind_a_fork(monkeypatch):
    pool = threads.Pool("test", 2)
    names, go_on = [], Event()

    def work():
        names.append(current_thread().name)
        assert go_on.wait(20)

    for _ in range(5):
        pool.submit(work)
    go_on.set()
    done = Event()
    pool.submit(done.set)
    assert done.wait(20)
    assert {name.rpartition("_")[0] for name in names} == {"distributed_comm test"}
    assert len(set(names)) <= 2
    before = pool._executor
    monkeypatch.setattr(threads.os, "getpid", lambda: -1)
    pool.submit(done.clear)
    assert pool._executor is not before


def test_nothing_of_ours_runs_in_the_loops_own_threads(run, monkeypatch):
    def refuse(*_):
        raise AssertionError("the program's own executor is used")

    monkeypatch.setattr(asyncio.BaseEventLoop, "run_in_executor", refuse)

    async def main():
        loop = asyncio.get_running_loop()
        executor = ThreadPoolExecutor(1)
        executor.submit = refuse
        loop.set_default_executor(executor)
        assert await dc.resolve_address_async("tcp://localhost:1") == "tcp://127.0.0.1:1"
        async with strangers() as (client, server, _):
            writing = asyncio.create_task(client.write(dc.Serialize(bytes(12 * MIB))))
            assert await server.read() == bytes(12 * MIB)
            await writing

    run(main())
