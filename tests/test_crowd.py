"""Which stranger goes when there are too many, and who never does."""

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from itertools import count
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loops import settle, until
from peers import DASK_HELLO, GOODBYE, LOOPBACK, OUR_HELLO, dial_raw, echo, frame_up, pack

import distributed_comm as dc
from distributed_comm import _kernels
from distributed_comm._connection import eviction
from distributed_comm._connection.eviction import GRACE, Crowd
from distributed_comm._logs import Log
from distributed_comm._loops import descriptors
from distributed_comm._wire.hello import encode, local_hello

#: The hello of a peer that is told why it is refused, and then may linger.
HEARS_REFUSALS = frame_up(encode(local_hello()))
KEY = "what trusted peers hold"


def options(timeouts=None, **limits) -> dc.CommOptions:
    return dc.CommOptions(limits=dc.Limits(**limits), timeouts=dc.Timeouts(**(timeouts or {})))


# The policy, without sockets


class Guest:
    """A connection of which everything is said."""

    def __init__(self, name: object) -> None:
        self.peer_address = str(name)
        self.place = None
        self.busy = self.news = False
        self.surplus = 0
        self.mid_message = False
        self.gone = ""

    def is_idle(self) -> bool:
        return not (self.busy or self.news)

    def has_news(self) -> bool:
        return self.news

    def receive_through(self, place) -> None:
        place.framing = self

    def receive(self, nbytes: int) -> list:
        """Stand in for the framing, too: each byte is a message."""
        return [[b"x"]] * nbytes

    def evict(self, why: str) -> None:
        self.gone = why


def patch_clocks(patch, clock) -> None:
    for module in (eviction, _kernels.turns):
        patch.setattr(module, "monotonic", clock)


class Clock:
    def __init__(self, monkeypatch=None) -> None:
        self.now = 1000.0
        if monkeypatch is not None:
            patch_clocks(monkeypatch, self)

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float = GRACE) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def crowd_of(count: int, clock: Clock, most: int = 100) -> tuple[Crowd, list[Guest]]:
    """Return strangers that settled one after the other."""
    found, guests = (
        Crowd(options(untrusted_connections=most), Log()),
        [Guest(n) for n in range(count)],
    )
    for guest in guests:
        found.join(guest)
        assert found.settle(guest)
        clock.pass_by()
    return found, guests


def gone(guests) -> list[int]:
    return [n for n, guest in enumerate(guests) if guest.gone]


def test_the_one_that_has_been_idle_longest_goes(clock):
    strangers, guests = crowd_of(4, clock)
    guests[0].place.receive(1)
    clock.pass_by()
    assert strangers.evict("full")
    assert gone(guests) == [1]
    assert strangers.evict("full")
    assert gone(guests) == [1, 2]
    assert len(strangers) == 2


def test_a_part_of_a_message_is_activity_and_a_control_message_is_none(clock):
    strangers, guests = crowd_of(3, clock)
    guests[0].place.receive(0)
    guests[1].mid_message = True
    guests[1].place.receive(0)
    clock.pass_by()
    assert strangers.evict("full")
    assert gone(guests) == [0]
    assert strangers.evict("full")
    assert gone(guests) == [0, 2]


@pytest.mark.parametrize("why", ["busy", "news", "in use", "publishing"])
def test_one_that_is_not_idle_stays_and_is_looked_at_last_again(clock, why):
    strangers, guests = crowd_of(3, clock)
    first = guests[0]
    if why == "in use":
        first.place.in_use = lambda: True
    elif why == "publishing":
        first.surplus += 1
    else:
        setattr(first, why, True)
    assert strangers.evict("full")
    assert gone(guests) == [1]
    assert strangers.evict("full")
    assert gone(guests) == [1, 2]
    assert strangers.evict("full") is (why == "publishing")  # it is idle now, as far as is known


