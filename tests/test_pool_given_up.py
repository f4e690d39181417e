"""What ends a call in the middle: cancelled, given up by its pool, or both. No room is lost."""

import asyncio
import random
from contextlib import asynccontextmanager

import pytest
from calling import LOOPBACK, everywhere, serve
from loops import settle, until

import distributed_comm as dc
from distributed_comm._calls.checkout import Plan
from distributed_comm._calls.waiters import Waiter

# -- calls that close their comm --------------------------------------------------------------


def test_a_call_cancelled_while_it_closes_its_comm_leaves_its_room(run):
    async def main():
        comms: list[dc.Comm] = []
        async with (
            dc.listen(LOOPBACK, comms.append) as listener,
            dc.rpc(listener.contact_address, limit=1) as remote,
        ):
            closing = asyncio.ensure_future(remote.first(close=True))
            await answer(comms, 0)
            await until(comms[0].closed)  # the caller has said goodbye, and waits for ours
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            following = asyncio.ensure_future(remote.second())
            await answer(comms, 1)
            assert await following == 1
            for comm in comms:
                comm.abort()

    run(main())


async def answer(comms, number):
    await until(lambda: len(comms) > number)
    await comms[number].read()
    await comms[number].write(number)


@everywhere
def test_calls_that_close_cancelled_anywhere_leave_all_rooms(run, where):
    rng = random.Random(8)
    limit = 3

    async def slowly(x, turns):
        for _ in range(turns):
            await asyncio.sleep(0)
        return x

    async def main():
        loop = asyncio.get_running_loop()
        async with (
            serve({"slowly": slowly}, where) as (server, _),
            dc.rpc(server.address, limit=limit) as remote,
        ):
            plan, cancelled = remote._own._plan, 0
            for _ in range(60):
                calls = [
                    loop.create_task(
                        remote.slowly(x=x, turns=rng.randrange(4), close=rng.random() < 0.7)
                    )
                    for x in range(12)
                ]
                for call in calls:
                    if rng.random() < 0.5:
                        loop.call_later(rng.random() * 0.003, call.cancel)
                await asyncio.wait(calls)
                for x, call in enumerate(calls):
                    assert call.cancelled() or call.result() == x
                cancelled += sum(call.cancelled() for call in calls)
                assert remote._own.active == 0
                assert plan.count == len(plan.members) <= limit
            assert cancelled > 30
            waits = [remote.slowly(x=x, turns=3) for x in range(limit)]
            assert await asyncio.gather(*waits) == [*range(limit)]

    run(main())


# -- what is being opened, and what waits ----------------------------------------------------


@asynccontextmanager
async def nobody_greets(**kwargs):
    """Yield a pool and an address where the kernel takes connections, and nobody greets."""
    listener = dc.listen(LOOPBACK, print)
    listener.bind()
    try:
        async with dc.ConnectionPool(**kwargs) as pool:
            yield pool, listener.contact_address
    finally:
        listener.stop()


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("again", ["remove", "close"])
def test_what_is_being_opened_may_be_given_up_twice(run, again, turns):
    async def main():
        async with nobody_greets() as (pool, address):
            calls = [asyncio.ensure_future(pool(address).identity()) for _ in range(3)]
            await until(lambda: len(pool._acquiring.get(address, ())) == 3)
            pool.remove(address)
            await settle(turns)
            if again == "remove":
                pool.remove(address)
            else:
                await pool.close()
            for call in calls:
                with pytest.raises(dc.CommClosedError, match="gave up"):
                    await call
                assert not call.cancelled()
            assert pool._plan.count == 0

    run(main())


@pytest.mark.parametrize("turns", range(3))
@pytest.mark.parametrize("first", ["remove", "cancel"])
@pytest.mark.parametrize("state", ["opening", "waiting"])
def test_who_is_cancelled_and_given_up_is_cancelled(run, state, first, turns):
    async def main():
        async with nobody_greets(limit=1) as (pool, address):
            opening = asyncio.ensure_future(pool.connect(address))
            await until(lambda: pool._acquiring)
            waiting = asyncio.ensure_future(pool.connect(address))
            await until(lambda: pool._plan.waiters)
            call, other = (opening, waiting) if state == "opening" else (waiting, opening)
            if first == "remove":
                pool.remove(address)
                call.cancel()
            else:
                call.cancel()
                await settle(min(turns, 1))
                pool.remove(address)
            await settle(turns)
            await asyncio.wait([call, other])
            assert call.cancelled()
            assert isinstance(other.exception(), dc.CommClosedError)
            assert pool._plan.count == 0

    run(main())


