"""The pool of comms: its bound, who is served next, and what is given up."""

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack

import pytest
from calling import LOOPBACK, serve
from hypothesis import given
from hypothesis import strategies as st
from loops import until

import distributed_comm as dc
from distributed_comm._calls.checkout import Plan
from distributed_comm._calls.waiters import MOST_PASSES, Waiter


class Line:
    """What the plan needs to know of a comm."""

    def __init__(self):
        self.is_closed = self.has_unread = False
        self.fresh = True

    def closed(self):
        return self.is_closed

    def unread(self):
        return self.has_unread

    def is_fresh(self):
        return self.fresh and self.is_sound()

    def is_sound(self):
        return not (self.is_closed or self.has_unread)

    def discard(self):
        self.is_closed = True


def here():
    return True


# -- the plan ---------------------------------------------------------------------------------


def test_a_comm_that_comes_back_goes_to_who_waits_for_its_address(run):
    async def main():
        discarded = []
        plan = Plan(1, discarded.append, here)
        assert plan.may_open()
        comm = Line()
        plan.opened("a", comm)
        assert not plan.may_open()
        waiters = [wait(plan, address) for address in ("b", "a", "a")]
        plan.put_back("a", comm)
        assert [waiter.future.done() for waiter in waiters] == [False, True, False]
        assert waiters[1].future.result() is comm
        plan.put_back("a", comm)
        assert waiters[2].future.result() is comm
        plan.put_back("a", comm)
        assert waiters[0].future.result() is None  # it may open one instead
        assert discarded == [comm]
        assert plan.count == 1

    run(main())


def test_who_waits_for_another_address_is_not_passed_over_for_ever(run):
    async def main():
        discarded = []
        plan = Plan(1, discarded.append, here)
        plan.may_open()
        comm = Line()
        plan.opened("a", comm)
        other = wait(plan, "b")
        for _ in range(MOST_PASSES):
            mine = wait(plan, "a")
            plan.put_back("a", comm)
            assert mine.future.result() is comm
            assert not other.future.done()
        wait(plan, "a")
        plan.put_back("a", comm)
        assert other.future.result() is None
        assert discarded == [comm]

    run(main())


def wait(plan, address):
    waiter = Waiter(address, asyncio.get_running_loop().create_future())
    plan.waiters.append(waiter)
    return waiter


class Model:
    """The callers of a plan: who holds, opens and waits for what."""

    def __init__(self, limit):
        self.plan = Plan(limit, Line.discard, here)
        self.held: list[Line] = []
        self.opening: list[str] = []
        self.waiting: list[Waiter] = []
        self.passes: Counter[Waiter] = Counter()

    def call(self, number):
        address = "ab"[number % 2]
        comm = self.plan.take(address)
        if comm is not None:
            self.held.append(comm)
        elif self.plan.may_open():
            self.opening.append(address)
        else:
            self.waiting.append(wait(self.plan, address))

    def give_back(self, number):
        if self.held:
            comm = self.held.pop(number % len(self.held))
            before = [waiter for waiter in self.waiting if not waiter.future.done()]
            give = self.plan.put_back if number % 2 else self.plan.put_back_sound
            give(self.plan.members[comm], comm)
            for index, waiter in enumerate(before):
                if waiter.future.done():  # those before it were passed over
                    self.passes.update(before[:index])

    def succeed(self, _):
        if self.opening:
            self.held.append(Line())
            self.plan.opened(self.opening.pop(), self.held[-1])

    def fail(self, _):
        if self.opening:
            self.opening.pop()
            self.plan.make_room()

    def lose(self, number):
        if self.held:
            self.held[number % len(self.held)].is_closed = True

    def send_unasked(self, number):
        if self.held:
            self.held[number % len(self.held)].has_unread = True

    def grow_stale(self, number):
        for comms in self.plan.idle.values():
            for comm in comms:
                comm.fresh, comm.is_closed = False, number % 2 == 1

    def remove(self, number):
        """Give up an address; its callers lose their comms, and those that wait are told so."""
        address = "ab"[number % 2]
        for waiter in [waiter for waiter in self.waiting if waiter.address == address]:
            waiter.future.cancel()
            self.waiting.remove(waiter)
        self.plan.collect(address)
        for comm in self.plan.disown(address):
            self.held.remove(comm)

    def give_up(self, number):
        if self.waiting:
            self.waiting.pop(number % len(self.waiting)).future.cancel()

    def collect(self, number):
        self.plan.collect([None, "a", "b"][number % 3])

    def settle(self):
        """Do what a waiter does that got an answer."""
        for waiter in [waiter for waiter in self.waiting if waiter.future.done()]:
            self.waiting.remove(waiter)
            comm = waiter.future.result()
            if comm is None:
                self.opening.append(waiter.address)
            else:
                assert self.plan.members[comm] == waiter.address
                self.held.append(comm)

    def check(self):
        plan = self.plan
        idle = [comm for comms in plan.idle.values() for comm in comms]
        assert plan.count == len(idle) + len(self.held) + len(self.opening) <= plan.limit
        assert plan.members.keys() == {*idle, *self.held}
        assert not (idle and self.waiting)
        grouped = {comm: key for key, comms in plan.by_address.items() for comm in comms}
        assert grouped == plan.members
        assert len(plan.idle) <= len(plan.members)
        assert bool(plan.waiters) >= bool(self.waiting)
        self.check_order()

    def check_order(self):
        """Compare how often each was passed over with MOST_PASSES."""
        alive = [waiter for waiter in self.waiting if not waiter.future.done()]
        for waiter in alive:
            assert self.passes.get(waiter, 0) <= MOST_PASSES


