"""Messages that a handler with the connection writes itself: which call they answer, if any."""

import asyncio
import pickle

import pytest
from calling import dial, everywhere, serve
from loops import settle, until
from lying import post

import distributed_comm as dc
from distributed_comm import _comm
from distributed_comm._connection.channel import ConnectionChannel
from distributed_comm._envelope import EXTRA, NOTHING, OWN, REPLY, Request, encode_request

WRONG = dc.Serialized({"serializer": "nope"}, [b"x"])


async def wait_for(event):
    await event.wait()


class Writers:
    """Handlers that write before, behind and beside their replies."""

    def __init__(self):
        self.tasks = []
        self.go = asyncio.Event()

    async def once(self, comm):
        await comm.write("own")
        return dc.NO_REPLY

    async def twice(self, comm):
        await comm.write("own")
        await comm.write("own")
        return dc.Status.dont_reply

    async def before(self, comm):
        await comm.write("own")
        return "reply"

    async def after(self, comm):
        self.tasks.append(asyncio.ensure_future(self.later(comm)))
        return "reply"

    def at_once(self, comm):
        self.tasks.append(asyncio.ensure_future(comm.write("own")))
        return dc.NO_REPLY

    async def fails(self, comm):
        self.tasks.append(asyncio.ensure_future(self.later(comm)))
        raise KeyError("fails")

    async def unopened(self, comm):
        await comm.write(WRONG)
        return "reply"

    async def unsendable(self, comm):
        await comm.write("own")
        return [dc.NO_REPLY]

    async def later(self, comm):
        await wait_for(self.go)
        await comm.write("late")

    def handlers(self):
        names = ["once", "twice", "before", "after", "at_once", "fails", "unopened", "unsendable"]
        return {name: getattr(self, name) for name in names}


@pytest.mark.parametrize("limit", [1, 64])
@everywhere
def test_it_is_never_the_reply_of_another_call(run, where, limit):
    async def main():
        writers = Writers()
        async with (
            serve(writers.handlers(), where) as (server, _),
            dc.rpc(server.address, limit=limit) as remote,
        ):
            for op, expected in {
                "once": "own", "twice": "own", "before": "own", "after": "reply",
                "at_once": "own", "fails": KeyError, "unopened": TypeError, "unsendable": "own",
            }.items():  # fmt: skip
                for reply in (True, False):
                    writers.go.clear()
                    if reply and isinstance(expected, type):
                        with pytest.raises((expected, dc.RemoteError, dc.MessageError)):
                            await remote[op]()
                    else:
                        assert await remote[op](reply=reply) == (expected if reply else None)
                    for number in range(3):
                        assert await remote.echo(data=number) == number, op
                        writers.go.set()
                        await settle()
                        assert await remote.echo(data=[number]) == [number], op
                        assert [x async for x in remote.echo.stream(data=0)] == [0]
                        assert await remote.echo(data=0) == 0
                    assert 1 <= remote._own.open <= limit
                await asyncio.gather(*writers.tasks, return_exceptions=True)
                writers.tasks.clear()

    run(main())


@everywhere
def test_send_recv_leaves_the_rest_to_read(run, where):
    """As Dask's users do: a call starts a conversation on its connection."""

    async def subscribe(comm, n):
        for number in range(n):
            await comm.write(number)
        return dc.NO_REPLY

    async def main():
        async with serve({"subscribe": subscribe}, where) as (server, _), dial(server) as comm:
            assert await dc.send_recv(comm, op="subscribe", n=3) == 0
            assert [await comm.read(), await comm.read()] == [1, 2]
            assert await dc.send_recv(comm, op="echo", data=3) == 3
            assert await dc.send_recv(comm, op="subscribe", n=9) == 0
            assert await dc.send_recv(comm, op="echo", data=3) == 3  # the others are skipped
            assert await dc.send_recv(comm, op="subscribe", n=2, reply=False) is None
            assert await dc.send_recv(comm, op="echo", data=4) == 4  # none of them is its reply
            assert await dc.send_recv(comm, op="subscribe", n=1, reply=False) is None
            assert await comm.read() == 0

    run(main())


@everywhere
def test_its_head_says_whether_its_caller_waits(run, where):
    async def main():
        writers = Writers()
        async with serve(writers.handlers(), where) as (server, _), dial(server) as comm:
            await post(comm, encode_request(Request("twice")), {})
            assert await comm.read_enveloped() == (OWN, "own", None)
            assert await comm.read_enveloped() == (EXTRA, "own", None)
            await post(comm, encode_request(Request("once", NOTHING)), {})
            assert await comm.read_enveloped() == (EXTRA, "own", None)
            await post(comm, encode_request(Request("after")), {})
            assert await comm.read_enveloped() == (REPLY, "reply", None)
            await post(comm, encode_request(Request("before")), {})
            assert await comm.read_enveloped() == (OWN, "own", None)
            assert await comm.read_enveloped() == (EXTRA, "reply", None)  # it has been answered
            writers.go.set()
            assert await comm.read_enveloped() == (EXTRA, "late", None)
            await comm.write({"op": "once"})  # in no envelope, and answered in none
            assert await comm.read_enveloped() == (None, "own", None)
            await comm.write({"op": "echo", "data": 1})
            assert await comm.read_enveloped() == (None, 1, None)

    run(main())


