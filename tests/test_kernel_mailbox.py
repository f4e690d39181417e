"""A task that is run from inside the one that writes to it, and everything around that."""

import asyncio
import contextvars
import gc
import sys
import weakref
from itertools import pairwise
from threading import get_ident

import pytest
from loops import settle

from distributed_comm._kernels import mailbox, mailbox_py

KERNELS = list(dict.fromkeys([mailbox, mailbox_py]))


@pytest.fixture(params=KERNELS, ids=lambda kernel: kernel.__name__.rpartition("_")[2])
def kernel(request):
    return request.param


@pytest.fixture
def make_pair(kernel):
    def make(switch=None):
        switch = switch or kernel.Switch(asyncio.get_running_loop())
        here, there = (kernel.Mailbox(switch, get_ident()) for _ in range(2))
        here.peer, there.peer = there, here
        here.plain = there.plain = True
        return here, there

    return make


async def take(box, kernel):
    while (message := box.take()) is kernel.EMPTY:
        try:
            await box
        finally:
            box.reading = False
    return message


def test_the_reader_runs_inside_the_write_that_waits_for_its_answer(run, kernel, make_pair):
    seen = []

    async def answer(there):
        while True:
            message = await take(there, kernel)
            seen.append((message, asyncio.current_task().get_name()))
            there.post(-message)

    async def main():
        here, there = make_pair()
        answering = asyncio.create_task(answer(there), name="answering")
        await settle()
        me = asyncio.current_task()
        here.talks = True
        for number in range(1, 4):
            assert here.post(number)
            assert asyncio.current_task() is me
            assert here.take() == -number  # without a turn of the loop
        answering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answering
        assert seen == [(number, "answering") for number in range(1, 4)]

    run(main())


def test_a_writer_that_waits_for_nothing_leaves_its_reader_to_the_loop(run, kernel, make_pair):
    arrived = []

    async def collect(there):
        while True:
            arrived.append(await take(there, kernel))

    async def main():
        here, there = make_pair()
        collecting = asyncio.create_task(collect(there))
        await settle()
        here.talks = True
        assert here.post(0)
        assert arrived == [0]  # at once; but nothing came back
        for number in range(1, 100):
            assert here.post(number)
        assert arrived == [0]
        await settle()
        assert arrived == list(range(100))
        assert here.take() is kernel.EMPTY  # now it waits for something
        here.reading = False
        assert here.post(100)
        assert arrived[-1] == 100
        collecting.cancel()

    run(main())


def test_a_chain_of_tasks_is_no_recursion(run, kernel, make_pair):
    async def pass_on(source, target):
        message = await take(source, kernel)
        target.talks = True
        target.post(message + 1)

    async def main():
        first = make_pair()
        pairs = [first, *(make_pair(first[0].switch) for _ in range(3_000))]
        tasks = [
            asyncio.create_task(pass_on(before[1], after[0])) for before, after in pairwise(pairs)
        ]
        await settle()
        first[0].talks = True
        assert first[0].post(0)
        await asyncio.gather(*tasks)
        assert pairs[-1][1].take() == len(tasks)

    run(main())


def test_a_task_keeps_its_context(run, kernel, make_pair):
    variable = contextvars.ContextVar("variable", default="nobody's")

    async def read(there):
        variable.set("the reader's")
        await take(there, kernel)
        return variable.get()

    async def main():
        here, there = make_pair()
        reading = asyncio.create_task(read(there))
        await settle()
        variable.set("the writer's")
        here.talks = True
        here.post("message")
        assert reading.done()
        assert variable.get() == "the writer's"
        assert await reading == "the reader's"

    run(main())


def test_two_tasks_may_share_a_context(run, kernel, make_pair):
    async def main():
        here, there = make_pair()
        context = contextvars.copy_context()

        async def write():
            here.talks = True
            here.post("message")

        loop = asyncio.get_running_loop()
        reading = loop.create_task(take(there, kernel), context=context)
        await settle()
        await loop.create_task(write(), context=context)
        assert await reading == "message"

    run(main())


def test_a_cancelled_wait_takes_no_message(run, kernel, make_pair):
    async def main():
        here, there = make_pair()
        reading = asyncio.create_task(take(there, kernel))
        await settle()
        reading.cancel("the reason")
        here.talks = True
        here.post("kept")
        with pytest.raises(asyncio.CancelledError, match="the reason"):
            await reading
        assert not there.waiting
        assert not there.reading
        assert there.take() == "kept"

    run(main())