ACTIONS = ["call", "call", "give_back", "succeed", "succeed", "fail", "lose", "give_up", "collect"]
ACTIONS += ["send_unasked", "grow_stale", "remove"]
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 9)), max_size=80)


@given(STEPS, st.integers(1, 4))
def test_the_plan_keeps_its_bound_and_its_count_whatever_happens(steps, limit):
    async def main():
        model = Model(limit)
        for action, number in steps:
            getattr(model, action)(number)
            model.settle()
            model.check()

    asyncio.run(main())


# -- the pool -----------------------------------------------------------------------------------


async def slowly(x):
    await asyncio.sleep(0)
    return x


HANDLERS = {"slowly": slowly, "add": lambda x, y: x + y}


def test_a_pool_serves_many_addresses_within_its_limit(run):
    async def main():
        async with AsyncExitStack() as stack:
            servers = [(await stack.enter_async_context(serve(HANDLERS)))[0] for _ in range(5)]
            async with dc.ConnectionPool(limit=4) as pool:
                remotes = [pool(server.address) for server in servers]
                rng = random.Random(1)
                calls = [rng.choice(remotes).slowly(x=i) for i in range(300)]
                assert await asyncio.gather(*calls) == list(range(300))
                assert pool.open <= pool.limit == 4
                assert pool.active == 0
                assert repr(pool) == f"<ConnectionPool: {pool.open} open, 0 in use, of 4>"
                assert repr(remotes[0]) == f"<Remote to {servers[0].address}>"
                pool.collect()
                assert pool.open == 0
            with pytest.raises(dc.CommClosedError):
                await remotes[0].slowly(x=1)

    run(main())


def test_a_full_pool_does_not_dial_again_for_an_address_that_is_waited_for(run):
    async def main():
        async with serve(HANDLERS) as (server, _), dc.ConnectionPool(limit=1) as pool:
            comm = await pool.connect(server.address)
            waiting = asyncio.ensure_future(pool.connect(server.address))
            await asyncio.sleep(0)
            pool.reuse(server.address, comm)
            assert await waiting is comm
            pool.reuse(server.address, comm)
            assert pool.open == 1

    run(main())


def test_who_stops_waiting_leaves_the_comm_to_the_next(run):
    async def main():
        async with serve(HANDLERS) as (server, _), dc.ConnectionPool(limit=1) as pool:
            comm = await pool.connect(server.address)
            first, second, third = (
                asyncio.ensure_future(pool.connect(server.address)) for _ in range(3)
            )
            await asyncio.sleep(0)
            first.cancel()
            pool.reuse(server.address, comm)  # to the second …
            second.cancel()  # … which is gone before it knows
            assert await third is comm
            pool.reuse(server.address, comm)
            assert (pool.open, pool.active) == (1, 0)

    run(main())


def test_an_address_that_is_removed_takes_its_calls_along(run):
    async def main():
        never = asyncio.Event()
        handlers = {**HANDLERS, "wait": never.wait}
        async with (
            serve(handlers) as (gone, _),
            serve(handlers) as (stays, _),
            dc.ConnectionPool(limit=4) as pool,
        ):
            calls = [asyncio.ensure_future(pool(gone.address).wait()) for _ in range(4)]
            await until(lambda: gone.incoming_comms_active == 4)
            waits = asyncio.ensure_future(pool(gone.address).wait())
            other = asyncio.ensure_future(pool(stays.address).slowly(x=1))
            await asyncio.sleep(0)
            pool.remove(gone.address)
            for call in [*calls, waits]:
                with pytest.raises(dc.CommClosedError):
                    await call
            assert await other == 1
            assert pool.open == 1
            never.set()

    run(main())


def test_dialling_ends_when_its_address_is_removed_or_the_pool_closed(run):
    async def main():
        for end in ("remove", "close"):
            # a listener that nobody starts: the kernel takes connections, nobody greets
            listener = dc.listen(LOOPBACK, print)
            listener.bind()
            pool = dc.ConnectionPool(limit=1)
            dialling = asyncio.ensure_future(pool(listener.contact_address).identity())
            waiting = asyncio.ensure_future(pool(listener.contact_address).identity())
            await until(lambda pool=pool: pool._acquiring)
            if end == "remove":
                pool.remove(listener.contact_address)
            else:
                await pool.close()
            for call in dialling, waiting:
                with pytest.raises(dc.CommClosedError):
                    await call
            assert pool._plan.count == 0
            await pool.close()
            listener.stop()

    run(main())


def test_a_dial_that_fails_makes_room(run):
    async def main():
        async with serve(HANDLERS) as (server, _):
            dead = dc.listen(LOOPBACK, print)
            dead.bind()
            address = dead.contact_address
            dead.stop()
            async with dc.ConnectionPool(limit=1, timeout=0.05) as pool:
                failing = asyncio.ensure_future(pool(address).identity())
                await asyncio.sleep(0)
                assert await pool(server.address).add(x=1, y=2) == 3
                with pytest.raises(OSError, match="Timed out"):
                    await failing
                assert pool.open == 1
        with pytest.raises(ValueError, match="at least 1"):
            dc.ConnectionPool(limit=0)

    run(main())
