"""What a handler may be, and who may call it."""

import asyncio
import functools
import types

import pytest
from calling import dial, everywhere, serve
from loops import until
from lying import post

import distributed_comm as dc
from distributed_comm._calls.handlers import Handler, requires_trust
from distributed_comm._envelope import ERROR, Request, encode_request


def double(x):
    """Return twice as much."""
    return 2 * x


async def double_later(x):
    await asyncio.sleep(0)
    return 2 * x


async def count(n):
    for number in range(n):
        yield number


def with_comm(comm, x):
    return type(comm).__name__, x


@dc.handler(name="tripled")
def triple(x):
    return 3 * x


class Store(dc.Server):
    """Its handlers are methods of every kind."""

    def __init__(self, **arguments):
        self.values = {}
        super().__init__([self.get, self.put, self.size, self.make, self.clear], **arguments)

    def get(self, key):
        return self.values.get(key)

    @dc.handler(require_trust=True)
    def put(self, key, value):
        self.values[key] = value

    @dc.handler(name="length")
    async def size(self):
        return len(self.values)

    @dc.handler
    @staticmethod
    def make(x):
        return [x]

    @dc.handler(name="kind")
    @classmethod
    def clear(cls):
        return cls.__name__


# -- what it may be -----------------------------------------------------------------------------


def test_the_function_stays_as_it_is_and_may_have_other_options_in_another_op():
    one, two = dc.handler(double, name="one"), dc.handler(double, require_trust=True)
    assert (one(2), two(3), double(4)) == (4, 6, 8)
    assert (one.name, one.require_trust, two.name, two.require_trust) == ("one", False, None, True)
    assert vars(double) == {}
    assert (one.__name__, one.__doc__, one.__wrapped__) == ("double", double.__doc__, double)
    assert repr(two) == f"<handler {double!r}, require_trust=True>"
    assert triple(1) == 3


@everywhere
def test_a_server_takes_functions_of_every_kind(run, where):
    functions = [
        double,
        double_later,
        count,
        with_comm,
        triple,
        dc.handler(max, name="largest"),
        dc.handler(functools.partial(double, x=21), name="answer"),
        dc.handler([1, 2, 1].count, name="how_many"),
        dc.handler(dict, name="as_dict"),
        dc.handler(double, name="an op with spaces"),
    ]

    async def main():
        async with serve(functions, where) as (server, remote):
            assert await remote.double(x=2) == await remote.double_later(x=2) == 4
            assert await remote.tripled(x=2) == 6
            assert await remote.answer() == 42
            assert await remote.as_dict(a=1, op=2) == {"a": 1, "op": 2}
            assert await remote["an op with spaces"](x=1) == 2
            assert (await remote.with_comm(x=1))[1] == 1
            assert [n async for n in remote.count.stream(n=3)] == [0, 1, 2]
            with pytest.raises(dc.RemoteError if where != "inproc://" else TypeError):
                await remote.largest(x=1)
            assert {"largest", "how_many"} < server.handlers.keys()

    run(main())


@everywhere
def test_methods_are_handlers_with_their_options(run, where):
    async def main():
        async with serve(None, where, kind=Store) as (server, remote):
            assert await remote.length() == 0
            assert await remote.make(x=1) == [1]
            assert await remote.kind() == "Store"
            assert await remote.get(key=1) is None
            if where == "inproc://":
                await remote.put(key=1, value=2)
                assert await remote.get(key=1) == 2
            else:
                with pytest.raises(dc.RemoteError, match="the op 'put' is for trusted peers"):
                    await remote.put(key=1, value=2)
                assert server.values == {}
            server.put(3, 4)  # called like the function
            assert server.values[3] == 4

    run(main())


@pytest.mark.parametrize(
    ("functions", "error", "text"),
    [
        ([lambda: 1], TypeError, "has no name"),
        ([functools.partial(double, 1)], TypeError, "has no name"),
        ([1], TypeError, "1 among the handlers has no name"),
        ("double", TypeError, "'d' among the handlers"),
        (
            [double, dc.handler(triple, name="double")],
            ValueError,
            "two handlers are named 'double'",
        ),
    ],
)
def test_what_is_no_handler_is_named(functions, error, text):
    with pytest.raises(error, match=text):
        dc.Server(functions)


