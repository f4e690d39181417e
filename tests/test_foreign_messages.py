"""Messages that others than its handler write to a connection: answers, items, or extra ones."""

import asyncio

import pytest
from calling import dial, everywhere, serve
from loops import until

import distributed_comm as dc
from distributed_comm import _push
from distributed_comm._envelope import EXTRA


class Board:
    """Subscribers, and a handler of theirs that does not return before `go` is set."""

    def __init__(self):
        self.comms = []
        self.begun, self.go = asyncio.Event(), asyncio.Event()

    def subscribe(self, comm):
        self.comms.append(comm)
        return "subscribed"

    async def unsubscribe(self, comm):
        self.begun.set()
        await self.go.wait()
        self.comms.remove(comm)
        return "unsubscribed"

    async def listen(self, comm):
        self.comms.append(comm)
        self.begun.set()
        await self.go.wait()
        return dc.NO_REPLY

    async def count(self, comm):
        self.comms.append(comm)
        yield 0
        await self.go.wait()
        yield 1

    def wait(self, comm):
        self.comms.append(comm)
        return dc.NO_REPLY

    async def publish(self, data):
        for comm in self.comms:
            await comm.write(data)

    def handlers(self):
        names = ["subscribe", "unsubscribe", "listen", "count", "wait", "publish"]
        return {name: getattr(self, name) for name in names}


@everywhere
def test_another_connection_does_not_answer_while_the_handler_runs(run, where):
    async def main():
        board = Board()
        async with serve(board.handlers(), where) as (server, remote), dial(server) as comm:
            assert await dc.send_recv(comm, op="subscribe") == "subscribed"
            leaving = asyncio.ensure_future(dc.send_recv(comm, op="unsubscribe"))
            await board.begun.wait()
            await remote.publish(data="chosen by a stranger")
            board.go.set()
            assert await leaving == "unsubscribed"
            assert await dc.send_recv(comm, op="echo", data=1) == 1

    run(main())


@everywhere
def test_another_connection_adds_nothing_to_the_items_of_a_generator(run, where):
    async def main():
        board = Board()
        async with serve(board.handlers(), where) as (_, remote):
            items = remote.count.stream()
            got = [await anext(items)]
            await remote.publish(data="foreign")
            board.go.set()
            got += [item async for item in items]
            assert got == [0, 1]

    run(main())


@everywhere
def test_another_connection_publishes_to_a_handler_that_waits(run, where):
    async def main():
        board = Board()
        async with serve(board.handlers(), where) as (_, remote):
            items = remote.listen.stream()
            first = asyncio.ensure_future(anext(items))
            await board.begun.wait()
            for number in range(3):
                await remote.publish(data=number)
            board.go.set()
            assert [await first] + [item async for item in items] == [0, 1, 2]

    run(main())


@everywhere
def test_another_connection_answers_a_call_whose_handler_has_left_it_open(run, where):
    async def main():
        board = Board()
        async with serve(board.handlers(), where) as (_, remote):
            for number in range(3):
                asked = asyncio.ensure_future(remote.wait())
                await until(lambda: board.comms)
                await remote.publish(data=number)
                assert await asked == number
                board.comms.clear()

    run(main())


@pytest.mark.parametrize("before", [[], ["touch"], ["start"], ["touch", "start"]])
@pytest.mark.parametrize("kind", ["sync", "async"])
@everywhere
def test_a_worker_answers_whatever_came_before_on_the_connection(run, where, before, kind):
    """Also if a handler without the connection has begun it."""

    async def main():
        waiting, tasks = asyncio.Queue(), []

        async def answer():
            while True:
                comm, x = await waiting.get()
                await comm.write(x)

        def begin():
            if not tasks:
                tasks.append(asyncio.ensure_future(answer()))

        async def begin_later():
            begin()

        def ask(comm, x):
            waiting.put_nowait((comm, x))
            return dc.NO_REPLY

        start = begin if kind == "sync" else begin_later
        if "start" not in before:
            begin()
        handlers = {"touch": lambda comm: None, "start": start, "ask": ask}
        async with serve(handlers, where) as (_, remote):
            for op in before:
                await remote[op]()
            for number in range(3):
                assert await remote.ask(x=number) == number
            assert remote._own.open == 1
        tasks[0].cancel()
        await asyncio.wait(tasks)

    run(main())


@pytest.mark.parametrize("request_by_hand", [{"reply": False}, {"reply": True}, {}])
@pytest.mark.parametrize("order", ["first", "behind another"])
@everywhere
def test_a_request_by_hand_makes_no_late_message_a_reply(run, where, order, request_by_hand):
    async def main():
        go, tasks = asyncio.Event(), []

        async def write_late(comm):
            await go.wait()
            await comm.write("late")

        def subscribe(comm):
            tasks.append(asyncio.ensure_future(write_late(comm)))
            return "subscribed"

        async def slow(x):
            go.set()
            await asyncio.gather(*tasks)
            return x

        handlers = {"subscribe": subscribe, "slow": slow}
        async with serve(handlers, where) as (server, _), dial(server) as comm:
            op = "subscribe"
            if order == "behind another":
                assert await dc.send_recv(comm, op=op) == "subscribed"
                op = "echo"
            await comm.write({"op": op, **request_by_hand})
            if request_by_hand.get("reply", True):
                assert await comm.read() == (None if op == "echo" else "subscribed")
            assert await dc.send_recv(comm, op="slow", x=7) == 7

    run(main())


@everywhere
def test_a_request_by_hand_is_answered_without_a_head_behind_any_call(run, where):
    async def main():
        board = Board()
        async with serve(board.handlers(), where) as (server, _), dial(server) as comm:
            for _ in range(2):
                await comm.write({"op": "nowhere", "reply": True})
                assert (await comm.read_enveloped())[0] is None
                await comm.write({"op": "echo", "data": 1})
                assert await comm.read_enveloped() == (None, 1, None)
                assert await dc.send_recv(comm, op="subscribe") == "subscribed"

    run(main())


def test_a_message_with_a_head_is_read_where_it_arrives(run, monkeypatch):
    """Else it would wait for a thread, of which there may be none."""

    def in_thread(*_):
        raise AssertionError("a short message is given to a thread")

    monkeypatch.setattr(_push, "in_thread", in_thread)

    async def main():
        board = Board()
        async with serve(board.handlers()) as (server, remote), dial(server) as comm:
            assert await dc.send_recv(comm, op="subscribe") == "subscribed"
            await remote.publish(data="item")
            assert await comm.read() == "item"
            await remote.publish(data="item")
            assert await comm.read_enveloped() == (EXTRA, "item", None)

            async def by_hand(comm):
                async for message in comm:
                    await comm.write(message["x"])

            async with (
                dc.listen("tcp://127.0.0.1:0", by_hand) as listener,
                dc.rpc(listener.contact_address) as other,
            ):
                assert await other.f(x=1) == 1

    run(main())