@everywhere
def test_an_argument_that_cannot_be_opened_is_an_error_of_its_call(run, where):
    async def main():
        async with serve({}, where) as (_, remote):
            for _ in range(2):
                with pytest.raises((dc.RemoteError, dc.MessageError), match="nope"):
                    await remote.echo(data=WRONG)
            assert await remote.echo(data=WRONG, reply=False) is None
            with pytest.raises((dc.RemoteError, dc.MessageError), match="nope"):
                [item async for item in remote.echo.stream(data=WRONG)]
            assert await remote.echo(data=1) == 1

    run(main())


@everywhere
def test_the_arguments_of_what_is_refused_are_not_opened(run, where):
    opened = []

    class Opened:
        def __reduce__(self):
            return opened.append, ("opened",)

    async def main():
        kwargs = {"blocked_handlers": ["echo"]}
        async with serve({}, where, trusted=True, **kwargs) as (_, remote):
            with pytest.raises((dc.RemoteError, ValueError), match="is blocked"):
                await remote.echo(data=dc.Pickled({"pickled-obj": b"no pickle"}, []))

    run(main())
    assert opened == []


@pytest.mark.parametrize("change", ["block", "replace", "delete", "guard"])
@everywhere
def test_a_request_that_waits_is_judged_when_its_turn_comes(run, where, change):
    ran = []

    async def main():
        go, waits = asyncio.Event(), asyncio.Event()

        async def slow():
            waits.set()
            await go.wait()

        handlers = {"slow": slow, "danger": ran.append}
        async with serve(handlers, where, trusted=False) as (server, _), dial(server) as comm:
            await post(comm, encode_request(Request("slow")), {})
            await waits.wait()
            await post(comm, encode_request(Request("danger")), {})
            await until(lambda: where == "inproc://" or server.stats()["messages_received"] == 2)
            await settle()
            if change == "block":
                server.blocked_handlers.append("danger")
            elif change == "replace":
                server.handlers["danger"] = lambda: "harmless"
            elif change == "guard" and where != "inproc://":
                server.handlers["danger"] = dc.handler(ran.append, require_trust=True)
            else:
                del server.handlers["danger"]
            go.set()
            assert (await comm.read_enveloped())[0] == REPLY
            head, answer, _ = await comm.read_enveloped()
            assert (head == REPLY and answer == "harmless") == (change == "replace")

    run(main())
    assert ran == []


@everywhere
def test_a_stream_that_ends_before_its_first_item_is_an_error_unless_its_end_is_said(run, where):
    async def nothing(comm):
        return dc.NO_REPLY

    async def no_items():
        return
        yield

    async def closes(comm):
        await comm.close()
        return dc.NO_REPLY

    async def writes_and_closes(comm):
        await comm.write(0)
        await comm.close()
        return dc.NO_REPLY

    handlers = {"nothing": nothing, "no_items": no_items, "closes": closes}
    handlers["writes_and_closes"] = writes_and_closes

    async def main():
        async with serve(handlers, where) as (_, remote):
            assert [item async for item in remote.nothing.stream()] == []
            assert [item async for item in remote.no_items.stream()] == []
            with pytest.raises(dc.CommClosedError):
                [item async for item in remote.closes.stream()]
            assert [item async for item in remote.writes_and_closes.stream()] == [0]

    run(main())


def test_a_head_of_any_size_is_no_answer(run):
    async def main():
        async def answer(comm):
            async with comm:
                async for _ in comm:
                    comm.channel.send([b"\xc1\x02" + bytes(2 << 20), b"\x01"])

        async with (
            dc.listen("tcp://127.0.0.1:0", answer) as listener,
            dc.rpc(listener.contact_address) as remote,
        ):
            with pytest.raises(dc.RemoteProtocolError):
                await remote.f()
            with pytest.raises(dc.RemoteProtocolError):
                await anext(remote.f.stream())
            assert remote._own.open == 0

    run(main())


@pytest.mark.parametrize("message", [1, [], {"no": "op"}, {"op": "nowhere"}, {"op": None}])
@everywhere
def test_two_servers_do_not_answer_each_other_for_ever(run, where, message):
    async def main():
        async with serve({}, where) as (one, _):
            other = dc.Server()
            comm = await dc.connect(one.address)
            await comm.write(message)
            other.handle_comm(comm)
            await until(comm.closed)
            assert comm.stats()["messages_received"] <= 3
            await other.close()

    run(main())