def test_only_what_can_be_called_is_given_options():
    for wrong in (1, "f", [double]):
        with pytest.raises(TypeError, match="is not a handler"):
            dc.handler(wrong)


# -- who may call it ------------------------------------------------------------------------------


guarded = dc.handler(double, require_trust=True)


def logged(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        return function(*args, **kwargs)

    return call


class Slotted:
    __slots__ = ("__wrapped__",)

    def __init__(self, function):
        self.__wrapped__ = function

    def __call__(self, *args, **kwargs):
        return self.__wrapped__(*args, **kwargs)


class Delegate:
    """A decorator class that stores the function it wraps, as functools does."""

    def __init__(self, function):
        functools.update_wrapper(self, function)

    def __call__(self, *args, **kwargs):
        return self.__wrapped__(*args, **kwargs)


class Called:
    @dc.handler(require_trust=True)
    def __call__(self, x=None):
        return x


GUARDED = {
    "static": staticmethod(guarded),
    "decorated static": staticmethod(logged(guarded)),
    "decorated twice": logged(logged(guarded)),
    "cached twice": functools.lru_cache(functools.lru_cache(guarded)),
    "slotted": Slotted(guarded),
    "delegated twice": Delegate(Delegate(guarded)),
    "decorated partial": functools.update_wrapper(functools.partial(double), guarded),
    "called": Called(),
    "its __call__": guarded.__call__,
    "itself": guarded,
    "renamed": dc.handler(guarded, name="other"),
    "partial": functools.partial(guarded, x=1),
    "argument of a partial": functools.partial(asyncio.to_thread, guarded),
    "named argument of a partial": functools.partial(triple, x=guarded),
    "partial of a partial": functools.partial(functools.partial(guarded), x=1),
    "given options": dc.handler(functools.partial(guarded, x=1)),
    "decorated": logged(guarded),
    "bound": types.MethodType(dc.handler(lambda self: 1, require_trust=True), 1),
    "bound partial": functools.partial(types.MethodType(guarded, 1)),
    "method": Store.put,
    "bound method": Store().put,
}


@pytest.mark.parametrize("name", GUARDED)
def test_trust_is_required_whatever_is_put_around_it(name):
    assert requires_trust(GUARDED[name])


@pytest.mark.parametrize("name", GUARDED)
def test_a_stranger_calls_none_of_them(run, name):
    async def main():
        async with serve({"f": GUARDED[name]}) as (server, remote), dial(server) as comm:
            with pytest.raises(dc.RemoteError, match="trusted peers"):
                await remote.f()
            await comm.write({"op": "f"})
            assert "trusted peers" in (await comm.read())["exception_text"]

    run(main())


@pytest.mark.parametrize("function", [double, logged(double), print, dc.handler(max), triple])
def test_it_is_not_where_nobody_has_said_so(function):
    assert not requires_trust(function)


def test_what_has_any_attribute_is_looked_through_to_an_end():
    class Proxy:
        def __getattr__(self, name):
            return Proxy()

        def __call__(self):
            return 1

    assert not requires_trust(Proxy())


CALLED = []


def note(x=None):
    CALLED.append(x)
    return x


async def note_later(x=None):
    return note(x)


async def note_many(x=None):
    yield note(x)


def note_comm(comm, x=None):
    return note(x)


NOTES = {"note": note, "later": note_later, "many": note_many, "comm": note_comm}


@pytest.mark.parametrize("way", ["handler", "trusted_ops"])
def test_a_stranger_is_refused_and_a_trusted_peer_is_not(run, way):
    if way == "handler":
        guarded = {op: dc.handler(f, require_trust=True) for op, f in NOTES.items()}
        server = dc.Server({**guarded, "open": note})
    else:
        server = dc.Server({**NOTES, "open": note}, trusted_ops=NOTES)

    async def main():
        server.listen("tcp://127.0.0.1:0", trusted=False)
        server.listen("tcp://127.0.0.1:0", trusted=True)
        stranger, friend = (listener.contact_address for listener in server.listeners)
        async with server, dc.rpc(stranger) as theirs, dc.rpc(friend, trusted=True) as ours:
            for op in NOTES:
                with pytest.raises(dc.RemoteError, match=f"'{op}' is for trusted peers: .* key"):
                    await theirs[op](x=1)
                with pytest.raises(dc.RemoteError, match="trusted peers"):
                    await anext(theirs[op].stream(x=1))
                await theirs[op](x=1, reply=False)
                assert await theirs.open(x=op) == op  # on the connection of the refusal
            async with await dc.connect(stranger) as comm:
                for op in NOTES:
                    await comm.write({"op": op, "x": 1})  # in no envelope
                    assert "is for trusted peers" in (await comm.read())["exception_text"]
                head = encode_request(Request("note"))
                comm.channel.send([head, b"\xc1 no msgpack"])  # refused before it is decoded
                answer, error, _ = await comm.read_enveloped()
                assert answer == ERROR
                assert "trusted peers" in error["exception_text"]
            assert [*NOTES] == CALLED
            assert await ours.note(x=1) == await ours.later(x=1) == await ours.comm(x=1) == 1
            assert [x async for x in ours.many.stream(x=1)] == [1]
            with pytest.raises(dc.RemoteError):  # also once its head is known
                await theirs.note(x=1)
            assert server.stats()["ops"]["note"]["calls"] == 1

    CALLED.clear()
    run(main())
    CALLED.clear()


def test_a_handler_that_is_replaced_is_looked_at_again(run):
    async def main():
        async with serve({"f": note}) as (server, remote):
            assert await remote.f(x=1) == 1
            server.handlers["f"] = dc.handler(note, require_trust=True)
            with pytest.raises(dc.RemoteError, match="trusted peers"):
                await remote.f(x=1)
            server.handlers["f"] = double
            assert await remote.f(x=1) == 2
            server.blocked_handlers.append("f")
            with pytest.raises(dc.RemoteError, match="is blocked"):
                await remote.f(x=1)

    run(main())


@pytest.mark.parametrize("way", ["handler", "trusted_ops"])
def test_stream_handlers_may_require_trust_too(run, way, caplog):
    got = []
    handlers = {"note": lambda x: got.append(+x), "open": lambda x: got.append(-x)}
    if way == "handler":
        handlers["note"] = dc.handler(handlers["note"], require_trust=True)
        server = dc.Server(stream_handlers=handlers)
    else:
        server = dc.Server(stream_handlers=handlers, trusted_ops=["note"])

    async def send(address, trusted, *ops):
        async with await dc.connect(address, trusted=trusted) as comm:
            await comm.write({"op": "connection_stream", "reply": False})
            await comm.write([{"op": op, "x": n} for n, op in enumerate(ops, 1)])
            await until(lambda: comm.closed() or len(got) == len(ops))
            return comm.closed()

    async def main():
        server.listen("tcp://127.0.0.1:0", trusted=False)
        server.listen("tcp://127.0.0.1:0", trusted=True)
        stranger, friend = (listener.contact_address for listener in server.listeners)
        async with server:
            assert await send(stranger, False, "open", "note", "open")
            assert got == [-1]
            assert "the op 'note' is for trusted peers" in caplog.text
            got.clear()
            assert not await send(friend, True, "note", "open")
            assert got == [1, -2]

    run(main())


@pytest.mark.parametrize(
    ("ops", "error", "text"),
    [
        (["nowhere", "f"], ValueError, "'nowhere', unknown here; this server has: .*f"),
        ("f", TypeError, r"expected a list of names: \['f'\]"),
    ],
)
def test_a_mistyped_op_is_an_error(ops, error, text):
    with pytest.raises(error, match=text):
        dc.Server({"f": double}, trusted_ops=ops)


def test_built_in_ops_may_require_trust(run):
    async def main():
        ops = ["identity", "echo", "connection_stream"]
        async with serve({}, trusted_ops=ops) as (server, remote), dial(server) as comm:
            for op in ops:
                with pytest.raises(dc.RemoteError, match="trusted peers"):
                    await remote[op]()
                await post(comm, encode_request(Request(op)), {})
                assert (await comm.read_enveloped())[0] == ERROR

    run(main())


def test_a_handler_of_a_class_is_one_of_its_instances():
    assert isinstance(Store.put, Handler)
    store = Store()
    assert isinstance(store.put, Handler)
    assert store.put.function.__self__ is store