def test_who_gives_up_what_was_given_up_goes_on_uncancelled(run):
    async def main():
        async with nobody_greets() as (pool, address):

            async def call():
                with pytest.raises(dc.CommClosedError):
                    await pool(address).identity()
                return asyncio.current_task().cancelling()

            calling = asyncio.ensure_future(call())
            await until(lambda: pool._acquiring)
            pool.remove(address)
            assert await calling == 0

    run(main())


def test_room_that_came_as_the_pool_was_closed_is_not_used(run):
    async def main():
        async with serve() as (server, _):
            pool = dc.ConnectionPool(limit=1)
            comm = await pool.connect(server.address)
            waiting = asyncio.ensure_future(pool.connect(server.address))
            await until(lambda: pool._plan.waiters)
            comm.abort()
            pool.reuse(server.address, comm)  # its room goes to who waits …
            await pool.close()  # … and does not know it yet
            with pytest.raises(dc.CommClosedError, match=f"gave up {server.address}"):
                await waiting
            assert pool._plan.count == 0

    run(main())


# -- reasons ---------------------------------------------------------------------------------


def test_every_call_that_is_given_up_hears_why(run):
    async def main():
        go = asyncio.Event()
        async with (
            serve({"wait": go.wait}) as (server, _),
            dc.ConnectionPool(limit=1) as pool,
        ):
            busy = asyncio.ensure_future(pool(server.address).wait())
            await until(lambda: server.incoming_comms_active)
            waiting = asyncio.ensure_future(pool(server.address).wait())
            await until(lambda: pool._plan.waiters)
            pool.remove(server.address, reason="it moves house")
            with pytest.raises(dc.CommClosedError) as info:
                await busy
            assert info.value.__notes__ == [
                f"while calling 'wait' of {server.address}: it moves house"
            ]
            with pytest.raises(dc.CommClosedError, match=f"{server.address}: it moves house"):
                await waiting
            go.set()
        async with nobody_greets() as (pool, address):
            opening = asyncio.ensure_future(pool(address).identity())
            await until(lambda: pool._acquiring)
            pool.remove(address, reason="it moves house")
            with pytest.raises(dc.CommClosedError, match=f"{address}: it moves house"):
                await opening

    run(main())


# -- comms that were closed behind a reply -------------------------------------------------------


class Line:
    """What the plan needs to know of a comm."""

    is_closed = False

    def closed(self):
        return self.is_closed


def test_a_comm_that_is_closed_is_handed_to_nobody(run):
    async def main():
        discarded = []
        plan = Plan(1, discarded.append, lambda: True)
        plan.may_open()
        comm = Line()
        plan.opened("a", comm)
        waiter = Waiter("a", asyncio.get_running_loop().create_future())
        plan.waiters.append(waiter)
        comm.is_closed = True
        plan.put_back_sound("a", comm)
        assert waiter.future.result() is None  # it opens one in its place
        assert discarded == [comm]
        assert plan.count == 1

    run(main())


@everywhere
def test_a_server_that_closes_behind_its_reply_fails_no_call(run, where):
    async def leave(comm, x):
        await comm.write(x)
        await comm.close()
        return dc.Status.dont_reply

    async def main():
        async with (
            serve({"leave": leave}, where) as (server, _),
            dc.rpc(server.address, limit=1) as remote,
        ):
            if where == LOOPBACK:  # where the end may come while the next request is on its way
                for x in range(20):
                    assert await remote.leave(x=x) == x
                    await until(lambda: all(comm.closed() for comm in remote._own._plan.members))
            else:
                calls = [remote.leave(x=x) for x in range(20)]
                assert await asyncio.gather(*calls) == [*range(20)]

    run(main())


def test_a_comm_that_closes_between_two_calls_is_replaced(run):
    async def main():
        async with serve() as (server, _), dc.ConnectionPool(limit=1) as pool:
            comm = await pool.connect(server.address)
            waiting = asyncio.ensure_future(pool.connect(server.address))
            await until(lambda: pool._plan.waiters)
            pool.reuse(server.address, comm)
            comm.abort()  # it was handed over, and who waited has not run yet
            fresh = await waiting
            assert not fresh.closed()
            assert pool.open == pool._plan.count == 1
            pool.reuse(server.address, fresh)

    run(main())


def test_the_reader_of_a_stream_hears_why(run):
    async def count():
        number = 0
        while True:
            yield (number := number + 1)
            await asyncio.sleep(0)

    async def main():
        async with serve({"count": count}) as (server, _), dc.ConnectionPool() as pool:
            stream = pool(server.address).count.stream()
            assert await anext(stream) == 1
            pool.remove(server.address, reason="it moves house")
            with pytest.raises(dc.CommClosedError) as caught:
                async for _ in stream:
                    pass
            assert "it moves house" in caught.value.__notes__[0]

    run(main())