def test_a_wait_that_is_cancelled_once_it_is_over_is_cancelled_later(run, kernel, make_pair):
    async def main():
        here, there = make_pair()
        reading = asyncio.create_task(take(there, kernel))
        await settle()
        here.post("kept")  # wakes it, for the next turn
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert there.take() == "kept"

    run(main())


def test_what_the_writer_handles_is_not_the_readers_to_handle(run, kernel, make_pair):
    async def read(there):
        await take(there, kernel)
        return sys.exc_info()

    async def main():
        here, there = make_pair()
        reading = asyncio.create_task(read(there))
        await settle()
        here.talks = True
        try:
            raise ValueError("the writer's")
        except ValueError:
            here.post("message")
        assert await reading == (None, None, None)

    run(main())


def test_a_wait_that_is_over_keeps_nothing_of_its_task(run, kernel, make_pair):
    async def main():
        here, there = make_pair()
        for hand_over in (True, False):
            reading = asyncio.create_task(take(there, kernel))
            await settle()
            here.talks = hand_over
            here.post("message")
            await reading
            gone = weakref.ref(reading)
            del reading
            await settle()  # the loop lets go of it, too
            gc.collect()
            assert gone() is None

    run(main())


def test_a_wait_that_is_closed_is_over(run, kernel, make_pair):
    async def main():
        here, there = make_pair()
        waiting = there.__await__()
        next(waiting)
        there.add_done_callback(print, context=contextvars.copy_context())
        assert there.waiting
        there.waiting = False  # as who awaits it does in the end, however that comes about
        here.post("message")
        assert await take(there, kernel) == "message"

    run(main())


def test_only_one_task_waits(run, kernel, make_pair):
    async def wait(box):
        await box

    async def main():
        _, there = make_pair()
        first, second = (asyncio.create_task(wait(there)) for _ in range(2))
        await settle()
        with pytest.raises(RuntimeError, match="another task waits here"):
            await second
        there.wake()
        await first

    run(main())


@pytest.mark.parametrize("hand_over", [True, False])
def test_what_ends_the_program_ends_it(kernel, make_pair, hand_over):
    async def leave(there):
        await take(there, kernel)
        raise SystemExit(3)

    async def main():
        here, there = make_pair()
        leaving = asyncio.create_task(leave(there))
        await settle()
        here.talks = hand_over
        here.post("message")
        await leaving

    with pytest.raises(SystemExit) as caught:
        asyncio.run(main())
    assert caught.value.code == 3


async def _later(work):
    return work()


def test_what_is_not_plain_is_left_alone(run, kernel, make_pair):
    async def main():
        here, there = make_pair()
        here.plain = False
        assert not here.post("message")
        assert here.take() is kernel.NOT_PLAIN
        here.plain = True
        for elsewhere in (lambda work: asyncio.run(_later(work)), lambda work: work()):
            assert not await asyncio.to_thread(elsewhere, lambda: here.post("message"))
            assert await asyncio.to_thread(elsewhere, here.take) is kernel.NOT_PLAIN
        for attribute in ("reading", "crowded"):
            setattr(here, attribute, True)
            assert here.take() is kernel.NOT_PLAIN
            setattr(here, attribute, False)
        for number in range(kernel.HIGH_WATER):
            assert here.post(number)
        assert not here.post("too many unread, and a pause is due")
        here.pause_at += 1_000
        assert not here.post("too many unread")
        assert list(there.inbox) == list(range(kernel.HIGH_WATER))

    run(main())


def test_a_switch_says_whether_its_loop_runs_here(kernel):
    """Also one that has never run, where none does: in a child behind a fork, for instance."""
    loops = [asyncio.new_event_loop() for _ in range(2)]
    first, second, nowhere = (kernel.Switch(loop) for loop in (*loops, object()))

    async def running():
        return [switch.runs() for switch in (first, second, nowhere)]

    for _ in range(2):
        assert not first.runs()
        assert not nowhere.runs()
        assert loops[0].run_until_complete(running()) == [True, False, False]
        assert loops[1].run_until_complete(running()) == [False, True, False]
    for loop in loops:
        loop.close()