def test_a_handshake_goes_once_it_has_taken_long_enough_whatever_it_sends(clock):
    strangers, guests = crowd_of(0, clock)
    slow = Guest("slow")
    strangers.join(slow)
    assert not strangers.evict("full")
    clock.pass_by(GRACE / 2)
    assert strangers.patience() == pytest.approx(GRACE / 2)
    assert not strangers.evict("full")
    clock.pass_by()
    slow.news = True  # our loop may have been blocked: once that is a reason to wait
    assert not strangers.evict("full")
    clock.pass_by()
    assert strangers.evict("full")
    assert slow.gone
    assert not guests


def test_one_who_was_refused_goes_first_and_at_once(clock):
    strangers, guests = crowd_of(2, clock)
    refused = Guest("refused")
    strangers.join(refused)
    strangers.part(refused)
    assert strangers.evict("full")
    assert refused.gone
    assert gone(guests) == []


def test_one_that_turns_out_to_be_trusted_is_no_part_of_the_crowd(clock):
    strangers, _ = crowd_of(0, clock)
    friend = Guest("friend")
    strangers.join(friend)
    strangers.leave(friend)
    clock.pass_by(1000)
    assert not strangers.evict("full")
    assert len(strangers) == 0
    strangers.leave(friend)  # when it is lost


def test_busy_strangers_leave_places_for_handshakes(clock):
    strangers, guests = crowd_of(6, clock, most=8)
    for guest in guests:
        guest.busy = True
    another = Guest("another")
    strangers.join(another)
    assert not strangers.is_full()
    assert not strangers.settle(another)
    guests[3].busy = False
    clock.pass_by()
    assert strangers.settle(another)
    assert gone(guests) == [3]


def test_of_two_crowds_of_a_loop_the_one_idle_longest_goes(clock, monkeypatch):
    monkeypatch.setattr(eviction, "_crowds", [])
    loop = asyncio.new_event_loop()
    (one, first), (two, second) = crowd_of(1, clock), crowd_of(1, clock)
    for strangers in (one, two):
        strangers.begin(loop, 5)
    first[0].place.receive(1)
    clock.pass_by()
    assert eviction.relieve(loop)
    assert (gone(first), gone(second)) == ([], [0])
    assert eviction.relieve(loop)
    assert not eviction.relieve(loop)
    loop.close()


def test_a_crowd_elsewhere_turns_nobody_away_here(clock, monkeypatch):
    """All crowds share the descriptors, so one may have to go from another listener."""
    monkeypatch.setattr(eviction, "_crowds", [])
    loop = asyncio.new_event_loop()
    (one, first), (two, _) = crowd_of(6, clock), crowd_of(0, clock)
    for strangers in (one, two):
        strangers.begin(loop, 5)
    monkeypatch.setattr(descriptors, "ceiling", lambda: 5 + 2 * 8)  # so 8 strangers, 6 settled
    for n in range(3):
        another = Guest(f"another {n}")
        two.join(another)
        assert two.settle(another)
        clock.pass_by()
    assert gone(first) == [0, 1, 2]
    loop.close()


def test_of_crowds_of_other_loops_the_first_that_has_an_idle_one_is_asked(clock, monkeypatch):
    monkeypatch.setattr(eviction, "_crowds", [])
    loops = [asyncio.new_event_loop() for _ in range(4)]
    crowds = [crowd_of(1, clock) for _ in loops]
    for (strangers, _), loop in zip(crowds, loops, strict=True):
        strangers.begin(loop, 5)
    (_, (busy,)), (_, (idle,)), (_, (spared,)) = crowds[1:]
    busy.busy = True
    ours, *others = loops
    crowds[0][0].leave(crowds[0][1][0])
    assert not eviction.relieve(ours)
    for _ in others:
        for loop in others:
            loop.run_until_complete(asyncio.sleep(0))
    assert (busy.gone, idle.gone, spared.gone) == ("", eviction.SCARCE, "")
    for loop in loops:
        loop.close()


