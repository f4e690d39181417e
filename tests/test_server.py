"""What a server answers: every kind of handler, every key of the envelope, and what is wrong."""

import asyncio
import collections
import functools
import logging
from types import SimpleNamespace

import pytest
from calling import LOOPBACK, dial, everywhere, serve
from loops import settle, until

import distributed_comm as dc


def ping(comm):
    return b"pong"


def add(x, y):
    return x + y


async def slowly(x):
    await asyncio.sleep(0)
    return x


async def count(n):
    for i in range(n):
        yield i


async def write_many(stream, n):
    for i in range(n):
        await stream.write(i)
    return dc.Status.dont_reply


class Account(dc.Server):
    """A subclass with handlers that are methods and a state of its own."""

    def __init__(self, **kwargs):
        self.balance = 0
        super().__init__({"deposit": self.deposit, "balance": lambda: self.balance}, **kwargs)

    async def deposit(self, comm, amount):
        await asyncio.sleep(0)
        self.balance += amount


HANDLERS = {
    "ping": ping,
    "add": add,
    "slowly": slowly,
    "count": count,
    "write_many": write_many,
    "partial": functools.partial(add, y=1),
    "late": lambda x: slowly(x + 0),
    "task": lambda x: asyncio.ensure_future(slowly(x)),
    "nothing": lambda: None,
}


@everywhere
def test_every_kind_of_handler_answers(run, where, kernels):
    async def main():
        async with serve(HANDLERS, where) as (server, remote):
            assert await remote.ping() == b"pong"
            assert await remote.add(x=10, y=20) == 30
            assert await remote.slowly(x="x") == "x"
            assert await remote.partial(x=1) == 2
            assert await remote.late(x=3) == 3
            assert await remote.task(x=4) == 4
            assert await remote.nothing() is None
            assert await remote.echo(data={"a": (1, 2)}) == {"a": (1, 2)}
            assert await remote.identity() == {"type": "Server", "id": server.id}

    run(main())


@everywhere
def test_a_subclass_keeps_its_own_state(run, where):
    async def main():
        async with serve(None, where, kind=Account) as (server, remote):
            await asyncio.gather(*(remote.deposit(amount=n) for n in range(10)))
            assert await remote.balance() == server.balance == 45
            assert (await remote.identity())["type"] == "Account"

    run(main())


@everywhere
def test_requests_of_one_comm_are_answered_in_order(run, where):
    async def main():
        async with serve(HANDLERS, where) as (server, _), dial(server) as comm:
            for i in range(300):
                op = ("slowly", "add")[i % 2]
                arguments = {"x": i} if op == "slowly" else {"x": i, "y": 0}
                await comm.write({"op": op, **arguments})
            assert [await comm.read() for _ in range(300)] == list(range(300))

    run(main())


@everywhere
def test_a_stream_is_a_message_for_each_item_and_then_the_end(run, where):
    async def main():
        async with serve(HANDLERS, where) as (server, remote):
            async with dial(server) as comm:
                await comm.write({"op": "count", "n": 3})
                assert [item async for item in comm] == [0, 1, 2]
            assert [item async for item in remote.count.stream(n=4)] == [0, 1, 2, 3]

    run(main())


@everywhere
def test_a_handler_may_write_and_read_by_itself(run, where):
    async def double(comm):
        async for message in comm:
            if message == "enough":
                return "done"
            await comm.write(2 * message)
        return None

    async def main():
        handlers = {**HANDLERS, "double": double}
        async with serve(handlers, where) as (server, _), dial(server) as comm:
            await comm.write({"op": "write_many", "n": 3})
            await comm.write({"op": "double"})
            await comm.write(21)
            await comm.write("enough")
            await comm.write({"op": "ping"})
            expected = [0, 1, 2, 42, "done", b"pong"]
            assert [await comm.read() for _ in expected] == expected

    run(main())


@everywhere
def test_the_envelope_says_whether_to_reply_and_to_close(run, where):
    async def main():
        got = []
        handlers = {**HANDLERS, "note": lambda x: got.append(x) or x}
        async with serve(handlers, where) as (server, _):
            async with dial(server) as comm:
                await comm.write({"op": "note", "x": 1, "reply": False})
                await comm.write({"op": "slowly", "x": 2, "reply": False})
                await comm.write({"op": "add", "x": 1, "y": 2, "close": True})
                assert [message async for message in comm] == [3]
            async with dial(server) as comm:
                await comm.write({"op": "close"})
                assert [message async for message in comm] == ["OK"]
            async with dial(server) as comm:
                await comm.write({"op": "close", "reply": False})
                assert [message async for message in comm] == []
        assert got == [1]

    run(main())