@pytest.mark.parametrize("reply", [True, False])
@everywhere
def test_what_a_task_of_an_earlier_call_writes_is_not_the_answer_to_a_later_one(run, where, reply):
    async def main():
        go, tasks = asyncio.Event(), []

        async def write_late(comm):
            await go.wait()
            await comm.write("late")

        async def first(comm):
            tasks.append(asyncio.ensure_future(write_late(comm)))
            return "first"

        async def second(comm):
            go.set()
            await asyncio.gather(*tasks)
            await comm.write("second")
            return dc.NO_REPLY

        async with serve({"first": first, "second": second}, where) as (_, remote):
            for _ in range(2):
                go.clear()
                assert await remote.first(reply=reply) == ("first" if reply else None)
                assert await remote.second() == "second"
                assert await remote.echo(data=1) == 1
                tasks.clear()
            assert remote._own.open == 1

    run(main())


@everywhere
def test_a_task_that_was_there_before_may_write_the_answer(run, where):
    async def main():
        waiting = asyncio.Queue()

        async def answer():
            while True:
                await (await waiting.get()).write("answered")

        def ask(comm):
            waiting.put_nowait(comm)
            return dc.NO_REPLY

        answering = asyncio.ensure_future(answer())
        async with serve({"ask": ask}, where) as (_, remote):
            for number in range(3):
                assert await remote.ask() == "answered"
                assert await remote.echo(data=number) == number
            assert remote._own.open == 1
        answering.cancel()
        await asyncio.wait({answering})

    run(main())


@everywhere
def test_a_call_that_is_cut_behind_its_answer_is_no_error_of_another(run, where):
    async def stays(comm):
        await comm.write("answer")
        await asyncio.Event().wait()

    async def main():
        async with serve({"stays": stays}, where) as (server, _), dial(server) as comm:
            await post(comm, encode_request(Request("stays")), {})
            assert await comm.read_enveloped() == (OWN, "answer", None)
            closing = asyncio.ensure_future(server.close(grace=0.01))
            head, _, _ = await comm.read_enveloped()
            assert head == EXTRA
            await closing

    run(main())


@everywhere
def test_a_listener_that_answers_by_hand_may_be_called_over_one_comm(run, where):
    async def by_hand(comm):
        async with comm:
            async for message in comm:
                await comm.write(message["x"])

    async def main():
        async with dc.listen(where, by_hand) as listener:
            async with (
                await dc.connect(listener.contact_address) as comm,
                dc.rpc(comm=comm) as remote,
            ):
                for number in range(3):
                    assert await remote.f(x=number) == number
            async with dc.rpc(listener.contact_address) as remote:
                for number in range(3):
                    assert await remote.f(x=number) == number
                assert remote._own.open == 1

    run(main())


@everywhere
def test_an_argument_may_be_named_as_what_dask_knows_an_error_by(run, where):
    got = []

    async def main():
        handlers = {"put": lambda status, exception="x": got.append(status)}
        async with serve(handlers, where) as (server, remote), dial(server) as comm:
            await remote.put(status="uncaught-error", exception=1)
            await comm.write({"op": "put", "status": "uncaught-error"})
            assert await comm.read() is None
        assert got == ["uncaught-error"] * 2

    run(main())


def test_a_channel_that_can_only_be_read_refuses_before_it_decodes(run, monkeypatch):
    decoded = []

    def loads(frames, options, *rest):
        decoded.append(frames)
        return comms_loads(frames, options, *rest)

    def push(self, receiver, ready):
        raise NotImplementedError

    comms_loads = _comm.loads
    monkeypatch.setattr(_comm, "loads", loads)
    monkeypatch.setattr(ConnectionChannel, "push", push)

    async def main():
        guarded = dc.handler(lambda x: x, require_trust=True)
        async with serve({"guarded": guarded}) as (_, remote):
            with pytest.raises(dc.RemoteError, match="trusted peers"):
                await remote.guarded(x=1)
            assert len(decoded) == 1  # the answer
            assert await remote.echo(data=1) == 1

    run(main())


@everywhere
def test_a_stream_handlers_own_error_is_in_the_log(run, where, caplog):
    def fail():
        raise dc.CommClosedError("the database went away")

    async def main():
        async with (
            serve({}, where, stream_handlers={"fail": fail}) as (server, _),
            dial(server) as comm,
        ):
            await comm.write({"op": "connection_stream", "reply": False})
            await comm.write([{"op": "fail"}])
            await until(lambda: [r for r in caplog.records if r.levelname == "ERROR"])

    run(main())
    assert "the database went away" in caplog.text


@everywhere
def test_what_ends_tasks_is_an_error_where_it_is_opened(run, where):
    class Cancels:
        def __reduce__(self):
            return cancel, ()

    async def main():
        async with serve({}, where, trusted=True) as (_, remote):
            for size in (0, 12_000_000):
                pickled = pickle.dumps([Cancels(), bytes(size)])
                with pytest.raises(dc.MessageError, match="cannot be"):
                    await remote.echo(data=dc.Pickled({"pickled-obj": pickled}, []))
                assert await remote.echo(data=1) == 1

    run(main())


def cancel():
    raise asyncio.CancelledError
