"""The kernel of the turns: what is charged, to whom, and who is told; compiled and pure."""

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine
from time import thread_time

import pytest

from distributed_comm._kernels import turns, turns_py

KERNELS = list(dict.fromkeys([turns, turns_py]))
kernels = pytest.mark.parametrize("kernel", KERNELS)


def work(seconds: float = 0.002) -> None:
    until = thread_time() + seconds
    while thread_time() < until:
        pass


class Below:
    """A protocol that does something with what comes."""

    def __init__(self, act=work):
        self.act = act
        self.got = []

    def get_buffer(self, sizehint):
        return memoryview(bytearray(8))

    def buffer_updated(self, nbytes):
        self.got.append(nbytes)
        self.act()


def gauge_of(kernel, limit=1.0, act=work):
    """Return a gauge above a protocol, and what is told of it."""
    told = []

    class Gauge(kernel.Gauge, asyncio.BufferedProtocol):
        def hold_back(self):
            told.append("hold back")

        def has_closed(self, lane):
            assert lane is self.lane
            told.append("closed")

        def wait(self):
            told.append("wait")

    gauge = Gauge(kernel.Tally(), kernel.Account(limit))
    gauge.stand_above(Below(act))
    return gauge, told


def receive(gauge, nbytes):
    """Do as a transport does."""
    gauge.get_buffer(-1)
    gauge.buffer_updated(nbytes)


@kernels
def test_an_account_closes_once_above_its_limit(kernel):
    tally, account = kernel.Tally(), kernel.Account(1.0)
    assert not kernel.charge(tally, account, 1.0)
    assert not account.closed
    assert kernel.charge(tally, account, 0.5)
    assert account.closed
    assert not kernel.charge(tally, account, 0.5)
    assert (tally.spent, account.debt) == (2.0, 2.0)


@kernels
def test_heavy_work_has_the_least_limit_again(kernel):
    tally, account = kernel.Tally(), kernel.Account(0.003)
    account.limit = 1.0
    for _ in range(10):
        assert not kernel.charge(tally, account, 0.001)
    tally.turned = True
    assert kernel.charge(tally, account, 0.005)
    assert account.limit == account.least == 0.003
    assert not tally.turned


@kernels
def test_what_bytes_cause_is_charged(kernel):
    gauge, told = gauge_of(kernel)
    assert isinstance(gauge, asyncio.BufferedProtocol)
    assert len(gauge.get_buffer(-1)) == 8
    receive(gauge, 5)
    assert gauge.lane.debt == gauge.tally.spent == gauge.charged
    assert 0.002 < gauge.charged < 0.5
    assert not gauge.tally.inside
    assert told == []


@kernels
def test_it_is_charged_although_it_fails(kernel):
    def fail():
        work()
        raise ValueError("as it is")

    gauge, _ = gauge_of(kernel, act=fail)
    with pytest.raises(ValueError, match="as it is"):
        receive(gauge, 5)
    assert gauge.charged > 0.002
    assert not gauge.tally.inside


@kernels
def test_above_the_limit_it_waits_and_what_comes_then_is_held_back(kernel):
    gauge, told = gauge_of(kernel, limit=0.001)
    receive(gauge, 5)
    assert told == ["closed", "wait"]
    receive(gauge, 5)
    assert told == ["closed", "wait", "hold back", "wait"]


@kernels
def test_nothing_is_charged_to_one_that_has_left_meanwhile(kernel):
    def leave():
        gauge.left = True

    gauge, _ = gauge_of(kernel, act=leave)
    receive(gauge, 5)
    assert gauge.charged == gauge.lane.debt == 0.0


@kernels
def test_a_second_event_of_one_connection_says_that_the_loop_has_turned(kernel):
    gauge, _ = gauge_of(kernel, act=lambda: None)
    tally = gauge.tally
    for _ in range(2):
        assert not tally.turned
        receive(gauge, 1)
        assert not tally.turned
        receive(gauge, 1)
        assert tally.turned
        tally.count_look()
    receive(gauge, 100_000)  # libuv may read again at once
    receive(gauge, 100_000)
    assert not tally.turned


@kernels
def test_each_step_of_a_coroutine_is_charged_and_what_it_awaits_is_not(kernel):
    tally, lane, closed = kernel.Tally(), kernel.Account(0.003), []

    async def answer(event):
        work()
        await event.wait()
        work()
        return "done"

    async def main():
        event = asyncio.Event()
        steps = kernel.Steps(answer(event), tally, lane, lambda: closed.append(lane.debt))
        assert isinstance(steps, Coroutine)
        task = asyncio.create_task(steps)
        await asyncio.sleep(0)
        work(0.01)
        event.set()
        assert await task == "done"

    asyncio.run(main())
    assert 0.004 <= tally.spent == lane.debt < 0.01
    assert closed == [lane.debt]


@kernels
def test_a_coroutine_can_be_awaited_cancelled_and_closed_as_before(kernel):
    tally, lane = kernel.Tally(), kernel.Account(1.0)
    seen = []

    async def wait():
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        except GeneratorExit:
            seen.append("closed")
            raise

    def steps():
        return kernel.Steps(wait(), tally, lane, list)

    async def outer():
        await steps()

    async def main():
        task = asyncio.create_task(outer())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        begun = steps()
        begun.send(None)
        begun.close()
        steps().close()  # one that has not begun

    asyncio.run(main())
    assert seen == ["cancelled", "closed"]
    assert not tally.inside


@kernels
def test_what_runs_inside_a_strangers_work_is_charged_once(kernel):
    tally, lane = kernel.Tally(), kernel.Account(1.0)

    async def inner():
        work()

    def act():
        with pytest.raises(StopIteration):
            kernel.Steps(inner(), tally, lane, list).send(None)

    gauge, _ = gauge_of(kernel, act=act)
    gauge.tally = tally
    receive(gauge, 1)
    assert lane.debt == 0.0
    assert tally.spent == gauge.charged


class Framing:
    mid_message = False

    def receive(self, nbytes):
        return [[b"x"]] * nbytes


@kernels
def test_messages_and_parts_of_them_move_one_to_the_end(kernel, monkeypatch):
    times = iter(range(100))
    monkeypatch.setattr(kernel, "monotonic", lambda: next(times))
    framing = Framing()
    queue = OrderedDict()
    first, second = kernel.Presence(), kernel.Presence()
    for place in (first, second):
        place.framing = framing
        place.queue = queue
        queue[place] = None
    assert first.receive(1) == [[b"x"]]
    assert (list(queue), first.since) == ([second, first], 2)
    assert second.receive(0) == []
    assert list(queue) == [second, first]
    framing.mid_message = True
    second.receive(0)
    assert (list(queue), second.since) == ([first, second], 3)
    first.queue = None
    first.stir()
    assert (list(queue), first.since) == ([first, second], 2)