def test_a_listener_that_was_started_before_a_fork_too_counts_once(clock, monkeypatch):
    monkeypatch.setattr(eviction, "_crowds", [])
    loop = asyncio.new_event_loop()
    strangers, _ = crowd_of(0, clock)
    strangers.begin(loop, 5)
    strangers.forked()
    strangers.begin(loop, 5)
    monkeypatch.setattr(descriptors, "ceiling", lambda: 5 + 2 * 2)
    strangers.join(Guest("the first"))
    assert not eviction.are_too_many()
    strangers.join(Guest("the second"))
    assert eviction.are_too_many()
    loop.close()


steps = st.lists(
    st.tuples(st.sampled_from(["join", "settle", "stir", "busy", "idle", "leave", "evict", "wait"]),
              st.integers(0, 7)),
    max_size=80,
)  # fmt: skip


@given(steps)
def test_it_does_as_a_list_that_is_sorted_each_time(todo):
    """The queues against the rule, told without them."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch_clocks(patch, clock)
        strangers = Crowd(options(untrusted_connections=1000), Log())
        known: dict[int, Guest] = {}
        since: dict[int, tuple[float, int]] = {}
        settled: set[int] = set()
        numbers = count()
        for what, n in todo:
            clock.pass_by(GRACE / 3)
            if what == "join" and n not in known:
                known[n] = Guest(n)
                since[n] = clock.now, next(numbers)
                strangers.join(known[n])
            elif what == "wait":
                clock.pass_by(GRACE * n)
            elif what == "evict":
                idle = {k for k in settled if not known[k].busy}
                for k in sorted(settled - idle, key=since.get):  # those in front are active now
                    if since[k] < min(map(since.get, idle), default=(inf,)):
                        since[k] = clock.now, next(numbers)
                late = {k for k in known.keys() - settled if clock.now - since[k][0] >= GRACE}
                assert strangers.evict("full") is bool(idle | late)
                if idle | late:
                    due = min(idle | late, key=since.get)
                    assert known.pop(due).gone
                    settled.discard(due)
                assert not any(guest.gone for guest in known.values())
            elif n in known and what == "settle" and n not in settled:
                assert strangers.settle(known[n])
                settled.add(n)
                since[n] = clock.now, next(numbers)
            elif n in settled and what == "stir":
                known[n].place.receive(1)
                since[n] = clock.now, next(numbers)
            elif n in settled and what in {"busy", "idle"}:
                known[n].busy = what == "busy"
            elif n in known and what == "leave":
                strangers.leave(known.pop(n))
                settled.discard(n)
            assert len(strangers) == len(known)


# With sockets


async def raw_stranger(stack, listener, hello=OUR_HELLO):
    raw = await stack.enter_async_context(dial_raw(listener))
    await raw.send(hello)
    await raw.read_message()
    return raw


def test_a_full_quota_makes_place_for_the_next_and_says_goodbye(run):
    async def main():
        limited = options(untrusted_connections=4)
        async with (
            dc.listen(LOOPBACK, echo, options=limited, key=KEY) as listener,
            AsyncExitStack() as stack,
        ):
            idle = [await raw_stranger(stack, listener) for _ in range(3)]
            await idle[0].send(pack("active"))
            assert await idle[0].read_message() == "active"
            for _ in range(20):  # each of them in the place of one that is idle
                async with await dc.connect(listener.contact_address, key="another") as comm:
                    await comm.write("hello")
                    assert await comm.read() == "hello"
            assert await idle[1].read_message() == GOODBYE[-4:]
            with pytest.raises(EOFError):
                await idle[1].read_exactly(1)

    run(main())


def test_silent_strangers_do_not_fill_the_handshakes(run):
    async def main():
        async with (
            dc.listen(LOOPBACK, echo, options=options(handshakes=3), key=KEY) as listener,
            AsyncExitStack() as stack,
        ):
            silent = [await stack.enter_async_context(dial_raw(listener)) for _ in range(9)]
            start = time.monotonic()
            async with await dc.connect(listener.contact_address, key=KEY, timeout=25) as comm:
                assert comm.trusted
            assert time.monotonic() - start < 5  # a handshake may take 10 s
            assert await silent[0].is_cut()

    run(main())


def test_nobody_goes_before_somebody_comes(run):
    async def main():
        limited = options(untrusted_connections=4)
        async with (
            dc.listen(LOOPBACK, echo, options=limited, key=KEY) as listener,
            AsyncExitStack() as stack,
        ):
            for _ in range(3):
                await raw_stranger(stack, listener)
            await stack.enter_async_context(dial_raw(listener))
            await until(lambda: len(listener._crowd) == 4)
            await settle(100)
            assert listener._crowd.settled == 3
            await stack.enter_async_context(dial_raw(listener))
            await until(lambda: listener._crowd.settled == 2)

    run(main())


def test_handshakes_are_part_of_the_quota(run):
    async def main():
        limited = options(untrusted_connections=4)
        async with (
            dc.listen(LOOPBACK, echo, options=limited, key=KEY) as listener,
            AsyncExitStack() as stack,
        ):
            for _ in range(9):
                await stack.enter_async_context(dial_raw(listener))
            await settle(100)
            assert len(listener._connections) == 4
            async with await dc.connect(listener.contact_address, key=KEY) as comm:
                assert comm.trusted
                assert len(listener._connections) <= 5

    run(main())


@pytest.mark.parametrize("limits", [{"untrusted_connections": 4}, {"connections": 4}])
def test_strangers_that_were_refused_are_gone_when_their_place_is_needed(run, limits):
    async def main():
        limited = options({"close": 60.0}, **limits)
        async with (
            dc.listen(LOOPBACK, echo, options=limited, key=KEY, require_trust=True) as listener,
            AsyncExitStack() as stack,
        ):
            refused = [await raw_stranger(stack, listener, HEARS_REFUSALS) for _ in range(3)]
            assert listener._crowd._parting  # they may go at once
            comms = []
            for _ in range(3):
                comms.append(await dc.connect(listener.contact_address, key=KEY))
                refused.append(await raw_stranger(stack, listener, HEARS_REFUSALS))
            for comm in comms:
                await comm.write("still here")
                assert await comm.read() == "still here"
                await comm.close()

    run(main())


def test_calls_and_streams_of_strangers_fill_their_places_and_no_others(run, caplog):
    caplog.set_level(logging.INFO, "distributed_comm")
    event = asyncio.Event()
    kept = []

    async def wait():
        await event.wait()

    async def items():
        yield 1
        await event.wait()

    def later(comm):
        kept.append(comm)
        return dc.NO_REPLY

    async def main():
        limited = options({"idle": 3 * GRACE}, untrusted_connections=4)
        async with dc.Server([wait, items, later], options=limited, key=KEY) as server:
            await server.listen(LOOPBACK)
            address = server.address
            strangers = [dc.rpc(address, key="another") for _ in range(3)]
            waiting = asyncio.create_task(strangers[0].wait())
            stream = aiter(strangers[1].items.stream())
            assert await anext(stream) == 1
            answered = asyncio.create_task(strangers[2].later())
            await until(lambda: kept and server.incoming_comms_active == 2)
            await asyncio.sleep(4 * GRACE)  # beyond the idle limit
            fourth = dc.rpc(address, key="another")
            with pytest.raises(dc.CommClosedError):
                await fourth.echo(data=1)
            async with dc.rpc(address, key=KEY) as friend:
                assert await friend.echo(data=1) == 1
                await asyncio.sleep(4 * GRACE)
                assert server.incoming_comms_open == 4  # an idle one that is trusted stays
            await kept[0].write("late")
            assert await answered == "late"
            event.set()
            await waiting
            assert [item async for item in stream] == []
            for stranger in (*strangers, fourth):
                await stranger.close_rpc()

    run(main())
    assert "turned" in caplog.text


def test_an_idle_stranger_is_closed_at_the_limit_and_a_trusted_peer_is_not(run, caplog):
    caplog.set_level(logging.INFO, "distributed_comm")

    async def main():
        limited = options({"idle": 0.3, "keepalive": 0.1})  # pings change nothing
        async with (
            dc.listen(LOOPBACK, echo, options=limited, key=KEY) as listener,
            await dc.connect(listener.contact_address, key=KEY) as friend,
        ):
            stranger = await dc.connect(listener.contact_address, key="another")
            for n in range(5):
                await asyncio.sleep(0.1)
                await stranger.write(n)
                assert await stranger.read() == n
            start = time.monotonic()
            with pytest.raises(dc.CommClosedError) as ended:
                await stranger.read()
            assert ended.value.clean
            assert time.monotonic() - start > 0.2
            await friend.write("still here")
            assert await friend.read() == "still here"
            await stranger.close()

    run(main())
    assert "Timeouts.idle" in caplog.text


def test_one_who_publishes_by_hand_and_waits_for_the_end_is_not_idle(run):
    async def main():
        event = asyncio.Event()

        async def publish(comm):
            async def items():
                for n in range(10):
                    await asyncio.sleep(GRACE / 2)
                    await comm.write(n)
                event.set()

            task = asyncio.create_task(items())
            with pytest.raises(dc.CommClosedError):
                await comm.read()
            await task

        limited = options({"idle": GRACE})
        async with dc.listen(LOOPBACK, publish, options=limited) as listener:
            comm = await dc.connect(listener.contact_address)
            assert [await comm.read() for _ in range(10)] == list(range(10))
            await event.wait()
            await comm.close()

    run(main())


def test_nobody_is_closed_because_our_loop_was_blocked(run):
    async def main():
        limited = options({"idle": 2 * GRACE}, untrusted_connections=4)
        async with (
            dc.listen(LOOPBACK, echo, options=limited, key=KEY) as listener,
            dial_raw(listener) as raw,
        ):
            await raw.send(OUR_HELLO)
            await raw.read_message()
            await settle()
            raw.sock.send(pack("there"))  # before the loop can read it
            time.sleep(4 * GRACE)  # noqa: ASYNC251
            assert await raw.read_message() == "there"

    run(main())


def test_one_whose_message_was_not_read_yet_is_not_idle(run):
    async def main():
        async with (
            dc.listen(LOOPBACK, echo, key=KEY) as listener,
            AsyncExitStack() as stack,
        ):
            first, second = [await raw_stranger(stack, listener) for _ in range(2)]
            await until(lambda: listener._crowd.settled == 2)
            first.sock.send(pack("there"))
            assert listener._crowd.evict("full")  # in this turn, before the loop looks
            assert await first.read_message() == "there"
            assert await second.read_message() == GOODBYE[-4:]

    run(main())


def test_plain_peers_are_evicted_without_a_goodbye(run):
    async def main():
        limited = options({"idle": GRACE})
        async with dc.listen(LOOPBACK, echo, options=limited) as listener, AsyncExitStack() as s:
            raw = await raw_stranger(s, listener, DASK_HELLO)
            assert await raw.is_cut()

    run(main())


# Descriptors


def test_the_reserve_is_an_eighth_and_at_least_thirty_two(monkeypatch):
    resource = pytest.importorskip("resource")
    for soft, most in ((40, 20), (64, 32), (256, 224), (1024, 896), (20_000, 17_500)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert descriptors.ceiling() == most
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert descriptors.ceiling() == float("inf")


def test_the_warning_names_the_call_and_comes_once(caplog, monkeypatch):
    pytest.importorskip("resource")
    monkeypatch.setattr(descriptors, "_warned", 0.0)
    monkeypatch.setattr(descriptors, "monotonic", lambda: 1e6)
    for _ in range(3):
        descriptors.warn("a listener")
    (record,) = caplog.records
    assert "resource.setrlimit(resource.RLIMIT_NOFILE" in record.getMessage()
    assert "ulimit -n" in record.getMessage()