@everywhere
def test_a_message_that_came_by_reference_is_not_changed(run, where):
    async def main():
        async with serve(HANDLERS, where) as (server, _), dial(server) as comm:
            message = {"op": "add", "x": 1, "y": 2, "reply": True}
            await comm.write(message)
            assert await comm.read() == 3
            assert message == {"op": "add", "x": 1, "y": 2, "reply": True}

    run(main())


MISTAKES = [
    ({"op": "nowhere"}, "no op 'nowhere'"),
    ({"op": "x" * 10_000}, "no op 'xxx"),
    ({"op": ("a", "tuple")}, "no op"),
    ({"op": {"a": "dict"}}, "no op"),
    ({"x": 1}, "no op None"),
    ({"op": "add", "x": 1}, "add: missing a required argument: 'y'"),
    ({"op": "add", "x": 1, "y": 2, "z": 3}, "add: got an unexpected keyword argument 'z'"),
    ({"op": "ping", "comm": 3}, "ping: multiple values for argument 'comm'"),
    ({"op": "add", 3: 4}, "add: "),
    ({"op": "secret"}, "'secret' is blocked on this Server"),
    ("add", "a request is a dict with the key 'op', not a str"),
    ({1, 2}, "a request is a dict with the key 'op', not a set"),
    (None, "a request is a dict with the key 'op', not a NoneType"),
    ({"op": "count", "n": 3, "reply": True}, "count answers with a stream"),
    ({"op": "add", "x": 1, "y": 2, "serializers": 5}, "'int' object is not iterable"),
]


@pytest.mark.parametrize("trusted", [False, True])
@everywhere
def test_a_mistake_is_explained_and_the_comm_goes_on(run, where, trusted, caplog):
    handlers = {**HANDLERS, "secret": lambda: "secret"}

    async def main():
        blocked = ["secret"]
        async with (
            serve(handlers, where, trusted=trusted, blocked_handlers=blocked) as (server, _),
            dial(server, trusted=trusted) as comm,
        ):
            for message, text in MISTAKES:
                if where == "inproc://" and "serializers" in str(message):
                    continue  # nothing is serialized there
                caplog.clear()
                await comm.write(message)
                answer = await comm.read()
                assert answer["status"] == "uncaught-error"
                assert text in answer["exception_text"]
                (record,) = caplog.records
                assert record.levelno == logging.WARNING
                assert "\n" not in record.getMessage()
                await comm.write({"op": "add", "x": 1, "y": 2})
                assert await comm.read() == 3

    run(main())


def test_a_long_name_of_a_stranger_is_no_long_line_of_the_log(run, caplog):
    async def main():
        async with serve(HANDLERS) as (server, _), dial(server) as comm:
            for name in "k" * 1_000_000, "k\n" * 9_999:
                await comm.write({"op": "add", "x": 1, "y": 2, name: 3})
                assert len((await comm.read())["exception_text"]) < 30_000
            assert len(caplog.records) == 2
            for record in caplog.records:
                assert "add: " in record.getMessage()
                assert len(record.getMessage()) < 1_000
                assert "\n" not in record.getMessage()

    run(main())


@everywhere
def test_a_dict_of_another_class_is_a_request(run, where):
    async def main():
        async with (
            serve(HANDLERS, where, trusted=True) as (server, _),
            dial(server, trusted=True) as comm,
        ):
            message = collections.OrderedDict(op="add", x=1, y=2)
            await comm.write(message)
            assert await comm.read() == 3
            assert list(message) == ["op", "x", "y"]

    run(main())


def test_a_contact_host_of_the_server_is_that_of_its_listeners(run):
    async def main():
        async with serve(HANDLERS, contact_host="localhost") as (server, remote):
            assert server.address == f"tcp://localhost:{server.port}"
            assert await remote.ping() == b"pong"
            assert await server.rpc(server.address).ping() == b"pong"
            own = await server.listen(LOOPBACK, contact_host="127.0.0.1")
            assert own.contact_address.startswith("tcp://127.0.0.1:")

    run(main())


@everywhere
def test_a_mistake_that_wants_no_reply_gets_none(run, where):
    async def main():
        async with serve(HANDLERS, where) as (server, _), dial(server) as comm:
            await comm.write({"op": "nowhere", "reply": False})
            await comm.write({"op": "add", "x": 1, "reply": False})
            await comm.write({"op": "add", "x": 1, "y": 1, "reply": False})
            await comm.write({"op": "ping"})
            assert await comm.read() == b"pong"

    run(main())


def test_a_request_that_cannot_be_opened_is_answered_if_it_wants_to_be(run):
    async def main():
        async with serve(HANDLERS) as (server, _), dial(server, trusted=True) as comm:
            await comm.write({"op": "echo", "data": SimpleNamespace(), "reply": False})
            await comm.write({"op": "echo", "data": SimpleNamespace()})
            answer = await comm.read()
            assert "the peer is not trusted" in answer["exception_text"]
            await comm.write({"op": "ping"})
            assert await comm.read() == b"pong"

    run(main())


@pytest.mark.parametrize("op", ["now", "later"])
def test_a_reply_that_cannot_be_sent_is_an_error_at_the_caller(run, op):
    async def later():
        await asyncio.sleep(0)
        return SimpleNamespace()

    async def main():
        async with serve({"now": SimpleNamespace, "later": later, "ping": ping}) as (_, remote):
            with pytest.raises(dc.RemoteError, match="can only be sent as a pickle"):
                await getattr(remote, op)()
            assert await remote.ping() == b"pong"
            assert remote._own.open == 1

    run(main())


def test_a_handler_may_be_added_and_replaced(run):
    async def main():
        async with serve(HANDLERS) as (server, remote):
            assert await remote.add(x=1, y=2) == 3
            server.handlers["add"] = lambda x, y: x * y
            server.handlers["sub"] = lambda x, y: x - y
            assert await remote.add(x=3, y=2) == 6
            assert await remote.sub(x=3, y=2) == 1
            server.blocked_handlers.append("sub")
            with pytest.raises(dc.RemoteError, match="blocked"):
                await remote.sub(x=3, y=2)

    run(main())


def test_serializers_go_to_who_asks_for_them(run):
    async def which(serializers=None):
        return serializers

    async def main():
        async with serve({"which": which}) as (_, remote):
            assert await remote.which() is None
            assert await remote.which(serializers=["msgpack"]) == ("msgpack",)

    run(main())


def test_serializers_decide_how_a_reply_is_sent(run):
    async def main():
        handlers = {"thing": lambda: range(3), "ping": ping}
        async with serve(handlers, trusted=True) as (_, remote):
            assert await remote.thing() == range(3)
            with pytest.raises(dc.UnserializableError, match="none of"):
                await remote.thing(serializers=["msgpack"])
            assert await remote.ping(serializers=["msgpack"]) == b"pong"

    run(main())


def test_what_is_not_opened_is_passed_on(run):
    class Relay(dc.Server):
        def __init__(self, **kwargs):
            super().__init__({"keep": self.keep, "fetch": lambda: self.kept}, **kwargs)

        def keep(self, data):
            self.kept = data
            return type(data).__name__

    async def main():
        async with (
            serve(kind=Relay, deserialize=False) as (server, _),
            dc.rpc(server.address, trusted=True) as remote,
        ):
            data = {"numbers": range(10)}
            assert await remote.keep(data=range(10)) == "Pickled"
            assert await remote.fetch() == range(10)
            assert await remote.keep(data=data) == "dict"
            assert await remote.fetch() == data

    run(main())


def test_a_server_listens_on_several_addresses_at_once(run):
    async def main():
        server = dc.Server(HANDLERS)
        with pytest.raises(ValueError, match="does not listen"):
            _ = server.address
        server.listen(("127.0.0.1", 0))
        await server.listen("inproc://")
        server.listen(0, contact_host="localhost")
        async with server:
            here, inside, everywhere = (each.contact_address for each in server.listeners)
            assert server.address == here == f"tcp://127.0.0.1:{server.port}"
            assert server.listen_address == here
            assert server.host == "127.0.0.1"
            assert everywhere.startswith("tcp://localhost:")
            for address in here, inside, everywhere:
                async with dc.rpc(address) as remote:
                    assert await remote.ping() == b"pong"

    run(main())


def test_the_port_is_bound_when_listen_returns_awaited_or_not(run):
    server = dc.Server(HANDLERS)
    server.listen(("127.0.0.1", 0))  # no loop runs
    port = server.port
    assert port

    async def main():
        async with server:
            assert server.port == port
            async with dc.rpc(("127.0.0.1", port)) as remote:
                assert await remote.ping() == b"pong"
        other = dc.Server(HANDLERS)
        other.listen(("127.0.0.1", 0))  # and nobody awaits it
        async with dc.rpc(ip="127.0.0.1", port=other.port) as remote:
            assert await remote.ping() == b"pong"
        with pytest.raises(OSError, match="in use"):
            dc.Server().listen(("127.0.0.1", other.port))
        await other.close()

    run(main())


def test_a_message_beyond_max_buffer_size_is_not_sent(run):
    async def main():
        server = dc.Server(HANDLERS, max_buffer_size=1e5)
        server.listen(LOOPBACK)
        server.listen(LOOPBACK, max_buffer_size=1e6)
        async with server:
            small, large = (listener.contact_address for listener in server.listeners)
            async with dc.rpc(small) as remote:
                assert len(await remote.echo(data=bytes(90_000))) == 90_000
                with pytest.raises(dc.MessageError, match="accepts at most 100000"):
                    await remote.echo(data=bytes(200_000))
                assert await remote.ping() == b"pong"
            async with dc.rpc(large) as remote:
                assert len(await remote.echo(data=bytes(200_000))) == 200_000

    run(main())


@everywhere
def test_stats_count_calls_messages_and_comms(run, where):
    async def boom():
        raise ValueError

    async def main():
        async with serve({**HANDLERS, "boom": boom}, where) as (server, remote):
            for _ in range(5):
                await remote.add(x=1, y=2)
            await remote.slowly(x=1)
            with pytest.raises((ValueError, dc.RemoteError)):
                await remote.boom()
            stats = server.stats()
            assert stats["ops"]["add"]["calls"] == 5
            assert stats["ops"]["boom"]["errors"] == 1
            assert 0 < stats["ops"]["slowly"]["slowest"] <= stats["ops"]["slowly"]["seconds"] < 10
            assert stats["incoming_comms_open"] == 1
            assert stats["incoming_comms_active"] == 0
            assert stats["messages_received"] == stats["messages_sent"] == 7
            await remote.close_rpc()
            await until(lambda: not server.incoming_comms_open)
            assert server.stats()["messages_received"] == 7
            assert (server.stats()["bytes_received"] > 100) == (where == LOOPBACK)

    run(main())


def test_counters_tell_open_comms_from_those_with_a_call(run):
    async def main():
        go = asyncio.Event()
        async with serve({"wait": go.wait, "ping": ping}) as (server, remote):
            calls = [asyncio.ensure_future(remote.wait()) for _ in range(3)]
            await until(lambda: server.incoming_comms_active == 3)
            async with dial(server):
                await until(lambda: server.incoming_comms_open == 4)
                assert server.get_connection_counters() == {
                    "incoming_comms_open": 4,
                    "incoming_comms_active": 3,
                    "outgoing_comms_open": 0,
                    "outgoing_comms_active": 0,
                }
            go.set()
            assert await asyncio.gather(*calls) == [True] * 3
            assert server.incoming_comms_active == 0
            assert await server.rpc(server.address).ping() == b"pong"
            assert server.outgoing_comms_open == 1

    run(main())


def test_a_client_that_never_reads_replies_has_no_more_requests_read(run):
    handled = []

    def large(i, filler):
        handled.append(i)
        return bytes(100_000)

    async def main():
        async with serve({"large": large}) as (server, _), dial(server) as comm:

            async def flood():
                for i in range(2_000):
                    await comm.write({"op": "large", "i": i, "filler": bytes(10_000)})

            flooding = asyncio.ensure_future(flood())
            seen = -1
            while seen != len(handled):  # until it stands still
                seen = len(handled)
                await asyncio.sleep(0.05)
                await settle()
            assert 10 < seen < 500  # what sockets and buffers hold
            assert not flooding.done()
            for _ in range(2_000):
                assert len(await comm.read()) == 100_000
            await flooding
            assert handled == list(range(2_000))

    run(main())


def test_a_stream_whose_reader_goes_is_ended(run):
    ended = []

    async def changes():
        try:
            yield "first"
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def main():
        async with serve({"changes": changes}) as (server, remote):
            async for item in remote.changes.stream():
                assert item == "first"
                break
            await until(lambda: ended)
            await until(lambda: not server.incoming_comms_open)

    run(main())
